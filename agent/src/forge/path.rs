//! The two ends of a flow as its frames name them.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

use super::conversation::Segment;
use super::sequence::Endpoint;
use crate::event::{Side, Tuple};
use crate::wire::{Addresses, FrameBuffer, MacAddr, TcpRepr};

/// A flow can't be told as TCP packets between two endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathError {
    #[error("{client} and {server} are of two address families")]
    Families { client: IpAddr, server: IpAddr },
    #[error("both ends are {0}: its directions couldn't be told apart")]
    SameEnds(SocketAddr),
}

/// What is constant in the headers of a flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    /// From client to server.
    addresses: Addresses,
    client: Endpoint,
    server: Endpoint,
    client_mac: MacAddr,
    server_mac: MacAddr,
}

/// Names a pair of endpoints whoever connected: packets of one pair belong to one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair(Endpoint, Endpoint);

impl Path {
    /// IPv4 addresses written as IPv6 ones (RFC 4291 section 2.5.5.2) are taken as what they are: a socket for both
    /// families reports them so, and IPv4 is what travels.
    pub(super) fn new(tuple: Tuple) -> Result<Self, PathError> {
        let endpoint = |address: SocketAddr| Endpoint {
            address: address.ip().to_canonical(),
            port: address.port(),
        };
        let (client, server) = (endpoint(tuple.client), endpoint(tuple.server));
        if client == server {
            return Err(PathError::SameEnds(tuple.client));
        }
        let addresses = match (client.address, server.address) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => Addresses::V4 {
                source,
                destination,
            },
            (IpAddr::V6(source), IpAddr::V6(destination)) => Addresses::V6 {
                source,
                destination,
            },
            (client, server) => return Err(PathError::Families { client, server }),
        };
        let client_mac = mac(CLIENT_PREFIX, client.address);
        let server_mac = mac(SERVER_PREFIX, server.address);
        Ok(Self {
            addresses,
            client,
            server,
            client_mac,
            server_mac,
        })
    }

    pub(super) fn endpoint(&self, side: Side) -> Endpoint {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    pub(super) fn pair(&self) -> Pair {
        Pair(self.client.min(self.server), self.client.max(self.server))
    }

    /// Largest payload that leaves room for headers without options within `mtu_bytes`; what the MSS option
    /// tells (RFC 9293 section 3.7.1).
    pub(super) fn mss(&self, mtu_bytes: u16) -> u16 {
        match self.addresses {
            Addresses::V4 { .. } => mtu_bytes - 40,
            Addresses::V6 { .. } => mtu_bytes - 60,
        }
    }

    /// Makes the frame of a segment.
    pub(super) fn frame<'b>(
        &self,
        segment: &Segment<'_>,
        mss: u16,
        buffer: &'b mut FrameBuffer,
    ) -> &'b [u8] {
        let (source, destination) = (segment.from, segment.from.peer());
        let tcp = TcpRepr {
            source_port: self.endpoint(source).port,
            destination_port: self.endpoint(destination).port,
            sequence: segment.sequence,
            acknowledgment: segment.acknowledgment,
            flags: segment.flags,
            mss,
        };
        let addresses = match segment.from {
            Side::Client => self.addresses,
            Side::Server => self.addresses.swapped(),
        };
        buffer.emit(
            self.mac(source),
            self.mac(destination),
            addresses,
            &tcp,
            segment.payload,
        )
    }

    fn mac(&self, side: Side) -> MacAddr {
        match side {
            Side::Client => self.client_mac,
            Side::Server => self.server_mac,
        }
    }
}

/// Locally administered (the 2 in the first byte) and individual. The second byte differs by side, so that a flow
/// between equal addresses still has two.
const CLIENT_PREFIX: [u8; 2] = [0x02, 0x0c];
const SERVER_PREFIX: [u8; 2] = [0x02, 0x5e];

/// An Ethernet address that is constant for a side and an IP address: the prefix, then the IPv4 address, or a hash
/// of the IPv6 address.
fn mac([a, b]: [u8; 2], address: IpAddr) -> MacAddr {
    let [c, d, e, f] = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let mut hasher = SipHasher24::new_with_key(&[0; 16]);
            hasher.write(&address.octets());
            let [.., c, d, e, f] = hasher.finish().to_be_bytes();
            [c, d, e, f]
        }
    };
    MacAddr([a, b, c, d, e, f])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(client: &str, server: &str) -> Result<Path, PathError> {
        Path::new(Tuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        })
    }

    #[test]
    fn unforgeable_ends_are_refused() {
        assert!(matches!(
            path("192.0.2.1:1", "[::1]:1"),
            Err(PathError::Families { .. })
        ));
        assert!(matches!(
            path("192.0.2.1:1", "192.0.2.1:1"),
            Err(PathError::SameEnds(_))
        ));
        assert!(matches!(
            path("[::ffff:192.0.2.1]:1", "192.0.2.1:1"),
            Err(PathError::SameEnds(_))
        ));
        assert!(path("192.0.2.1:1", "192.0.2.1:2").is_ok());
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let path = path("[::ffff:192.0.2.1]:1", "[::ffff:192.0.2.2]:2").unwrap();
        assert_eq!(path.client.address, IpAddr::from([192, 0, 2, 1]));
        assert_eq!(path.mss(1500), 1460);
    }

    #[test]
    fn macs_are_local_and_differ() {
        for path in [
            path("127.0.0.1:1", "127.0.0.1:2"),
            path("[::1]:1", "[::1]:2"),
        ] {
            let path = path.unwrap();
            assert_ne!(path.client_mac, path.server_mac);
            for mac in [path.client_mac, path.server_mac] {
                assert_eq!(mac.0[0], 2);
            }
        }
    }

    #[test]
    fn a_pair_has_no_direction() {
        let pair = |a, b| path(a, b).unwrap().pair();
        assert_eq!(pair("[::1]:1", "[::1]:2"), pair("[::1]:2", "[::1]:1"));
        assert_ne!(pair("[::1]:1", "[::1]:2"), pair("[::1]:1", "[::1]:3"));
    }
}
