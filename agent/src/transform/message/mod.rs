//! Heads of messages: what a header block of HTTP/2 says, as HTTP/1.1 says it (RFC 9113 section 8, RFC 9112).
//!
//! - Fields keep their order, repeated ones too. Names get the capitals that programs write in HTTP/1.1; those that have some
//!   already, which HTTP/2 forbids, are as they came. `Host` comes first, from `:authority`; pieces of a cookie are one (RFC 9113
//!   section 8.2.3).
//! - No boundary but ours: what has CR, LF or NUL in it, or a name or a target that HTTP/1.1 could read in another way, or a
//!   `transfer-encoding`, or two lengths, isn't translated at all.

mod field;
mod framing;
mod reason;
mod request;
mod response;

#[cfg(test)]
mod tests;

pub(super) use field::{DECODED_CODINGS, DECODED_LENGTH, Shown, trailers};
pub(super) use framing::Framing;
pub(super) use request::{Asked, Seed, request};
pub(super) use response::{Response, response};

use thiserror::Error;

/// Why a message can't be told in HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum MessageError {
    /// A name, a value or a target would be read as something else: CR, LF, NUL, or what no name can have.
    #[error("a field or a target has bytes that HTTP/1.1 would read as something else")]
    Bytes,
    /// HTTP/2 has none (RFC 9113 section 8.2.2).
    #[error("a transfer-encoding in HTTP/2")]
    TransferEncoding,
    /// A content-length that is no number, or is said twice, or isn't the length.
    #[error("a content-length that isn't the content's length")]
    Length,
    /// The name of a protocol that is none.
    #[error("the name of a protocol is too long")]
    Size,
    /// Pseudo-header fields that are missing, unknown, repeated or in the wrong place (RFC 9113 section 8.3), or text where no
    /// message has any.
    #[error("a message that isn't one by the rules of HTTP/2")]
    Malformed,
}
