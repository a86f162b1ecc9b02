//! A copy of a connection: what one of its ends tells, and what of it waits.

use std::collections::VecDeque;

use mirror_hook::event::Role;

use super::super::Moment;
use super::super::compare::Line;
use crate::event::{FlowChange, FlowInfo, ResetCause, Side, WallTime};

/// One of its copies.
#[derive(Debug)]
pub(in crate::collector::merge) struct Copy {
    pub(in crate::collector::merge) number: u64,
    pub(in crate::collector::merge) agent: u64,
    pub(in crate::collector::merge) role: Role,
    /// Stream offsets at which the copy begins.
    pub(super) start: [u64; 2],
    pub(super) finished: [bool; 2],
    pub(super) gone: bool,
    /// Its offsets are those of the session's streams; else it can't be laid beside another.
    pub(super) aligned: bool,
    /// It is only heard to its end: nobody knows where what it says belongs.
    pub(super) silent: bool,
    /// Added to its times.
    pub(super) shift_ns: i64,
    /// What it said, once there are two.
    pub(super) lines: Option<Box<[Line; 2]>>,
    pub(in crate::collector::merge) stalled: Option<Box<Stalled>>,
}

/// A copy that waits for another one to say what it lacks.
#[derive(Debug)]
pub(in crate::collector::merge) struct Stalled {
    pub(super) side: usize,
    /// Offset behind what it lacks.
    pub(super) until: u64,
    /// When it came to that.
    pub(in crate::collector::merge) since: Moment,
    /// What it said then.
    pub(super) queue: VecDeque<Held>,
    pub(in crate::collector::merge) bytes: usize,
}

/// An event that waits.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) at: WallTime,
    pub(super) came: Moment,
    pub(super) change: HeldChange,
}

#[derive(Debug)]
pub(super) enum HeldChange {
    Data {
        from: Side,
        offset: u64,
        bytes: Box<[u8]>,
    },
    Hole {
        from: Side,
        offset: u64,
        bytes: u64,
    },
    Finish {
        from: Side,
    },
    Reset {
        by: Side,
        cause: ResetCause,
    },
}

/// What a queued event takes beside its bytes.
const HELD_BYTES: usize = size_of::<Held>();

impl Copy {
    pub(in crate::collector::merge) fn new(number: u64, agent: u64, info: &FlowInfo) -> Self {
        use mirror_hook::event::Announcement;
        let (client, server) = info.continued.unwrap_or((0, 0));
        Self {
            number,
            agent,
            role: info.role,
            start: [client, server],
            finished: [false; 2],
            gone: false,
            aligned: info.continued.is_some() || info.announcement == Announcement::New,
            silent: false,
            shift_ns: 0,
            lines: None,
            stalled: None,
        }
    }

    pub(in crate::collector::merge) fn is_aligned(&self) -> bool {
        self.aligned
    }

    /// It says no more.
    pub(in crate::collector::merge) fn is_over(&self) -> bool {
        self.stalled.is_none() && (self.gone || self.finished == [true, true])
    }

    /// Takes an event behind the one that stalled it. Returns its bytes.
    pub(super) fn hold(&mut self, at: WallTime, came: Moment, change: FlowChange<'_>) -> usize {
        let Some(stalled) = &mut self.stalled else {
            return 0;
        };
        let (change, bytes) = match change {
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                let held = HeldChange::Data {
                    from,
                    offset,
                    bytes: bytes.into(),
                };
                (held, bytes.len())
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => (
                HeldChange::Hole {
                    from,
                    offset,
                    bytes,
                },
                0,
            ),
            FlowChange::Finish { from } => (HeldChange::Finish { from }, 0),
            FlowChange::Reset { by, cause } => (HeldChange::Reset { by, cause }, 0),
            FlowChange::Begin(_) => return 0,
        };
        stalled.bytes += bytes + HELD_BYTES;
        stalled.queue.push_back(Held { at, came, change });
        bytes + HELD_BYTES
    }
}

impl Held {
    pub(super) fn bytes(&self) -> usize {
        HELD_BYTES
            + match &self.change {
                HeldChange::Data { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}
