//! What the kernel says of a process's connections and of what they have carried: sock_diag(7), tcp(7).
//!
//! A program's bytes are counted whichever way the network has gone with them:
//!
//! ```text
//! sent      tcpi_bytes_sent - tcpi_bytes_retrans + tcpi_notsent_bytes   what is on its way for the first time, and what waits
//! received  tcpi_bytes_received - receive queue                        what came in order, without what the program hasn't read
//! ```
//!
//! A FIN counts as a byte in both ([`TcpInfo`]); the receiver's is also in the queue, until the program has seen it.
//!
//! All connections of the machine are listed only where a descriptor has turned up whose addresses aren't known; then each
//! is asked for by these and by its cookie, some microseconds each.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use mirror_hook::tcp::{LISTENING, TcpInfo};
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::{Counts, Look, Looker, Sample};
use crate::clock::monotonic_now;
use crate::event::{MonotonicTime, ProcessInfo};
use crate::flow::proof::{Ends, message, process};

/// Descriptors of a process that are looked at. Of one with more, no session is bound.
const MOST_DESCRIPTORS: usize = 4096;
/// Connections of a process that are compared. As above.
const MOST_CONNECTIONS: usize = 512;
/// More than the kernel says of one socket.
const REPLY_BYTES: usize = 4096;
/// A part of a list: as much as the kernel fills at once.
const LIST_BYTES: usize = 32 * 1024;

/// INET_DIAG_INFO: a `tcp_info` (linux/tcp.h).
const INFO: u16 = 2;
/// Bytes of a message in front of its attributes.
const HEAD_BYTES: usize = 88;

/// What a descriptor is, by its inode.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// No connection.
    Other,
    /// TCP, without a peer when the list was made, or of another network namespace.
    Unknown,
    /// A connection.
    Connection(Socket),
}

/// Where it is found again.
#[derive(Clone, Copy, Debug)]
struct Socket {
    ends: Ends,
    cookie: u64,
    /// The interface that it is bound to, or 0.
    interface: [u8; 4],
}

/// Looks into `/proc` and asks the kernel, as a process of the same user may.
#[derive(Debug)]
pub struct KernelLooker {
    diag: Option<Diag>,
    /// Inode of this process's network namespace.
    network: Option<u64>,
    kinds: HashMap<u32, HashMap<u64, Kind>>,
}

impl KernelLooker {
    /// Whether the kernel answers at all is found out with the first look.
    pub fn new() -> Self {
        Self {
            diag: process::open_here().ok().map(Diag::new),
            network: fs::metadata("/proc/self/ns/net")
                .ok()
                .map(|file| file.ino()),
            kinds: HashMap::new(),
        }
    }
}

impl Default for KernelLooker {
    fn default() -> Self {
        Self::new()
    }
}

impl Looker for KernelLooker {
    fn look(&mut self, process: &ProcessInfo) -> Option<Look> {
        let diag = self.diag.as_mut()?;
        if self.network.is_none() || process.network_namespace != self.network {
            return None;
        }
        let began = monotonic_now();
        let (inodes, mut complete) = inodes(process.pid)?;
        let kinds = self.kinds.entry(process.pid).or_default();
        kinds.retain(|inode, _| inodes.contains_key(inode));
        let mut unknown = false;
        for (inode, descriptor) in &inodes {
            let kind = kinds
                .entry(*inode)
                .or_insert_with(|| match is_tcp(descriptor) {
                    true => Kind::Unknown,
                    false => Kind::Other,
                });
            unknown |= matches!(kind, Kind::Unknown);
        }
        if unknown {
            let listed = diag.list();
            complete &= listed.is_some();
            for (inode, kind) in listed.into_iter().flatten() {
                if let Some(known) = kinds.get_mut(&inode) {
                    *known = kind;
                }
            }
        }
        let mut samples = Vec::new();
        for kind in kinds.values_mut() {
            if samples.len() >= MOST_CONNECTIONS {
                complete = false;
                break;
            }
            match kind {
                Kind::Other => {}
                Kind::Unknown => complete = false,
                Kind::Connection(socket) => match diag.sample(socket) {
                    Some(sample) => samples.push(sample),
                    None => {
                        // It has ended, or has been connected to somebody else.
                        *kind = Kind::Unknown;
                        complete = false;
                    }
                },
            }
        }
        Some(Look {
            began,
            ended: monotonic_now(),
            complete,
            told: false,
            samples,
        })
    }

