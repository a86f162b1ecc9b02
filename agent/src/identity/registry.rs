//! What a collector knows: agents and tokens, in one file that is replaced as a whole.
//!
//! ```text
//! registry.toml   [[agent]] name, key, networks, joined, certificate_until, revoked, quota_bits_per_s
//!                 [[token]] id, secret_hash, expires, name, networks, used
//! ```
//!
//! That a token was used and who came by it is one write, before the certificate is given out: whatever
//! crashes, no token is good twice. Of a token's secret there is a hash only.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use mirror_hook::filter::Network;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::certificate::{KeyId, hex};
use super::error::IdentityError;
use super::files::{self, Lock};
use super::token::Token;
use crate::tunnel::frame::Reason;

const FILE: &str = "registry.toml";
/// Tokens are kept for so long behind their end, to be told from unknown ones, in seconds.
const TOKENS_KEPT: u64 = 30 * 86_400;
/// Most networks of one agent.
pub(super) const MAX_NETWORKS: usize = 256;
const MAX_NAME: usize = 64;

/// An agent that may come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRecord {
    /// What the operator calls it; no two that may come in have the same.
    pub name: String,
    /// Who it is.
    pub key: KeyId,
    /// Where the mirrored ends of its flows may be; see [`AgentRecord::allows`].
    pub networks: Vec<Network>,
    /// Most bits of clear text a second; `None`: as much as others leave.
    pub quota_bits_per_s: Option<u64>,
}

impl AgentRecord {
    /// Whether the mirrored end of a flow may have this address: one of its networks, loopback (which every
    /// host has for itself), or what stands for an unknown one (RFC 5737's ranges).
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let stands_for_unknown = match address {
            IpAddr::V4(v4) => [Ipv4Addr::new(192, 0, 2, 0), Ipv4Addr::new(198, 51, 100, 0)]
                .iter()
                .any(|range| range.octets()[..3] == v4.octets()[..3]),
            IpAddr::V6(_) => false,
        };
        address.is_loopback()
            || stands_for_unknown
            || self
                .networks
                .iter()
                .any(|network| network.contains(address))
    }
}

/// An agent as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedAgent {
    /// What the collector goes by.
    pub record: AgentRecord,
    /// When it joined, seconds since 1970.
    pub joined: u64,
    /// Until when its certificate is good, seconds since 1970.
    pub certificate_until: u64,
    /// When it was revoked, seconds since 1970.
    pub revoked: Option<u64>,
}

/// 1 to 64 letters, digits, dots, dashes and underscores; a letter or a digit first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentName(String);

impl AgentName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As near as possible to what a host calls itself, which may be anything.
    pub(super) fn from_host(host: &str) -> Self {
        let good: String = host
            .chars()
            .filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c))
            .skip_while(|c| !c.is_ascii_alphanumeric())
            .take(MAX_NAME)
            .collect();
        Self(if good.is_empty() {
            "agent".into()
        } else {
            good
        })
    }
}

impl fmt::Display for AgentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for AgentName {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        match Self::from_host(text) {
            name if name.0 == text => Ok(name),
            _ => Err(IdentityError::BadName(text.to_owned())),
        }
    }
}

