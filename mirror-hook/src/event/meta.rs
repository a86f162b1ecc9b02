//! What is known of a connection: the body of OPEN and UPDATE, drawn in the module above.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Announcement, EarlyData, EventError, Role, Transport, array};

/// Bytes of the fixed part of OPEN and UPDATE behind the record header.
pub const META_BYTES: usize = 192;
/// Longest SNI that is carried (a DNS name has at most 253 octets, RFC 1035 2.3.4).
pub const MAX_SNI: usize = 255;
/// Longest ALPN protocol name (RFC 7301 3.1).
pub const MAX_ALPN: usize = 255;

const HAS_CLIENT_RANDOM: u32 = 1;
const HAS_SERVER_RANDOM: u32 = 1 << 1;
const HAS_COOKIES: u32 = 1 << 2;
const RESUMED: u32 = 1 << 3;
const HAS_WIRE_COUNTS: u32 = 1 << 4;
const HANDSHAKE_DONE: u32 = 1 << 5;
const HAS_PREFIX: u32 = 1 << 6;
const ADDRESSES_TOLD: u32 = 1 << 7;
const KNOWN_FLAGS: u32 = (1 << 8) - 1;

/// What is known of a connection; the body of OPEN and UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    /// Which end the process is.
    pub role: Role,
    /// What the TLS records travel on.
    pub transport: Transport,
    /// What became of 0-RTT data.
    pub early: EarlyData,
    /// How the connection comes to be announced.
    pub announcement: Announcement,
    /// The handshake has ended: version, cipher, ALPN and both randoms are final.
    pub handshake_done: bool,
    /// The session was resumed.
    pub resumed: bool,
    /// TLS version as on the wire (0x0303, 0x0304).
    pub tls_version: Option<u16>,
    /// IANA number of the cipher suite.
    pub cipher: Option<u16>,
    /// Local and peer address: the socket's, where the library has one.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// They aren't the socket's: the application said so.
    pub addresses_told: bool,
    /// SO_COOKIE and SO_NETNS_COOKIE of the socket.
    pub cookies: Option<(u64, u64)>,
    /// ClientHello.random (RFC 8446 4.1.2).
    pub client_random: Option<[u8; 32]>,
    /// ServerHello.random (RFC 8446 4.1.3).
    pub server_random: Option<[u8; 32]>,
    /// Bytes that the library has read from and written to its transport.
    pub wire_counts: Option<(u64, u64)>,
    /// Clear bytes that this side sent on the socket before TLS began.
    pub clear_prefix_sent: Option<u64>,
    /// Stream offsets sent and received when this was written.
    pub offsets: (u64, u64),
    /// Instance and connection under which the parent process announced it.
    pub parent: Option<(u64, u64)>,
    /// Times that the process has forked so far.
    pub forks: u32,
    /// Server name (RFC 6066 3), at most [`MAX_SNI`] bytes; empty: none.
    pub sni: &'a [u8],
    /// ALPN protocol agreed on, at most [`MAX_ALPN`] bytes; empty: none.
    pub alpn: &'a [u8],
}

impl<'a> Meta<'a> {
    /// A connection of which nothing is known but its role.
    pub fn new(role: Role) -> Self {
        Self {
            role,
            transport: Transport::Tcp,
            early: EarlyData::None,
            announcement: Announcement::New,
            handshake_done: false,
            resumed: false,
            tls_version: None,
            cipher: None,
            addresses: None,
            addresses_told: false,
            cookies: None,
            client_random: None,
            server_random: None,
            wire_counts: None,
            clear_prefix_sent: None,
            offsets: (0, 0),
            parent: None,
            forks: 0,
            sni: &[],
            alpn: &[],
        }
    }

