//! How a connection ends, and what is remembered of it.

use mirror_hook::event::Role;

use super::super::compare::{Blocks, Line};
use super::copy::Copy;
use super::{Context, Told, role_index};
use crate::event::{FlowChange, ResetCause, Side, WallTime};

/// What is remembered of a connection that has ended.
#[derive(Clone, Debug)]
pub(in crate::collector::merge) struct Ended {
    pub(super) told: [u64; 2],
    pub(super) lines: [Line; 2],
    pub(super) blocks: [Blocks; 2],
    roles: [bool; 2],
    /// Both sides have said all.
    pub(super) complete: bool,
    pub(super) began: WallTime,
    pub(in crate::collector::merge) at: WallTime,
}

impl Ended {
    /// A copy of this end was among those that told it.
    pub(in crate::collector::merge) fn had(&self, role: Role) -> bool {
        self.roles[role_index(role)]
    }
}

impl Told {
    /// Passes on that a side has ended, once whoever would know more says so.
    pub(super) fn check_ends(&mut self, context: &mut Context<'_>) {
        for (side, from) in [Side::Client, Side::Server].into_iter().enumerate() {
            let speaks_on = |copy: &Copy| !copy.silent && !copy.finished[side] && !copy.gone;
            let ended =
                self.said_end[side] || self.heard_end[side] && !self.copies.iter().any(speaks_on);
            if ended && !self.finished[side] && !self.over {
                self.finished[side] = true;
                // What ended before it has begun again is over already.
                if self.unbegun.is_none() {
                    self.emit(self.last, 0, FlowChange::Finish { from }, context);
                }
            }
        }
        self.over |= self.finished == [true, true];
        if self.copies.iter().all(|copy| copy.silent) && !self.over {
            self.over = true;
            if self.unbegun.is_none() {
                let unknown = (Side::Client, ResetCause::Untold);
                let (by, cause) = self.reset.unwrap_or(unknown);
                self.emit(self.last, 0, FlowChange::Reset { by, cause }, context);
            }
        }
    }

    pub(super) fn compare_ends(&mut self, copy: &Copy, context: &mut Context<'_>) {
        let Some(lines) = &copy.lines else {
            return;
        };
        let results = [0, 1].map(|side| self.lines[side].compare(&lines[side]));
        if results.contains(&Some(false)) && !std::mem::replace(&mut self.different, true) {
            context.stats.different += 1;
        } else if results == [Some(true), Some(true)] {
            context.stats.equal += 1;
        }
    }

    /// Ends it here and now; its copies say nothing to anybody any more.
    pub(in crate::collector::merge) fn cut(&mut self, at: WallTime, context: &mut Context<'_>) {
        if !self.over && self.unbegun.is_none() {
            let (by, cause) = (Side::Client, ResetCause::Untold);
            self.emit(at, 0, FlowChange::Reset { by, cause }, context);
        }
        self.over = true;
    }

    /// What is to be remembered of it.
    pub(in crate::collector::merge) fn ended(self, at: WallTime) -> Ended {
        Ended {
            told: self.told,
            lines: self.lines,
            blocks: self.blocks,
            roles: self.roles,
            complete: self.finished == [true, true],
            began: self.began,
            at,
        }
    }
}
