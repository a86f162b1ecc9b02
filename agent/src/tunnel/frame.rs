//! Frames: what passes on a connection between an agent and a collector.
//!
//! ```text
//! frame   length u32 │ kind u8 │ flags u8 │ body, `length` bytes
//! BATCH   seq u64 │ partition u16 │ events u32 (their bytes, uncompressed) │ events     from the agent
//! others  postcard of the message
//! ```
//!
//! All numbers are little-endian. A connection begins with `Hello`, which is answered by `Welcome` or
//! `Refused`; nobody sends anything else before. Whoever can't read a frame ends the connection.
//!
//! - **Batches** are numbered by the agent's instance from 1, without gaps. The collector acknowledges what its
//!   outputs have taken. What isn't acknowledged the agent sends again on the next connection.
//! - **A collector that doesn't know the instance** (its `epoch` is another, or the agent no longer has the batch
//!   that would come next) says `Resume::Anew`. The agent then sends a preamble: batches with the number 0 in
//!   which each flow that is live at its oldest batch is told of from there on, and `PreambleEnd`. After that its
//!   batches, from the oldest one. A preamble that was cut is sent again as a whole.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::batch::{MAX_BATCH_BYTES, PARTITIONS};

/// The protocol that this is.
pub const VERSION: u16 = 2;
/// Bytes before a frame's body.
pub const HEADER_BYTES: usize = 6;
/// Most bytes of a message that isn't a batch.
pub const MAX_MESSAGE_BYTES: usize = 32 * 1024;
/// Bytes of a batch's own header.
pub const BATCH_HEADER_BYTES: usize = 14;

const BATCH: u8 = 1;
const MESSAGE: u8 = 2;
/// The events are compressed with zstd.
const COMPRESSED: u8 = 1;

/// Random, made at the start of an agent or a collector: what it says belongs to this life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Instance(pub [u8; 16]);

/// What passes on a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Events.
    Batch(Batch),
    /// Anything else.
    Message(Message),
}

/// Events of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number; 0: part of a preamble.
    pub seq: u64,
    /// Below [`PARTITIONS`].
    pub partition: u16,
    /// Bytes of its events, uncompressed; at most [`MAX_BATCH_BYTES`].
    pub event_bytes: u32,
    /// `events` is a zstd frame.
    pub compressed: bool,
    /// What [`BatchReader`](super::batch::BatchReader) reads, once it is uncompressed.
    pub events: Bytes,
}

/// All that isn't a batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// From the agent, first.
    Hello(Hello),
    /// From the collector, first.
    Welcome(Welcome),
    /// From the collector, before it ends the connection.
    Refused(Refused),
    /// From the collector: its outputs have taken all batches up to this one.
    Ack {
        /// The batch's number.
        through: u64,
    },
    /// From the agent: all flows that are live have been told of.
    PreambleEnd,
    /// From either: is anybody there, and what time is it? At least once in [`PING_SECONDS`].
    Ping {
        /// Clock of the sender, nanoseconds since 1970.
        sent_ns: u64,
    },
    /// The answer.
    Pong {
        /// From the ping.
        sent_ns: u64,
        /// Clock of who answers.
        answered_ns: u64,
    },
    /// From the agent: it ends here, and so do its live flows. Comes behind its last batch.
    Goodbye,
    /// From the collector: it ends or is reloaded; the agent comes again, or goes to another one.
    Leaving,
    /// From the agent: a request for a new certificate (PKCS #10, DER), since its own is running out.
    Renew(Vec<u8>),
    /// From the collector: the certificate (DER).
    Renewed(Vec<u8>),
}

/// How often either side lets the other one know that it is there, in seconds.
pub const PING_SECONDS: u64 = 5;
/// Who hasn't been heard of for so many seconds is gone.
pub const SILENCE_SECONDS: u64 = 15;

/// The agent's first words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`].
    pub version: u16,
    /// This life of the agent and, where it has several tunnels, this one.
    pub instance: Instance,
    /// Counts the connections of this instance, from 1: an older one is never resumed.
    pub connection: u64,
    /// The collector's life that it knows.
    pub epoch: Option<Instance>,
    /// The oldest batch that it still has, or the one that will come next.
    pub oldest: u64,
    /// Clock of the host, nanoseconds since 1970.
    pub clock_ns: u64,
    /// The program's version, for people.
    pub software: String,
}

/// The collector's first words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// [`VERSION`].
    pub version: u16,
    /// This life of the collector.
    pub epoch: Instance,
    /// Where the agent goes on.
    pub resume: Resume,
    /// Clock of the collector, nanoseconds since 1970.
    pub clock_ns: u64,
}

/// Where an agent goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resume {
    /// With this batch: all before it have arrived.
    From(u64),
    /// With a preamble, and its oldest batch.
    Anew,
}

