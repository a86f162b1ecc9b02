//! One partition at the collector that has its lease: from the stream to the workers, in order, each envelope once.
//!
//! ```text
//! stream ──Reader──> open ──> Source: number? ──Feed──> worker ──acknowledges──> Shadow ──each second──> mark
//!                             (missing, again)           (Gate)                 (live flows)    (with the lease's number)
//! ```

mod envelopes;
mod marks;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use self::envelopes::room;
use self::marks::take_mark;
use super::collectors::Context;
use super::connect::subject;
use super::envelope::{Kind, Opened};
use super::key::Terms;
use super::mark::Mark;
use super::permit::Gate;
use super::publisher::ALIVE_INTERVAL;
use super::reader::Reader;
use crate::collector::{Acknowledge, Feed, Receipt, UnreadableBatch};
use crate::tunnel::frame::{Batch, Instance};
use crate::tunnel::shadow::Shadow;

/// How often a mark is written, where there is something new.
const MARK_INTERVAL: Duration = Duration::from_secs(1);
/// An agent that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(5 * ALIVE_INTERVAL.as_secs());
/// Envelopes may be so much older than what the stream keeps: hosts' clocks differ.
const CLOCK_MARGIN_MS: u64 = 3_600_000;
/// Most bytes that were handed to workers and haven't been put out.
const MAX_PENDING_BYTES: usize = 4 << 20;
/// How long a partition that is handed over waits for its outputs.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// How the work on a partition has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// All that was read is put out and marked: the lease can be given up.
    HandedOver,
    /// Somebody else has it.
    Fenced,
    /// It has failed half-way.
    Failed,
}

/// How one reading from a mark on has ended.
enum Life {
    Ended(Ended),
    /// The lease was in doubt, something was left out because of it, and it holds: once more from the mark.
    Again,
}

/// What a worker says of a batch, by its sequence in the stream.
#[derive(Debug)]
enum Told {
    Done(u64),
    Refused(u64, UnreadableBatch),
}

/// Tells the partition's task what became of its batches.
#[derive(Debug)]
struct Teller {
    told: mpsc::UnboundedSender<Told>,
    gate: Arc<Gate>,
}

impl Acknowledge for Teller {
    fn done(&self, seq: u64) {
        // Where nobody listens any more, the next one reads it again.
        let _ = self.told.send(Told::Done(seq));
    }

    fn refused(&self, seq: u64, error: &UnreadableBatch) {
        let _ = self.told.send(Told::Refused(seq, *error));
    }

    fn may_be_read(&self) -> bool {
        self.gate.passes()
    }
}

/// An agent's instance in this partition.
#[derive(Debug)]
struct Source {
    /// None: its agent isn't let in, has gone, or says what can't be read.
    feed: Option<Feed>,
    /// Of the last envelope that was taken.
    number: u64,
    made_ms: u64,
    /// The same of the last one that was put out.
    marked: (u64, u64),
    /// Its flows as they were there.
    shadow: Shadow,
    heard: Instant,
    gone: bool,
}

/// Whose: numbers mean nothing but to the agent that has sealed them, and its feed goes by its terms. An agent that has two
/// keys can seal in one instance under both.
type SourceKey = (Instance, String, Terms);

/// An envelope on its way through the workers.
struct Pending {
    sequence: u64,
    source: Option<SourceKey>,
    number: u64,
    made_ms: u64,
    kind: Kind,
    events: Bytes,
    done: bool,
}

/// Works on a partition until told to stop, or somebody else has it.
pub(super) async fn run(
    context: Arc<Context>,
    partition: u16,
    fence: u64,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    loop {
        while !context.permit.holds() {
            if *stop.borrow() {
                return Ended::HandedOver;
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
                _ = stop.changed() => {}
            }
        }
        let Some((mark, revision)) = take_mark(&context, partition, fence).await else {
            return Ended::Fenced;
        };
        let mut part = Part::new(&context, partition, fence, revision, &mark);
        part.tell_live_flows(mark.sources).await;
        match part.live(&mut stop).await {
            Life::Ended(ended) => return ended,
            Life::Again => context.stats.restarts.add(1),
        }
    }
}

