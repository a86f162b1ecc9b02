//! What became of the sessions.

use super::proof::{Unproven, Verdict};
use crate::event::Binding;

/// Counts since the start. Every byte of clear text that came in is in `bytes`, in one of the
/// `*_bytes` that say why not, or still waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// Sessions announced.
    pub sessions: u64,
    /// Flows begun.
    pub flows: u64,
    /// … whose addresses the library's socket told.
    pub bound_by_socket: u64,
    /// … whose addresses the application told.
    pub bound_as_told: u64,
    /// … whose addresses the wire showed.
    pub bound_by_wire: u64,
    /// … whose randoms were on the wire under several addresses.
    pub bound_ambiguously: u64,
    /// … whose addresses were found by what they have carried.
    pub bound_by_counters: u64,
    /// Sessions found so that the wire shows elsewhere: they have the wire's addresses.
    pub counters_contradicted: u64,
    /// Flows begun with placeholder addresses.
    pub unbound: u64,
    /// … of these, because too much text was waiting.
    pub unbound_for_space: u64,
    /// Sessions whose word for their socket's addresses the kernel has confirmed.
    pub claims_proven: u64,
    /// … has not, since the socket was gone when it was asked,
    pub claims_gone: u64,
    /// … or was made by another user or in another network namespace, and isn't seen to be the process's,
    pub claims_foreign: u64,
    /// … or since it couldn't be asked.
    pub claims_unasked: u64,
    /// … has contradicted: their flows go without these addresses.
    pub claims_contradicted: u64,
    /// Flows ended by both sides.
    pub finished: u64,
    /// Flows ended abruptly.
    pub reset: u64,
    /// Sessions that went on in a child process and joined their parent's flow.
    pub joined: u64,
    /// Clear text bytes put out.
    pub bytes: u64,
    /// Holes put out.
    pub holes: u64,
    /// Bytes missing in them.
    pub hole_bytes: u64,
    /// Sessions not put out because their other end is.
    pub twins: u64,
    /// Clear text bytes of these.
    pub twin_bytes: u64,
    /// … which were equal to what was put out.
    pub twins_equal: u64,
    /// … which differed: as long, but other bytes.
    pub twins_different: u64,
    /// … which can't be compared: one of the copies has holes, or is shorter.
    pub twins_incomparable: u64,
    /// Sessions over DTLS, which aren't forged.
    pub dtls: u64,
    /// Sessions over QUIC, which aren't forged.
    pub quic: u64,
    /// Sessions that the filters exclude; the hooks count those of which no text came.
    pub excluded: u64,
    /// … of these, because nobody found out what a rule asks for.
    pub excluded_unknown: u64,
    /// Clear text bytes of these.
    pub excluded_bytes: u64,
    /// Clear text bytes of sessions that aren't forged.
    pub not_forged_bytes: u64,
    /// Sessions that ended before their handshake did, without text.
    pub handshakes_failed: u64,
    /// Bytes of 0-RTT data that the server refused to read.
    pub early_rejected_bytes: u64,
    /// Bytes of 0-RTT data of which nobody heard whether the server read them.
    pub early_unanswered_bytes: u64,
    /// Sessions refused because there were too many.
    pub refused_sessions: u64,
    /// Clear text bytes of sessions that aren't known (any more).
    pub unknown_bytes: u64,
    /// Clear text bytes that came after their side had finished.
    pub after_end_bytes: u64,
    /// Clear text bytes that a parent and its child both announced; put out once.
    pub overlapping_bytes: u64,
    /// Times that the wall clock was set.
    pub clock_steps: u64,
}

impl FlowStats {
    /// The last word on a session's claim.
    pub(super) fn judged(&mut self, verdict: Verdict) {
        match verdict {
            Verdict::Proven => self.claims_proven += 1,
            Verdict::Unproven(Unproven::Gone) => self.claims_gone += 1,
            Verdict::Unproven(Unproven::Foreign) => self.claims_foreign += 1,
            Verdict::Unproven(Unproven::Unasked) => self.claims_unasked += 1,
            Verdict::Doubtful => self.claims_contradicted += 1,
        }
    }

    pub(super) fn begun(&mut self, binding: Binding) {
        self.flows += 1;
        match binding {
            Binding::Socket => self.bound_by_socket += 1,
            Binding::Told => self.bound_as_told += 1,
            Binding::Wire => self.bound_by_wire += 1,
            Binding::WireAmbiguous => self.bound_ambiguously += 1,
            Binding::Counters => self.bound_by_counters += 1,
            Binding::Placeholder => self.unbound += 1,
        }
    }
}
