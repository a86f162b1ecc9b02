//! The keys of a fleet: one for all its collectors, and one for each agent, derived from it.
//!
//! A fleet's key is an X25519 key pair and a secret, known to the collectors alone. An agent's key is the public
//! half, the agent's name, its terms (in which networks its sessions are), and `HKDF(secret, name, terms)`. So an agent
//! can seal for the collectors, in its own name and under its own terms only, and can open nothing, not even what it
//! has sealed itself in an earlier life; the collectors know any agent by what it says of itself, without a list.
//! Both are one line of text each, to be kept in a file.
//!
//! While a fleet changes its key, its collectors have several, a line each: agents' keys are made from the first one,
//! and what was sealed for any of them is read.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, Serializable};
use mirror_hook::filter::Network;
use ring::hkdf;
use serde::{Deserialize, Serialize};

/// Most bytes of an agent's name.
pub const MAX_NAME_BYTES: usize = 64;
/// Most networks of an agent.
pub const MAX_NETWORKS: usize = 32;
/// What they take at most.
const MAX_TERMS_BYTES: usize = 2 + MAX_NETWORKS * 18;
/// Most keys that a fleet has at once.
const MAX_FLEET_KEYS: usize = 8;

const FLEET_MARK: &str = "sslcollector-fleet-1.";
const AGENT_MARK: &str = "sslcollector-agent-1.";

/// What all collectors of a fleet have, and nobody else.
#[derive(Clone)]
pub struct FleetKey {
    pub(super) private: <X25519HkdfSha256 as Kem>::PrivateKey,
    secret: [u8; 32],
}

/// The keys of a fleet: the one from which agents' keys are made, and older ones that are read still.
#[derive(Clone, Debug)]
pub struct FleetKeys(Vec<FleetKey>);

/// What an agent may tell of. It is part of its key: it can't be changed there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Terms {
    /// Networks, as first address and leading bits, in which the mirrored ends of its sessions are; `None`: anywhere.
    networks: Option<Vec<(IpAddr, u8)>>,
}

/// What an agent has.
#[derive(Clone)]
pub struct AgentKey {
    pub(super) public: <X25519HkdfSha256 as Kem>::PublicKey,
    pub(super) name: String,
    pub(super) terms: Terms,
    pub(super) secret: [u8; 32],
}

/// Why a key can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// It isn't one.
    #[error("this is no key of a fleet: it was cut, or is something else")]
    Malformed,
    /// An agent was given the collectors' key.
    #[error(
        "this is the collectors' own key, which opens everything: an agent gets one from `sslcollector fleet-key agent NAME`"
    )]
    Fleets,
    /// A collector was given an agent's key.
    #[error(
        "this is an agent's key: a collector needs the fleet's, from `sslcollector fleet-key init`"
    )]
    Agents,
    /// Nobody can be called that.
    #[error(
        "an agent's name has 1 to {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores"
    )]
    Name,
    /// A fleet has one new key, and some that are read still.
    #[error(
        "a fleet has at most {MAX_FLEET_KEYS} keys: `sslcollector fleet-key retire` drops the old ones"
    )]
    Keys,
    /// An agent's key would become too long.
    #[error("an agent's key has at most {MAX_NETWORKS} networks")]
    Networks,
}

#[derive(Serialize, Deserialize)]
struct FleetForm {
    private: [u8; 32],
    secret: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct AgentForm {
    public: [u8; 32],
    name: String,
    terms: Terms,
    secret: [u8; 32],
}

impl Terms {
    /// For an agent whose sessions are in these networks only.
    ///
    /// # Errors
    /// There are too many.
    pub fn of(networks: Option<&[Network]>) -> Result<Self, KeyError> {
        let pair = |network: &Network| (network.address, network.bits);
        match networks {
            Some(networks) if networks.len() > MAX_NETWORKS => Err(KeyError::Networks),
            networks => Ok(Self {
                networks: networks.map(|networks| networks.iter().map(pair).collect()),
            }),
        }
    }

    /// The networks; `None`: anywhere.
    pub fn networks(&self) -> Option<Vec<Network>> {
        let network = |&(address, bits): &(IpAddr, u8)| Network { address, bits };
        let networks = self.networks.as_ref()?;
        Some(networks.iter().map(network).collect())
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).expect("terms can be written")
    }

