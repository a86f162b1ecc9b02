//! What proxies say, and which of it counts.

use mirror_hook::filter::Network;
use std::net::IpAddr;

use super::address::{forwarded, plain};
use crate::event::{RealClientWay, ToldAddress};

/// How trusted proxies tell whom they speak for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By `X-Forwarded-For` or `Forwarded` (RFC 7239) in each HTTP/1.1 request.
    Xff,
    /// By a PROXY header, version 1 or 2, in front of the client's text.
    ProxyProtocol,
}

/// Whom to believe, and what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// How it is told.
    pub way: Way,
    /// Addresses of proxies that are believed.
    pub trusted: Vec<Network>,
}

impl Policy {
    /// Whether this is a trusted proxy.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let mut networks = self.trusted.iter();
        networks.any(|network| network.contains(address))
    }
}

/// What a request says of its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Claim {
    /// Its address.
    Told(ToldAddress, RealClientWay),
    /// Nothing.
    Silent,
    /// Something that is no address, or breaks the grammar.
    Unusable,
    /// The two fields name two clients: one of them may be a stranger's, which the proxy passes on.
    Conflict,
}

impl Policy {
    /// What the fields of a head say. `fields`: names and values in their order.
    pub(super) fn claim<'f>(
        &self,
        fields: impl Iterator<Item = (&'f str, &'f [u8])> + Clone,
    ) -> Claim {
        let named = |name: &'static str| {
            let fields = fields.clone();
            let values = fields.filter(move |(field, _)| field.eq_ignore_ascii_case(name));
            values.map(|(_, value)| value)
        };
        let mut listed = Vec::new();
        for line in named("x-forwarded-for") {
            let elements = line.split(|byte| *byte == b',');
            let elements = elements.filter(|element| !element.trim_ascii().is_empty());
            listed.extend(elements.map(plain));
        }
        let xff = self.choose(&listed, RealClientWay::XForwardedFor);
        listed.clear();
        for line in named("forwarded") {
            match forwarded(line) {
                Some(elements) => listed.extend(elements),
                None => listed.push(None),
            }
        }
        match (xff, self.choose(&listed, RealClientWay::Forwarded)) {
            (one, Claim::Silent) | (Claim::Silent, one) => one,
            // Equal but for the port, which one of them may not tell.
            (Claim::Told(one, way), Claim::Told(other, other_way)) if one.ip == other.ip => {
                match (one.port, other.port) {
                    (None, Some(_)) => Claim::Told(other, other_way),
                    (Some(a), Some(b)) if a != b => Claim::Conflict,
                    _ => Claim::Told(one, way),
                }
            }
            (Claim::Unusable, Claim::Unusable) => Claim::Unusable,
            _ => Claim::Conflict,
        }
    }

    /// The rightmost that is no trusted proxy's. If all are, the leftmost: a trusted proxy has heard it.
    fn choose(&self, listed: &[Option<ToldAddress>], way: RealClientWay) -> Claim {
        let mut seen = Claim::Silent;
        for element in listed.iter().rev() {
            let Some(told) = element else {
                return Claim::Unusable;
            };
            seen = Claim::Told(*told, way);
            if !self.trusts(told.ip) {
                return seen;
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        let trusted = ["10.0.0.0/8", "2001:db8:1::/48"];
        let trusted = trusted.map(|text| crate::filter::network(text).unwrap());
        Policy {
            way: Way::Xff,
            trusted: trusted.to_vec(),
        }
    }

    fn claim(fields: &[(&'static str, &'static str)]) -> String {
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        match policy().claim(fields) {
            Claim::Told(told, RealClientWay::Forwarded) => format!("{told} by Forwarded"),
            Claim::Told(told, _) => told.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_rightmost_that_no_trusted_proxy_has() {
        for (list, meant) in [
            ("203.0.113.7", "203.0.113.7"),
            ("6.6.6.6, 203.0.113.7", "203.0.113.7"),
            ("6.6.6.6, 203.0.113.7, 10.1.1.1", "203.0.113.7"),
            ("203.0.113.7, 10.1.1.1, 2001:db8:1::9", "203.0.113.7"),
            ("10.1.1.3, 10.1.1.2", "10.1.1.3"),
            ("6.6.6.6, unknown, 10.1.1.1", "Unusable"),
            ("6.6.6.6, _hidden", "Unusable"),
            ("203.0.113.7,, ,", "203.0.113.7"),
            ("", "Silent"),
        ] {
            assert_eq!(claim(&[("X-Forwarded-For", list)]), meant, "{list}");
        }
    }

    #[test]
    fn lines_join_in_their_order() {
        let lines = [
            ("x-forwarded-for", "6.6.6.6"),
            ("Host", "a"),
            ("X-Forwarded-For", "203.0.113.7, 10.0.0.1"),
        ];
        assert_eq!(claim(&lines), "203.0.113.7");
        let lines = [
            ("Forwarded", "for=6.6.6.6"),
            ("forwarded", "for=203.0.113.8:9"),
        ];
        assert_eq!(claim(&lines), "203.0.113.8:9 by Forwarded");
        // A line that breaks the grammar can't reach into the next.
        let lines = [
            ("Forwarded", "for=\"6.6.6.6"),
            ("Forwarded", "for=203.0.113.8"),
        ];
        assert_eq!(claim(&lines), "203.0.113.8 by Forwarded");
        let lines = [
            ("Forwarded", "for=203.0.113.8"),
            ("Forwarded", "for=\"6.6.6.6"),
        ];
        assert_eq!(claim(&lines), "Unusable");
    }

    #[test]
    fn a_field_that_the_proxy_only_passes_on_is_not_believed() {
        let both = |xff, forwarded| claim(&[("X-Forwarded-For", xff), ("Forwarded", forwarded)]);
        assert_eq!(both("203.0.113.7", "for=203.0.113.7"), "203.0.113.7");
        let with_port = "for=\"203.0.113.7:81\"";
        assert_eq!(
            both("203.0.113.7", with_port),
            "203.0.113.7:81 by Forwarded"
        );
        assert_eq!(both("203.0.113.7", "for=6.6.6.6"), "Conflict");
        assert_eq!(both("203.0.113.7", "for=unknown"), "Conflict");
        assert_eq!(both("203.0.113.7:80", with_port), "Conflict");
        assert_eq!(claim(&[("Via", "1.1 a")]), "Silent");
    }
}
