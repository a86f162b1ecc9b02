//! The application's end: reserve, mark, copy, commit. Lock-free; any number of threads.

use std::sync::atomic::compiler_fence;

use super::WAKE_BYTES;
use super::cursor::{Span, behind_skip, next_lap, used};
use super::mem::Memory;
use crate::layout::{
    BOOTSTRAP_BYTES, CONTROL_BYTES, HEADER_BYTES, MAX_DATA_BYTES, OWNER_DIED, OWNER_LEFT,
    RecordWord, STATE_DETACHED, STATE_EXCLUDED, STATE_READY, STATE_WAITING, control, padded, stamp,
};
use crate::sync::{AtomicU64, Ordering};

/// What a CLOSE takes: its header, two offsets and the reason.
const CLOSE_BYTES: u64 = padded((HEADER_BYTES + 24) as u64);

/// How often the counters are read again while other producers move them. After that the record is
/// dropped: nobody waits here.
const LOOKS: u32 = 8;

/// How often a reservation is tried that others come before. Far more than there are threads, so that
/// in a good ring nothing is lost; in one that somebody keeps changing the caller goes on.
const TRIES: u32 = 1000;

/// A drained ring is used again from its low end once this much of a lap is behind the head: so much
/// stays in the caches of both ends' cores.
const LOW_END_BYTES: u64 = 64 * 1024;

/// Writes records. See [`crate::layout`] for what it writes.
///
/// Each OPEN keeps room for its CLOSE, so that a connection that was announced is heard to end, and where
/// each of its streams ended, however full the ring is and however long the agent doesn't read:
///
/// ```text
///   |<------------------------- capacity ------------------------->|
///   |  used: all kinds of records       | free |   kept           |
///                                       ^ others stop here: Full  ^ CLOSEs go on to here
/// ```
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    data_bytes: u64,
    bootstrap_bytes: u64,
    /// Bytes of the ring that only CLOSEs may take: `CLOSE_BYTES` for each connection that is open.
    kept: AtomicU64,
    low_end_bytes: u64,
    /// The last tail that was seen: the agent's is looked at only when this one leaves no room, since
    /// its cache line is the agent's while it reads.
    seen_tail: AtomicU64,
}

/// Which room a record may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
    /// What isn't kept.
    Free,
    /// What its connection's OPEN has kept for it, too.
    Kept,
}

/// What stands before a record's own part.
#[derive(Clone, Copy, Debug)]
pub struct Record {
    /// One of [`crate::layout::kind`].
    pub kind: u8,
    /// [`crate::layout::FLAG_RECEIVED`] or 0.
    pub flags: u8,
    /// The connection, counted from 1.
    pub connection: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub at_ns: u64,
}

/// Why a record wasn't written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It doesn't fit now.
    #[error("the ring has no room")]
    Full,
    /// The agent has left: this ring is over.
    #[error("the agent has left this ring")]
    Detached,
    /// The control page holds what no agent writes: never use this ring again.
    #[error("the ring's control page has been corrupted")]
    Hostile,
}

impl<M: Memory> Producer<M> {
    /// A producer for `memory`, whose ring has `data_bytes` (a power of two from
    /// [`BOOTSTRAP_BYTES`] to [`MAX_DATA_BYTES`]); `None` if it hasn't.
    pub fn new(memory: M, data_bytes: u64) -> Option<Self> {
        let whole = memory.length_bytes().checked_sub(CONTROL_BYTES)?;
        let valid = data_bytes.is_power_of_two()
            && (BOOTSTRAP_BYTES..=MAX_DATA_BYTES).contains(&data_bytes)
            && data_bytes <= whole as u64;
        valid.then_some(Self {
            memory,
            data_bytes,
            bootstrap_bytes: BOOTSTRAP_BYTES,
            kept: AtomicU64::new(0),
            low_end_bytes: LOW_END_BYTES,
            seen_tail: AtomicU64::new(0),
        })
    }

    /// As [`Producer::new`], where the agent has promised to grant all of it: all may be used at once.
    pub fn promised(memory: M, data_bytes: u64) -> Option<Self> {
        Self::new(memory, data_bytes).map(|producer| Self {
            bootstrap_bytes: data_bytes,
            ..producer
        })
    }

    /// A ring as small as a test needs it; everything below `data_bytes` may be used at once.
    #[cfg(test)]
    pub(crate) fn small(memory: M, data_bytes: u64) -> Self {
        Self {
            memory,
            data_bytes,
            bootstrap_bytes: data_bytes,
            kept: AtomicU64::new(0),
            low_end_bytes: u64::MAX,
            seen_tail: AtomicU64::new(0),
        }
    }

