//! Where readers connect.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::str::FromStr;

use super::ReadersError;
use super::access::Access;

/// Where PCAP-over-IP is looked for.
const DEFAULT_PORT: u16 = 57012;
/// Where readers connect: `10.0.0.1:57012`, `[::1]:57012`, `name:57012`; without an address on the loopback interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenAddress {
    host: Option<String>,
    port: u16,
}

/// A text isn't a [`ListenAddress`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is no place to listen: ADDRESS:PORT, [ADDRESS]:PORT for IPv6, or :PORT for this machine alone"
)]
pub struct ListenError(String);

impl FromStr for ListenAddress {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let wrong = || ListenError(text.to_owned());
        let port = |digits: &str| match digits.bytes().all(|byte| byte.is_ascii_digit()) {
            true => digits.parse().map_err(|_| wrong()),
            false => Err(wrong()),
        };
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self {
                host: Some(ip.to_string()),
                port: DEFAULT_PORT,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, digits)) if !digits.is_empty() && !host.ends_with(':') => {
                (host, port(digits)?)
            }
            None if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                ("", port(text)?)
            }
            None if !text.is_empty() => (text, DEFAULT_PORT),
            _ => return Err(wrong()),
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(Some(ip)) => ip.parse::<Ipv6Addr>().map_err(|_| wrong())?.to_string(),
            Some(None) => return Err(wrong()),
            None if host.contains([':', '/', ' ']) => return Err(wrong()),
            None => host.to_owned(),
        };
        Ok(Self {
            host: Some(host).filter(|host| !host.is_empty()),
            port,
        })
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            None => write!(f, ":{}", self.port),
            Some(host) if host.contains(':') => write!(f, "[{host}]:{}", self.port),
            Some(host) => write!(f, "{host}:{}", self.port),
        }
    }
}

impl ListenAddress {
    fn resolve(&self) -> Result<Vec<SocketAddr>, ReadersError> {
        let Some(host) = &self.host else {
            let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Ok(loopback.map(|ip| SocketAddr::new(ip, self.port)).into());
        };
        let unknown = |cause| ReadersError::Unknown {
            host: host.clone(),
            cause,
        };
        let mut found: Vec<_> = (host.as_str(), self.port)
            .to_socket_addrs()
            .map_err(unknown)?
            .collect();
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Listens at all addresses that this stands for.
    pub(super) fn listen(&self, access: &Access) -> Result<Vec<TcpListener>, ReadersError> {
        let mut listeners: Vec<TcpListener> = Vec::new();
        for mut address in self.resolve()? {
            access.check_address(address)?;
            // Port 0 is any, but the same for all.
            let first = listeners.first().and_then(|one| one.local_addr().ok());
            if let Some(first) = first {
                address.set_port(first.port());
            }
            match TcpListener::bind(address) {
                Ok(listener) => listeners.push(listener),
                // A machine may have IPv4 only, or the other one.
                Err(_) if self.host.is_none() && !listeners.is_empty() => {}
                Err(cause) => return Err(ReadersError::Listen { address, cause }),
            }
        }
        Ok(listeners)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen() {
        for (text, host, port) in [
            ("10.0.0.1:5000", Some("10.0.0.1"), 5000),
            ("[::1]:5000", Some("::1"), 5000),
            ("::1", Some("::1"), 57012),
            ("sensor.example:1", Some("sensor.example"), 1),
            ("sensor.example", Some("sensor.example"), 57012),
            (":5000", None, 5000),
            ("5000", None, 5000),
        ] {
            let host = host.map(str::to_owned);
            assert_eq!(text.parse(), Ok(ListenAddress { host, port }), "{text}");
        }
        for bad in [
            "",
            ":",
            "host:",
            "[::1]",
            "[::1:5",
            "[x]:5",
            "::1:x",
            ":70000",
            "70000",
            "a b:1",
            "fd07::1:57012:x",
            "host:+5",
        ] {
            assert!(bad.parse::<ListenAddress>().is_err(), "{bad}");
        }
    }
}
