//! A limit for how fast packets go out.

use std::time::{Duration, Instant};

/// Time's worth of packets that may go out at once under a limit: longer than a timer is late.
const BURST: Duration = Duration::from_millis(5);

/// A limit for the bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    bits_per_s: f64,
}

impl Pace {
    /// At most so many bits in a second, on average over a few packets; from 10^6, where one takes 12 ms, to
    /// 10^12.
    pub fn bits_per_s(bits_per_s: f64) -> Option<Self> {
        (1e6..=1e12)
            .contains(&bits_per_s)
            .then_some(Self { bits_per_s })
    }

    fn time(self, bytes: usize) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "a batch has few bytes")]
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_s)
    }
}

/// What keeps a limit, if there is one.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Option<Pace>,
    /// When the wire is free again.
    free_at: Instant,
}

impl Pacer {
    /// For a wire that is free now.
    pub(super) fn new(pace: Option<Pace>) -> Self {
        Self {
            pace,
            free_at: Instant::now(),
        }
    }

    /// How many of these packets, given by their bytes, may go out at once: one at least.
    pub(super) fn burst(&self, packets: impl Iterator<Item = usize>) -> usize {
        let Some(pace) = self.pace else {
            return packets.count().max(1);
        };
        let sums = packets.scan(0, |sum, bytes| {
            *sum += bytes;
            Some(*sum)
        });
        let fits = sums.take_while(|sum| pace.time(*sum) <= BURST).count();
        fits.max(1)
    }

    /// Waits until the wire is free.
    pub(super) fn wait(&self) {
        let early = self.free_at.saturating_duration_since(Instant::now());
        if self.pace.is_some() && !early.is_zero() {
            std::thread::sleep(early);
        }
    }

    /// `bytes` that were sent keep the wire busy for a while.
    pub(super) fn sent(&mut self, bytes: usize) {
        if let Some(pace) = self.pace {
            let now = Instant::now();
            let earliest = now.checked_sub(BURST).unwrap_or(now);
            self.free_at = self.free_at.max(earliest) + pace.time(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let pace = |bits| Pace::bits_per_s(bits);
        assert_eq!(pace(8e6).unwrap().time(1000), Duration::from_millis(1));
        assert_eq!(pace(1e9).unwrap().time(1514), Duration::from_nanos(12_112));
        for bad in [0.0, 9e5, 1.1e12, f64::NAN, f64::INFINITY, -1e6] {
            assert_eq!(pace(bad), None, "{bad}");
        }
    }

    #[test]
    fn bursts_are_short() {
        let burst = |pace, packets: &[usize]| Pacer::new(pace).burst(packets.iter().copied());
        let pace = Pace::bits_per_s(8e6);
        assert_eq!(burst(None, &[1500; 64]), 64);
        assert_eq!(burst(pace, &[1000; 64]), 5);
        assert_eq!(burst(pace, &[6000, 1]), 1);
        assert_eq!(burst(pace, &[100]), 1);
    }

    /// The wire is busy for as long as its bytes take, less what may go out at once.
    #[test]
    fn the_wire_is_busy() {
        let begin = Instant::now();
        let mut pacer = Pacer::new(Pace::bits_per_s(8e6));
        for _ in 0..10 {
            pacer.wait();
            pacer.sent(2_000);
        }
        pacer.wait();
        assert!(begin.elapsed() >= Duration::from_millis(20) - BURST);
    }
}
