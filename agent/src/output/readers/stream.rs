//! One reader at the end of a pipe: standard output, a FIFO. It reads from the log as those do who connect, so that
//! one who stands still stops nobody else: what it misses is a hole of its exact size.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use super::log::{Log, Place, Writer};
use super::reader::{Counters, Reader, Step};
use crate::event::{FlowEvent, FlowSink, WallTime};
use crate::forge::{ForgeConfig, ForgeStats};
use crate::output::{CaptureFormat, ReorderStats};

/// What the reader may be behind, in bytes.
const LOG_BYTES: usize = 64 << 20;
/// At the end one who takes nothing for so long is given up,
const PATIENCE: Duration = Duration::from_secs(5);
/// and one who is slow after this.
const FAREWELL: Duration = Duration::from_secs(30);

/// Writes a capture to a pipe, in a thread of its own: the agent never waits for who reads.
#[derive(Debug)]
pub struct Stream {
    name: String,
    log: Arc<Log>,
    writer: Writer,
    shared: Arc<Shared>,
    /// What the thread begins with.
    waiting: Option<(Place, File, ForgeConfig)>,
    thread: Option<JoinHandle<()>>,
    /// The reader misses something at this moment, and people know.
    told: bool,
    complaints: Vec<String>,
}

/// What a stream has done.
#[derive(Clone, Copy, Debug, Default)]
pub struct StreamStats {
    /// What was forged for it.
    pub forge: ForgeStats,
    /// Of packets on their way out.
    pub window: ReorderStats,
    /// Packets that its reader was given.
    pub packets: u64,
    /// Times that it fell so far behind that it missed something.
    pub behind: u64,
    /// Clear text that is a hole for it.
    pub missed_bytes: u64,
    /// Clear text that waits for its reader, or did when that ended.
    pub unread_bytes: u64,
}

#[derive(Debug, Default)]
struct Shared {
    counters: Arc<Counters>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    forge: ForgeStats,
    window: ReorderStats,
    /// How the thread ended.
    end: Option<io::Result<()>>,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing in here panics halfway.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// A stream to this pipe, which people know by `name`. Nothing is written before the first
    /// [`Stream::release`]: the agent may have privileges to give up yet.
    pub fn new(name: &str, to: File, forge: ForgeConfig) -> Self {
        let log = Arc::new(Log::new(LOG_BYTES));
        // From the first event on.
        let (place, _) = Place::new(&log);
        Self {
            name: name.to_owned(),
            writer: Writer::new(&log),
            log,
            shared: Arc::default(),
            waiting: Some((place, to, forge)),
            thread: None,
            told: false,
            complaints: Vec::new(),
        }
    }

    /// Hands on what there is. Nothing older than `until` follows.
    ///
    /// # Errors
    /// The pipe takes nothing any more: whoever read it is gone, or what the kernel says.
    pub fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.start();
        self.writer.publish(until);
        // In this order: what it fails by is said before.
        let failure = self.failure();
        self.look();
        failure
    }

    /// Nothing more comes.
    pub fn end(&mut self, at: WallTime) {
        self.start();
        self.writer.end(at);
    }

    /// Whether something waits to be read.
    pub fn is_read(&self) -> bool {
        self.shared.now().end.is_none()
    }

    /// Nothing more comes: the reader has a while to take what is left.
    ///
    /// # Errors
    /// As for [`Stream::release`]; [`io::ErrorKind::TimedOut`]: it didn't.
    pub fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.end(at);
        let taken = || self.shared.counters.taken();
        let end = Instant::now() + FAREWELL;
        let (mut last, mut since) = (taken(), Instant::now());
        while self.is_read() {
            if taken() != last {
                (last, since) = (taken(), Instant::now());
            }
            if since.elapsed() > PATIENCE || Instant::now() > end {
                // The thread stands in a write that nobody can end; the process is about to.
                let error = "its reader takes too little, and what waited for it is missing there";
                return Err(io::Error::new(io::ErrorKind::TimedOut, error));
            }
            thread::sleep(Duration::from_millis(5));
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.look();
        self.failure()
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// The counts so far.
    pub fn stats(&self) -> StreamStats {
        let Now { forge, window, .. } = *self.shared.now();
        let (behind, missed_bytes) = self.shared.counters.missed(&self.log);
        StreamStats {
            forge,
            window,
            packets: self.shared.counters.packets(),
            behind,
            missed_bytes,
            unread_bytes: self.shared.counters.unread(&self.log),
        }
    }

    /// Says when the reader misses something, and when it reads on or is gone.
    fn look(&mut self) {
        // In this order: a thread that has ended has left its place.
        let ended = !self.is_read();
        let misses = self.shared.counters.misses(&self.log);
        let (_, bytes) = self.shared.counters.missed(&self.log);
        let name = &self.name;
        match (self.told, misses) {
            (false, Some(1..)) => self.complaints.push(format!(
                "{name}: its reader stands still or is too slow: what it misses is MISSING there until it reads on; \
                 write to a file with -w FILE to keep all of it"
            )),
            (true, Some(0)) => self.complaints.push(format!(
                "{name}: its reader reads on; it has missed {bytes} bytes of clear text so far"
            )),
            (true, None) if ended && self.failure().is_err() => self.complaints.push(format!(
                "{name}: its reader is gone; it has missed {bytes} bytes of clear text"
            )),
            (true, None) if ended => self.complaints.push(format!(
                "{name}: its reader has read on, to the end; it has missed {bytes} bytes of clear text"
            )),
            _ => return,
        }
        self.told = !self.told;
    }

    fn failure(&self) -> io::Result<()> {
        match &self.shared.now().end {
            Some(Err(error)) => Err(match error.raw_os_error() {
                Some(number) => io::Error::from_raw_os_error(number),
                None => io::Error::new(error.kind(), error.to_string()),
            }),
            _ => Ok(()),
        }
    }

    fn start(&mut self) {
        let Some((place, to, forge)) = self.waiting.take() else {
            return;
        };
        let shared = Arc::clone(&self.shared);
        self.thread = Some(thread::spawn(move || {
            let end = serve(place, to, forge, &shared);
            shared.now().end = Some(end);
        }));
    }
}

impl FlowSink for Stream {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.writer.flow_event(event);
    }
}

fn serve(place: Place, to: File, forge: ForgeConfig, shared: &Shared) -> io::Result<()> {
    let format = CaptureFormat::Pcapng;
    let mut reader = Reader::at(place, forge, format, Pipe(to), &shared.counters)?;
    loop {
        let step = reader.step()?;
        let stats = reader.stats();
        {
            let mut now = shared.now();
            (now.forge, now.window) = stats;
        }
        match step {
            Step::More => {}
            Step::Idle if reader.writer_mut().is_closed() => {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            Step::Idle => reader.wait(),
            Step::End => return Ok(()),
        }
    }
}

/// The end of a pipe at which is written. Waits for room, also where somebody has made it non-blocking.
#[derive(Debug)]
struct Pipe(File);

impl Pipe {
    /// Whether nobody reads any more.
    fn is_closed(&self) -> bool {
        let mut ends = [PollFd::new(&self.0, PollFlags::empty())];
        let polled = poll(&mut ends, Some(&rustix::time::Timespec::default()));
        polled.is_ok() && ends[0].revents().contains(PollFlags::ERR)
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut ends = [PollFd::new(&self.0, PollFlags::OUT)];
                    poll(&mut ends, None)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
