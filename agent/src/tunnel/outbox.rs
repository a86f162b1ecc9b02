//! The outbox: flow events into batches, in the agent's thread.
//!
//! ```text
//! FlowEvent ──> one BatchWriter for each partition ──flush──> Window (one, or several: each has its partitions)
//! ```
//!
//! It never waits. What finds no room is dropped here, and nowhere else:
//!
//! - **Text and holes** leave a sixteenth of the window free. Dropped text is counted; the offset of what comes next,
//!   or the final one, tells the receiver how much is missing and where.
//! - **A beginning** may take that sixteenth. Where even this is full, the flow isn't told of at all, and counted.
//! - **An end** has its room since the flow began.
//!
//! Memory beside the windows': about 50 bytes for each live flow, and a buffer of 128 KiB for each partition in use.

use std::collections::HashMap;

use super::batch::{BatchWriter, Begin, PARTITIONS, TunnelChange, TunnelEvent, partition};
use super::shadow::index;
use super::shared::SharedWindow;
use super::window::SLOT_BYTES;
use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side};

/// What the ends of a flow may take: two `FINISH`, each in a batch of its own.
const ENDS_BYTES: u64 = 2 * (26 + SLOT_BYTES);

/// Puts flow events into windows.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    writers: Vec<BatchWriter>,
    /// Partitions whose batch isn't empty.
    open: Vec<u16>,
    flows: HashMap<u64, Told>,
    stats: OutboxStats,
}

/// A window, and what is on its way there.
#[derive(Debug)]
struct Lane {
    window: SharedWindow,
    /// At least so many bytes are free in it.
    free: u64,
    /// What the open batches will take.
    open_bytes: u64,
    /// What the ends of live flows may take.
    reserved: u64,
    limit: u64,
    filled: bool,
}

/// What was told of a flow.
#[derive(Debug)]
struct Told {
    partition: u16,
    /// What client and server have said.
    offsets: [u64; 2],
    finished: [bool; 2],
    /// The last that each of them said found no room.
    missing: [bool; 2],
    ended: bool,
    /// There was no room for its beginning.
    dropped: bool,
}

/// What an outbox has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutboxStats {
    /// Flows that were begun.
    pub flows: u64,
    /// Flows for which there was no room, not even for their beginning.
    pub dropped_flows: u64,
    /// Bytes of clear text that went into batches.
    pub text_bytes: u64,
    /// Bytes of clear text for which there was no room, those of dropped flows among them.
    pub dropped_bytes: u64,
    /// Holes that these left in flows, each counted once however many events it swallowed.
    pub dropped_holes: u64,
    /// Flows that live.
    pub live_flows: usize,
}

impl Outbox {
    /// An outbox that spreads its partitions over these windows, of which there is at least one. Nobody else may
    /// push to them.
    ///
    /// # Panics
    /// If there is none.
    pub fn new(windows: Vec<SharedWindow>) -> Self {
        assert!(!windows.is_empty(), "an outbox needs a window");
        let lane = |window: SharedWindow| {
            let (free, limit) = {
                let window = window.lock();
                (window.free(), window.limit())
            };
            Lane {
                window,
                free,
                open_bytes: 0,
                reserved: 0,
                limit,
                filled: false,
            }
        };
        Self {
            lanes: windows.into_iter().map(lane).collect(),
            writers: (0..PARTITIONS).map(|_| BatchWriter::default()).collect(),
            open: Vec::new(),
            flows: HashMap::new(),
            stats: OutboxStats::default(),
        }
    }

