//! A thread that speaks to a broker, and that goes on whatever the broker says.
//!
//! The client library (async-nats) panics on some of it: on `-ERR` without a text, or on a message said to be nearly 2^64
//! bytes long. It reads in a task of its own, which then ends, and nobody hears of it but who waits for answers. So: what
//! may panic is told from what has ended, counted and said; another life begins, after a while that grows.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;
use std::thread;
use std::time::{Duration, Instant};

use super::connect::random;
use super::notices::{Notices, foreign};

/// What such a thread is called.
const NAME: &str = "broker";
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// Longest that is waited between attempts.
pub(super) const MAX_DELAY: Duration = Duration::from_secs(5);
/// What holds for so long works.
const HELD: Duration = Duration::from_secs(10);

/// How a life has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It was to end.
    Over,
    /// What it needs has gone: another one is to begin.
    Failed,
}

thread_local! {
    /// What the last panic of this thread said.
    static PANIC: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Lives one after the other, in a thread with a runtime, until one is over. `failed` hears of each that wasn't to end.
///
/// # Panics
/// If the system has no more threads.
pub(super) fn start<F: Future<Output = Life>>(
    notices: Notices,
    failed: impl Fn() + Send + 'static,
    mut life: impl FnMut() -> F + Send + 'static,
) -> thread::JoinHandle<()> {
    catch_words();
    let lives = move || {
        // Nothing of a life is used in the next one but what locks and counters guard.
        let mut one = || {
            catch_unwind(AssertUnwindSafe(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("the system has what a runtime needs");
                let ended = runtime.block_on(life());
                // A look for a server's address may take long, and nobody waits for it any more.
                runtime.shutdown_background();
                ended
            }))
        };
        loop {
            match one() {
                Ok(Life::Over) => return,
                Ok(Life::Failed) => {}
                Err(_) => {
                    let words = words_of_panic();
                    notices.say(format!(
                        "what speaks to the broker has failed ({words}): beginning anew"
                    ));
                    // The next one may fail before it waits for anything.
                    thread::sleep(FIRST_DELAY);
                }
            }
            failed();
        }
    };
    let thread = thread::Builder::new().name(NAME.into()).spawn(lives);
    thread.expect("the system has threads")
}

/// What the last panic of this thread said, and where.
pub(super) fn words_of_panic() -> String {
    PANIC.with_borrow_mut(|panic| match panic.is_empty() {
        true => "without a word".into(),
        false => std::mem::take(panic),
    })
}

/// Panics of these threads go to who says what is wrong, not to standard error: a broker may cause them as often as it
/// likes, with words of its own in them.
fn catch_words() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic: &PanicHookInfo<'_>| {
            if thread::current().name() != Some(NAME) {
                return others(panic);
            }
            let words = panic.payload_as_str().unwrap_or("no text");
            let place = panic.location().map(|place| {
                let file = place.file().rsplit('/').next().unwrap_or_default();
                format!(" at {file}:{}", place.line())
            });
            let words = foreign(words) + &place.unwrap_or_default();
            PANIC.with_borrow_mut(|panic| *panic = words);
        }));
    });
}

/// How long to wait before an attempt: longer each time, unless what the last one has brought has held. That it
/// began well isn't enough: it may fail right afterwards, each time.
#[derive(Debug)]
pub(super) struct Brake {
    next: Duration,
    works_since: Option<Instant>,
    failures: u32,
}

impl Brake {
    pub(super) fn new() -> Self {
        Self {
            next: FIRST_DELAY,
            works_since: None,
            failures: 0,
        }
    }

    /// It works, as far as is known.
    pub(super) fn works(&mut self, now: Instant) {
        self.works_since.get_or_insert(now);
    }

    /// It has worked for long enough.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let held = |since| now.saturating_duration_since(since) >= HELD;
        self.works_since.is_some_and(held)
    }

    /// It doesn't work any more, or still not. Returns how often that was since it held the last time.
    pub(super) fn failed(&mut self, now: Instant) -> u32 {
        if self.holds(now) {
            *self = Self::new();
        }
        self.works_since = None;
        self.failures = self.failures.saturating_add(1);
        self.failures
    }

    /// How often it has failed since it held the last time.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// How long to wait before the next attempt; not as long as others do.
    pub(super) fn delay(&mut self) -> Duration {
        let share = f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX);
        let delay = self.next.mul_f64(0.5 + share / 2.0);
        self.next = (self.next * 2).min(MAX_DELAY);
        delay
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn what_begins_well_and_fails_is_waited_for_longer_each_time() {
        let (mut brake, mut now) = (Brake::new(), Instant::now());
        let mut delays = Vec::new();
        for failures in 1..=20 {
            brake.works(now);
            now += HELD / 2;
            // That it still works doesn't begin it anew.
            brake.works(now);
            assert_eq!(brake.failed(now), failures);
            delays.push(brake.delay());
        }
        assert!(delays[0] >= FIRST_DELAY / 2 && delays[0] <= FIRST_DELAY);
        assert!(delays[5] >= 16 * FIRST_DELAY, "{delays:?}");
        assert!(delays[10..].iter().all(|delay| *delay >= MAX_DELAY / 2));
        brake.works(now);
        now += HELD;
        assert!(brake.holds(now));
        assert_eq!(brake.failed(now), 1);
        assert!(brake.delay() <= FIRST_DELAY);
    }

    #[test]
    fn a_life_that_panics_is_followed_by_another_one() {
        let notices = Notices::default();
        let failures = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&failures);
        let mut lives = 0;
        let failed = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let thread = start(notices.clone(), failed, move || {
            lives += 1;
            async move {
                match lives {
                    1 => panic!("words\u{1b} of a broker"),
                    2 => Life::Failed,
                    _ => Life::Over,
                }
            }
        });
        thread.join().unwrap();
        assert_eq!(failures.load(Ordering::Relaxed), 2);
        let said = notices.take();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(
            said[0].contains("(words\\u{1b} of a broker at life.rs:"),
            "{said:?}"
        );
    }
}
