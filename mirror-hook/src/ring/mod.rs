//! The ring: many producers in the application, one consumer in the agent, discard when full.
//!
//! ```text
//!            tail (agent)                       head (application)
//!              |                                  |
//!   ...000000  [word|payload][word|payload][BUSY..]  000000...
//!              ^ the consumer's private position
//! ```
//!
//! The format is in [`crate::layout`]. A producer reserves by compare-and-swap on `head`, stores the
//! record's word with the BUSY bit, copies, and stores the word again without it. The consumer reads
//! behind it, zeroes what it has read, and moves `tail`. Each side takes the other for hostile: it
//! checks the other's counters, keeps its own privately, and never follows what it can't bound.
//!
//! Both are generic over [`Memory`], so that loom and the oracle tests run the very same code on
//! heap memory.

mod close_table;
mod consumer;
mod cursor;
mod found;
mod mem;
mod producer;
#[cfg(test)]
mod tests;

#[cfg(not(all(test, loom)))]
use crate::layout::WAKE_BYTES;
/// One record: loom's rings have no room for more.
#[cfg(all(test, loom))]
const WAKE_BYTES: u64 = 40;

pub use close_table::ClosedConnection;
pub use consumer::Consumer;
pub use found::{
    Counters, MAX_RECORD_BYTES, Next, RawRecord, RecordBuffer, RingError, UnfinishedText,
};
pub use mem::{HeapMemory, Memory};
pub use producer::{Producer, Record, Refused};