/// As it is written in a rule: `10.0.0.0/8`, or without bits where there is one address.
pub fn network_text(network: &Network) -> String {
    let most = if network.address.is_ipv4() { 32 } else { 128 };
    match network.bits == most {
        true => network.address.to_string(),
        false => format!("{}/{}", network.address, network.bits),
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registry {
    #[serde(default, rename = "agent")]
    pub(super) agents: Vec<StoredAgent>,
    #[serde(default, rename = "token")]
    tokens: Vec<StoredToken>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StoredAgent {
    pub(super) name: String,
    #[serde(with = "as_text")]
    pub(super) key: KeyId,
    #[serde(with = "network_list")]
    pub(super) networks: Vec<Network>,
    pub(super) joined: u64,
    pub(super) certificate_until: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) revoked: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) quota_bits_per_s: Option<u64>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredToken {
    id: String,
    secret_hash: String,
    expires: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// The agent of this name is revoked when the token is used.
    #[serde(default)]
    replaces: bool,
    #[serde(with = "network_list")]
    networks: Vec<Network>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
}

/// What comes with a token.
#[derive(Debug)]
pub(super) struct Applicant<'a> {
    pub(super) id: [u8; 8],
    pub(super) secret: [u8; 16],
    pub(super) key: KeyId,
    pub(super) host: &'a str,
    pub(super) addresses: &'a [IpAddr],
    pub(super) certificate_until: u64,
}

impl StoredAgent {
    pub(super) fn record(&self) -> AgentRecord {
        AgentRecord {
            name: self.name.clone(),
            key: self.key,
            networks: self.networks.clone(),
            quota_bits_per_s: self.quota_bits_per_s,
        }
    }
}

impl Registry {
    pub(super) fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let Some(text) = files::read(&path)? else {
            return Ok(Self::default());
        };
        toml::from_str(&text).map_err(|error| IdentityError::Damaged {
            path,
            what: error.to_string(),
        })
    }

    /// Changes the file, alone among all processes. What `change` refuses isn't written.
    pub(super) fn update<T, E: From<IdentityError>>(
        dir: &Path,
        change: impl FnOnce(&mut Self) -> Result<T, E>,
    ) -> Result<T, E> {
        let _lock = Lock::take(dir)?;
        let mut registry = Self::load(dir)?;
        let changed = change(&mut registry)?;
        let text = toml::to_string(&registry).map_err(|error| IdentityError::Damaged {
            path: dir.join(FILE),
            what: error.to_string(),
        })?;
        files::write(&dir.join(FILE), text.as_bytes())?;
        Ok(changed)
    }

    /// The agent of this name that may come in.
    pub(super) fn active(&mut self, name: &str) -> Option<&mut StoredAgent> {
        let mut agents = self.agents.iter_mut();
        agents.find(|agent| agent.revoked.is_none() && agent.name == name)
    }

    pub(super) fn add_token(
        &mut self,
        token: &Token,
        name: Option<&AgentName>,
        replaces: bool,
        networks: Vec<Network>,
        now: u64,
    ) -> Result<(), IdentityError> {
        if let Some(name) = name.filter(|name| !replaces && self.active(name.as_str()).is_some()) {
            return Err(IdentityError::NameTaken(name.to_string()));
        }
        self.tokens
            .retain(|token| token.expires.saturating_add(TOKENS_KEPT) > now);
        self.tokens.push(StoredToken {
            id: hex(&token.id),
            secret_hash: hex(&secret_hash(&token.id, &token.secret)),
            expires: token.expires,
            name: name.map(AgentName::to_string),
            replaces,
            networks,
            used: None,
        });
        Ok(())
    }

    /// Takes a token for an agent, which is from now on known. The same token is never good again.
    pub(super) fn redeem(
        &mut self,
        applicant: &Applicant<'_>,
        now: u64,
    ) -> Result<AgentRecord, Reason> {
        let id = hex(&applicant.id);
        let mut tokens = self.tokens.iter_mut();
        let token = tokens.find(|token| token.id == id);
        let token = token.ok_or(Reason::TokenUnknown)?;
        let hash = hex(&secret_hash(&applicant.id, &applicant.secret));
        if !equal(hash.as_bytes(), token.secret_hash.as_bytes()) {
            return Err(Reason::TokenUnknown);
        }
        if token.used.is_some() {
            return Err(Reason::TokenUsed);
        }
        if token.expires <= now {
            return Err(Reason::TokenExpired);
        }
        if self.agents.iter().any(|agent| agent.key == applicant.key) {
            // Keys are made for one enrolment.
            return Err(Reason::Replayed);
        }
        token.used = Some(now);
        let replaced = token.name.clone().filter(|_| token.replaces);
        let wanted = match &token.name {
            Some(name) => AgentName(name.clone()),
            None => AgentName::from_host(applicant.host),
        };
        let networks = match token.networks.is_empty() {
            true => own_networks(applicant.addresses),
            false => token.networks.clone(),
        };
        if let Some(agent) = replaced.and_then(|name| self.active(&name)) {
            agent.revoked = Some(now);
        }
        let agent = StoredAgent {
            name: self.unused_name(&wanted),
            key: applicant.key,
            networks,
            joined: now,
            certificate_until: applicant.certificate_until,
            revoked: None,
            quota_bits_per_s: None,
        };
        let record = agent.record();
        self.agents.push(agent);
        Ok(record)
    }

    fn unused_name(&mut self, wanted: &AgentName) -> String {
        let numbered = |number: u64| match number {
            1 => wanted.0.clone(),
            _ => {
                let end = format!("-{number}");
                let start: String = wanted.0.chars().take(MAX_NAME - end.len()).collect();
                start + &end
            }
        };
        let mut names = (1..).map(numbered);
        let unused = names.find(|name| self.active(name).is_none());
        unused.unwrap_or_else(|| wanted.0.clone())
    }
}

