//! One TCP conversation: from its handshake to FIN or RST, as pure arithmetic.
//!
//! ```text
//!                     what a side has said
//!   initial+1                          shown          next
//!   |─────────── emitted ────────────────|── missing ──|
//!                                        ^             ^
//!         the other side acknowledges this             the next data begins here
//! ```
//!
//! `shown` and `next` differ while a hole waits for the data behind it. Only then does the acknowledgment
//! jump: one that came before would acknowledge what no reader has seen.

use std::ops::{Index, IndexMut};

use crate::event::Side;
use crate::wire::{SeqNumber, TcpFlags};

/// The largest gap that is shown as one. The window that SYN and SYN-ACK tell is just below 1 GiB; data farther
/// ahead would lie outside of it and be ignored.
pub const MAX_GAP_BYTES: u64 = 512 << 20;

/// Readers inspect acknowledged data only, and some buffer no more than this.
const MAX_UNACKNOWLEDGED_BYTES: usize = 16 << 10;

/// One segment, to be made a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) from: Side,
    pub(super) sequence: SeqNumber,
    pub(super) acknowledgment: SeqNumber,
    pub(super) flags: TcpFlags,
    pub(super) payload: &'a [u8],
}

/// A value for each side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sides<T> {
    pub(super) client: T,
    pub(super) server: T,
}

impl<T> Index<Side> for Sides<T> {
    type Output = T;

    fn index(&self, side: Side) -> &T {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }
}

