//! A rule as the agent has it, and its way into the policy pages.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::{
    ALLOW, ALLOW_LISTED, DENY, Glob, MAX_RULES, MIRROR_UNKNOWN, NAME_ENDS, NAME_IS, NAME_IS_THERE,
    NAMES, NAMES_BYTES, RULE_BYTES, RULES, VERSION, array, condition,
};
use crate::event::Role;

/// What a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Mirror what it fits, unless a `Deny` fits as well; and nothing that no `Allow` fits.
    Allow,
    /// Don't mirror what it fits.
    Deny,
}

/// Conditions on a connection and what is to be done; without conditions it fits every connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What is to be done.
    pub action: Action,
    /// On what.
    pub flow: Flow,
    /// On which process: where that isn't settled before it is told.
    pub process: Process,
}

/// Conditions on a connection; `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Which end the process is.
    pub role: Option<Role>,
    /// Port of the TLS server.
    pub ports: Option<RangeInclusive<u16>>,
    /// Where an end is.
    pub network: Option<(End, Network)>,
    /// The server name.
    pub name: Option<NamePattern>,
}

/// Conditions on a process; `None` is no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The path of the executable.
    pub executable: Option<Glob>,
    /// The user's number.
    pub uid: Option<u32>,
}

/// Whose address is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client's or the server's.
    Either = 0,
    /// The TLS client's.
    Client = 1,
    /// The TLS server's.
    Server = 2,
}

/// A range of addresses (RFC 4632).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address; never an IPv4-mapped one.
    pub address: IpAddr,
    /// Leading bits that count: up to 32 or 128.
    pub bits: u8,
}

/// A set of server names; letters' case doesn't matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePattern {
    /// This one.
    Is(String),
    /// Those that end with this, with something in front of it: `.example.com`.
    EndsWith(String),
    /// Any, as long as there is one.
    Any,
}

/// The rules don't fit into the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Too many.
    #[error("{0} rules, more than {MAX_RULES}")]
    TooManyRules(usize),
    /// Too much in their names.
    #[error(
        "the rules' server names and executables have {0} bytes in all, more than {NAMES_BYTES}"
    )]
    NamesTooLong(usize),
    /// One name is longer than any there is.
    #[error("a server name of {0} bytes: there is none beyond 255")]
    NameTooLong(usize),
}

impl Network {
    /// Whether an address lies in it; IPv4-mapped ones have to be unmapped before.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = u32::from(network) ^ u32::from(address);
                u32::from(self.bits) <= differ.leading_zeros()
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = u128::from(network) ^ u128::from(address);
                u32::from(self.bits) <= differ.leading_zeros()
            }
            _ => false,
        }
    }

    /// The network of an encoded rule, if it is one.
    pub(super) fn read(rule: &[u8; RULE_BYTES]) -> Option<Self> {
        let bits = rule[11];
        let (address, most) = match rule[12] {
            4 => (IpAddr::from(array::<4>(rule, 16)), 32),
            6 => (IpAddr::from(array::<16>(rule, 16)), 128),
            _ => return None,
        };
        (bits <= most).then_some(Self { address, bits })
    }
}

/// The policy as it stands in the pages, as far as it isn't zero. `mirror_unknown`: where nothing but
/// the addresses is missing, the agent decides later.
///
/// `allow_listed`: what no `Allow` fits is excluded, also where none is among these `rules`.
///
/// # Errors
/// See [`EncodeError`].
#[allow(
    clippy::cast_possible_truncation,
    reason = "the numbers are below the bounds that are checked right here"
)]
pub fn encode(
    rules: &[Rule],
    allow_listed: bool,
    mirror_unknown: bool,
) -> Result<Vec<u8>, EncodeError> {
    if rules.len() > MAX_RULES {
        return Err(EncodeError::TooManyRules(rules.len()));
    }
    let mut out = vec![0; NAMES];
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    let flags = flag(allow_listed, ALLOW_LISTED) | flag(mirror_unknown, MIRROR_UNKNOWN);
    for (at, word) in [(0, VERSION), (4, rules.len() as u32), (8, flags)] {
        out[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    for (index, rule) in rules.iter().enumerate() {
        let name = match &rule.flow.name {
            None | Some(NamePattern::Any) => "",
            Some(NamePattern::Is(name) | NamePattern::EndsWith(name)) => name,
        };
        if name.len() > usize::from(u8::MAX) {
            return Err(EncodeError::NameTooLong(name.len()));
        }
        let name_at = out.len() - NAMES;
        out.extend(name.bytes().map(|byte| byte.to_ascii_lowercase()));
        let executable = rule.process.executable.as_ref().map_or("", Glob::pattern);
        let executable_at = out.len() - NAMES;
        out.extend(executable.bytes());
        if out.len() - NAMES > NAMES_BYTES {
            let all = out.len() - NAMES;
            return Err(EncodeError::NamesTooLong(all));
        }
        let at = RULES + index * RULE_BYTES;
        let mut encoded = encode_one(rule, name_at as u16, name.len() as u8);
        encoded[36..38].copy_from_slice(&(executable_at as u16).to_ne_bytes());
        encoded[38..40].copy_from_slice(&(executable.len() as u16).to_ne_bytes());
        out[at..at + RULE_BYTES].copy_from_slice(&encoded);
    }
    Ok(out)
}

fn encode_one(rule: &Rule, name_at: u16, name_length: u8) -> [u8; RULE_BYTES] {
    let mut out = [0; RULE_BYTES];
    out[0] = match rule.action {
        Action::Allow => ALLOW,
        Action::Deny => DENY,
    };
    if rule.process.executable.is_some() {
        out[1] |= condition::EXECUTABLE;
    }
    if let Some(uid) = rule.process.uid {
        out[1] |= condition::USER;
        out[32..36].copy_from_slice(&uid.to_ne_bytes());
    }
    if let Some(role) = rule.flow.role {
        out[1] |= condition::ROLE;
        out[2] = role as u8;
    }
    if let Some(ports) = &rule.flow.ports {
        out[1] |= condition::PORT;
        out[4..6].copy_from_slice(&ports.start().to_ne_bytes());
        out[6..8].copy_from_slice(&ports.end().to_ne_bytes());
    }
    if let Some((end, network)) = &rule.flow.network {
        out[1] |= condition::NETWORK;
        out[11] = network.bits;
        out[13] = *end as u8;
        match network.address {
            IpAddr::V4(address) => {
                out[12] = 4;
                out[16..20].copy_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                out[12] = 6;
                out[16..32].copy_from_slice(&address.octets());
            }
        }
    }
    if let Some(name) = &rule.flow.name {
        out[1] |= condition::NAME;
        out[3] = match name {
            NamePattern::Is(_) => NAME_IS,
            NamePattern::EndsWith(_) => NAME_ENDS,
            NamePattern::Any => NAME_IS_THERE,
        };
        out[8..10].copy_from_slice(&name_at.to_ne_bytes());
        out[10] = name_length;
    }
    out
}
