//! Addresses as proxies write them in header fields.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::event::ToldAddress;

/// An element of `X-Forwarded-For`: an address, perhaps with brackets and a port. Nothing: it is something else.
pub(super) fn plain(element: &[u8]) -> Option<ToldAddress> {
    let text = std::str::from_utf8(element.trim_ascii()).ok()?;
    let bracketed = || {
        let inner = text.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    };
    let (ip, port) = match text.parse::<IpAddr>().ok().or_else(bracketed) {
        Some(ip) => (ip, None),
        None => {
            let socket: SocketAddr = text.parse().ok()?;
            (socket.ip(), Some(socket.port()))
        }
    };
    told(ip, port)
}

/// An address that a packet may come from.
pub(super) fn told(ip: IpAddr, port: Option<u16>) -> Option<ToldAddress> {
    let ip = ip.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    let usable = !ip.is_unspecified() && !ip.is_multicast() && !broadcast;
    let port = port.filter(|port| *port != 0);
    usable.then_some(ToldAddress { ip, port })
}

/// The `for` of each element of a `Forwarded` field (RFC 7239 section 4), left to right; nothing in place of one that
/// isn't an address (`unknown`, `_obfuscated`, or none). Nothing at all: it breaks the grammar, so nobody can say where
/// an element ends.
pub(super) fn forwarded(field: &[u8]) -> Option<Vec<Option<ToldAddress>>> {
    let mut elements = Vec::new();
    let mut rest = field.trim_ascii();
    while !rest.is_empty() {
        // Empty elements of a list are none (RFC 9110 section 5.6.1).
        if let Some(behind) = rest.strip_prefix(b",") {
            rest = behind.trim_ascii_start();
            continue;
        }
        let mut clients = Vec::new();
        loop {
            let (pair, behind) = pair(rest)?;
            if let Some(value) = pair {
                clients.push(value);
            }
            let behind = behind.trim_ascii_start();
            match behind.first() {
                Some(b';') => rest = behind[1..].trim_ascii_start(),
                Some(b',') => {
                    rest = behind[1..].trim_ascii_start();
                    break;
                }
                None => {
                    rest = behind;
                    break;
                }
                Some(_) => return None,
            }
        }
        // Each parameter once (section 4).
        elements.push(match &clients[..] {
            [only] => plain(only),
            _ => None,
        });
    }
    Some(elements)
}

/// The value of a parameter if that is `for`, and what stands behind it. Nothing: it is no parameter.
#[allow(
    clippy::type_complexity,
    reason = "a value that may not be there, and a rest, for one caller"
)]
fn pair(text: &[u8]) -> Option<(Option<Vec<u8>>, &[u8])> {
    let (name, rest) = token(text);
    // `for=a;` may end in a semicolon.
    if name.is_empty() {
        let ends = matches!(rest.first(), None | Some(b',' | b';'));
        return ends.then_some((None, rest));
    }
    let rest = rest.strip_prefix(b"=")?;
    let (value, rest) = match rest.strip_prefix(b"\"") {
        Some(quoted) => unquote(quoted)?,
        None => {
            let (value, rest) = address_token(rest);
            if value.is_empty() {
                return None;
            }
            (value.to_vec(), rest)
        }
    };
    let is_for = name.eq_ignore_ascii_case(b"for");
    Some((is_for.then_some(value), rest))
}

/// A token (RFC 9110 section 5.6.2) and what stands behind it.
fn token(text: &[u8]) -> (&[u8], &[u8]) {
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    let end = text.iter().position(|byte| !is_token(byte));
    text.split_at(end.unwrap_or(text.len()))
}

/// The same for a value; colons and brackets should be quoted, and often aren't.
fn address_token(text: &[u8]) -> (&[u8], &[u8]) {
    let ends = |byte: &u8| matches!(byte, b';' | b',' | b' ' | b'\t' | b'"' | b'=' | b'\\');
    text.split_at(text.iter().position(ends).unwrap_or(text.len()))
}

/// A quoted string behind its first quote, and what stands behind it.
fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut value = Vec::new();
    let mut bytes = text.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &text[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            byte => value.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(told: Option<ToldAddress>) -> String {
        told.map_or("-".into(), |told| told.to_string())
    }

    #[test]
    fn addresses_in_all_their_forms() {
        for (text, meant) in [
            ("203.0.113.7", "203.0.113.7"),
            (" 203.0.113.7\t", "203.0.113.7"),
            ("203.0.113.7:4711", "203.0.113.7:4711"),
            ("203.0.113.7:0", "203.0.113.7"),
            ("2001:db8::7", "2001:db8::7"),
            ("[2001:db8::7]", "2001:db8::7"),
            ("[2001:db8::7]:4711", "[2001:db8::7]:4711"),
            ("::ffff:203.0.113.7", "203.0.113.7"),
            ("unknown", "-"),
            ("_hidden", "-"),
            ("", "-"),
            ("203.0.113.7:x", "-"),
            ("203.0.113.256", "-"),
            ("0.0.0.0", "-"),
            ("224.0.0.1", "-"),
            ("255.255.255.255", "-"),
            ("fe80::1%eth0", "-"),
            ("203.0.113.7 x", "-"),
        ] {
            assert_eq!(shown(plain(text.as_bytes())), meant, "{text}");
        }
        assert_eq!(plain(b"\xff"), None);
    }

    #[test]
    fn elements_of_forwarded() {
        let read = |text: &str| {
            let elements = forwarded(text.as_bytes());
            elements.map(|all| all.into_iter().map(shown).collect::<Vec<_>>().join(" "))
        };
        for (text, meant) in [
            ("for=192.0.2.43", "192.0.2.43"),
            (
                "For=\"[2001:db8:cafe::17]:4711\"",
                "[2001:db8:cafe::17]:4711",
            ),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("by=203.0.113.43;for=192.0.2.60", "192.0.2.60"),
            (
                "for=192.0.2.43, for=198.51.100.17",
                "192.0.2.43 198.51.100.17",
            ),
            (
                "for=192.0.2.43 ,, for=unknown,for=_x;a=\"b,c;\\\"d\"",
                "192.0.2.43 - -",
            ),
            ("proto=https", "-"),
            ("for=192.0.2.43;for=192.0.2.44", "-"),
            ("for=[2001:db8::1]:80", "[2001:db8::1]:80"),
            ("for=192.0.2.43;", "192.0.2.43"),
            ("", ""),
        ] {
            assert_eq!(read(text).as_deref(), Some(meant), "{text}");
        }
        // A stranger's open quote must not swallow what the proxy appends.
        for text in [
            "for=\"192.0.2.43",
            "for=6.6.6.6;x=\", for=192.0.2.43",
            "for=6.6.6.6;x=\", for=\"[2001:db8::1]:80\"",
            "for=\"a\\",
            "for=192.0.2.43 for=192.0.2.44",
            "for",
            "for=",
            "for=a=b",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
