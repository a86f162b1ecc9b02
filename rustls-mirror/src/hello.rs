//! What a handshake's messages say in the clear of a connection: the randoms by which the agent finds
//! it on the wire, the server's name, version and cipher.
//!
//! Fed by the wrappers from the records that pass, and by the wrapped provider from the transcript that
//! rustls hashes. Nothing of it is secret; messages that could be are passed over by their length. The
//! bytes are a peer's: nothing here panics, and what isn't understood stays unknown.

/// Longest handshake message that is looked into. A ClientHello has a few kilobytes at most.
const MAX_MESSAGE: usize = 64 * 1024;

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const ENCRYPTED_EXTENSIONS: u8 = 8;

// RFC 6066 3, RFC 7301 3.1, RFC 8446 4.2, RFC 9849 5.
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const SUPPORTED_VERSIONS: u16 = 43;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;
// RFC 9001 8.2, and what drafts of it had.
const QUIC_PARAMETERS: u16 = 57;
const QUIC_PARAMETERS_DRAFT: u16 = 0xffa5;

/// ECHClientHello of type inner, which has nothing else (RFC 9849 5).
const ECH_INNER: &[u8] = &[1];

/// The random by which a ServerHello says that it is a HelloRetryRequest (RFC 8446 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// What a ClientHello is to an Encrypted Client Hello (RFC 9849 5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ech {
    /// It has no such extension.
    #[default]
    None,
    /// It carries one, or something that looks so: the hello that the peers agree on may be another.
    Outer,
    /// It was carried so, and isn't on the wire as it is.
    Inner,
}

/// What both hellos said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) client_random: Option<[u8; 32]>,
    pub(crate) server_random: Option<[u8; 32]>,
    /// As on the wire: 0x0303, 0x0304.
    pub(crate) tls_version: Option<u16>,
    /// IANA number of the cipher suite.
    pub(crate) cipher: Option<u16>,
    /// The host name of the server_name extension; empty: none.
    pub(crate) sni: Vec<u8>,
    /// The protocol that the server chose, where its message was seen in the clear; empty: none.
    pub(crate) alpn: Vec<u8>,
    pub(crate) resumed: bool,
    /// The ClientHello offers 0-RTT data.
    pub(crate) early_offered: bool,
    /// What the EncryptedExtensions say of it, where they were seen.
    pub(crate) early_accepted: Option<bool>,
    pub(crate) ech: Ech,
    /// Of an inner hello: the outer one's random, where that is known.
    pub(crate) outer_random: Option<[u8; 32]>,
    /// The ClientHello has QUIC's transport parameters.
    pub(crate) quic: bool,
    session_id: Vec<u8>,
}

impl Known {
    /// What a server's hello says together with the client's, where each was read by itself.
    pub(crate) fn answering(self, client: &Known) -> Self {
        Self {
            client_random: client.client_random,
            sni: client.sni.clone(),
            early_offered: client.early_offered,
            ech: client.ech,
            session_id: client.session_id.clone(),
            ..self
        }
    }
}

/// Takes the bytes of handshake messages, cut anywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hellos {
    pub(crate) known: Known,
    /// The message that isn't whole yet, with its header.
    pending: Vec<u8>,
    /// Bytes of a message of no interest that are still to come.
    passing: usize,
}

impl Hellos {
    /// Whether both randoms are known.
    pub(crate) fn both(&self) -> bool {
        self.known.client_random.is_some() && self.known.server_random.is_some()
    }

    /// The next bytes of handshake messages, without record headers.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let passed = self.passing.min(bytes.len());
            self.passing -= passed;
            bytes = &bytes[passed..];

            let missing = match *self.pending.as_slice() {
                [_, a, b, c, ..] => {
                    let whole = 4 + usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
                    whole.saturating_sub(self.pending.len())
                }
                _ => 4 - self.pending.len(),
            };
            let (now, later) = bytes.split_at(missing.min(bytes.len()));
            self.pending.extend_from_slice(now);
            bytes = later;
            self.take_message();
        }
    }

    /// Looks at `pending` if it is a whole message, and passes it over if it is of no interest.
    fn take_message(&mut self) {
        let [kind, a, b, c, ref body @ ..] = *self.pending.as_slice() else {
            return;
        };
        let length = usize::from(a) * 65536 + usize::from(b) * 256 + usize::from(c);
        if !matches!(kind, CLIENT_HELLO | SERVER_HELLO | ENCRYPTED_EXTENSIONS)
            || length > MAX_MESSAGE
        {
            self.passing = length - body.len().min(length);
            self.pending.clear();
        } else if body.len() == length {
            let known = &mut self.known;
            // What isn't understood is left unknown.
            let _understood = match kind {
                CLIENT_HELLO => client_hello(known, body),
                SERVER_HELLO => server_hello(known, body),
                _ => encrypted_extensions(known, body),
            };
            self.pending.clear();
        }
    }
}

