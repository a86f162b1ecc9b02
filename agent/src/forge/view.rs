//! How flows look on one output: other addresses and ports than their own, a VLAN, flows left out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use mirror_hook::filter::Network;

use crate::event::Tuple;
use crate::filter::network;
use crate::wire::{MacAddr, VlanId};

/// How flows look. By default as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Tags the frames, so that a sensor tells them from the encrypted ones between the same addresses.
    pub vlan: Option<VlanId>,
    /// Takes the place of the forged destination in both directions: a switch brings the frames there.
    pub destination: Option<MacAddr>,
    /// Addresses in these networks are shown as ones in others. The first that fits counts.
    pub networks: Vec<NetworkMap>,
    /// Ports of servers that are shown as others.
    pub ports: Vec<PortMap>,
    /// Flows within this host that no [`NetworkMap`] leads elsewhere are left out: between loopback
    /// addresses, or between two equal ones. Sensors take such packets for an attack (Snort 116:150, 116:151).
    pub without_loopback: bool,
}

impl View {
    /// What a flow is shown as; nothing if it is left out.
    pub(super) fn show(&self, tuple: Tuple) -> Option<Tuple> {
        let mut shown = Tuple {
            client: self.map_address(tuple.client),
            server: self.map_address(tuple.server),
        };
        let port = self
            .ports
            .iter()
            .find(|map| map.from == tuple.server.port());
        shown
            .server
            .set_port(port.map_or(tuple.server.port(), |map| map.to));
        let (client, server) = (shown.client.ip(), shown.server.ip());
        let inside = client.is_loopback() || server.is_loopback() || client == server;
        // Ends of two families are nobody's; an IPv4 address that is written as an IPv6 one beside such is.
        if tuple.client.is_ipv4() == tuple.server.is_ipv4() {
            shown = shown.in_one_family();
        }
        (!self.without_loopback || !inside).then_some(shown)
    }

    fn map_address(&self, address: SocketAddr) -> SocketAddr {
        let ip = address.ip().to_canonical();
        let map = self.networks.iter().find(|map| map.from.contains(ip));
        SocketAddr::new(map.map_or(ip, |map| map.map(ip)), address.port())
    }
}

/// Addresses of a network are shown as those of another that is as large: `127.0.0.0/16=10.127.0.0/16`. The
/// bits behind the leading ones stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkMap {
    from: Network,
    to: Network,
}

/// A text isn't a [`NetworkMap`] or [`PortMap`]; says why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct MapError(String);

impl NetworkMap {
    fn map(&self, address: IpAddr) -> IpAddr {
        match (self.to.address, address) {
            (IpAddr::V4(to), IpAddr::V4(address)) => {
                let host = u32::MAX.checked_shr(self.to.bits.into()).unwrap_or(0);
                Ipv4Addr::from(u32::from(to) | (u32::from(address) & host)).into()
            }
            (IpAddr::V6(to), IpAddr::V6(address)) => {
                let host = u128::MAX.checked_shr(self.to.bits.into()).unwrap_or(0);
                Ipv6Addr::from(u128::from(to) | (u128::from(address) & host)).into()
            }
            // Parsing lets no others be.
            _ => address,
        }
    }
}

impl FromStr for NetworkMap {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, MapError> {
        let Some((from, to)) = text.split_once('=') else {
            return Err(MapError(format!(
                "'{text}' isn't two networks, like 127.0.0.0/16=10.127.0.0/16"
            )));
        };
        let (from, to) = (
            network(from).map_err(MapError)?,
            network(to).map_err(MapError)?,
        );
        if from.bits != to.bits || from.address.is_ipv4() != to.address.is_ipv4() {
            return Err(MapError(format!(
                "the two networks of '{text}' aren't equally large"
            )));
        }
        Ok(Self { from, to })
    }
}

/// A server's port that is shown as another: `443:80`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    from: u16,
    to: u16,
}

impl FromStr for PortMap {
    type Err = MapError;

    fn from_str(text: &str) -> Result<Self, MapError> {
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0);
        text.split_once(':')
            .and_then(|(from, to)| Some((port(from)?, port(to)?)))
            .map(|(from, to)| Self { from, to })
            .ok_or_else(|| MapError(format!("'{text}' isn't two ports, like 443:80")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(view: &View, client: &str, server: &str) -> Option<(String, String)> {
        let tuple = Tuple {
            client: client.parse().unwrap(),
            server: server.parse().unwrap(),
        };
        let shown = view.show(tuple)?;
        Some((shown.client.to_string(), shown.server.to_string()))
    }

    fn pair(client: &str, server: &str) -> Option<(String, String)> {
        Some((client.into(), server.into()))
    }

    #[test]
    fn addresses_and_ports_are_mapped() {
        let view = View {
            networks: vec![
                "127.0.0.1=192.0.2.1".parse().unwrap(),
                "127.0.0.0/8=10.0.0.0/8".parse().unwrap(),
                "::1=2001:db8::1".parse().unwrap(),
            ],
            ports: vec!["443:80".parse().unwrap()],
            ..View::default()
        };
        assert_eq!(
            shown(&view, "127.0.0.1:443", "127.1.2.3:443"),
            pair("192.0.2.1:443", "10.1.2.3:80")
        );
        assert_eq!(
            shown(&view, "[::1]:1", "[::ffff:127.0.0.1]:2"),
            pair("[2001:db8::1]:1", "[::ffff:192.0.2.1]:2")
        );
        assert_eq!(
            shown(&view, "10.9.9.9:1", "10.9.9.8:8443"),
            pair("10.9.9.9:1", "10.9.9.8:8443")
        );
    }

    #[test]
    fn what_stays_in_this_host_is_left_out() {
        let mut view = View {
            without_loopback: true,
            ..View::default()
        };
        assert_eq!(shown(&view, "127.0.0.1:1", "127.0.0.2:2"), None);
        assert_eq!(shown(&view, "[::1]:1", "[::1]:2"), None);
        assert_eq!(shown(&view, "10.0.0.1:1", "10.0.0.1:2"), None);
        assert_eq!(
            shown(&view, "10.0.0.1:1", "10.0.0.2:2"),
            pair("10.0.0.1:1", "10.0.0.2:2")
        );
        view.networks = vec!["127.0.0.0/8=10.0.0.0/8".parse().unwrap()];
        assert_eq!(
            shown(&view, "127.0.0.1:1", "127.0.0.2:2"),
            pair("10.0.0.1:1", "10.0.0.2:2")
        );
        assert_eq!(shown(&view, "127.0.0.1:1", "127.0.0.1:2"), None);
    }

    #[test]
    fn wrong_maps_are_refused() {
        for bad in [
            "",
            "127.0.0.0/8",
            "127.0.0.0/8=10.0.0.0/9",
            "::1=10.0.0.1",
            "10.0.0.1/8=10.0.0.0/8",
            "a=b",
        ] {
            assert!(bad.parse::<NetworkMap>().is_err(), "{bad}");
        }
        for bad in ["", "443", "443:0", "0:80", "443:65536", "443:80:1"] {
            assert!(bad.parse::<PortMap>().is_err(), "{bad}");
        }
    }
}
