//! The shared memory between an application and the agent, byte by byte.
//!
//! The application makes one sealed memfd a process and sends it to the agent. Both map it. All
//! integers are in the byte order of the machine: both ends run on it. A change of anything here is
//! a change of [`ABI_VERSION`].
//!
//! ```text
//!   0        4 KiB          16 KiB          64 KiB                       64 KiB + data_bytes
//!   +---------+---------------+---------------+------------------------------+
//!   | control | policy        | close table   | ring of records              |
//!   +---------+---------------+---------------+------------------------------+
//!     1 page    3 pages         1,024 entries   a power of two, at least 64 KiB
//! ```
//!
//! # Control page
//!
//! One cache line for each writer, so that no two parties write to one line:
//!
//! ```text
//!   offset  type  writer     name
//!   0       u64   app        magic                "TLSMIRR1"; written last before the memfd is sent
//!   8       u32   app        abi_version
//!   12      u32   app        control_bytes        = CONTROL_BYTES
//!   16      u64   app        data_bytes           size of the ring's region in the file
//!   24      u64   app        instance             of this ring; unique on the machine, never 0
//!   32      u64   app        parent_instance      of the ring of the process that forked us, or 0
//!   40      u32   app        forks                times that the process has forked by fork(3)
//!   64      u64   producers  head                 position behind the last reservation
//!   72      u64   producers  skipped              the last position from which on the rest of a lap was left
//!                                                 out, see below
//!   128     u64   agent      tail                 position up to which records are read and zeroed
//!   136     u64   agent      releasing            end of the record that is being zeroed: should the agent
//!                                                 end between that and tail, the next one goes on here
//!   192     u32   agent      state                STATE_*
//!   196     u32   agent      sleeping             1: the agent sleeps in FUTEX_WAIT on this word; the
//!                                                 producer that wakes it sets 0 first
//!   200     u64   agent      granted_bytes        the capacity, valid once state is STATE_READY
//!   208     u32   kernel     owner                robust futex: thread id of the agent's owner thread;
//!                                                 the kernel sets FUTEX_OWNER_DIED when it is gone.
//!                                                 OWNER_LEFT: the application has left the ring. Whoever
//!                                                 takes the ring, or leaves it for good, exchanges this
//!                                                 word, so that only one does
//!   216     u64   agent      usable_bytes         positions below it may be used, valid with STATE_READY;
//!                                                 u64::MAX once all of the capacity is allocated
//!   224     u32   agent      wait_ms              for debugging: how long a call may wait where the ring
//!                                                 is full; 0: not at all. Obeyed only by a process that
//!                                                 was started to (see `config`)
//!   228     u32   agent      kept                 1: the agent's service manager keeps this ring, so that
//!                                                 the next agent gets it; until then it is written to
//!   232     u64   agent      resting_tail         tail as it was when the agent last stopped reading for a
//!                                                 while: producers look at it often, so it changes seldom
//!   256     u64   producers  dropped_records      records that found no room: DATA, ends of one direction
//!   264     u64   producers  dropped_bytes        clear text bytes in them
//!   272     u64   producers  opens_deferred       OPENs that found no room (they come later)
//!   280     u64   producers  closes_tabled        CLOSEs written to the close table so far
//!   288     u64   producers  closes_lost          CLOSEs for which the table had no room either
//!   296     u64   producers  not_mirrored         sessions on a transport that isn't forged (DTLS, QUIC)
//!   304     u64   producers  opens_lost           of the deferred: ended before there was room, no record tells
//!   312     u64   producers  untold_bytes         clear text bytes of these sessions, both directions
//!   320     u64   producers  excluded             sessions that the policy excludes
//!   328     u64   producers  excluded_unknown     of these, for want of a fact that the policy asks for
//!   336     u64   producers  missed               sessions that said something before there was this ring, and nothing
//!                                                 behind that: no record tells
//!   344     u64   producers  missed_bytes         clear text bytes of these sessions, both directions
//! ```
//!
//! # Policy
//!
//! Which connections are to be mirrored; drawn in [`crate::filter`]. The agent writes it before
//! STATE_READY and never again: who changes its mind ends this ring (STATE_DETACHED), and its process
//! asks anew. Zeros are no policy: everything is mirrored.
//!
//! # Positions
//!
//! A position is a count of bytes since the ring began; it never wraps in practice (u64). The byte of
//! position `p` lies at `CONTROL_BYTES + p % granted_bytes`. Before the agent has set STATE_READY the
//! producers may use positions below [`BOOTSTRAP_BYTES`] only: those lie at the same place under every
//! capacity, so that the grant moves nothing. Zeroing many pages takes the agent milliseconds, so it
//! grants the capacity at once and raises `usable_bytes` as it allocates them.
//!
//! What is hot in the caches is what has been used last. So a producer that finds the ring drained
//! (`head` = `resting_tail`, and so = `tail`) and its low end behind it goes back there: it reserves from the next multiple of
//! `granted_bytes` on, and then stores the `head` that it found in `skipped`. Nothing lies between the
//! two. While `tail` = `skipped` (and is no multiple of `granted_bytes`, where no skip begins) all that
//! is in front of that multiple has been read and zeroed; the agent goes on there.
//!
//! # Records
//!
//! Each record begins at a multiple of 8 with a word that is also its commit flag:
//!
//! ```text
//!   bit 63     BUSY: the reservation's owner is still copying
//!   bits 48-62 stamp: the low 15 bits of position / 8
//!   bits 40-47 flags: FLAG_RECEIVED
//!   bits 32-39 kind: KIND_*
//!   bits 0-31  length in bytes, this word included, without the padding to 8
//! ```
//!
//! A word of 0 means that nobody has stored it yet. The consumer zeroes what it has read before it
//! moves `tail`, so every reservation begins as zeros. Behind the word, for every kind:
//!
//! ```text
//!   8   u64  connection, counted from 1 in this ring, never used again
//!   16  u64  CLOCK_MONOTONIC in nanoseconds
//!   24  the kind's own part, see `event`
//! ```
//!
//! A record that meets the ring's end goes on at its beginning.
//!
//! Each OPEN keeps room for the CLOSE that ends its connection, by the application's own account: no other
//! record is written where that would not be left. So at most half of a ring is for CLOSEs, and
//! a ring of 1 MiB can mirror 10,922 connections at a time.
//!
//! # Close table
//!
//! For the CLOSE that other threads keep from its room again and again: nobody waits in the hook.
//!
//! ```text
//!   0   u32  state: 0 free, 1 being written, 2 complete (the agent frees it)
//!   4   u32  reason: CloseReason
//!   8   u64  connection
//!   16  u64  final offset sent
//!   24  u64  final offset received
//!   32  u64  CLOCK_MONOTONIC in nanoseconds
//!   40  u64  head when it was written: valid once the agent has read that far
//! ```

