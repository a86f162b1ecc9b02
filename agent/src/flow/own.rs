//! Which of several addresses a process itself knows a connection by: on its way they may be translated.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mirror_hook::event::Role;

use crate::event::{ProcessInfo, Tuple};

/// The sockets of processes' network namespaces.
pub trait Sockets: std::fmt::Debug {
    /// Whether there is one with these addresses, where the process is. False: no, or nobody can say.
    fn has(&self, process: &ProcessInfo, role: Role, tuple: &Tuple) -> bool;
}

/// As `/proc/PID/net/tcp` and `tcp6` show them, proc_pid_net(5). Read from its beginning for each question, which is
/// asked where addresses are translated only.
#[derive(Clone, Copy, Debug)]
pub struct ProcSockets;

impl Sockets for ProcSockets {
    fn has(&self, process: &ProcessInfo, role: Role, tuple: &Tuple) -> bool {
        let ends = match role {
            Role::Client => (tuple.client, tuple.server),
            Role::Server => (tuple.server, tuple.client),
        };
        ["tcp", "tcp6"].into_iter().any(|table| {
            fs::read_to_string(format!("/proc/{}/net/{table}", process.pid))
                .is_ok_and(|text| text.lines().filter_map(ends_of).any(|found| found == ends))
        })
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
            assert!(ProcSockets.has(&process, Role::Client, &tuple));
            assert!(ProcSockets.has(&process, Role::Server, &tuple));
            let mut other = tuple;
            other.client.set_ip("192.0.2.1".parse().unwrap());
            assert!(!ProcSockets.has(&process, Role::Client, &other));
            let nobody = ProcessInfo::default();
            assert!(!ProcSockets.has(&nobody, Role::Client, &tuple));
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
