//! What stands in front of each frame.

use thiserror::Error;

/// Bytes of a frame's head, RFC 9113 section 4.1.
pub(super) const HEAD_BYTES: usize = 9;

/// Flags, RFC 9113 sections 6.1, 6.2 and 6.5. ACK is END_STREAM's bit.
pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;
pub(super) const PRIORITY: u8 = 0x20;

/// A stream's number, of 31 bits; 0 is the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(u32);

impl StreamId {
    /// The connection as a whole.
    pub const CONNECTION: Self = Self(0);
    /// The client's first; of an upgrade, the request that asked for it (RFC 7540 section 3.2).
    pub const FIRST: Self = Self(1);

    /// From four bytes, of which the first bit is reserved (RFC 9113 section 4.1).
    pub(super) fn from_bytes(bytes: [u8; 4]) -> Self {
        Self(u32::from_be_bytes(bytes) & 0x7fff_ffff)
    }

    /// In network byte order.
    pub fn to_bytes(self) -> [u8; 4] {
        self.0.to_be_bytes()
    }

    /// Begun by the client (RFC 9113 section 5.1.1).
    pub fn is_clients(self) -> bool {
        self.0 % 2 == 1
    }
}

/// What a frame is, RFC 9113 section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    PushPromise,
    GoAway,
    Continuation,
    /// PRIORITY, PING, WINDOW_UPDATE, and whatever an extension may add (section 5.5): says nothing of messages.
    Other,
}

/// A frame's head.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    /// Bytes behind it.
    pub(super) length: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: StreamId,
}

impl Head {
    pub(super) fn read(bytes: [u8; HEAD_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, l0, l1, l2]) as usize,
            kind: match kind {
                0 => Kind::Data,
                1 => Kind::Headers,
                3 => Kind::Reset,
                4 => Kind::Settings,
                5 => Kind::PushPromise,
                7 => Kind::GoAway,
                9 => Kind::Continuation,
                _ => Kind::Other,
            },
            flags,
            stream: StreamId::from_bytes(stream),
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Why frames can't be read any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The client doesn't begin with the connection preface (RFC 9113 section 3.4).
    #[error("no HTTP/2: the connection preface isn't there")]
    Preface,
    /// A frame that its reader hasn't permitted (section 4.2), or a header block that is too large to be kept.
    #[error("a frame of {0} bytes, which is more than was agreed")]
    TooLarge(usize),
    /// A frame whose length can't be (section 4.2).
    #[error("a frame whose length can't be")]
    Length,
    /// More padding than frame (section 6.1).
    #[error("a frame with more padding than bytes")]
    Padding,
    /// On the connection what belongs to a stream, or the other way round.
    #[error("a frame on a stream on which it can't be")]
    Stream,
    /// A header block that isn't continued, or something that continues none (section 6.10).
    #[error("a header block that isn't continued")]
    Continuation,
    /// A header block in more frames than may be.
    #[error("a header block in more than {0} frames")]
    Continuations(u32),
}
