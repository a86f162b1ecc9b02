//! The kernel's answers, by NETLINK_SOCK_DIAG: some microseconds each, once a session.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::message::{self, Reply};
use super::{Answer, Ends, Sockets, process};
use crate::event::ProcessInfo;
use crate::flow::bounded::BoundedMap;
use crate::helper::Helper;
use crate::intake::peer::network_cookie;

/// Processes of which it is remembered where they run, or that nothing can be found out.
const MOST_REMEMBERED: usize = 4096;
/// For how long: their ids may be others' then, and they may have closed what was too much to be looked at.
const REMEMBERED: Duration = Duration::from_secs(60);
/// Other network namespaces in which it can be asked at a time.
const MOST_NAMESPACES: usize = 128;
/// How long after the last question.
const KEPT: Duration = Duration::from_secs(1);
/// Of what the kernel says nothing that is looked at lies behind.
const REPLY_BYTES: usize = 1024;

/// A socket that asks in one network namespace.
#[derive(Debug)]
struct Diag {
    socket: OwnedFd,
    number: u32,
}

impl Diag {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, number: 1 }
    }

    /// SO_NETNS_COOKIE of its namespace (Linux 5.14).
    fn network(&self) -> Option<u64> {
        network_cookie(self.socket.as_fd()).ok()
    }

    /// Whether this kernel tells of TCP's sockets at all (CONFIG_INET_TCP_DIAG, or its module): if not, it answers
    /// each question as if there were none.
    fn works(&mut self) -> bool {
        self.ask(message::test_question) == Some(Reply::Status(0))
    }

    /// The live socket with these ends.
    fn find(&mut self, ends: &Ends, at_home: bool) -> Answer {
        self.ask(|number| message::question(number, ends))
            .map_or(Answer::Unanswered, |reply| {
                message::answer(&reply, ends, at_home)
            })
    }

    /// The kernel answers before the question's call returns: nobody waits here.
    fn ask(&mut self, question: impl Fn(u32) -> [u8; message::QUESTION_BYTES]) -> Option<Reply> {
        self.number = self.number.wrapping_add(1);
        let number = self.number;
        send(&self.socket, &question(number), SendFlags::empty()).ok()?;
        let mut bytes = [0; REPLY_BYTES];
        // What is left of an earlier one is passed over.
        loop {
            let (_, length) = recv(&self.socket, &mut bytes, RecvFlags::DONTWAIT).ok()?;
            match message::reply(bytes.get(..length)?) {
                Some((found, reply)) if found == number => return Some(reply),
                _ => {}
            }
        }
    }
}

/// Another network namespace. It can't go while somebody can ask there, so that is for a moment only.
#[derive(Debug)]
struct Elsewhere {
    diag: Diag,
    network: u64,
    inode: Option<u64>,
    used: Instant,
}

/// Asks in this process's own network namespace; in others, and for descriptors of other users, the helper.
#[derive(Debug)]
pub struct KernelSockets {
    own: Option<Diag>,
    /// SO_NETNS_COOKIE, and the inode of the namespace.
    network: Option<u64>,
    inode: Option<u64>,
    helper: Option<Helper>,
    elsewhere: Vec<Elsewhere>,
    /// By process and inode: the namespace in which it runs. What a session names doesn't have it looked for again.
    homes: BoundedMap<(u32, Option<u64>), Home>,
    /// Processes whose descriptors can't be looked at, since when.
    unseen: BoundedMap<u32, Instant>,
}

/// The network namespace in which a process runs.
#[derive(Debug)]
struct Home {
    /// Its cookie; `None`: it can't be entered, or has none.
    network: Option<u64>,
    since: Instant,
}

impl KernelSockets {
    /// Without a `helper`, what may be asked is what this process itself may.
    pub fn new(helper: Option<Helper>) -> Self {
        let own = process::open_here().ok().map(Diag::new);
        let own = own.and_then(|mut own| own.works().then_some(own));
        Self {
            network: own.as_ref().and_then(Diag::network),
            inode: fs::metadata("/proc/self/ns/net")
                .ok()
                .map(|file| file.ino()),
            own,
            helper,
            elsewhere: Vec::new(),
            homes: BoundedMap::new(MOST_REMEMBERED),
            unseen: BoundedMap::new(MOST_REMEMBERED),
        }
    }

    /// Whether the namespace that a socket says is its own is this process's.
    fn is_here(&self, network: u64, process: &ProcessInfo) -> bool {
        match (network, self.network) {
            (0, _) | (_, None) => self.is_at_home(process),
            (theirs, Some(ours)) => theirs == ours,
        }
    }

    /// Where there are sockets of the namespace with this cookie, if that is the one in which the process runs; 0: of
    /// that one, whichever it is.
    fn elsewhere(&mut self, network: u64, process: &ProcessInfo) -> Option<&mut Elsewhere> {
        let network = match network {
            0 => self.home(process)?,
            network => network,
        };
        // It isn't entered again for each session that names another one.
        if !self.is_open(network) && self.home(process)? == network && !self.is_open(network) {
            self.enter(process);
        }
        let mut elsewhere = self.elsewhere.iter_mut();
        let found = elsewhere.find(|one| one.network == network)?;
        found.used = Instant::now();
        Some(found)
    }

