//! Reads a whole ClientHello (RFC 8446 4.1.2): the names in it and its JA4 fingerprint. The bytes come
//! from a network: nothing is believed, and nothing can panic.
//!
//! JA4 says which TLS client this is (FoxIO, "JA4: TLS Client Fingerprinting", BSD 3-Clause):
//!
//! ```text
//! t13d1516h2_8daaf6152771_02713d6af862
//! │││ │ │ │  │            └ extensions, sorted, and signature algorithms as they stand: SHA-256, cut
//! │││ │ │ │  └ cipher suites, sorted: SHA-256, cut to 12 digits
//! │││ │ │ └ first and last character of the first ALPN name
//! │││ │ └ number of extensions
//! │││ └ number of cipher suites
//! ││└ d: with a server name, i: without
//! │└ highest version offered
//! └ over TCP
//! ```

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// What a ClientHello tells beside its random.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server's name; what isn't printable ASCII is escaped. None that is longer than a host's can be, and none in a
    /// hello that may carry another one (RFC 9849): the name is then of who stands in front of the server.
    pub sni: Option<String>,
    /// The fingerprint: 36 characters.
    pub ja4: String,
}

/// Extensions whose content is read here (RFC 6066, 8446, 7301, 9849).
const SERVER_NAME: u16 = 0;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// Of a message's header: type and length.
const HEADER_BYTES: usize = 4;
/// Of a host's name (RFC 1035 2.3.4): it is kept for as long as the handshake is remembered.
const MAX_NAME: usize = 255;
/// Digits of a hash that are kept.
const HASH_DIGITS: usize = 12;

impl ClientHello {
    /// Reads a handshake message, from its type on. `None`: it isn't a ClientHello, or not a whole one.
    pub fn parse(message: &[u8]) -> Option<Self> {
        let mut reader = Reader(message);
        if reader.u8()? != 1 {
            return None;
        }
        let length = reader.take(3)?;
        let length =
            usize::from(length[0]) << 16 | usize::from(length[1]) << 8 | usize::from(length[2]);
        if message.len() != HEADER_BYTES + length {
            return None;
        }
        let legacy_version = reader.u16()?;
        reader.take(32)?;
        reader.vector8()?; // session id
        let ciphers = numbers(reader.vector16()?)?;
        reader.vector8()?; // compression methods
        let mut said = Said {
            legacy_version,
            ciphers,
            ..Said::default()
        };
        // Before TLS 1.2 there may be none (RFC 5246 7.4.1.2).
        if !reader.0.is_empty() {
            let mut extensions = Reader(reader.vector16()?);
            if !reader.0.is_empty() {
                return None;
            }
            while !extensions.0.is_empty() {
                let kind = extensions.u16()?;
                said.extension(kind, extensions.vector16()?)?;
            }
        }
        Some(said.tell())
    }
}

/// A ClientHello taken apart.
#[derive(Debug, Default)]
struct Said<'a> {
    legacy_version: u16,
    ciphers: Vec<u16>,
    extensions: Vec<u16>,
    versions: Vec<u16>,
    signatures: Vec<u16>,
    sni: Option<&'a [u8]>,
    /// The first one.
    alpn: Option<&'a [u8]>,
    /// Another hello is in it, or what looks so.
    is_outer: bool,
}

impl<'a> Said<'a> {
    fn extension(&mut self, kind: u16, content: &'a [u8]) -> Option<()> {
        self.extensions.push(kind);
        let mut reader = Reader(content);
        match kind {
            SERVER_NAME => {
                let mut names = Reader(reader.vector16()?);
                let is_host = names.u8()? == 0;
                let name = names.vector16()?;
                self.sni = is_host.then_some(name);
            }
            SIGNATURE_ALGORITHMS => self.signatures = numbers(reader.vector16()?)?,
            ALPN => {
                let mut names = Reader(reader.vector16()?);
                if !names.0.is_empty() {
                    self.alpn = Some(names.vector8()?);
                }
            }
            SUPPORTED_VERSIONS => self.versions = numbers(reader.vector8()?)?,
            ENCRYPTED_CLIENT_HELLO => self.is_outer = content.first() == Some(&0),
            _ => {}
        }
        Some(())
    }

    fn tell(self) -> ClientHello {
        let is_sessions = |name: &&[u8]| (1..=MAX_NAME).contains(&name.len()) && !self.is_outer;
        let sni = self.sni.filter(is_sessions);
        ClientHello {
            sni: sni.map(|name| name.escape_ascii().to_string()),
            ja4: self.ja4(),
        }
    }

