//! Whether a connection is mirrored: what the agent's policy says, and when it is asked again.

use super::{
    COUNTED, Conn, DECISION, EXCLUDED, INCOMPLETE, OPEN_DEFERRED, UNANSWERED, UPDATE_DEFERRED,
};
use crate::event::{CloseReason, Meta};
use crate::filter::{Facts, Verdict};
use crate::hook::Info;
use crate::layout::control;
use crate::process::Ring;
use crate::records::write_close;

impl Conn {
    /// Whether the decision on it is to be made anew.
    pub(super) fn is_undecided(&self, ring: &Ring) -> bool {
        self.has(INCOMPLETE) || self.has(UNANSWERED) && ring.answered()
    }

    /// Asks the policy; `false`: this ring is to hear nothing of this connection, for now at least.
    pub(super) fn decide(&mut self, ring: &Ring, meta: &Meta<'_>) -> bool {
        // In this order: should the answer come in between, it is asked for again.
        let answered = ring.answered();
        let verdict = ring.judge(answered, &Facts::of(meta));
        let counted = self.has(COUNTED) && self.instance == ring.instance;
        self.flags &= !DECISION;
        if !answered {
            self.flags |= UNANSWERED;
        }
        if verdict == Verdict::Mirror {
            return true;
        }
        self.flags &= !(OPEN_DEFERRED | UPDATE_DEFERRED);
        self.flags |= EXCLUDED;
        self.instance = ring.instance;
        self.connection = 0;
        let unknown = matches!(verdict, Verdict::Unknown(_));
        if unknown && !meta.handshake_done {
            self.flags |= INCOMPLETE;
        }
        if counted {
            self.flags |= COUNTED;
        } else if !self.has(UNANSWERED | INCOMPLETE) {
            self.count_excluded(ring, unknown);
        }
        false
    }

    pub(super) fn count_excluded(&mut self, ring: &Ring, unknown: bool) {
        self.flags |= COUNTED;
        ring.count(control::EXCLUDED, 1);
        if unknown {
            ring.count(control::EXCLUDED_UNKNOWN, 1);
        }
    }

    /// It was announced before the agent had answered, which it has now.
    pub(super) fn announced_unanswered(&mut self, ring: &Ring, info: &mut Info<'_>) {
        self.fill(info);
        let closed = self.closed(CloseReason::Abort);
        if self.decide(ring, &info.meta) {
            return;
        }
        // The agent has the same policy, and lets go what it has read.
        write_close(ring, &closed);
    }
}
