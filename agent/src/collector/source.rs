//! Who brings batches: one life of an agent's instance, and the difference between its clock and ours.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::agent::Agent;

/// A host's clock that differs by more than this is corrected.
pub const CLOCK_TOLERANCE_NS: i64 = 250_000_000;

/// One life of an agent's instance at this collector: its flow numbers mean the same as long as this is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub u64);

/// What is known of a source.
#[derive(Debug)]
pub struct SourceInfo {
    /// No other source's.
    pub id: SourceId,
    /// Whose it is.
    pub agent: Arc<Agent>,
    /// Added to its times, in nanoseconds.
    pub(super) shift_ns: AtomicI64,
}

impl SourceInfo {
    /// A source whose clock is as ours.
    pub fn new(id: SourceId, agent: Arc<Agent>) -> Self {
        Self {
            id,
            agent,
            shift_ns: AtomicI64::new(0),
        }
    }

    /// The host's clock was measured: its time minus ours. Differences that can be felt are taken out of the times
    /// of events. Returns whether this one is.
    pub fn set_clock_difference(&self, difference_ns: i64) -> bool {
        let counts = &self.agent.counts;
        counts
            .clock_difference_ns
            .store(difference_ns, Ordering::Relaxed);
        let felt = difference_ns.saturating_abs() > CLOCK_TOLERANCE_NS;
        let shift = if felt {
            difference_ns.saturating_neg()
        } else {
            0
        };
        // Read by workers for each batch; nothing else depends on it.
        self.shift_ns.store(shift, Ordering::Relaxed);
        felt
    }
}
