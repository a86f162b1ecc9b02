//! Which connections are mirrored: the agent's policy in the ring's policy pages, and how a
//! connection is judged by it.
//!
//! The agent writes the policy before it answers (STATE_READY), and never again into this ring. What
//! depends on the process, its executable and its user, the agent has settled by then: only rules that
//! hold for this process are here. A policy that `sslcollector run` tells through the environment has
//! those conditions, too; the hook settles the executable as it starts. All integers are in the byte order of the machine.
//!
//! ```text
//!   offset in the pages
//!   0     u32  version          0: no policy, everything is mirrored; 1: this one
//!   4     u32  rules            how many, at most MAX_RULES
//!   8     u32  flags            1 ALLOW_LISTED: what no `allow` names is excluded
//!                               2 MIRROR_UNKNOWN: where only the addresses are missing, mirror: the
//!                               agent decides when it has found them
//!   64    rules of 40 bytes
//!   5184  names, one behind the other, in small letters
//!
//!   a rule
//!   0   u8  action: 1 allow, 2 deny       1   u8  conditions: bits of `condition`; all must hold
//!   2   u8  role: 1 client, 2 server      3   u8  name: 1 is, 2 ends with, 3 is there
//!   4   u16 first port                    6   u16 last port, of the TLS server
//!   8   u16 name's offset in the names    10  u8  name's length
//!   11  u8  network: leading bits         12  u8  network's family: 4, 6
//!   13  u8  whose address: 0 either, 1 client, 2 server                       14 u16 0
//!   16  [u8; 16] network's address (IPv4: the first 4)
//!   32  u32 user                          36  u16 executable's offset in the names, 38 u16 its length
//! ```
//!
//! `deny` comes before `allow`, whichever order they stand in: a connection that any `deny` fits is
//! excluded. Where the policy has an `allow` (ALLOW_LISTED), one of them has to fit.
//!
//! A fact may be missing: the addresses where the library has no socket, the name before the
//! handshake has got to it. A rule that turns on it then neither fits nor doesn't, and if the answer
//! hangs on such a rule it is [`Verdict::Unknown`]: text waits for nobody, it is withheld.
//!
//! Whoever writes the pages is trusted no further than a bound: each rule is copied once, at most
//! [`MAX_RULES`] are looked at, and what can't be a rule excludes.

mod facts;
mod glob;
mod rule;
mod settle;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

pub use facts::Facts;
pub use glob::Glob;
pub use rule::{Action, EncodeError, End, Flow, NamePattern, Network, Process, Rule, encode};

pub(crate) use settle::settle;

use crate::event::Role;
use crate::layout::{POLICY, POLICY_BYTES};
use crate::ring::Memory;

/// Most rules of one policy.
pub const MAX_RULES: usize = 128;
/// Bytes for the names of all rules together.
pub const NAMES_BYTES: usize = POLICY_BYTES - NAMES;

const VERSION: u32 = 1;
const ALLOW_LISTED: u32 = 1;
const MIRROR_UNKNOWN: u32 = 1 << 1;
const RULES: usize = 64;
const RULE_BYTES: usize = 40;
const NAMES: usize = RULES + MAX_RULES * RULE_BYTES;

const ALLOW: u8 = 1;
const DENY: u8 = 2;
const NAME_IS: u8 = 1;
const NAME_ENDS: u8 = 2;
const NAME_IS_THERE: u8 = 3;

/// Conditions of a rule.
mod condition {
    pub(super) const ROLE: u8 = 1;
    pub(super) const PORT: u8 = 1 << 1;
    pub(super) const NETWORK: u8 = 1 << 2;
    pub(super) const NAME: u8 = 1 << 3;
    pub(super) const USER: u8 = 1 << 4;
    /// Not yet settled: unknown to whoever reads it here.
    pub(super) const EXECUTABLE: u8 = 1 << 5;
    pub(super) const ALL: u8 = (1 << 6) - 1;
}

/// A policy under which every connection is [`Verdict::Unknown`]: only the agent knows.
pub(crate) const UNTIL_ANSWERED: &[u8] = &until_answered();