    /// The fixed part as it stands in the record. The SNI and the ALPN protocol follow it; a longer
    /// one than [`MAX_SNI`] or [`MAX_ALPN`] must have been cut before.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "lengths are cut to 255 right here"
    )]
    pub fn encode_fixed(&self) -> [u8; META_BYTES] {
        let mut out = [0; META_BYTES];
        let flag = |present: bool, bit: u32| if present { bit } else { 0 };
        let flags = flag(self.client_random.is_some(), HAS_CLIENT_RANDOM)
            | flag(self.server_random.is_some(), HAS_SERVER_RANDOM)
            | flag(self.cookies.is_some(), HAS_COOKIES)
            | flag(self.resumed, RESUMED)
            | flag(self.wire_counts.is_some(), HAS_WIRE_COUNTS)
            | flag(self.handshake_done, HANDSHAKE_DONE)
            | flag(self.clear_prefix_sent.is_some(), HAS_PREFIX)
            | flag(self.addresses_told, ADDRESSES_TOLD);
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &flags.to_ne_bytes());
        put(
            4,
            &[
                self.role as u8,
                self.transport as u8,
                self.early as u8,
                self.announcement as u8,
            ],
        );
        put(8, &self.tls_version.unwrap_or(0).to_ne_bytes());
        put(10, &self.cipher.unwrap_or(0).to_ne_bytes());
        put(
            13,
            &[
                self.sni.len().min(MAX_SNI) as u8,
                self.alpn.len().min(MAX_ALPN) as u8,
            ],
        );
        if let Some((local, peer)) = self.addresses {
            match (local.ip(), peer.ip()) {
                (IpAddr::V4(local), IpAddr::V4(peer)) => {
                    put(12, &[4]);
                    put(16, &local.octets());
                    put(32, &peer.octets());
                }
                (local, peer) => {
                    put(12, &[6]);
                    put(16, &v6_octets(local));
                    put(32, &v6_octets(peer));
                }
            }
            put(48, &local.port().to_ne_bytes());
            put(50, &peer.port().to_ne_bytes());
        }
        put(52, &self.forks.to_ne_bytes());
        let mut put_pair = |at: usize, pair: (u64, u64)| {
            put(at, &pair.0.to_ne_bytes());
            put(at + 8, &pair.1.to_ne_bytes());
        };
        put_pair(56, self.cookies.unwrap_or_default());
        put_pair(136, self.wire_counts.unwrap_or_default());
        put_pair(160, self.offsets);
        put_pair(176, self.parent.unwrap_or_default());
        put(152, &self.clear_prefix_sent.unwrap_or(0).to_ne_bytes());
        put(72, &self.client_random.unwrap_or([0; 32]));
        put(104, &self.server_random.unwrap_or([0; 32]));
        out
    }

    /// Reads the body of an OPEN or UPDATE.
    ///
    /// # Errors
    /// Bytes that [`Meta::encode_fixed`] can't have written.
    pub fn parse(kind: u8, body: &'a [u8]) -> Result<Self, EventError> {
        let too_short = EventError::TooShort {
            kind,
            length: body.len(),
        };
        let (fixed, names) = body.split_first_chunk::<META_BYTES>().ok_or(too_short)?;
        let flags = u32::from_ne_bytes(array(fixed, 0));
        let bad = |field, value: u64| EventError::BadField { field, value };
        if flags & !KNOWN_FLAGS != 0 {
            return Err(bad("flags", flags.into()));
        }
        let word = |at| u64::from_ne_bytes(array(fixed, at));
        let half = |at| u16::from_ne_bytes(array(fixed, at));
        let has = |bit| flags & bit != 0;
        let (sni_length, alpn_length) = (usize::from(fixed[13]), usize::from(fixed[14]));
        let (sni, rest) = names.split_at_checked(sni_length).ok_or(too_short)?;
        let (alpn, _) = rest.split_at_checked(alpn_length).ok_or(too_short)?;
        let ip = |at| -> Result<Option<IpAddr>, EventError> {
            match fixed[12] {
                0 => Ok(None),
                4 => Ok(Some(Ipv4Addr::from(array::<4>(fixed, at)).into())),
                6 => Ok(Some(Ipv6Addr::from(array::<16>(fixed, at)).into())),
                other => Err(bad("family", other.into())),
            }
        };
        let addresses = ip(16)?.zip(ip(32)?).map(|(local, peer)| {
            (
                SocketAddr::new(local, half(48)),
                SocketAddr::new(peer, half(50)),
            )
        });
        Ok(Self {
            role: match fixed[4] {
                1 => Role::Client,
                2 => Role::Server,
                other => return Err(bad("role", other.into())),
            },
            transport: match fixed[5] {
                1 => Transport::Tcp,
                2 => Transport::Dtls,
                3 => Transport::Quic,
                other => return Err(bad("transport", other.into())),
            },
            early: match fixed[6] {
                0 => EarlyData::None,
                1 => EarlyData::Pending,
                2 => EarlyData::Accepted,
                3 => EarlyData::Rejected,
                other => return Err(bad("early", other.into())),
            },
            announcement: match fixed[7] {
                1 => Announcement::New,
                2 => Announcement::Midstream,
                3 => Announcement::Inherited,
                other => return Err(bad("announcement", other.into())),
            },
            handshake_done: has(HANDSHAKE_DONE),
            resumed: has(RESUMED),
            tls_version: Some(half(8)).filter(|version| *version != 0),
            cipher: Some(half(10)).filter(|cipher| *cipher != 0),
            addresses,
            addresses_told: has(ADDRESSES_TOLD),
            cookies: has(HAS_COOKIES).then(|| (word(56), word(64))),
            client_random: has(HAS_CLIENT_RANDOM).then(|| array(fixed, 72)),
            server_random: has(HAS_SERVER_RANDOM).then(|| array(fixed, 104)),
            wire_counts: has(HAS_WIRE_COUNTS).then(|| (word(136), word(144))),
            clear_prefix_sent: has(HAS_PREFIX).then(|| word(152)),
            offsets: (word(160), word(168)),
            parent: Some((word(176), word(184))).filter(|parent| parent.0 != 0),
            forks: u32::from_ne_bytes(array(fixed, 52)),
            sni,
            alpn,
        })
    }
}

fn v6_octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}
