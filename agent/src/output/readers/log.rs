//! The last of what has happened, once in memory for all readers, each of which reads at its own pace.
//!
//! ```text
//!   Feed (the agent's thread)                                    Reader (a thread each)
//!     filling ──publish──> [chunk 17][chunk 18][chunk 19]          at 18, at 20, at 17 …
//!                             │ too much held, or read by all
//!                             v
//!                           gone: who stood there goes on with the flows that are live now
//! ```
//!
//! The agent's thread takes the lock once a turn, or for each chunk, and never waits for a reader. Which flows are live
//! is kept beside the chunks: that is all that a reader needs who comes late or was too slow. While nobody reads, no
//! clear text is kept.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, ResetCause, Side, WallTime};
use crate::forge::LiveFlow;

/// A chunk is handed on when it has so many bytes, entries counted.
const CHUNK_BYTES: usize = 256 << 10;

/// What happened to a flow; its text lies in the chunk.
#[derive(Debug)]
struct Entry {
    flow: u64,
    at: WallTime,
    change: Change,
}

#[derive(Debug)]
enum Change {
    Begin(Arc<FlowInfo>),
    Data {
        from: Side,
        offset: u64,
        bytes: usize,
    },
    Hole {
        from: Side,
        offset: u64,
        bytes: u64,
    },
    Finish(Side),
    Reset(Side, ResetCause),
}

/// Events in their order.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    entries: Vec<Entry>,
    /// Their text, one behind the other; none where nobody read when it was begun.
    text: Vec<u8>,
    has_text: bool,
    /// Clear text in all chunks up to this one that had text.
    text_before: u64,
    /// Nothing older than this follows.
    until: WallTime,
}

impl Chunk {
    fn held_bytes(&self) -> usize {
        self.text.len() + self.entries.len() * size_of::<Entry>()
    }

    /// Gives the events to `sink`.
    pub(super) fn replay(&self, sink: &mut impl FlowSink) {
        let mut text = &self.text[..];
        for entry in &self.entries {
            let change = match &entry.change {
                Change::Begin(info) => FlowChange::Begin(info),
                Change::Data {
                    from,
                    offset,
                    bytes,
                } => {
                    let (bytes, rest) = text.split_at(*bytes);
                    text = rest;
                    FlowChange::Data {
                        from: *from,
                        offset: *offset,
                        bytes,
                    }
                }
                Change::Hole {
                    from,
                    offset,
                    bytes,
                } => FlowChange::Hole {
                    from: *from,
                    offset: *offset,
                    bytes: *bytes,
                },
                Change::Finish(from) => FlowChange::Finish { from: *from },
                Change::Reset(by, cause) => FlowChange::Reset {
                    by: *by,
                    cause: *cause,
                },
            };
            sink.flow_event(FlowEvent {
                flow: entry.flow,
                at: entry.at,
                change,
            });
        }
    }

    pub(super) fn until(&self) -> WallTime {
        self.until
    }
}

/// What feed and readers share.
#[derive(Debug)]
pub(super) struct Log {
    state: Mutex<State>,
    /// Wakes readers: there is a chunk, or the end.
    news: Condvar,
    /// How many read. Written under the lock; the feed looks at it without.
    readers: AtomicUsize,
    capacity_bytes: usize,
}

#[derive(Debug, Default)]
struct State {
    chunks: VecDeque<Arc<Chunk>>,
    /// Number of the first of them, or of the next to come.
    first: u64,
    held_bytes: usize,
    live: HashMap<u64, LiveFlow>,
    /// Clear text in all chunks that had any.
    text_bytes: u64,
    until: WallTime,
    /// When the feed ended.
    ended: Option<WallTime>,
    /// Where each reader stands.
    places: HashMap<u64, Standing>,
    next_place: u64,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug)]
struct Standing {
    /// Number of the chunk that it reads next.
    next: u64,
    /// Clear text in all before that.
    text_before: u64,
}

/// What a reader hasn't read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// So much clear text, which is there.
    Waits(u64),
    /// It has fallen behind: if it read on now, it would miss so much.
    Missed(u64),
}

