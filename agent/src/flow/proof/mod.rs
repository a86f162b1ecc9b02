//! Whether a process's word about its connection is true: the kernel is asked for the socket that has these
//! addresses, sock_diag(7).
//!
//! ```text
//! OPEN: addresses, SO_COOKIE, SO_NETNS_COOKIE ──> Claim ─┐
//! kernel: a live socket with these addresses? ─> Answer ─┼─> judge ─> Verdict
//!         its cookie, user, inode                        │
//! /proc/PID/fd: has the process got this inode? ─────────┘   (only where the user leaves it open)
//! ```
//!
//! | the live socket with these addresses | verdict |
//! |---|---|
//! | has the cookie, and is the process's: by its user, in the process's network namespace, or by a descriptor | proven |
//! | has the cookie, was made by another user (systemd, a process that passed it on), and descriptors can't be seen | unproven: foreign |
//! | has the cookie, was made by another user, and the process has no descriptor of it | doubtful |
//! | has another cookie, and is the process's | unproven: gone. Its next connection, or MPTCP, whose subflows have cookies of their own |
//! | has another cookie, and isn't the process's, or its user's where descriptors can't be seen | doubtful |
//! | isn't there any more, or nobody holds it | unproven: gone |
//! | lies in a network namespace that is neither the agent's nor the one in which the process runs, or that can't be entered | as if no cookie had been named, with what has these addresses where the process runs |
//!
//! Doubtful is what is contradicted, unless the session turns out to be over: then its addresses were another's
//! already when it was looked, which isn't the process's fault. The mapper waits a moment for that.
//!
//! Who names no socket is looked for on the wire by its handshake's randoms. These are public, so what is found there is
//! asked about, too, and doubtful only where it certainly is another's (`is_anothers`).
//!
//! No cookie and no right to ask leave a claim unproven, unless the socket is seen to be another's. That a cookie is another connection's isn't looked for: all
//! sockets would have to be listed, and addresses that nobody has take nothing from anybody.
//!
//! All but `kernel` and `process` is pure.

pub mod kernel;
pub mod message;
pub(crate) mod process;

use std::fmt;
use std::net::SocketAddr;

use mirror_hook::event::Role;

use crate::event::{ProcessInfo, Proof, Tuple};

/// The user that stands for those who have no id here (`/proc/sys/kernel/overflowuid`), and for many.
const OVERFLOW_UID: u32 = 65534;

/// The two ends of a connection as its process sees them, of one address family; IPv4-mapped ones as IPv4
/// (RFC 4291 2.5.5.2). The kernel finds a connection of IPv4 by these, whichever family its socket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The process's own.
    pub local: SocketAddr,
    /// The other one.
    pub peer: SocketAddr,
}

impl Ends {
    /// Those of a process that has this role.
    pub(super) fn of(tuple: Tuple, role: Role) -> Self {
        let Tuple { client, server } = tuple;
        let (local, peer) = match role {
            Role::Client => (client, server),
            Role::Server => (server, client),
        };
        Self { local, peer }
    }

    /// `None`: addresses that no connection has.
    pub(super) fn new(local: SocketAddr, peer: SocketAddr) -> Option<Self> {
        let usable = |address: SocketAddr| address.port() != 0 && !address.ip().is_unspecified();
        if !usable(local) || !usable(peer) {
            return None;
        }
        let canonical =
            |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let (local, peer) = match (canonical(local), canonical(peer)) {
            (l, p) if l.is_ipv4() == p.is_ipv4() => (l, p),
            _ if local.is_ipv4() == peer.is_ipv4() => (local, peer),
            _ => return None,
        };
        Some(Self { local, peer })
    }

    /// The same, where the process has this role.
    pub(super) fn tuple(self, role: Role) -> Tuple {
        let Self { local, peer } = self;
        let (client, server) = match role {
            Role::Client => (local, peer),
            Role::Server => (peer, local),
        };
        Tuple { client, server }
    }
}

/// What a process says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its addresses.
    pub ends: Ends,
    /// SO_COOKIE, and SO_NETNS_COOKIE, which is 0 before Linux 5.14.
    pub cookies: Option<(u64, u64)>,
}

/// A live socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveSocket {
    /// Its SO_COOKIE.
    pub cookie: u64,
    /// The user who made it.
    pub uid: u32,
    /// Its inode, as `/proc/PID/fd` shows it; never 0.
    pub inode: u64,
    /// It lies in the network namespace in which the process runs.
    pub at_home: bool,
}

/// What the kernel says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is there.
    Live(LiveSocket),
    /// It isn't, or nobody holds it.
    Gone,
    /// Nobody here may ask, or can.
    Unanswered,
}

/// What a claim is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// True.
    Proven,
    /// Nobody knows.
    Unproven(Unproven),
    /// Another's, if the session goes on.
    Doubtful,
}