/// RFC 8446 4.1.2, RFC 5246 7.4.1.2.
fn client_hello(known: &mut Known, body: &[u8]) -> Option<()> {
    let mut rest = body;
    take(&mut rest, 2)?;
    let random = take(&mut rest, 32)?.try_into().ok()?;
    // A second one, behind a HelloRetryRequest, says all of it anew.
    *known = Known {
        client_random: Some(random),
        ..Known::default()
    };
    known.session_id = vector8(&mut rest)?.to_vec();
    vector16(&mut rest)?;
    vector8(&mut rest)?;
    for_each_extension(rest, |kind, body| match kind {
        SERVER_NAME => known.sni = host_name(body).unwrap_or_default().to_vec(),
        EARLY_DATA => known.early_offered = true,
        ENCRYPTED_CLIENT_HELLO => {
            known.ech = match body {
                ECH_INNER => Ech::Inner,
                _ => Ech::Outer,
            };
        }
        QUIC_PARAMETERS | QUIC_PARAMETERS_DRAFT => known.quic = true,
        _ => {}
    })
}

/// RFC 8446 4.1.3, RFC 5246 7.4.1.3.
fn server_hello(known: &mut Known, body: &[u8]) -> Option<()> {
    let mut rest = body;
    let legacy_version = number(take(&mut rest, 2)?);
    let random: [u8; 32] = take(&mut rest, 32)?.try_into().ok()?;
    if random == RETRY {
        return None;
    }
    known.server_random = Some(random);
    let session_id = vector8(&mut rest)?;
    known.cipher = Some(number(take(&mut rest, 2)?));
    take(&mut rest, 1)?;
    let mut version = legacy_version;
    let mut resumed = !session_id.is_empty() && session_id == known.session_id;
    let understood = for_each_extension(rest, |kind, body| match kind {
        SUPPORTED_VERSIONS if body.len() == 2 => {
            version = number(body);
            // In TLS 1.3 the id is echoed always; only a chosen pre-shared key means that.
            resumed = false;
        }
        ALPN => known.alpn = chosen_protocol(body).unwrap_or_default().to_vec(),
        _ => {}
    });
    known.tls_version = Some(version);
    known.resumed = resumed || has_extension(rest, PRE_SHARED_KEY);
    understood
}

/// RFC 8446 4.3.1.
fn encrypted_extensions(known: &mut Known, body: &[u8]) -> Option<()> {
    known.early_accepted = Some(false);
    for_each_extension(body, |kind, body| match kind {
        ALPN => known.alpn = chosen_protocol(body).unwrap_or_default().to_vec(),
        EARLY_DATA => known.early_accepted = Some(true),
        _ => {}
    })
}

/// The first host_name of a ServerNameList (RFC 6066 3).
fn host_name(mut body: &[u8]) -> Option<&[u8]> {
    let mut list = vector16(&mut body)?;
    while !list.is_empty() {
        let kind = take(&mut list, 1)?;
        let name = vector16(&mut list)?;
        if kind == [0] {
            return Some(name);
        }
    }
    None
}

/// The one name in a server's ProtocolNameList (RFC 7301 3.1).
fn chosen_protocol(mut body: &[u8]) -> Option<&[u8]> {
    let mut list = vector16(&mut body)?;
    vector8(&mut list)
}

fn has_extension(block: &[u8], wanted: u16) -> bool {
    let mut found = false;
    // What stands before a malformed one counts.
    let _understood = for_each_extension(block, |kind, _| found |= kind == wanted);
    found
}

/// Calls `look` with type and data of each extension of the vector in `block` (RFC 8446 4.2), which may
/// be missing altogether.
fn for_each_extension(mut block: &[u8], mut look: impl FnMut(u16, &[u8])) -> Option<()> {
    if block.is_empty() {
        return Some(());
    }
    let mut rest = vector16(&mut block)?;
    while !rest.is_empty() {
        let kind = number(take(&mut rest, 2)?);
        look(kind, vector16(&mut rest)?);
    }
    Some(())
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn vector8<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(*take(rest, 1)?.first()?);
    take(rest, length)
}

