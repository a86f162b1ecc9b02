//! The spool: a thread that brings what the memory has no room for to the disk and back.
//!
//! Batches keep their order: behind the first that is on disk all others go there, too, until it is empty. What the disk
//! doesn't take (it is full, or slow) waits in memory, and what finds no room there is dropped by the outbox, as without a
//! spool. That the disk doesn't take anything is said once, and again when it does.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::shared::SharedWindow;
use super::spool_file::{SpoolFile, Storage, StoreError};

/// How long to wait before a disk that took nothing is tried again, and before it is looked whether to end.
const RETRY: Duration = Duration::from_millis(500);

/// A window's place on disk. Its thread ends when it is dropped.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    window: SharedWindow,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Set once by the owner; the thread asks in each round. It guards nothing.
    stop: AtomicBool,
    /// A count for people, told by the thread.
    bytes: AtomicU64,
    lines: Mutex<Vec<String>>,
}

impl Spool {
    /// Begins to bring what `window` can't keep in memory to a file without a name in `directory`, of `size` bytes at most.
    ///
    /// # Errors
    /// There can be no file, or no thread.
    pub fn start(window: SharedWindow, directory: &Path, size: u64) -> io::Result<Self> {
        // Unnamed from the beginning where the file system can do that, and never readable by others.
        let file: File = tempfile::tempfile_in(directory)?;
        Self::start_with(window, SpoolFile::new(file, size)?, directory.to_owned())
    }

    fn start_with(
        window: SharedWindow,
        file: SpoolFile<impl Storage + Send + 'static>,
        directory: PathBuf,
    ) -> io::Result<Self> {
        window.lock().begin_to_spool();
        let shared = Arc::new(Shared::default());
        let mut mover = Mover {
            window: window.clone(),
            file,
            directory,
            shared: Arc::clone(&shared),
            failed: None,
            told: false,
            lost: false,
        };
        let thread = std::thread::Builder::new()
            .name("spool".into())
            .spawn(move || mover.work())?;
        Ok(Self {
            shared,
            window,
            thread: Some(thread),
        })
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&self) -> Vec<String> {
        let lines = self.shared.lines.lock();
        std::mem::take(&mut lines.unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.window.tell_emptied();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Mover<S> {
    window: SharedWindow,
    file: SpoolFile<S>,
    directory: PathBuf,
    shared: Arc<Shared>,
    /// When the disk took nothing, if it did the last time.
    failed: Option<Instant>,
    /// That was said.
    told: bool,
    /// What is stored can't be read any more.
    lost: bool,
}

impl<S: Storage> Mover<S> {
    fn work(&mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            // One each, so that neither waits for the other.
            let loaded = self.load();
            let stored = self.store();
            self.shared
                .bytes
                .store(self.file.bytes(), Ordering::Relaxed);
            if loaded || stored {
                continue;
            }
            let window = self.window.lock();
            let has_work = window.wants_load() || window.to_store().is_some() && self.may_store();
            if !has_work {
                drop(self.window.wait(window, RETRY));
            }
        }
    }

    fn load(&mut self) -> bool {
        if !self.window.lock().wants_load() {
            return false;
        }
        let loaded = match self.lost {
            true => None,
            false => self.file.load().map_or_else(
                |error| {
                    self.lost = true;
                    self.say(format!(
                        "what the spool in {} has can't be read again: {error}; it is LOST",
                        self.directory.display()
                    ));
                    None
                },
                Some,
            ),
        };
        let (partition, events) = match loaded {
            Some((partition, events)) => (partition, Some(events)),
            None => (0, None),
        };
        let left = {
            let mut window = self.window.lock();
            window.loaded(partition, events);
            window.stats().stored_batches
        };
        if left == 0 && std::mem::take(&mut self.lost) {
            self.file.clear();
        }
        self.window.tell_filled();
        // There is more room.
        self.failed = None;
        true
    }

    /// Nothing is put behind what can't be read.
    fn may_store(&self) -> bool {
        !self.lost && self.failed.is_none_or(|failed| failed.elapsed() >= RETRY)
    }

    fn store(&mut self) -> bool {
        if !self.may_store() {
            return false;
        }
        let Some(batch) = self.window.lock().to_store() else {
            return false;
        };
        match self.file.store(batch.partition, &batch.events) {
            Ok(()) => {
                self.failed = None;
                let (taken, done) = {
                    let mut window = self.window.lock();
                    (window.stored(batch.seq), window.to_store().is_none())
                };
                if !taken {
                    self.file.take_back();
                }
                // Not before it has taken all: it may be at its limit.
                if done && std::mem::take(&mut self.told) {
                    self.say(format!(
                        "the spool in {} takes everything again",
                        self.directory.display()
                    ));
                }
                true
            }
            Err(error) => {
                self.failed = Some(Instant::now());
                if !std::mem::replace(&mut self.told, true) {
                    let what = match error {
                        StoreError::Full => {
                            "it has all the room that --spool-size gives it".to_owned()
                        }
                        StoreError::Io(error) => error.to_string(),
                    };
                    self.say(format!(
                        "the spool in {} takes no more: {what}. What the memory has no room for is dropped, and counted",
                        self.directory.display()
                    ));
                }
                false
            }
        }
    }

    fn say(&self, line: String) {
        let lines = self.shared.lines.lock();
        lines.unwrap_or_else(PoisonError::into_inner).push(line);
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::tunnel::frame::Resume;
    use crate::tunnel::window::{Outgoing, Window};

    const PATIENCE: Duration = Duration::from_secs(60);

    /// A file on a disk that may be full.
    struct Disk {
        file: File,
        full: Arc<AtomicBool>,
    }

    impl Storage for Disk {
        fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
            match self.full.load(Ordering::Relaxed) {
                true => Err(io::ErrorKind::StorageFull.into()),
                false => self.file.write_at(bytes, at),
            }
        }

        fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
            self.file.read_at(bytes, at)
        }

        fn clear(&mut self) -> io::Result<()> {
            self.file.clear()
        }
    }

    fn await_that(what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            assert!(begun.elapsed() < PATIENCE, "{what}");
            std::thread::yield_now();
        }
    }

