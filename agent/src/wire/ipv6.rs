//! IPv6 headers (RFC 8200).

use std::net::Ipv6Addr;

use super::checksum::Checksum;

/// Bytes of the header.
pub const IPV6_HEADER_BYTES: usize = 40;

const VERSION: u8 = 0x60;
const NEXT_HEADER_TCP: u8 = 6;
const HOP_LIMIT: u8 = 64;

/// An IPv6 header: no extensions, hop limit 64, flow label 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Repr {
    /// Who sends.
    pub source: Ipv6Addr,
    /// Who receives.
    pub destination: Ipv6Addr,
    /// Bytes of the segment behind this header.
    pub payload_bytes: u16,
}

impl Ipv6Repr {
    /// Writes the header. It has no checksum of its own.
    pub fn emit(&self, header: &mut [u8; IPV6_HEADER_BYTES]) {
        header[0..4].copy_from_slice(&[VERSION, 0, 0, 0]);
        header[4..6].copy_from_slice(&self.payload_bytes.to_be_bytes());
        header[6] = NEXT_HEADER_TCP;
        header[7] = HOP_LIMIT;
        header[8..24].copy_from_slice(&self.source.octets());
        header[24..40].copy_from_slice(&self.destination.octets());
    }

    /// The sum over the pseudo header (RFC 8200 section 8.1).
    pub fn pseudo_header(&self) -> Checksum {
        let mut sum = Checksum::default();
        sum.add(&self.source.octets());
        sum.add(&self.destination.octets());
        sum.add_word(self.payload_bytes);
        sum.add_word(NEXT_HEADER_TCP.into());
        sum
    }
}
