//! One connection that is told, by one or two copies.

mod copy;
mod ends;
mod waiting;

use std::collections::VecDeque;

use mirror_hook::event::Role;

pub(super) use self::copy::Copy;
use self::copy::Stalled;
pub(super) use self::ends::Ended;
use super::compare::{Block, Blocks, Line};
use super::{MergeStats, Moment};
use crate::collector::inlet::index;
use crate::event::{FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, ResetCause, Side, WallTime};

/// Clocks of hosts are brought together where their copies begin no further apart than this.
const MAX_SHIFT_NS: i64 = 2_000_000_000;

/// A connection: the union of what its copies bring, in order.
///
/// Offsets here are those of the session's streams. `told` is how far each side was passed on; a copy that isn't
/// stalled never is ahead of it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) id: FlowId,
    number: u64,
    /// Its first event hasn't been passed on yet: nothing was said beyond what an earlier flow told.
    unbegun: Option<Box<FlowInfo>>,
    /// Nothing is passed on any more, or ever: it has ended.
    over: bool,
    base: [u64; 2],
    told: [u64; 2],
    finished: [bool; 2],
    /// The side's own copy says that it has ended; the other end's says so.
    said_end: [bool; 2],
    heard_end: [bool; 2],
    began: WallTime,
    last: WallTime,
    /// Who ended it abruptly, by the first copy that knows.
    reset: Option<(Side, ResetCause)>,
    lines: [Line; 2],
    blocks: [Blocks; 2],
    different: bool,
    /// Roles of copies that it had: client, server.
    roles: [bool; 2],
    pub(super) copies: Vec<Copy>,
}

/// Where things go, and what holds.
pub(super) struct Context<'a> {
    pub(super) stats: &'a mut MergeStats,
    pub(super) sink: &'a mut dyn FlowSink,
    /// A second copy of a connection with one may come.
    pub(super) expecting: bool,
}

impl Told {
    /// Begins with its first copy.
    pub(super) fn begin(
        copy: Copy,
        at: WallTime,
        info: &FlowInfo,
        context: &mut Context<'_>,
    ) -> Self {
        let mut told = Self::new(copy, at, info);
        told.emit(at, 0, FlowChange::Begin(info), context);
        told
    }

    /// A copy of a connection that has ended before. It begins when it says more than was told; if that was all,
    /// never.
    pub(super) fn revive(
        copy: Copy,
        at: WallTime,
        info: &FlowInfo,
        ended: Ended,
        stats: &mut MergeStats,
    ) -> Self {
        stats.late_copies += 1;
        let mut told = Self::new(copy, at, info);
        told.base = ended.told;
        told.told = ended.told;
        told.copies[0].silent = !told.copies[0].aligned;
        told.over = ended.complete || told.copies[0].silent;
        let lines = &told.copies[0].start.map(Line::new);
        told.copies[0].lines = Some(Box::new(lines.clone()));
        (told.lines, told.blocks) = (ended.lines, ended.blocks);
        let mut info = info.clone();
        info.continued = Some((ended.told[0], ended.told[1]));
        told.unbegun = Some(Box::new(info));
        told.began = ended.began;
        told
    }

    fn new(copy: Copy, at: WallTime, info: &FlowInfo) -> Self {
        let mut roles = [false; 2];
        roles[role_index(info.role)] = true;
        let start = copy.start;
        let mut copies = Vec::with_capacity(1);
        let number = copy.number;
        copies.push(copy);
        Self {
            id: info.id,
            number,
            unbegun: None,
            over: false,
            base: start,
            told: start,
            finished: [false; 2],
            said_end: [false; 2],
            heard_end: [false; 2],
            began: at,
            last: at,
            reset: None,
            lines: start.map(Line::new),
            blocks: Default::default(),
            different: false,
            roles,
            copies,
        }
    }

    /// Another copy of it begins. Both are aligned, or the second is silent. Returns how many bytes are held.
    pub(super) fn join(
        &mut self,
        mut copy: Copy,
        at: WallTime,
        came: Moment,
        context: &mut Context<'_>,
    ) -> usize {
        self.roles[role_index(copy.role)] = true;
        let lines = &self.lines;
        for first in &mut self.copies {
            first.lines.get_or_insert_with(|| Box::new(lines.clone()));
        }
        copy.lines = Some(Box::new(copy.start.map(Line::new)));
        copy.silent = !(copy.aligned && self.copies.iter().all(|first| first.aligned));
        if copy.start == [0, 0] && self.base == [0, 0] {
            let difference = difference_ns(self.began, at);
            if difference.abs() <= MAX_SHIFT_NS {
                copy.shift_ns = difference;
            }
        }
        let start = copy.start;
        self.copies.push(copy);
        let which = self.copies.len() - 1;
        let mut held = 0;
        for (side, from) in [Side::Client, Side::Server].into_iter().enumerate() {
            let offset = self.told[side];
            let bytes = start[side].saturating_sub(offset);
            let hole = FlowChange::Hole {
                from,
                offset,
                bytes,
            };
            if bytes == 0 {
            } else if self.copies[which].stalled.is_some() {
                held += self.copies[which].hold(at, came, hole);
            } else {
                self.take(which, at, came, hole, context);
            }
        }
        held
    }

    pub(super) fn which(&self, number: u64) -> Option<usize> {
        self.copies.iter().position(|copy| copy.number == number)
    }

    /// Whether this end has a copy.
    pub(super) fn of_role(&self, role: Role) -> Option<&Copy> {
        self.copies.iter().find(|copy| copy.role == role)
    }