    /// Closes what is open, and wakes whoever sends. At the end of each turn.
    pub fn flush(&mut self) {
        for partition in std::mem::take(&mut self.open) {
            self.close(partition);
        }
        for lane in &mut self.lanes {
            if std::mem::take(&mut lane.filled) {
                lane.window.tell_filled();
            }
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> OutboxStats {
        OutboxStats {
            live_flows: self.flows.len(),
            ..self.stats
        }
    }

    fn lane(&mut self, partition: u16) -> &mut Lane {
        let lanes = self.lanes.len();
        &mut self.lanes[usize::from(partition) % lanes]
    }

    fn close(&mut self, partition: u16) {
        let writer = &mut self.writers[usize::from(partition)];
        if writer.is_empty() {
            return;
        }
        let events = writer.take();
        let taken = events.len() as u64 + SLOT_BYTES;
        let lane = self.lane(partition);
        lane.free = {
            let mut window = lane.window.lock();
            window.push(partition, events);
            window.free()
        };
        lane.open_bytes -= taken;
        lane.filled = true;
    }

    /// Writes an event for which there is room. False: it can't be written.
    fn write(&mut self, partition: u16, event: &TunnelEvent<'_>) -> bool {
        let before = self.writers[usize::from(partition)].len();
        if self.writers[usize::from(partition)].push(event) {
            let after = self.writers[usize::from(partition)].len();
            let mut taken = (after - before) as u64;
            if before == 0 {
                self.open.push(partition);
                taken += SLOT_BYTES;
            }
            self.lane(partition).open_bytes += taken;
            return true;
        }
        if before == 0 {
            return false;
        }
        self.close(partition);
        self.open.retain(|open| *open != partition);
        self.write(partition, event)
    }

    fn count(&mut self, flow: u64, from: Side, bytes: u64, written: bool) {
        match written {
            true => self.stats.text_bytes += bytes,
            false => self.stats.dropped_bytes += bytes,
        }
        if let Some(told) = self.flows.get_mut(&flow) {
            let missed = std::mem::replace(&mut told.missing[index(from)], !written);
            self.stats.dropped_holes += u64::from(!written && !missed);
        }
    }

    fn begin(&mut self, event: FlowEvent<'_>, info: &FlowInfo) {
        let partition = partition(&info.id);
        let begin = Begin {
            info: info.clone(),
            base: (0, 0),
            finished: (false, false),
        };
        let event = TunnelEvent {
            flow: event.flow,
            at: event.at,
            change: TunnelChange::Begin(Box::new(begin)),
        };
        // Its names are the only thing in it that has no bound of its own.
        let names = [&info.sni, &info.alpn, &info.ja4];
        let names = names.map(|name| name.as_ref().map_or(0, String::len));
        let names = names.iter().sum::<usize>() + info.process.name_bytes();
        let bytes = BatchWriter::event_bytes(names + BEGIN_BYTES) as u64;
        let fits = self.lane(partition).has_room(bytes + ENDS_BYTES, 0);
        let dropped = !(fits && self.write(partition, &event));
        match dropped {
            true => self.stats.dropped_flows += 1,
            false => {
                self.stats.flows += 1;
                self.lane(partition).reserved += ENDS_BYTES;
            }
        }
        let told = Told {
            partition,
            offsets: [0; 2],
            finished: [false; 2],
            missing: [dropped; 2],
            ended: false,
            dropped,
        };
        self.flows.insert(event.flow, told);
    }
}

impl Told {
    /// Goes on over a change, and says how it is told: with offsets. Beside it, who says how much text.
    fn step<'a>(
        &mut self,
        change: FlowChange<'a>,
    ) -> Option<(TunnelChange<'a>, Option<(Side, usize)>)> {
        let mut text = None;
        let change = match change {
            FlowChange::Begin(_) => return None,
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                self.offsets[index(from)] = offset + bytes.len() as u64;
                text = Some((from, bytes.len()));
                TunnelChange::Data {
                    from,
                    offset,
                    bytes,
                }
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                self.offsets[index(from)] = offset + bytes;
                TunnelChange::Hole {
                    from,
                    offset,
                    bytes,
                }
            }
            FlowChange::Finish { from } => {
                self.finished[index(from)] = true;
                self.ended = self.finished == [true; 2];
                TunnelChange::Finish {
                    from,
                    offset: self.offsets[index(from)],
                }
            }
            FlowChange::Reset { by, cause } => {
                self.ended = true;
                TunnelChange::Reset {
                    by,
                    cause,
                    offsets: (self.offsets[0], self.offsets[1]),
                }
            }
        };
        Some((change, text))
    }
}

/// What a flow's beginning takes at most beside its names.
const BEGIN_BYTES: usize = 256;

impl Lane {
    /// Whether there is room for so many bytes of events, and for what has been promised, and `spare` ones besides.
    fn has_room(&mut self, bytes: u64, spare: u64) -> bool {
        let needed = self.open_bytes + self.reserved + bytes + SLOT_BYTES + spare;
        if self.free < needed {
            self.free = self.window.lock().free();
        }
        self.free >= needed
    }
}

impl FlowSink for Outbox {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let FlowEvent { flow, at, change } = event;
        if let FlowChange::Begin(info) = change {
            self.begin(event, info);
            return;
        }
        let Some(told) = self.flows.get_mut(&flow) else {
            return;
        };
        let (partition, dropped) = (told.partition, told.dropped);
        let Some((change, text)) = told.step(change) else {
            return;
        };
        let ends = told.ended;
        let droppable = matches!(
            change,
            TunnelChange::Data { .. } | TunnelChange::Hole { .. }
        );
        let lane = self.lane(partition);
        let spare = lane.limit / 16;
        let bytes = BatchWriter::event_bytes(text.map_or(0, |(_, bytes)| bytes)) as u64;
        let drops = dropped || droppable && !lane.has_room(bytes, spare);
        let written = !drops && self.write(partition, &TunnelEvent { flow, at, change });
        if let Some((from, bytes)) = text {
            self.count(flow, from, bytes as u64, written);
        }
        if ends {
            self.flows.remove(&flow);
        }
        if ends && !dropped {
            self.lane(partition).reserved -= ENDS_BYTES;
        }
    }
}
