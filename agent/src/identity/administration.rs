//! What an operator does at the collector: tokens, and what agents may.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mirror_hook::filter::Network;

use super::addresses;
use super::certificate::{KeyId, random};
use super::collector::{self, RUNNING};
use super::error::IdentityError;
use super::files;
use super::registry::{AgentName, ListedAgent, Registry, StoredAgent};
use super::server;
use super::token::{Address, MAX_ADDRESSES, Token};

/// The state of a collector, which may run meanwhile: that takes changes when it is told to reload.
#[derive(Debug)]
pub struct Administration {
    dir: PathBuf,
    pin: KeyId,
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// Where the host finds the collector; none: the names of the identity, or this host's addresses.
    pub addresses: Vec<Address>,
    /// What the agent will be called; `None`: as its host calls itself.
    pub name: Option<AgentName>,
    /// Revoke the agent of that name when the token is used.
    pub replaces: bool,
    /// Where the mirrored ends of its flows may be; none: at the addresses that its host has.
    pub networks: Vec<Network>,
    /// How long it is good.
    pub valid: Duration,
}

fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

impl Administration {
    /// Of the collector whose state is here.
    ///
    /// # Errors
    /// There is none, or it is damaged.
    pub fn open(state_dir: &Path) -> Result<Self, IdentityError> {
        let dir = collector::existing(state_dir)?;
        let authority = server::authority(&dir)?;
        let pin = KeyId::of_certificate(&authority).ok_or_else(|| IdentityError::Damaged {
            path: dir.clone(),
            what: "the authority's certificate can't be read".into(),
        })?;
        Ok(Self { dir, pin })
    }

    /// By which agents know the collector.
    pub fn pin(&self) -> KeyId {
        self.pin
    }

    /// The process of the collector, if it runs.
    pub fn running(&self) -> Option<u32> {
        use rustix::fs::{FlockOperation, flock};
        let path = self.dir.join(RUNNING);
        let file = File::open(&path).ok()?;
        // Whoever runs holds it.
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return None;
        }
        files::read(&path).ok()??.trim().parse().ok()
    }

    /// Makes a token, whose only copy is what this returns.
    ///
    /// # Errors
    /// The name is taken; the registry can't be written.
    pub fn enroll(&self, new: NewToken) -> Result<Token, IdentityError> {
        let now = now();
        let mut addresses = match new.addresses.is_empty() {
            true => self.own_addresses()?,
            false => new.addresses,
        };
        addresses.truncate(MAX_ADDRESSES);
        let token = Token {
            addresses,
            pin: self.pin,
            id: random()?,
            secret: random()?,
            expires: now.saturating_add(new.valid.as_secs()),
        };
        Registry::update(&self.dir, |registry| {
            let name = new.name.as_ref();
            registry.add_token(&token, name, new.replaces, new.networks, now)
        })?;
        Ok(token)
    }

    fn own_addresses(&self) -> Result<Vec<Address>, IdentityError> {
        let mut own = server::names(&self.dir)?;
        if own.is_empty() {
            let reachable = |address: &std::net::IpAddr| match address {
                std::net::IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
                std::net::IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
            };
            let all = addresses::own();
            let texts = all
                .iter()
                .filter(|one| reachable(one))
                .map(ToString::to_string);
            let texts = texts
                .take(MAX_ADDRESSES - 1)
                .chain([addresses::host_name()]);
            own = texts.filter_map(|text| text.parse().ok()).collect();
        }
        match own.is_empty() {
            true => Ok(vec![Address::new("localhost", None)]),
            false => Ok(own),
        }
    }

    /// All agents that ever joined, in the order in which they did.
    ///
    /// # Errors
    /// The registry can't be read.
    pub fn agents(&self) -> Result<Vec<ListedAgent>, IdentityError> {
        let registry = Registry::load(&self.dir)?;
        let listed = |agent: &StoredAgent| ListedAgent {
            record: agent.record(),
            joined: agent.joined,
            certificate_until: agent.certificate_until,
            revoked: agent.revoked,
        };
        Ok(registry.agents.iter().map(listed).collect())
    }

    /// Never lets this agent's key in again.
    ///
    /// # Errors
    /// There is none of that name; the registry can't be written.
    pub fn revoke(&self, name: &str) -> Result<(), IdentityError> {
        self.change(name, |agent| agent.revoked = Some(now()))
    }

    /// Replaces the networks where the mirrored ends of its flows may be.
    ///
    /// # Errors
    /// See [`revoke`](Self::revoke).
    pub fn allow(&self, name: &str, networks: Vec<Network>) -> Result<(), IdentityError> {
        self.change(name, |agent| agent.networks = networks)
    }

    /// Sets how much it may send, in bits of clear text a second.
    ///
    /// # Errors
    /// See [`revoke`](Self::revoke).
    pub fn limit(&self, name: &str, bits_per_s: Option<u64>) -> Result<(), IdentityError> {
        self.change(name, |agent| agent.quota_bits_per_s = bits_per_s)
    }

    fn change(
        &self,
        name: &str,
        change: impl FnOnce(&mut StoredAgent),
    ) -> Result<(), IdentityError> {
        Registry::update(&self.dir, |registry| {
            let agent = registry.active(name);
            change(agent.ok_or_else(|| IdentityError::NoAgent(name.to_owned()))?);
            Ok(())
        })
    }
}