    /// `None`: they are none. Nothing is said about who has written them.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_TERMS_BYTES {
            return None;
        }
        match postcard::take_from_bytes(bytes) {
            Ok((terms, [])) => Some(terms),
            _ => None,
        }
    }
}

impl FleetKeys {
    /// The one from which agents' keys are made.
    pub fn newest(&self) -> &FleetKey {
        &self.0[0]
    }

    /// All that are read, the newest first.
    pub fn all(&self) -> &[FleetKey] {
        &self.0
    }

    /// With a new key in front: agents' keys are made from it, what was sealed for the others is read.
    ///
    /// # Errors
    /// There are too many.
    pub fn rotated(&self) -> Result<Self, KeyError> {
        if self.0.len() == MAX_FLEET_KEYS {
            return Err(KeyError::Keys);
        }
        let mut keys = vec![FleetKey::generate()];
        keys.extend(self.0.iter().cloned());
        Ok(Self(keys))
    }

    /// With the newest alone.
    pub fn retired(&self) -> Self {
        Self(vec![self.newest().clone()])
    }

    /// As text, a line each, without the last one's end.
    pub fn to_text(&self) -> String {
        let lines: Vec<_> = self.0.iter().map(FleetKey::to_text).collect();
        lines.join("\n")
    }

    /// From such lines.
    ///
    /// # Errors
    /// One is no key, or there are none or too many.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let lines = text.lines().filter(|line| !line.trim().is_empty());
        let keys: Vec<_> = lines.map(FleetKey::from_text).collect::<Result<_, _>>()?;
        match keys.len() {
            0 => Err(KeyError::Malformed),
            1..=MAX_FLEET_KEYS => Ok(Self(keys)),
            _ => Err(KeyError::Keys),
        }
    }
}

impl From<FleetKey> for FleetKeys {
    fn from(key: FleetKey) -> Self {
        Self(vec![key])
    }
}

impl FleetKey {
    /// A new one.
    pub fn generate() -> Self {
        let (private, _) = X25519HkdfSha256::gen_keypair();
        // Of the same strength, and from the same source, as a private key.
        let (secret, _) = X25519HkdfSha256::gen_keypair();
        Self {
            private,
            secret: secret.to_bytes().into(),
        }
    }

    /// The key of the agent called so, under these terms.
    ///
    /// # Errors
    /// Nobody can be called that.
    pub fn agent(&self, name: &str, terms: &Terms) -> Result<AgentKey, KeyError> {
        if !is_name(name) {
            return Err(KeyError::Name);
        }
        Ok(AgentKey {
            public: X25519HkdfSha256::sk_to_pk(&self.private),
            name: name.to_owned(),
            // No name has a zero in it: where it ends and the terms begin is clear.
            secret: self.derive(&[b"agent", name.as_bytes(), &[0], &terms.to_bytes()]),
            terms: terms.clone(),
        })
    }

    /// A secret for one purpose. The first part names it, and no two begin with one another.
    pub(super) fn derive(&self, purpose: &[&[u8]]) -> [u8; 32] {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"sslcollector fleet 1");
        let mut derived = [0; 32];
        salt.extract(&self.secret)
            .expand(purpose, hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut derived))
            .expect("32 bytes are what HKDF gives at once");
        derived
    }

    /// As a line of text, without its end.
    pub fn to_text(&self) -> String {
        let form = FleetForm {
            private: self.private.to_bytes().into(),
            secret: self.secret,
        };
        text(FLEET_MARK, &form)
    }

    /// From such a line.
    ///
    /// # Errors
    /// It is none.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let form: FleetForm = parse(text, FLEET_MARK, (AGENT_MARK, KeyError::Agents))?;
        let private = Deserializable::from_bytes(&form.private).map_err(|_| KeyError::Malformed)?;
        Ok(Self {
            private,
            secret: form.secret,
        })
    }
}

impl AgentKey {
    /// The agent's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it may tell of.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// As a line of text, without its end.
    pub fn to_text(&self) -> String {
        let form = AgentForm {
            public: self.public.to_bytes().into(),
            name: self.name.clone(),
            terms: self.terms.clone(),
            secret: self.secret,
        };
        text(AGENT_MARK, &form)
    }

