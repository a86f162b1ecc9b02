//! The thread that writes the log, and what waits for it.
//!
//! ```text
//!          write fails                              somebody asks for the end
//! Writing ─────────────> Waiting: lines queue up ──────────────────────────────> what is left is lost
//!    ^                     │ every 500 ms: once more
//!    └─────────────────────┘
//! ```

use std::io;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::record;
use super::target::LogTarget;
use crate::event::WallTime;

/// Lines that may wait, in bytes: some thousand sessions.
const QUEUE_BYTES: usize = 4 << 20;
/// How often a file that can't be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked whether the file takes something.
const LOOK: Duration = Duration::from_millis(100);
/// At the end a reader who takes nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Writes lines, in a thread of its own: nobody waits for the file. One for all who write to it; the thread ends with
/// the last of them.
#[derive(Clone, Debug)]
pub struct LogWriter(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    is_stream: bool,
    most_bytes: usize,
    patience: Duration,
    now: Mutex<Now>,
    /// There is something to do.
    wake: Condvar,
    /// Something has been done.
    done: Condvar,
}

#[derive(Debug, Default)]
struct Now {
    /// Until the thread begins.
    target: Option<LogTarget>,
    /// Whole lines.
    queue: Vec<u8>,
    /// Bytes of them that the thread has taken, and is writing.
    writing: usize,
    writing_sessions: u64,
    /// The thread was told of them.
    told: bool,
    /// Sessions that found no room since the last one that did.
    undeclared: u64,
    turn_over: bool,
    /// Try again at once.
    hurry: bool,
    over: bool,
    /// Why it isn't written at the moment.
    outage: Option<io::Error>,
    /// What was lost when that began.
    lost_before: u64,
    /// Why it never will be.
    broken: Option<io::Error>,
    /// Bytes written.
    progress: u64,
    stats: LogStats,
    complaints: Vec<String>,
}

/// What has become of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Sessions that ended, those that are lost among them.
    pub sessions: u64,
    /// Sessions that aren't in it.
    pub lost: u64,
    /// Times that it couldn't be written.
    pub outages: u64,
}

impl LogWriter {
    /// A log that people know by `name`. Nothing is written before [`LogWriter::begin`]: lines wait.
    pub fn new(name: &str, target: LogTarget) -> Self {
        Self::with_limits(name, target, QUEUE_BYTES, PATIENCE)
    }

    fn with_limits(name: &str, target: LogTarget, most_bytes: usize, patience: Duration) -> Self {
        Self(Arc::new(Handle(Arc::new(Shared {
            name: name.to_owned(),
            is_stream: !target.is_file(),
            most_bytes,
            patience,
            now: Mutex::new(Now {
                target: Some(target),
                ..Now::default()
            }),
            wake: Condvar::new(),
            done: Condvar::new(),
        }))))
    }

    /// Privileges are given up: begins to write.
    ///
    /// # Errors
    /// The system has no thread for it.
    pub fn begin(&self) -> io::Result<()> {
        let shared = Arc::clone(&self.0.0);
        let Some(target) = shared.now().target.take() else {
            return Ok(());
        };
        let thread = thread::Builder::new().name("session-log".into());
        thread.spawn(move || shared.run(target)).map(drop)
    }

    /// Adds a session's line, if there is room. `at`: its time.
    pub(super) fn push(&self, line: &[u8], at: WallTime) {
        let shared = &self.0.0;
        let mut now = shared.now();
        now.stats.sessions += 1;
        if now.broken.is_some() {
            now.stats.lost += 1;
            return;
        }
        let declared = match now.undeclared {
            0 => Vec::new(),
            lost => record::lost(lost, at),
        };
        let needed = now.writing + now.queue.len() + declared.len() + line.len();
        if needed > shared.most_bytes {
            now.undeclared += 1;
            now.stats.lost += 1;
            return;
        }
        now.undeclared = 0;
        now.queue.extend_from_slice(&declared);
        now.queue.extend_from_slice(line);
    }

    /// Has what waits be written. With each turn of the agent.
    pub fn flush(&self) {
        let mut now = self.0.0.now();
        if !now.queue.is_empty() && !mem::replace(&mut now.told, true) {
            self.0.0.wake.notify_one();
        }
    }

    /// Goes on in the file that the path leads to now: people ask for it when they have moved the old one.
    pub fn turn_over(&self) {
        self.0.0.now().turn_over = true;
        self.0.0.wake.notify_one();
    }

    /// Somebody reads it at a pipe, and may take his time.
    pub fn is_stream(&self) -> bool {
        self.0.0.is_stream
    }

    /// Whether there is something to be written, and that goes on.
    pub fn is_waiting(&self) -> bool {
        let now = self.0.0.now();
        let waits = !now.queue.is_empty() || now.writing > 0;
        waits && now.broken.is_none() && now.outage.is_none()
    }

