//! The operator's settings. The mirror is off unless the operator enabled it for this process:
//!
//! | variable | meaning |
//! |---|---|
//! | `SSLCOLLECTOR_SOCKET` | enabled; the agent listens at this path |
//! | `SSLCOLLECTOR_ENABLE=1` | enabled; the agent listens at [`DEFAULT_SOCKET`] |
//! | `SSLCOLLECTOR_AGENT_UID` | an agent of this user is trusted as well as one of root's |
//! | `SSLCOLLECTOR_POLICY=wait` | no text enters the ring before the agent has answered with its filters |
//! | `SSLCOLLECTOR_POLICY=HEX` | the agent's filters (`sslcollector run` tells them): a [policy](crate::filter) in hexadecimal, which holds until the agent has answered |
//! | `SSLCOLLECTOR_RING_BYTES` | the agent has promised rings of this size (`sslcollector run` does): all of a ring is used at once, before the agent has answered; its pages are the process's own |
//! | `SSLCOLLECTOR_WAIT_MS` | with the promise: a call that finds the ring full may wait this long (`sslcollector run --on-full wait:MS`); never longer than the agent says in the ring |
//! | `SSLCOLLECTOR_TELL_SOCKETS=1` | the agent can't see the wire (`sslcollector run` says so): tell it a few times a connection what the process's connections have carried, where the TLS library has no socket |
//!
//! Off means: no call but getenv. That is because of seccomp: whether a filter lets a call pass
//! can't be found out without making it, and some filters answer with death. So only processes
//! whose operator said so ask for an agent. Programs that gained privileges when they were executed
//! (AT_SECURE) ignore their environment, as the dynamic loader does.
//!
//! They are read once, in the library's constructor where there is one: nginx wipes its environment
//! when it starts.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;

use rustix::net::SocketAddrUnix;

use crate::filter;
use crate::layout::{BOOTSTRAP_BYTES, MAX_DATA_BYTES, MAX_WAIT_MS};

/// Where the system's agent listens.
pub const DEFAULT_SOCKET: &str = "/run/sslcollector/agent.sock";

const RING_BYTES: std::ops::RangeInclusive<u64> = BOOTSTRAP_BYTES..=MAX_DATA_BYTES;

/// The settings of a process that is to be mirrored.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) path: SocketAddrUnix,
    /// The same as an abstract name (unix(7)): for processes in whose root the path is missing.
    pub(crate) abstract_name: SocketAddrUnix,
    pub(crate) agent_uid: Option<u32>,
    /// Size of the ring that will be granted, where that is known.
    pub(crate) promised_bytes: Option<u64>,
    /// How long a call may wait where the ring is full, in milliseconds; 0: not at all. Never anything
    /// else but in a process that `run` started.
    pub(crate) wait_ms: u32,
    /// Policy that holds until the agent has answered; empty: none.
    pub(crate) policy: Box<[u8]>,
    /// The agent wants to know what the process's connections carry.
    pub(crate) tells_sockets: bool,
}

impl Settings {
    /// Reads the environment; `None`: the mirror is off.
    pub(crate) fn from_environment() -> Option<Self> {
        if is_privileged() {
            return None;
        }
        Self::read(|name| std::env::var_os(name))
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let told = variable("SSLCOLLECTOR_SOCKET").filter(|path| !path.is_empty());
        let enabled = || variable("SSLCOLLECTOR_ENABLE").is_some_and(|value| value == "1");
        let path = match &told {
            Some(path) => path.as_bytes(),
            None if enabled() => DEFAULT_SOCKET.as_bytes(),
            None => return None,
        };
        let promised_bytes = variable("SSLCOLLECTOR_RING_BYTES")
            .and_then(|bytes| bytes.to_str()?.parse().ok())
            .filter(|bytes: &u64| bytes.is_power_of_two() && RING_BYTES.contains(bytes));
        let wait_ms = variable("SSLCOLLECTOR_WAIT_MS")
            .filter(|_| promised_bytes.is_some())
            .and_then(|time| time.to_str()?.parse().ok())
            .map_or(0, |time: u32| time.min(MAX_WAIT_MS));
        Some(Self {
            path: SocketAddrUnix::new(path).ok()?,
            abstract_name: SocketAddrUnix::new_abstract_name(path).ok()?,
            agent_uid: variable("SSLCOLLECTOR_AGENT_UID")
                .and_then(|uid| uid.to_str()?.parse().ok()),
            promised_bytes,
            wait_ms,
            policy: variable("SSLCOLLECTOR_POLICY").map_or_else(Box::default, policy),
            tells_sockets: variable("SSLCOLLECTOR_TELL_SOCKETS").is_some_and(|value| value == "1"),
        })
    }
}

/// What is told, for this executable.
fn policy(told: OsString) -> Box<[u8]> {
    // What can't be read may exclude anything: then nothing goes ahead of the answer.
    let Some(mut policy) = from_hex(told.as_bytes()) else {
        return Box::from(filter::UNTIL_ANSWERED);
    };
    // Where that can't be read (no /proc), the rules that ask for it stay open until the answer.
    if let Ok(path) = std::fs::read_link("/proc/self/exe") {
        filter::settle(&mut policy, path.as_os_str().as_bytes());
    }
    policy
}