impl State {
    fn unread(&self, standing: Standing) -> Unread {
        let bytes = self.text_bytes - standing.text_before;
        match standing.next < self.first {
            true => Unread::Missed(bytes),
            false => Unread::Waits(bytes),
        }
    }

    fn next(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    fn drop_first(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            self.held_bytes -= chunk.held_bytes();
            self.first += 1;
        }
    }

    /// Clear text isn't kept longer than it is needed.
    fn drop_read(&mut self) {
        let behind = self.places.values().map(|place| place.next).min();
        while !self.chunks.is_empty() && behind.is_none_or(|behind| self.first < behind) {
            self.drop_first();
        }
    }

    fn live_flows(&self) -> LiveFlows {
        let ats = self.live.values().map(|live| live.at);
        LiveFlows {
            at: ats.max().unwrap_or(self.until),
            flows: self.live.clone(),
        }
    }

    /// What the chunk's events make of the live flows.
    fn apply(&mut self, chunk: &Chunk) {
        for Entry { flow, at, change } in &chunk.entries {
            if let Change::Begin(info) = change {
                let live = LiveFlow::begin(Arc::clone(info), *at);
                self.live.insert(*flow, live);
                continue;
            }
            let Some(live) = self.live.get_mut(flow) else {
                continue;
            };
            let ends = match change {
                Change::Data {
                    from,
                    offset,
                    bytes,
                } => live.said(*at, *from, *offset, *bytes as u64),
                Change::Hole {
                    from,
                    offset,
                    bytes,
                } => live.said(*at, *from, *offset, *bytes),
                Change::Finish(from) => live.finish(*at, *from),
                Change::Begin(_) | Change::Reset(..) => true,
            };
            if ends {
                self.live.remove(flow);
            }
        }
    }
}

/// The flows that are live at one moment.
#[derive(Debug)]
pub(super) struct LiveFlows {
    pub(super) flows: HashMap<u64, LiveFlow>,
    /// No event of before was later.
    pub(super) at: WallTime,
}

/// What a reader finds where it stands.
#[derive(Debug)]
pub(super) enum News {
    /// The next events.
    Chunk(Arc<Chunk>),
    /// What came next is gone, and so much clear text with it.
    Behind { live: LiveFlows, missed_bytes: u64 },
    /// Nothing yet; nothing older than this follows.
    Nothing(WallTime),
    /// The feed ended at this time, and all that it had was read.
    Ended(WallTime),
}

impl Log {
    pub(super) fn new(capacity_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            news: Condvar::new(),
            readers: AtomicUsize::new(0),
            capacity_bytes,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, mut chunk: Chunk, until: WallTime) {
        let mut state = self.lock();
        state.until = state.until.max(until);
        if chunk.entries.is_empty() {
            return;
        }
        state.apply(&chunk);
        if chunk.has_text && !state.places.is_empty() {
            chunk.text_before = state.text_bytes;
            chunk.until = until;
            state.text_bytes += chunk.text.len() as u64;
            state.held_bytes += chunk.held_bytes();
            state.chunks.push_back(Arc::new(chunk));
            while state.held_bytes > self.capacity_bytes {
                state.drop_first();
            }
        } else {
            // Who has come meanwhile finds this gone, and takes the live flows as they are now.
            while !state.chunks.is_empty() {
                state.drop_first();
            }
            state.first += 1;
        }
        drop(state);
        self.news.notify_all();
    }

    /// What the reader at this place hasn't read yet; nothing if it reads no more.
    pub(super) fn unread(&self, place: u64) -> Option<Unread> {
        let state = self.lock();
        let standing = state.places.get(&place)?;
        Some(state.unread(*standing))
    }

    fn end(&self, at: WallTime) {
        self.lock().ended = Some(at);
        self.news.notify_all();
    }
}

/// Where a reader stands in the log.
#[derive(Debug)]
pub(super) struct Place {
    log: Arc<Log>,
    number: u64,
    at: Standing,
}