    fn is_open(&self, network: u64) -> bool {
        self.elsewhere.iter().any(|one| one.network == network)
    }

    /// The cookie of the namespace in which a process runs.
    fn home(&mut self, process: &ProcessInfo) -> Option<u64> {
        let known = self.homes.get(&(process.pid, process.network_namespace));
        match known.map(|home| home.network) {
            Some(network) => network,
            None => self.enter(process),
        }
    }

    /// Begins to ask in the namespace in which a process runs; its cookie.
    fn enter(&mut self, process: &ProcessInfo) -> Option<u64> {
        let socket = match &self.helper {
            Some(helper) => helper.diag(process.pid),
            None => process::open_in(process.pid).ok(),
        };
        let diag = socket.map(Diag::new);
        let network = diag.as_ref().and_then(Diag::network);
        let since = Instant::now();
        let place = (process.pid, process.network_namespace);
        self.homes.insert(place, Home { network, since });
        let (diag, network) = (diag?, network?);
        if !self.is_open(network) {
            if self.elsewhere.len() >= MOST_NAMESPACES {
                let oldest = (0..self.elsewhere.len()).min_by_key(|at| self.elsewhere[*at].used);
                self.elsewhere.swap_remove(oldest.unwrap_or(0));
            }
            self.elsewhere.push(Elsewhere {
                diag,
                network,
                inode: process.network_namespace,
                used: since,
            });
        }
        Some(network)
    }

    fn is_at_home(&self, process: &ProcessInfo) -> bool {
        self.inode.is_some() && process.network_namespace == self.inode
    }
}

impl Sockets for KernelSockets {
    fn find(&mut self, ends: &Ends, network: u64, process: &ProcessInfo) -> Answer {
        let (here, at_home) = (self.is_here(network, process), self.is_at_home(process));
        let Some(own) = &mut self.own else {
            return Answer::Unanswered;
        };
        if here {
            return own.find(ends, at_home);
        }
        if process.pid == 0 {
            return Answer::Unanswered;
        }
        let Some(elsewhere) = self.elsewhere(network, process) else {
            return Answer::Unanswered;
        };
        // Who names this namespace may run in another one.
        let home = process.network_namespace;
        let at_home = home.is_some() && home == elsewhere.inode;
        elsewhere.diag.find(ends, at_home)
    }

    fn holds(&mut self, process: &ProcessInfo, inode: u64) -> Option<bool> {
        if process.pid == 0 || self.unseen.get(&process.pid).is_some() {
            return None;
        }
        let holds = match &self.helper {
            Some(helper) => helper.holds_socket(process.pid, inode),
            None => process::holds(process.pid, inode),
        };
        if holds.is_none() {
            self.unseen.insert(process.pid, Instant::now());
        }
        holds
    }

    fn rest(&mut self) {
        if !self.elsewhere.is_empty() {
            self.elsewhere.retain(|one| one.used.elapsed() < KEPT);
        }
        self.homes
            .drop_while(|home| home.since.elapsed() >= REMEMBERED);
        self.unseen
            .drop_while(|since| since.elapsed() >= REMEMBERED);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};

    use mirror_tests::process::without_root;
    use rustix::fs::{Gid, Uid, fchown};
    use rustix::net::sockopt::{set_socket_reuseport, socket_cookie};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

    use super::*;
    use crate::flow::proof::{Claim, LiveSocket, Unproven, Verdict, judge};

    /// A connection to a listener at this address: the client's end, and the server's.
    fn connection(listen: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = match listen.contains("::1") {
            true => TcpStream::connect(("::1", port)).unwrap(),
            false => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(),
        };
        let server = listener.accept().unwrap().0;
        (client, server)
    }

    fn claim(socket: &TcpStream) -> Claim {
        let canonical = |mut address: std::net::SocketAddr| {
            address.set_ip(address.ip().to_canonical());
            address
        };
        Claim {
            ends: Ends {
                local: canonical(socket.local_addr().unwrap()),
                peer: canonical(socket.peer_addr().unwrap()),
            },
            cookies: Some((
                socket_cookie(socket).unwrap(),
                network_cookie(socket.as_fd()).unwrap_or(0),
            )),
        }
    }

    /// A process of this user that has nothing of this one's.
    struct Stranger(std::process::Child);

    impl Stranger {
        fn new() -> Self {
            let mut sleep = std::process::Command::new("sleep");
            Self(sleep.arg("600").spawn().unwrap())
        }

        fn info(&self) -> ProcessInfo {
            ProcessInfo {
                pid: self.0.id(),
                ..me()
            }
        }
    }

    impl Drop for Stranger {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn me() -> ProcessInfo {
        ProcessInfo {
            pid: std::process::id(),
            uid: rustix::process::geteuid().as_raw(),
            network_namespace: fs::metadata("/proc/self/ns/net")
                .ok()
                .map(|file| file.ino()),
            ..ProcessInfo::default()
        }
    }

