//! `gzip` (RFC 1952): members one behind another.

use crc32fast::Hasher;
use flate2::Decompress;

use super::deflate::{INFLATE_BYTES, inflate};
use super::stages::{Out, Stage};
use crate::transform::stats::Undecoded;

/// Bytes of a head (section 2.3), and of what stands behind the text.
const HEAD_BYTES: usize = 10;
const TRAILER_BYTES: usize = 8;
/// Flags, section 2.3.1.
const HEAD_CRC: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0xe0;

/// All members.
#[derive(Debug)]
pub(super) struct Gzip {
    state: State,
    /// The one that is under way, or was.
    member: Member,
    /// At least one member is whole.
    has_member: bool,
}

#[derive(Debug)]
enum State {
    /// Bytes of a head, or of what has a length within it.
    Head(Vec<u8>),
    /// What comes by these flags, one after another.
    Optional(u8),
    ExtraLength(Vec<u8>, u8),
    /// So many bytes are skipped, and what comes then.
    Skip(usize, u8),
    /// Up to a zero.
    Text(u8),
    Inside,
    Trailer(Vec<u8>),
}

#[derive(Debug)]
struct Member {
    inner: Decompress,
    crc: Hasher,
    /// Modulo 2^32.
    bytes: u32,
}

impl Default for Gzip {
    fn default() -> Self {
        Self {
            state: State::Head(Vec::new()),
            member: Member {
                inner: Decompress::new(false),
                crc: Hasher::new(),
                bytes: 0,
            },
            has_member: false,
        }
    }
}

impl Stage for Gzip {
    fn push(&mut self, mut text: &[u8], out: Out<'_>) -> Result<(), Undecoded> {
        while let Some(state) = self.step(&mut text, out)? {
            self.state = state;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.has_member && matches!(&self.state, State::Head(head) if head.is_empty())
    }

    fn memory_bytes(&self) -> usize {
        INFLATE_BYTES
    }
}

impl Gzip {
    /// What follows. Nothing: more is needed.
    fn step(&mut self, text: &mut &[u8], out: Out<'_>) -> Result<Option<State>, Undecoded> {
        Ok(Some(match &mut self.state {
            State::Head(head) => {
                if !fill(head, HEAD_BYTES, text) {
                    return Ok(None);
                }
                // Deflate, and no flag that nobody knows.
                if head[..3] != [0x1f, 0x8b, 8] || head[3] & RESERVED != 0 {
                    return Err(Undecoded::Broken);
                }
                State::Optional(head[3])
            }
            State::Optional(flags) if *flags & EXTRA != 0 => {
                State::ExtraLength(Vec::new(), *flags & !EXTRA)
            }
            State::Optional(flags) if *flags & NAME != 0 => State::Text(*flags & !NAME),
            State::Optional(flags) if *flags & COMMENT != 0 => State::Text(*flags & !COMMENT),
            State::Optional(flags) if *flags & HEAD_CRC != 0 => State::Skip(2, *flags & !HEAD_CRC),
            State::Optional(_) => {
                // One after another in the same memory: a member may be 20 bytes, and a decoder takes 48 KiB.
                self.member.inner.reset(false);
                self.member.crc.reset();
                self.member.bytes = 0;
                State::Inside
            }
            State::ExtraLength(length, flags) => {
                if !fill(length, 2, text) {
                    return Ok(None);
                }
                State::Skip(
                    usize::from(u16::from_le_bytes([length[0], length[1]])),
                    *flags,
                )
            }
            State::Skip(0, flags) => State::Optional(*flags),
            State::Skip(left, _) => {
                let taken = (*left).min(text.len());
                *left -= taken;
                *text = &text[taken..];
                if *left > 0 {
                    return Ok(None);
                }
                return self.step(text, out);
            }
            State::Text(flags) => match memchr::memchr(0, text) {
                Some(end) => {
                    *text = &text[end + 1..];
                    State::Optional(*flags)
                }
                None => return Ok(None),
            },
            State::Inside => {
                let Member { inner, crc, bytes } = &mut self.member;
                let is_over = inflate(inner, text, &mut |piece| {
                    crc.update(piece);
                    let length = u32::try_from(piece.len()).unwrap_or(0);
                    *bytes = bytes.wrapping_add(length);
                    out(piece)
                })?;
                if !is_over {
                    return Ok(None);
                }
                State::Trailer(Vec::new())
            }
            State::Trailer(trailer) => {
                if !fill(trailer, TRAILER_BYTES, text) {
                    return Ok(None);
                }
                let Member { crc, bytes, .. } = &self.member;
                let crc = crc.clone().finalize().to_le_bytes();
                if trailer[..] != [crc, bytes.to_le_bytes()].concat() {
                    return Err(Undecoded::Broken);
                }
                self.has_member = true;
                State::Head(Vec::new())
            }
        }))
    }
}

/// Takes bytes from the front, until there are so many.
fn fill(kept: &mut Vec<u8>, most: usize, text: &mut &[u8]) -> bool {
    let (taken, rest) = text.split_at((most - kept.len()).min(text.len()));
    kept.extend_from_slice(taken);
    *text = rest;
    kept.len() == most
}
