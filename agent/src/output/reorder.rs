//! A window in which packets wait for earlier ones.
//!
//! Rings are read one after the other, so packets of different flows come a little out of order; a capture file
//! is to be in order of time. Whoever knows up to which time everything has been read calls
//! [`Reorder::release`].
//!
//! Frames lie one behind the other in chunks, a heap of small entries keeps their order, and a chunk whose packets
//! are all written is used again: no allocation per packet, and the memory is what was promised.
//!
//! ```text
//!   heap: time, arrival, place          chunks, 256 KiB each
//!   +---------------------+             +-----------------------------+
//!   | 10.1  #4  chunk 1,  | ----------> | frame comment frame frame … | ── free when all are written
//!   | 10.2  #3  chunk 0,  |             +-----------------------------+
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;

use crate::event::{Packet, PacketSink, WallTime};

const DEFAULT_CAPACITY_BYTES: usize = 64 << 20;
const CHUNK_BYTES: usize = 256 << 10;
const ENTRY_BYTES: usize = size_of::<Reverse<Entry>>();

/// Counts of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReorderStats {
    /// Packets that were written before their time because the window was full.
    pub early: u64,
    /// Packets that came later than one with a later time was written; they have that one's time.
    pub clamped: u64,
}

/// Puts packets in order of time on their way to a sink. Packets of equal time stay in order of arrival, so each
/// flow's order is kept.
#[derive(Debug)]
pub struct Reorder<P> {
    sink: P,
    waiting: BinaryHeap<Reverse<Entry>>,
    chunks: Vec<Chunk>,
    /// Those that no packet lies in, without `filling`.
    free: Vec<usize>,
    /// The one that the next packet goes to.
    filling: usize,
    capacity_bytes: usize,
    arrivals: u64,
    written: WallTime,
    stats: ReorderStats,
}

/// A waiting packet. Ordered by time, then arrival (which no two have in common).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    at: WallTime,
    arrival: u64,
    chunk: usize,
    start: usize,
    frame_bytes: usize,
    comment_bytes: Option<usize>,
}

#[derive(Debug)]
struct Chunk {
    bytes: Vec<u8>,
    /// Packets in it that wait.
    packets: usize,
}

impl Chunk {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(CHUNK_BYTES),
            packets: 0,
        }
    }
}

impl<P: PacketSink> Reorder<P> {
    /// A window of 64 MiB.
    pub fn new(sink: P) -> Self {
        Self::with_capacity_bytes(DEFAULT_CAPACITY_BYTES, sink)
    }

    /// A window that holds about `capacity_bytes`, bookkeeping included; at least two chunks of 256 KiB.
    pub fn with_capacity_bytes(capacity_bytes: usize, sink: P) -> Self {
        Self {
            sink,
            waiting: BinaryHeap::new(),
            chunks: vec![Chunk::new()],
            free: Vec::new(),
            filling: 0,
            capacity_bytes: capacity_bytes.max(2 * CHUNK_BYTES),
            arrivals: 0,
            written: WallTime(0),
            stats: ReorderStats::default(),
        }
    }

    /// Writes all packets with a time before `until`, in order.
    ///
    /// # Errors
    /// Those of the sink; the packet that it refused is gone.
    pub fn release(&mut self, until: WallTime) -> io::Result<()> {
        while self
            .waiting
            .peek()
            .is_some_and(|Reverse(next)| next.at < until)
        {
            self.write_next()?;
        }
        Ok(())
    }

    /// Writes all packets and flushes the sink.
    ///
    /// # Errors
    /// Those of the sink.
    pub fn finish(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            self.write_next()?;
        }
        self.sink.flush()
    }

    /// What comes from here on goes to another file: it may have earlier times than what was written.
    pub fn begin_anew(&mut self) {
        self.written = WallTime(0);
    }

    /// Time of the first packet that waits.
    pub fn next_at(&self) -> Option<WallTime> {
        self.waiting.peek().map(|Reverse(next)| next.at)
    }

    /// The counts so far.
    pub fn stats(&self) -> ReorderStats {
        self.stats
    }

    /// The sink. What waits has not reached it.
    pub fn sink_mut(&mut self) -> &mut P {
        &mut self.sink
    }

    /// Gives the sink back; what still waits is dropped.
    pub fn into_sink(self) -> P {
        self.sink
    }

    fn write_next(&mut self) -> io::Result<()> {
        let Some(Reverse(entry)) = self.waiting.pop() else {
            return Ok(());
        };
        if entry.at < self.written {
            self.stats.clamped += 1;
        }
        self.written = self.written.max(entry.at);
        let chunk = &mut self.chunks[entry.chunk];
        chunk.packets -= 1;
        let (frame, rest) = chunk.bytes[entry.start..].split_at(entry.frame_bytes);
        let comment = entry
            .comment_bytes
            .and_then(|bytes| str::from_utf8(&rest[..bytes]).ok());
        let result = self.sink.packet(Packet {
            at: self.written,
            frame,
            comment,
        });
        if chunk.packets == 0 {
            chunk.bytes.clear();
            if entry.chunk != self.filling {
                self.free.push(entry.chunk);
            }
        }
        result
    }

    /// Makes room for `bytes` in the chunk that is filled.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let fits =
            |chunk: &Chunk| chunk.bytes.is_empty() || chunk.bytes.len() + bytes <= CHUNK_BYTES;
        loop {
            let chunks = self.chunks.len() - self.free.len();
            let held = chunks * CHUNK_BYTES + (self.waiting.len() + 1) * ENTRY_BYTES;
            let fits_here = fits(&self.chunks[self.filling]);
            if fits_here && (held <= self.capacity_bytes || self.waiting.is_empty()) {
                return Ok(());
            }
            if !fits_here && held + CHUNK_BYTES <= self.capacity_bytes {
                self.filling = self.free.pop().unwrap_or_else(|| {
                    self.chunks.push(Chunk::new());
                    self.chunks.len() - 1
                });
                return Ok(());
            }
            self.stats.early += 1;
            self.write_next()?;
        }
    }
}

