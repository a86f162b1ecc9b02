//! Heads of requests.

use base64::prelude::{BASE64_STANDARD, Engine};
use sha2::{Digest, Sha256};

use super::MessageError;
use super::field::{self, Length, Shown, checked, is_token, is_value};
use super::framing::Framing;
use crate::event::FlowId;
use crate::transform::frame::StreamId;
use crate::transform::hpack::{Field, FieldList};

/// Longest name of a protocol (RFC 8441 section 4): it is kept as long as its stream. Registered ones have at most 20 bytes.
const MAX_PROTOCOL_BYTES: usize = 64;

/// What of a request its answer depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) enum Asked {
    /// HEAD: the answer has no content.
    Head,
    /// CONNECT (RFC 9113 section 8.5): where it is granted, what follows is no HTTP.
    Connect,
    /// Another protocol, by an extended CONNECT (RFC 8441), told as an upgrade.
    Upgrade {
        /// Its name.
        protocol: Box<[u8]>,
        /// For WebSocket: `Sec-WebSocket-Key`.
        key: Option<Box<str>>,
    },
    /// Anything else.
    Ordinary,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Request {
    pub(in super::super) asked: Asked,
    pub(in super::super) framing: Framing,
}

impl Asked {
    /// Whether the handshake with WebSocket's key has this field: over HTTP/2 it says nothing (RFC 8441 section 5), where a
    /// proxy passes on what it has of another connection.
    pub(super) fn writes(&self, name: &[u8]) -> bool {
        let names: [&[u8]; 2] = [b"sec-websocket-key", b"sec-websocket-accept"];
        matches!(self, Self::Upgrade { key: Some(_), .. })
            && names.iter().any(|other| name.eq_ignore_ascii_case(other))
    }
}

/// Pseudo-header fields of a request (RFC 9113 section 8.3.1, RFC 8441 section 4).
#[derive(Debug, Default)]
struct Pseudo<'a> {
    method: Option<&'a [u8]>,
    scheme: Option<&'a [u8]>,
    authority: Option<&'a [u8]>,
    path: Option<&'a [u8]>,
    protocol: Option<&'a [u8]>,
}

/// For numbers that a client would draw: no two requests have the same.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Seed(pub(in super::super) FlowId, pub(in super::super) StreamId);

/// Writes the head of a request, which ends with it or not.
///
/// # Errors
/// It can't be told.
pub(in super::super) fn request(
    fields: &FieldList,
    last: bool,
    seed: &Seed,
    shown_as: Shown,
    out: &mut Vec<u8>,
) -> Result<Request, MessageError> {
    let pseudo = Pseudo::read(fields)?;
    let asked = pseudo.write_line(seed, out)?;
    let authority = pseudo.authority;
    if let Some(authority) = authority {
        field::write(b"host", authority, out);
    }
    let length = Length::of(fields, shown_as)?;
    let mut cookies = false;
    for field in fields.iter().skip_while(is_pseudo) {
        let field = checked(field)?;
        if field.name.eq_ignore_ascii_case(b"cookie") {
            if !std::mem::replace(&mut cookies, true) {
                write_cookies(fields, out);
            }
            continue;
        }
        // RFC 9113 section 8.3.1: it says the same, or both are shown.
        let says_again = field.name.eq_ignore_ascii_case(b"host")
            && authority.is_some_and(|authority| authority == field.value);
        if !says_again && !length.hides(field, last) && !asked.writes(field.name) {
            field::write(field.name, field.value, out);
        }
    }
    let framing = match &asked {
        Asked::Connect | Asked::Upgrade { .. } if length.known().is_some() => {
            return Err(MessageError::Length);
        }
        Asked::Connect => Framing::Tunnel,
        Asked::Upgrade { protocol, key } => {
            field::write(b"connection", b"Upgrade", out);
            field::write(b"upgrade", protocol, out);
            if let Some(key) = key {
                field::write(b"sec-websocket-key", key.as_bytes(), out);
            }
            Framing::Tunnel
        }
        Asked::Head | Asked::Ordinary => length.framing(last, out)?,
    };
    out.extend_from_slice(b"\r\n");
    Ok(Request { asked, framing })
}

fn is_pseudo(field: &Field<'_>) -> bool {
    field.name.first() == Some(&b':')
}