fn vector16<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::from(number(take(rest, 2)?));
    take(rest, length)
}

/// Two bytes, big-endian.
fn number(bytes: &[u8]) -> u16 {
    match *bytes {
        [high, low, ..] => u16::from_be_bytes([high, low]),
        _ => 0,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use rustls::crypto::ring::default_provider;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, RootCertStore};

    use super::*;

    /// The ClientHello message that rustls sends to `name`.
    fn rustls_hello(name: &str) -> Vec<u8> {
        let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut record = Vec::new();
        client.write_tls(&mut record).unwrap();
        record.split_off(5)
    }

    /// A ClientHello with these fields.
    pub(crate) fn client_hello_message(random: [u8; 32], extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend(random);
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0, 0, u8::try_from(body.len()).unwrap()];
        message.extend(body);
        message
    }

    /// A ServerHello with these fields.
    pub(crate) fn server_hello_message(random: [u8; 32], extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend(random);
        body.push(0);
        body.extend([0x13, 0x01, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let mut message = vec![SERVER_HELLO, 0, 0, u8::try_from(body.len()).unwrap()];
        message.extend(body);
        message
    }

    #[test]
    fn hellos_are_read_however_they_are_cut() {
        let mut bytes = rustls_hello("example.test");
        let random: [u8; 32] = bytes[6..38].try_into().unwrap();
        bytes.extend(server_hello_message(RETRY, &[]));
        // Certificate, of no interest, longer than anything that is kept.
        bytes.extend([11, 1, 0x11, 0x70]);
        bytes.extend(vec![0; 70_000]);
        bytes.extend(server_hello_message(
            [7; 32],
            &[0, 43, 0, 2, 3, 4, 0, 41, 0, 2, 0, 0],
        ));
        bytes.extend([
            8, 0, 0, 15, 0, 13, 0, 16, 0, 5, 0, 3, 2, b'h', b'2', 0, 42, 0, 0,
        ]);
        for step in [1, 3, 7, 100, bytes.len()] {
            let mut hellos = Hellos::default();
            for part in bytes.chunks(step) {
                hellos.feed(part);
            }
            let known = &hellos.known;
            assert!(hellos.both(), "cut by {step}");
            assert_eq!(known.client_random, Some(random));
            assert_eq!(known.server_random, Some([7; 32]));
            assert_eq!(
                (known.tls_version, known.cipher),
                (Some(0x0304), Some(0x1301))
            );
            assert_eq!(
                (&known.sni[..], &known.alpn[..]),
                (&b"example.test"[..], &b"h2"[..])
            );
            assert!(known.resumed && known.early_accepted == Some(true));
        }
    }

    #[test]
    fn extensions_tell_of_ech_and_quic() {
        let known = |extension: &[u8]| {
            let mut hellos = Hellos::default();
            hellos.feed(&client_hello_message([9; 32], extension));
            assert_eq!(hellos.known.client_random, Some([9; 32]));
            let known = hellos.known;
            (known.ech, known.quic)
        };
        assert_eq!(known(&[]), (Ech::None, false));
        assert_eq!(known(&[0xfe, 0x0d, 0, 1, 1]), (Ech::Inner, false));
        assert_eq!(known(&[0xfe, 0x0d, 0, 2, 0, 7]), (Ech::Outer, false));
        assert_eq!(known(&[0, 57, 0, 0]), (Ech::None, true));
        assert_eq!(known(&[0xff, 0xa5, 0, 0]), (Ech::None, true));
    }

    #[test]
    fn bytes_of_a_hostile_peer_leave_things_unknown() {
        let whole = rustls_hello("example.test");
        for cut in 4..whole.len() {
            let mut message = whole[..cut].to_vec();
            let length = u32::try_from(cut - 4).unwrap().to_be_bytes();
            message[1..4].copy_from_slice(&length[1..]);
            let mut hellos = Hellos::default();
            hellos.feed(&message);
            assert_eq!(
                hellos.known.client_random.is_some(),
                cut >= 38,
                "cut at {cut}"
            );
        }
        let mut hellos = Hellos::default();
        hellos.feed(&[CLIENT_HELLO, 0xff, 0xff, 0xff]);
        hellos.feed(&[0xff; 1000]);
        assert_eq!((hellos.known, hellos.pending.len()), (Known::default(), 0));
    }
}