    fn push(window: &SharedWindow, numbers: std::ops::Range<u8>) {
        for number in numbers {
            window.lock().push(0, Bytes::from(vec![number; 1000]));
            window.tell_filled();
        }
    }

    /// Takes what comes, and acknowledges it.
    fn drain(window: &SharedWindow, numbers: std::ops::Range<u8>) {
        for number in numbers {
            let mut next = None;
            await_that("a batch comes", || {
                next = window.lock().outgoing();
                next.is_some()
            });
            match next {
                Some(Outgoing::Batch(batch)) => {
                    assert_eq!(batch.events, vec![number; 1000]);
                    window.lock().ack(batch.seq).unwrap();
                    window.tell_emptied();
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn window() -> SharedWindow {
        let window = SharedWindow::new(Window::new(20_000));
        window.lock().resume(Resume::From(1)).unwrap();
        window
    }

    #[test]
    fn what_memory_has_no_room_for_comes_back_in_order() {
        let window = window();
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::start(window.clone(), directory.path(), 1 << 20).unwrap();
        push(&window, 0..200);
        await_that("the disk has the rest", || window.lock().free() >= 9_000);
        assert!(spool.bytes() > 180_000);
        assert_eq!(directory.path().read_dir().unwrap().count(), 0);
        drain(&window, 0..100);
        push(&window, 200..250);
        drain(&window, 100..250);
        assert!(window.lock().is_empty());
        await_that("the file is empty", || spool.bytes() == 0);
        assert_eq!(spool.take_complaints(), [""; 0]);
    }

    #[test]
    fn a_full_disk_is_said_once_and_tried_again() {
        let window = window();
        let full = Arc::new(AtomicBool::new(true));
        let disk = Disk {
            file: tempfile::tempfile().unwrap(),
            full: Arc::clone(&full),
        };
        let file = SpoolFile::new(disk, 1 << 20).unwrap();
        let spool = Spool::start_with(window.clone(), file, "/spool".into()).unwrap();
        // Ten of them need no disk.
        push(&window, 0..18);
        let mut lines = Vec::new();
        await_that("a line about the full disk", || {
            lines.extend(spool.take_complaints());
            !lines.is_empty()
        });
        assert!(window.lock().free() < 2_000);
        full.store(false, Ordering::Relaxed);
        await_that("a line about the disk that has room", || {
            lines.extend(spool.take_complaints());
            lines.len() > 1
        });
        assert!(lines[0].contains("takes no more"), "{lines:?}");
        assert!(lines[1].contains("takes everything again"), "{lines:?}");
        assert!(window.lock().free() > 9_000);
        drain(&window, 0..18);
        assert_eq!(lines.len(), 2, "{lines:?}");
    }

    #[test]
    fn what_was_changed_on_disk_is_lost_and_said() {
        let window = window();
        let file = tempfile::tempfile().unwrap();
        let other = file.try_clone().unwrap();
        let file = SpoolFile::new(file, 1 << 20).unwrap();
        let spool = Spool::start_with(window.clone(), file, "/spool".into()).unwrap();
        push(&window, 0..30);
        await_that("the disk has the rest", || window.lock().free() >= 9_000);
        std::os::unix::fs::FileExt::write_all_at(&other, &[0xff; 100], 0).unwrap();
        let stored = window.lock().stats().stored_batches;
        drain(&window, 0..10);
        for _ in 0..stored {
            let mut next = None;
            await_that("a number without events comes", || {
                next = window.lock().outgoing();
                next.is_some()
            });
            match next {
                Some(Outgoing::Batch(batch)) if batch.events.is_empty() => {
                    window.lock().ack(batch.seq).unwrap();
                    window.tell_emptied();
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(window.lock().is_empty());
        assert_eq!(window.lock().stats().lost_batches, stored);
        let lines = spool.take_complaints();
        assert_eq!(lines.len(), 1, "{lines:?}");
        // What comes now is whole.
        push(&window, 0..30);
        drain(&window, 0..30);
    }
}