fn from_hex(text: &[u8]) -> Option<Box<[u8]>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| u8::try_from(digit(*high)? << 4 | digit(*low)?).ok());
    let bytes: Option<Box<[u8]>> = bytes.collect();
    bytes.filter(|bytes| rest.is_empty() && !bytes.is_empty())
}

#[allow(unsafe_code, reason = "getauxval(3) has no safe form that can't fail")]
fn is_privileged() -> bool {
    // SAFETY: no precondition; an unknown type answers 0.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Option<Settings> {
        Settings::read(|name| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        })
    }

    #[test]
    fn off_unless_enabled() {
        assert!(settings(&[]).is_none());
        assert!(settings(&[("SSLCOLLECTOR_ENABLE", "0")]).is_none());
        assert!(settings(&[("SSLCOLLECTOR_SOCKET", "")]).is_none());
        assert!(settings(&[("SSLCOLLECTOR_AGENT_UID", "0")]).is_none());
        let long = "x".repeat(200);
        assert!(settings(&[("SSLCOLLECTOR_SOCKET", &long)]).is_none());
    }

    #[test]
    fn enabled_by_either_variable() {
        let system = settings(&[("SSLCOLLECTOR_ENABLE", "1")]).unwrap();
        assert_eq!(system.path.path_bytes(), Some(DEFAULT_SOCKET.as_bytes()));
        assert_eq!(
            system.abstract_name.abstract_name(),
            Some(DEFAULT_SOCKET.as_bytes())
        );
        let own = settings(&[
            ("SSLCOLLECTOR_SOCKET", "/tmp/a"),
            ("SSLCOLLECTOR_AGENT_UID", "1000"),
        ])
        .unwrap();
        assert_eq!(own.path.path_bytes(), Some(&b"/tmp/a"[..]));
        assert_eq!(own.abstract_name.abstract_name(), Some(&b"/tmp/a"[..]));
        assert_eq!(own.agent_uid, Some(1000));
        assert_eq!(own.promised_bytes, None);
    }

    #[test]
    fn sockets_are_told_only_where_that_is_asked_for() {
        let tells = |variables: &[(&str, &str)]| {
            let enabled = ("SSLCOLLECTOR_ENABLE", "1");
            settings(&[&[enabled], variables].concat())
                .unwrap()
                .tells_sockets
        };
        assert!(tells(&[("SSLCOLLECTOR_TELL_SOCKETS", "1")]));
        assert!(!tells(&[]));
        assert!(!tells(&[("SSLCOLLECTOR_TELL_SOCKETS", "0")]));
    }

    #[test]
    fn only_a_promised_ring_is_waited_for_and_not_for_long() {
        let wait_ms = |variables: &[(&str, &str)]| {
            let socket = ("SSLCOLLECTOR_SOCKET", "/tmp/a");
            settings(&[&[socket], variables].concat()).unwrap().wait_ms
        };
        let promise = ("SSLCOLLECTOR_RING_BYTES", "65536");
        assert_eq!(wait_ms(&[promise]), 0);
        assert_eq!(wait_ms(&[("SSLCOLLECTOR_WAIT_MS", "500")]), 0);
        assert_eq!(wait_ms(&[promise, ("SSLCOLLECTOR_WAIT_MS", "500")]), 500);
        assert_eq!(
            wait_ms(&[promise, ("SSLCOLLECTOR_WAIT_MS", "999999")]),
            MAX_WAIT_MS
        );
        assert_eq!(wait_ms(&[promise, ("SSLCOLLECTOR_WAIT_MS", "-1")]), 0);
    }

    #[test]
    fn a_policy_that_cant_be_read_withholds() {
        let policy = |told| {
            let variables = [("SSLCOLLECTOR_ENABLE", "1"), ("SSLCOLLECTOR_POLICY", told)];
            settings(&variables).unwrap().policy
        };
        assert_eq!(*policy("01fFa0"), [1, 0xff, 0xa0]);
        for told in ["wait", "", "0", "0g", "010"] {
            assert_eq!(*policy(told), *filter::UNTIL_ANSWERED, "{told}");
        }
        let none = settings(&[("SSLCOLLECTOR_ENABLE", "1")]).unwrap();
        assert!(none.policy.is_empty());
    }

    #[test]
    fn a_promise_has_a_rings_size() {
        let promised = |bytes| {
            let variables = [
                ("SSLCOLLECTOR_ENABLE", "1"),
                ("SSLCOLLECTOR_RING_BYTES", bytes),
            ];
            settings(&variables).unwrap().promised_bytes
        };
        assert_eq!(promised("65536"), Some(65536));
        for bad in ["", "0", "65537", "32768", "1073741824", "many"] {
            assert_eq!(promised(bad), None, "{bad}");
        }
    }
}
