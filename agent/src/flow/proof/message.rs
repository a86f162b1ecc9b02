//! Messages of sock_diag(7): the question for one socket, and what the kernel answers.
//!
//! ```text
//! question  nlmsghdr 16 │ inet_diag_req_v2: family, protocol, extensions, pad, states u32 │ inet_diag_sockid 48
//! answer    nlmsghdr 16 │ inet_diag_msg: family, state, timer, retransmissions │ inet_diag_sockid 48
//!                       │ expires, receive queue, send queue, uid, inode: u32 each │ attributes
//!           nlmsghdr 16 │ error i32 (no such socket: -ENOENT) │ …
//! sockid    ports (big-endian u16): source, destination │ addresses 16, 16 │ interface u32 │ cookie u32, u32
//! ```
//!
//! All else is in the machine's byte order (linux/netlink.h, linux/inet_diag.h).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Answer, Ends, LiveSocket};

/// Bytes of a question.
pub const QUESTION_BYTES: usize = 72;
/// No answer's part that is looked at is longer; kernels add attributes behind it.
const ANSWER_BYTES: usize = 88;

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
/// NLM_F_ROOT | NLM_F_MATCH
const NLM_F_DUMP: u16 = 0x300;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const ENOENT: i32 = -2;

/// States of a connection that its process still has, by include/net/tcp_states.h: established, fin-wait 1 and 2,
/// close-wait, last-ack, closing; and syn-sent, since TLS may begin in the first segment (TCP Fast Open).
const LIVE_STATES: [u8; 7] = [1, 2, 4, 5, 8, 9, 11];

/// Asks for the one socket that has these ends.
pub fn question(number: u32, ends: &Ends) -> [u8; QUESTION_BYTES] {
    let mut out = empty(number, NLM_F_REQUEST);
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    put(20, &u32::MAX.to_ne_bytes());
    put(24, &ends.local.port().to_be_bytes());
    put(26, &ends.peer.port().to_be_bytes());
    match (ends.local.ip(), ends.peer.ip()) {
        (IpAddr::V4(local), IpAddr::V4(peer)) => {
            put(16, &[AF_INET]);
            put(28, &local.octets());
            put(44, &peer.octets());
        }
        (local, peer) => {
            put(16, &[AF_INET6]);
            put(28, &v6(local).octets());
            put(44, &v6(peer).octets());
        }
    }
    // Interface 0: one that is bound to an interface isn't found. Any cookie (INET_DIAG_NOCOOKIE): which one it has is to
    // be told.
    put(64, &[0xff; 8]);
    out
}

/// Asks for sockets in none of all states: whether anybody answers for TCP at all.
pub fn test_question(number: u32) -> [u8; QUESTION_BYTES] {
    let mut out = empty(number, NLM_F_REQUEST | NLM_F_DUMP);
    out[16] = AF_INET;
    out
}

fn empty(number: u32, flags: u16) -> [u8; QUESTION_BYTES] {
    let mut out = [0; QUESTION_BYTES];
    let length = u32::try_from(QUESTION_BYTES).unwrap_or(0);
    out[..4].copy_from_slice(&length.to_ne_bytes());
    out[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out[6..8].copy_from_slice(&flags.to_ne_bytes());
    out[8..12].copy_from_slice(&number.to_ne_bytes());
    out[17] = IPPROTO_TCP;
    out
}

fn v6(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// What the kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// This socket.
    Socket(Described),
    /// An error, as it numbers them (negative), or the end of a list that had this status.
    Status(i32),
}

/// A socket as it was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its ends.
    pub ends: Ends,
    /// Its state, by include/net/tcp_states.h.
    pub state: u8,
    /// Its SO_COOKIE.
    pub cookie: u64,
    /// The user who made it.
    pub uid: u32,
    /// Its inode; 0: no process has it.
    pub inode: u32,
}

/// Reads an answer: the number of its question, and what it says. `None`: it isn't one.
pub fn reply(bytes: &[u8]) -> Option<(u32, Reply)> {
    let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
    let bytes = bytes.get(..length)?;
    let kind = u16::from_ne_bytes(array(bytes, 4)?);
    let number = u32::from_ne_bytes(array(bytes, 8)?);
    match kind {
        NLMSG_ERROR | NLMSG_DONE => {
            let status = i32::from_ne_bytes(array(bytes, 16)?);
            Some((number, Reply::Status(status)))
        }
        SOCK_DIAG_BY_FAMILY => Some((number, Reply::Socket(described(bytes)?))),
        _ => None,
    }
}

fn described(bytes: &[u8]) -> Option<Described> {
    let bytes: [u8; ANSWER_BYTES] = array(bytes, 0)?;
    let end = |port: usize, ip: usize| {
        let ip = match bytes[16] {
            AF_INET => Ipv4Addr::from(array::<4>(&bytes, ip)?).into(),
            AF_INET6 => Ipv6Addr::from(array::<16>(&bytes, ip)?).to_canonical(),
            _ => return None,
        };
        Some(SocketAddr::new(
            ip,
            u16::from_be_bytes(array(&bytes, port)?),
        ))
    };
    Some(Described {
        ends: Ends {
            local: end(20, 24)?,
            peer: end(22, 40)?,
        },
        state: bytes[17],
        cookie: u64::from_ne_bytes(array(&bytes, 60)?),
        uid: u32::from_ne_bytes(array(&bytes, 80)?),
        inode: u32::from_ne_bytes(array(&bytes, 84)?),
    })
}

