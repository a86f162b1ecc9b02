//! The two ends of a flow as its frames name them.

use std::net::{IpAddr, SocketAddr};

use super::conversation::Segment;
use super::sequence::Endpoint;
use super::view::View;
use crate::event::{Side, Tuple};
use crate::wire::{Addresses, FrameBuffer, Link, MacAddr, TcpRepr};

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
    from_client: Link,
    from_server: Link,
}

/// Names a pair of endpoints whoever connected: packets of one pair belong to one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pair(Endpoint, Endpoint);

impl Path {
    /// IPv4 addresses written as IPv6 ones (RFC 4291 section 2.5.5.2) are taken as what they are: a socket for both
    /// families reports them so, and IPv4 is what travels.
    /// Where the other end has an address that can only be IPv6, they stay: a client behind a proxy may be of
    /// another family than the server.
    pub(super) fn new(tuple: Tuple, view: &View) -> Result<Self, PathError> {
        let ends = [tuple.client, tuple.server];
        let is_v4 = ends.iter().all(|end| end.ip().to_canonical().is_ipv4());
        let endpoint = |address: SocketAddr| Endpoint {
            address: match is_v4 {
                true => address.ip().to_canonical(),
                false => address.ip(),
            },
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
        let client_mac = MacAddr::of_client(client.address);
        let server_mac = MacAddr::of_server(server.address);
        let link = |source, destination| Link {
            source,
            destination: view.destination.unwrap_or(destination),
            vlan: view.vlan,
        };
        Ok(Self {
            addresses,
            client,
            server,
            from_client: link(client_mac, server_mac),
            from_server: link(server_mac, client_mac),
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
        let (link, addresses) = match segment.from {
            Side::Client => (self.from_client, self.addresses),
            Side::Server => (self.from_server, self.addresses.swapped()),
        };
        buffer.emit(link, addresses, &tcp, segment.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(client: &str, server: &str) -> Result<Path, PathError> {
        let tuple = Tuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        };
        Path::new(tuple, &View::default())
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
    fn mapped_addresses_stay_beside_ipv6() {
        let path = path("[2001:db8::1]:1", "[::ffff:192.0.2.2]:2").unwrap();
        assert_eq!(path.mss(1500), 1440);
        let server = path.endpoint(Side::Server).address;
        assert_eq!(server.to_string(), "::ffff:192.0.2.2");
    }

    #[test]
    fn the_two_directions_of_equal_addresses_differ() {
        for path in [
            path("127.0.0.1:1", "127.0.0.1:2"),
            path("[::1]:1", "[::1]:2"),
        ] {
            let path = path.unwrap();
            assert_ne!(path.from_client.source, path.from_server.source);
            assert_eq!(path.from_client.source, path.from_server.destination);
        }
    }

    #[test]
    fn a_pair_has_no_direction() {
        let pair = |a, b| path(a, b).unwrap().pair();
        assert_eq!(pair("[::1]:1", "[::1]:2"), pair("[::1]:2", "[::1]:1"));
        assert_ne!(pair("[::1]:1", "[::1]:2"), pair("[::1]:1", "[::1]:3"));
    }
}
