//! A flow that has begun: turns what its sessions say into [`FlowEvent`]s.

use std::collections::BTreeSet;

use mirror_hook::event::{CloseReason, Direction, Role};

use super::stats::FlowStats;
use super::twin::{Fingerprint, index};
use crate::event::{
    Binding, FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, ResetCause, SessionKey, Side,
    Tuple, WallTime,
};

/// Its invariants are the sink's: offsets from 0 without gap or overlap but for holes, time never
/// back, nothing of a side after its `Finish`, nothing at all after the end.
#[derive(Debug)]
pub(super) struct LiveFlow {
    number: u64,
    pub(super) id: FlowId,
    pub(super) role: Role,
    pub(super) tuple: Tuple,
    /// What was told of it, if its addresses are what an application says.
    told: Option<Box<Told>>,
    /// User of the process that began it.
    pub(super) uid: u32,
    /// Sessions (a process and its forked children) that hold the connection.
    holders: u32,
    /// One of them has given it back; the others may still go on.
    freed: bool,
    sides: [Stream; 2],
    last: WallTime,
    ended: bool,
    pub(super) fingerprint: Fingerprint,
    /// The other end's copy, when that ended before this one.
    pub(super) twin: Option<Fingerprint>,
}

/// Of a flow that may have to make way.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) info: FlowInfo,
    /// Its sessions.
    pub(super) sessions: BTreeSet<SessionKey>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    /// Stream offset at which the flow begins.
    base: u64,
    /// Stream offset that comes next.
    next: u64,
    finished: bool,
}

impl LiveFlow {
    /// Begins a flow. `base`: the stream offsets sent and received at which it does.
    pub(super) fn begin(
        number: u64,
        at: WallTime,
        info: &FlowInfo,
        base: (u64, u64),
        sink: &mut dyn FlowSink,
    ) -> Self {
        let mut sides = [Stream::default(); 2];
        for (direction, base) in [(Direction::Sent, base.0), (Direction::Received, base.1)] {
            let side = Side::speaker(info.role, direction);
            sides[index(side)] = Stream {
                base,
                next: base,
                finished: false,
            };
        }
        let mut flow = Self {
            number,
            id: info.id,
            role: info.role,
            tuple: info.tuple,
            told: (info.binding == Binding::Told).then(|| {
                Box::new(Told {
                    info: info.clone(),
                    sessions: BTreeSet::new(),
                })
            }),
            uid: info.process.uid,
            holders: 1,
            freed: false,
            sides,
            last: at,
            ended: false,
            fingerprint: Fingerprint::default(),
            twin: None,
        };
        flow.emit(at, FlowChange::Begin(info), sink);
        flow
    }

    /// What was told of it, if its addresses are what an application says, and it goes on.
    pub(super) fn told(&self) -> Option<&Told> {
        self.told.as_deref().filter(|_| !self.ended)
    }

    /// The stream offsets, of client and server, that come next.
    pub(super) fn reached(&self) -> (u64, u64) {
        let [client, server] =
            [Side::Client, Side::Server].map(|side| self.sides[index(side)].next);
        (client, server)
    }

    /// Ends it, for its sessions to go on in another flow, which begins where this one ends.
    pub(super) fn move_to(
        &mut self,
        number: u64,
        at: WallTime,
        info: &FlowInfo,
        stats: &mut FlowStats,
        sink: &mut dyn FlowSink,
    ) -> Self {
        self.reset(at, ResetCause::Died, stats, sink);
        let (client, server) = self.reached();
        let base = match self.role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        let mut moved = Self::begin(number, self.last, info, base, sink);
        moved.fingerprint.hole(); // what came before can't be compared
        (moved.holders, moved.freed) = (self.holders, self.freed);
        for side in [Side::Client, Side::Server] {
            if self.sides[index(side)].finished {
                moved.finish(at, side, stats, sink);
            }
        }
        moved
    }

    /// Another process holds the connection too.
    pub(super) fn join(&mut self, session: SessionKey) {
        self.holders += 1;
        self.note(session);
    }

    /// This is one of its sessions.
    pub(super) fn note(&mut self, session: SessionKey) {
        if let Some(told) = &mut self.told {
            told.sessions.insert(session);
        }
    }

    /// It is none any more.
    pub(super) fn forget(&mut self, session: SessionKey) {
        if let Some(told) = &mut self.told {
            told.sessions.remove(&session);
        }
    }

