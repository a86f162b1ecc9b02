//! The close table: where a CLOSE goes that other producers keep from the room that its OPEN has kept,
//! so that no flow stays open for ever and a hole at its end is known. Entries are claimed, filled and freed by their state word.

use super::consumer::Consumer;
use super::mem::Memory;
use super::producer::Producer;
use crate::event::CloseReason;
use crate::layout::{CLOSE_ENTRIES, CLOSE_ENTRY_BYTES, CLOSE_TABLE, control};
use crate::sync::Ordering;

const FREE: u32 = 0;
const WRITING: u32 = 1;
const COMPLETE: u32 = 2;

/// Offsets in an entry, as drawn in [`crate::layout`].
mod entry {
    pub(super) const STATE: usize = 0;
    pub(super) const REASON: usize = 4;
    pub(super) const CONNECTION: usize = 8;
    pub(super) const SENT: usize = 16;
    pub(super) const RECEIVED: usize = 24;
    pub(super) const AT_NS: usize = 32;
    pub(super) const HEAD: usize = 40;
}

/// A CLOSE that came by the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClosedConnection {
    /// The connection.
    pub connection: u64,
    /// Why it ended.
    pub reason: CloseReason,
    /// Final offset sent.
    pub sent: u64,
    /// Final offset received.
    pub received: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
}

fn entries() -> impl Iterator<Item = usize> {
    (0..CLOSE_ENTRIES).map(|index| CLOSE_TABLE + index * CLOSE_ENTRY_BYTES)
}

impl<M: Memory> Producer<M> {
    /// Puts a CLOSE into the table, and counts it; `false` if the table is full too.
    pub fn table_close(&self, closed: &ClosedConnection) -> bool {
        let memory = self.memory();
        let claimed = entries().find(|at| {
            // The load keeps a full table from 1,024 exchanges. The exchange pairs with the
            // Release store of FREE in `Consumer::next_closed`.
            let state = at + entry::STATE;
            memory.load_u32(state, Ordering::Relaxed) == FREE
                && memory.compare_exchange_u32(state, FREE, WRITING).is_ok()
        });
        let Some(at) = claimed else {
            memory.add_u64(control::CLOSES_LOST, 1);
            return false;
        };
        // All records of this connection are in front of this head.
        let head = memory.load_u64(control::HEAD, Ordering::Relaxed);
        let words = [
            (entry::CONNECTION, closed.connection),
            (entry::SENT, closed.sent),
            (entry::RECEIVED, closed.received),
            (entry::AT_NS, closed.at_ns),
            (entry::HEAD, head),
        ];
        for (offset, value) in words {
            memory.store_u64(at + offset, value, Ordering::Relaxed);
        }
        memory.store_u32(at + entry::REASON, closed.reason as u32, Ordering::Relaxed);
        // Pairs with the Acquire load in `Consumer::next_closed`.
        memory.store_u32(at + entry::STATE, COMPLETE, Ordering::Release);
        memory.add_u64(control::CLOSES_TABLED, 1);
        true
    }
}

impl<M: Memory> Consumer<M> {
    /// The next CLOSE of the table whose records have all been read; its entry is free afterwards.
    /// An entry that no hook writes (an unknown reason) is freed and passed over.
    pub fn next_closed(&mut self) -> Option<ClosedConnection> {
        // Pairs with the Release addition in `Producer::table_close`: its entry is seen below.
        let tabled = self
            .memory()
            .load_u64(control::CLOSES_TABLED, Ordering::Acquire);
        // Nothing new and nothing left behind: don't walk the table.
        if tabled == self.closes_seen {
            return None;
        }
        let mut waiting = false;
        for at in entries() {
            let memory = self.memory();
            // Pairs with the Release store in `Producer::table_close`.
            if memory.load_u32(at + entry::STATE, Ordering::Acquire) != COMPLETE {
                continue;
            }
            let word = |offset| memory.load_u64(at + offset, Ordering::Relaxed);
            if word(entry::HEAD) > self.position() {
                waiting = true;
                continue;
            }
            let reason = memory.load_u32(at + entry::REASON, Ordering::Relaxed);
            let closed = CloseReason::from_code(reason.into()).map(|reason| ClosedConnection {
                connection: word(entry::CONNECTION),
                reason,
                sent: word(entry::SENT),
                received: word(entry::RECEIVED),
                at_ns: word(entry::AT_NS),
            });
            // Pairs with the exchange in `Producer::table_close`.
            memory.store_u32(at + entry::STATE, FREE, Ordering::Release);
            if let Ok(closed) = closed {
                return Some(closed);
            }
        }
        if !waiting {
            self.closes_seen = tabled;
        }
        None
    }
}
