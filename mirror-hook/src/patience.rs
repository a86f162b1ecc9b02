//! Waiting where the ring is full, for debugging: what finds no room is dropped, unless the program was
//! started by `sslcollector run --on-full wait:MS`. Both must say so: the program's environment, which
//! bounds the time for good, and the agent in the ring's `wait_ms`, which it may take back.
//!
//! Ends, at the latest, when the time is over that one call may take. At once when the agent has left
//! or died. An agent that frees nothing in all that time is waited for no more until it does: a stalled
//! one costs one wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::thread::{NanosleepRelativeResult, nanosleep};

use crate::layout::{STATE_READY, control};
use crate::process::now_ns;
use crate::ring::{Memory, Producer};

/// The first sleep; each one is twice as long as the one before.
const FIRST_SLEEP: Duration = Duration::from_micros(50);
/// The longest sleep: how late the end of the agent or room in the ring is seen.
const LAST_SLEEP: Duration = Duration::from_millis(1);

/// No tail: positions are multiples of 8.
const NEVER: u64 = u64::MAX;

/// How long the calls of a process wait for room in its ring.
#[derive(Debug)]
pub(crate) struct Patience {
    most_ms: u32,
    /// The tail at the end of the last wait that was in vain.
    given_up_at: AtomicU64,
}

/// What one call has waited so far.
#[derive(Debug, Default)]
pub(crate) struct Wait {
    until_ns: Option<u64>,
}

impl Patience {
    /// Waits for at most `most_ms` a call; 0: never.
    pub(crate) fn new(most_ms: u32) -> Self {
        Self {
            most_ms,
            given_up_at: AtomicU64::new(NEVER),
        }
    }

    /// Whether anything is waited for at all.
    pub(crate) fn may_wait(&self) -> bool {
        self.most_ms != 0
    }

    /// Sleeps until `fits` says so. False: it isn't waited for, or was waited for in vain.
    pub(crate) fn wait<M: Memory>(
        &self,
        producer: &Producer<M>,
        fits: impl Fn() -> bool,
        wait: &mut Wait,
    ) -> bool {
        if !self.may_wait() {
            return false;
        }
        let memory = producer.memory();
        let tail = || memory.load_u64(control::TAIL, Ordering::Relaxed);
        let mut sleep = FIRST_SLEEP;
        loop {
            // Asked again each time: an agent that takes it back, or dies, is waited for no more.
            let most_ms = self.allowed_ms(producer);
            if most_ms == 0 || self.given_up_at.load(Ordering::Relaxed) == tail() {
                return false;
            }
            if fits() {
                return true;
            }
            let now = now_ns();
            let until = *wait
                .until_ns
                .get_or_insert(now.saturating_add(u64::from(most_ms) * 1_000_000));
            let left = Duration::from_nanos(until.saturating_sub(now));
            if left.is_zero() || !slept(sleep.min(left)) {
                self.given_up_at.store(tail(), Ordering::Relaxed);
                return false;
            }
            sleep = (sleep * 2).min(LAST_SLEEP);
        }
    }

    /// How long a call may wait by what both say.
    fn allowed_ms<M: Memory>(&self, producer: &Producer<M>) -> u32 {
        if producer.detached() {
            return 0;
        }
        let memory = producer.memory();
        match memory.load_u32(control::STATE, Ordering::Acquire) {
            STATE_READY => self
                .most_ms
                .min(memory.load_u32(control::WAIT_MS, Ordering::Relaxed)),
            // It has promised the ring and hasn't looked at it yet.
            _ => self.most_ms,
        }
    }
}

