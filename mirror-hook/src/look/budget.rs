//! How much of a process's time looks may take: a sixteenth in the long run, and what a program with some dozens of connections
//! needs for all of them at its start.
//!
//! A leaky bucket: each look fills it by the time that it took, and it drains by a sixteenth of the time that passes. None is
//! taken while it is full.

use std::sync::atomic::{AtomicU64, Ordering};

/// A look may take one part in so many of the time.
const SHARE: u64 = 16;
/// The bucket, in nanoseconds of looks.
const ROOM_NS: u64 = 40_000_000;
/// Of one look: in what is above that its thread wasn't running.
const MOST_NS: u64 = 1_000_000;

/// One for all threads of a process. Who draws at the same time as another may draw a little too much.
#[derive(Debug)]
pub(super) struct Budget {
    /// When the bucket will be empty, CLOCK_MONOTONIC in nanoseconds.
    empty_at_ns: AtomicU64,
}

impl Budget {
    pub(super) const fn new() -> Self {
        Self {
            empty_at_ns: AtomicU64::new(0),
        }
    }

    /// Whether there is time for a look.
    pub(super) fn allows(&self, now_ns: u64) -> bool {
        let empty_at_ns = self.empty_at_ns.load(Ordering::Relaxed);
        empty_at_ns.saturating_sub(now_ns) < ROOM_NS * SHARE
    }

    /// A look took the time from `began_ns` to `ended_ns`.
    pub(super) fn spend(&self, began_ns: u64, ended_ns: u64) {
        let took_ns = ended_ns.saturating_sub(began_ns).min(MOST_NS);
        let empty_at_ns = self.empty_at_ns.load(Ordering::Relaxed).max(ended_ns);
        let empty_at_ns = empty_at_ns.saturating_add(SHARE * took_ns);
        self.empty_at_ns.store(empty_at_ns, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dozens_of_connections_at_once_are_looked_at_and_then_a_sixteenth_of_the_time() {
        const LOOK_NS: u64 = 150_000;
        let budget = Budget::new();
        // As fast as they may: each begins when the one before has ended.
        let mut now_ns = 1_000_000_000;
        let mut at_once = 0;
        while budget.allows(now_ns) {
            budget.spend(now_ns, now_ns + LOOK_NS);
            now_ns += LOOK_NS;
            at_once += 1;
        }
        assert!((250..300).contains(&at_once), "{at_once}");
        let (began_ns, mut taken) = (now_ns, 0);
        while now_ns < began_ns + 10_000_000_000 {
            if budget.allows(now_ns) {
                budget.spend(now_ns, now_ns + LOOK_NS);
                taken += 1;
            }
            now_ns += LOOK_NS;
        }
        let share = 10_000_000_000 / (taken * LOOK_NS);
        assert!((15..=17).contains(&share), "{share}");
    }

    #[test]
    fn a_thread_that_was_kept_from_running_does_not_use_it_up() {
        let budget = Budget::new();
        for _ in 0..10 {
            assert!(budget.allows(1_000));
            budget.spend(0, 1_000);
            budget.spend(0, 1_000 + 3 * MOST_NS);
        }
        budget.spend(10, 5);
        budget.spend(0, u64::MAX);
        assert!(budget.allows(u64::MAX));
    }
}
