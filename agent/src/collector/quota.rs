//! How much an agent may send.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;

/// Time's worth of bytes that may come at once.
const BURST: Duration = Duration::from_millis(100);

/// A limit for all connections of one agent.
#[derive(Debug)]
pub(super) struct Quota {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    bits_per_s: Option<u64>,
    /// What came until now is paid for then.
    free_at: Option<Instant>,
}

impl Quota {
    pub(super) fn new(bits_per_s: Option<u64>) -> Self {
        Self {
            state: Mutex::new(State {
                bits_per_s,
                free_at: None,
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn set(&self, bits_per_s: Option<u64>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.bits_per_s = bits_per_s;
        state.free_at = None;
        drop(state);
        self.changed.notify_waiters();
    }

    /// `bytes` have come. Waits until more may be read, or until another quota holds: then what came is paid for.
    /// Returns how long that took.
    pub(super) async fn pay(&self, bytes: u32) -> Duration {
        // From here on a change is noticed.
        let changed = self.changed.notified();
        let begin = Instant::now();
        let wait = self.take(bytes, begin);
        if wait.is_zero() {
            return wait;
        }
        tokio::select! {
            () = sleep(wait) => {}
            () = changed => {}
        }
        begin.elapsed()
    }

    /// `bytes` have come. Returns how long no more may be read.
    fn take(&self, bytes: u32, now: Instant) -> Duration {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(rate) = state.bits_per_s else {
            return Duration::ZERO;
        };
        #[allow(clippy::cast_precision_loss, reason = "a rate needs no more digits")]
        let takes = Duration::from_secs_f64(f64::from(bytes) * 8.0 / rate.max(1) as f64);
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        let free_at = state.free_at.map_or(earliest, |free| free.max(earliest)) + takes;
        state.free_at = Some(free_at);
        free_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_kept_over_time_whatever_the_pieces() {
        let (start, quota) = (Instant::now(), Quota::new(Some(8_000_000)));
        assert_eq!(Quota::new(None).take(u32::MAX, start), Duration::ZERO);
        let mut now = start;
        for bytes in [100_000, 1, 250_000, 50_000, 599_999] {
            now += quota.take(bytes, now);
        }
        // A million bytes take a second, of which a tenth is for nothing.
        assert_eq!((now - start).as_millis(), 900);
        now += Duration::from_secs(100);
        assert_eq!(
            quota.take(100_000, now),
            Duration::ZERO,
            "no more is saved up"
        );
        assert!(quota.take(100_000, now) > Duration::ZERO);
        quota.set(None);
        assert_eq!(quota.take(u32::MAX, now), Duration::ZERO);
    }

    #[test]
    fn who_waits_hears_of_another_quota() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        // For so much it would wait for 34 years.
        let quota = Quota::new(Some(1));
        let both = async { tokio::join!(quota.pay(1 << 27), async { quota.set(Some(2)) }) };
        let (waited, ()) = runtime.block_on(async {
            tokio::time::timeout(Duration::from_secs(60), both)
                .await
                .expect("the change to be noticed")
        });
        assert!(waited < Duration::from_secs(60));
    }
}
