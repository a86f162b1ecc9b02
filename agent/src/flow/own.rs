//! Which of several addresses are a process's own: on its way a connection's may be translated, or somebody else says what
//! it says of its handshake.

use std::cell::RefCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use mirror_hook::event::Role;

use super::bounded::BoundedMap;
use super::local::{LocalAddresses, lines};
use crate::event::{ProcessInfo, Tuple};

/// The networks that processes are in.
pub trait Networks: std::fmt::Debug {
    /// Those of these connections whose end on the process's side is an address of its network. `None`: nobody can say.
    fn local(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Option<Vec<Tuple>>;

    /// Those of these that a socket has there. None: no socket has, nobody can say, or it takes too long to look.
    fn connected(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple>;
}

/// As `/proc/PID/net` shows them, proc_pid_net(5).
#[derive(Debug)]
pub struct ProcNetworks {
    /// By the network namespace.
    known: RefCell<BoundedMap<u64, Known>>,
    /// For tables of sockets.
    budget: RefCell<Budget>,
}

/// Time to spend: a table of sockets may be long, and whoever repeats handshakes on the wire has it looked at.
#[derive(Debug)]
struct Budget {
    /// Up to then it is spent.
    until: Instant,
}

impl Budget {
    /// So much of it may be spent before it has passed,
    const AHEAD: Duration = Duration::from_millis(500);
    /// at this price.
    const PRICE: u32 = 5;

    fn has_some(&self, now: Instant) -> bool {
        self.until < now + Self::AHEAD
    }

    fn spend(&mut self, time: Duration, now: Instant) {
        self.until = self.until.max(now) + time * Self::PRICE;
    }
}

#[derive(Debug)]
struct Known {
    since: Instant,
    addresses: LocalAddresses,
}

/// So many namespaces' addresses are remembered,
const NAMESPACES: usize = 1024;
/// for so long,
const KEPT: Duration = Duration::from_secs(1);
/// and for so long where one isn't among them: it may be new.
const KEPT_WITHOUT: Duration = Duration::from_millis(50);

impl Default for ProcNetworks {
    fn default() -> Self {
        Self {
            known: RefCell::new(BoundedMap::new(NAMESPACES)),
            budget: RefCell::new(Budget {
                until: Instant::now(),
            }),
        }
    }
}

impl Networks for ProcNetworks {
    fn local(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Option<Vec<Tuple>> {
        let near = |tuple: &Tuple| match role {
            Role::Client => tuple.client.ip(),
            Role::Server => tuple.server.ip(),
        };
        let own = |addresses: &LocalAddresses| {
            let tuples = tuples.iter().copied();
            let own = tuples.filter(|tuple| addresses.have(near(tuple)));
            own.collect::<Vec<_>>()
        };
        let now = Instant::now();
        let mut known = self.known.borrow_mut();
        let namespace = process.network_namespace;
        if let Some(known) = namespace.and_then(|namespace| known.get(&namespace)) {
            let (own, age) = (own(&known.addresses), now.duration_since(known.since));
            if age < KEPT_WITHOUT || age < KEPT && !own.is_empty() {
                return Some(own);
            }
        }
        let addresses = LocalAddresses::of(process)?;
        let own = own(&addresses);
        if let Some(namespace) = namespace {
            let since = now;
            known.insert(namespace, Known { since, addresses });
        }
        Some(own)
    }

    fn connected(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple> {
        let mut own = Vec::new();
        let begin = Instant::now();
        let mut budget = self.budget.borrow_mut();
        if !budget.has_some(begin) {
            return own;
        }
        let tables = ["tcp", "tcp6"].map(|table| lines(process, table));
        let lines = tables.into_iter().flatten().flatten();
        for (local, remote) in lines.filter_map(|line| ends_of(&line)) {
            let (client, server) = match role {
                Role::Client => (local, remote),
                Role::Server => (remote, local),
            };
            let tuple = Tuple { client, server };
            if tuples.contains(&tuple) && !own.contains(&tuple) {
                own.push(tuple);
            }
        }
        budget.spend(begin.elapsed(), begin);
        own
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
                network_namespace: Some(7),
                ..ProcessInfo::default()
            };
            let mut other = tuple;
            other.client.set_ip("198.51.100.7".parse().unwrap());
            let asked = [other, tuple];
            let networks = ProcNetworks::default();
            for role in [Role::Client, Role::Server] {
                assert_eq!(networks.connected(&process, role, &asked), [tuple]);
            }
            let nobody = ProcessInfo::default();
            assert_eq!(networks.connected(&nobody, Role::Client, &asked), []);
            // It is no client's here, and a server may be spoken to from there.
            let local = |process, role| networks.local(process, role, &asked);
            for _ in 0..2 {
                assert_eq!(local(&process, Role::Client), Some(vec![tuple]));
                assert_eq!(local(&process, Role::Server), Some(asked.to_vec()));
            }
            assert_eq!(local(&nobody, Role::Server), None);
        }
    }

    #[test]
    fn who_looks_without_end_has_a_fifth_of_the_time() {
        let begin = Instant::now();
        let mut budget = Budget { until: begin };
        let (mut now, mut spent) = (begin, Duration::ZERO);
        let look = Duration::from_millis(30);
        while now < begin + Duration::from_secs(10) {
            // Nobody waits between two looks but where there is nothing left.
            now += match budget.has_some(now) {
                true => {
                    budget.spend(look, now);
                    spent += look;
                    look
                }
                false => Duration::from_millis(1),
            };
        }
        let fifth = Duration::from_secs(2);
        let ahead = Budget::AHEAD / Budget::PRICE;
        assert!(spent >= fifth && spent <= fifth + ahead + look, "{spent:?}");
        // Who has looked at nothing for long has no more than at the beginning.
        now += Duration::from_secs(100);
        budget.spend(ahead, now);
        assert!(!budget.has_some(now));
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