/// The addresses of a host that others may know, each by itself.
fn own_networks(addresses: &[IpAddr]) -> Vec<Network> {
    let mut own = Vec::new();
    for address in addresses.iter().map(IpAddr::to_canonical) {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let network = Network { address, bits };
        let useless = address.is_loopback() || address.is_unspecified() || address.is_multicast();
        if !useless && !own.contains(&network) && own.len() < MAX_NETWORKS {
            own.push(network);
        }
    }
    own
}

fn secret_hash(id: &[u8; 8], secret: &[u8; 16]) -> [u8; 32] {
    Sha256::new()
        .chain_update(id)
        .chain_update(secret)
        .finalize()
        .into()
}

/// In a time that doesn't depend on where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    let difference = a.iter().zip(b).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && std::hint::black_box(difference) == 0
}

/// What a running collector goes by.
#[derive(Debug, Default)]
pub(super) struct Known {
    by_key: HashMap<KeyId, Result<Arc<AgentRecord>, Reason>>,
}

impl Known {
    pub(super) fn new(registry: &Registry) -> Self {
        let entry = |agent: &StoredAgent| match agent.revoked {
            None => Ok(Arc::new(agent.record())),
            Some(_) => Err(Reason::Revoked),
        };
        let entries = registry.agents.iter();
        Self {
            by_key: entries.map(|agent| (agent.key, entry(agent))).collect(),
        }
    }

    pub(super) fn find(&self, key: &KeyId) -> Result<Arc<AgentRecord>, Reason> {
        match self.by_key.get(key) {
            Some(known) => known.clone(),
            None => Err(Reason::UnknownCertificate),
        }
    }
}

mod as_text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(value)
    }

    pub(super) fn deserialize<'de, D, T>(d: D) -> Result<T, D::Error>
    where
        D: Deserializer<'de>,
        T: FromStr<Err: Display>,
    {
        let text = String::deserialize(d)?;
        text.parse().map_err(D::Error::custom)
    }
}

mod network_list {
    use mirror_hook::filter::Network;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::network_text;