/// Pieces of a cookie are one field in HTTP/1.1 (RFC 9113 section 8.2.3).
fn write_cookies(fields: &FieldList, out: &mut Vec<u8>) {
    let pieces = fields
        .iter()
        .filter(|field| field.name.eq_ignore_ascii_case(b"cookie"));
    for (number, piece) in pieces.enumerate() {
        out.extend_from_slice(if number == 0 { b"Cookie: " } else { b"; " });
        out.extend_from_slice(piece.value);
    }
    out.extend_from_slice(b"\r\n");
}

impl<'a> Pseudo<'a> {
    fn read(fields: &'a FieldList) -> Result<Self, MessageError> {
        let mut pseudo = Self::default();
        let mut is_behind = false;
        for field in fields.iter() {
            if !is_pseudo(&field) {
                is_behind = true;
                continue;
            }
            let slot = match field.name {
                b":method" => &mut pseudo.method,
                b":scheme" => &mut pseudo.scheme,
                b":authority" => &mut pseudo.authority,
                b":path" => &mut pseudo.path,
                b":protocol" => &mut pseudo.protocol,
                _ => return Err(MessageError::Malformed),
            };
            // RFC 9113 section 8.3: in front of all others, each once.
            if is_behind || slot.replace(field.value).is_some() {
                return Err(MessageError::Malformed);
            }
            if !is_value(field.value) {
                return Err(MessageError::Bytes);
            }
        }
        Ok(pseudo)
    }

    /// Writes the request line.
    fn write_line(&self, seed: &Seed, out: &mut Vec<u8>) -> Result<Asked, MessageError> {
        if self
            .protocol
            .is_some_and(|name| name.len() > MAX_PROTOCOL_BYTES)
        {
            return Err(MessageError::Size);
        }
        let method = self.method.filter(|method| !method.is_empty());
        let method = method.ok_or(MessageError::Malformed)?;
        if !method.iter().all(|byte| is_token(*byte)) {
            return Err(MessageError::Bytes);
        }
        let is_connect = method == b"CONNECT";
        let (method, target, asked) = match self.protocol {
            Some(_) if !is_connect => return Err(MessageError::Malformed),
            Some(protocol) => (&b"GET"[..], self.path, upgrade(protocol, seed)),
            // RFC 9113 section 8.5: neither scheme nor path.
            None if is_connect && (self.path.is_some() || self.scheme.is_some()) => {
                return Err(MessageError::Malformed);
            }
            None if is_connect => (method, self.authority, Asked::Connect),
            None if method == b"HEAD" => (method, self.path, Asked::Head),
            None => (method, self.path, Asked::Ordinary),
        };
        let target = target.filter(|target| !target.is_empty());
        let target = target.ok_or(MessageError::Malformed)?;
        let mut around = [Some(target), self.authority, self.protocol].into_iter();
        if around.any(|text| text.is_some_and(|text| text.iter().any(ends_a_word))) {
            return Err(MessageError::Bytes);
        }
        // RFC 9113 section 8.3.1. Another would be read as a whole URI, whose host counts, not that of `Host` (RFC 9112 section
        // 3.2.2).
        let is_path = target[0] == b'/' || (method == b"OPTIONS" && target == b"*");
        if asked != Asked::Connect && !is_path {
            return Err(MessageError::Malformed);
        }
        out.extend_from_slice(method);
        out.push(b' ');
        out.extend_from_slice(target);
        out.extend_from_slice(b" HTTP/1.1\r\n");
        Ok(asked)
    }
}

/// RFC 9112 section 3: who reads a request line leniently ends its words at all of these.
fn ends_a_word(byte: &u8) -> bool {
    byte.is_ascii_whitespace() || *byte == 0x0b
}

fn upgrade(protocol: &[u8], seed: &Seed) -> Asked {
    let is_websocket = protocol.eq_ignore_ascii_case(b"websocket");
    // RFC 6455 section 4.1: 16 bytes. Over HTTP/2 there is none, so it is made up.
    let key = is_websocket.then(|| {
        let hash = Sha256::new()
            .chain_update(b"tls-mirror websocket\0")
            .chain_update(seed.0.0)
            .chain_update(seed.1.to_bytes());
        BASE64_STANDARD.encode(&hash.finalize()[..16])
    });
    Asked::Upgrade {
        protocol: protocol.into(),
        key: key.map(Into::into),
    }
}