    fn ja4(&self) -> String {
        let known = |numbers: &[u16]| -> Vec<u16> {
            let known = numbers.iter().filter(|number| !is_grease(**number));
            known.copied().collect()
        };
        let mut ciphers = known(&self.ciphers);
        let mut extensions = known(&self.extensions);
        let version = known(&self.versions).into_iter().max();
        let name = if self.extensions.contains(&SERVER_NAME) {
            'd'
        } else {
            'i'
        };
        let (first, last) = ends(self.alpn.unwrap_or_default());
        let head = format!(
            "t{}{name}{:02}{:02}{first}{last}",
            version_digits(version.unwrap_or(self.legacy_version)),
            ciphers.len().min(99),
            extensions.len().min(99),
        );
        ciphers.sort_unstable();
        // They are counted, but tell more of the server than of the client.
        extensions.retain(|kind| ![SERVER_NAME, ALPN].contains(kind));
        extensions.sort_unstable();
        let mut last = listed(&extensions);
        let signatures = listed(&known(&self.signatures));
        if !last.is_empty() && !signatures.is_empty() {
            last = format!("{last}_{signatures}");
        }
        format!("{head}_{}_{}", hash(&listed(&ciphers)), hash(&last))
    }
}

/// Values that mean nothing, which some clients strew in (RFC 8701).
fn is_grease(number: u16) -> bool {
    number & 0x0f0f == 0x0a0a && number >> 8 == number & 0xff
}

fn version_digits(version: u16) -> &'static str {
    match version {
        0x0304 => "13",
        0x0303 => "12",
        0x0302 => "11",
        0x0301 => "10",
        0x0300 => "s3",
        0x0002 => "s2",
        _ => "00",
    }
}

/// First and last character of a protocol's name; where one is no letter or digit, those of the name in hex.
fn ends(name: &[u8]) -> (char, char) {
    let (Some(&first), Some(&last)) = (name.first(), name.last()) else {
        return ('0', '0');
    };
    if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric() {
        return (first.into(), last.into());
    }
    let digit = |half: u8| char::from_digit(half.into(), 16).unwrap_or('0');
    (digit(first >> 4), digit(last & 15))
}

/// As four digits each, with commas between.
fn listed(numbers: &[u16]) -> String {
    let mut words = String::with_capacity(5 * numbers.len());
    for number in numbers {
        if !words.is_empty() {
            words.push(',');
        }
        // Writing to a string doesn't fail.
        let _ = write!(words, "{number:04x}");
    }
    words
}

fn hash(words: &str) -> String {
    if words.is_empty() {
        return "0".repeat(HASH_DIGITS);
    }
    let mut digits = format!("{:x}", Sha256::digest(words));
    digits.truncate(HASH_DIGITS);
    digits
}

