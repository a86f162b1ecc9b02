//! Which of several addresses are a process's own: on its way a connection's may be translated, or somebody else says what
//! it says of its handshake.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mirror_hook::event::Role;

use crate::event::{ProcessInfo, Tuple};

/// The networks that processes are in.
pub trait Networks: std::fmt::Debug {
    /// Those of these connections whose end on the process's side is an address of its network. None: there is none, or
    /// nobody can say.
    fn local(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple>;

    /// Those of these that a socket has there. None: no socket has, or nobody can say.
    fn connected(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple>;
}

/// As `/proc/PID/net` shows them, proc_pid_net(5). Its files are read from their beginning for each question, which is
/// asked where a session has several addresses only.
#[derive(Clone, Copy, Debug)]
pub struct ProcNetworks;

/// What stands behind so much of a file isn't read: tables of routes may be huge.
const MOST_BYTES: u64 = 4 << 20;

impl Networks for ProcNetworks {
    fn local(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple> {
        let near = |tuple: &Tuple| match role {
            Role::Client => tuple.client.ip(),
            Role::Server => tuple.server.ip(),
        };
        let mut is_local = vec![false; tuples.len()];
        let mut found = |address: IpAddr, bits: u32| {
            for (tuple, is_local) in tuples.iter().zip(&mut is_local) {
                *is_local |= is_within(near(tuple), address, bits);
            }
        };
        // Each prefix is in one line, and what it is for in those behind it.
        let mut prefix = None;
        for line in lines(process, "fib_trie") {
            let line = line.trim_start();
            if let Some(address) = line.strip_prefix("|-- ") {
                prefix = address.parse().ok();
            } else if let Some(bits) = line.strip_suffix(" host LOCAL")
                && let (Some(prefix), Some(bits)) = (prefix, bits.strip_prefix('/'))
            {
                found(IpAddr::V4(prefix), bits.parse().unwrap_or(u32::MAX));
            }
        }
        for line in lines(process, "if_inet6") {
            let address = line.split(' ').next().unwrap_or_default();
            if let (32, Ok(address)) = (address.len(), u128::from_str_radix(address, 16)) {
                found(IpAddr::V6(address.into()), 128);
            }
        }
        let own = tuples.iter().zip(is_local);
        own.filter_map(|(tuple, is_local)| is_local.then_some(*tuple))
            .collect()
    }

    fn connected(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple> {
        let mut own = Vec::new();
        let lines = ["tcp", "tcp6"].map(|table| lines(process, table));
        for (local, remote) in lines
            .into_iter()
            .flatten()
            .filter_map(|line| ends_of(&line))
        {
            let (client, server) = match role {
                Role::Client => (local, remote),
                Role::Server => (remote, local),
            };
            let tuple = Tuple { client, server };
            if tuples.contains(&tuple) && !own.contains(&tuple) {
                own.push(tuple);
            }
        }
        own
    }
}

fn lines(process: &ProcessInfo, file: &str) -> impl Iterator<Item = String> {
    let file = File::open(format!("/proc/{}/net/{file}", process.pid)).ok();
    let bounded = file.map(|file| BufReader::new(file.take(MOST_BYTES)).lines());
    bounded.into_iter().flatten().map_while(Result::ok)
}

/// Whether an address is one of those that begin with these bits.
fn is_within(address: IpAddr, prefix: IpAddr, bits: u32) -> bool {
    match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => {
            let differing = address.to_bits() ^ prefix.to_bits();
            bits <= 32 && differing.leading_zeros() >= bits
        }
        (address, prefix) => address == prefix,
    }
}

/// States of sockets that have never been connected: SYN_SENT, SYN_RECV.
const HALF_OPEN: [&str; 2] = ["02", "03"];

/// Local and remote end of a line: `0: 0100007F:1F90 0100007F:C350 01 …`.
fn ends_of(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let ends = (end_of(words.next()?)?, end_of(words.next()?)?);
    (!HALF_OPEN.contains(&words.next()?)).then_some(ends)
}

/// The address is in words of 32 bits, each a number in the machine's byte order.
fn end_of(word: &str) -> Option<SocketAddr> {
    let (address, port) = word.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = [0; 16];
    let digits = address.as_bytes().chunks_exact(8);
    for (to, digits) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(digits) {
        let digits = std::str::from_utf8(digits).ok()?;
        *to = u32::from_str_radix(digits, 16).ok()?.to_ne_bytes();
    }
    let address: IpAddr = match address.len() {
        8 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        32 => Ipv6Addr::from(bytes).to_canonical(),
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_process_has_its_own_connections_and_no_others() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let tuple = Tuple {
                client: client.local_addr().unwrap(),
                server: listener.local_addr().unwrap(),
            };
            let process = ProcessInfo {
                pid: std::process::id(),
                ..ProcessInfo::default()
            };
            let mut other = tuple;
            other.client.set_ip("198.51.100.7".parse().unwrap());
            let asked = [other, tuple];
            for role in [Role::Client, Role::Server] {
                assert_eq!(ProcNetworks.connected(&process, role, &asked), [tuple]);
            }
            let nobody = ProcessInfo::default();
            assert_eq!(ProcNetworks.connected(&nobody, Role::Client, &asked), []);
            // Of a client that other address would be, and a server may be spoken to from there.
            assert_eq!(ProcNetworks.local(&process, Role::Client, &asked), [tuple]);
            assert_eq!(ProcNetworks.local(&process, Role::Server, &asked), asked);
            assert_eq!(ProcNetworks.local(&nobody, Role::Server, &asked), []);
        }
    }

    #[test]
    fn a_prefix_has_its_addresses() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (prefix, bits, is_there) in [
            ("127.0.0.0", 8, true),
            ("127.1.0.0", 16, false),
            ("127.0.0.9", 32, true),
            ("0.0.0.0", 0, true),
            ("127.0.0.9", 33, false),
            ("::1", 128, false),
        ] {
            assert_eq!(is_within(ip("127.0.0.9"), ip(prefix), bits), is_there);
        }
        assert!(is_within(ip("fd00::1"), ip("fd00::1"), 128));
    }

    /// Anybody can have a server show one.
    #[test]
    fn half_a_connection_is_none() {
        for (state, is_one) in [("01", true), ("02", false), ("03", false), ("06", true)] {
            let line = format!("0: 0100007F:1F90 0100007F:C350 {state} 00000000:00000000");
            assert_eq!(ends_of(&line).is_some(), is_one, "{state}");
        }
    }

    #[test]
    fn lines_that_are_no_sockets_say_nothing() {
        for line in [
            "",
            "  sl  local_address rem_address   st",
            "0: 0:0 1:1 01",
            "0: zz",
        ] {
            assert_eq!(ends_of(line), None);
        }
    }
}