impl<P: PacketSink> PacketSink for Reorder<P> {
    /// Keeps a packet until it is released, or until the window is full.
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        let comment = packet.comment.unwrap_or_default();
        self.make_room(packet.frame.len() + comment.len())?;
        let chunk = &mut self.chunks[self.filling];
        let start = chunk.bytes.len();
        chunk.bytes.extend_from_slice(packet.frame);
        chunk.bytes.extend_from_slice(comment.as_bytes());
        chunk.packets += 1;
        self.arrivals += 1;
        self.waiting.push(Reverse(Entry {
            at: packet.at,
            arrival: self.arrivals,
            chunk: self.filling,
            start,
            frame_bytes: packet.frame.len(),
            comment_bytes: packet.comment.map(str::len),
        }));
        Ok(())
    }

    /// Flushes the sink; releases nothing.
    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Remembers what it gets.
    #[derive(Default)]
    struct Log(Vec<(u64, Vec<u8>, Option<String>)>);

    impl PacketSink for Log {
        fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
            self.0.push((
                packet.at.0,
                packet.frame.to_vec(),
                packet.comment.map(Into::into),
            ));
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn push(window: &mut Reorder<Log>, at: u64, frame: &[u8]) {
        window
            .packet(Packet {
                at: WallTime(at),
                frame,
                comment: None,
            })
            .unwrap();
    }

    fn written(window: &mut Reorder<Log>) -> Vec<(u64, Vec<u8>)> {
        window
            .sink_mut()
            .0
            .drain(..)
            .map(|(at, frame, _)| (at, frame))
            .collect()
    }

    fn window() -> Reorder<Log> {
        Reorder::with_capacity_bytes(0, Log::default())
    }

    #[test]
    fn releases_in_order_of_time_then_arrival() {
        let mut window = window();
        for (at, name) in [(5, b"a"), (3, b"b"), (5, b"c"), (9, b"d"), (3, b"e")] {
            push(&mut window, at, name);
        }
        assert_eq!(window.next_at(), Some(WallTime(3)));
        window.release(WallTime(9)).unwrap();
        let wanted =
            [(3, b"b"), (3, b"e"), (5, b"a"), (5, b"c")].map(|(at, name)| (at, name.to_vec()));
        assert_eq!(written(&mut window), wanted);
        window.finish().unwrap();
        assert_eq!(written(&mut window), [(9, b"d".to_vec())]);
        assert_eq!(window.stats(), ReorderStats::default());
    }

    #[test]
    fn a_late_packet_gets_the_time_of_the_last_written() {
        let mut window = window();
        push(&mut window, 10, b"a");
        window.release(WallTime(11)).unwrap();
        push(&mut window, 4, b"b");
        push(&mut window, 10, b"c");
        window.finish().unwrap();
        let times: Vec<_> = written(&mut window).into_iter().map(|(at, _)| at).collect();
        assert_eq!(times, [10, 10, 10]);
        assert_eq!(
            window.stats(),
            ReorderStats {
                early: 0,
                clamped: 1
            }
        );
    }

    #[test]
    fn comments_stay_with_their_packets() {
        let mut window = window();
        for (at, comment) in [(2, Some("two")), (1, None), (3, Some(""))] {
            window
                .packet(Packet {
                    at: WallTime(at),
                    frame: b"frame",
                    comment,
                })
                .unwrap();
        }
        window.finish().unwrap();
        let comments: Vec<_> = window
            .into_sink()
            .0
            .into_iter()
            .map(|(_, frame, comment)| (frame, comment))
            .collect();
        let frame = b"frame".to_vec();
        assert_eq!(
            comments,
            [
                (frame.clone(), None),
                (frame.clone(), Some("two".into())),
                (frame, Some(String::new()))
            ]
        );
    }

    #[test]
    fn a_full_window_writes_the_oldest_early_and_stays_within_its_bytes() {
        let mut window = Reorder::with_capacity_bytes(2 << 20, Log::default());
        let total: u64 = 20_000;
        for number in 0..total {
            // Odd numbers come a hundred later than their time, as from a ring that was read late.
            let at = if number % 2 == 1 {
                number
            } else {
                number + 100
            };
            let mut frame = [0; 1000];
            frame[..8].copy_from_slice(&number.to_be_bytes());
            push(&mut window, at, &frame);
            let held: usize = window
                .chunks
                .iter()
                .map(|chunk| chunk.bytes.capacity())
                .sum();
            assert!(held + window.waiting.len() * ENTRY_BYTES <= 2 << 20);
        }
        assert!(window.stats().early > 0);
        assert!(window.waiting.len() > 1000, "the window is used");
        window.finish().unwrap();
        let written = written(&mut window);
        assert!(written.is_sorted_by_key(|(at, _)| *at));
        let mut numbers: Vec<_> = written
            .into_iter()
            .map(|(_, frame)| frame[..8].to_vec())
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len() as u64, total, "each packet once");
    }

    #[test]
    fn chunks_are_used_again() {
        let mut window = Reorder::with_capacity_bytes(8 << 20, Log::default());
        for number in 0..50_000 {
            push(&mut window, number, &[0; 1500]);
            window
                .release(WallTime(number.saturating_sub(300)))
                .unwrap();
            window.sink_mut().0.clear();
        }
        assert!(
            window.chunks.len() <= 4,
            "{} chunks for 300 packets",
            window.chunks.len()
        );
        assert_eq!(window.stats(), ReorderStats::default());
    }
}
