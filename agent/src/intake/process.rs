//! One process's ring, from its attach to its end.

use std::sync::atomic::Ordering;

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::Body;
use mirror_hook::layout::control;
use mirror_hook::ring::{Consumer, Memory, Next, RecordBuffer};
use mirror_hook::shm::Mapping;

use super::admit::{Admitted, Budget, Pages, Refusal};
use super::family::Leaving;
use super::kept::Kept;
use super::kin::Owner;
use super::owner::Held;
use super::peer::Watch;
use super::stats::IntakeStats;
use super::tracker::{Sink, Tracker};
use crate::event::{MonotonicTime, ProcessInfo};

/// How far a record's time may lie before the last moment at which its ring was empty: a thread may
/// have been stopped between looking at the clock and writing.
const LATE_NS: u64 = 1_000_000_000;
/// CLOSEs taken from the table in one sweep; the table has a few more entries.
const CLOSES_AT_ONCE: usize = 1024;

/// A ring that is being read.
#[derive(Debug)]
pub(super) struct Ring {
    /// What its process said when it asked for the agent.
    pub(super) message: AttachMessage,
    /// As its process names it.
    pub(super) instance: u64,
    /// Where its process is found.
    pub(super) owner: Owner,
    /// That of the process which forked this one.
    pub(super) parent_instance: Option<u64>,
    consumer: Consumer<Mapping>,
    tracker: Tracker,
    pages: Pages,
    /// The kernel tells the process when the agent is killed.
    pub(super) held: Option<Held>,
    /// The service manager gives it to the next agent.
    pub(super) kept: Option<Kept>,
    /// Kept open so that the death of the process is heard of.
    watch: Watch,
    dead: bool,
    quarantined: bool,
    /// No record can be older.
    not_before: MonotonicTime,
}

/// What a sweep left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sweep {
    /// Nothing was there.
    Idle,
    /// Something was read; there may be more.
    Worked,
    /// Nothing will ever come any more: free it.
    Over,
}

impl Ring {
    pub(super) fn new(admitted: Admitted, owner: Owner, tracker: Tracker, watch: Watch) -> Self {
        let mut ring = Self {
            instance: admitted.message.instance,
            message: admitted.message,
            owner,
            parent_instance: admitted.message.parent_instance,
            consumer: admitted.consumer,
            tracker,
            pages: admitted.pages,
            held: None,
            kept: None,
            dead: false,
            quarantined: false,
            not_before: MonotonicTime(0),
            watch,
        };
        if matches!(ring.watch, Watch::Gone) {
            ring.process_died();
        }
        ring
    }

    pub(super) fn process(&self) -> &std::sync::Arc<ProcessInfo> {
        self.tracker.process()
    }

    pub(super) fn cost_bytes(&self) -> u64 {
        Budget::cost(self.consumer.capacity())
    }

    pub(super) fn consumer(&self) -> &Consumer<Mapping> {
        &self.consumer
    }

    /// The process is gone: what it wrote is still read.
    pub(super) fn process_died(&mut self) {
        self.dead = true;
        self.consumer.producer_died();
    }

    /// Tells the process to write no more, unless the next agent gets the ring.
    pub(super) fn detach(&self) {
        if self.kept.is_none() {
            self.consumer.detach();
        }
    }

    /// How its process is watched.
    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    /// How far its process has written, by its own account.
    pub(super) fn mark(&self) -> u64 {
        self.consumer
            .memory()
            .load_u64(control::HEAD, Ordering::Acquire)
    }

    /// How often its process has forked, by its own account.
    pub(super) fn forks(&self) -> u32 {
        // Pairs with the Release in the hook's `publish_forks`.
        self.consumer
            .memory()
            .load_u32(control::FORKS, Ordering::Acquire)
    }

    /// Takes the ends that a forked process may outlive: they weren't told.
    pub(super) fn take_leaving(&mut self) -> Vec<Leaving> {
        self.tracker.take_leaving()
    }

    /// Whether something in front of `mark` hasn't been read.
    pub(super) fn is_behind(&self, mark: u64) -> bool {
        self.consumer.position() < mark
    }

