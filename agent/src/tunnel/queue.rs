//! What is on its way into a connection: pieces of frames, written as they lie.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use zstd::bulk::Compressor;

use super::frame::{Batch, Message};
use super::shared::SharedWindow;
use super::window::Outgoing;

/// So many bytes are taken out of the window at a time.
const ENOUGH_BYTES: usize = 512 * 1024;
/// Pieces for one write, as many as rustls and the kernel take without another allocation.
pub(super) const SLICES: usize = 64;

/// Pieces that may wait before answers are left out. Where batches are as many, the collector hears of us anyway.
const MOST_WAITING: usize = 1024;

/// Frames that are to be written.
pub(super) struct SendQueue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    compressor: Option<Compressor<'static>>,
    /// Bytes of events before and after compression, of those that were compressed.
    pub(super) compressed: (u64, u64),
}

impl SendQueue {
    /// An empty queue, compressing with zstd at this level if there is one.
    ///
    /// # Errors
    /// zstd's.
    pub(super) fn new(level: Option<i32>) -> std::io::Result<Self> {
        Ok(Self {
            pieces: VecDeque::new(),
            bytes: 0,
            compressor: level.map(Compressor::new).transpose()?,
            compressed: (0, 0),
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes from the window what comes next.
    pub(super) fn refill(&mut self, window: &SharedWindow) {
        if self.bytes >= ENOUGH_BYTES / 2 {
            return;
        }
        while self.bytes < ENOUGH_BYTES {
            let outgoing = window.lock().outgoing();
            match outgoing {
                Some(Outgoing::Batch(batch)) => self.batch(batch),
                Some(Outgoing::PreambleEnd) => self.message(&Message::PreambleEnd),
                None => break,
            }
        }
    }

    /// Appends an answer. A collector that asks more often than it reads gets none.
    pub(super) fn answer(&mut self, message: &Message) {
        if self.pieces.len() < MOST_WAITING {
            self.message(message);
        }
    }

    /// Appends a message.
    pub(super) fn message(&mut self, message: &Message) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.push(bytes.freeze());
    }

    fn batch(&mut self, mut batch: Batch) {
        if let Some(compressor) = &mut self.compressor
            && let Ok(smaller) = compressor.compress(&batch.events)
            && smaller.len() < batch.events.len()
        {
            self.compressed.0 += batch.events.len() as u64;
            self.compressed.1 += smaller.len() as u64;
            batch.compressed = true;
            batch.events = smaller.into();
        }
        self.push(Bytes::copy_from_slice(&batch.header()));
        self.push(batch.events);
    }

    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// The first pieces, for one write.
    pub(super) fn slices<'a>(&'a self, into: &mut [IoSlice<'a>; SLICES]) -> usize {
        let number = self.pieces.len().min(SLICES);
        for (slice, piece) in into.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(piece);
        }
        number
    }

    /// So many bytes have been written.
    pub(super) fn written(&mut self, mut bytes: usize) {
        self.bytes -= bytes;
        while let Some(piece) = self.pieces.front_mut() {
            if bytes < piece.len() {
                piece.advance(bytes);
                return;
            }
            bytes -= piece.len();
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_asks_and_reads_nothing_takes_no_memory() {
        let mut queue = SendQueue::new(None).unwrap();
        let pong = Message::Pong {
            sent_ns: 1,
            answered_ns: 2,
        };
        (0..100_000).for_each(|_| queue.answer(&pong));
        assert_eq!(queue.pieces.len(), MOST_WAITING);
        queue.message(&Message::Goodbye);
        assert_eq!(queue.pieces.len(), MOST_WAITING + 1);
    }
}