const fn until_answered() -> [u8; RULES + RULE_BYTES] {
    let mut out = [0; RULES + RULE_BYTES];
    let version = VERSION.to_ne_bytes();
    let one = 1u32.to_ne_bytes();
    let mut index = 0;
    while index < version.len() {
        out[index] = version[index];
        out[4 + index] = one[index];
        index += 1;
    }
    out[RULES] = DENY;
    out[RULES + 1] = condition::EXECUTABLE;
    out
}

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its text is mirrored.
    Mirror,
    /// It isn't, whatever else becomes known.
    Exclude,
    /// That depends on what isn't known.
    Unknown(Missing),
}

/// Which facts a decision still needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// The connection's addresses.
    pub addresses: bool,
    /// The server name.
    pub name: bool,
    /// The process's executable or user.
    pub process: bool,
}

impl Missing {
    const NOTHING: Self = Self {
        addresses: false,
        name: false,
        process: false,
    };

    fn or(self, other: Self) -> Self {
        Self {
            addresses: self.addresses || other.addresses,
            name: self.name || other.name,
            process: self.process || other.process,
        }
    }
}

/// Bytes of a policy.
pub trait Policy {
    /// Copies the bytes from `at` on into `out`, once; what lies behind the end is zero.
    fn copy(&self, at: usize, out: &mut [u8]);
}

impl Policy for [u8] {
    fn copy(&self, at: usize, out: &mut [u8]) {
        out.fill(0);
        let from = self.get(at..).unwrap_or(&[]);
        let length = from.len().min(out.len());
        out[..length].copy_from_slice(&from[..length]);
    }
}

/// The policy in the pages of a ring.
#[derive(Debug)]
pub struct Shared<'m, M>(pub &'m M);

impl<M: Memory> Policy for Shared<'_, M> {
    fn copy(&self, at: usize, out: &mut [u8]) {
        out.fill(0);
        let inside = at
            .checked_add(out.len())
            .is_some_and(|end| end <= POLICY_BYTES);
        if inside {
            self.0.read(POLICY + at, out);
        }
    }
}

/// Whether there is a policy at all.
pub(crate) fn is_there<P: Policy + ?Sized>(policy: &P) -> bool {
    let mut version = [0; 4];
    policy.copy(0, &mut version);
    version != [0; 4]
}

/// Judges a connection. Anything may stand in `policy`; the time that this takes is bounded.
pub fn decide<P: Policy + ?Sized>(policy: &P, facts: &Facts<'_>) -> Verdict {
    let mut header = [0; 12];
    policy.copy(0, &mut header);
    let word = |at| u32::from_ne_bytes(array(&header, at));
    let (version, rules, flags) = (word(0), word(4), word(8));
    if version == 0 {
        return Verdict::Mirror;
    }
    let rules = usize::try_from(rules).unwrap_or(usize::MAX);
    let known = version == VERSION && rules <= MAX_RULES;
    if !known || flags & !(ALLOW_LISTED | MIRROR_UNKNOWN) != 0 {
        return Verdict::Exclude;
    }
    let mut denies = Missing::NOTHING;
    let mut allows = Missing::NOTHING;
    let mut allowed = flags & ALLOW_LISTED == 0;
    for index in 0..rules {
        let mut rule = [0; RULE_BYTES];
        policy.copy(RULES + index * RULE_BYTES, &mut rule);
        if !is_rule(&rule) {
            return Verdict::Exclude;
        }
        match (fits(&rule, policy, facts), rule[0] == ALLOW) {
            (Fit::No, _) => {}
            (Fit::Yes, true) => allowed = true,
            (Fit::Yes, false) => return Verdict::Exclude,
            (Fit::Unknown(missing), true) => allows = allows.or(missing),
            (Fit::Unknown(missing), false) => denies = denies.or(missing),
        }
    }
    let missing = match allowed {
        true => denies,
        false if allows == Missing::NOTHING => return Verdict::Exclude,
        false => denies.or(allows),
    };
    let only_addresses = Missing {
        addresses: true,
        ..Missing::NOTHING
    };
    match missing {
        Missing::NOTHING => Verdict::Mirror,
        missing if missing == only_addresses && flags & MIRROR_UNKNOWN != 0 => Verdict::Mirror,
        missing => Verdict::Unknown(missing),
    }
}

