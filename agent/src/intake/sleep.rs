//! How the agent sleeps while there is nothing to read.

use std::time::Duration;

use mirror_hook::layout::control;
use rustix::io::Errno;
use rustix::thread::{ClockId, futex};

use super::facade::{HOT, Intake};
use crate::clock::monotonic_now;
use crate::event::MonotonicTime;

impl Intake {
    /// Sleeps until the doorbell or a ring with much unread in it rings.
    pub(super) fn wait_idle(&self, timeout: Duration) {
        let mut sleeping = Vec::with_capacity(self.rings.len());
        let mut waiters = Vec::with_capacity(self.rings.len() + 1);
        let mut bell = futex::Wait::new();
        bell.uaddr = futex::WaitPtr::new(self.doorbell.word().as_ptr().cast());
        bell.flags = futex::WaitFlags::SIZE_U32 | futex::WaitFlags::PRIVATE;
        waiters.push(bell);
        let mut may_sleep = true;
        for ring in self.rings.values() {
            let consumer = ring.consumer();
            sleeping.push(consumer);
            if !consumer.prepare_sleep() {
                may_sleep = false;
                break;
            }
            if let Some(word) = consumer.memory().word_address(control::SLEEPING) {
                let mut waiter = futex::Wait::new();
                waiter.val = 1;
                waiter.uaddr = futex::WaitPtr::new(word.cast());
                waiter.flags = futex::WaitFlags::SIZE_U32;
                waiters.push(waiter);
            }
        }
        if may_sleep {
            self.sleep(&waiters, timeout);
        }
        for consumer in sleeping {
            consumer.woke();
        }
    }

    fn sleep(&self, waiters: &[futex::Wait], timeout: Duration) {
        let until = MonotonicTime(
            monotonic_now()
                .0
                .saturating_add(u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX)),
        );
        let Ok(until) = Duration::from_nanos(until.0).try_into() else {
            return;
        };
        let flags = futex::WaitvFlags::empty();
        // Woken, changed already, timed out, interrupted: all mean to look again. But before Linux
        // 5.16, or under a filter, it can't wait like this: look at the rings more often instead.
        let slept = futex::waitv(waiters, flags, Some(&until), ClockId::Monotonic);
        if let Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) = slept {
            self.doorbell.wait(timeout.min(2 * HOT));
        }
    }
}
