//! Ethernet, IP and TCP headers, taken apart (RFC 791, RFC 8200, RFC 9293).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// FIN (RFC 9293 3.1).
pub const FIN: u8 = 0x01;
/// SYN.
pub const SYN: u8 = 0x02;
/// RST.
pub const RST: u8 = 0x04;
/// PSH.
pub const PSH: u8 = 0x08;
/// ACK.
pub const ACK: u8 = 0x10;

/// One frame with its fields. Checksums were computed, but their result is a field: a wrong one is for
/// the checker to object to.
#[derive(Clone, Debug)]
pub struct Segment<'a> {
    /// Ethernet.
    pub mac_source: [u8; 6],
    /// Ethernet.
    pub mac_destination: [u8; 6],
    /// Address and port.
    pub source: SocketAddr,
    /// Address and port.
    pub destination: SocketAddr,
    /// Fields of the IP header that have only one right value, and a wrong one here.
    pub ip_faults: Vec<String>,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// All eight flags.
    pub flags: u8,
    /// Unscaled.
    pub window: u16,
    /// Between header and data.
    pub options: &'a [u8],
    /// Over pseudo header, header and data.
    pub checksum_good: bool,
    /// Data.
    pub payload: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Takes a frame apart.
    ///
    /// # Errors
    /// What it is, if it isn't an Ethernet frame with IP and TCP whose lengths agree.
    pub fn decode(frame: &'a [u8]) -> Result<Self, String> {
        let ethernet = frame.get(..14).ok_or("shorter than an Ethernet header")?;
        let (ip, packet) = match (ethernet[12], ethernet[13]) {
            (0x08, 0x00) => ipv4(&frame[14..])?,
            (0x86, 0xdd) => ipv6(&frame[14..])?,
            other => return Err(format!("ethertype {other:02x?}")),
        };
        let header = packet.get(..20).ok_or("shorter than a TCP header")?;
        let data_at = usize::from(header[12] >> 4) * 4;
        let payload = packet.get(data_at..).ok_or("TCP header is cut")?;
        let options = packet.get(20..data_at).ok_or("TCP data offset below 5")?;
        let mut ip_faults = ip.faults;
        if header[12] & 0x0f != 0 || header[18..20] != [0, 0] {
            ip_faults.push("TCP: reserved bits or urgent pointer set".into());
        }
        Ok(Self {
            mac_source: array(ethernet, 6),
            mac_destination: array(ethernet, 0),
            source: SocketAddr::new(ip.source, u16::from_be_bytes(array(header, 0))),
            destination: SocketAddr::new(ip.destination, u16::from_be_bytes(array(header, 2))),
            ip_faults,
            ttl: ip.ttl,
            seq: u32::from_be_bytes(array(header, 4)),
            ack: u32::from_be_bytes(array(header, 8)),
            flags: header[13],
            window: u16::from_be_bytes(array(header, 14)),
            options,
            checksum_good: tcp_checksum(ip.source, ip.destination, packet) == 0,
            payload,
        })
    }

    /// True if all of `flags` are set.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// How far it moves its side's sequence number.
    pub fn length(&self) -> u32 {
        let phantom = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        u32::try_from(self.payload.len()).unwrap_or(u32::MAX) + phantom
    }

    /// An ACK that carries nothing.
    pub fn is_pure_ack(&self) -> bool {
        self.flags == ACK && self.payload.is_empty()
    }
}

struct Ip {
    source: IpAddr,
    destination: IpAddr,
    ttl: u8,
    faults: Vec<String>,
}

fn ipv4(packet: &[u8]) -> Result<(Ip, &[u8]), String> {
    let header = packet.get(..20).ok_or("shorter than an IPv4 header")?;
    let length = usize::from(u16::from_be_bytes(array(header, 2)));
    if header[0] != 0x45 || header[9] != 6 || length != packet.len() {
        let got = packet.len();
        return Err(format!(
            "IPv4: first byte {:#x}, protocol {}, length {length} in a packet of {got}",
            header[0], header[9]
        ));
    }
    let mut faults = Vec::new();
    if header[6..8] != [0x40, 0] {
        faults.push(format!("IPv4: flags and offset {:02x?}", &header[6..8]));
    }
    if fold(sum(header)) != 0 {
        faults.push("IPv4: wrong header checksum".into());
    }
    let ip = Ip {
        source: Ipv4Addr::from(array::<4>(header, 12)).into(),
        destination: Ipv4Addr::from(array::<4>(header, 16)).into(),
        ttl: header[8],
        faults,
    };
    Ok((ip, &packet[20..]))
}

fn ipv6(packet: &[u8]) -> Result<(Ip, &[u8]), String> {
    let header = packet.get(..40).ok_or("shorter than an IPv6 header")?;
    let length = usize::from(u16::from_be_bytes(array(header, 4)));
    if header[0] >> 4 != 6 || header[6] != 6 || length + 40 != packet.len() {
        let got = packet.len();
        return Err(format!(
            "IPv6: first byte {:#x}, next header {}, length {length} in a packet of {got}",
            header[0], header[6]
        ));
    }
    let mut faults = Vec::new();
    if header[1] & 0x0f != 0 || header[2..4] != [0, 0] {
        faults.push("IPv6: flow label isn't 0".into());
    }
    let ip = Ip {
        source: Ipv6Addr::from(array::<16>(header, 8)).into(),
        destination: Ipv6Addr::from(array::<16>(header, 24)).into(),
        ttl: header[7],
        faults,
    };
    Ok((ip, &packet[40..]))
}

/// The checksum of an IPv4 header (RFC 791 3.1); 0 if the right one is already in it.
pub fn ip_checksum(header: &[u8]) -> u16 {
    fold(sum(header))
}

/// The checksum of a TCP segment (RFC 9293 3.1); 0 if the right one is already in it.
pub fn tcp_checksum(source: IpAddr, destination: IpAddr, segment: &[u8]) -> u16 {
    let addresses = match (source, destination) {
        (IpAddr::V4(a), IpAddr::V4(b)) => sum(&a.octets()) + sum(&b.octets()),
        (IpAddr::V6(a), IpAddr::V6(b)) => sum(&a.octets()) + sum(&b.octets()),
        _ => return 0xffff,
    };
    fold(addresses + 6 + segment.len() as u64 + sum(segment))
}

fn sum(bytes: &[u8]) -> u64 {
    let (pairs, odd) = bytes.as_chunks::<2>();
    let odd = odd.first().map_or(0, |&byte| u64::from(byte) << 8);
    pairs
        .iter()
        .fold(odd, |sum, &pair| sum + u64::from(u16::from_be_bytes(pair)))
}

fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

/// `N` bytes from `at`, which the caller knows to be there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