struct Part<'c> {
    context: &'c Arc<Context>,
    partition: u16,
    fence: u64,
    /// Of the mark that was written last.
    revision: u64,
    sources: HashMap<SourceKey, Source>,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    /// All up to here in the stream has been put out.
    sequence: u64,
    marked_sequence: u64,
    purged_sequence: u64,
    purged_at: Instant,
    /// Up to here another collector may have put out what it hasn't marked.
    may_repeat: Option<u64>,
    gate: Arc<Gate>,
    teller: Arc<Teller>,
    told: mpsc::UnboundedReceiver<Told>,
    /// Nothing is known to wait in the stream.
    caught_up: bool,
    /// An envelope that waits for room.
    staged: Option<(u64, SourceKey, Opened)>,
}

impl<'c> Part<'c> {
    fn new(
        context: &'c Arc<Context>,
        partition: u16,
        fence: u64,
        revision: u64,
        mark: &Mark,
    ) -> Self {
        let gate = Arc::new(Gate::new(Arc::clone(&context.permit)));
        let (tell, told) = mpsc::unbounded_channel();
        Self {
            context,
            partition,
            fence,
            revision,
            sources: HashMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            sequence: mark.sequence,
            marked_sequence: mark.sequence,
            purged_sequence: 0,
            purged_at: Instant::now(),
            may_repeat: (!mark.handed_over).then_some(0),
            teller: Arc::new(Teller {
                told: tell,
                gate: Arc::clone(&gate),
            }),
            gate,
            told,
            caught_up: false,
            staged: None,
        }
    }

    fn batch(&self, seq: u64, events: Bytes) -> Batch {
        Batch {
            seq,
            partition: self.partition,
            event_bytes: u32::try_from(events.len()).unwrap_or(u32::MAX),
            compressed: false,
            events,
        }
    }

    /// Of what comes from the mark nothing is waited for: 0 is nobody's number.
    fn receipt(&self, seq: u64) -> Receipt {
        Receipt {
            to: Arc::clone(&self.teller) as Arc<dyn Acknowledge>,
            seq,
        }
    }

    async fn live(&mut self, stop: &mut watch::Receiver<bool>) -> Life {
        let subject = subject(&self.context.config.stream, self.partition);
        if self.may_repeat.is_some() {
            self.may_repeat = self.context.last_sequence().await;
        }
        let mut reader = Reader::new(
            Arc::clone(self.context),
            (self.partition, subject.clone()),
            self.sequence + 1,
        );
        let mut tick = tokio::time::interval(MARK_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *stop.borrow() {
                return Life::Ended(self.hand_over().await);
            }
            let reads = self.staged.is_none() && self.pending_bytes < MAX_PENDING_BYTES;
            let staged = self.staged.as_ref().map(|(_, key, opened)| {
                let feed = self.sources.get(key).and_then(|source| source.feed.clone());
                (feed, opened.content.len())
            });
            tokio::select! {
                _ = stop.changed() => {}
                Some(told) = self.told.recv() => self.hear(told),
                _ = tick.tick() => {
                    if self.gate.is_shut() {
                        return Life::Again;
                    }
                    self.note_silence();
                    if !self.write_mark(false).await {
                        return Life::Ended(Ended::Fenced);
                    }
                    self.purge(&subject).await;
                }
                room = room(staged.clone()), if staged.is_some() => self.push_staged(room),
                received = reader.next(), if reads => self.take(&subject, received),
            }
        }
    }

    /// Waits until all that was taken is put out, and marks it.
    async fn hand_over(&mut self) -> Ended {
        self.staged = None;
        let deadline = Instant::now() + DRAIN_PATIENCE;
        while !self.pending.is_empty() {
            match tokio::time::timeout_at(deadline, self.told.recv()).await {
                Ok(Some(told)) => self.hear(told),
                Ok(None) | Err(_) => break,
            }
        }
        // What is still under way must not come behind the mark.
        self.gate.shut();
        let complete = self.pending.is_empty();
        self.end_feeds();
        match self.write_mark(complete).await {
            true => Ended::HandedOver,
            false => Ended::Fenced,
        }
    }

    fn end_feeds(&mut self) {
        for source in self.sources.values_mut() {
            if let Some(feed) = source.feed.take() {
                feed.end();
            }
        }
    }
}

/// However it ends: nothing of what is queued is read any more, and its flows here are over.
impl Drop for Part<'_> {
    fn drop(&mut self) {
        self.gate.shut();
        self.end_feeds();
    }
}
