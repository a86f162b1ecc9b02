//! What the records carry: the vocabulary that the hook, the ring and the agent share.
//!
//! The bytes behind the record header (see [`crate::layout`]), by kind:
//!
//! ```text
//! OPEN, UPDATE   Meta: META_BYTES fixed (below), then the SNI, then the ALPN protocol
//!   0   u32  flags: META_*          4  u8 role   5  u8 transport   6  u8 early   7  u8 announcement
//!   8   u16  TLS version on the wire (0x0304 is TLS 1.3), 0: unknown
//!   10  u16  cipher suite (IANA number), 0: unknown
//!   12  u8   address family: 0 none, 4, 6      13  u8 SNI's length   14  u8 ALPN's length   15  u8 0
//!   16  [u8; 16]  local address (IPv4: the first 4)      32  [u8; 16]  peer's address; the socket's, or told
//!   48  u16  local port (machine's byte order)           50  u16 peer's port    52  u32 forks
//!   56  u64  socket cookie          64  u64  network namespace cookie
//!   72  [u8; 32]  client_random     104 [u8; 32]  server_random
//!   136 u64  bytes the TLS library has read from its transport    144 u64  … has written to it
//!   152 u64  clear bytes that this side sent on the socket before TLS began (STARTTLS, PROXY)
//!   160 u64  offset sent so far     168 u64  offset received so far
//!   176 u64  parent's instance      184 u64  parent's connection
//! DATA           0 u64 stream offset of the first byte, then the bytes; FLAG_RECEIVED is the direction
//! CLOSE          0 u64 offset sent, 8 u64 offset received, 16 u32 CloseReason, 20 u32 forks
//! LOST           0 u64 from, 8 u64 to (exclusive); FLAG_RECEIVED is the direction
//! LOOK           LookPart, to agents that ask for it (SSLCOLLECTOR_TELL_SOCKETS): the process's TCP connections
//!   0   u64  CLOCK_MONOTONIC in nanoseconds before the first of the look     8  u8 part, from 0
//!   9   u8   1: the last part      10  u8 connections, at most 8      11 [u8; 5] 0; then each connection:
//!     0   u64  socket cookie       8   u64  bytes put in by the program       16  u64  bytes taken out by it
//!     24  u8   address family: 0 none, 4, 6    25  u8 0    26  u16 local port    28  u16 peer's port    30  u16 0
//!     32  local and peer's address, 4 or 16 bytes each; not there without a family
//! ```
//!
//! `forks`: how often the process has forked so far, by fork(3). A child made between a connection's OPEN
//! and its CLOSE may hold it still.
//!
//! Stream offsets count the application's clear text bytes of one direction from 0.

mod look;
mod meta;

pub(crate) use look::LOOK_BYTES;
pub use look::{CarriedBy, LookPart, LookWriter, MAX_LOOK_CONNECTIONS};
pub use meta::{MAX_ALPN, MAX_SNI, META_BYTES, Meta};

/// Which end of the TLS connection the mirrored process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It sent the ClientHello.
    Client = 1,
    /// It answered with the ServerHello.
    Server = 2,
}

/// A direction, seen from the mirrored process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Clear text that the process sends.
    Sent = 0,
    /// Clear text that the process receives.
    Received = 1,
}

/// What the TLS records travel on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A byte stream; forged as TCP.
    Tcp = 1,
    /// DTLS (RFC 9147); counted, never forged.
    Dtls = 2,
    /// QUIC (RFC 9001); counted, never forged.
    Quic = 3,
}

/// What became of 0-RTT data (RFC 8446 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EarlyData {
    /// There was none.
    None = 0,
    /// Some passed; whether the server reads it isn't known yet: an UPDATE will tell.
    Pending = 1,
    /// The server read it: it is the beginning of the stream.
    Accepted = 2,
    /// The server never read it. It doesn't count: offsets begin again at 0.
    Rejected = 3,
}

/// How a connection comes to be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Announcement {
    /// At its beginning.
    New = 1,
    /// It was open before; offsets tell how much passed unseen.
    Midstream = 2,
    /// The parent process had announced it in its own ring before the fork.
    Inherited = 3,
}

/// Why a CLOSE is sent. The first two end one direction, the last two the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The process has sent close_notify: it sends no more.
    SentEnd = 1,
    /// The peer has sent close_notify, or ended its stream: nothing more will be received.
    ReceivedEnd = 2,
    /// The application has given the connection back.
    Free = 3,
    /// A fatal error: reset, alert, bad record.
    Abort = 4,
}

/// An event's bytes don't follow this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The record is shorter than its kind needs.
    #[error("a record of kind {kind} has {length} bytes behind its header, too few")]
    TooShort {
        /// One of [`crate::layout::kind`].
        kind: u8,
        /// Bytes behind the header.
        length: usize,
    },
    /// A field has a value that has no meaning.
    #[error("field {field} has the value {value}, which means nothing")]
    BadField {
        /// Its name in the module's drawing.
        field: &'static str,
        /// What stood there.
        value: u64,
    },
    /// The record's kind isn't known.
    #[error("there is no record kind {0}")]
    UnknownKind(u8),
}