impl<T> IndexMut<Side> for Sides<T> {
    fn index_mut(&mut self, side: Side) -> &mut T {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}

/// A conversation whose handshake has been emitted.
#[derive(Debug)]
pub(super) struct Conversation {
    ends: Sides<End>,
    /// Largest payload of a segment.
    mss: usize,
}

#[derive(Clone, Copy, Debug)]
struct End {
    next: SeqNumber,
    shown: SeqNumber,
    missing: u64,
}

impl End {
    fn new(initial: SeqNumber) -> Self {
        Self {
            next: initial,
            shown: initial,
            missing: 0,
        }
    }
}

impl Conversation {
    /// Begins it: SYN, SYN-ACK, ACK (RFC 9293 section 3.5).
    pub(super) fn open(
        initial: Sides<SeqNumber>,
        mss: u16,
        emit: &mut impl FnMut(Segment<'_>),
    ) -> Self {
        let ends = Sides {
            client: End::new(initial.client),
            server: End::new(initial.server),
        };
        let mut conversation = Self {
            ends,
            mss: mss.into(),
        };
        conversation.emit(Side::Client, TcpFlags::Syn, &[], emit);
        conversation.emit(Side::Server, TcpFlags::SynAck, &[], emit);
        conversation.acknowledge(Side::Client, emit);
        conversation
    }

    /// `from` says `bytes`; the other side acknowledges all of it at the end.
    pub(super) fn data(&mut self, from: Side, bytes: &[u8], emit: &mut impl FnMut(Segment<'_>)) {
        let end = &mut self.ends[from];
        end.shown = end.next;
        end.missing = 0;
        let mut left = bytes.len();
        for burst in bytes.chunks(MAX_UNACKNOWLEDGED_BYTES) {
            for payload in burst.chunks(self.mss) {
                left -= payload.len();
                let flags = if left == 0 {
                    TcpFlags::PshAck
                } else {
                    TcpFlags::Ack
                };
                self.emit(from, flags, payload, emit);
            }
            self.acknowledge(from.peer(), emit);
        }
    }

    /// `bytes` that `from` said are missing; shown with the next data.
    ///
    /// Returns false, and changes nothing, if the gap would pass [`MAX_GAP_BYTES`].
    #[must_use]
    pub(super) fn skip(&mut self, from: Side, bytes: u64) -> bool {
        let end = &mut self.ends[from];
        let missing = end.missing.saturating_add(bytes);
        if missing > MAX_GAP_BYTES {
            return false;
        }
        end.missing = missing;
        end.next = end.next.advance(bytes);
        true
    }

    /// How many bytes at the end of what `side` has said so far are missing.
    pub(super) fn missing(&self, side: Side) -> u64 {
        self.ends[side].missing
    }

    /// `from` says no more; the other side acknowledges that. Not to be called with bytes missing.
    pub(super) fn fin(&mut self, from: Side, emit: &mut impl FnMut(Segment<'_>)) {
        debug_assert_eq!(self.missing(from), 0, "a FIN would hide the hole before it");
        self.emit(from, TcpFlags::FinAck, &[], emit);
        self.acknowledge(from.peer(), emit);
    }

    /// The conversation ends. The number is exactly the one that the other side expects: any other is
    /// ignored or questioned (RFC 9293 section 3.10.7.4).
    pub(super) fn rst(self, by: Side, emit: &mut impl FnMut(Segment<'_>)) {
        emit(self.segment(by, TcpFlags::RstAck, &[]));
    }

    /// Nobody has seen what `side` said from here on.
    pub(super) fn rewind(&mut self, side: Side, sequence: SeqNumber) {
        self.ends[side].shown = sequence;
    }

    fn acknowledge(&self, by: Side, emit: &mut impl FnMut(Segment<'_>)) {
        emit(self.segment(by, TcpFlags::Ack, &[]));
    }

    /// Emits a segment that takes room in the sequence numbers. Nothing is missing before it.
    fn emit(
        &mut self,
        from: Side,
        flags: TcpFlags,
        payload: &[u8],
        emit: &mut impl FnMut(Segment<'_>),
    ) {
        emit(self.segment(from, flags, payload));
        let end = &mut self.ends[from];
        end.shown = end
            .shown
            .advance(payload.len() as u64 + flags.sequence_bytes());
        end.next = end.shown;
    }

    fn segment<'a>(&self, from: Side, flags: TcpFlags, payload: &'a [u8]) -> Segment<'a> {
        Segment {
            from,
            sequence: self.ends[from].shown,
            acknowledgment: self.ends[from.peer()].shown,
            flags,
            payload,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Side::{Client, Server};
    use TcpFlags::{Ack, FinAck, PshAck, RstAck, Syn, SynAck};

    type Line = (Side, u32, u32, TcpFlags, usize);

    /// Collects what is emitted, with numbers relative to the initial ones as Wireshark shows them.
    struct Log(Vec<Line>);

    const CLIENT: u32 = u32::MAX - 3;
    const SERVER: u32 = 1000;

    impl Log {
        fn take(&mut self) -> Vec<Line> {
            std::mem::take(&mut self.0)
        }

        fn emit(&mut self) -> impl FnMut(Segment<'_>) {
            |segment| {
                let (own, other) = match segment.from {
                    Client => (CLIENT, SERVER),
                    Server => (SERVER, CLIENT),
                };
                self.0.push((
                    segment.from,
                    segment.sequence.0.wrapping_sub(own),
                    segment.acknowledgment.0.wrapping_sub(other),
                    segment.flags,
                    segment.payload.len(),
                ));
            }
        }
    }

    fn open() -> (Conversation, Log) {
        let mut log = Log(Vec::new());
        let initial = Sides {
            client: SeqNumber(CLIENT),
            server: SeqNumber(SERVER),
        };
        let conversation = Conversation::open(initial, 1000, &mut log.emit());
        assert_eq!(
            log.take(),
            [
                (Client, 0, 0, Syn, 0),
                (Server, 0, 1, SynAck, 0),
                (Client, 1, 1, Ack, 0)
            ]
        );
        (conversation, log)
    }

    #[test]
    fn data_is_cut_pushed_and_acknowledged() {
        let (mut conversation, mut log) = open();
        conversation.data(Server, &[0; 2000], &mut log.emit());
        assert_eq!(
            log.take(),
            [
                (Server, 1, 1, Ack, 1000),
                (Server, 1001, 1, PshAck, 1000),
                (Client, 1, 2001, Ack, 0)
            ]
        );
        conversation.data(Client, &[0; 1], &mut log.emit());
        assert_eq!(
            log.take(),
            [(Client, 1, 2001, PshAck, 1), (Server, 2001, 2, Ack, 0)]
        );
    }

    #[test]
    fn never_more_than_16_kib_unacknowledged() {
        let (mut conversation, mut log) = open();
        conversation.data(Client, &[0; 40_000], &mut log.emit());
        let mut unacknowledged = 0;
        for (side, _, acknowledgment, _, length) in log.take() {
            unacknowledged += length;
            assert!(unacknowledged <= 16_384);
            if side == Server {
                assert_eq!(length, 0);
                unacknowledged = 0;
                assert!(acknowledgment % 16_384 == 1 || acknowledgment == 40_001);
            }
        }
        assert_eq!(unacknowledged, 0);
    }

    #[test]
    fn a_hole_is_acknowledged_behind_the_next_data_only() {
        let (mut conversation, mut log) = open();
        assert!(conversation.skip(Client, 300));
        assert!(conversation.skip(Client, 200));
        conversation.data(Server, &[0; 10], &mut log.emit());
        assert_eq!(
            log.take(),
            [(Server, 1, 1, PshAck, 10), (Client, 1, 11, Ack, 0)]
        );
        conversation.data(Client, &[0; 10], &mut log.emit());
        assert_eq!(
            log.take(),
            [(Client, 501, 11, PshAck, 10), (Server, 11, 511, Ack, 0)]
        );
    }

    #[test]
    fn a_gap_has_a_largest_size() {
        let (mut conversation, mut log) = open();
        assert!(conversation.skip(Client, MAX_GAP_BYTES));
        assert!(!conversation.skip(Client, 1));
        assert!(!conversation.skip(Server, u64::MAX));
        assert_eq!(conversation.missing(Client), MAX_GAP_BYTES);
        conversation.data(Client, &[0; 1], &mut log.emit());
        assert_eq!(log.take()[0], (Client, (512 << 20) + 1, 1, PshAck, 1));
        assert!(conversation.skip(Client, 1), "the gap was closed");
    }

    #[test]
    fn ends() {
        let (mut conversation, mut log) = open();
        conversation.fin(Server, &mut log.emit());
        assert_eq!(
            log.take(),
            [(Server, 1, 1, FinAck, 0), (Client, 1, 2, Ack, 0)]
        );
        conversation.data(Client, &[0; 5], &mut log.emit());
        assert_eq!(
            log.take(),
            [(Client, 1, 2, PshAck, 5), (Server, 2, 6, Ack, 0)]
        );
        conversation.fin(Client, &mut log.emit());
        assert_eq!(
            log.take(),
            [(Client, 6, 2, FinAck, 0), (Server, 2, 7, Ack, 0)]
        );
    }

    #[test]
    fn a_reset_has_the_number_that_is_expected() {
        let (mut conversation, mut log) = open();
        conversation.data(Client, &[0; 5], &mut log.emit());
        assert!(conversation.skip(Client, 70));
        assert!(conversation.skip(Server, 7));
        log.take();
        conversation.rst(Client, &mut log.emit());
        assert_eq!(log.take(), [(Client, 6, 1, RstAck, 0)]);
    }
}