impl Place {
    /// By which the log knows it.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// A new reader, at what comes next, and what is live when it comes.
    pub(super) fn new(log: &Arc<Log>) -> (Self, LiveFlows) {
        let mut state = log.lock();
        let number = state.next_place;
        state.next_place += 1;
        let at = Standing {
            next: state.next(),
            text_before: state.text_bytes,
        };
        state.places.insert(number, at);
        let live = state.live_flows();
        drop(state);
        // Chunks that are begun from now on have text; one that was begun before counts as gone. Pairs with the load
        // in `Feed::entry`.
        log.readers.fetch_add(1, Ordering::Relaxed);
        let place = Self {
            log: Arc::clone(log),
            number,
            at,
        };
        (place, live)
    }

    /// What is next; never waits.
    pub(super) fn next(&mut self) -> News {
        let mut state = self.log.lock();
        if self.at.next < state.first {
            let missed_bytes = state.text_bytes - self.at.text_before;
            self.at = Standing {
                next: state.next(),
                text_before: state.text_bytes,
            };
            state.places.insert(self.number, self.at);
            state.drop_read();
            return News::Behind {
                live: state.live_flows(),
                missed_bytes,
            };
        }
        let index = usize::try_from(self.at.next - state.first).unwrap_or(usize::MAX);
        let Some(chunk) = state.chunks.get(index).cloned() else {
            return match state.ended {
                Some(at) => News::Ended(at),
                None => News::Nothing(state.until),
            };
        };
        self.at.next += 1;
        self.at.text_before = chunk.text_before + chunk.text.len() as u64;
        state.places.insert(self.number, self.at);
        state.drop_read();
        News::Chunk(chunk)
    }

    /// Waits until there may be something, for `most` at most.
    pub(super) fn wait(&self, most: Duration) {
        let state = self.log.lock();
        let nothing = |state: &mut State| state.next() == self.at.next && state.ended.is_none();
        let waited = self.log.news.wait_timeout_while(state, most, nothing);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Place {
    /// Reads no more; what it hasn't read. Nothing if it was told before.
    pub(super) fn leave(&mut self) -> Option<Unread> {
        let mut state = self.log.lock();
        let standing = state.places.remove(&self.number)?;
        let unread = state.unread(standing);
        state.drop_read();
        self.log.readers.fetch_sub(1, Ordering::Relaxed);
        Some(unread)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Writes the log.
#[derive(Debug)]
pub(super) struct Writer {
    log: Arc<Log>,
    filling: Chunk,
    until: WallTime,
}

impl Writer {
    pub(super) fn new(log: &Arc<Log>) -> Self {
        Self {
            log: Arc::clone(log),
            filling: Chunk::default(),
            until: WallTime(0),
        }
    }

    /// Hands on what there is. Nothing older than `until` follows.
    pub(super) fn publish(&mut self, until: WallTime) {
        self.until = self.until.max(until);
        let chunk = std::mem::take(&mut self.filling);
        self.log.publish(chunk, self.until);
    }

    /// Nothing more comes.
    pub(super) fn end(&mut self, at: WallTime) {
        self.publish(at);
        self.log.end(at);
    }
}

impl FlowSink for Writer {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let chunk = &mut self.filling;
        if chunk.entries.is_empty() {
            // Pairs with the addition in `Place::new`. Which comes first doesn't matter: see there.
            chunk.has_text = self.log.readers.load(Ordering::Relaxed) > 0;
        }
        let change = match event.change {
            FlowChange::Begin(info) => Change::Begin(Arc::new(info.clone())),
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                if chunk.has_text {
                    chunk.text.extend_from_slice(bytes);
                }
                let bytes = bytes.len();
                Change::Data {
                    from,
                    offset,
                    bytes,
                }
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => Change::Hole {
                from,
                offset,
                bytes,
            },
            FlowChange::Finish { from } => Change::Finish(from),
            FlowChange::Reset { by, cause } => Change::Reset(by, cause),
        };
        chunk.entries.push(Entry {
            flow: event.flow,
            at: event.at,
            change,
        });
        if chunk.held_bytes() >= CHUNK_BYTES {
            self.publish(self.until);
        }
    }
}

#[cfg(test)]
impl Log {
    /// Bytes that are kept.
    pub(super) fn held_bytes(&self) -> usize {
        self.lock().held_bytes
    }
}
