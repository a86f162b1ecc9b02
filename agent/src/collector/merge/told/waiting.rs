//! Copies that wait at a hole: for whom, how long, and what becomes of the hole.

use super::copy::{Copy, Held, HeldChange, Stalled};
use super::{Context, Told};
use crate::event::{FlowChange, Side, WallTime};

impl Told {
    /// Releases copies that needn't wait any more; with `force` this one. Copies that are over leave.
    /// Returns how many bytes were held and aren't any more.
    pub(in crate::collector::merge) fn settle(
        &mut self,
        force: Option<u64>,
        context: &mut Context<'_>,
    ) -> usize {
        let mut released = 0;
        let mut force = force;
        loop {
            let free = (0..self.copies.len()).find(|which| {
                let copy = &self.copies[*which];
                copy.stalled.as_ref().is_some_and(|stalled| {
                    force == Some(copy.number)
                        || stalled.until <= self.told[stalled.side]
                        || !self.may_be_filled(*which, stalled.side, context)
                })
            });
            let Some(which) = free else {
                break;
            };
            force = force.filter(|forced| *forced != self.copies[which].number);
            released += self.release(which, context);
        }
        let ended: Vec<_> = self.copies.extract_if(.., |copy| copy.is_over()).collect();
        for copy in &ended {
            self.compare_ends(copy, context);
        }
        if !ended.is_empty() {
            self.check_ends(context);
        }
        // Whoever is left may be without help now.
        let waits = |which: usize| {
            let stalled = self.copies[which].stalled.as_ref();
            stalled.is_some_and(|stalled| !self.may_be_filled(which, stalled.side, context))
        };
        if !ended.is_empty() && (0..self.copies.len()).any(waits) {
            released += self.settle(None, context);
        }
        released
    }

    /// The copy waits no longer: what it lacked and nobody brought is a hole. It may come to the next one.
    fn release(&mut self, which: usize, context: &mut Context<'_>) -> usize {
        let Some(stalled) = self.copies[which].stalled.take() else {
            return 0;
        };
        let Stalled {
            side,
            until,
            mut queue,
            bytes,
            ..
        } = *stalled;
        let missing = until.saturating_sub(self.told[side]);
        if missing == 0 {
            context.stats.filled += 1;
        } else {
            let at = queue.front().map_or(self.last, |held| held.at);
            self.declare(at, side, until, context);
        }
        while let Some(held) = queue.pop_front() {
            let change = match &held.change {
                HeldChange::Data {
                    from,
                    offset,
                    bytes,
                } => FlowChange::Data {
                    from: *from,
                    offset: *offset,
                    bytes,
                },
                HeldChange::Hole {
                    from,
                    offset,
                    bytes,
                } => FlowChange::Hole {
                    from: *from,
                    offset: *offset,
                    bytes: *bytes,
                },
                HeldChange::Finish { from } => FlowChange::Finish { from: *from },
                HeldChange::Reset { by, cause } => FlowChange::Reset {
                    by: *by,
                    cause: *cause,
                },
            };
            self.take(which, held.at, held.came, change, context);
            if let Some(stalled) = &mut self.copies[which].stalled {
                let left: usize = queue.iter().map(Held::bytes).sum();
                stalled.queue = queue;
                stalled.bytes = left;
                return bytes - left;
            }
        }
        bytes
    }

    /// Another copy may yet say what this one lacks.
    pub(super) fn may_be_filled(&self, which: usize, side: usize, context: &Context<'_>) -> bool {
        let helps = |copy: &Copy| {
            !copy.silent && copy.stalled.is_none() && !copy.gone && !copy.finished[side]
        };
        let mut others = (0..self.copies.len()).filter(|other| *other != which);
        let lone = self.copies.len() == 1 && self.roles != [true, true];
        others.any(|other| helps(&self.copies[other]))
            || lone && context.expecting && self.copies[which].aligned
    }

    /// Nobody knows what `side` said up to `until`.
    pub(super) fn declare(
        &mut self,
        at: WallTime,
        side: usize,
        until: u64,
        context: &mut Context<'_>,
    ) {
        let told = self.told[side];
        if until <= told || self.over || self.finished[side] {
            return;
        }
        self.told[side] = until;
        self.lines[side].skip_to(until);
        context.stats.holes += 1;
        context.stats.hole_bytes = context.stats.hole_bytes.saturating_add(until - told);
        let change = FlowChange::Hole {
            from: [Side::Client, Side::Server][side],
            offset: told - self.base[side],
            bytes: until - told,
        };
        self.emit(at, 0, change, context);
    }
}