    /// The same, which goes back to its low end when that many bytes of a lap are behind it.
    #[cfg(test)]
    pub(crate) fn small_returning(memory: M, data_bytes: u64, low_end_bytes: u64) -> Self {
        Self {
            low_end_bytes,
            ..Self::small(memory, data_bytes)
        }
    }

    /// The same with a bootstrap region.
    #[cfg(all(test, loom))]
    pub(crate) fn small_from(memory: M, data_bytes: u64, bootstrap_bytes: u64) -> Self {
        Self {
            bootstrap_bytes,
            ..Self::small(memory, data_bytes)
        }
    }

    /// The shared memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Whether the agent has left: nothing will ever be read from here again.
    pub fn detached(&self) -> bool {
        matches!(self.room(), Err(Refused::Detached))
    }

    /// Whether the agent is gone and the next one is to get this ring.
    pub fn orphaned(&self) -> bool {
        self.owner() & OWNER_DIED != 0 && self.kept()
    }

    /// Gives up waiting for the next agent. False: it is there, or this ring isn't orphaned.
    pub fn leave(&self) -> bool {
        let owner = self.owner();
        // Only one of us gets it: the next agent exchanges the same word, see `Consumer::own`.
        owner & OWNER_DIED != 0
            && self
                .memory
                .compare_exchange_u32(control::OWNER, owner, OWNER_LEFT)
                .is_ok()
    }

    fn owner(&self) -> u32 {
        self.memory.load_u32(control::OWNER, Ordering::Relaxed)
    }

    #[cold]
    fn kept(&self) -> bool {
        // Stored before the agent died, which the kernel told by `owner`.
        self.memory.load_u32(control::KEPT, Ordering::Relaxed) == 1
    }

    /// Whether the agent has answered and given this ring its pages.
    pub fn ready(&self) -> bool {
        self.memory.load_u32(control::STATE, Ordering::Acquire) == STATE_READY
    }

    /// Whether a record with `body_bytes` behind its header would fit now.
    pub fn fits(&self, body_bytes: usize) -> bool {
        let length = padded((HEADER_BYTES + body_bytes) as u64);
        let fits = |room| self.look(room, length, Taking::Free).is_ok();
        self.room().is_ok_and(fits)
    }

    /// Whether an OPEN with `body_bytes` behind its header would fit now, and the CLOSE that follows it.
    pub fn fits_open(&self, body_bytes: usize) -> bool {
        let length = padded((HEADER_BYTES + body_bytes) as u64) + CLOSE_BYTES;
        let fits = |room: Room| {
            let kept = self.kept.load(Ordering::Relaxed) + CLOSE_BYTES;
            kept <= room.most_kept() && self.look(room, length, Taking::Free).is_ok()
        };
        self.room().is_ok_and(fits)
    }

    /// Whether at least half of the ring is free: for records that matter less than clear text.
    pub fn is_half_empty(&self) -> bool {
        let half = |room: Room| room.capacity.min(room.last) / 2;
        let is_free = |room| self.look(room, half(room), Taking::Free).is_ok();
        self.room().is_ok_and(is_free)
    }

    /// Writes one record whose body is `parts` one behind the other. It is whole for the consumer,
    /// or not there at all.
    ///
    /// # Errors
    /// See [`Refused`]; nothing has been written then.
    pub fn write(&self, record: Record, parts: &[&[u8]]) -> Result<(), Refused> {
        self.put(record, parts, Taking::Free)
    }

    /// As [`Producer::write`], for the OPEN of a connection: it keeps room for [`Producer::close`],
    /// which has to follow. At most half of the ring is kept so.
    ///
    /// # Errors
    /// As above; no room is kept then.
    pub fn open(&self, record: Record, parts: &[&[u8]]) -> Result<(), Refused> {
        // Before the reservation: see `look`.
        let kept = self.kept.fetch_add(CLOSE_BYTES, Ordering::Relaxed) + CLOSE_BYTES;
        let written = self.room().and_then(|room| {
            let fits = kept <= room.most_kept();
            fits.then_some(()).ok_or(Refused::Full)?;
            self.put(record, parts, Taking::Free)
        });
        if written.is_err() {
            self.kept.fetch_sub(CLOSE_BYTES, Ordering::Relaxed);
        }
        written
    }

    /// As [`Producer::write`], for the CLOSE that ends a connection which [`Producer::open`] announced:
    /// there is room for it.
    ///
    /// # Errors
    /// As above; [`Refused::Full`] only where other producers never let it come through.
    pub fn close(&self, record: Record, parts: &[&[u8]]) -> Result<(), Refused> {
        let written = self.put(record, parts, Taking::Kept);
        // Behind the reservation: see `look`.
        self.kept.fetch_sub(CLOSE_BYTES, Ordering::Relaxed);
        written
    }