/// First word of the control page: `TLSMIRR1` as bytes.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"TLSMIRR1");
/// Raised whenever anything in this module or in [`crate::event`] changes its meaning.
pub const ABI_VERSION: u32 = 1;

/// Bytes in front of the ring: control page, policy pages and close table.
pub const CONTROL_BYTES: usize = 64 * 1024;
/// Smallest ring, and the part that a producer may use before the agent has answered.
pub const BOOTSTRAP_BYTES: u64 = 64 * 1024;
/// Largest ring.
pub const MAX_DATA_BYTES: u64 = 64 * 1024 * 1024;
/// The region an application asks for; sparse, so what isn't granted costs nothing.
pub const DEFAULT_DATA_BYTES: u64 = 16 * 1024 * 1024;
/// Alignment of records.
pub const RECORD_ALIGN: u64 = 8;
/// Most clear text bytes in one DATA record; larger calls become several records.
pub const MAX_PAYLOAD: usize = 16 * 1024;
/// A producer wakes a sleeping agent when this much is unread.
pub const WAKE_BYTES: u64 = 64 * 1024;

/// Offsets in the control page, as drawn in the module's documentation.
#[allow(missing_docs, reason = "named and typed in the module's drawing")]
pub mod control {
    pub const MAGIC: usize = 0;
    pub const ABI_VERSION: usize = 8;
    pub const CONTROL_BYTES: usize = 12;
    pub const DATA_BYTES: usize = 16;
    pub const INSTANCE: usize = 24;
    pub const PARENT_INSTANCE: usize = 32;
    pub const FORKS: usize = 40;
    pub const HEAD: usize = 64;
    pub const SKIPPED: usize = 72;
    pub const TAIL: usize = 128;
    pub const RELEASING: usize = 136;
    pub const STATE: usize = 192;
    pub const SLEEPING: usize = 196;
    pub const GRANTED_BYTES: usize = 200;
    pub const OWNER: usize = 208;
    pub const USABLE_BYTES: usize = 216;
    pub const WAIT_MS: usize = 224;
    pub const KEPT: usize = 228;
    pub const RESTING_TAIL: usize = 232;
    pub const DROPPED_RECORDS: usize = 256;
    pub const DROPPED_BYTES: usize = 264;
    pub const OPENS_DEFERRED: usize = 272;
    pub const CLOSES_TABLED: usize = 280;
    pub const CLOSES_LOST: usize = 288;
    pub const NOT_MIRRORED: usize = 296;
    pub const OPENS_LOST: usize = 304;
    pub const UNTOLD_BYTES: usize = 312;
    pub const EXCLUDED: usize = 320;
    pub const EXCLUDED_UNKNOWN: usize = 328;
    pub const MISSED: usize = 336;
    pub const MISSED_BYTES: usize = 344;
}

/// The agent hasn't answered yet: positions below [`BOOTSTRAP_BYTES`] may be used.
pub const STATE_WAITING: u32 = 0;
/// The agent has allocated `granted_bytes` and reads.
pub const STATE_READY: u32 = 1;
/// The agent left in good order, or refused: write no more, and ask again later.
pub const STATE_DETACHED: u32 = 2;

