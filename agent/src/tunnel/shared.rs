//! A window that two threads share: one fills it, one empties it.

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
    emptied: Notify,
    /// For the spool's thread: either of these.
    changed: Condvar,
}

impl SharedWindow {
    /// Shares a window.
    pub fn new(window: Window) -> Self {
        Self(Arc::new(Inner {
            window: Mutex::new(window),
            filled: Notify::new(),
            emptied: Notify::new(),
            changed: Condvar::new(),
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
        self.0.changed.notify_one();
    }

    /// Until batches have been pushed since the last time that this was waited for. For one at a time.
    pub async fn filled(&self) {
        self.0.filled.notified().await;
    }

    /// Batches have been acknowledged.
    pub fn tell_emptied(&self) {
        self.0.emptied.notify_one();
        self.0.changed.notify_one();
    }

    /// Until batches have been acknowledged since the last time that this was waited for. For one at a time.
    pub async fn emptied(&self) {
        self.0.emptied.notified().await;
    }

    /// Until either of these, or so long. For one at a time.
    pub(super) fn wait<'a>(
        &'a self,
        window: MutexGuard<'a, Window>,
        longest: Duration,
    ) -> MutexGuard<'a, Window> {
        let waited = self.0.changed.wait_timeout(window, longest);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
