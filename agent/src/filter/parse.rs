//! Rules as people write them: `exe=/usr/sbin/nginx,port=443,net=10.0.0.0/8`.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use mirror_hook::event::Role;
use mirror_hook::filter::{End, Flow, Glob, NamePattern, Network, Process};

/// Conditions that have to hold together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// The process.
    pub process: Process,
    /// The connection.
    pub flow: Flow,
}

/// A rule that makes no sense, and where in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at character {position}: {what}")]
pub struct RuleError {
    /// Counted from 1.
    pub position: usize,
    /// What is wrong there.
    pub what: String,
}

const KEYS: &str = "exe, uid, port, net, client-net, server-net, sni, role";

impl Condition {
    /// Reads conditions joined by commas; `all` is none: every connection.
    ///
    /// # Errors
    /// See [`RuleError`].
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut condition = Self::default();
        if text == "all" {
            return Ok(condition);
        }
        let mut position = 1;
        for part in text.split(',') {
            let at = |position| move |what| RuleError { position, what };
            let (key, value) = part.split_once('=').ok_or_else(|| {
                at(position)(format!(
                    "'{part}' isn't KEY=VALUE, where KEY is one of {KEYS}; or `all` by itself"
                ))
            })?;
            let here = position + key.chars().count() + 1;
            if value.is_empty() {
                return Err(at(here)(format!("nothing stands behind '{key}='")));
            }
            condition.add(key, value).map_err(|wrong| match wrong {
                Wrong::Key(what) => at(position)(what),
                Wrong::Value(what) => at(here)(what),
            })?;
            position += part.chars().count() + 1;
        }
        Ok(condition)
    }

    fn add(&mut self, key: &str, value: &str) -> Result<(), Wrong> {
        let flow = &mut self.flow;
        let twice = match key {
            "exe" => self.process.executable.replace(Glob::new(value)).is_some(),
            "uid" => self.process.uid.replace(uid(value)?).is_some(),
            "port" => flow.ports.replace(ports(value)?).is_some(),
            "net" | "client-net" | "server-net" => {
                let end = match key {
                    "client-net" => End::Client,
                    "server-net" => End::Server,
                    _ => End::Either,
                };
                let network = network(value)?;
                flow.network.replace((end, network)).is_some()
            }
            "sni" => flow.name.replace(name(value)?).is_some(),
            "role" => flow.role.replace(role(value)?).is_some(),
            _ => {
                return Err(Wrong::Key(format!(
                    "there is no condition '{key}', only {KEYS}"
                )));
            }
        };
        match twice {
            true => Err(Wrong::Key(format!(
                "a second '{}' in one rule: write two rules",
                key.trim_start_matches("client-")
                    .trim_start_matches("server-")
            ))),
            false => Ok(()),
        }
    }
}

enum Wrong {
    Key(String),
    Value(String),
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Value(what)
    }
}

fn uid(value: &str) -> Result<u32, String> {
    value
        .parse()
        .map_err(|_| format!("'{value}' is no number of a user (`id -u NAME` tells it)"))
}

fn ports(value: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    let port = |text: &str| text.parse().ok().filter(|port: &u16| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!(
            "'{value}' is no port from 1 to 65535, nor a range like 8000-8999"
        )),
    }
}

/// A range of addresses as people write it: `10.0.0.0/8`, `2001:db8::/32`, or one address.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn network(value: &str) -> Result<Network, String> {
    let wrong = || format!("'{value}' is no network like 10.0.0.0/8 or 2001:db8::/32");
    let (address, bits) = value
        .split_once('/')
        .map_or((value, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        None => most,
        Some(text) => text
            .parse()
            .ok()
            .filter(|bits| *bits <= most)
            .ok_or_else(wrong)?,
    };
    // Connections to IPv4-mapped addresses are IPv4 ones (RFC 4291 2.5.5.2).
    let (address, bits) = match address.to_canonical() {
        unmapped if unmapped != address && bits >= 96 => (unmapped, bits - 96),
        _ => (address, bits),
    };
    let first = first_address(address, bits);
    if first != address {
        return Err(format!(
            "{value} has more bits than its {bits} leading ones: {first}/{bits}?"
        ));
    }
    Ok(Network { address, bits })
}

fn first_address(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u32::from(address) & mask).to_be_bytes())
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::from((u128::from(address) & mask).to_be_bytes())
        }
    }
}

fn name(value: &str) -> Result<NamePattern, String> {
    if value == "*" {
        return Ok(NamePattern::Any);
    }
    let (end, host) = match value.strip_prefix("*.") {
        Some(host) => (true, host),
        None => (false, value),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if host.is_empty() || host.len() > 253 || !host.bytes().all(valid) {
        return Err(format!(
            "'{value}' is neither a host's name, nor one behind '*.', nor '*' (international names as xn--…)"
        ));
    }
    Ok(match end {
        true => NamePattern::EndsWith(format!(".{host}")),
        false => NamePattern::Is(host.to_owned()),
    })
}

fn role(value: &str) -> Result<Role, String> {
    match value {
        "client" => Ok(Role::Client),
        "server" => Ok(Role::Server),
        _ => Err(format!("'{value}' is neither client nor server")),
    }
}
