//! A network as [`crate::network::Network`], whose two ends are joined by links in user space (`tests/data/link.py`): what
//! passes there has VLAN tags, is said twice, in another order, or by somebody else, too.
//!
//! ```text
//!   the test's thread, and what it starts                                                  the peer
//!   app0 10.7.0.1, fd07::1 ── link.py ── wire0 ─────────────── wire1 ── link.py ── app1 10.7.0.2, fd07::2
//! ```

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::bio::data;
use crate::client::PYTHON;
use crate::network::{HOST, Namespace, PEER, enter_new_namespace, ip};
use crate::process::Process;

/// The network; while it lives, the peer does.
#[derive(Debug)]
pub struct Link {
    peer: Namespace,
    _ends: [Process; 2],
}

impl Link {
    /// Moves this thread into a namespace of its own, and makes the peer. `way` is the link's, in both directions.
    ///
    /// # Panics
    /// If this isn't root, or something that is needed isn't there.
    pub fn new(way: &str) -> Self {
        enter_new_namespace();
        let peer = Namespace::new();
        let id = peer.id();
        ip(&format!(
            "link add wire0 mtu 1600 type veth peer name wire1 mtu 1600 netns {id}"
        ));
        ip("link set lo up");
        ip("link set wire0 up");
        peer.ip("link set wire1 up");
        let ends = [
            end(Command::new(PYTHON), "0", way),
            end(peer.command(PYTHON), "1", way),
        ];
        for (host, peer_address) in HOST.into_iter().zip(PEER) {
            let bits = if host.is_ipv4() { "24" } else { "64 nodad" };
            ip(&format!("addr add dev app0 {host}/{bits}"));
            peer.ip(&format!("addr add dev app1 {peer_address}/{bits}"));
        }
        Self { peer, _ends: ends }
    }

    /// A program that runs at the peer.
    pub fn in_peer(&self, program: impl AsRef<OsStr>) -> Command {
        self.peer.command(program)
    }

    /// Runs `ip` with these words at the peer.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip_of_peer(&self, words: &str) {
        self.peer.ip(words);
    }
}

/// One end, when frames pass.
fn end(mut python: Command, number: &str, way: &str) -> Process {
    python.arg(data("link.py")).arg(format!("app{number}"));
    python.arg(format!("wire{number}")).arg(way);
    let mut end = Process::start(python.stdout(Stdio::piped()));
    let mut line = String::new();
    let stdout = end.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a word");
    assert_eq!(line, "up\n");
    end
}