/// Whether a rule's conditions hold.
enum Fit {
    Yes,
    No,
    /// None of them is known not to.
    Unknown(Missing),
}

/// Whether the agent can have written this. Nothing of it is left to find out when facts come.
fn is_rule(rule: &[u8; RULE_BYTES]) -> bool {
    let conditions = rule[1];
    let holds = |bit, valid: bool| conditions & bit == 0 || valid;
    matches!(rule[0], ALLOW | DENY)
        && conditions & !condition::ALL == 0
        && holds(condition::ROLE, matches!(rule[2], 1 | 2))
        && holds(
            condition::NETWORK,
            rule[13] <= 2 && Network::read(rule).is_some(),
        )
        && holds(
            condition::NAME,
            (NAME_IS..=NAME_IS_THERE).contains(&rule[3]),
        )
}

fn fits<P: Policy + ?Sized>(rule: &[u8; RULE_BYTES], policy: &P, facts: &Facts<'_>) -> Fit {
    let conditions = rule[1];
    let has = |bit| conditions & bit != 0;
    let half = |at| u16::from_ne_bytes(array(rule, at));
    let mut missing = Missing::NOTHING;
    if has(condition::ROLE) {
        let role = if rule[2] == 1 {
            Role::Client
        } else {
            Role::Server
        };
        if role != facts.role {
            return Fit::No;
        }
    }
    if has(condition::PORT) {
        match facts.ends {
            None => missing.addresses = true,
            Some((_, server)) if !(half(4)..=half(6)).contains(&server.port()) => return Fit::No,
            Some(_) => {}
        }
    }
    if has(condition::NETWORK) {
        match facts.ends {
            None => missing.addresses = true,
            Some((client, server)) => {
                let network = Network::read(rule);
                let inside = |end: SocketAddr| network.is_some_and(|one| one.contains(end.ip()));
                let inside = match rule[13] {
                    1 => inside(client),
                    2 => inside(server),
                    _ => inside(client) || inside(server),
                };
                if !inside {
                    return Fit::No;
                }
            }
        }
    }
    if has(condition::NAME) {
        let at = NAMES + usize::from(half(8));
        let length = usize::from(rule[10]);
        let name = facts.name.unwrap_or(&[]);
        let holds = match rule[3] {
            _ if facts.name.is_none() => {
                missing.name = true;
                true
            }
            NAME_IS => name.len() == length && is(policy, at, name),
            NAME_ENDS => {
                let before = name.len().checked_sub(length).filter(|before| *before > 0);
                before.is_some_and(|before| is(policy, at, &name[before..]))
            }
            _ => !name.is_empty(),
        };
        if !holds {
            return Fit::No;
        }
    }
    if has(condition::USER) {
        match facts.uid {
            None => missing.process = true,
            Some(uid) if uid != u32::from_ne_bytes(array(rule, 32)) => return Fit::No,
            Some(_) => {}
        }
    }
    missing.process |= has(condition::EXECUTABLE);
    match missing {
        Missing::NOTHING => Fit::Yes,
        missing => Fit::Unknown(missing),
    }
}

/// Whether the policy's bytes at `at` are `name` in small letters.
fn is<P: Policy + ?Sized>(policy: &P, at: usize, name: &[u8]) -> bool {
    const STEP: usize = 32;
    let mut steps = name.chunks(STEP).enumerate();
    steps.all(|(index, name)| {
        let mut bytes = [0; STEP];
        let bytes = &mut bytes[..name.len()];
        policy.copy(at + index * STEP, bytes);
        bytes.eq_ignore_ascii_case(name)
    })
}

/// `N` bytes of `bytes` from `at`; the callers know that they are there.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
