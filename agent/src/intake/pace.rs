//! How long the rings are left alone between two looks at them.
//!
//! A look at a ring takes a cache line from the application that writes there, and reading it in small
//! pieces does so with every record; and each time the agent wakes, some application loses its processor. So rings
//! are read until little is left, and then left alone until about [`TARGET_BYTES`] should have come.

use std::time::Duration;

/// What one look should find.
const TARGET_BYTES: u64 = 512 * 1024;
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(super) struct Pace {
    pause: Duration,
    /// Read since the last pause.
    found_bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pause: LONGEST,
            found_bytes: 0,
        }
    }
}

impl Pace {
    /// So much was read. Whether there may be enough by now for another look at once; of a ring of
    /// `capacity` bytes no more than a part is left to fill.
    pub(super) fn found(&mut self, bytes: u64, capacity: u64) -> bool {
        self.found_bytes += bytes;
        bytes >= target(capacity) / 2
    }

    /// How long to wait now.
    pub(super) fn pause(&mut self, capacity: u64) -> Duration {
        let found = std::mem::take(&mut self.found_bytes);
        let target = target(capacity);
        if found > 2 * target {
            self.pause /= 2;
        } else if found < target / 2 {
            self.pause *= 2;
        }
        self.pause = self.pause.clamp(SHORTEST, LONGEST);
        self.pause
    }
}

fn target(capacity: u64) -> u64 {
    TARGET_BYTES.min(capacity / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_shortens_the_pause_and_little_makes_it_long_again() {
        let mut pace = Pace::default();
        let mut pauses = Vec::new();
        for bytes in [4 << 20; 6].into_iter().chain([100; 6]) {
            pace.found(bytes, 16 << 20);
            pauses.push(pace.pause(16 << 20).as_micros());
        }
        assert_eq!(
            pauses,
            [
                1000, 500, 250, 125, 100, 100, 200, 400, 800, 1600, 2000, 2000
            ]
        );
    }

    #[test]
    fn another_look_follows_where_much_was_found() {
        let mut pace = Pace::default();
        assert!(pace.found(TARGET_BYTES, 16 << 20));
        assert!(!pace.found(1000, 16 << 20));
        assert!(pace.found(8 << 10, 64 << 10));
    }
}