/// Why a collector refuses an agent, or a part of what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// The same for people, with what to do.
    pub text: String,
}

/// Reasons of a refusal, each with a counter of its own at the collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Reason {
    /// It has shown no certificate.
    NoCertificate,
    /// Its certificate isn't from this collector.
    UnknownCertificate,
    /// It has joined another collector, and takes this one for an impostor.
    WrongCollector,
    /// It was revoked.
    Revoked,
    /// Its certificate has run out.
    Expired,
    /// It speaks another version.
    Version,
    /// The instance has a newer connection: this one is a replay, or has been left behind.
    Replayed,
    /// A frame or a batch can't be read.
    Malformed,
    /// A frame is larger than any.
    Oversized,
    /// It said nothing for too long.
    Silent,
    /// It hadn't finished its handshake, or not said who it is, in time, or when others needed its place.
    Unfinished,
    /// Too many connections of this agent, or wrong tokens from this address.
    TooMany,
    /// The token for enrolment is unknown.
    TokenUnknown,
    /// The token has been used.
    TokenUsed,
    /// The token has run out.
    TokenExpired,
    /// The collector can't do its part (its disk is full, its state is damaged); its log says what.
    CollectorFault,
}

/// What is wrong with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Larger than any.
    #[error("a frame of {0} bytes is larger than any")]
    Oversized(usize),
    /// Nothing that is known.
    #[error("a frame of kind {0} with flags {1:#x} is unknown")]
    Kind(u8, u8),
    /// Its body can't be read.
    #[error("a frame can't be read")]
    Malformed,
}

impl FrameError {
    /// As the collector tells it.
    pub fn reason(self) -> Reason {
        match self {
            Self::Oversized(_) => Reason::Oversized,
            Self::Kind(..) | Self::Malformed => Reason::Malformed,
        }
    }
}

impl Frame {
    /// Appends the frame. A batch's events are better sent from where they are: see [`Batch::header`].
    pub fn encode(&self, into: &mut BytesMut) {
        match self {
            Self::Batch(batch) => {
                into.put_slice(&batch.header());
                into.put_slice(&batch.events);
            }
            Self::Message(message) => message.encode(into),
        }
    }

    /// Takes the first frame out of `bytes`. `None`: not all of it has come yet.
    ///
    /// # Errors
    /// It can't be read, and neither can anything behind it.
    pub fn decode(bytes: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        let Some((&header, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, kind, flags] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (most, known_flags) = match kind {
            BATCH => (BATCH_HEADER_BYTES + MAX_BATCH_BYTES, COMPRESSED),
            MESSAGE => (MAX_MESSAGE_BYTES, 0),
            _ => return Err(FrameError::Kind(kind, flags)),
        };
        if flags & !known_flags != 0 {
            return Err(FrameError::Kind(kind, flags));
        }
        if length > most {
            return Err(FrameError::Oversized(length));
        }
        if bytes.len() < HEADER_BYTES + length {
            return Ok(None);
        }
        bytes.advance(HEADER_BYTES);
        let body = bytes.split_to(length).freeze();
        match kind {
            BATCH => {
                Batch::decode(body, flags & COMPRESSED != 0).map(|batch| Some(Self::Batch(batch)))
            }
            _ => match postcard::take_from_bytes(&body) {
                Ok((message, [])) => Ok(Some(Self::Message(message))),
                _ => Err(FrameError::Malformed),
            },
        }
    }

    /// How many bytes have to come before more of the first frame can be read: the rest of its header, or then of
    /// its body. To be asked once [`decode`](Self::decode) has found nothing wrong with it.
    pub fn missing(bytes: &[u8]) -> usize {
        let Some([l0, l1, l2, l3, ..]) = bytes.first_chunk::<HEADER_BYTES>() else {
            return HEADER_BYTES - bytes.len();
        };
        let length = u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize;
        (HEADER_BYTES + length).saturating_sub(bytes.len())
    }
}

impl Message {
    /// Appends the message's frame.
    ///
    /// # Panics
    /// If it is larger than any message may be: texts in messages are ours, and short.
    pub fn encode(&self, into: &mut BytesMut) {
        let body = postcard::to_stdvec(self).expect("messages can be written");
        assert!(
            body.len() <= MAX_MESSAGE_BYTES,
            "a message of {} bytes",
            body.len()
        );
        put_header(into, body.len(), MESSAGE, 0);
        into.put_slice(&body);
    }
}

impl Batch {
    /// What stands before the events on a connection.
    pub fn header(&self) -> [u8; HEADER_BYTES + BATCH_HEADER_BYTES] {
        let mut header = BytesMut::with_capacity(HEADER_BYTES + BATCH_HEADER_BYTES);
        let flags = if self.compressed { COMPRESSED } else { 0 };
        put_header(
            &mut header,
            BATCH_HEADER_BYTES + self.events.len(),
            BATCH,
            flags,
        );
        header.put_u64_le(self.seq);
        header.put_u16_le(self.partition);
        header.put_u32_le(self.event_bytes);
        let mut bytes = [0; HEADER_BYTES + BATCH_HEADER_BYTES];
        bytes.copy_from_slice(&header);
        bytes
    }

