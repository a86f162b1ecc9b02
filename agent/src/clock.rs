//! From the mirrored processes' CLOCK_MONOTONIC to wall time.
//!
//! The offset between the two clocks moves: NTP disciplines the wall clock, people set it. Packets
//! of one capture must not go back in time for that, so the offset is *slewed*: it approaches what
//! was last measured by at most [`MAX_SLEW_PPM`]. A wall clock that was set back by more than
//! [`STEP_NS`] is approached at half speed instead: times go on, each later than the one before, until both
//! agree again after twice the difference. Only forward, and only when the wall clock is as far ahead
//! (CLOCK_MONOTONIC stands still while a machine is suspended), it steps. Whoever reads the clocks is told of
//! a [`Step`], once. The core is pure; [`monotonic_now`] and [`wall_now`] are where time comes from.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::event::{MonotonicTime, WallTime};

/// How fast the offset may change: 500 parts per million, as adjtime(3) has it.
pub const MAX_SLEW_PPM: i128 = 500;
/// A wall clock that was set back farther than [`STEP_NS`] is approached as fast as this: at half speed.
pub const BACK_SLEW_PPM: i128 = 500_000;
/// A wall clock that moves so far between two readings was set. One so far ahead is followed at once.
pub const STEP_NS: i128 = 1_000_000_000;

/// The wall clock was set. Shown with what that means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// By so many nanoseconds; below 0: back.
    pub by_ns: i128,
    /// So far it is ahead of packets' times since then, in nanoseconds; below 0: behind them. Where it was set before,
    /// that isn't the same.
    pub ahead_ns: i128,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by = seconds(self.by_ns);
        match self.by_ns < 0 {
            true => write!(f, "the machine's clock was set back by {by} s: ")?,
            false => write!(
                f,
                "the machine's clock was set forward by {by} s, or the machine has slept: "
            )?,
        }
        let ahead = seconds(self.ahead_ns);
        if self.ahead_ns > STEP_NS {
            write!(f, "packets' times go forward by {ahead} s, too")
        } else if self.ahead_ns < -STEP_NS {
            write!(
                f,
                "packets' times never go back; {ahead} s ahead of it now, they go on at half speed for {} s until both \
                 agree (a restart has them agree at once)",
                seconds(2 * self.ahead_ns)
            )
        } else {
            f.write_str("packets' times are within 1 s of it and come nearer bit by bit")
        }
    }
}

/// So many nanoseconds, back or forward, as seconds with at most one decimal.
fn seconds(ns: i128) -> String {
    let tenths = ns.unsigned_abs() / 100_000_000;
    match tenths % 10 {
        0 => format!("{}", tenths / 10),
        part => format!("{}.{part}", tenths / 10),
    }
}

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

    /// Takes another reading of both clocks; once a second is enough. Tells if the wall clock was set since the last
    /// one.
    pub fn adjust(&mut self, monotonic: MonotonicTime, wall: WallTime) -> Option<Step> {
        let now = monotonic.max(self.since);
        let measured = i128::from(wall.0) - i128::from(monotonic.0);
        let current = self.offset_at(now);
        let step = measured - self.target;
        self.since = now;
        self.target = measured;
        let ahead = measured - current;
        self.offset = if ahead > STEP_NS { measured } else { current };
        (step.abs() > STEP_NS).then_some(Step {
            by_ns: step,
            ahead_ns: ahead,
        })
    }

    /// The wall time of an event. An event of before the last adjustment gets the offset as it was
    /// then: the mapping never runs backwards.
    pub fn wall(&self, at: MonotonicTime) -> WallTime {
        let wall = i128::from(at.0) + self.offset_at(at);
        WallTime(u64::try_from(wall.max(0)).unwrap_or(u64::MAX))
    }

    fn offset_at(&self, at: MonotonicTime) -> i128 {
        let elapsed = i128::from(at.0.saturating_sub(self.since.0));
        let difference = self.target - self.offset;
        let reach = |ppm: i128| elapsed * ppm / 1_000_000;
        if difference < -STEP_NS {
            // What is left of it later is less than a step.
            return self.offset - reach(BACK_SLEW_PPM).min(-difference);
        }
        self.offset + difference.clamp(-reach(MAX_SLEW_PPM), reach(MAX_SLEW_PPM))
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

    /// Packets' times agreed with the clock before.
    fn both(ns: i128) -> Step {
        Step {
            by_ns: ns,
            ahead_ns: ns,
        }
    }

    /// What a step means for packets' times isn't told by the step alone.
    #[test]
    fn a_wall_clock_that_is_set_twice() {
        let base = 1_000_000 * SECOND;
        let mut clock = Clock::new(MonotonicTime(0), WallTime(base));
        let mut set = |to: u64| {
            let step = clock.adjust(MonotonicTime(0), WallTime(to));
            step.unwrap().to_string()
        };
        set(base - 100 * SECOND);
        let said = set(base - 101 * SECOND - SECOND / 2);
        assert!(said.contains("set back by 1.5 s: "), "{said}");
        assert!(
            said.contains("; 101.5 s ahead of it now, they go on at half speed for 203 s until"),
            "{said}"
        );
        let said = set(base - 40 * SECOND);
        assert!(said.contains("set forward by 61.5 s, "), "{said}");
        assert!(said.contains("; 40 s ahead of it now, they"), "{said}");
        let said = set(base);
        assert!(said.contains("set forward by 40 s, "), "{said}");
        assert!(said.contains("within 1 s of it"), "{said}");
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
    fn a_wall_clock_set_far_back_is_met_at_half_speed() {
        let (base, hour) = (1_000_000 * SECOND, 3_600 * SECOND);
        let mut clock = Clock::new(MonotonicTime(0), WallTime(base));
        let wall = |seconds: u64| WallTime(base + seconds * SECOND - hour);
        let step = clock.adjust(MonotonicTime(SECOND), wall(1));
        assert_eq!(step, Some(both(-i128::from(hour))));
        assert_eq!(
            step.unwrap().to_string(),
            "the machine's clock was set back by 3600 s: packets' times never go back; 3600 s ahead of it now, they go \
             on at half speed for 7200 s until both agree (a restart has them agree at once)"
        );
        let mut last = clock.wall(MonotonicTime(SECOND));
        for seconds in 2..=7_201 {
            let now = MonotonicTime(seconds * SECOND);
            let before = clock.wall(now);
            assert_eq!(clock.adjust(now, wall(seconds)), None, "told once");
            assert_eq!(clock.wall(now), before);
            assert!(before.0 >= last.0 + SECOND / 2);
            last = before;
        }
        // Twice the difference later they agree, but for what is slewed as ever.
        let ahead = last.0 - wall(7_201).0;
        assert!(ahead <= SECOND, "{ahead} ns ahead");
    }

    #[test]
    fn after_a_suspension_it_steps_forward() {
        let base = 1_000 * SECOND;
        let mut clock = Clock::new(MonotonicTime(0), WallTime(base));
        let step = clock.adjust(MonotonicTime(SECOND), WallTime(base + 3_600 * SECOND));
        assert_eq!(step, Some(both(3_599 * i128::from(SECOND))));
        assert_eq!(
            step.unwrap().to_string(),
            "the machine's clock was set forward by 3599 s, or the machine has slept: packets' times go forward by \
             3599 s, too"
        );
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