    fn put(&self, record: Record, parts: &[&[u8]], taking: Taking) -> Result<(), Refused> {
        let body: usize = parts.iter().map(|part| part.len()).sum();
        let length = HEADER_BYTES + body;
        let Ok(length_word) = u32::try_from(length) else {
            return Err(Refused::Full);
        };
        let room = self.room()?;
        let (position, in_use) = self.reserve(room, padded(length as u64), taking)?;

        let mut word = RecordWord {
            busy: true,
            stamp: stamp(position),
            flags: record.flags,
            kind: record.kind,
            length: length_word,
        };
        let span = Span::new(position, length, room.capacity);
        // Tells the agent the record's length should this process die in the copy.
        self.memory
            .store_u64(span.first, word.pack(), Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
        let fixed = [record.connection, record.at_ns].map(u64::to_ne_bytes);
        if span.second_bytes == 0 {
            // Nearly all: none is looked at twice.
            self.memory.write(span.first + 8, &fixed[0]);
            self.memory.write(span.first + 16, &fixed[1]);
            let mut at = span.first + HEADER_BYTES;
            for part in parts {
                self.memory.write(at, part);
                at += part.len();
            }
        } else {
            let mut at = 8;
            for part in fixed
                .iter()
                .map(|word| &word[..])
                .chain(parts.iter().copied())
            {
                self.copy(span, &mut at, part);
            }
        }
        word.busy = false;
        // Publishes the copy: pairs with the Acquire load of the word in `Consumer::poll`.
        self.memory
            .store_u64(span.first, word.pack(), Ordering::Release);
        self.wake(in_use);
        Ok(())
    }

    fn copy(&self, span: Span, at: &mut usize, bytes: &[u8]) {
        let before_end = span.first_bytes.saturating_sub(*at).min(bytes.len());
        let (first, second) = bytes.split_at(before_end);
        if !first.is_empty() {
            self.memory.write(span.first + *at, first);
        }
        if !second.is_empty() {
            let wrapped = (*at + before_end).saturating_sub(span.first_bytes);
            self.memory.write(Span::BEGIN + wrapped, second);
        }
        *at += bytes.len();
    }

    /// What the agent lets us use now.
    fn room(&self) -> Result<Room, Refused> {
        // Pairs with the Release store in `Consumer::grant_up_to`: what is granted is valid with READY.
        let state = self.memory.load_u32(control::STATE, Ordering::Acquire);
        // Not a thread's id: the agent is gone. What is kept for the next one is written all the same.
        if self.owner() >= OWNER_LEFT && !self.orphaned() {
            return Err(Refused::Detached);
        }
        match state {
            STATE_WAITING => Ok(Room {
                capacity: self.data_bytes,
                last: self.bootstrap_bytes,
            }),
            STATE_READY => {
                let granted = self
                    .memory
                    .load_u64(control::GRANTED_BYTES, Ordering::Relaxed);
                let valid = granted.is_power_of_two()
                    && (self.bootstrap_bytes..=self.data_bytes).contains(&granted);
                valid
                    .then_some(Room {
                        capacity: granted,
                        // Any value will do: a wrong one wastes the ring or this process's memory.
                        last: self
                            .memory
                            .load_u64(control::USABLE_BYTES, Ordering::Relaxed)
                            .max(self.bootstrap_bytes),
                    })
                    .ok_or(Refused::Hostile)
            }
            STATE_DETACHED | STATE_EXCLUDED => Err(Refused::Detached),
            _ => Err(Refused::Hostile),
        }
    }

    /// Head and bytes in use, if `length` more fit.
    ///
    /// `kept` is loaded behind the head. An OPEN raises it before its reservation moves the head, a
    /// CLOSE lowers it behind its own: so at this head no more connections were open than are counted
    /// here, and at another one the reservation fails and looks again.
    fn look(&self, room: Room, length: u64, taking: Taking) -> Result<(u64, u64), Refused> {
        // The tail first: it only grows, so room seen with an old one is room. Pairs with the Release
        // store in `tail`: what that thread saw zeroed is zeroed for this one.
        let tail = self.seen_tail.load(Ordering::Acquire);
        let head = self.head();
        let needed = length + self.kept_from(taking);
        match used(head, tail, room.capacity) {
            Some(used) if room.has(head, used, needed) => Ok((head, used)),
            _ => self.look_closely(room, length, taking),
        }
    }

    /// The same with the agent's tail.
    #[cold]
    fn look_closely(&self, room: Room, length: u64, taking: Taking) -> Result<(u64, u64), Refused> {
        let tail = self.tail(room);
        let mut head = self.head();
        let used = match used(head, tail, room.capacity) {
            Some(used) => used,
            None => self.look_again(room, &mut head)?,
        };
        let fits = room.has(head, used, length + self.kept_from(taking));
        fits.then_some((head, used)).ok_or(Refused::Full)
    }

    /// The two counters didn't fit each other. They may be of different times: others came through
    /// between the loads. Between two equal heads they aren't. Whoever moved head that far had seen
    /// the tail that allows it, and so do we behind an Acquire load of that head; and a tail is never
    /// in front of the head that is loaded behind it. What doesn't fit then fits no real ring.
    #[cold]
    fn look_again(&self, room: Room, head: &mut u64) -> Result<u64, Refused> {
        for _ in 0..LOOKS {
            let tail = self.tail(room);
            let before = *head;
            *head = self.head();
            if *head == before {
                return used(before, tail, room.capacity).ok_or(Refused::Hostile);
            }
        }
        Err(Refused::Full)
    }

    /// Up to where all has been read and zeroed.
    fn tail(&self, room: Room) -> u64 {
        // Pairs with the Release store in `Consumer::release`: what is reserved from here on has
        // been zeroed.
        let tail = self.memory.load_u64(control::TAIL, Ordering::Acquire);
        // Pairs with the Release store in `reserve`: the head that is loaded next is behind the skip.
        let skipped = self.memory.load_u64(control::SKIPPED, Ordering::Acquire);
        let tail = behind_skip(tail, skipped, room.capacity).unwrap_or(tail);
        // Pairs with the Acquire load in `look`.
        self.seen_tail.store(tail, Ordering::Release);
        tail
    }

    fn head(&self) -> u64 {
        // Pairs with the exchange in `reserve`, see `look_again`.
        self.memory.load_u64(control::HEAD, Ordering::Acquire)
    }

    fn reserve(&self, room: Room, length: u64, taking: Taking) -> Result<(u64, u64), Refused> {
        for _ in 0..TRIES {
            let (head, used) = self.look(room, length, taking)?;
            let low_end = self.low_end(room, head, length);
            let (begin, used) = low_end.map_or((head, used), |begin| (begin, 0));
            // Sequentially consistent with the loads of `sleeping` here and of `head` in
            // `Consumer::prepare_sleep`: one of the two sees the other.
            let swap = self
                .memory
                .compare_exchange_u64(control::HEAD, head, begin + length);
            // It fails only because another producer came through, or in corrupt memory.
            if swap.is_err() {
                continue;
            }
            if low_end.is_some() {
                // Pairs with the Acquire loads in `tail` and in `Consumer::look_ahead`. Nobody else
                // skips until the agent has followed, since the ring isn't drained before.
                self.memory
                    .store_u64(control::SKIPPED, head, Ordering::Release);
                // Pairs with the Acquire load in `look`.
                self.seen_tail.store(begin, Ordering::Release);
            }
            return Ok((begin, used + length));
        }
        Err(Refused::Full)
    }

    /// Bytes that a record mustn't take. To be loaded behind the head.
    fn kept_from(&self, taking: Taking) -> u64 {
        match taking {
            Taking::Free => self.kept.load(Ordering::Relaxed),
            Taking::Kept => 0,
        }
    }

    /// The beginning of the next lap, if the low end is to be used again. `length` more must fit from
    /// there on, and together with what is kept also beside what is left out, as long as others
    /// don't know of that.
    fn low_end(&self, room: Room, head: u64, length: u64) -> Option<u64> {
        let behind = head & (room.capacity - 1);
        if behind < self.low_end_bytes {
            return None;
        }
        let needed = length + self.kept_from(Taking::Free);
        if behind < needed {
            return None;
        }
        // Pairs with the Release store in `Consumer::rest`: all of the ring has been zeroed. The tail would
        // say so too, but its cache line is the agent's while it reads.
        let drained = self
            .memory
            .load_u64(control::RESTING_TAIL, Ordering::Acquire)
            == head;
        let begin = next_lap(head, room.capacity);
        (drained && begin > head && room.has(begin, 0, needed)).then_some(begin)
    }

    fn wake(&self, in_use: u64) {
        if in_use < WAKE_BYTES || self.memory.load_u32(control::SLEEPING, Ordering::SeqCst) != 1 {
            return;
        }
        // Whoever clears it wakes: one system call for one sleep, and no sleep on a stale word.
        if self
            .memory
            .compare_exchange_u32(control::SLEEPING, 1, 0)
            .is_ok()
        {
            self.memory.wake(control::SLEEPING);
        }
    }
}

/// What may be used.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Size of the ring.
    capacity: u64,
    /// No position beyond this one.
    last: u64,
}

impl Room {
    /// The rest is for what connections say.
    fn most_kept(self) -> u64 {
        self.capacity.min(self.last) / 2
    }

    /// Whether `needed` more bytes fit behind the head, where `used` bytes are in use.
    fn has(self, head: u64, used: u64, needed: u64) -> bool {
        let end = head.checked_add(needed);
        end.is_some_and(|end| end <= self.last) && used + needed <= self.capacity
    }
}