/// The body of a record, borrowed from the bytes it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body<'a> {
    /// A connection begins, or is announced again.
    Open(Meta<'a>),
    /// More is known of it.
    Update(Meta<'a>),
    /// Clear text.
    Data {
        /// Its direction.
        direction: Direction,
        /// Stream offset of the first byte.
        offset: u64,
        /// At most [`crate::layout::MAX_PAYLOAD`] bytes.
        bytes: &'a [u8],
    },
    /// One direction or the connection ends.
    Close {
        /// Final offset sent (so far, for an end of one direction).
        sent: u64,
        /// Final offset received.
        received: u64,
        /// What ends, and how.
        reason: CloseReason,
        /// Times that the process has forked so far.
        forks: u32,
    },
    /// The hook knows that it hasn't seen these bytes.
    Lost {
        /// Their direction.
        direction: Direction,
        /// First offset.
        from: u64,
        /// Offset behind the last.
        to: u64,
    },
    /// What the process's connections have carried, behind the connection's last word.
    Look(LookPart<'a>),
}

impl<'a> Body<'a> {
    /// Reads what stands behind the header of a record of `kind`.
    ///
    /// # Errors
    /// Bytes that no hook writes: an unknown kind, too few bytes, a value without meaning.
    pub fn parse(kind: u8, flags: u8, body: &'a [u8]) -> Result<Self, EventError> {
        use crate::layout::{FLAG_RECEIVED, MAX_PAYLOAD, kind as kinds};
        let too_short = EventError::TooShort {
            kind,
            length: body.len(),
        };
        let word = |at: usize| -> Result<u64, EventError> {
            let bytes = body.get(at..at + 8).ok_or(too_short)?;
            Ok(u64::from_ne_bytes(array(bytes, 0)))
        };
        let direction = match flags {
            0 => Direction::Sent,
            FLAG_RECEIVED => Direction::Received,
            other => {
                return Err(EventError::BadField {
                    field: "flags",
                    value: other.into(),
                });
            }
        };
        match kind {
            kinds::OPEN => Meta::parse(kind, body).map(Self::Open),
            kinds::UPDATE => Meta::parse(kind, body).map(Self::Update),
            kinds::DATA => {
                let offset = word(0)?;
                let bytes = &body[8..];
                if bytes.is_empty() || bytes.len() > MAX_PAYLOAD {
                    return Err(EventError::BadField {
                        field: "length",
                        value: bytes.len() as u64,
                    });
                }
                if offset.checked_add(bytes.len() as u64).is_none() {
                    return Err(EventError::BadField {
                        field: "offset",
                        value: offset,
                    });
                }
                Ok(Self::Data {
                    direction,
                    offset,
                    bytes,
                })
            }
            kinds::CLOSE => Ok(Self::Close {
                sent: word(0)?,
                received: word(8)?,
                reason: CloseReason::from_code(word(16)? & 0xffff_ffff)?,
                forks: u32::from_ne_bytes(array(body, 20)),
            }),
            kinds::LOST => {
                let (from, to) = (word(0)?, word(8)?);
                if from >= to {
                    return Err(EventError::BadField {
                        field: "to",
                        value: to,
                    });
                }
                Ok(Self::Lost {
                    direction,
                    from,
                    to,
                })
            }
            kinds::LOOK => LookPart::parse(body).map(Self::Look),
            other => Err(EventError::UnknownKind(other)),
        }
    }
}

impl CloseReason {
    /// The reason of a CLOSE record or of an entry of the close table.
    ///
    /// # Errors
    /// A number that stands for none.
    pub fn from_code(code: u64) -> Result<Self, EventError> {
        match code {
            1 => Ok(Self::SentEnd),
            2 => Ok(Self::ReceivedEnd),
            3 => Ok(Self::Free),
            4 => Ok(Self::Abort),
            other => Err(EventError::BadField {
                field: "reason",
                value: other,
            }),
        }
    }
}

/// `N` bytes of `bytes` from `at`; the callers have checked the length.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::kind;

    #[test]
    fn meta_round_trip() {
        let meta = Meta {
            handshake_done: true,
            tls_version: Some(0x0304),
            cipher: Some(0x1302),
            addresses: Some((
                "[2001:db8::1]:443".parse().unwrap(),
                "[2001:db8::2]:50000".parse().unwrap(),
            )),
            addresses_told: true,
            cookies: Some((7, 8)),
            client_random: Some([3; 32]),
            wire_counts: Some((517, 1200)),
            clear_prefix_sent: Some(8),
            offsets: (10, 20),
            forks: 3,
            sni: b"example.com",
            alpn: b"h2",
            ..Meta::new(Role::Server)
        };
        let mut body = meta.encode_fixed().to_vec();
        body.extend_from_slice(meta.sni);
        body.extend_from_slice(meta.alpn);
        assert_eq!(Body::parse(kind::OPEN, 0, &body), Ok(Body::Open(meta)));
        body.pop();
        assert!(Body::parse(kind::OPEN, 0, &body).is_err());
    }

    #[test]
    fn data_needs_bytes() {
        let body = 5u64.to_ne_bytes();
        assert!(Body::parse(kind::DATA, 0, &body).is_err());
        let mut body = body.to_vec();
        body.extend_from_slice(b"x");
        assert_eq!(
            Body::parse(kind::DATA, 1, &body),
            Ok(Body::Data {
                direction: Direction::Received,
                offset: 5,
                bytes: b"x"
            })
        );
    }
}
