//! What a head says of its content's coding.

use crate::transform::hpack::FieldList;
use crate::transform::message::{DECODED_CODINGS, DECODED_LENGTH};
use crate::transform::stats::Undecoded;

/// Codings one upon another.
const MAX_CODINGS: usize = 3;

/// A content coding (RFC 9110 section 8.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    Gzip,
    Deflate,
    Brotli,
    Zstandard,
}

/// Those of a message, in the order in which they were put on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Codings(pub(super) Vec<Coding>);

impl Codings {
    /// What a head says. Nothing: its content isn't coded.
    ///
    /// # Errors
    /// It is, and can't be decoded.
    pub(in super::super) fn of(fields: &FieldList) -> Result<Option<Self>, Undecoded> {
        let mut codings = Vec::new();
        let mut is_part = false;
        let mut is_marked = false;
        for field in fields.iter() {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name.as_bytes());
            // RFC 9110 section 15.3.7: a part of what is coded as a whole.
            is_part |= is("content-range") || (is(":status") && field.value == b"206");
            is_marked |= is(DECODED_CODINGS) || is(DECODED_LENGTH);
            if !is("content-encoding") {
                continue;
            }
            for name in field.value.split(|byte| *byte == b',') {
                codings.extend(Coding::of(name.trim_ascii())?);
            }
            if codings.len() > MAX_CODINGS {
                return Err(Undecoded::Coding);
            }
        }
        match codings.is_empty() {
            true => Ok(None),
            false if is_part => Err(Undecoded::Part),
            // Nobody could tell its fields from ours.
            false if is_marked => Err(Undecoded::Coding),
            false => Ok(Some(Self(codings))),
        }
    }
}

impl Coding {
    /// Nothing: it means no change.
    fn of(name: &[u8]) -> Result<Option<Self>, Undecoded> {
        let name = name.to_ascii_lowercase();
        Ok(Some(match &name[..] {
            b"" | b"identity" => return Ok(None),
            b"gzip" | b"x-gzip" => Self::Gzip,
            b"deflate" => Self::Deflate,
            b"br" => Self::Brotli,
            b"zstd" => Self::Zstandard,
            _ => return Err(Undecoded::Coding),
        }))
    }
}
