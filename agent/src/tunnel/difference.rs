//! How far the collector's clock is from this host's. Pure.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

/// So many exchanges are remembered: about a minute and a half of pings.
const SAMPLES: usize = 16;

/// Estimates a clock's difference from exchanges of time. What an exchange tells is wrong by half its duration at
/// most, so that the shortest of the last ones is believed (as NTP does, RFC 5905 10).
#[derive(Debug, Default)]
pub(super) struct DifferenceFilter {
    samples: VecDeque<ClockDifference>,
}

/// A difference between two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockDifference {
    /// So many nanoseconds the collector's clock is ahead.
    pub ahead_ns: i64,
    /// The estimate may be wrong by so many nanoseconds.
    pub uncertain_ns: u64,
}

impl fmt::Display for ClockDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        let direction = match self.ahead_ns < 0 {
            true => "behind",
            false => "ahead",
        };
        let ahead = seconds(self.ahead_ns.unsigned_abs());
        let uncertain = seconds(self.uncertain_ns);
        write!(f, "{ahead:.3} s {direction} (± {uncertain:.3} s)")
    }
}

impl DifferenceFilter {
    /// Takes an exchange: our clock when the question left and when the answer came, and theirs in between, in
    /// nanoseconds. One that can't be (our clock was set back) is left out.
    pub(super) fn add(&mut self, sent_ns: u64, answered_ns: u64, received_ns: u64) {
        let Some(duration) = received_ns.checked_sub(sent_ns) else {
            return;
        };
        let ours = i128::from(sent_ns) + i128::from(duration / 2);
        let Ok(ahead_ns) = i64::try_from(i128::from(answered_ns) - ours) else {
            return;
        };
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(ClockDifference {
            ahead_ns,
            uncertain_ns: duration.div_ceil(2),
        });
    }

    /// The best estimate so far.
    pub(super) fn best(&self) -> Option<ClockDifference> {
        let newest_first = self.samples.iter().rev();
        newest_first
            .min_by_key(|sample| sample.uncertain_ns)
            .copied()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_shortest_exchange_is_believed() {
        let mut filter = DifferenceFilter::default();
        assert_eq!(filter.best(), None);
        filter.add(1_000, 6_500, 2_000);
        filter.add(3_000, 9_000, 9_000);
        let best = ClockDifference {
            ahead_ns: 5_000,
            uncertain_ns: 500,
        };
        assert_eq!(filter.best(), Some(best));
        // It is forgotten in time: clocks drift.
        (0..16).for_each(|_| filter.add(10_000, 10_000, 14_000));
        assert_eq!(filter.best().map(|best| best.ahead_ns), Some(-2_000));
        // Our clock went back.
        filter.add(20_000, 20_000, 19_000);
        assert_eq!(filter.best().map(|best| best.uncertain_ns), Some(2_000));
    }

    proptest! {
        #[test]
        fn the_truth_is_within_what_is_uncertain(
            ahead in -1_000_000_000_000_i64..1_000_000_000_000,
            exchanges in prop::collection::vec((0..1_000_000_000_u64, 0..1_000_000_000_u64), 1..40),
        ) {
            let mut filter = DifferenceFilter::default();
            let mut now = 1_800_000_000_000_000_000_u64;
            for (there, back) in exchanges {
                let answered = (now + there).checked_add_signed(ahead).unwrap();
                filter.add(now, answered, now + there + back);
                now += there + back;
            }
            let best = filter.best().unwrap();
            prop_assert!((best.ahead_ns - ahead).unsigned_abs() <= best.uncertain_ns + 1);
        }
    }
}
