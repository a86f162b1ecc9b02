//! From the mirrored processes' CLOCK_MONOTONIC to wall time.
//!
//! The offset between the two clocks moves: NTP disciplines the wall clock, people set it. Packets
//! of one capture must not go back in time for that, so the offset is *slewed*: it approaches what
//! was last measured by at most [`MAX_SLEW_PPM`]. Only forward, and only when the wall clock is more
//! than [`STEP_AFTER_NS`] ahead (CLOCK_MONOTONIC stands still while a machine is suspended), it
//! steps. The core is pure; [`monotonic_now`] and [`wall_now`] are where time comes from.

use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::event::{MonotonicTime, WallTime};

/// How fast the offset may change: 500 parts per million, as adjtime(3) has it.
pub const MAX_SLEW_PPM: i128 = 500;
/// A wall clock this far ahead is followed at once.
pub const STEP_AFTER_NS: i128 = 1_000_000_000;

/// Maps [`MonotonicTime`] to [`WallTime`].
#[derive(Clone, Debug)]
pub struct Clock {
    /// From here on the offset moves from `offset` towards `target`.
    since: MonotonicTime,
    /// Wall time minus monotonic time at `since`, in nanoseconds.
    offset: i128,
    /// Where it moves.
    target: i128,
}

impl Clock {
    /// A clock from one reading of both.
    pub fn new(monotonic: MonotonicTime, wall: WallTime) -> Self {
        let offset = i128::from(wall.0) - i128::from(monotonic.0);
        Self {
            since: monotonic,
            offset,
            target: offset,
        }
    }

    /// A clock from a reading of the machine's.
    pub fn start() -> Self {
        Self::new(monotonic_now(), wall_now())
    }

    /// Takes another reading of both clocks; once a second is enough.
    pub fn adjust(&mut self, monotonic: MonotonicTime, wall: WallTime) {
        let now = monotonic.max(self.since);
        let measured = i128::from(wall.0) - i128::from(monotonic.0);
        let current = self.offset_at(now);
        self.since = now;
        self.target = measured;
        self.offset = if measured - current > STEP_AFTER_NS {
            measured
        } else {
            current
        };
    }

    /// The wall time of an event. An event of before the last adjustment gets the offset as it was
    /// then: the mapping never runs backwards.
    pub fn wall(&self, at: MonotonicTime) -> WallTime {
        let wall = i128::from(at.0) + self.offset_at(at);
        WallTime(u64::try_from(wall.max(0)).unwrap_or(u64::MAX))
    }

    fn offset_at(&self, at: MonotonicTime) -> i128 {
        let elapsed = i128::from(at.0.saturating_sub(self.since.0));
        let reach = elapsed * MAX_SLEW_PPM / 1_000_000;
        self.offset + (self.target - self.offset).clamp(-reach, reach)
    }
}

/// CLOCK_MONOTONIC now.
pub fn monotonic_now() -> MonotonicTime {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    MonotonicTime(seconds * 1_000_000_000 + nanoseconds)
}

/// The wall clock now.
pub fn wall_now() -> WallTime {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    WallTime(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_steady_clock_is_exact() {
        let mut clock = Clock::new(MonotonicTime(5), WallTime(1_000_005));
        assert_eq!(clock.wall(MonotonicTime(7)), WallTime(1_000_007));
        clock.adjust(MonotonicTime(SECOND), WallTime(SECOND + 1_000_000));
        assert_eq!(
            clock.wall(MonotonicTime(2 * SECOND)),
            WallTime(2 * SECOND + 1_000_000)
        );
    }

    #[test]
    fn a_wall_clock_set_back_is_approached_slowly() {
        let base = 1_000 * SECOND;
        let mut clock = Clock::new(MonotonicTime(0), WallTime(base));
        clock.adjust(MonotonicTime(SECOND), WallTime(base)); // one second back
        let later = clock.wall(MonotonicTime(2 * SECOND));
        assert_eq!(later, WallTime(base + 2 * SECOND - 500_000));
        let caught_up = clock.wall(MonotonicTime(3_000 * SECOND));
        assert_eq!(caught_up, WallTime(base + 2_999 * SECOND));
    }

    #[test]
    fn after_a_suspension_it_steps_forward() {
        let base = 1_000 * SECOND;
        let mut clock = Clock::new(MonotonicTime(0), WallTime(base));
        clock.adjust(MonotonicTime(SECOND), WallTime(base + 3_600 * SECOND));
        assert_eq!(
            clock.wall(MonotonicTime(SECOND)),
            WallTime(base + 3_600 * SECOND)
        );
    }

    proptest! {
        /// Whatever the wall clock does, later events never get earlier times.
        #[test]
        fn never_back(
            start in 0u64..1 << 50,
            steps in prop::collection::vec((1u64..10 * SECOND, any::<u64>()), 1..50),
        ) {
            let mut now = start;
            let mut clock = Clock::new(MonotonicTime(now), WallTime(1 << 60));
            let mut last = clock.wall(MonotonicTime(now));
            for (step, wall) in steps {
                now += step / 2;
                let before = clock.wall(MonotonicTime(now));
                prop_assert!(before >= last);
                clock.adjust(MonotonicTime(now), WallTime(wall));
                let after = clock.wall(MonotonicTime(now));
                prop_assert!(after >= before);
                now += step - step / 2;
                last = after;
            }
        }
    }
}
