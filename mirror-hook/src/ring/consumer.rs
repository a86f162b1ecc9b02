//! The agent's end. It trusts nothing that it reads: positions are its own, a record's word is
//! loaded once, its length is bounded, the bytes are copied out and only then looked at.

use super::cursor::{Span, used};
use super::mem::Memory;
use crate::event::{MAX_ALPN, MAX_SNI, META_BYTES};
use crate::layout::{
    BOOTSTRAP_BYTES, CONTROL_BYTES, FLAG_RECEIVED, HEADER_BYTES, MAX_DATA_BYTES, MAX_PAYLOAD,
    RecordWord, STATE_DETACHED, STATE_READY, WAKE_BYTES, control, kind, padded, stamp,
};
use crate::sync::Ordering;

/// The longest record, its header included.
pub const MAX_RECORD_BYTES: usize = HEADER_BYTES + 8 + MAX_PAYLOAD;

/// Where records are copied to before they are looked at. One for each worker is enough.
#[derive(Debug)]
pub struct RecordBuffer(Box<[u8; MAX_RECORD_BYTES]>);

impl RecordBuffer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self(Box::new([0; MAX_RECORD_BYTES]))
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
    /// One of [`kind`].
    pub kind: u8,
    /// [`FLAG_RECEIVED`] or 0.
    pub flags: u8,
    /// The connection, by the application's count.
    pub connection: u64,
    /// CLOCK_MONOTONIC in nanoseconds, by the application.
    pub at_ns: u64,
    /// What stands behind the header.
    pub body: &'a [u8],
}

/// What [`Consumer::poll`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A record.
    Record(RawRecord<'a>),
    /// Nothing has been reserved beyond what was read.
    Empty,
    /// Something is being written: come back later.
    Pending,
    /// Only after [`Consumer::producer_died`]: this many bytes of the ring were a record that its
    /// writer never completed. They have been passed over.
    Skipped {
        /// Length of the record, its header and padding included.
        bytes: u64,
    },
    /// Only after [`Consumer::producer_died`]: the ring ends here, with this many bytes reserved by
    /// writers that had not yet said how long each record is. Comes once; then [`Next::Empty`].
    TailUnknown {
        /// Bytes of the ring up to the last reservation.
        bytes: u64,
    },
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
}

/// Reads a ring. One a ring; it isn't shared.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    capacity: u64,
    position: u64,
    /// The last `head` that was good; it is loaded again only when that isn't enough.
    head: u64,
    dead: bool,
    failed: Option<RingError>,
    pub(super) closes_seen: u64,
}

impl<M: Memory> Consumer<M> {
    /// Reads `memory` from position 0 as a ring of `capacity` bytes: what is going to be granted, a
    /// power of two from [`BOOTSTRAP_BYTES`] up to the size of the ring's region. What the
    /// application writes before the grant may be read already.
    ///
    /// # Errors
    /// [`RingError::BadCapacity`].
    pub fn new(memory: M, capacity: u64) -> Result<Self, RingError> {
        let whole = memory.length_bytes() as u64;
        let valid = capacity.is_power_of_two()
            && (BOOTSTRAP_BYTES..=MAX_DATA_BYTES).contains(&capacity)
            && CONTROL_BYTES as u64 + capacity <= whole;
        if !valid {
            return Err(RingError::BadCapacity {
                capacity,
                memory: whole,
            });
        }
        Ok(Self::unchecked(memory, capacity))
    }

    /// A ring as small as a test needs it.
    #[cfg(test)]
    pub(crate) fn small(memory: M, capacity: u64) -> Self {
        Self::unchecked(memory, capacity)
    }

    fn unchecked(memory: M, capacity: u64) -> Self {
        Self {
            memory,
            capacity,
            position: 0,
            head: 0,
            dead: false,
            failed: None,
            closes_seen: 0,
        }
    }

    /// The shared memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Position of the next record.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The capacity that this consumer reads with.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Lets the application use the whole capacity. Its pages must have been allocated.
    pub fn grant(&self) {
        self.grant_up_to(u64::MAX);
    }

    /// Lets the application use the positions below `usable_bytes`, whose pages must have been
    /// allocated; the others follow by [`Consumer::extend`], the last of them as [`u64::MAX`].
    pub fn grant_up_to(&self, usable_bytes: u64) {
        self.memory
            .store_u64(control::GRANTED_BYTES, self.capacity, Ordering::Relaxed);
        self.extend(usable_bytes);
        // Pairs with the Acquire load in `Producer::room`.
        self.memory
            .store_u32(control::STATE, STATE_READY, Ordering::Release);
    }

    /// More pages have been allocated. An application that sees this late only drops more.
    pub fn extend(&self, usable_bytes: u64) {
        self.memory
            .store_u64(control::USABLE_BYTES, usable_bytes, Ordering::Relaxed);
    }

    /// Tells the application to write no more here: the agent leaves, or refuses the ring.
    pub fn detach(&self) {
        self.memory
            .store_u32(control::STATE, STATE_DETACHED, Ordering::Release);
    }

    /// Names the thread whose robust list holds the `owner` word (see set_robust_list(2)).
    pub fn own(&self, thread_id: u32) {
        self.memory
            .store_u32(control::OWNER, thread_id, Ordering::Relaxed);
    }