/// The agent's filters exclude this process: write no more. When it asks again, at whomever, it keeps its
/// text to itself until it has an answer.
pub const STATE_EXCLUDED: u32 = 3;

/// Set by the kernel in `owner` when the agent's thread has ended (FUTEX_OWNER_DIED, futex(2)).
pub const OWNER_DIED: u32 = 0x4000_0000;
/// Stands in `owner` when the application has given up waiting for the next agent. No thread's id.
pub const OWNER_LEFT: u32 = 0x3fff_ffff;

/// The longest that a call waits where the ring is full, whatever anybody says, in milliseconds.
pub const MAX_WAIT_MS: u32 = 10_000;

/// First byte of the policy pages.
pub const POLICY: usize = 4096;
/// Size of the policy pages.
pub const POLICY_BYTES: usize = CLOSE_TABLE - POLICY;
/// First byte of the close table.
pub const CLOSE_TABLE: usize = 16 * 1024;
/// Bytes of one entry of the close table: 48, of which each is 8-aligned.
pub const CLOSE_ENTRY_BYTES: usize = 48;
/// Number of entries of the close table.
pub const CLOSE_ENTRIES: usize = (CONTROL_BYTES - CLOSE_TABLE) / CLOSE_ENTRY_BYTES;

/// Bytes that every record has before its own part.
pub const HEADER_BYTES: usize = 24;

/// Kinds of records, in bits 32-39 of the record word.
#[allow(missing_docs, reason = "named and described in `event`")]
pub mod kind {
    pub const OPEN: u8 = 1;
    pub const UPDATE: u8 = 2;
    pub const DATA: u8 = 3;
    pub const CLOSE: u8 = 4;
    pub const LOST: u8 = 5;
    pub const LOOK: u8 = 6;
}

/// The DATA or LOST record speaks of the direction that the process receives.
pub const FLAG_RECEIVED: u8 = 1;

const BUSY: u64 = 1 << 63;
const STAMP_MASK: u64 = 0x7fff;

/// The first word of a record, decoded. See the module's documentation for its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordWord {
    /// The owner of the reservation is still copying.
    pub busy: bool,
    /// Low 15 bits of position / 8.
    pub stamp: u16,
    /// [`FLAG_RECEIVED`] or 0.
    pub flags: u8,
    /// One of [`kind`].
    pub kind: u8,
    /// Bytes of the record, its header included, without padding.
    pub length: u32,
}

impl RecordWord {
    /// The word as it is stored in the ring.
    pub const fn pack(self) -> u64 {
        (if self.busy { BUSY } else { 0 })
            | ((self.stamp as u64 & STAMP_MASK) << 48)
            | ((self.flags as u64) << 40)
            | ((self.kind as u64) << 32)
            | self.length as u64
    }

    /// Decodes a word; nothing in it has been checked.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "each field is masked to its width"
    )]
    pub const fn unpack(word: u64) -> Self {
        Self {
            busy: word & BUSY != 0,
            stamp: ((word >> 48) & STAMP_MASK) as u16,
            flags: (word >> 40) as u8,
            kind: (word >> 32) as u8,
            length: word as u32,
        }
    }
}

/// The stamp that the record at `position` must carry.
#[allow(clippy::cast_possible_truncation, reason = "masked to 15 bits")]
pub const fn stamp(position: u64) -> u16 {
    ((position / RECORD_ALIGN) & STAMP_MASK) as u16
}

/// `length` rounded up to the alignment of records.
pub const fn padded(length: u64) -> u64 {
    (length + RECORD_ALIGN - 1) & !(RECORD_ALIGN - 1)
}

const _: () = assert!(control::EXCLUDED_UNKNOWN + 8 <= POLICY);
const _: () = assert!(CLOSE_TABLE + CLOSE_ENTRIES * CLOSE_ENTRY_BYTES <= CONTROL_BYTES);
const _: () = assert!(CLOSE_ENTRY_BYTES.is_multiple_of(8));
const _: () = assert!(BOOTSTRAP_BYTES.is_power_of_two());
const _: () = assert!(MAX_DATA_BYTES.is_power_of_two());
const _: () = assert!(DEFAULT_DATA_BYTES <= MAX_DATA_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_word_round_trip() {
        for busy in [false, true] {
            let word = RecordWord {
                busy,
                stamp: 0x7abc,
                flags: FLAG_RECEIVED,
                kind: kind::DATA,
                length: 0x1234_5678,
            };
            assert_eq!(RecordWord::unpack(word.pack()), word);
        }
    }

    #[test]
    fn a_record_word_is_never_zero() {
        let word = RecordWord {
            busy: false,
            stamp: 0,
            flags: 0,
            kind: kind::OPEN,
            length: 24,
        };
        assert_ne!(word.pack(), 0);
    }
}
