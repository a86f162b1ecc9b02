//! The right to put out, which ends by itself.
//!
//! A collector may read what it got from the broker as long as nobody else can have taken over: until `LEASE` after it
//! *began* to renew its membership the last time, by its own clock, which goes on while it is stopped. Whoever
//! takes over has waited longer than that. So nothing is shared but a number, and a collector that was stopped notices
//! at its next look, before it asks anybody.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long a membership holds without being renewed.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// How much longer others wait before they take over: clocks of two machines don't run alike.
pub(super) const LEASE_MARGIN: Duration = Duration::from_secs(1);
/// How often it is renewed.
pub(super) const RENEWAL: Duration = Duration::from_secs(1);

/// Whether a collector may put out now.
#[derive(Debug, Default)]
pub(super) struct Permit {
    /// Nanoseconds of the clock below. Pairs with itself: a number, and nothing behind it.
    until: AtomicU64,
}

impl Permit {
    /// It was renewed; the attempt began then.
    pub(super) fn extend(&self, began: Moment) {
        let lease = u64::try_from(LEASE.as_nanos()).unwrap_or(u64::MAX);
        // Only the thread that renews writes; workers read it before each batch.
        self.until
            .store(began.0.saturating_add(lease), Ordering::Release); // pairs with the Acquire load in `holds`
    }

    /// Somebody else has taken over.
    pub(super) fn revoke(&self) {
        self.until.store(0, Ordering::Release); // as above
    }

    pub(super) fn holds(&self) -> bool {
        Moment::now().0 < self.until.load(Ordering::Acquire) // pairs with the Release stores above
    }
}

/// A time of this machine, in nanoseconds. Goes on while the process is stopped or the machine sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

impl Moment {
    pub(super) fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let rest = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
    }

    pub(super) fn elapsed(self) -> Duration {
        Duration::from_nanos(Self::now().0.saturating_sub(self.0))
    }
}

/// The permit of one partition's reader: once it was refused, nothing of what is queued behind may be read, even if the
/// membership turns out to hold.
#[derive(Debug)]
pub(super) struct Gate {
    permit: Arc<Permit>,
    /// Written by workers, read by the partition's task. Says nothing about other memory.
    shut: AtomicBool,
}

impl Gate {
    pub(super) fn new(permit: Arc<Permit>) -> Self {
        Self {
            permit,
            shut: AtomicBool::new(false),
        }
    }

    /// Asked by a worker right before it reads a batch.
    pub(super) fn passes(&self) -> bool {
        if self.shut.load(Ordering::Acquire) {
            return false;
        }
        let holds = self.permit.holds();
        if !holds {
            self.shut.store(true, Ordering::Release); // pairs with the Acquire loads here
        }
        holds
    }

    /// Nothing more passes.
    pub(super) fn shut(&self) {
        self.shut.store(true, Ordering::Release); // as above
    }

    /// Something didn't pass.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire) // pairs with the Release store in `passes`
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_that_was_shut_stays_shut() {
        let permit = Arc::new(Permit::default());
        assert!(!permit.holds());
        permit.extend(Moment::now());
        let gate = Gate::new(Arc::clone(&permit));
        assert!(gate.passes());
        permit.revoke();
        assert!(!gate.passes() && gate.is_shut());
        permit.extend(Moment::now());
        assert!(permit.holds() && !gate.passes());
        assert!(Gate::new(permit).passes());
    }
}
