//! IPv4 headers (RFC 791) of segments that are never fragmented.

use std::net::Ipv4Addr;

use super::checksum::Checksum;

/// Bytes of a header without options.
pub const IPV4_HEADER_BYTES: usize = 20;

const VERSION_AND_LENGTH: u8 = 0x45;
const DONT_FRAGMENT: [u8; 2] = [0x40, 0];
const TIME_TO_LIVE: u8 = 64;
const PROTOCOL_TCP: u8 = 6;

/// An IPv4 header: no options, DF, TTL 64. The identification is 0: a datagram that is never
/// fragmented may have any (RFC 6864 section 4.1), and Linux sends 0 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Repr {
    /// Who sends.
    pub source: Ipv4Addr,
    /// Who receives.
    pub destination: Ipv4Addr,
    /// Bytes of header and segment.
    pub total_bytes: u16,
}

impl Ipv4Repr {
    /// Writes the header with its checksum.
    pub fn emit(&self, header: &mut [u8; IPV4_HEADER_BYTES]) {
        header.fill(0);
        header[0] = VERSION_AND_LENGTH;
        header[2..4].copy_from_slice(&self.total_bytes.to_be_bytes());
        header[6..8].copy_from_slice(&DONT_FRAGMENT);
        header[8] = TIME_TO_LIVE;
        header[9] = PROTOCOL_TCP;
        header[12..16].copy_from_slice(&self.source.octets());
        header[16..20].copy_from_slice(&self.destination.octets());
        let mut sum = Checksum::default();
        sum.add(&header[..]);
        header[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    }

    /// The sum over the pseudo header (RFC 9293 section 3.1) of a segment of `segment_bytes`.
    pub fn pseudo_header(&self, segment_bytes: u16) -> Checksum {
        let mut sum = Checksum::default();
        sum.add(&self.source.octets());
        sum.add(&self.destination.octets());
        sum.add_word(PROTOCOL_TCP.into());
        sum.add_word(segment_bytes);
        sum
    }
}
