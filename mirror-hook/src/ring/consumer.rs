//! The agent's end. It trusts nothing that it reads: positions are its own, a record's word is
//! loaded once, its length is bounded, the bytes are copied out and only then looked at.

use std::sync::atomic::compiler_fence;

use super::WAKE_BYTES;
use super::cursor::{Span, behind_skip, next_lap, used};
use super::found::{
    Counters, MAX_RECORD_BYTES, Next, RawRecord, RecordBuffer, RingError, UnfinishedText,
};
use super::mem::Memory;
use crate::event::{LOOK_BYTES, MAX_ALPN, MAX_SNI, META_BYTES};
use crate::layout::{
    BOOTSTRAP_BYTES, CONTROL_BYTES, FLAG_RECEIVED, HEADER_BYTES, MAX_DATA_BYTES, MAX_PAYLOAD,
    OWNER_DIED, POLICY, POLICY_BYTES, RECORD_ALIGN, RecordWord, STATE_DETACHED, STATE_EXCLUDED,
    STATE_READY, control, kind, padded, stamp,
};
use crate::sync::Ordering;

/// Reads a ring. One a ring; it isn't shared.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    capacity: u64,
    position: u64,
    /// The last `head` that was good; it is loaded again only when that isn't enough.
    head: u64,
    taken_bytes: u64,
    /// What the producers were last told by [`Consumer::rest`].
    resting: u64,
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

    /// Takes a ring over from an agent that has ended, however that was: as [`Consumer::new`], but
    /// reads on where that one stopped. A record of which it had begun to give back the room isn't
    /// read again; it was copied out before. A CLOSE of the close table may come twice.
    ///
    /// # Errors
    /// [`RingError::BadCapacity`], [`RingError::BadHead`].
    pub fn resume(memory: M, capacity: u64) -> Result<Self, RingError> {
        Self::new(memory, capacity)?.at_tail()
    }

    /// The same in one go.
    pub(super) fn at_tail(mut self) -> Result<Self, RingError> {
        self.go_on()?;
        Ok(self)
    }

    /// As [`Consumer::resume`], for one that has read nothing yet: so that it can own the ring before
    /// it changes anything in it.
    ///
    /// # Errors
    /// [`RingError::BadHead`].
    pub fn go_on(&mut self) -> Result<(), RingError> {
        // A system call or the end of a process lies between that agent's stores and these loads.
        self.position = self.memory.load_u64(control::TAIL, Ordering::Acquire);
        let reserved = self.look_ahead()?;
        let releasing = self.memory.load_u64(control::RELEASING, Ordering::Relaxed);
        // What the application wrote here can't reach beyond what it has reserved itself.
        let begun = releasing
            .checked_sub(self.position)
            .filter(|bytes| *bytes <= reserved.min(padded(MAX_RECORD_BYTES as u64)))
            .filter(|bytes| bytes.is_multiple_of(RECORD_ALIGN));
        if let Some(length) = begun.and_then(|bytes| usize::try_from(bytes).ok()) {
            self.release(length);
        }
        Ok(())
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
            taken_bytes: 0,
            resting: 0,
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

    /// Bytes of the ring that were read, headers included. A position may be further: rests of laps
    /// were left out.
    pub fn taken_bytes(&self) -> u64 {
        self.taken_bytes
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

    /// The agent's filters exclude the process: as [`Consumer::detach`], and it is told so.
    pub fn exclude(&self) {
        self.memory
            .store_u32(control::STATE, STATE_EXCLUDED, Ordering::Release);
    }

    /// Tells the application which connections to mirror: a policy as [`crate::filter::encode`] makes
    /// it. To be called before the grant, and never again.
    pub fn set_policy(&self, policy: &[u8]) {
        self.memory
            .write(POLICY, &policy[..policy.len().min(POLICY_BYTES)]);
    }

    /// Whether the application was told this policy; empty: none.
    pub fn has_policy(&self, policy: &[u8]) -> bool {
        let mut found = [0; POLICY_BYTES];
        self.memory.read(POLICY, &mut found);
        let (told, rest) = found.split_at(policy.len().min(POLICY_BYTES));
        told == policy && rest.iter().all(|byte| *byte == 0)
    }

    /// Names the thread whose robust list holds the `owner` word (see set_robust_list(2)). False: another
    /// agent that lives reads this ring, or the application has left it; nothing has changed then.
    #[must_use]
    pub fn own(&self, thread_id: u32) -> bool {
        let owner = self.memory.load_u32(control::OWNER, Ordering::Relaxed);
        let nobody = owner == 0 || owner & OWNER_DIED != 0;
        nobody
            && self
                .memory
                .compare_exchange_u32(control::OWNER, owner, thread_id)
                .is_ok()
    }

    /// Says that the next agent gets this ring, should this one end.
    pub fn keep(&self) {
        self.memory.store_u32(control::KEPT, 1, Ordering::Release);
    }

    /// Announces that the agent is going to FUTEX_WAIT for the value 1 of the `sleeping` word.
    /// `false`: it must not, there is enough to read. Whoever wakes it clears the word; so does
    /// [`Consumer::woke`] after a timeout. A ring with less than [`crate::layout::WAKE_BYTES`] unread wakes nobody,
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
            opens_lost: word(control::OPENS_LOST),
            untold_bytes: word(control::UNTOLD_BYTES),
            excluded: word(control::EXCLUDED),
            excluded_unknown: word(control::EXCLUDED_UNKNOWN),
            missed: word(control::MISSED),
            missed_bytes: word(control::MISSED_BYTES),
        }
    }

    /// To be called when the agent leaves the ring alone for a while: tells the producers how far it has
    /// come, so that they may go back to the ring's low end.
    pub fn rest(&mut self) {
        if self.resting != self.position {
            self.resting = self.position;
            // Pairs with the Acquire load in `Producer::low_end`.
            self.memory
                .store_u64(control::RESTING_TAIL, self.position, Ordering::Release);
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
        let mut word = self.word();
        if word == 0 || !self.is_reserved() {
            // Behind the load of the word: it may have been stored by one who knew of a skip from
            // here, and is of another position then.
            let before = self.position;
            let reserved = self.look_ahead()?;
            if self.position != before {
                word = self.word();
            }
            if word == 0 {
                return Ok(self.nothing_stored(reserved));
            }
        }
        let word = RecordWord::unpack(word);
        if word.busy && !self.dead {
            return Ok(Next::Pending);
        }
        let length = self.check(word)?;
        if word.busy {
            let bytes = padded(length as u64);
            let text = (word.kind == kind::DATA).then(|| self.unfinished(word, length));
            self.release(length);
            return Ok(Next::Skipped { bytes, text });
        }
        self.copy_out(&mut buffer.0[..length]);
        self.release(length);
        let (header, body) = buffer.0[..length].split_at(HEADER_BYTES);
        Ok(Next::Record(RawRecord {
            kind: word.kind,
            flags: word.flags,
            connection: field(header, 8),
            at_ns: field(header, 16),
            body,
        }))
    }

    /// The bytes at the position, as many as `out` has; no more than the ring.
    fn copy_out(&self, out: &mut [u8]) {
        let span = Span::new(self.position, out.len(), self.capacity);
        let (first, second) = out.split_at_mut(span.first_bytes);
        self.memory.read(span.first, first);
        self.memory.read(Span::BEGIN, second);
    }

    /// What the beginning of a DATA record says that has `length` bytes, as `check` has seen.
    fn unfinished(&self, word: RecordWord, length: usize) -> UnfinishedText {
        let mut begin = [0; HEADER_BYTES + 8];
        self.copy_out(&mut begin);
        UnfinishedText {
            connection: field(&begin, 8),
            flags: word.flags,
            offset: field(&begin, HEADER_BYTES),
            length: length.saturating_sub(begin.len()) as u64,
        }
    }

    fn word(&self) -> u64 {
        let at = Span::new(self.position, 8, self.capacity).first;
        // Once. Pairs with the Release store of the commit in `Producer::write`.
        self.memory.load_u64(at, Ordering::Acquire)
    }

    /// Whether it is known that a reservation begins at the position. One that ends behind this lap may
    /// be a skip that isn't told yet.
    fn is_reserved(&self) -> bool {
        self.position < self.head && self.head <= next_lap(self.position, self.capacity)
    }

    /// Bytes reserved from the position on. If the producers have left out the rest of a lap from here
    /// on, goes to where they went on.
    fn look_ahead(&mut self) -> Result<u64, RingError> {
        // Pairs with the exchange in `Producer::reserve`: whoever came so far behind a skip that the
        // ring couldn't hold what lies between had seen it, and so do we.
        let head = self.memory.load_u64(control::HEAD, Ordering::Acquire);
        // Pairs with the Release store in `Producer::reserve`.
        let skipped = self.memory.load_u64(control::SKIPPED, Ordering::Acquire);
        let begin = behind_skip(self.position, skipped, self.capacity);
        if let Some(begin) = begin.filter(|begin| (self.position..=head).contains(begin)) {
            self.position = begin;
            // Nothing lies in between: as in `release`.
            self.memory
                .store_u64(control::TAIL, begin, Ordering::Release);
        }
        self.reserved_up_to(head)
    }

    /// The word at the position is 0: is there a reservation?
    fn nothing_stored<'b>(&mut self, reserved: u64) -> Next<'b> {
        if reserved == 0 {
            return Next::Empty;
        }
        if !self.dead {
            return Next::Pending;
        }
        self.position = self.head;
        self.taken_bytes += reserved;
        Next::TailUnknown { bytes: reserved }
    }

    fn reserved_up_to(&mut self, head: u64) -> Result<u64, RingError> {
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
            (kind::LOOK, 0) => LOOK_BYTES,
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
        if self.head.saturating_sub(position) < whole {
            let head = self.memory.load_u64(control::HEAD, Ordering::Relaxed);
            if self.reserved_up_to(head)? < whole {
                return Err(bad);
            }
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
        // From here on the record isn't whole: an agent that takes over must not read it.
        self.memory
            .store_u64(control::RELEASING, self.position + whole, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        self.memory.zero(span.first, span.first_bytes);
        self.memory.zero(Span::BEGIN, span.second_bytes);
        self.position += whole;
        self.taken_bytes += whole;
        // Gives back zeroed room: pairs with the Acquire load in `Producer::look`.
        self.memory
            .store_u64(control::TAIL, self.position, Ordering::Release);
    }
}

/// The word at `at` of a record's beginning.
fn field(record: &[u8], at: usize) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&record[at..at + 8]);
    u64::from_ne_bytes(bytes)
}
