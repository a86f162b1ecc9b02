//! One reader: forges for itself what the log has, and writes it at the pace at which it is read.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::log::{Log, News, Place, Unread};
use crate::event::{Packet, PacketSink};
use crate::forge::{ForgeConfig, ForgeStats, Forger};
use crate::output::{CaptureFormat, CaptureWriter, Reorder, ReorderStats};

/// Packets wait in order of time in so much memory.
const WINDOW_BYTES: usize = 8 << 20;
/// How long a reader waits at most while packets wait to come of age.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// And while none do: it looks whether whoever reads is still there.
const IDLE: Duration = Duration::from_millis(500);

/// What one reader has got. Numbers for people: nothing is ordered by them.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Where it stands in the log, once it does.
    place: OnceLock<u64>,
    pub(super) packets: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) behind: AtomicU64,
    pub(super) missed_bytes: AtomicU64,
    /// What waited for it in the log when it left.
    unread_bytes: AtomicU64,
}

impl Counters {
    /// Packets on their way to it.
    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Bytes that it has taken.
    pub(super) fn taken(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How often it has missed something, and how much clear text; what it will find missing when it reads on
    /// included.
    pub(super) fn missed(&self, log: &Log) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (behind, bytes) = (load(&self.behind), load(&self.missed_bytes));
        match self.misses(log) {
            Some(now) if now > 0 => (behind + 1, bytes + now),
            _ => (behind, bytes),
        }
    }

    /// How much clear text it will find missing when it reads on; nothing if it reads no more.
    pub(super) fn misses(&self, log: &Log) -> Option<u64> {
        match log.unread(*self.place.get()?)? {
            Unread::Missed(bytes) => Some(bytes),
            Unread::Waits(_) => Some(0),
        }
    }

    /// How much clear text waits for it, or did when it left.
    pub(super) fn unread(&self, log: &Log) -> u64 {
        match self.place.get().and_then(|place| log.unread(*place)) {
            Some(Unread::Waits(bytes)) => bytes,
            Some(Unread::Missed(_)) => 0,
            None => self.unread_bytes.load(Ordering::Relaxed),
        }
    }

    /// It has fallen behind, and missed so much.
    fn fell_behind(&self, missed_bytes: u64) {
        if missed_bytes > 0 {
            self.behind.fetch_add(1, Ordering::Relaxed);
            self.missed_bytes.fetch_add(missed_bytes, Ordering::Relaxed);
        }
    }
}

/// Counts what passes.
#[derive(Debug)]
struct Counted<W> {
    writer: W,
    counters: Arc<Counters>,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.writer.write(bytes)?;
        self.counters
            .bytes
            .fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[derive(Debug)]
struct Sink<W: Write> {
    writer: CaptureWriter<Counted<W>>,
    counters: Arc<Counters>,
}

impl<W: Write> PacketSink for Sink<W> {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.counters.packets.fetch_add(1, Ordering::Relaxed);
        self.writer.packet(packet)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

/// A reader at its place in the log.
#[derive(Debug)]
pub(super) struct Reader<W: Write> {
    place: Place,
    forger: Forger<Reorder<Sink<W>>>,
    counters: Arc<Counters>,
}

/// Whether there is more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Perhaps.
    More,
    /// Not now; everything that is due was written.
    Idle,
    /// Never again; everything was written.
    End,
}

impl<W: Write> Reader<W> {
    /// A reader from now on. The capture's header is written.
    pub(super) fn new(
        log: &Arc<Log>,
        config: ForgeConfig,
        format: CaptureFormat,
        writer: W,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let (place, live) = Place::new(log);
        let mut reader = Self::at(place, config, format, writer, counters)?;
        reader.forger.catch_up(&live.flows, live.at);
        Ok(reader)
    }

    /// A reader who stands at a place at which nothing is live. The capture's header is written.
    pub(super) fn at(
        place: Place,
        config: ForgeConfig,
        format: CaptureFormat,
        writer: W,
        counters: &Arc<Counters>,
    ) -> io::Result<Self> {
        let writer = Counted {
            writer,
            counters: Arc::clone(counters),
        };
        let mut sink = Sink {
            writer: CaptureWriter::new(format, writer)?,
            counters: Arc::clone(counters),
        };
        let _ = counters.place.set(place.number());
        // Who reads sees at once that a capture is coming.
        sink.flush()?;
        let window = Reorder::with_capacity_bytes(WINDOW_BYTES, sink);
        Ok(Self {
            place,
            forger: Forger::new(config, window),
            counters: Arc::clone(counters),
        })
    }

    /// What was forged, and put in order.
    pub(super) fn stats(&mut self) -> (ForgeStats, ReorderStats) {
        (self.forger.stats(), self.forger.sink_mut().stats())
    }

    /// What it writes to.
    pub(super) fn writer_mut(&mut self) -> &mut W {
        let sink = self.forger.sink_mut().sink_mut();
        &mut sink.writer.get_mut().writer
    }

    /// Takes what is next in the log.
    ///
    /// # Errors
    /// What the writer reports.
    pub(super) fn step(&mut self) -> io::Result<Step> {
        let step = match self.place.next() {
            News::Chunk(chunk) => {
                chunk.replay(&mut self.forger);
                self.forger.sink_mut().release(chunk.until())?;
                Step::More
            }
            News::Behind { live, missed_bytes } => {
                self.counters.fell_behind(missed_bytes);
                self.forger.catch_up(&live.flows, live.at);
                Step::More
            }
            News::Nothing(until) => {
                let window = self.forger.sink_mut();
                window.release(until)?;
                window.flush()?;
                Step::Idle
            }
            News::Ended(at) => {
                self.forger.finish(at);
                self.forger.sink_mut().finish()?;
                Step::End
            }
        };
        self.forger.take_error().map_or(Ok(step), Err)
    }

    /// Waits for news.
    pub(super) fn wait(&mut self) {
        let waiting = self.forger.sink_mut().next_at().is_some();
        self.place.wait(if waiting { LOOK_EVERY } else { IDLE });
    }
}

/// Who leaves misses what it would have missed by reading on, and what waited for it.
impl<W: Write> Drop for Reader<W> {
    fn drop(&mut self) {
        match self.place.leave() {
            Some(Unread::Missed(bytes)) => self.counters.fell_behind(bytes),
            Some(Unread::Waits(bytes)) => {
                let unread = &self.counters.unread_bytes;
                unread.store(bytes, Ordering::Relaxed);
            }
            None => {}
        }
    }
}
