//! How long to wait before another attempt. Pure: the caller gives the randomness.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const MOST: Duration = Duration::from_secs(30);

/// Waits that double, from 0.1 to 30 seconds, each shortened by chance by up to its half: many agents of one
/// collector don't come back at once.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// How long to wait now.
    pub(super) fn wait(&mut self, random: u32) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(MOST);
        let shorter = f64::from(random) / f64::from(u32::MAX) / 2.0;
        wait.mul_f64(1.0 - shorter)
    }

    /// Trying again soon is of no use.
    pub(super) fn slow_down(&mut self) {
        self.next = MOST;
    }

    /// A connection has held.
    pub(super) fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let mut backoff = Backoff::default();
        let waits: Vec<_> = (0..12).map(|_| backoff.wait(0).as_millis()).collect();
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [30_000; 3]);
        backoff.reset();
        assert_eq!(backoff.wait(u32::MAX).as_millis(), 50);
        backoff.slow_down();
        assert_eq!(backoff.wait(u32::MAX).as_secs(), 15);
    }
}