    /// Why it isn't written any more, ever.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> io::Result<()> {
        self.0.0.now().broken.as_ref().map_or(Ok(()), again)
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&self) -> Vec<String> {
        mem::take(&mut self.0.0.now().complaints)
    }

    /// The counts so far.
    pub fn stats(&self) -> LogStats {
        self.0.0.now().stats
    }

    /// Waits until all is written, as long as that goes on. What can't be written now is lost.
    ///
    /// # Errors
    /// Why not all was written.
    pub fn finish(&self, at: WallTime) -> io::Result<()> {
        self.begin()?;
        let shared = &self.0.0;
        let mut now = shared.now();
        if now.undeclared > 0 && now.broken.is_none() {
            let declared = record::lost(mem::take(&mut now.undeclared), at);
            now.queue.extend_from_slice(&declared);
        }
        now.hurry = true;
        shared.wake.notify_one();
        let (mut progress, mut since) = (now.progress, Instant::now());
        loop {
            if let Some(error) = &now.broken {
                return again(error);
            }
            if now.queue.is_empty() && now.writing == 0 {
                return Ok(());
            }
            if !now.hurry
                && let Some(error) = now.outage.take()
            {
                // It was tried once more.
                return shared.give_up(&mut now, error);
            }
            if now.progress != progress {
                (progress, since) = (now.progress, Instant::now());
            }
            if since.elapsed() >= shared.patience {
                let error = "it takes nothing, and what waited for it is missing there";
                let error = io::Error::new(io::ErrorKind::TimedOut, error);
                return shared.give_up(&mut now, error);
            }
            let waited = shared.done.wait_timeout(now, LOOK);
            now = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing in here panics halfway.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread.
    fn run(&self, mut target: LogTarget) {
        while let Some((lines, turn_over)) = self.next() {
            if turn_over && let Err(error) = target.turn_over() {
                let name = &self.name;
                self.now().complaints.push(format!(
                    "can't begin {name} anew ({error}): goes on in the file before; see to what it says, and ask once \
                     more (SIGHUP)"
                ));
            }
            let (written, error) = match lines.is_empty() {
                true => (0, None),
                false => target.write(&lines),
            };
            self.wrote(lines, written, error);
        }
    }

    /// What is to be written, and whether to another file. `None`: nobody is left who could say something.
    fn next(&self) -> Option<(Vec<u8>, bool)> {
        let mut now = self.now();
        let mut waited = false;
        loop {
            if now.queue.is_empty() {
                (now.told, now.hurry) = (false, false);
            }
            let stuck = now.outage.is_some() && !waited && !now.hurry && !now.turn_over;
            if now.turn_over || !now.queue.is_empty() && !stuck {
                now.hurry = false;
                now.told = false;
                let lines = mem::take(&mut now.queue);
                now.writing = lines.len();
                now.writing_sessions = sessions(&lines);
                return Some((lines, mem::take(&mut now.turn_over)));
            }
            if now.over {
                return None;
            }
            let asked = |now: &Now| now.hurry || now.turn_over || now.over;
            now = match now.outage.is_some() {
                // More lines don't end its pause.
                true => {
                    let idle = |now: &mut Now| !asked(now);
                    let woken = self.wake.wait_timeout_while(now, TRY_AGAIN, idle);
                    let (now, result) = woken.unwrap_or_else(PoisonError::into_inner);
                    waited = result.timed_out();
                    now
                }
                false => {
                    let idle = |now: &mut Now| now.queue.is_empty() && !asked(now);
                    let woken = self.wake.wait_while(now, idle);
                    woken.unwrap_or_else(PoisonError::into_inner)
                }
            };
        }
    }

    /// Of these lines so many bytes were written.
    fn wrote(&self, mut lines: Vec<u8>, written: usize, error: Option<io::Error>) {
        let mut now = self.now();
        let name = &self.name;
        now.progress += written as u64;
        (now.writing, now.writing_sessions) = (0, 0);
        match error {
            None if !lines.is_empty() && now.outage.take().is_some() => {
                let lost = now.stats.lost - now.lost_before;
                now.complaints.push(match lost {
                    0 => format!("{name} is written again: no session is missing in it"),
                    lost => format!("{name} is written again: {lost} sessions are MISSING in it"),
                });
            }
            None => {}
            Some(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                // Nobody knows how much of it was read.
                now.stats.lost += sessions(&lines[written..]) + sessions(&now.queue);
                now.queue.clear();
                now.broken = Some(error);
            }
            Some(error) => {
                lines.drain(..written);
                lines.append(&mut now.queue);
                now.queue = lines;
                if now.outage.is_none() {
                    now.lost_before = now.stats.lost;
                    now.stats.outages += 1;
                    now.complaints.push(trouble(name, &error));
                }
                now.outage = Some(error);
            }
        }
        drop(now);
        self.done.notify_all();
    }

    /// What waits is lost.
    fn give_up(&self, now: &mut Now, error: io::Error) -> io::Result<()> {
        let writing = mem::take(&mut now.writing_sessions);
        now.stats.lost += sessions(&now.queue) + writing;
        now.queue.clear();
        now.broken = Some(io::Error::new(error.kind(), error.to_string()));
        Err(error)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.now().over = true;
        self.0.wake.notify_one();
    }
}

/// How many sessions these lines tell of.
fn sessions(lines: &[u8]) -> u64 {
    let count = lines.split(|byte| *byte == b'\n');
    count.filter(|line| line.starts_with(SESSION)).count() as u64
}

/// How their lines begin.
const SESSION: &[u8] = br#"{"event_type":"session""#;

fn trouble(name: &str, error: &io::Error) -> String {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    match error.kind() {
        StorageFull | QuotaExceeded => format!(
            "no room left for {name}: sessions wait for it, and are LOST when they are too many; free some space, and \
             it goes on by itself"
        ),
        FileTooLarge => format!(
            "{name} is as large as a file may be: sessions wait for another, and are LOST when they are too many; move \
             it away and send SIGHUP"
        ),
        _ => format!(
            "can't write {name}: {error}; sessions wait for it, and are LOST when they are too many; see to what it \
             says, and it goes on by itself"
        ),
    }
}

/// The same error for another who asks.
fn again(error: &io::Error) -> io::Result<()> {
    Err(io::Error::new(error.kind(), error.to_string()))
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