/// A signal's handler has run when a sleep ends early: that is no reason to drop text. False: there is
/// no sleeping here, say because of a seccomp filter. The bare system call, which is no point at which
/// a thread can be cancelled.
fn slept(time: Duration) -> bool {
    let Ok(time) = time.try_into() else {
        return false;
    };
    matches!(
        nanosleep(&time),
        NanosleepRelativeResult::Ok | NanosleepRelativeResult::Interrupted(_)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{BOOTSTRAP_BYTES, MAX_PAYLOAD, OWNER_DIED, STATE_DETACHED, kind};
    use crate::ring::{Consumer, HeapMemory, Next, Record, RecordBuffer, Refused};

    const RING: usize = 64 * 1024;
    /// Longer than any test is let run: whoever waits to its end is seen.
    const LONG_MS: u32 = u32::MAX;

    fn write(producer: &Producer<&HeapMemory>) -> Result<(), Refused> {
        let record = Record {
            kind: kind::DATA,
            flags: 0,
            connection: 1,
            at_ns: 0,
        };
        producer.write(record, &[&[0; 8], &[1; MAX_PAYLOAD]])
    }

    /// A ring that is full and whose agent allows waits of `wait_ms`.
    fn full(memory: &HeapMemory, wait_ms: u32) -> (Producer<&HeapMemory>, Consumer<&HeapMemory>) {
        let producer = Producer::promised(memory, BOOTSTRAP_BYTES).unwrap();
        let consumer = Consumer::new(memory, BOOTSTRAP_BYTES).unwrap();
        memory.store_u32(control::WAIT_MS, wait_ms, Ordering::Relaxed);
        consumer.grant();
        while write(&producer).is_ok() {}
        (producer, consumer)
    }

    fn fits(producer: &Producer<&HeapMemory>) -> bool {
        producer.fits(8 + MAX_PAYLOAD)
    }

    fn waits(patience: &Patience, producer: &Producer<&HeapMemory>) -> (bool, bool) {
        let mut wait = Wait::default();
        let room = patience.wait(producer, || fits(producer), &mut wait);
        (room, wait.until_ns.is_some())
    }

    /// Waits, and does `change` after some time.
    fn waits_for(memory: &HeapMemory, change: impl FnOnce() + Send) -> (bool, bool) {
        let producer = Producer::promised(memory, BOOTSTRAP_BYTES).unwrap();
        let patience = Patience::new(LONG_MS);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| waits(&patience, &producer));
            std::thread::sleep(Duration::from_millis(20));
            change();
            waiter.join().unwrap()
        })
    }

    #[test]
    fn waits_only_where_both_say_so() {
        let memory = HeapMemory::new(RING);
        let (producer, _consumer) = full(&memory, 0);
        assert_eq!(waits(&Patience::new(LONG_MS), &producer), (false, false));
        let memory = HeapMemory::new(RING);
        let (producer, _consumer) = full(&memory, LONG_MS);
        assert_eq!(waits(&Patience::new(0), &producer), (false, false));
    }

    #[test]
    fn room_ends_it() {
        let memory = HeapMemory::new(RING);
        let (_, mut consumer) = full(&memory, LONG_MS);
        let mut buffer = RecordBuffer::new();
        let result = waits_for(&memory, || {
            assert!(matches!(consumer.poll(&mut buffer), Ok(Next::Record(_))));
        });
        assert!(result.0);
    }

    #[test]
    fn the_end_of_the_agent_ends_it() {
        for (word, value) in [
            (control::OWNER, OWNER_DIED),
            (control::STATE, STATE_DETACHED),
            (control::WAIT_MS, 0),
        ] {
            let memory = HeapMemory::new(RING);
            let _ring = full(&memory, LONG_MS);
            let end = || memory.store_u32(word, value, Ordering::Release);
            assert!(!waits_for(&memory, end).0);
        }
    }

    #[test]
    fn a_stalled_agent_costs_one_wait() {
        let memory = HeapMemory::new(RING);
        let (producer, mut consumer) = full(&memory, LONG_MS);
        let patience = Patience::new(5);
        assert_eq!(waits(&patience, &producer), (false, true));
        assert_eq!(waits(&patience, &producer), (false, false));
        // It moves again: it is waited for again.
        let mut buffer = RecordBuffer::new();
        assert!(matches!(consumer.poll(&mut buffer), Ok(Next::Record(_))));
        assert_eq!(write(&producer), Ok(()));
        assert_eq!(waits(&patience, &producer), (false, true));
        assert_eq!(waits(&patience, &producer), (false, false));
    }

    #[test]
    fn one_call_waits_once_as_long() {
        let memory = HeapMemory::new(RING);
        let (producer, _consumer) = full(&memory, LONG_MS);
        let mut wait = Wait::default();
        assert!(!Patience::new(5).wait(&producer, || fits(&producer), &mut wait));
        // Another would wait for hours: its time is over.
        assert!(!Patience::new(LONG_MS).wait(&producer, || fits(&producer), &mut wait));
    }
}