    /// From such a line.
    ///
    /// # Errors
    /// It is none.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        let form: AgentForm = parse(text, AGENT_MARK, (FLEET_MARK, KeyError::Fleets))?;
        let public = Deserializable::from_bytes(&form.public).map_err(|_| KeyError::Malformed)?;
        match is_name(&form.name) {
            true => Ok(Self {
                public,
                name: form.name,
                terms: form.terms,
                secret: form.secret,
            }),
            false => Err(KeyError::Name),
        }
    }
}

/// Without what is secret.
impl fmt::Debug for FleetKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetKey").finish_non_exhaustive()
    }
}

/// Without what is secret.
impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentKey")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

pub(super) fn is_name(name: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=MAX_NAME_BYTES).contains(&name.len()) && name.bytes().all(is_part)
}

fn text(mark: &str, form: &impl Serialize) -> String {
    let bytes = postcard::to_stdvec(form).expect("keys can be written");
    format!("{mark}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes))
}

fn parse<T: for<'de> Deserialize<'de>>(
    text: &str,
    mark: &str,
    (other, error): (&str, KeyError),
) -> Result<T, KeyError> {
    let text = text.trim();
    if text.starts_with(other) {
        return Err(error);
    }
    let text = text.strip_prefix(mark).ok_or(KeyError::Malformed)?;
    let bytes = BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyError::Malformed)?;
    match postcard::take_from_bytes(&bytes) {
        Ok((form, [])) => Ok(form),
        _ => Err(KeyError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_lines_of_text() {
        let fleet = FleetKey::generate();
        let terms = Terms::of(Some(&[crate::filter::network("10.0.0.0/8").unwrap()])).unwrap();
        let agent = fleet.agent("web-1.example", &terms).unwrap();
        let again = FleetKey::from_text(&format!("{}\n", fleet.to_text())).unwrap();
        assert_eq!(again.to_text(), fleet.to_text());
        assert_eq!(
            again.agent("web-1.example", &terms).unwrap().to_text(),
            agent.to_text()
        );
        let read = AgentKey::from_text(&agent.to_text()).unwrap();
        assert_eq!(read.to_text(), agent.to_text());
        assert_eq!(read.terms().networks().unwrap().len(), 1);
        // Another name, or other terms: another secret.
        let other = |name, terms: &Terms| fleet.agent(name, terms).unwrap().secret;
        assert_ne!(other("web-2.example", &terms), agent.secret);
        assert_ne!(other("web-1.example", &Terms::default()), agent.secret);
    }

    #[test]
    fn the_wrong_key_is_told_from_the_right_one() {
        let fleet = FleetKey::generate();
        let agent = fleet.agent("a", &Terms::default()).unwrap();
        let error = AgentKey::from_text(&fleet.to_text()).unwrap_err();
        assert_eq!(error, KeyError::Fleets);
        let error = FleetKey::from_text(&agent.to_text()).unwrap_err();
        assert_eq!(error, KeyError::Agents);
        let text = agent.to_text();
        for end in 0..text.len() {
            assert!(AgentKey::from_text(&text[..end]).is_err(), "{end}");
        }
        for name in ["", "a b", "a/b", "ä", &"x".repeat(65)] {
            let error = fleet.agent(name, &Terms::default()).unwrap_err();
            assert_eq!(error, KeyError::Name, "{name}");
        }
    }

    #[test]
    fn a_fleet_changes_its_key() {
        let old = FleetKeys::from(FleetKey::generate());
        let both = old.rotated().unwrap();
        let read = FleetKeys::from_text(&format!("{}\n", both.to_text())).unwrap();
        assert_eq!(read.all().len(), 2);
        assert_eq!(read.all()[1].to_text(), old.newest().to_text());
        assert_ne!(read.newest().to_text(), old.newest().to_text());
        assert_eq!(read.retired().to_text(), read.newest().to_text());
        let many = (1..MAX_FLEET_KEYS).fold(old, |keys, _| keys.rotated().unwrap());
        assert_eq!(many.rotated().unwrap_err(), KeyError::Keys);
        assert!(FleetKeys::from_text("\n").is_err());
    }

    #[test]
    fn keys_are_not_printed_by_accident() {
        let fleet = FleetKey::generate();
        let printed = format!(
            "{:?} {:?}",
            fleet,
            fleet.agent("web", &Terms::default()).unwrap()
        );
        assert_eq!(printed, "FleetKey { .. } AgentKey { name: \"web\", .. }");
    }
}
