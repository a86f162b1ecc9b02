//! One word on which the agent can sleep and be woken by attaches and deaths alike.
//!
//! The agent sleeps on futexes, since that is what the hooks can ring. So a thread of its own waits
//! for descriptors (the listening sockets, silent connections, the processes' pidfds) and rings the
//! agent's futex for them. It hands over numbers only; the agent looks for itself.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::thread::futex;

const STOP: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Shared {
    /// 1: something has happened since it was last looked at.
    rung: AtomicU32,
    events: Mutex<Vec<u64>>,
    stop: AtomicBool,
}

#[derive(Debug)]
pub(super) struct Doorbell {
    epoll: Arc<OwnedFd>,
    stop: OwnedFd,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Doorbell {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let shared = Arc::new(Shared::default());
        let doorbell = {
            let (epoll, shared) = (Arc::clone(&epoll), Arc::clone(&shared));
            std::thread::Builder::new()
                .name("doorbell".to_owned())
                .spawn(move || watch(epoll.as_fd(), &shared))?
        };
        let doorbell = Self {
            epoll,
            stop,
            shared,
            thread: Some(doorbell),
        };
        doorbell.add(doorbell.stop.as_fd(), STOP)?;
        Ok(doorbell)
    }

    /// Rings with `number` each time that `descriptor` becomes readable, and once if it is. Closing
    /// the descriptor ends that.
    pub(super) fn add(&self, descriptor: BorrowedFd<'_>, number: u64) -> io::Result<()> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(number);
        match epoll::add(&self.epoll, descriptor, data, events) {
            // A silent connection that is looked at again.
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Rings by itself: there is more to do than was done.
    pub(super) fn ring(&self, number: u64) {
        ring(&self.shared, [number]);
    }

    /// The numbers rung since the last call, each at least once.
    pub(super) fn take(&self) -> Vec<u64> {
        // Acquire: pairs with the Release in `ring`. A number pushed after this leaves the word at 1.
        if self.shared.rung.swap(0, Ordering::Acquire) == 0 {
            return Vec::new();
        }
        std::mem::take(&mut *lock(&self.shared.events))
    }

    /// Sleeps until it is rung, or for `timeout`.
    pub(super) fn wait(&self, timeout: Duration) {
        let Ok(timeout) = timeout.try_into() else {
            return;
        };
        // EAGAIN, EINTR and ETIMEDOUT all mean: look again.
        let _ = futex::wait(&self.shared.rung, futex::Flags::PRIVATE, 0, Some(&timeout));
    }

    /// The word, which is 0 as long as it isn't rung.
    pub(super) fn word(&self) -> &AtomicU32 {
        &self.shared.rung
    }
}

impl Drop for Doorbell {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let told = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take()
            && told.is_ok()
        {
            let _ = thread.join();
        }
    }
}

fn watch(epoll: BorrowedFd<'_>, shared: &Shared) {
    let mut events = Vec::with_capacity(64);
    while !shared.stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) => ring(shared, events.iter().map(|event| event.data.u64())),
            Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

fn ring(shared: &Shared, numbers: impl IntoIterator<Item = u64>) {
    lock(&shared.events).extend(numbers);
    // Release: pairs with the Acquire in `take`.
    shared.rung.store(1, Ordering::Release);
    // Without a waiter, or for a defect of the address, there is nobody to wake.
    let _ = futex::wake(&shared.rung, futex::Flags::PRIVATE, 1);
}

fn lock(events: &Mutex<Vec<u64>>) -> std::sync::MutexGuard<'_, Vec<u64>> {
    // A vector of numbers can't be left half changed.
    events.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_descriptor_rings_and_wakes() {
        let doorbell = Doorbell::new().unwrap();
        let (reader, mut writer) = std::io::pipe().unwrap();
        doorbell.add(reader.as_fd(), 7).unwrap();
        assert!(doorbell.take().is_empty());
        writer.write_all(b"x").unwrap();
        let mut rung = Vec::new();
        while rung.is_empty() {
            doorbell.wait(Duration::from_secs(60));
            rung = doorbell.take();
        }
        assert_eq!(rung, [7]);
        doorbell.ring(9);
        doorbell.wait(Duration::from_secs(60)); // does not sleep
        assert_eq!(doorbell.take(), [9]);
    }
}
