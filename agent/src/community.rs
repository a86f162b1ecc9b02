//! Community ID flow hashing, version 1: the name that Suricata, Zeek, Wireshark and others give a connection, so
//! that what they say of one can be laid side by side. <https://github.com/corelight/community-id-spec>
//!
//! ```text
//! "1:" + base64(SHA-1( seed u16 │ address │ address │ protocol u8 │ 0 u8 │ port u16 │ port u16 ))
//! ```
//!
//! All in network byte order; the end with the smaller address, or with equal ones the smaller port, comes first. The
//! seed is 0, as everywhere by default.

use std::fmt::{self, Display};
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};

use crate::event::Tuple;

const SEED: u16 = 0;
/// IANA "Protocol Numbers".
const TCP: u8 = 6;

/// Shows the id of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub struct CommunityId(pub Tuple);

impl Display for CommunityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ends = [self.0.client, self.0.server];
        let is_v4 = ends.iter().all(|end| end.ip().to_canonical().is_ipv4());
        let mut ends = ends.map(|end| (octets(end.ip(), is_v4), end.port()));
        ends.sort();
        let mut hash = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
        hash.update(&SEED.to_be_bytes());
        ends.iter().for_each(|(octets, _)| hash.update(octets));
        hash.update(&[TCP, 0]);
        ends.iter()
            .for_each(|(_, port)| hash.update(&port.to_be_bytes()));
        write!(f, "1:{}", BASE64_STANDARD.encode(hash.finish()))
    }
}

/// As they are in packets: an IPv4 address that a program sees as an IPv6 one has four, unless the other end's is no
/// IPv4 one (RFC 4291 2.5.5.2).
fn octets(address: IpAddr, is_v4: bool) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(address) if is_v4 => address.octets().into(),
        IpAddr::V4(address) => address.to_ipv6_mapped().octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(client: &str, server: &str) -> String {
        let tuple = Tuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        };
        CommunityId(tuple).to_string()
    }

    /// Computed by the specification's formula, with another SHA-1.
    #[test]
    fn ports_order_what_has_equal_addresses() {
        let expected = "1:gLmjZuaRsMk4vbmk5HxV9Jb1iQg=";
        assert_eq!(id("10.0.0.1:5", "10.0.0.1:4"), expected);
        let expected = "1:YXqXufkGr4i6TbJJYF83fvyDLZ8=";
        assert_eq!(id("[2001:db8::2]:443", "[2001:db8::1]:50000"), expected);
    }

    /// A client that an IPv6 proxy speaks for, of an IPv4 service, and the other way round: as tshark has it of the packets.
    #[test]
    fn ends_of_two_families_are_ipv6() {
        let expected = "1:Ys5nkWHvUcqkMMpqxYz4bFFAIDI=";
        for server in ["127.0.0.1:9443", "[::ffff:127.0.0.1]:9443"] {
            assert_eq!(id("[2001:db9::5]:59576", server), expected);
            assert_eq!(id(server, "[2001:db9::5]:59576"), expected);
        }
    }

    /// The reference's own example (baseline_deflt.json of the specification), and the same connection from its other end.
    #[test]
    fn as_the_specification_has_it() {
        let expected = "1:LQU9qZlK+B5F3KDmev6m5PMibrg=";
        assert_eq!(id("128.232.110.120:34855", "66.35.250.204:80"), expected);
        assert_eq!(id("66.35.250.204:80", "128.232.110.120:34855"), expected);
        assert_eq!(
            id(
                "[::ffff:128.232.110.120]:34855",
                "[::ffff:66.35.250.204]:80"
            ),
            expected
        );
    }
}