    fn forget(&mut self, pid: u32) {
        self.kinds.remove(&pid);
    }
}

/// The sockets among a process's descriptors, each with one of these, and whether that is all. `None`: can't be seen.
fn inodes(pid: u32) -> Option<(HashMap<u64, std::path::PathBuf>, bool)> {
    let mut found = HashMap::new();
    for (seen, entry) in fs::read_dir(format!("/proc/{pid}/fd")).ok()?.enumerate() {
        if seen >= MOST_DESCRIPTORS {
            return Some((found, false));
        }
        let path = entry.ok()?.path();
        match fs::read_link(&path) {
            Ok(name) => {
                let name = name.to_str().and_then(|name| name.strip_prefix("socket:["));
                let inode = name.and_then(|name| name.strip_suffix(']')?.parse().ok());
                if let Some(inode) = inode {
                    found.insert(inode, path);
                }
            }
            // Closed in the meantime.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some((found, true))
}

/// Whether a descriptor may be a connection: by the protocol's name, which sockets have as an attribute.
fn is_tcp(descriptor: &Path) -> bool {
    let mut name = [0; 64];
    match rustix::fs::getxattr(descriptor, "system.sockprotoname", &mut name[..]) {
        Ok(length) => {
            let name = String::from_utf8_lossy(name.get(..length).unwrap_or(&[]));
            // And what falls back to it: MPTCP, SMC.
            ["TCP", "SMC"].iter().any(|tcp| name.contains(tcp))
        }
        Err(_) => true,
    }
}

/// A socket that asks.
#[derive(Debug)]
struct Diag {
    socket: OwnedFd,
    number: u32,
}

impl Diag {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, number: 0 }
    }

    /// What a connection has carried by now.
    fn sample(&mut self, socket: &Socket) -> Option<Sample> {
        self.number = self.number.wrapping_add(1);
        let mut question = message::question(self.number, &socket.ends);
        question[18] = 1 << (INFO - 1);
        question[60..64].copy_from_slice(&socket.interface);
        question[64..72].copy_from_slice(&socket.cookie.to_ne_bytes());
        let from = monotonic_now();
        send(&self.socket, &question, SendFlags::empty()).ok()?;
        let mut bytes = [0; REPLY_BYTES];
        let reply = loop {
            let (_, length) = recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT).ok()?;
            let reply = bytes.get(..length)?;
            match message::reply(reply) {
                Some((number, found)) if number == self.number => {
                    break matches!(found, message::Reply::Socket(_)).then_some(reply)?;
                }
                // What is left of a list.
                _ => {}
            }
        };
        sample(reply, socket, from, monotonic_now())
    }

    /// All sockets of TCP in this network namespace, by their inodes.
    fn list(&mut self) -> Option<Vec<(u64, Kind)>> {
        let mut all = Vec::new();
        for family in [2_u8, 10] {
            self.number = self.number.wrapping_add(1);
            let mut question = message::test_question(self.number);
            question[16] = family;
            question[20..24].copy_from_slice(&u32::MAX.to_ne_bytes());
            send(&self.socket, &question, SendFlags::empty()).ok()?;
            let mut bytes = vec![0; LIST_BYTES];
            'parts: loop {
                let (_, length) = recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT).ok()?;
                let mut rest = bytes.get(..length)?;
                while !rest.is_empty() {
                    let (one, behind) = first_message(rest)?;
                    rest = behind;
                    match message::reply(one)? {
                        (number, _) if number != self.number => {}
                        (_, message::Reply::Status(0)) => break 'parts,
                        (_, message::Reply::Status(_)) => return None,
                        (_, message::Reply::Socket(found)) => {
                            let socket = Socket {
                                ends: found.ends,
                                cookie: found.cookie,
                                interface: *one.get(56..)?.first_chunk()?,
                            };
                            let kind = match found.state {
                                LISTENING => Kind::Other,
                                _ => Kind::Connection(socket),
                            };
                            all.push((found.inode.into(), kind));
                        }
                    }
                }
            }
        }
        Some(all)
    }
}