    /// IPv4, IPv6, and IPv4 at a socket of IPv6, which the kernel finds by the addresses of IPv4.
    #[test]
    fn the_kernel_knows_both_ends_of_a_connection() {
        let mut sockets = KernelSockets::new(None);
        let stranger = Stranger::new();
        for listen in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (client, server) = connection(listen);
            for socket in [&client, &server] {
                let claim = claim(socket);
                let (cookie, network) = claim.cookies.unwrap();
                let found = sockets.find(&claim.ends, network, &me());
                let Answer::Live(LiveSocket { inode, .. }) = found else {
                    panic!("{listen}: {found:?}");
                };
                assert_eq!(judge(&claim, &me(), &mut sockets), Verdict::Proven);
                assert_eq!(sockets.holds(&me(), inode), Some(true));
                // As many descriptors as one likes.
                let copy = socket.try_clone().unwrap();
                assert_eq!(
                    judge(&self::claim(&copy), &me(), &mut sockets),
                    Verdict::Proven
                );
                let other = Claim {
                    cookies: Some((cookie + 1, network)),
                    ..claim
                };
                let gone = Verdict::Unproven(Unproven::Gone);
                assert_eq!(judge(&other, &me(), &mut sockets), gone);
                assert_eq!(sockets.holds(&stranger.info(), inode), Some(false));
                let doubtful = judge(&other, &stranger.info(), &mut sockets);
                assert_eq!(doubtful, Verdict::Doubtful);
            }
            let claimed = claim(&server);
            drop(server);
            let gone = Verdict::Unproven(Unproven::Gone);
            assert_eq!(judge(&claimed, &me(), &mut sockets), gone, "closed");
        }
    }

    /// As systemd makes sockets, and whoever passes them on.
    #[test]
    fn whose_socket_another_user_made_is_known_by_its_descriptor() {
        if without_root("nobody else can be another user") {
            return;
        }
        let mut sockets = KernelSockets::new(None);
        let (client, _server) = connection("127.0.0.1:0");
        fchown(&client, Some(Uid::from_raw(4711)), None::<Gid>).unwrap();
        let claim = claim(&client);
        assert_eq!(judge(&claim, &me(), &mut sockets), Verdict::Proven);
        let stranger = Stranger::new();
        let judged = judge(&claim, &stranger.info(), &mut sockets);
        assert_eq!(judged, Verdict::Doubtful);
        let unseen = ProcessInfo { pid: 0, ..me() };
        let foreign = Verdict::Unproven(Unproven::Foreign);
        assert_eq!(judge(&claim, &unseen, &mut sockets), foreign);
    }

    /// A namespace that isn't the process's, and may be none: the process is asked after once, and gets by with nothing.
    #[test]
    fn whatever_namespace_is_named_anothers_connection_is_doubtful() {
        let mut sockets = KernelSockets::new(None);
        let (client, _server) = connection("127.0.0.1:0");
        let claim = claim(&client);
        let (cookie, network) = claim.cookies.unwrap();
        let stranger = Stranger::new();
        for named in 1..=10 {
            let elsewhere = Claim {
                cookies: Some((cookie, network + named)),
                ..claim
            };
            let mine = judge(&elsewhere, &me(), &mut sockets);
            assert_eq!(mine, Verdict::Unproven(Unproven::Unasked));
            let others = judge(&elsewhere, &stranger.info(), &mut sockets);
            assert_eq!(others, Verdict::Doubtful);
        }
        // Where it runs can still be asked.
        assert_eq!(judge(&claim, &me(), &mut sockets), Verdict::Proven);
        let first = sockets.homes.get(&(me().pid, me().network_namespace));
        let since = first.unwrap().since;
        sockets.find(&claim.ends, network + 11, &me());
        let last = sockets.homes.get(&(me().pid, me().network_namespace));
        assert_eq!(last.unwrap().since, since, "asked after again");
    }

    /// Two sockets listen at one port: each connection is one's only.
    #[test]
    fn a_port_that_listeners_share() {
        let listen = |port: u16| {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None);
            let socket = socket.unwrap();
            set_socket_reuseport(&socket, true).unwrap();
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            bind(&socket, &SocketAddr::V4(address)).unwrap();
            rustix::net::listen(&socket, 16).unwrap();
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true).unwrap();
            listener
        };
        let first = listen(0);
        let port = first.local_addr().unwrap().port();
        let listeners = [first, listen(port)];
        let mut sockets = KernelSockets::new(None);
        let stranger = Stranger::new();
        let clients: Vec<_> = (0..16)
            .map(|_| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap())
            .collect();
        let accept = |listener: &TcpListener| listener.accept().ok();
        for _ in &clients {
            let (server, _) = loop {
                if let Some(accepted) = listeners.iter().find_map(accept) {
                    break accepted;
                }
                std::thread::yield_now();
            };
            let claim = claim(&server);
            assert_eq!(judge(&claim, &me(), &mut sockets), Verdict::Proven);
            let unnamed = Claim {
                cookies: None,
                ..claim
            };
            let others = judge(&unnamed, &stranger.info(), &mut sockets);
            assert_eq!(others, Verdict::Doubtful);
        }
    }
}