/// Why nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unproven {
    /// The socket isn't there any more.
    Gone,
    /// It was made by another user, or in another network namespace.
    Foreign,
    /// There was no cookie, or no right to ask.
    Unasked,
}

/// Who can be asked about sockets.
pub trait Sockets: fmt::Debug {
    /// The live socket with these ends, in the network namespace that the cookie `network` names; 0: in the one in which
    /// the process runs.
    fn find(&mut self, ends: &Ends, network: u64, process: &ProcessInfo) -> Answer;

    /// Whether the process has a descriptor of the socket with this inode; `None`: can't be seen.
    fn holds(&mut self, process: &ProcessInfo, inode: u64) -> Option<bool>;

    /// Called some times a second: lets go of what isn't used any more.
    fn rest(&mut self) {}
}

/// Nobody is.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSockets;

impl Sockets for NoSockets {
    fn find(&mut self, _: &Ends, _: u64, _: &ProcessInfo) -> Answer {
        Answer::Unanswered
    }

    fn holds(&mut self, _: &ProcessInfo, _: u64) -> Option<bool> {
        None
    }
}

impl Verdict {
    /// As people are told; a claim that stays doubtful is contradicted.
    pub(super) fn proof(self) -> Proof {
        match self {
            Self::Proven => Proof::Proven,
            Self::Unproven(_) => Proof::Unproven,
            Self::Doubtful => Proof::Contradicted,
        }
    }
}

/// Asks what has to be asked, and says what the claim is worth.
pub(super) fn judge(claim: &Claim, process: &ProcessInfo, sockets: &mut dyn Sockets) -> Verdict {
    // The kernel gives no socket the cookie 0.
    let (cookie, network) = claim.cookies.unwrap_or_default();
    let (answer, cookie) = match sockets.find(&claim.ends, network, process) {
        // Who names a namespace that isn't there doesn't get by with another's addresses in its own. A socket that
        // honestly lies in one nobody can ask in has the same addresses there only by chance.
        Answer::Unanswered if network != 0 => match sockets.find(&claim.ends, 0, process) {
            Answer::Gone => (Answer::Unanswered, 0),
            answer => (answer, 0),
        },
        answer => (answer, cookie),
    };
    let socket = match answer {
        Answer::Live(socket) => socket,
        Answer::Gone => return Verdict::Unproven(Unproven::Gone),
        Answer::Unanswered => return Verdict::Unproven(Unproven::Unasked),
    };
    let same_user = is_same_user(&socket, process);
    let mut holds = || sockets.holds(process, socket.inode);
    if socket.cookie == cookie {
        return match same_user.then_some(true).or_else(holds) {
            Some(true) => Verdict::Proven,
            Some(false) => Verdict::Doubtful,
            None => Verdict::Unproven(Unproven::Foreign),
        };
    }
    let nobody_knows = match cookie {
        0 => Unproven::Unasked,
        _ => Unproven::Gone,
    };
    match holds() {
        Some(true) => Verdict::Unproven(nobody_knows),
        None if same_user || cookie == 0 => Verdict::Unproven(nobody_knows),
        Some(false) | None => Verdict::Doubtful,
    }
}

/// Whether a live connection where a process runs certainly isn't its own: another user made it, and the process has no
/// descriptor of it. Asked where the process names no socket, but only what anybody may know of a session.
pub(super) fn is_anothers(ends: &Ends, process: &ProcessInfo, sockets: &mut dyn Sockets) -> bool {
    match sockets.find(ends, 0, process) {
        Answer::Live(socket) if !is_same_user(&socket, process) => {
            sockets.holds(process, socket.inode) == Some(false)
        }
        Answer::Live(_) | Answer::Gone | Answer::Unanswered => false,
    }
}