    /// Announces that the agent is going to FUTEX_WAIT for the value 1 of the `sleeping` word.
    /// `false`: it must not, there is enough to read. Whoever wakes it clears the word; so does
    /// [`Consumer::woke`] after a timeout. A ring with less than [`WAKE_BYTES`] unread wakes nobody,
    /// so the wait needs a timeout.
    pub fn prepare_sleep(&self) -> bool {
        self.memory
            .store_u32(control::SLEEPING, 1, Ordering::SeqCst);
        // Sequentially consistent with the exchange of `head` and the load of `sleeping` in the
        // producer: if this doesn't see its record, it sees that we sleep.
        let head = self.memory.load_u64(control::HEAD, Ordering::SeqCst);
        if head.saturating_sub(self.position) < WAKE_BYTES {
            return true;
        }
        self.woke();
        false
    }

    /// The agent is awake.
    pub fn woke(&self) {
        self.memory
            .store_u32(control::SLEEPING, 0, Ordering::Relaxed);
    }

    /// The application's process is gone, and nothing will be written any more: from now on what
    /// was never completed is passed over instead of waited for.
    pub fn producer_died(&mut self) {
        self.dead = true;
    }

    /// What the application has counted.
    pub fn counters(&self) -> Counters {
        let word = |at| self.memory.load_u64(at, Ordering::Relaxed);
        Counters {
            dropped_records: word(control::DROPPED_RECORDS),
            dropped_bytes: word(control::DROPPED_BYTES),
            opens_deferred: word(control::OPENS_DEFERRED),
            closes_tabled: word(control::CLOSES_TABLED),
            closes_lost: word(control::CLOSES_LOST),
            not_mirrored: word(control::NOT_MIRRORED),
        }
    }

    /// Takes the next record, zeroes it in the ring and gives its room back.
    ///
    /// # Errors
    /// The ring holds what no hook writes; it is over.
    pub fn poll<'b>(&mut self, buffer: &'b mut RecordBuffer) -> Result<Next<'b>, RingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let result = self.take(buffer);
        if let Err(error) = result {
            self.failed = Some(error);
        }
        result
    }

    fn take<'b>(&mut self, buffer: &'b mut RecordBuffer) -> Result<Next<'b>, RingError> {
        let at = Span::new(self.position, 8, self.capacity).first;
        // Once. Pairs with the Release store of the commit in `Producer::write`.
        let word = self.memory.load_u64(at, Ordering::Acquire);
        if word == 0 {
            return self.nothing_stored();
        }
        let word = RecordWord::unpack(word);
        if word.busy && !self.dead {
            return Ok(Next::Pending);
        }
        let length = self.check(word)?;
        if word.busy {
            let bytes = padded(length as u64);
            self.release(length);
            return Ok(Next::Skipped { bytes });
        }
        let out = &mut buffer.0[..length];
        let span = Span::new(self.position, length, self.capacity);
        let (first, second) = out.split_at_mut(span.first_bytes);
        self.memory.read(span.first, first);
        self.memory.read(Span::BEGIN, second);
        self.release(length);
        let (header, body) = buffer.0[..length].split_at(HEADER_BYTES);
        let field = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&header[at..at + 8]);
            u64::from_ne_bytes(bytes)
        };
        Ok(Next::Record(RawRecord {
            kind: word.kind,
            flags: word.flags,
            connection: field(8),
            at_ns: field(16),
            body,
        }))
    }

    /// The word at the position is 0: is there a reservation?
    fn nothing_stored<'b>(&mut self) -> Result<Next<'b>, RingError> {
        let reserved = self.reserved()?;
        if reserved == 0 {
            return Ok(Next::Empty);
        }
        if !self.dead {
            return Ok(Next::Pending);
        }
        self.position = self.head;
        Ok(Next::TailUnknown { bytes: reserved })
    }

    /// Bytes reserved from the position on.
    fn reserved(&mut self) -> Result<u64, RingError> {
        let head = self.memory.load_u64(control::HEAD, Ordering::Relaxed);
        let reserved = used(head, self.position, self.capacity).ok_or(RingError::BadHead {
            head,
            position: self.position,
        })?;
        self.head = head;
        Ok(reserved)
    }

    /// The record's length, if it can be one.
    fn check(&mut self, word: RecordWord) -> Result<usize, RingError> {
        let position = self.position;
        if word.stamp != stamp(position) {
            return Err(RingError::BadStamp {
                position,
                stamp: word.stamp,
            });
        }
        let body = match (word.kind, word.flags) {
            (kind::OPEN | kind::UPDATE, 0) => META_BYTES..=META_BYTES + MAX_SNI + MAX_ALPN,
            (kind::DATA, 0 | FLAG_RECEIVED) => 9..=8 + MAX_PAYLOAD,
            (kind::CLOSE, 0) => 24..=24,
            (kind::LOST, 0 | FLAG_RECEIVED) => 16..=16,
            (kind, flags) => {
                return Err(RingError::BadKind {
                    position,
                    kind,
                    flags,
                });
            }
        };
        let bad = RingError::BadLength {
            position,
            kind: word.kind,
            length: word.length,
        };
        let length = usize::try_from(word.length).map_err(|_| bad)?;
        let in_bounds = length
            .checked_sub(HEADER_BYTES)
            .is_some_and(|length| body.contains(&length));
        if !in_bounds {
            return Err(bad);
        }
        let whole = padded(length as u64);
        if self.head.saturating_sub(position) < whole && self.reserved()? < whole {
            return Err(bad);
        }
        Ok(length)
    }

    /// Zeroes the record at the position and gives its room back.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "a padded record length, which came from a usize"
    )]
    fn release(&mut self, length: usize) {
        let whole = padded(length as u64);
        let span = Span::new(self.position, whole as usize, self.capacity);
        self.memory.zero(span.first, span.first_bytes);
        self.memory.zero(Span::BEGIN, span.second_bytes);
        self.position += whole;
        // Gives back zeroed room: pairs with the Acquire load in `Producer::look`.
        self.memory
            .store_u64(control::TAIL, self.position, Ordering::Release);
    }
}
