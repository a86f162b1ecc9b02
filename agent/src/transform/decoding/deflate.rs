//! `deflate` (RFC 9110 section 8.4.1.2): zlib's, and without its head, as browsers take it too.

use flate2::{Decompress, FlushDecompress, Status};

use super::stages::{Out, PIECE_BYTES, Stage};
use crate::transform::stats::Undecoded;

/// What a decoder has in memory: the window of RFC 1951, and the tables of its codes.
pub(super) const INFLATE_BYTES: usize = 48 << 10;
/// A head of zlib, RFC 1950 section 2.2.
const HEAD_BYTES: usize = 2;

/// A stream.
#[derive(Debug, Default)]
pub(super) enum Deflate {
    /// Which of the two it is isn't known.
    #[default]
    Begin,
    /// Its first byte.
    Byte(u8),
    Inside(Box<Decompress>),
    Over,
}

impl Stage for Deflate {
    fn push(&mut self, mut text: &[u8], out: Out<'_>) -> Result<(), Undecoded> {
        loop {
            match self {
                Self::Begin => {
                    let Some((&first, rest)) = text.split_first() else {
                        return Ok(());
                    };
                    *self = Self::Byte(first);
                    text = rest;
                }
                Self::Byte(first) => {
                    let Some(&second) = text.first() else {
                        return Ok(());
                    };
                    let head = [*first, second];
                    let mut inner = Decompress::new(is_zlib(head));
                    inflate(&mut inner, &mut &head[..1], out)?;
                    *self = Self::Inside(Box::new(inner));
                }
                Self::Inside(inner) => {
                    if !inflate(inner, &mut text, out)? {
                        return Ok(());
                    }
                    *self = Self::Over;
                }
                Self::Over if text.is_empty() => return Ok(()),
                Self::Over => return Err(Undecoded::Broken),
            }
        }
    }

    fn is_whole(&self) -> bool {
        matches!(self, Self::Over)
    }

    fn memory_bytes(&self) -> usize {
        INFLATE_BYTES
    }
}

/// RFC 1950 section 2.2. No encoder begins deflate itself like this: it would be a stored block with something in the bits that
/// are skipped.
fn is_zlib(head: [u8; HEAD_BYTES]) -> bool {
    head[0] & 0x0f == 8 && head[0] >> 4 <= 7 && u16::from_be_bytes(head).is_multiple_of(31)
}

/// Takes text from the front, and says whether the stream ends with it.
pub(super) fn inflate(
    inner: &mut Decompress,
    text: &mut &[u8],
    out: Out<'_>,
) -> Result<bool, Undecoded> {
    let mut buffer = [0; PIECE_BYTES];
    loop {
        let before = (inner.total_in(), inner.total_out());
        let status = inner.decompress(text, &mut buffer, FlushDecompress::None);
        let status = status.map_err(|_| Undecoded::Broken)?;
        let count = |bytes: u64| usize::try_from(bytes).unwrap_or(0);
        let taken = count(inner.total_in() - before.0);
        let made = count(inner.total_out() - before.1);
        *text = &text[taken..];
        if made > 0 {
            out(&buffer[..made])?;
        }
        match status {
            Status::StreamEnd => return Ok(true),
            // It has nothing left of what it has taken.
            _ if text.is_empty() && made < buffer.len() => return Ok(false),
            _ if (taken, made) == (0, 0) => return Err(Undecoded::Broken),
            _ => {}
        }
    }
}