    pub(super) fn serialize<S: Serializer>(networks: &[Network], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(networks.iter().map(network_text))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<Network>, D::Error> {
        let texts = Vec::<String>::deserialize(d)?;
        let networks = texts.iter().map(|text| crate::filter::network(text));
        networks.collect::<Result<_, _>>().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::token::Address;

    const NOW: u64 = 1_800_000_000;

    fn token(number: u8) -> Token {
        Token {
            addresses: vec![Address::new("sensor", None)],
            pin: KeyId([0; 32]),
            id: [number; 8],
            secret: [number; 16],
            expires: NOW + 900,
        }
    }

    fn applicant(number: u8) -> Applicant<'static> {
        Applicant {
            id: [number; 8],
            secret: [number; 16],
            key: KeyId([number; 32]),
            host: "web1",
            addresses: &[],
            certificate_until: NOW + 1000,
        }
    }

    fn registry(tokens: &[u8]) -> Registry {
        let mut registry = Registry::default();
        for number in tokens {
            registry
                .add_token(&token(*number), None, false, vec![], NOW)
                .unwrap();
        }
        registry
    }

    #[test]
    fn a_token_is_good_once_and_in_its_time() {
        let mut registry = registry(&[1, 2]);
        assert_eq!(
            registry.redeem(&applicant(9), NOW),
            Err(Reason::TokenUnknown)
        );
        let wrong = Applicant {
            secret: [0; 16],
            ..applicant(1)
        };
        assert_eq!(registry.redeem(&wrong, NOW), Err(Reason::TokenUnknown));
        assert_eq!(
            registry.redeem(&applicant(2), NOW + 900),
            Err(Reason::TokenExpired)
        );
        assert_eq!(registry.redeem(&applicant(1), NOW).unwrap().name, "web1");
        let again = Applicant {
            key: KeyId([7; 32]),
            ..applicant(1)
        };
        assert_eq!(registry.redeem(&again, NOW + 901), Err(Reason::TokenUsed));
        // A refusal has used nothing.
        assert_eq!(
            registry.redeem(&applicant(2), NOW + 899).unwrap().name,
            "web1-2"
        );
        let known = Known::new(&registry);
        assert_eq!(known.find(&KeyId([1; 32])).unwrap().name, "web1");
        assert_eq!(known.find(&KeyId([7; 32])), Err(Reason::UnknownCertificate));
    }

    #[test]
    fn a_token_may_replace_an_agent() {
        let mut registry = registry(&[1]);
        registry.redeem(&applicant(1), NOW).unwrap();
        let name: AgentName = "web1".parse().unwrap();
        let add = |registry: &mut Registry, replaces| {
            registry.add_token(&token(2), Some(&name), replaces, vec![], NOW)
        };
        assert!(matches!(
            add(&mut registry, false),
            Err(IdentityError::NameTaken(_))
        ));
        add(&mut registry, true).unwrap();
        assert!(Known::new(&registry).find(&KeyId([1; 32])).is_ok());
        assert_eq!(registry.redeem(&applicant(2), NOW).unwrap().name, "web1");
        let known = Known::new(&registry);
        assert_eq!(known.find(&KeyId([1; 32])), Err(Reason::Revoked));
        assert!(known.find(&KeyId([2; 32])).is_ok());
    }

    #[test]
    fn an_agent_speaks_for_its_own_addresses() {
        let mut registry = registry(&[1]);
        let addresses: Vec<IpAddr> = [
            "10.0.0.5",
            "::ffff:10.0.0.6",
            "fe80::1",
            "127.0.0.1",
            "10.0.0.5",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let applicant = Applicant {
            addresses: &addresses,
            ..applicant(1)
        };
        let record = registry.redeem(&applicant, NOW).unwrap();
        assert_eq!(record.networks.len(), 3);
        let allows = |text: &str| record.allows(text.parse().unwrap());
        for good in [
            "10.0.0.5",
            "::ffff:10.0.0.5",
            "10.0.0.6",
            "127.9.9.9",
            "::1",
            "192.0.2.77",
            "198.51.100.1",
        ] {
            assert!(allows(good), "{good}");
        }
        for bad in ["10.0.0.7", "192.0.3.1", "198.51.101.1", "::2", "0.0.0.0"] {
            assert!(!allows(bad), "{bad}");
        }
    }

    #[test]
    fn networks_of_a_token_are_what_the_agent_may() {
        let mut registry = Registry::default();
        let networks = vec![crate::filter::network("10.1.0.0/16").unwrap()];
        registry
            .add_token(&token(1), None, false, networks, NOW)
            .unwrap();
        let addresses = ["10.9.0.1".parse().unwrap()];
        let applicant = Applicant {
            addresses: &addresses,
            ..applicant(1)
        };
        let record = registry.redeem(&applicant, NOW).unwrap();
        assert!(record.allows("10.1.2.3".parse().unwrap()));
        assert!(!record.allows(addresses[0]));
    }

    #[test]
    fn what_is_stored_is_read_again_and_has_no_secret() {
        let dir = tempfile::tempdir().unwrap();
        let networks = vec![crate::filter::network("2001:db8::/32").unwrap()];
        Registry::update(dir.path(), |registry| {
            registry.add_token(&token(0xab), None, false, networks.clone(), NOW)?;
            Ok::<_, IdentityError>(())
        })
        .unwrap();
        let text = std::fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!text.contains(&hex(&[0xab; 16])), "{text}");
        let mut registry = Registry::load(dir.path()).unwrap();
        assert_eq!(
            registry.redeem(&applicant(0xab), NOW).unwrap().networks,
            networks
        );
        std::fs::write(dir.path().join(FILE), "[[agent]]\nname = 7").unwrap();
        assert!(matches!(
            Registry::load(dir.path()),
            Err(IdentityError::Damaged { .. })
        ));
    }

    #[test]
    fn names() {
        for good in ["web1", "a.b-c_d", &"x".repeat(64)] {
            assert!(good.parse::<AgentName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", ".a", "a b", "a\n", "\u{e9}", &"x".repeat(65)] {
            assert!(bad.parse::<AgentName>().is_err(), "{bad}");
        }
        assert_eq!(AgentName::from_host("\u{1b}[31m").as_str(), "31m");
        assert_eq!(AgentName::from_host("\u{e9}").as_str(), "agent");
    }
}
