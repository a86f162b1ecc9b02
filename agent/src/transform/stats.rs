//! What became of sessions that speak HTTP/2.

use super::frame::FrameError;
use super::hpack::HpackError;
use super::message::MessageError;

/// Why a session isn't told as HTTP/1.1 from some place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It was joined when it had begun: the tables of its header blocks aren't known.
    Late,
    /// Text is missing within a frame's head, a header block, or more than one frame.
    Hole,
    /// It ended within a frame.
    Cut,
    /// These are no frames, or they come in an order that can't be.
    Frames,
    /// A header block can't be read.
    HeaderBlock,
    /// A header list, a header block or a frame is too large, or in too many pieces.
    Size,
    /// Too many streams at once.
    Streams,
    /// Too many streams given up within a second.
    Resets,
    /// All sessions together take too much memory.
    Memory,
    /// A field or a target has CR, LF, NUL, or what no name has.
    Bytes,
    /// A `transfer-encoding`.
    TransferEncoding,
    /// A content-length that isn't the content's length.
    Length,
    /// A message without what one must have.
    Malformed,
    /// No port is free for another lane, or a real connection took a busy one's.
    Ports,
    /// HTTP/1.1 was to go on as HTTP/2, in a way that can't be followed.
    Upgrade,
}

impl Stop {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Late,
        Self::Hole,
        Self::Cut,
        Self::Frames,
        Self::HeaderBlock,
        Self::Size,
        Self::Streams,
        Self::Resets,
        Self::Memory,
        Self::Bytes,
        Self::TransferEncoding,
        Self::Length,
        Self::Malformed,
        Self::Ports,
        Self::Upgrade,
    ];

    /// In one word, for comments and logs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Hole => "hole",
            Self::Cut => "cut",
            Self::Frames => "frames",
            Self::HeaderBlock => "header-block",
            Self::Size => "size",
            Self::Streams => "streams",
            Self::Resets => "resets",
            Self::Memory => "memory",
            Self::Bytes => "bytes",
            Self::TransferEncoding => "transfer-encoding",
            Self::Length => "length",
            Self::Malformed => "malformed",
            Self::Ports => "ports",
            Self::Upgrade => "upgrade",
        }
    }

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Late => "joined late",
            Self::Hole => "a hole",
            Self::Cut => "ended within a frame",
            Self::Frames => "frames that can't be",
            Self::HeaderBlock => "a header block that can't be read",
            Self::Size => "headers too large",
            Self::Streams => "too many streams at once",
            Self::Resets => "too many streams given up",
            Self::Memory => "too much memory in all",
            Self::Bytes => "fields that HTTP/1.1 would misread",
            Self::TransferEncoding => "a transfer-encoding",
            Self::Length => "a false content-length",
            Self::Malformed => "a malformed message",
            Self::Ports => "no port for a lane",
            Self::Upgrade => "an upgrade that can't be followed",
        }
    }
}

/// Why content isn't shown decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecoded {
    /// A coding that nobody knows here, or too many.
    Coding,
    /// It is a part of what is coded as a whole.
    Part,
    /// Far more would come out than went in.
    Ratio,
    /// A decoder, or all of them, would take too much memory.
    Memory,
    /// It isn't what its head says, or ends in the middle.
    Broken,
    /// Text is missing.
    Hole,
    /// It was given up before any was decoded, or was answered first.
    Cut,
}

impl Undecoded {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Coding,
        Self::Part,
        Self::Ratio,
        Self::Memory,
        Self::Broken,
        Self::Hole,
        Self::Cut,
    ];

    /// For people.
    pub fn words(self) -> &'static str {
        match self {
            Self::Coding => "an unknown coding",
            Self::Part => "a part of a whole",
            Self::Ratio => "too much of too little",
            Self::Memory => "too much memory",
            Self::Broken => "broken",
            Self::Hole => "a hole",
            Self::Cut => "given up",
        }
    }
}

