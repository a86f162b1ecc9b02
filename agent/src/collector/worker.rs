//! One worker, in its thread: reads batches, and acknowledges them once its outlet has handed on what was in them.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::feed::{Receipt, UnreadableBatch};
use super::inlet::{CopySink, Inlet};
use super::merge::Merge;
use super::queue::{Item, Work, WorkQueue};
use super::source::SourceId;
use super::workers::{Outlet, Request, WorkerReport, WorkersConfig};
use crate::clock::{self, Clock};
use crate::event::{FlowEvent, FlowSink, WallTime};
use crate::tunnel::frame::Batch;

/// How long a worker sleeps at most while something waits for its time.
const SHORT_NAP: Duration = Duration::from_millis(10);
/// And while nothing does: interfaces are looked at, and time goes on.
const LONG_NAP: Duration = Duration::from_millis(100);

/// One worker, in its thread.
pub(super) struct Worker<'a, O> {
    inlet: Inlet,
    merge: Merge,
    outlet: O,
    clock: Clock,
    reorder_ns: u64,
    /// Latest time of what the outlet was given.
    latest: WallTime,
    /// Batches that were read, and the outlet hasn't handed on yet.
    unacknowledged: VecDeque<Unacknowledged>,
    /// Batches read so far.
    batches: u64,
    /// Sources that said what can't be read, until they are gone.
    refused: HashSet<SourceId>,
    unpacked: Vec<u8>,
    failed: &'a AtomicBool,
}

struct Unacknowledged {
    /// Its place among all batches of this worker.
    batch: u64,
    /// Latest time of what was told until then.
    latest: WallTime,
    receipt: Receipt,
}

/// From the inlet through the merge to the outlet.
struct Down<'a, O> {
    merge: &'a mut Merge,
    outlet: Latest<'a, O>,
}

impl<O: FlowSink> CopySink for Down<'_, O> {
    fn copy_event(&mut self, agent: u64, event: FlowEvent<'_>) {
        self.merge.copy_event(agent, event, &mut self.outlet);
    }
}

/// Notes the latest time that passes.
struct Latest<'a, O> {
    outlet: &'a mut O,
    latest: &'a mut WallTime,
}

impl<O: FlowSink> FlowSink for Latest<'_, O> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        *self.latest = (*self.latest).max(event.at);
        self.outlet.flow_event(event);
    }
}

impl<'a, O: Outlet> Worker<'a, O> {
    pub(super) fn new(config: &WorkersConfig, outlet: O, failed: &'a AtomicBool) -> Self {
        Self {
            inlet: Inlet::new(config.limits),
            merge: Merge::new(config.merge),
            outlet,
            clock: Clock::start(),
            reorder_ns: config.reorder_ns,
            latest: WallTime(0),
            unacknowledged: VecDeque::new(),
            batches: 0,
            refused: HashSet::new(),
            unpacked: Vec::new(),
            failed,
        }
    }

    pub(super) fn run(mut self, queue: &WorkQueue) -> WorkerReport {
        loop {
            let waits = !self.unacknowledged.is_empty() || self.merge.holds();
            let turn = queue.next(if waits { SHORT_NAP } else { LONG_NAP });
            let now = self.now();
            for item in turn.items {
                self.item(item, now);
            }
            for request in turn.requests {
                self.request(request, now);
            }
            if turn.over {
                break;
            }
            let Self {
                merge,
                outlet,
                latest,
                ..
            } = &mut self;
            merge.expire(now, &mut Latest { outlet, latest });
            let until = WallTime(now.0.saturating_sub(self.reorder_ns));
            match self.outlet.release(until) {
                true => self.acknowledge(until),
                // Nothing more is acknowledged: the agents still have it.
                false => self.failed.store(true, Ordering::Release), // pairs with `has_failed`
            }
        }
        let now = self.now();
        let Self {
            merge,
            outlet,
            latest,
            ..
        } = &mut self;
        merge.finish(&mut Latest { outlet, latest });
        if self.outlet.finish(now) {
            for batch in self.unacknowledged.drain(..) {
                batch.receipt.to.done(batch.receipt.seq);
            }
        }
        self.outlet.report();
        self.report()
    }

    /// Our clock, which never goes back.
    fn now(&mut self) -> WallTime {
        let now = clock::monotonic_now();
        self.clock.adjust(now, clock::wall_now());
        self.clock.wall(now)
    }

    fn item(&mut self, item: Item, now: WallTime) {
        let id = item.source.id;
        let mut down = Down {
            merge: &mut self.merge,
            outlet: Latest {
                outlet: &mut self.outlet,
                latest: &mut self.latest,
            },
        };
        match item.work {
            Work::Batch { batch, receipt, .. } => {
                if self.refused.contains(&id) || !receipt.to.may_be_read() {
                    return;
                }
                self.batches += 1;
                down.merge.batch(self.batches, now);
                let read = unpack(&batch, &mut self.unpacked).and_then(|events| {
                    Ok(self.inlet.batch(&item.source, events, now, &mut down)?)
                });
                match read {
                    Ok(()) => self.unacknowledged.push_back(Unacknowledged {
                        batch: self.batches,
                        latest: self.latest,
                        receipt,
                    }),
                    Err(error) => {
                        self.inlet.end(id, now, &mut down);
                        self.refused.insert(id);
                        receipt.to.refused(receipt.seq, &error);
                    }
                }
            }
            Work::PreambleBegins => self.inlet.preamble_begins(id),
            Work::PreambleEnds => self.inlet.preamble_ends(id, now, &mut down),
            Work::End => {
                self.inlet.end(id, now, &mut down);
                self.refused.remove(&id);
            }
        }
    }

    fn request(&mut self, request: Request, now: WallTime) {
        match request {
            Request::TurnOver => self.outlet.turn_over(now),
            Request::ExpectTwins(expect) => self.merge.expect_twins(expect),
            Request::Report(answer) => {
                self.outlet.report();
                // Who asked may have lost patience.
                let _ = answer.send(self.report());
            }
        }
    }

    /// What is older than `until` has been handed on.
    fn acknowledge(&mut self, until: WallTime) {
        let held = self.merge.oldest_held_batch();
        while let Some(first) = self.unacknowledged.front() {
            let waits = self.outlet.oldest_held();
            let written = (self.reorder_ns == 0 || first.latest < until)
                && waits.is_none_or(|waits| first.latest < waits);
            if !written || held.is_some_and(|held| held <= first.batch) {
                return;
            }
            if let Some(Unacknowledged { receipt, .. }) = self.unacknowledged.pop_front() {
                receipt.to.done(receipt.seq);
            }
        }
    }

    fn report(&mut self) -> WorkerReport {
        WorkerReport {
            inlet: self.inlet.stats(),
            merge: self.merge.stats(),
            live_flows: self.inlet.live_flows(),
            complaints: self.inlet.take_complaints(),
        }
    }
}

/// The events of a batch, uncompressed into `room` if need be.
fn unpack<'b>(batch: &'b Batch, room: &'b mut Vec<u8>) -> Result<&'b [u8], UnreadableBatch> {
    if !batch.compressed {
        return Ok(&batch.events);
    }
    // Bounded: the header's number is, and no more is written.
    let bytes = batch.event_bytes as usize;
    room.resize(bytes, 0);
    let written = zstd::bulk::decompress_to_buffer(&batch.events, &mut room[..]);
    match written.is_ok_and(|written| written == bytes) {
        true => Ok(&room[..]),
        false => Err(UnreadableBatch::Compressed),
    }
}