fn is_same_user(socket: &LiveSocket, process: &ProcessInfo) -> bool {
    // Root of a container may be the host's root by its number.
    socket.at_home && socket.uid == process.uid && socket.uid != OVERFLOW_UID
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    const ENDS: Ends = Ends {
        local: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443),
        peer: SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)), 5000),
    };

    /// The answer in every namespace, and whether the process has the socket.
    #[derive(Debug)]
    struct Fixed(Answer, Option<bool>);

    /// Nobody can be asked but where the process runs.
    #[derive(Debug)]
    struct AtHome(Fixed);

    impl Sockets for AtHome {
        fn find(&mut self, ends: &Ends, network: u64, process: &ProcessInfo) -> Answer {
            match network {
                0 => self.0.find(ends, network, process),
                _ => Answer::Unanswered,
            }
        }

        fn holds(&mut self, process: &ProcessInfo, inode: u64) -> Option<bool> {
            self.0.holds(process, inode)
        }
    }

    impl Sockets for Fixed {
        fn find(&mut self, _: &Ends, network: u64, _: &ProcessInfo) -> Answer {
            assert!([0, 7].contains(&network));
            self.0
        }

        fn holds(&mut self, _: &ProcessInfo, inode: u64) -> Option<bool> {
            assert_eq!(inode, 99);
            self.1
        }
    }

    /// Each row: the socket's cookie, its user, whether it is in the process's namespace, whether the process has it.
    #[test]
    fn only_what_is_the_processes_is_proven_and_only_what_is_anothers_is_doubted() {
        use Unproven::{Foreign, Gone};
        const MINE: u32 = 33;
        let rows = [
            (5, MINE, true, None, Verdict::Proven),
            (5, MINE, true, Some(false), Verdict::Proven),
            (5, 0, true, Some(true), Verdict::Proven),
            (5, MINE, false, Some(true), Verdict::Proven),
            // Another user's with the right cookie: anybody may look at that.
            (5, 0, true, Some(false), Verdict::Doubtful),
            (5, 0, true, None, Verdict::Unproven(Foreign)),
            // The same number in another namespace isn't the same user.
            (5, MINE, false, None, Verdict::Unproven(Foreign)),
            (5, MINE, false, Some(false), Verdict::Doubtful),
            (6, MINE, true, Some(true), Verdict::Unproven(Gone)),
            (6, MINE, true, None, Verdict::Unproven(Gone)),
            (6, 0, true, Some(true), Verdict::Unproven(Gone)),
            (6, MINE, true, Some(false), Verdict::Doubtful),
            (6, 0, true, Some(false), Verdict::Doubtful),
            (6, 0, true, None, Verdict::Doubtful),
            (6, MINE, false, None, Verdict::Doubtful),
        ];
        let process = |uid| ProcessInfo {
            uid,
            ..ProcessInfo::default()
        };
        let claim = |cookies| Claim {
            ends: ENDS,
            cookies,
        };
        let judge = |claim, uid, answer, held| {
            super::judge(&claim, &process(uid), &mut Fixed(answer, held))
        };
        for row @ (cookie, uid, at_home, held, verdict) in rows {
            let live = Answer::Live(LiveSocket {
                cookie,
                uid,
                inode: 99,
                at_home,
            });
            let judged = judge(claim(Some((5, 7))), MINE, live, held);
            assert_eq!(judged, verdict, "{row:?}");
        }
        let nobody = Answer::Live(LiveSocket {
            cookie: 5,
            uid: OVERFLOW_UID,
            inode: 99,
            at_home: true,
        });
        // Many users may have this number.
        let judged = judge(claim(Some((5, 7))), OVERFLOW_UID, nobody, None);
        assert_eq!(judged, Verdict::Unproven(Foreign));
        for (cookies, answer, held, verdict) in [
            (None, nobody, None, Verdict::Unproven(Unproven::Unasked)),
            (
                None,
                nobody,
                Some(true),
                Verdict::Unproven(Unproven::Unasked),
            ),
            // Who says no cookie doesn't get by with another's addresses.
            (None, nobody, Some(false), Verdict::Doubtful),
            (Some((0, 7)), nobody, Some(false), Verdict::Doubtful),
            (
                Some((5, 7)),
                Answer::Unanswered,
                None,
                Verdict::Unproven(Unproven::Unasked),
            ),
            (Some((5, 7)), Answer::Gone, None, Verdict::Unproven(Gone)),
        ] {
            let judged = judge(claim(cookies), MINE, answer, held);
            assert_eq!(judged, verdict);
        }
    }

    /// Whatever cookie the socket has that is found there: it isn't the one that was named.
    #[test]
    fn a_namespace_in_which_nobody_can_ask_proves_nothing_and_hides_nothing() {
        use Unproven::Unasked;
        let live = |cookie| {
            Answer::Live(LiveSocket {
                cookie,
                uid: 33,
                inode: 99,
                at_home: true,
            })
        };
        for (answer, held, verdict) in [
            (live(5), Some(true), Verdict::Unproven(Unasked)),
            (live(5), Some(false), Verdict::Doubtful),
            (live(6), Some(false), Verdict::Doubtful),
            (live(5), None, Verdict::Unproven(Unasked)),
            (Answer::Gone, None, Verdict::Unproven(Unasked)),
            (Answer::Unanswered, None, Verdict::Unproven(Unasked)),
        ] {
            let claim = Claim {
                ends: ENDS,
                cookies: Some((5, 7)),
            };
            let process = ProcessInfo {
                uid: 33,
                ..ProcessInfo::default()
            };
            let mut sockets = AtHome(Fixed(answer, held));
            assert_eq!(judge(&claim, &process, &mut sockets), verdict, "{answer:?}");
        }
    }
}