impl From<FrameError> for Stop {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge(_) | FrameError::Continuations(_) => Self::Size,
            FrameError::Preface
            | FrameError::Length
            | FrameError::Padding
            | FrameError::Stream
            | FrameError::Continuation => Self::Frames,
        }
    }
}

impl From<HpackError> for Stop {
    fn from(error: HpackError) -> Self {
        match error {
            HpackError::TooLarge | HpackError::TableSize(_) => Self::Size,
            HpackError::Truncated
            | HpackError::Integer
            | HpackError::Huffman
            | HpackError::Index(_)
            | HpackError::LateTableSize => Self::HeaderBlock,
        }
    }
}

impl From<MessageError> for Stop {
    fn from(error: MessageError) -> Self {
        match error {
            MessageError::Bytes => Self::Bytes,
            MessageError::TransferEncoding => Self::TransferEncoding,
            MessageError::Length => Self::Length,
            MessageError::Size => Self::Size,
            MessageError::Malformed => Self::Malformed,
        }
    }
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransformStats {
    /// Sessions of HTTP/2.
    pub sessions: u64,
    /// Those of them that began as HTTP/1.1: the answer that says so isn't shown.
    pub upgraded: u64,
    /// Requests told.
    pub requests: u64,
    /// Flows beside the sessions' own in which they were told.
    pub lanes: u64,
    /// Requests that servers made themselves, by PUSH_PROMISE.
    pub pushed: u64,
    /// Streams given up in the middle of a message.
    pub aborted: u64,
    /// Holes within the content of messages: told as such.
    pub holes: u64,
    /// Bytes of content that came for streams whose flows had ended: in no flow.
    pub late_bytes: u64,
    /// Bytes of sessions for whose frames no port was left: in no flow.
    pub unshown_bytes: u64,
    /// Fields behind content of a length that was said in front: HTTP/1.1 has no place for them.
    pub unshown_trailers: u64,
    /// Messages whose content was shown decoded, to its end.
    pub decoded: u64,
    /// Messages with coded content that were shown as they came, in the order of [`Undecoded::ALL`].
    pub undecoded: [u64; Undecoded::ALL.len()],
    /// Messages shown decoded whose rest couldn't be: their flows end there. In the same order.
    pub broken_off: [u64; Undecoded::ALL.len()],
    /// Sessions that go on as the frames that they are, by the first [`Stop`], in the order of [`Stop::ALL`].
    pub stopped: [u64; Stop::ALL.len()],
}

impl TransformStats {
    pub(super) fn stopped(&mut self, why: Stop) {
        self.stopped[why as usize] += 1;
    }

    pub(super) fn undecoded(&mut self, why: Undecoded) {
        self.undecoded[why as usize] += 1;
    }

    pub(super) fn broken_off(&mut self, why: Undecoded) {
        self.broken_off[why as usize] += 1;
    }

    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            sessions,
            upgraded,
            requests,
            lanes,
            pushed,
            aborted,
            holes,
            late_bytes,
            unshown_bytes,
            unshown_trailers,
            decoded,
            undecoded,
            broken_off,
            stopped,
        } = other;
        self.sessions += sessions;
        self.upgraded += upgraded;
        self.requests += requests;
        self.lanes += lanes;
        self.pushed += pushed;
        self.aborted += aborted;
        self.holes += holes;
        self.late_bytes += late_bytes;
        self.unshown_bytes += unshown_bytes;
        self.unshown_trailers += unshown_trailers;
        self.decoded += decoded;
        let undecoded = self.undecoded.iter_mut().zip(undecoded);
        let broken_off = self.broken_off.iter_mut().zip(broken_off);
        let stopped = self.stopped.iter_mut().zip(stopped);
        let pairs = stopped.chain(undecoded).chain(broken_off);
        pairs.for_each(|(sum, count)| *sum += count);
    }
}