/// The first of several messages of netlink(7), and what is behind it.
fn first_message(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(*bytes.first_chunk()?)).ok()?;
    let one = bytes.get(..length).filter(|_| length >= 16)?;
    Some((one, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

/// What a message says that a connection has carried.
fn sample(bytes: &[u8], socket: &Socket, from: MonotonicTime, to: MonotonicTime) -> Option<Sample> {
    let queued = u64::from(word(bytes, 72)?);
    let info = TcpInfo::parse(attribute(bytes.get(HEAD_BYTES..)?, INFO)?)?;
    // This queue has a FIN in it until the program has seen that.
    let end = u64::from(info.peer_has_finished() && queued == 0);
    let counts = Counts {
        sent: info.put_in,
        received: info.arrived.checked_sub(queued)?.checked_sub(end)?,
    };
    Some(Sample {
        socket: socket.cookie,
        ends: Some(socket.ends),
        counts,
        from,
        to,
    })
}

/// An attribute's bytes: each has its length, its kind, and is padded to four bytes (netlink(7)).
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    fn me() -> ProcessInfo {
        ProcessInfo {
            pid: std::process::id(),
            network_namespace: fs::metadata("/proc/self/ns/net")
                .ok()
                .map(|file| file.ino()),
            ..ProcessInfo::default()
        }
    }

    fn connection(listen: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn counts(looker: &mut KernelLooker, of: &TcpStream) -> Counts {
        let look = looker.look(&me()).unwrap();
        assert!(look.began <= look.ended);
        let local = of.local_addr().unwrap();
        let ends = Ends::new(local, of.peer_addr().unwrap());
        let mut found = look.samples.iter().filter(|one| one.ends == ends);
        let sample = found.next().expect("a connection");
        assert!(found.next().is_none());
        sample.counts
    }

    #[test]
    fn what_a_program_has_sent_and_read_is_known_to_the_byte() {
        for listen in ["127.0.0.1:0", "[::1]:0"] {
            let mut looker = KernelLooker::new();
            let (mut client, mut server) = connection(listen);
            assert_eq!(counts(&mut looker, &client), Counts::default());
            // More than the other end takes: most of it waits in the sender's buffer.
            client.set_nonblocking(true).unwrap();
            let mut sent = 0;
            loop {
                match client.write(&[7; 10_000]) {
                    Ok(some) => sent += some as u64,
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
            assert!(sent > 100_000, "{sent}");
            let all = |sent, received| Counts { sent, received };
            assert_eq!(counts(&mut looker, &client), all(sent, 0));
            // Nothing is read that only lies there.
            assert_eq!(counts(&mut looker, &server), all(0, 0));
            let mut buffer = vec![0; 33_333];
            server.read_exact(&mut buffer).unwrap();
            assert_eq!(counts(&mut looker, &server), all(0, 33_333));
            // Ends don't count.
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(counts(&mut looker, &client), all(sent, 0));
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).unwrap();
            assert_eq!(counts(&mut looker, &server), all(0, sent));
            assert_eq!(counts(&mut looker, &client), all(sent, 0));
            server.write_all(b"late").unwrap();
            assert_eq!(counts(&mut looker, &server), all(4, sent));
            client.set_nonblocking(false).unwrap();
            client.read_exact(&mut [0; 4]).unwrap();
            assert_eq!(counts(&mut looker, &client), all(sent, 4));
        }
    }

    #[test]
    fn an_end_that_was_not_read_does_not_count_either() {
        let mut looker = KernelLooker::new();
        let (client, mut server) = connection("127.0.0.1:0");
        (&client).write_all(b"12345").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut one = [0; 5];
        server.read_exact(&mut one).unwrap();
        let seen = Counts {
            sent: 0,
            received: 5,
        };
        assert_eq!(counts(&mut looker, &server), seen);
        assert_eq!(server.read(&mut one).unwrap(), 0);
        assert_eq!(counts(&mut looker, &server), seen);
    }

    #[test]
    fn who_is_elsewhere_or_gone_is_not_looked_at() {
        let mut looker = KernelLooker::new();
        let elsewhere = ProcessInfo {
            network_namespace: Some(1),
            ..me()
        };
        assert_eq!(looker.look(&elsewhere), None);
        let nobody = ProcessInfo {
            pid: u32::MAX >> 1,
            ..me()
        };
        assert_eq!(looker.look(&nobody), None);
    }

    #[test]
    fn messages_that_are_cut_say_nothing() {
        assert_eq!(first_message(&[16, 0, 0, 0, 1]), None);
        assert_eq!(first_message(&8_u32.to_ne_bytes()), None);
        assert_eq!(attribute(&[5, 0, 2, 0, 9], 2), Some(&[9][..]));
        assert_eq!(attribute(&[0, 0, 1, 0], 2), None);
        assert_eq!(attribute(&[8, 0, 2, 0, 9], 2), None);
    }
}
