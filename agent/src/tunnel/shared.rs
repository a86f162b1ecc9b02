//! A window that two threads share: one fills it, one empties it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::window::Window;

/// A handle of a window. All of them are of the same.
#[derive(Clone, Debug)]
pub struct SharedWindow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    window: Mutex<Window>,
    filled: Notify,
    /// For the spool's thread: batches have been pushed or acknowledged.
    changed: Condvar,
    /// Somebody has waited for that. Telling nobody is a system call, too, and most windows have no spool.
    spools: AtomicBool,
}

impl SharedWindow {
    /// Shares a window.
    pub fn new(window: Window) -> Self {
        Self(Arc::new(Inner {
            window: Mutex::new(window),
            filled: Notify::new(),
            changed: Condvar::new(),
            spools: AtomicBool::new(false),
        }))
    }

    /// The window, for a moment: who fills it must not be made to wait.
    pub fn lock(&self) -> MutexGuard<'_, Window> {
        // Nothing in a window panics half-way.
        self.0.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Batches have been pushed, or come back from the disk.
    pub fn tell_filled(&self) {
        self.0.filled.notify_one();
        self.tell_changed();
    }

    /// Until batches have been pushed since the last time that this was waited for. For one at a time.
    pub async fn filled(&self) {
        self.0.filled.notified().await;
    }

    /// Batches have been acknowledged.
    pub fn tell_emptied(&self) {
        self.tell_changed();
    }

    fn tell_changed(&self) {
        // Whoever calls this has changed the window before, under its lock. Who waits looks and sets this under the
        // same lock: either it has seen the change, or this sees that it waits.
        if self.0.spools.load(Ordering::Relaxed) {
            self.0.changed.notify_one();
        }
    }

    /// Until either of these, or so long. For one at a time.
    pub(super) fn wait<'a>(
        &'a self,
        window: MutexGuard<'a, Window>,
        longest: Duration,
    ) -> MutexGuard<'a, Window> {
        self.0.spools.store(true, Ordering::Relaxed);
        let waited = self.0.changed.wait_timeout(window, longest);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use bytes::Bytes;

    use super::*;

    #[test]
    fn who_waits_is_told_of_either_change() {
        let shared = SharedWindow::new(Window::new(1000));
        let (saw, seen) = mpsc::channel();
        let waiting = shared.clone();
        std::thread::spawn(move || {
            for empty in [false, true] {
                let mut window = waiting.lock();
                while window.is_empty() != empty {
                    window = waiting.wait(window, Duration::from_secs(3600));
                }
                drop(window);
                let _ = saw.send(());
            }
        });
        let patience = Duration::from_secs(30);
        while !shared.0.spools.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        shared.lock().push(0, Bytes::from_static(b"text"));
        shared.tell_filled();
        seen.recv_timeout(patience).expect("a batch was pushed");
        {
            let mut window = shared.lock();
            assert!(window.outgoing().is_some());
            window.ack(1).expect("it was sent");
        }
        shared.tell_emptied();
        seen.recv_timeout(patience).expect("it was acknowledged");
    }
}
