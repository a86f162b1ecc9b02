//! Ethernet II headers.

use std::fmt;

/// Bytes of the header, without a VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// What an Ethernet frame carries (IEEE 802 numbers).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// 0x0800.
    Ipv4,
    /// 0x86dd.
    Ipv6,
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EthernetRepr {
    /// Who sends.
    pub source: MacAddr,
    /// Who receives.
    pub destination: MacAddr,
    /// What follows.
    pub ether_type: EtherType,
}

impl EthernetRepr {
    /// Writes the header.
    pub fn emit(&self, header: &mut [u8; ETHERNET_HEADER_BYTES]) {
        let ether_type: u16 = match self.ether_type {
            EtherType::Ipv4 => 0x0800,
            EtherType::Ipv6 => 0x86dd,
        };
        header[0..6].copy_from_slice(&self.destination.0);
        header[6..12].copy_from_slice(&self.source.0);
        header[12..14].copy_from_slice(&ether_type.to_be_bytes());
    }
}