    /// Reads the ring up to `mark`, or to its end if its process is gone; about `most_bytes` at most.
    pub(super) fn sweep(
        &mut self,
        mark: u64,
        most_bytes: u64,
        now: MonotonicTime,
        buffer: &mut RecordBuffer,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Sweep {
        let Some(mut kept) = self.kept.take() else {
            return self.read(mark, most_bytes, now, buffer, stats, sink);
        };
        let noting: &mut Sink<'_> = &mut |event| {
            sink(event);
            kept.table.note(&event);
        };
        let swept = self.read(mark, most_bytes, now, buffer, stats, noting);
        self.kept = Some(kept);
        swept
    }

    fn read(
        &mut self,
        mark: u64,
        most_bytes: u64,
        now: MonotonicTime,
        buffer: &mut RecordBuffer,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Sweep {
        let start = self.consumer.taken_bytes();
        let mut drained = false;
        let mut worked = self.pages.incomplete() && !self.dead;
        if worked {
            self.allocate(stats);
        }
        while self.consumer.taken_bytes() - start < most_bytes && !self.quarantined {
            if !self.is_behind(mark) && !self.dead {
                self.not_before = MonotonicTime(now.0.saturating_sub(LATE_NS));
                break;
            }
            match self.consumer.poll(buffer) {
                Ok(Next::Record(record)) => {
                    worked = true;
                    stats.records += 1;
                    let at = MonotonicTime(record.at_ns).clamp(self.not_before, now);
                    let taken = Body::parse(record.kind, record.flags, record.body)
                        .map_err(Into::into)
                        .and_then(|body| {
                            self.tracker
                                .record(record.connection, at, &body, stats, sink)
                        });
                    if taken.is_err() {
                        stats.violations += 1;
                        self.quarantine(now, stats, sink);
                    }
                }
                Ok(Next::Skipped { text, .. }) => {
                    worked = true;
                    stats.skipped_records += 1;
                    if let Some(text) = text {
                        self.tracker.unfinished(&text, now, stats, sink);
                    }
                }
                Ok(Next::TailUnknown { .. }) => {
                    worked = true;
                    stats.tail_unknown += 1;
                }
                Ok(Next::Empty) => {
                    self.not_before = MonotonicTime(now.0.saturating_sub(LATE_NS));
                    drained = true;
                    break;
                }
                Ok(Next::Pending) => {
                    drained = true;
                    break;
                }
                Err(_) => self.quarantine(now, stats, sink),
            }
        }
        stats.ring_bytes += self.consumer.taken_bytes() - start;
        self.consumer.rest();
        worked |= self.take_closes(now, stats, sink);
        if self.quarantined {
            return Sweep::Over;
        }
        if self.dead && drained {
            self.tracker.died(now, Some(self.forks()), sink);
            return Sweep::Over;
        }
        match worked {
            true => Sweep::Worked,
            false => Sweep::Idle,
        }
    }

    /// Gives the ring more of its pages. A process whose ring can't have them writes no more.
    fn allocate(&mut self, stats: &mut IntakeStats) {
        match self.pages.allocate_some() {
            Ok(usable) => self.consumer.extend(usable),
            Err(_) => {
                self.consumer.detach();
                stats.refuse(Refusal::Memory);
            }
        }
    }

    /// Takes the CLOSEs that found no room in the ring.
    fn take_closes(
        &mut self,
        now: MonotonicTime,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> bool {
        let mut taken = false;
        for _ in 0..CLOSES_AT_ONCE {
            if self.quarantined {
                break;
            }
            let Some(closed) = self.consumer.next_closed() else {
                break;
            };
            let at = MonotonicTime(closed.at_ns).clamp(self.not_before.min(now), now);
            // How often it had forked then isn't known: by now, at most.
            let forks = self.forks();
            self.tracker.close(&closed, at, forks, stats, sink);
            taken = true;
        }
        taken
    }

    /// What this ring holds is no longer believed.
    fn quarantine(&mut self, now: MonotonicTime, stats: &mut IntakeStats, sink: &mut Sink<'_>) {
        self.quarantined = true;
        stats.quarantined += 1;
        self.consumer.detach();
        self.tracker.died(now, None, sink);
    }
}