    /// A copy's event, whose offsets count from the copy's beginning. Returns how many bytes are held more.
    pub(super) fn event(
        &mut self,
        which: usize,
        at: WallTime,
        came: Moment,
        mut change: FlowChange<'_>,
        context: &mut Context<'_>,
    ) -> usize {
        let copy = &mut self.copies[which];
        match &mut change {
            FlowChange::Data { from, offset, .. } | FlowChange::Hole { from, offset, .. } => {
                *offset = offset.saturating_add(copy.start[index(*from)]);
            }
            _ => {}
        }
        if copy.stalled.is_some() {
            return copy.hold(at, came, change);
        }
        self.take(which, at, came, change, context);
        0
    }

    /// Takes an event of a copy that isn't stalled; it may be afterwards.
    fn take(
        &mut self,
        which: usize,
        at: WallTime,
        came: Moment,
        change: FlowChange<'_>,
        context: &mut Context<'_>,
    ) {
        let copy = &mut self.copies[which];
        let (shift, speaks, role) = (copy.shift_ns, !copy.silent, copy.role);
        match change {
            FlowChange::Begin(_) => {}
            FlowChange::Data {
                from,
                offset,
                bytes,
            } if speaks => self.data(which, at, shift, (from, offset, bytes), context),
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } if speaks => {
                let (side, until) = (index(from), offset.saturating_add(bytes));
                if let Some(lines) = &mut self.copies[which].lines {
                    lines[side].skip_to(until);
                }
                if until <= self.told[side] || self.over {
                } else if self.may_be_filled(which, side, context) {
                    context.stats.waited += 1;
                    self.copies[which].stalled = Some(Box::new(Stalled {
                        side,
                        until,
                        since: came,
                        queue: VecDeque::new(),
                        bytes: 0,
                    }));
                } else {
                    self.declare(at, side, until, context);
                }
            }
            FlowChange::Data { bytes, .. } => {
                let counter = match self.over {
                    true => &mut context.stats.late_bytes,
                    false => &mut context.stats.suppressed_bytes,
                };
                *counter += bytes.len() as u64;
            }
            FlowChange::Hole { .. } => {}
            FlowChange::Finish { from } => {
                let side = index(from);
                self.copies[which].finished[side] = true;
                self.last = self.last.max(shifted(at, shift));
                if speaks && side == role_index(role) {
                    self.said_end[side] = true;
                } else if speaks {
                    self.heard_end[side] = true;
                }
                self.check_ends(context);
            }
            FlowChange::Reset { by, cause } => {
                self.copies[which].gone = true;
                self.last = self.last.max(shifted(at, shift));
                let knows = |(_, cause): &(Side, ResetCause)| *cause != ResetCause::Untold;
                if !self.reset.as_ref().is_some_and(knows) {
                    self.reset = Some((by, cause));
                }
            }
        }
    }

    fn data(
        &mut self,
        which: usize,
        at: WallTime,
        shift: i64,
        (from, offset, bytes): (Side, u64, &[u8]),
        context: &mut Context<'_>,
    ) {
        let side = index(from);
        if offset > self.told[side] && !self.over {
            self.declare(at, side, offset, context);
        }
        let told = self.told[side];
        let known = usize::try_from(told.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or(&[]);
        context.stats.suppressed_bytes += (bytes.len() - fresh.len()) as u64;
        if !fresh.is_empty() && (self.over || self.finished[side]) {
            context.stats.late_bytes += fresh.len() as u64;
        } else if !fresh.is_empty() {
            if self.copies.len() > 1 && self.copies.iter().any(|copy| copy.stalled.is_some()) {
                context.stats.filled_bytes += fresh.len() as u64;
            }
            let blocks = &mut self.blocks[side];
            self.lines[side].data(told, fresh, |block| blocks.push(block));
            self.told[side] = told + fresh.len() as u64;
            let change = FlowChange::Data {
                from,
                offset: told - self.base[side],
                bytes: fresh,
            };
            self.emit(at, shift, change, context);
        }
        let Self {
            copies,
            blocks,
            different,
            ..
        } = self;
        if let Some(lines) = &mut copies[which].lines {
            let mut differ = false;
            let compare = |block: Block| differ |= blocks[side].compare(block) == Some(false);
            lines[side].data(offset, bytes, compare);
            if differ && !std::mem::replace(different, true) {
                context.stats.different += 1;
            }
        }
    }

    /// A newer copy of this end takes the place of this one.
    pub(super) fn drop_copy(&mut self, number: u64) -> Option<Box<Stalled>> {
        let which = self.which(number)?;
        self.copies.remove(which).stalled
    }

    fn emit(
        &mut self,
        at: WallTime,
        shift_ns: i64,
        change: FlowChange<'_>,
        context: &mut Context<'_>,
    ) {
        self.last = self.last.max(shifted(at, shift_ns));
        let (flow, at) = (self.number, self.last);
        if let Some(info) = self.unbegun.take() {
            let change = FlowChange::Begin(&info);
            context.sink.flow_event(FlowEvent { flow, at, change });
        }
        context.sink.flow_event(FlowEvent { flow, at, change });
    }
}

pub(super) fn role_index(role: Role) -> usize {
    match role {
        Role::Client => 0,
        Role::Server => 1,
    }
}

fn shifted(at: WallTime, shift_ns: i64) -> WallTime {
    WallTime(at.0.saturating_add_signed(shift_ns))
}

fn difference_ns(one: WallTime, other: WallTime) -> i64 {
    let difference = i128::from(one.0) - i128::from(other.0);
    i64::try_from(difference).unwrap_or(i64::MAX)
}
