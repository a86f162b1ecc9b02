//! Where a message's body ends (RFC 9112 sections 6 and 7), in whatever pieces it comes.

/// Bytes of chunk extensions and trailers of one body, which mean nothing here.
const MAX_OVERHEAD_BYTES: u32 = 64 << 10;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// All that comes.
    UntilClose,
}

/// A body whose end can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// So many bytes are still to come.
    Length(u64),
    /// Chunks.
    Chunked(Chunked),
}

/// The chunks break the grammar: nobody can say where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unframed;

/// Where in the chunks the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunked {
    state: ChunkState,
    overhead: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChunkState {
    /// In a chunk's size.
    Size {
        value: u64,
        digits: u8,
    },
    /// Behind it.
    Extension {
        size: u64,
    },
    /// The line's LF has to come.
    SizeEnd {
        size: u64,
    },
    /// So many bytes of the chunk are to come.
    Data(u64),
    /// CR and LF behind it.
    DataCr,
    DataLf,
    /// A trailer's line begins, or the empty one that ends all.
    LineStart,
    Line,
    LineLf,
    LastLf,
}

impl Body {
    pub(crate) fn chunked() -> Self {
        Self::Chunked(Chunked {
            state: ChunkState::Size {
                value: 0,
                digits: 0,
            },
            overhead: 0,
        })
    }

    /// How many of the bytes belong to the body, and whether it ends with them.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Unframed> {
        match self {
            Self::Length(left) => {
                let taken =
                    usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
                *left -= taken as u64;
                Ok((taken, *left == 0))
            }
            Self::Chunked(chunked) => chunked.advance(bytes),
        }
    }

    /// How many of so many missing bytes certainly belong to the body, and whether it ends with them. Nothing: nobody can
    /// tell where it ends.
    pub(crate) fn skip(&mut self, bytes: u64) -> Option<(u64, bool)> {
        match self {
            Self::Length(left) => {
                let taken = bytes.min(*left);
                *left -= taken;
                Some((taken, *left == 0))
            }
            Self::Chunked(Chunked {
                state: ChunkState::Data(left),
                ..
            }) if bytes < *left => {
                *left -= bytes;
                Some((bytes, false))
            }
            Self::Chunked(_) => None,
        }
    }
}

impl Chunked {
    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Unframed> {
        let mut at = 0;
        while at < bytes.len() {
            if let ChunkState::Data(left) = &mut self.state {
                let rest = bytes.len() - at;
                let taken = usize::try_from(*left).map_or(rest, |left| left.min(rest));
                *left -= taken as u64;
                at += taken;
                if *left == 0 {
                    self.state = ChunkState::DataCr;
                }
                continue;
            }
            let byte = bytes[at];
            at += 1;
            if self.state == ChunkState::LastLf && byte == b'\n' {
                return Ok((at, true));
            }
            self.state = self.step(byte)?;
        }
        Ok((at, false))
    }

    fn step(&mut self, byte: u8) -> Result<ChunkState, Unframed> {
        use ChunkState as S;
        if matches!(self.state, S::Extension { .. } | S::LineStart | S::Line) {
            self.overhead += 1;
            if self.overhead > MAX_OVERHEAD_BYTES {
                return Err(Unframed);
            }
        }
        Ok(match (self.state, byte) {
            (S::Size { value, digits }, byte) if byte.is_ascii_hexdigit() && digits < 15 => {
                let digit = char::from(byte).to_digit(16).ok_or(Unframed)?;
                S::Size {
                    value: value << 4 | u64::from(digit),
                    digits: digits + 1,
                }
            }
            (S::Size { digits: 0, .. }, _) => return Err(Unframed),
            (S::Size { value: size, .. } | S::Extension { size }, b'\r') => S::SizeEnd { size },
            (S::Size { value: size, .. }, b';' | b' ' | b'\t') => S::Extension { size },
            (S::Extension { size }, byte) if byte != b'\n' => S::Extension { size },
            (S::SizeEnd { size: 0 }, b'\n') => S::LineStart,
            (S::SizeEnd { size }, b'\n') => S::Data(size),
            (S::DataCr, b'\r') => S::DataLf,
            (S::DataLf, b'\n') => S::Size {
                value: 0,
                digits: 0,
            },
            (S::LineStart, b'\r') => S::LastLf,
            (S::Line, b'\r') => S::LineLf,
            (S::LineStart | S::Line, byte) if byte != b'\n' => S::Line,
            (S::LineLf, b'\n') => S::LineStart,
            // A line's end is CR LF; of anything else receivers think differently.
            _ => return Err(Unframed),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const CHUNKS: &[u8] = b"5\r\nhello\r\n0a;x=\"y\"\r\n0123456789\r\n0\r\nA: b\r\nC:\r\n\r\n";

    #[test]
    fn what_is_no_chunk_has_no_end() {
        for bad in [
            &b"\r\n"[..],
            b"g\r\n",
            b"5\n",
            b"1\r\nab",
            b"1\r\na\n",
            b"0\r\n\n",
            b"0\r\na\n",
            b"1;\n",
            b"1234567890123456\r\n",
            b"-1\r\n",
        ] {
            let mut body = Body::chunked();
            assert_eq!(body.advance(bad), Err(Unframed), "{:?}", bad.escape_ascii());
        }
        let mut endless = Body::chunked();
        let text = [&b"1;"[..], &[b'x'; 70_000]].concat();
        assert_eq!(endless.advance(&text), Err(Unframed));
    }

    #[test]
    fn a_length_is_exact() {
        let mut body = Body::Length(5);
        assert_eq!(body.advance(b"abc"), Ok((3, false)));
        assert_eq!(body.advance(b"defg"), Ok((2, true)));
    }

    #[test]
    fn a_hole_within_a_known_length_is_no_end() {
        let mut body = Body::Length(5);
        assert_eq!(body.skip(2), Some((2, false)));
        assert_eq!(body.skip(7), Some((3, true)));
        let mut body = Body::chunked();
        assert_eq!(body.skip(1), None);
        assert_eq!(body.advance(b"9\r\nabc"), Ok((6, false)));
        assert_eq!(body.skip(6), None);
        assert_eq!(body.skip(4), Some((4, false)));
        assert_eq!(body.advance(b"hi\r\n0\r\n\r\n"), Ok((9, true)));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(cuts in prop::collection::vec(1_usize..9, 1..60)) {
            let text = [CHUNKS, b"GET / HTTP"].concat();
            let mut body = Body::chunked();
            let (mut at, mut done, mut cuts) = (0, false, cuts.into_iter().cycle());
            while !done {
                let end = (at + cuts.next().unwrap()).min(text.len());
                let (taken, ended) = body.advance(&text[at..end]).unwrap();
                prop_assert!(ended || taken == end - at);
                (at, done) = (at + taken, ended);
            }
            prop_assert_eq!(at, CHUNKS.len());
        }
    }
}