    pub(super) fn data(
        &mut self,
        at: WallTime,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
        stats: &mut FlowStats,
        sink: &mut dyn FlowSink,
    ) {
        let from = Side::speaker(self.role, direction);
        let end = offset.saturating_add(bytes.len() as u64);
        if self.ended || self.sides[index(from)].finished {
            stats.after_end_bytes += bytes.len() as u64;
            return;
        }
        if offset > self.sides[index(from)].next {
            self.lost(at, direction, offset, stats, sink);
        }
        let stream = &mut self.sides[index(from)];
        let known = usize::try_from(stream.next - offset).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or(&[]);
        stats.overlapping_bytes += (bytes.len() - fresh.len()) as u64;
        if fresh.is_empty() {
            return;
        }
        let change = FlowChange::Data {
            from,
            offset: stream.next - stream.base,
            bytes: fresh,
        };
        stream.next = end;
        stats.bytes += fresh.len() as u64;
        self.fingerprint.data(from, fresh);
        self.emit(at, change, sink);
    }

    /// Nothing is known of what passed in this direction up to stream offset `to`.
    pub(super) fn lost(
        &mut self,
        at: WallTime,
        direction: Direction,
        to: u64,
        stats: &mut FlowStats,
        sink: &mut dyn FlowSink,
    ) {
        let from = Side::speaker(self.role, direction);
        let stream = &mut self.sides[index(from)];
        if self.ended || stream.finished || to <= stream.next {
            return;
        }
        let change = FlowChange::Hole {
            from,
            offset: stream.next - stream.base,
            bytes: to - stream.next,
        };
        stats.holes += 1;
        stats.hole_bytes = stats.hole_bytes.saturating_add(to - stream.next);
        stream.next = to;
        self.fingerprint.hole();
        self.emit(at, change, sink);
    }

    /// One of the flow's sessions closes, in part or as a whole.
    pub(super) fn close(
        &mut self,
        at: WallTime,
        reason: CloseReason,
        stats: &mut FlowStats,
        sink: &mut dyn FlowSink,
    ) {
        let local = Side::speaker(self.role, Direction::Sent);
        match reason {
            CloseReason::SentEnd => self.finish(at, local, stats, sink),
            CloseReason::ReceivedEnd => self.finish(at, local.peer(), stats, sink),
            CloseReason::Free => {
                self.freed = true;
                // Behind close_notify the session is over, whoever has it still.
                let over = self.sides[index(local)].finished;
                if self.release_holder(at) || over {
                    self.finish(at, local, stats, sink);
                    self.finish(at, local.peer(), stats, sink);
                }
            }
            CloseReason::Abort => self.reset(at, ResetCause::Abort, stats, sink),
        }
    }

    /// One of the flow's processes is gone.
    pub(super) fn died(&mut self, at: WallTime, stats: &mut FlowStats, sink: &mut dyn FlowSink) {
        if !self.release_holder(at) {
            return;
        }
        // One that was given back in good order by somebody ended when the last of the others did.
        if self.freed {
            let local = Side::speaker(self.role, Direction::Sent);
            self.finish(at, local, stats, sink);
            self.finish(at, local.peer(), stats, sink);
        } else {
            self.reset(at, ResetCause::Died, stats, sink);
        }
    }

    /// Both sides have finished, or the flow was reset.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// True: that was the last one. The flow ends no earlier than any of them.
    fn release_holder(&mut self, at: WallTime) -> bool {
        self.last = self.last.max(at);
        self.holders = self.holders.saturating_sub(1);
        self.holders == 0
    }

    fn finish(&mut self, at: WallTime, side: Side, stats: &mut FlowStats, sink: &mut dyn FlowSink) {
        let stream = &mut self.sides[index(side)];
        if self.ended || stream.finished {
            return;
        }
        stream.finished = true;
        self.emit(at, FlowChange::Finish { from: side }, sink);
        if self.sides.iter().all(|stream| stream.finished) {
            self.ended = true;
            stats.finished += 1;
        }
    }

    fn reset(
        &mut self,
        at: WallTime,
        cause: ResetCause,
        stats: &mut FlowStats,
        sink: &mut dyn FlowSink,
    ) {
        if !self.ended {
            self.ended = true;
            stats.reset += 1;
            let by = Side::speaker(self.role, Direction::Sent);
            self.emit(at, FlowChange::Reset { by, cause }, sink);
        }
    }

    fn emit(&mut self, at: WallTime, change: FlowChange<'_>, sink: &mut dyn FlowSink) {
        self.last = self.last.max(at);
        sink.flow_event(FlowEvent {
            flow: self.number,
            at: self.last,
            change,
        });
    }
}