    fn decode(mut body: Bytes, compressed: bool) -> Result<Self, FrameError> {
        if body.len() < BATCH_HEADER_BYTES {
            return Err(FrameError::Malformed);
        }
        let batch = Self {
            seq: body.get_u64_le(),
            partition: body.get_u16_le(),
            event_bytes: body.get_u32_le(),
            compressed,
            events: body,
        };
        let length = batch.event_bytes as usize;
        let agrees = compressed || batch.events.len() == length;
        match batch.partition < PARTITIONS && length <= MAX_BATCH_BYTES && agrees {
            true => Ok(batch),
            false => Err(FrameError::Malformed),
        }
    }
}

fn put_header(into: &mut BytesMut, length: usize, kind: u8, flags: u8) {
    into.put_u32_le(u32::try_from(length).expect("frames are bounded"));
    into.put_u8(kind);
    into.put_u8(flags);
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn frames() -> Vec<Frame> {
        let batch = |compressed, events: &'static [u8], event_bytes| {
            Frame::Batch(Batch {
                seq: 1 << 40,
                partition: 63,
                event_bytes,
                compressed,
                events: Bytes::from_static(events),
            })
        };
        let hello = Hello {
            version: VERSION,
            instance: Instance([7; 16]),
            connection: 3,
            epoch: Some(Instance([9; 16])),
            oldest: 12,
            clock_ns: 1_800_000_000_000_000_000,
            software: "0.1.0".into(),
        };
        let refused = Refused {
            reason: Reason::TokenUsed,
            text: "the token was used: make another with `sslcollector enroll`".into(),
        };
        vec![
            Frame::Message(Message::Hello(hello)),
            batch(false, b"events", 6),
            batch(true, b"fewer", 5000),
            Frame::Message(Message::Ack { through: 5 }),
            Frame::Message(Message::Refused(refused)),
        ]
    }

    #[test]
    fn frames_come_back_whole_however_they_are_cut() {
        let mut stream = BytesMut::new();
        frames().iter().for_each(|frame| frame.encode(&mut stream));
        for step in [1, 2, 7, stream.len()] {
            let (mut read, mut buffer) = (Vec::new(), BytesMut::new());
            for piece in stream.chunks(step) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            assert_eq!(read, frames());
        }
    }

    #[test]
    fn who_reads_what_is_missing_reads_each_frame_and_no_more() {
        let mut stream = BytesMut::new();
        frames().iter().for_each(|frame| frame.encode(&mut stream));
        for expected in frames() {
            let mut buffer = BytesMut::new();
            let mut reads = 0;
            let frame = loop {
                if let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    break frame;
                }
                buffer.extend_from_slice(&stream.split_to(Frame::missing(&buffer)));
                reads += 1;
            };
            assert_eq!((frame, reads, buffer.len()), (expected, 2, 0));
        }
        assert!(stream.is_empty());
    }

    #[test]
    fn what_no_frame_is_is_refused_before_it_has_come() {
        let refused = |bytes: &[u8]| Frame::decode(&mut BytesMut::from(bytes)).unwrap_err();
        let huge = u32::MAX.to_le_bytes();
        assert_eq!(
            refused(&[&huge[..], &[BATCH, 0]].concat()),
            FrameError::Oversized(u32::MAX as usize)
        );
        assert_eq!(refused(&[0, 0, 0, 0, 9, 0]), FrameError::Kind(9, 0));
        assert_eq!(
            refused(&[0, 0, 0, 0, MESSAGE, 1]),
            FrameError::Kind(MESSAGE, 1)
        );
        assert_eq!(refused(&[1, 0, 0, 0, BATCH, 0, 0]), FrameError::Malformed);
        let mut wrong = BytesMut::new();
        frames()[1].encode(&mut wrong);
        wrong[HEADER_BYTES + 8] = 64; // the partition
        assert_eq!(refused(&wrong), FrameError::Malformed);
    }

    proptest! {
        #[test]
        fn any_bytes_are_frames_or_an_error(mut bytes: Vec<u8>, kind in 0_u8..4) {
            if bytes.len() >= HEADER_BYTES {
                bytes[2..HEADER_BYTES].copy_from_slice(&[0, 0, kind, 0]);
            }
            let mut bytes = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = Frame::decode(&mut bytes) {}
        }
    }
}
