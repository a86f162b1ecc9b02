//! Fields on their way into a head.

use super::MessageError;
use super::framing::Framing;
use crate::transform::hpack::{Field, FieldList};

/// Names whose capitals aren't those of their words.
const SPELLINGS: [&str; 17] = [
    "Content-MD5",
    "DNT",
    "ETag",
    "Expect-CT",
    "HTTP2-Settings",
    "NEL",
    "P3P",
    "Sec-GPC",
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Key",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "TE",
    "WWW-Authenticate",
    "X-UA-Compatible",
    "X-XSS-Protection",
];
/// Client hints are written in small letters by those who send them.
const SMALL: &[u8] = b"sec-ch-";

/// Our fields in the head of a message whose content is shown decoded: what its `content-encoding` was, and its
/// `content-length`.
pub(in super::super) const DECODED_CODINGS: &str = "X-Decoded-Content-Encoding";
pub(in super::super) const DECODED_LENGTH: &str = "X-Decoded-Content-Length";
/// Its messages have something behind their content.
const GRPC: &[u8] = b"application/grpc";

/// How the content behind a head is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Shown {
    AsItCame,
    Decoded,
}

/// What the fields of a head say of its content.
#[derive(Debug, Default)]
pub(super) struct Length {
    known: Option<u64>,
    /// Its codings, where it is shown without them.
    decoded: Option<Vec<u8>>,
    /// Fields behind the content are announced: it is told in chunks, behind which they can stand, whatever its length.
    has_trailers: bool,
}

impl Length {
    /// Reads `content-length` (RFC 9110 section 8.6): digits, once; and `trailer` (section 6.6.2).
    pub(super) fn of(fields: &FieldList, shown: Shown) -> Result<Self, MessageError> {
        let mut length = Self::default();
        if shown == Shown::Decoded {
            let codings = fields.iter().filter(|field| is_coding(*field));
            let codings: Vec<_> = codings.map(|field| field.value).collect();
            length.decoded = Some(codings.join(&b", "[..]));
        }
        for field in fields.iter() {
            length.has_trailers |= announces_trailers(field);
            if is_length(field) {
                let digits = str::from_utf8(field.value).ok();
                let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
                let value = digits.and_then(|text| text.parse().ok());
                let value = value.ok_or(MessageError::Length)?;
                if length.known.replace(value).is_some() {
                    return Err(MessageError::Length);
                }
            }
        }
        Ok(length)
    }

    pub(super) fn known(&self) -> Option<u64> {
        self.known
    }

    /// Whether a field isn't to be written: there is one framing only.
    pub(super) fn hides(&self, field: Field<'_>, last: bool) -> bool {
        match self.decoded {
            Some(_) => is_length(field) || is_coding(field),
            None => self.has_trailers && !last && is_length(field),
        }
    }

    /// What its head had said, where it is shown decoded.
    fn write_marks(&self, out: &mut Vec<u8>) {
        if let Some(codings) = &self.decoded {
            write(DECODED_CODINGS.as_bytes(), codings, out);
            if let Some(bytes) = self.known {
                write(DECODED_LENGTH.as_bytes(), bytes.to_string().as_bytes(), out);
            }
        }
    }

    /// How a message with content is framed, which ends here or not. Adds the field that says so, where there is none.
    pub(super) fn framing(&self, last: bool, out: &mut Vec<u8>) -> Result<Framing, MessageError> {
        match self.known {
            Some(1..) if last => Err(MessageError::Length),
            _ if last => Ok(Framing::Nothing),
            Some(left) if !self.has_trailers && self.decoded.is_none() => {
                Ok(Framing::Length { left })
            }
            _ => {
                self.write_marks(out);
                out.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
                Ok(Framing::Chunked)
            }
        }
    }
}

/// Fields are to come behind its content.
fn announces_trailers(field: Field<'_>) -> bool {
    let is_grpc = field.name.eq_ignore_ascii_case(b"content-type") && field.value.starts_with(GRPC);
    is_grpc || field.name.eq_ignore_ascii_case(b"trailer")
}

fn is_coding(field: Field<'_>) -> bool {
    field.name.eq_ignore_ascii_case(b"content-encoding")
}

fn is_length(field: Field<'_>) -> bool {
    field.name.eq_ignore_ascii_case(b"content-length")
}

/// A field that may stand in a message of HTTP/1.1, by its bytes.
pub(super) fn checked(field: Field<'_>) -> Result<Field<'_>, MessageError> {
    let is_token = !field.name.is_empty() && field.name.iter().all(|byte| is_token(*byte));
    if !is_token || !is_value(field.value) {
        return Err(MessageError::Bytes);
    }
    if field.name.eq_ignore_ascii_case(b"transfer-encoding") {
        return Err(MessageError::TransferEncoding);
    }
    Ok(field)
}

/// Nothing in it ends a line, or a string for those who read C's.
pub(super) fn is_value(text: &[u8]) -> bool {
    memchr::memchr3(b'\r', b'\n', 0, text).is_none()
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Writes a field.
pub(super) fn write(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    write_name(name, out);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn write_name(name: &[u8], out: &mut Vec<u8>) {
    if name.iter().any(u8::is_ascii_uppercase) || name.starts_with(SMALL) {
        return out.extend_from_slice(name);
    }
    let mut spellings = SPELLINGS.iter();
    let spelling = spellings.find(|known| known.as_bytes().eq_ignore_ascii_case(name));
    if let Some(spelling) = spelling {
        return out.extend_from_slice(spelling.as_bytes());
    }
    let mut before = b'-';
    out.extend(name.iter().map(|byte| {
        let begins_word = std::mem::replace(&mut before, *byte) == b'-';
        match begins_word {
            true => byte.to_ascii_uppercase(),
            false => *byte,
        }
    }));
}

/// Writes what stands behind chunked content (RFC 9112 section 7.1.2), the last chunk in front of it.
///
/// # Errors
/// They can't stand there.
pub(in super::super) fn trailers(
    fields: &FieldList,
    out: &mut Vec<u8>,
) -> Result<(), MessageError> {
    out.extend_from_slice(b"0\r\n");
    for field in fields.iter() {
        // RFC 9113 section 8.1: no pseudo-header fields.
        if field.name.first() == Some(&b':') {
            return Err(MessageError::Malformed);
        }
        let field = checked(field)?;
        write(field.name, field.value, out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}
