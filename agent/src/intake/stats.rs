//! What came in, and what didn't and why.

use super::admit::Refusal;
use mirror_hook::ring::Counters;

/// Counts since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntakeStats {
    /// Rings accepted.
    pub attached: u64,
    /// Rings that the service manager had kept.
    pub taken_over: u64,
    /// Sessions that were open in them.
    pub resumed: u64,
    /// Rings refused, by the reason's [`Refusal::index`].
    pub refused: [u64; Refusal::COUNT],
    /// Connections to the socket dropped because too many said nothing.
    pub pending_dropped: u64,
    /// Rings attached now.
    pub live: usize,
    /// Bytes allocated for them.
    pub granted_bytes: u64,
    /// Records read.
    pub records: u64,
    /// Bytes of the rings read, headers included.
    pub ring_bytes: u64,
    /// Clear text bytes passed on.
    pub text_bytes: u64,
    /// Clear text bytes missing between what was passed on, as the offsets tell.
    pub lost_bytes: u64,
    /// Connections announced.
    pub connections: u64,
    /// … of these on a transport that isn't forged (DTLS, QUIC).
    pub not_mirrored: u64,
    /// Connections refused because their process has too many.
    pub refused_connections: u64,
    /// Records of connections that aren't open (any more).
    pub stray_records: u64,
    /// Clear text bytes in them.
    pub stray_bytes: u64,
    /// Rings that are no longer believed.
    pub quarantined: u64,
    /// … of these for what a record said; the rest for how the ring was.
    pub violations: u64,
    /// Records that their process began and never completed, being killed.
    pub skipped_records: u64,
    /// Rings whose end a killed process left without saying what it is.
    pub tail_unknown: u64,
    /// Sessions whose end was told though a forked process may hold them.
    pub ended_early: u64,
    /// DATA records that found no room, by the hooks' own count.
    pub dropped_records: u64,
    /// Clear text bytes in them.
    pub dropped_bytes: u64,
    /// OPENs that came late for want of room, by the hooks' own count.
    pub opens_deferred: u64,
    /// CLOSEs that got lost for want of room, by the hooks' own count.
    pub closes_lost: u64,
    /// Sessions that ended before their OPEN found room, by the hooks' own count. Nothing else is known of
    /// them.
    pub opens_lost: u64,
    /// Clear text bytes of these.
    pub untold_bytes: u64,
    /// Sessions that said something before their process had a ring, and nothing behind that, by the hooks' own count.
    pub missed: u64,
    /// Clear text bytes of these.
    pub missed_bytes: u64,
    /// Sessions that the filters exclude, by the hooks' own count.
    pub excluded: u64,
    /// … of these, for want of a fact that a rule asks for.
    pub excluded_unknown: u64,
}

impl IntakeStats {
    /// All refusals but those that the filters ask for.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().sum::<u64>() - self.processes_excluded()
    }

    /// Requests of processes that the filters exclude.
    pub fn processes_excluded(&self) -> u64 {
        self.refused[Refusal::Excluded.index()]
    }

    pub(super) fn refuse(&mut self, reason: Refusal) {
        self.refused[reason.index()] += 1;
    }

    /// Adds what a hook has counted, which is whatever its process wrote there.
    pub(super) fn add_counters(&mut self, counters: &Counters) {
        let pairs = [
            (&mut self.dropped_records, counters.dropped_records),
            (&mut self.dropped_bytes, counters.dropped_bytes),
            (&mut self.opens_deferred, counters.opens_deferred),
            (&mut self.closes_lost, counters.closes_lost),
            (&mut self.opens_lost, counters.opens_lost),
            (&mut self.untold_bytes, counters.untold_bytes),
            (&mut self.missed, counters.missed),
            (&mut self.missed_bytes, counters.missed_bytes),
            (&mut self.excluded, counters.excluded),
            (&mut self.excluded_unknown, counters.excluded_unknown),
        ];
        for (sum, value) in pairs {
            *sum = sum.saturating_add(value);
        }
    }
}
