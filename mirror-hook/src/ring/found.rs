//! What the agent's end finds in a ring: records as they came, and what is wrong with them.

use crate::layout::{HEADER_BYTES, MAX_PAYLOAD};

/// The longest record, its header included.
pub const MAX_RECORD_BYTES: usize = HEADER_BYTES + 8 + MAX_PAYLOAD;

/// Where records are copied to before they are looked at. One for each worker is enough.
#[derive(Debug)]
pub struct RecordBuffer(pub(super) Box<[u8; MAX_RECORD_BYTES]>);

impl RecordBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self(Box::new([0; MAX_RECORD_BYTES]))
    }

    /// Forgets the clear text of the last record.
    pub fn wipe(&mut self) {
        self.0.fill(0);
        // Seen by somebody, so that it isn't left out.
        std::hint::black_box(&mut self.0);
    }
}

impl Default for RecordBuffer {
    fn default() -> Self {
        Self::new()
    }
}

/// A record as it came: its length and kind are in bounds, nothing else has been checked. Parse
/// `body` with [`crate::event::Body::parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// One of [`crate::layout::kind`].
    pub kind: u8,
    /// [`crate::layout::FLAG_RECEIVED`] or 0.
    pub flags: u8,
    /// The connection, by the application's count.
    pub connection: u64,
    /// CLOCK_MONOTONIC in nanoseconds, by the application.
    pub at_ns: u64,
    /// What stands behind the header.
    pub body: &'a [u8],
}

/// What [`Consumer::poll`](super::Consumer::poll) found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A record.
    Record(RawRecord<'a>),
    /// Nothing has been reserved beyond what was read.
    Empty,
    /// Something is being written: come back later.
    Pending,
    /// Only after [`Consumer::producer_died`](super::Consumer::producer_died): this many bytes of the ring were a record that its
    /// writer never completed. They have been passed over.
    Skipped {
        /// Length of the record, its header and padding included.
        bytes: u64,
        /// What is known of the text that was to be in it, if any.
        text: Option<UnfinishedText>,
    },
    /// Only after [`Consumer::producer_died`](super::Consumer::producer_died): the ring ends here, with this many bytes reserved by
    /// writers that had not yet said how long each record is. Comes once; then [`Next::Empty`].
    TailUnknown {
        /// Bytes of the ring up to the last reservation.
        bytes: u64,
    },
}

/// A DATA record whose writer was killed in the middle of it. What stands in front of the text was
/// written first, so it is there where the text was begun; else these words are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfinishedText {
    /// The connection, by the application's count; 0: not written yet.
    pub connection: u64,
    /// [`crate::layout::FLAG_RECEIVED`] or 0.
    pub flags: u8,
    /// Stream offset of the first byte; 0 may mean that it wasn't written yet.
    pub offset: u64,
    /// Bytes that the record was to hold.
    pub length: u64,
}

/// The ring holds what no hook writes. It is over: every later call says the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The capacity isn't a power of two within the bounds, or the memory is smaller.
    #[error("a ring can't have {capacity} bytes in a memory of {memory} bytes")]
    BadCapacity {
        /// What was asked for.
        capacity: u64,
        /// Bytes of the memory, the control pages included.
        memory: u64,
    },
    /// `head` is behind the position, unaligned, or further away than the ring is long.
    #[error("head {head} can't be at position {position}")]
    BadHead {
        /// What stood in the control page.
        head: u64,
        /// The consumer's own position.
        position: u64,
    },
    /// The record's word belongs to another position.
    #[error("the record at position {position} has the stamp {stamp}")]
    BadStamp {
        /// The consumer's own position.
        position: u64,
        /// What the word says.
        stamp: u16,
    },
    /// There is no such kind, or no such flag of it.
    #[error("the record at position {position} has kind {kind} and flags {flags}")]
    BadKind {
        /// The consumer's own position.
        position: u64,
        /// What the word says.
        kind: u8,
        /// What the word says.
        flags: u8,
    },
    /// No record of this kind has this length, or it ends beyond what has been reserved.
    #[error("the record of kind {kind} at position {position} has {length} bytes")]
    BadLength {
        /// The consumer's own position.
        position: u64,
        /// What the word says.
        kind: u8,
        /// What the word says.
        length: u32,
    },
}

/// What the application has counted. It may write anything here: for statistics only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// DATA records that found no room.
    pub dropped_records: u64,
    /// Clear text bytes in them.
    pub dropped_bytes: u64,
    /// OPENs that found no room at first.
    pub opens_deferred: u64,
    /// CLOSEs that went into the close table.
    pub closes_tabled: u64,
    /// CLOSEs that found no room there either.
    pub closes_lost: u64,
    /// Sessions on a transport that isn't forged.
    pub not_mirrored: u64,
    /// Of the OPENs that found no room, those whose connection ended before there was some.
    pub opens_lost: u64,
    /// Clear text bytes of these connections.
    pub untold_bytes: u64,
    /// Sessions that the policy excludes.
    pub excluded: u64,
    /// … of these, for want of a fact that the policy asks for.
    pub excluded_unknown: u64,
    /// Sessions that said something before there was this ring, and nothing behind that.
    pub missed: u64,
    /// Clear text bytes of these.
    pub missed_bytes: u64,
}