fn numbers(bytes: &[u8]) -> Option<Vec<u16>> {
    let (pairs, rest) = bytes.as_chunks::<2>();
    rest.is_empty()
        .then(|| pairs.iter().map(|pair| u16::from_be_bytes(*pair)).collect())
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)
            .map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(length.into())
    }

    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn vector16(content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap();
        [&length.to_be_bytes()[..], content].concat()
    }

    fn vector8(content: &[u8]) -> Vec<u8> {
        [&[u8::try_from(content.len()).unwrap()][..], content].concat()
    }

    fn pairs(numbers: &[u16]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_be_bytes())
            .collect()
    }

    fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(content)].concat()
    }

    /// A message with these cipher suites and extensions.
    fn message(ciphers: &[u16], extensions: &[Vec<u8>]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&[7; 32]);
        body.extend(vector8(&[9; 32]));
        body.extend(vector16(&pairs(ciphers)));
        body.extend(vector8(&[0]));
        if !extensions.is_empty() {
            body.extend(vector16(&extensions.concat()));
        }
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&[1][..], &length[1..], &body].concat()
    }

    /// The browser of JA4's own description, with `padding` bytes of zeros.
    pub(crate) fn browser(padding: usize) -> Vec<u8> {
        let mut ciphers = vec![
            0x3a3a, 0x1301, 0x1302, 0x1303, 0xc02b, 0xc02f, 0xc02c, 0xc030,
        ];
        ciphers.extend([
            0xcca9, 0xcca8, 0xc013, 0xc014, 0x009c, 0x009d, 0x002f, 0x0035,
        ]);
        let name = [&[0][..], &vector16(b"www.example.org")].concat();
        let offered = [vector8(b"h2"), vector8(b"http/1.1")].concat();
        let versions = pairs(&[0x2a2a, 0x0304, 0x0303]);
        let signatures = [
            0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601,
        ];
        let mut extensions = vec![
            extension(0x5a5a, &[]),
            extension(0x001b, &[2, 0, 2]),
            extension(SERVER_NAME, &vector16(&name)),
            extension(0x0033, &vector16(&[])),
            extension(ALPN, &vector16(&offered)),
            extension(0x4469, &[0, 3, 2, b'h', b'2']),
            extension(0x0017, &[]),
            extension(SUPPORTED_VERSIONS, &vector8(&versions)),
            extension(SIGNATURE_ALGORITHMS, &vector16(&pairs(&signatures))),
        ];
        for kind in [0x0005, 0x0023, 0x000a, 0x002d, 0x0012, 0xff01, 0x000b] {
            extensions.push(extension(kind, &[]));
        }
        extensions.push(extension(0x0015, &vec![0; padding]));
        message(&ciphers, &extensions)
    }

    /// The hashes are those of the example in JA4's description.
    #[test]
    fn the_fingerprint_of_the_description() {
        let hello = ClientHello::parse(&browser(0)).unwrap();
        assert_eq!(hello.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
        assert_eq!(hello.sni.as_deref(), Some("www.example.org"));
    }

    #[test]
    fn little_said_is_a_fingerprint_too() {
        let hello = ClientHello::parse(&message(&[], &[])).unwrap();
        assert_eq!(hello.ja4, "t12i000000_000000000000_000000000000");
        let only_grease = ClientHello::parse(&message(&[0x0a0a], &[extension(0xfafa, &[])]));
        assert_eq!(only_grease, Some(hello));
    }

    #[test]
    fn names_of_protocols_that_are_no_words() {
        for (name, expected) in [
            (&b"h2"[..], "h2"),
            (b"x", "xx"),
            (&[0xab], "ab"),
            (&[0xab, 0xcd], "ad"),
            (&[0x30, 0xab], "3b"),
            (b"", "00"),
        ] {
            let (first, last) = ends(name);
            assert_eq!(format!("{first}{last}"), expected);
        }
    }

    #[test]
    fn counts_end_at_99() {
        let ciphers: Vec<u16> = (1..=120).collect();
        let hello = ClientHello::parse(&message(&ciphers, &[])).unwrap();
        assert!(hello.ja4.starts_with("t12i990000_"), "{}", hello.ja4);
    }

    #[test]
    fn names_cannot_carry_control_characters() {
        let name = [&[0][..], &vector16(b"a\x1b[31m\n")].concat();
        let hello = message(&[1], &[extension(SERVER_NAME, &vector16(&name))]);
        let hello = ClientHello::parse(&hello).unwrap();
        assert_eq!(hello.sni.as_deref(), Some("a\\x1b[31m\\n"));
    }

    /// Anybody may send as many hellos as are remembered.
    #[test]
    fn no_name_is_longer_than_a_hosts() {
        for (length, is_kept) in [(255, true), (256, false), (16_000, false)] {
            let name = vec![b'a'; length];
            let list = [&[0][..], &vector16(&name)].concat();
            let hello = message(&[1], &[extension(SERVER_NAME, &vector16(&list))]);
            let hello = ClientHello::parse(&hello).unwrap();
            assert_eq!(hello.sni.is_some(), is_kept, "{length}");
            assert!(hello.ja4.starts_with("t12d0101"), "{}", hello.ja4);
        }
    }

    #[test]
    fn the_name_in_front_is_not_the_sessions() {
        let list = [&[0][..], &vector16(b"front.example")].concat();
        let name = || extension(SERVER_NAME, &vector16(&list));
        for (kind, is_kept) in [(0, false), (1, true)] {
            let encrypted = extension(ENCRYPTED_CLIENT_HELLO, &[kind]);
            let hello = message(&[1], &[name(), encrypted]);
            let hello = ClientHello::parse(&hello).unwrap();
            assert_eq!(hello.sni.is_some(), is_kept);
            assert!(hello.ja4.starts_with("t12d0102"), "{}", hello.ja4);
        }
    }

    #[test]
    fn a_part_tells_nothing() {
        let whole = browser(3);
        for end in 0..whole.len() {
            assert_eq!(ClientHello::parse(&whole[..end]), None);
        }
        let more = [&whole[..], &[0]].concat();
        assert_eq!(ClientHello::parse(&more), None);
    }

    proptest! {
        #[test]
        fn a_damaged_one_never_panics(
            damage in prop::collection::vec((0usize..280, any::<u8>()), 1..8),
        ) {
            let mut bytes = browser(40);
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            if let Some(hello) = ClientHello::parse(&bytes) {
                prop_assert_eq!(hello.ja4.len(), 36);
                prop_assert!(hello.ja4.is_ascii());
            }
        }
    }
}
