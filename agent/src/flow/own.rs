//! Which of several addresses a process itself knows a connection by: on its way they may be translated.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mirror_hook::event::Role;

use crate::event::{ProcessInfo, Tuple};

/// The sockets of processes' network namespaces.
pub trait Sockets: std::fmt::Debug {
    /// Those of these addresses that a socket has where the process is. None: no socket has, or nobody can say.
    fn own(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple>;
}

/// As `/proc/PID/net/tcp` and `tcp6` show them, proc_pid_net(5). Read from its beginning for each question, which is
/// asked where addresses are translated only.
#[derive(Clone, Copy, Debug)]
pub struct ProcSockets;

impl Sockets for ProcSockets {
    fn own(&self, process: &ProcessInfo, role: Role, tuples: &[Tuple]) -> Vec<Tuple> {
        let mut own = Vec::new();
        for table in ["tcp", "tcp6"] {
            let Ok(file) = File::open(format!("/proc/{}/net/{table}", process.pid)) else {
                continue;
            };
            let lines = BufReader::new(file).lines().map_while(Result::ok);
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
        }
        own
    }
}

/// Local and remote end of a line: `0: 0100007F:1F90 0100007F:C350 01 …`.
fn ends_of(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    Some((end_of(words.next()?)?, end_of(words.next()?)?))
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
            other.client.set_ip("192.0.2.1".parse().unwrap());
            let asked = [other, tuple];
            for role in [Role::Client, Role::Server] {
                assert_eq!(ProcSockets.own(&process, role, &asked), [tuple]);
            }
            let nobody = ProcessInfo::default();
            assert_eq!(ProcSockets.own(&nobody, Role::Client, &asked), []);
        }
    }

    #[test]
    fn lines_that_are_no_sockets_say_nothing() {
        for line in [
            "",
            "  sl  local_address rem_address   st",
            "0: 0:0 1:1",
            "0: zz",
        ] {
            assert_eq!(ends_of(line), None);
        }
    }
}
