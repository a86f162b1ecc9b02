//! Ethernet II headers, with or without a VLAN tag.

use std::fmt;
use std::hash::Hasher;
use std::net::IpAddr;
use std::str::FromStr;

use siphasher::sip::SipHasher24;

/// Bytes of the header, without a VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;
/// Bytes that a VLAN tag adds (IEEE 802.1Q).
pub const VLAN_TAG_BYTES: usize = 4;

/// What the addresses of forged frames begin with: locally administered (the 2 in the first byte) and
/// individual. The second byte differs by side, so that a flow between equal addresses still has two.
const CLIENT_PREFIX: [u8; 2] = [0x02, 0x0c];
const SERVER_PREFIX: [u8; 2] = [0x02, 0x5e];

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The one that a client with this IP address has in forged frames: constant, and nobody's.
    pub fn of_client(address: IpAddr) -> Self {
        Self::of(CLIENT_PREFIX, address)
    }

    /// The same for a server.
    pub fn of_server(address: IpAddr) -> Self {
        Self::of(SERVER_PREFIX, address)
    }

    /// Whether a frame from this Ethernet address and that IP address is a forged one.
    pub fn is_forged(self, source: IpAddr) -> bool {
        self == Self::of_client(source) || self == Self::of_server(source)
    }

    /// The prefix, then the IPv4 address, or a hash of the IPv6 address.
    fn of([a, b]: [u8; 2], address: IpAddr) -> Self {
        let [c, d, e, f] = match address {
            IpAddr::V4(address) => address.octets(),
            IpAddr::V6(address) => {
                let mut hasher = SipHasher24::new_with_key(&[0; 16]);
                hasher.write(&address.octets());
                let [.., c, d, e, f] = hasher.finish().to_be_bytes();
                [c, d, e, f]
            }
        };
        Self([a, b, c, d, e, f])
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A text isn't an Ethernet address of one machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no Ethernet address of one machine, like 52:54:00:12:34:56")]
pub struct MacError(String);

impl FromStr for MacAddr {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        // `from_str_radix` would take a sign.
        let hexadecimal =
            |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let parts = text
            .split(':')
            .map(|part| Some(part).filter(hexadecimal))
            .map(|part| u8::from_str_radix(part?, 16).ok());
        let octets: Option<Vec<u8>> = parts.collect();
        octets
            .and_then(|octets| octets.try_into().ok())
            .map(Self)
            // A group's address has the lowest bit of its first byte set.
            .filter(|mac| mac.0[0] & 1 == 0 && mac.0 != [0; 6])
            .ok_or_else(|| MacError(text.to_owned()))
    }
}

/// Number of a virtual LAN: 1 to 4094 (IEEE 802.1Q).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanId(u16);

/// A number isn't one of a virtual LAN.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no VLAN: they have numbers from 1 to 4094")]
pub struct VlanError(String);

impl FromStr for VlanId {
    type Err = VlanError;

    fn from_str(text: &str) -> Result<Self, VlanError> {
        let id = text.parse().ok().filter(|id| (1..=4094).contains(id));
        id.map(Self).ok_or_else(|| VlanError(text.to_owned()))
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

/// An Ethernet header without the type of what it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Who sends.
    pub source: MacAddr,
    /// Who receives.
    pub destination: MacAddr,
    /// On which virtual LAN, if on one.
    pub vlan: Option<VlanId>,
}

impl Link {
    /// Bytes of the header.
    pub fn header_bytes(&self) -> usize {
        match self.vlan {
            None => ETHERNET_HEADER_BYTES,
            Some(_) => ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES,
        }
    }

    /// Writes the header.
    ///
    /// # Panics
    /// If `header` doesn't have [`Link::header_bytes`].
    pub fn emit(&self, ether_type: EtherType, header: &mut [u8]) {
        let ether_type: u16 = match ether_type {
            EtherType::Ipv4 => 0x0800,
            EtherType::Ipv6 => 0x86dd,
        };
        header[0..6].copy_from_slice(&self.destination.0);
        header[6..12].copy_from_slice(&self.source.0);
        let mut rest = &mut header[12..];
        if let Some(VlanId(id)) = self.vlan {
            // Priority 0, not to be dropped first.
            rest[0..2].copy_from_slice(&0x8100_u16.to_be_bytes());
            rest[2..4].copy_from_slice(&id.to_be_bytes());
            rest = &mut rest[4..];
        }
        rest.copy_from_slice(&ether_type.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forged_addresses_are_known_again_and_are_nobodys() {
        for address in ["192.0.2.7", "2001:db8::7"] {
            let ip: IpAddr = address.parse().unwrap();
            let (client, server) = (MacAddr::of_client(ip), MacAddr::of_server(ip));
            assert_ne!(client, server);
            assert!(client.is_forged(ip) && server.is_forged(ip));
            assert!(!client.is_forged("192.0.2.8".parse().unwrap()));
            assert_eq!((client.0[0], server.0[0]), (2, 2));
        }
    }

    #[test]
    fn addresses_and_numbers_of_people() {
        let mac: MacAddr = "52:54:00:ab:CD:ef".parse().unwrap();
        assert_eq!(mac.0, [0x52, 0x54, 0, 0xab, 0xcd, 0xef]);
        for bad in [
            "",
            "52:54:00:ab:cd",
            "52:54:00:ab:cd:ef:01",
            "5254:00:ab:cd:e:f",
            "x2:54:00:ab:cd:ef",
            "ff:ff:ff:ff:ff:ff",
            "01:00:5e:00:00:01",
            "00:00:00:00:00:00",
            "+2:54:00:ab:cd:ef",
        ] {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
        assert_eq!("4094".parse(), Ok(VlanId(4094)));
        for bad in ["0", "4095", "", "-1", "x"] {
            assert!(bad.parse::<VlanId>().is_err(), "{bad}");
        }
    }
}
