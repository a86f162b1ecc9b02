//! Heads of responses.

use base64::prelude::{BASE64_STANDARD, Engine};

use super::MessageError;
use super::field::{self, Length, Shown, checked};
use super::framing::Framing;
use super::reason::reason;
use super::request::Asked;
use crate::transform::hpack::FieldList;

/// What a WebSocket server proves that it has read, RFC 6455 section 1.3.
const WEBSOCKET: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Response {
    /// An interim one (RFC 9110 section 15.2): another follows.
    Interim,
    /// The answer.
    Final(Framing),
}

/// Writes the head of a response to what was asked, which ends with it or not.
///
/// # Errors
/// It can't be told.
pub(in super::super) fn response(
    fields: &FieldList,
    last: bool,
    asked: &Asked,
    shown_as: Shown,
    out: &mut Vec<u8>,
) -> Result<Response, MessageError> {
    let status = status(fields)?;
    let is_success = (200..300).contains(&status);
    let shown = match asked {
        Asked::Upgrade { .. } if is_success => 101,
        _ => status,
    };
    // RFC 9112 section 6.3.
    let has_content = status >= 200 && !matches!(status, 204 | 304) && *asked != Asked::Head;
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(shown.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(reason(shown).as_bytes());
    out.extend_from_slice(b"\r\n");
    let length = Length::of(fields, shown_as)?;
    for field in fields.iter().skip(1) {
        let field = checked(field)?;
        let is_hidden = has_content && length.hides(field, last);
        if is_hidden || (shown == 101 && asked.writes(field.name)) {
            continue;
        }
        field::write(field.name, field.value, out);
    }
    let response = match (asked, status) {
        // RFC 9113 section 8.6: there is no 101, and an interim response is never the last.
        (_, 101) => return Err(MessageError::Malformed),
        (_, ..200) if last => return Err(MessageError::Malformed),
        (_, ..200) => Response::Interim,
        (Asked::Connect, _) if is_success => Response::Final(Framing::Tunnel),
        (Asked::Upgrade { protocol, key }, _) if is_success => {
            field::write(b"connection", b"Upgrade", out);
            field::write(b"upgrade", protocol, out);
            if let Some(key) = key {
                field::write(b"sec-websocket-accept", accept(key).as_bytes(), out);
            }
            Response::Final(Framing::Tunnel)
        }
        _ if !has_content => Response::Final(Framing::Nothing),
        _ => {
            if last && length.known().is_none() {
                // Else the content would last until the connection ends.
                out.extend_from_slice(b"Content-Length: 0\r\n");
            }
            Response::Final(length.framing(last, out)?)
        }
    };
    out.extend_from_slice(b"\r\n");
    Ok(response)
}

/// The one pseudo-header field, in front (RFC 9113 section 8.3.2).
fn status(fields: &FieldList) -> Result<u16, MessageError> {
    let mut pseudo = fields
        .iter()
        .enumerate()
        .filter(|(_, field)| field.name.first() == Some(&b':'));
    let (Some((0, field)), None) = (pseudo.next(), pseudo.next()) else {
        return Err(MessageError::Malformed);
    };
    match (field.name, field.value) {
        (b":status", [hundreds @ b'1'..=b'9', tens, ones])
            if tens.is_ascii_digit() && ones.is_ascii_digit() =>
        {
            let digits = [hundreds, tens, ones].map(|digit| u16::from(digit - b'0'));
            Ok(digits.iter().fold(0, |status, digit| 10 * status + digit))
        }
        _ => Err(MessageError::Malformed),
    }
}

/// RFC 6455 section 4.2.2.
fn accept(key: &str) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key.as_bytes());
    hash.update(WEBSOCKET.as_bytes());
    BASE64_STANDARD.encode(hash.finish())
}
