//! Which sensor, and in which virtual network.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// RFC 7348 section 5.
const DEFAULT_PORT: u16 = 4789;
pub(super) const VXLAN_HEADER_BYTES: usize = 8;
/// The number is valid.
const I_FLAG: u8 = 0x08;

/// Number of a virtual network: 24 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vni(u32);

/// A text isn't a [`Vni`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no number of a virtual network: they go from 0 to 16777215")]
pub struct VniError(String);

impl FromStr for Vni {
    type Err = VniError;

    fn from_str(text: &str) -> Result<Self, VniError> {
        let number = text.parse().ok().filter(|number| *number < 1 << 24);
        number.map(Self).ok_or_else(|| VniError(text.to_owned()))
    }
}

impl Vni {
    /// What stands before a frame.
    pub(super) fn header(self) -> [u8; VXLAN_HEADER_BYTES] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [I_FLAG, 0, 0, 0, a, b, c, 0]
    }
}

/// A sensor: `10.0.0.5`, `10.0.0.5:4789`, `[fd07::1]:4789`, `fd07::1`, or a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanAddress {
    pub(super) host: String,
    pub(super) port: u16,
}

/// A text isn't a [`VxlanAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no sensor: ADDRESS, ADDRESS:PORT, or [ADDRESS]:PORT for IPv6")]
pub struct VxlanAddressError(String);

impl FromStr for VxlanAddress {
    type Err = VxlanAddressError;

    fn from_str(text: &str) -> Result<Self, VxlanAddressError> {
        let wrong = || VxlanAddressError(text.to_owned());
        let new = |host: String, port| Self { host, port };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(new(ip.to_string(), DEFAULT_PORT));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return match address.port() {
                0 => Err(wrong()),
                port => Ok(new(address.ip().to_string(), port)),
            };
        }
        let (host, port) = match text.split_once(':') {
            None => (text, DEFAULT_PORT),
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        match !host.is_empty() && host.chars().all(named) && port != 0 {
            true => Ok(new(host.to_owned(), port)),
            false => Err(wrong()),
        }
    }
}

impl fmt::Display for VxlanAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<String> {
        text.parse::<VxlanAddress>()
            .ok()
            .map(|address| address.to_string())
    }

    #[test]
    fn sensors() {
        for (text, shown) in [
            ("10.0.0.5", "10.0.0.5:4789"),
            ("10.0.0.5:8472", "10.0.0.5:8472"),
            ("fd07::1", "[fd07::1]:4789"),
            ("[fd07::1]:8472", "[fd07::1]:8472"),
            ("sensor.example", "sensor.example:4789"),
            ("sensor:1", "sensor:1"),
        ] {
            assert_eq!(address(text).as_deref(), Some(shown));
        }
        for bad in [
            "",
            ":4789",
            "10.0.0.5:0",
            "10.0.0.5:x",
            "a b",
            "[fd07::1]",
            "a:1:2",
            "a/b",
        ] {
            assert_eq!(address(bad), None, "{bad}");
        }
        assert_eq!("16777215".parse(), Ok(Vni(0xff_ffff)));
        assert!("16777216".parse::<Vni>().is_err() && "-1".parse::<Vni>().is_err());
        assert_eq!(Vni(0x12_3456).header(), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    }
}