/// What a reply means for the question that was asked with these ends.
pub fn answer(reply: &Reply, asked: &Ends, at_home: bool) -> Answer {
    match reply {
        // A listener answers for connections that aren't there; time-wait and half-open ones have no process.
        Reply::Socket(socket)
            if socket.ends == *asked
                && LIVE_STATES.contains(&socket.state)
                && socket.inode != 0 =>
        {
            Answer::Live(LiveSocket {
                cookie: socket.cookie,
                uid: socket.uid,
                inode: socket.inode.into(),
                at_home,
            })
        }
        Reply::Socket(_) | Reply::Status(ENOENT) => Answer::Gone,
        Reply::Status(_) => Answer::Unanswered,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Answers of each kind, for the corpus.
    pub(crate) fn samples() -> Vec<(&'static str, Vec<u8>)> {
        let v4 = question(7, &ends("192.0.2.1:443", "198.51.100.2:50000"));
        let v6 = question(8, &ends("[2001:db8::1]:443", "[2001:db8::2]:50000"));
        vec![
            ("v4", told(&v4, AF_INET, 1, 4711)),
            ("v6", told(&v6, AF_INET6, 1, 4712)),
            ("listener", told(&v4, AF_INET, 10, 4713)),
            ("none", status(7, NLMSG_ERROR, ENOENT)),
            ("done", status(7, NLMSG_DONE, 0)),
        ]
    }

    fn ends(local: &str, peer: &str) -> Ends {
        Ends {
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
        }
    }

    /// As the kernel answers this question with a socket of `family`.
    fn told(question: &[u8], family: u8, state: u8, inode: u32) -> Vec<u8> {
        let mut bytes = question[..16].to_vec();
        bytes.extend([family, state, 0, 0]);
        bytes.extend(&question[24..64]);
        bytes.extend(0x8691_u64.to_ne_bytes());
        for word in [0_u32, 1, 2, 33, inode, 0xabcd_0004] {
            bytes.extend(word.to_ne_bytes());
        }
        let length = u32::try_from(bytes.len()).unwrap();
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes
    }

    fn status(number: u32, kind: u16, status: i32) -> Vec<u8> {
        let mut bytes = empty(number, 0)[..20].to_vec();
        bytes[..4].copy_from_slice(&20_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[16..].copy_from_slice(&status.to_ne_bytes());
        bytes
    }

    #[test]
    fn a_socket_is_what_the_kernel_says() {
        for (family, asked) in [
            (AF_INET, ends("192.0.2.1:443", "198.51.100.2:50000")),
            (AF_INET6, ends("[2001:db8::1]:443", "[2001:db8::2]:50000")),
        ] {
            let bytes = told(&question(7, &asked), family, 1, 4711);
            let (number, found) = reply(&bytes).unwrap();
            assert_eq!(number, 7);
            let live = LiveSocket {
                cookie: 0x8691,
                uid: 33,
                inode: 4711,
                at_home: true,
            };
            assert_eq!(answer(&found, &asked, true), Answer::Live(live));
            // The other end's, or another's: a listener has no peer.
            let turned = Ends {
                local: asked.peer,
                peer: asked.local,
            };
            assert_eq!(answer(&found, &turned, true), Answer::Gone);
        }
    }

    #[test]
    fn who_has_no_process_is_gone() {
        let asked = ends("192.0.2.1:443", "198.51.100.2:50000");
        let state = |state, inode| {
            let bytes = told(&question(7, &asked), AF_INET, state, inode);
            answer(&reply(&bytes).unwrap().1, &asked, true)
        };
        for dead in [3, 6, 7, 10, 12, 0, 77] {
            assert_eq!(state(dead, 4711), Answer::Gone, "{dead}");
        }
        for live in LIVE_STATES {
            assert_ne!(state(live, 4711), Answer::Gone, "{live}");
            assert_eq!(state(live, 0), Answer::Gone, "{live}");
        }
    }

    #[test]
    fn a_refusal_is_no_answer() {
        let asked = ends("192.0.2.1:443", "198.51.100.2:50000");
        for (number, (kind, code, means)) in (0..).zip([
            (NLMSG_ERROR, ENOENT, Answer::Gone),
            (NLMSG_ERROR, -1, Answer::Unanswered),
            (NLMSG_DONE, 0, Answer::Unanswered),
        ]) {
            let bytes = status(number, kind, code);
            let (told, found) = reply(&bytes).unwrap();
            assert_eq!((told, found), (number, Reply::Status(code)));
            assert_eq!(answer(&found, &asked, false), means);
        }
        assert_eq!(reply(&status(1, 16, 0)), None);
        // What is said to be longer than it is.
        assert_eq!(reply(&question(1, &asked)[..71]), None);
    }

    #[test]
    fn mapped_addresses_are_asked_for_and_told_as_what_they_stand_for() {
        let asked = ends("192.0.2.1:443", "198.51.100.2:50000");
        let question = question(7, &asked);
        assert_eq!(question[16], AF_INET);
        let mut bytes = told(&question, AF_INET6, 1, 4711);
        for (at, ip) in [(24, [192, 0, 2, 1]), (40, [198, 51, 100, 2])] {
            let mapped = Ipv4Addr::from(ip).to_ipv6_mapped().octets();
            bytes[at..at + 16].copy_from_slice(&mapped);
        }
        let Some((_, Reply::Socket(socket))) = reply(&bytes) else {
            panic!("no socket");
        };
        assert_eq!(socket.ends, asked);
    }
}
