//! Reads a hello while its bytes come: its random, and a ClientHello as a whole. Each byte is looked at once, however small
//! the pieces are. The bytes come from a network: nothing is believed, and nothing can panic.
//!
//! The random stands behind the message's type, length and version (RFC 8446 4, 4.1.2, 4.1.3); the message is in records,
//! each with a header of its own (5.1):
//!
//! ```text
//!   0   u8   content type: 22 handshake        5   u8    handshake type: 1, 2
//!   1   u16  record version 0x03xx             6   u24   handshake length
//!   3   u16  record length                     9   u16   legacy version 0x03xx
//!                                              11  [u8; 32] random
//! ```

use std::borrow::Cow;

use super::hello::ClientHello;
use super::wire::{Segment, WireFact};

/// A record's header.
pub(super) const RECORD_HEADER: usize = 5;
/// A ChangeCipherSpec, which is a record of one byte (RFC 5246 7.1, RFC 8446 5).
pub(super) const CHANGE_CIPHER_SPEC: usize = RECORD_HEADER + 1;
/// A handshake message's header.
pub(super) const MESSAGE_HEADER: usize = 4;
/// Of a message up to where its random ends: header, version, random.
pub(super) const WITH_RANDOM: usize = MESSAGE_HEADER + 2 + 32;
/// A hello that is longer, with its records' headers, isn't read as a whole.
pub(super) const MAX_BYTES: usize = 18 * 1024;

/// The ServerHello.random that says HelloRetryRequest (RFC 8446 4.1.3): SHA-256 of
/// "HelloRetryRequest". It names no session.
pub(super) const RETRY_RANDOM: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// How far a hello has been read.
#[derive(Debug)]
pub(super) struct Reading {
    sequence: u32,
    /// Bytes that were read, with the records' headers.
    at: usize,
    /// Bytes of the current record that are still to come.
    left: usize,
    /// The message's beginning, without them.
    head: [u8; WITH_RANDOM],
    /// Bytes of the message.
    length: usize,
    /// Its random has been told.
    told: bool,
}

/// What is to come of a hello.
pub(super) enum Next {
    More,
    /// Nothing: it is whole, or no hello.
    Done,
    /// It is too long.
    Unfinished,
}

/// What the bytes are.
enum Found {
    Part,
    /// A message that is so long.
    Whole(usize),
    /// No hello.
    Other,
}

impl Reading {
    pub(super) fn new(sequence: u32) -> Self {
        Self {
            sequence,
            at: 0,
            left: 0,
            head: [0; WITH_RANDOM],
            length: 0,
            told: false,
        }
    }

    /// The sequence number of its first byte.
    pub(super) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// Reads on in all that is known without a gap, and tells what is new.
    pub(super) fn advance(
        &mut self,
        bytes: &[u8],
        segment: &Segment<'_>,
        tell: &mut dyn FnMut(WireFact),
    ) -> Next {
        let found = self.read(bytes);
        if matches!(found, Found::Other) {
            return Next::Done;
        }
        let part = match bytes.len() {
            MAX_BYTES.. => Next::Unfinished,
            _ => Next::More,
        };
        if self.length < WITH_RANDOM {
            return part;
        }
        let mut random = [0; 32];
        random.copy_from_slice(&self.head[WITH_RANDOM - 32..]);
        if self.head[0] == SERVER_HELLO {
            if random != RETRY_RANDOM {
                let tuple = segment.tuple_if_server();
                tell(WireFact::ServerHello { tuple, random });
            }
            return Next::Done;
        }
        let tuple = segment.tuple_if_client();
        if !std::mem::replace(&mut self.told, true) {
            tell(WireFact::ClientHello {
                tuple,
                sequence: self.sequence,
                random,
            });
        }
        let Found::Whole(length) = found else {
            return part;
        };
        if let Some(hello) = ClientHello::parse(&message(bytes, length)) {
            let hello = Box::new(hello);
            tell(WireFact::Fingerprint {
                tuple,
                random,
                hello,
            });
        }
        Next::Done
    }

    fn read(&mut self, bytes: &[u8]) -> Found {
        loop {
            let rest = bytes.get(self.at..).unwrap_or_default();
            if self.left == 0 {
                let is = |at: usize, value: u8| rest.get(at).is_none_or(|byte| *byte == value);
                if !is(0, 22) || !is(1, 3) {
                    return Found::Other;
                }
                let Some(header) = rest.first_chunk() else {
                    return Found::Part;
                };
                self.left = fragment_length(header);
                self.at += RECORD_HEADER;
                if self.left == 0 || self.left > MAX_BYTES {
                    return Found::Other; // RFC 8446 5.1: no empty fragments of handshake messages
                }
                continue;
            }
            let fragment = &rest[..rest.len().min(self.left)];
            if fragment.is_empty() {
                return Found::Part;
            }
            let room = self.head.get_mut(self.length..).unwrap_or_default();
            for (to, from) in room.iter_mut().zip(fragment) {
                *to = *from;
            }
            self.length += fragment.len();
            self.at += fragment.len();
            self.left -= fragment.len();
            match wanted(&self.head[..self.length.min(WITH_RANDOM)]) {
                Wanted::Nothing => return Found::Other,
                Wanted::Bytes(wanted) if self.length >= wanted => return Found::Whole(wanted),
                Wanted::More | Wanted::Bytes(_) => {}
            }
        }
    }
}

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Whether a segment with this payload may be a hello's first.
pub(super) fn may_begin(payload: &[u8]) -> bool {
    let is = |at: usize, values: &[u8]| payload.get(at).is_none_or(|byte| values.contains(byte));
    is(0, &[22]) && is(1, &[3]) && is(5, &[CLIENT_HELLO, SERVER_HELLO])
}

fn fragment_length(header: &[u8; RECORD_HEADER]) -> usize {
    usize::from(header[3]) << 8 | usize::from(header[4])
}

/// Takes a message of so many bytes out of its records.
fn message(mut bytes: &[u8], length: usize) -> Cow<'_, [u8]> {
    let mut message = Vec::new();
    while message.len() < length
        && let Some((header, rest)) = bytes.split_first_chunk()
    {
        let left = length - message.len();
        let (fragment, rest) = rest.split_at(fragment_length(header).min(rest.len()));
        if fragment.len() >= length {
            return Cow::Borrowed(&fragment[..length]);
        }
        message.extend_from_slice(&fragment[..fragment.len().min(left)]);
        bytes = rest;
    }
    Cow::Owned(message)
}

/// How long a message is that begins so.
enum Wanted {
    Bytes(usize),
    More,
    /// It is no hello.
    Nothing,
}

fn wanted(message: &[u8]) -> Wanted {
    let is = |at: usize, values: &[u8]| message.get(at).is_none_or(|byte| values.contains(byte));
    if !is(0, &[CLIENT_HELLO, SERVER_HELLO]) || !is(4, &[3]) {
        return Wanted::Nothing;
    }
    let Some(header) = message.first_chunk::<MESSAGE_HEADER>() else {
        return Wanted::More;
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    match usize::try_from(length) {
        // Version, random, and the lengths of what follows (RFC 8446 4.1.2, 4.1.3).
        Ok(length) if length >= 38 => Wanted::Bytes(MESSAGE_HEADER + length),
        _ => Wanted::Nothing,
    }
}
