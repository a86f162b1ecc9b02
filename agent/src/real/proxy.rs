//! The PROXY protocol's header, versions 1 and 2.
//! <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>
//!
//! ```text
//! 1  "PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n"                                at most 107 bytes
//! 2  0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a │ 2, command │ family, transport │ length u16 │ addresses │ TLVs
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::address::told;
use crate::event::ToldAddress;

/// Section 2.2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const FIXED_BYTES: usize = 16;
/// Longest line of version 1 with its end (section 2.1).
const LINE_BYTES: usize = 107;

/// What stands in front of a client's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// More bytes are needed.
    Incomplete,
    /// A header of so many bytes, and the client's address, unless it tells of none (LOCAL, UNKNOWN, a Unix socket).
    Whole(usize, Option<ToldAddress>),
    /// No header, or a wrong one.
    None,
}

/// Reads what a connection begins with.
pub(super) fn header(bytes: &[u8]) -> Header {
    let common = bytes.len().min(SIGNATURE.len());
    if bytes[..common] == SIGNATURE[..common] {
        return binary(bytes);
    }
    let prefix = b"PROXY ";
    let common = bytes.len().min(prefix.len());
    if bytes[..common] != prefix[..common] {
        return Header::None;
    }
    let line = &bytes[..bytes.len().min(LINE_BYTES)];
    match line.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => {
            text(&line[prefix.len()..end]).map_or(Header::None, |told| Header::Whole(end + 2, told))
        }
        None if line.len() < LINE_BYTES => Header::Incomplete,
        None => Header::None,
    }
}

/// The line behind `PROXY `. Nothing: it is wrong.
#[allow(
    clippy::option_option,
    reason = "a right line may tell of no address; for one caller"
)]
fn text(line: &[u8]) -> Option<Option<ToldAddress>> {
    let line = std::str::from_utf8(line).ok()?;
    let mut words = line.split(' ');
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(None); // the rest of the line is to be ignored
    }
    let words: Vec<_> = words.collect();
    let [source, destination, source_port, destination_port] = words[..] else {
        return None;
    };
    let ip = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::from),
            _ => None,
        }
    };
    let port = |text: &str| -> Option<u16> {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten()
    };
    ip(destination)?;
    port(destination_port)?;
    Some(told(ip(source)?, Some(port(source_port)?)))
}

fn binary(bytes: &[u8]) -> Header {
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else {
        return Header::Incomplete;
    };
    let (version, command) = (fixed[12] >> 4, fixed[12] & 0xf);
    if version != 2 || command > 1 {
        return Header::None;
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let Some(addresses) = rest.get(..length) else {
        return Header::Incomplete;
    };
    let whole = FIXED_BYTES + length;
    // LOCAL: the proxy itself; what follows is to be ignored.
    if command == 0 {
        return Header::Whole(whole, None);
    }
    // Behind the addresses are TLVs, which say nothing of them.
    let told = match fixed[13] {
        // TCP over IPv4: 4 + 4 + 2 + 2 bytes
        0x11 => match addresses.first_chunk::<12>() {
            Some(&[a, b, c, d, _, _, _, _, high, low, _, _]) => {
                told([a, b, c, d].into(), Some(u16::from_be_bytes([high, low])))
            }
            None => return Header::None,
        },
        // TCP over IPv6: 16 + 16 + 2 + 2 bytes
        0x21 => match (addresses.first_chunk::<16>(), addresses.get(32..36)) {
            (Some(source), Some(ports)) => told(
                (*source).into(),
                Some(u16::from_be_bytes([ports[0], ports[1]])),
            ),
            _ => return Header::None,
        },
        // Unspecified, UDP, Unix sockets
        _ => None,
    };
    Header::Whole(whole, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> String {
        match header(bytes) {
            Header::Whole(length, told) => {
                format!(
                    "{length} {}",
                    told.map_or("-".into(), |told| told.to_string())
                )
            }
            other => format!("{other:?}"),
        }
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn text_headers() {
        for (line, meant) in [
            (
                "PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\nGET",
                "43 203.0.113.7:56324",
            ),
            (
                "PROXY TCP6 2001:db8::7 ::1 56324 443\r\n",
                "38 [2001:db8::7]:56324",
            ),
            ("PROXY UNKNOWN\r\nx", "15 -"),
            ("PROXY UNKNOWN ffff:f...f:ffff x 1 2\r\n", "37 -"),
            ("PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\n", "Incomplete"),
            ("PROXY TCP4 2001:db8::7 10.0.0.2 56324 443\r\n", "None"),
            ("PROXY TCP4 203.0.113.7 10.0.0.2 65536 443\r\n", "None"),
            ("PROXY TCP4 203.0.113.7 10.0.0.2 +5 443\r\n", "None"),
            ("PROXY TCP4 203.0.113.7 10.0.0.2 5\r\n", "None"),
            ("PROXY TCP4 203.0.113.7  10.0.0.2 5 6\r\n", "None"),
            ("PROXY UDP4 203.0.113.7 10.0.0.2 5 6\r\n", "None"),
            ("GET / HTTP/1.1\r\n", "None"),
            ("PROXX", "None"),
            ("", "Incomplete"),
        ] {
            assert_eq!(shown(line.as_bytes()), meant, "{line}");
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
        assert_eq!(long.len(), 107);
        assert_eq!(shown(long.as_bytes()), "107 -");
        let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
        assert_eq!(shown(longer.as_bytes()), "None");
    }

    #[test]
    fn binary_headers() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 2, 0xdc, 4, 1, 0xbb];
        assert_eq!(shown(&v2(1, 0x11, &v4)), "28 203.0.113.7:56324");
        let with_tlv = [&v4[..], &[0x04, 0, 3, 1, 2, 3]].concat();
        assert_eq!(shown(&v2(1, 0x11, &with_tlv)), "34 203.0.113.7:56324");
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32] = 1;
        assert_eq!(shown(&v2(1, 0x21, &v6)), "52 [2001:db8::7]:256");
        assert_eq!(shown(&v2(0, 0x11, &v4)), "28 -");
        assert_eq!(shown(&v2(0, 0, &[])), "16 -");
        assert_eq!(shown(&v2(1, 0x31, &[0; 216])), "232 -");
        assert_eq!(shown(&v2(1, 0x12, &v4)), "28 -");
        assert_eq!(shown(&v2(1, 0x11, &v4[..11])), "None");
        assert_eq!(shown(&v2(1, 0x21, &v6[..35])), "None");
        assert_eq!(shown(&v2(2, 0x11, &v4)), "None");
        let mut other = v2(1, 0x11, &v4);
        other[12] = 0x11;
        assert_eq!(shown(&other), "None");
    }

    #[test]
    fn every_beginning_is_incomplete() {
        let v4 = [203, 0, 113, 7, 10, 0, 0, 2, 0xdc, 4, 1, 0xbb];
        for whole in [
            v2(1, 0x11, &v4),
            b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n".to_vec(),
        ] {
            for end in 0..whole.len() {
                assert_eq!(header(&whole[..end]), Header::Incomplete, "{end}");
            }
        }
    }
}
