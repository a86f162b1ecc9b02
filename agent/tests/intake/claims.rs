//! Programs that name connections as theirs, true ones and others', and a kernel that knows.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

use agent::event::{Binding, FlowInfo, Proof};
use mirror_tests::process::without_root;
use rustix::fs::{Gid, Uid, fchown};
use rustix::net::sockopt::socket_cookie;

use crate::{Agent, GIVE_UP, start_with};

/// Somebody.
const OTHER_USER: u32 = 4711;

/// A connection of this process, which the programs have nothing of.
struct Victim {
    socket: TcpStream,
    _peer: TcpStream,
}

impl Victim {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _peer = listener.accept().unwrap().0;
        Self { socket, _peer }
    }

    /// Its socket becomes one that another user has made.
    fn of_another_user(self) -> Self {
        fchown(&self.socket, Some(Uid::from_raw(OTHER_USER)), None::<Gid>).unwrap();
        self
    }

    fn cookie(&self) -> u64 {
        socket_cookie(&self.socket).unwrap()
    }

    /// A script that names it as the program's own.
    fn script(&self, cookie: u64) -> String {
        self.script_in(cookie, 0)
    }

    /// The same in a network namespace.
    fn script_in(&self, cookie: u64, network: u64) -> String {
        let (local, peer) = (self.socket.local_addr(), self.socket.peer_addr());
        format!(
            "claim {} {} {cookie} {network}",
            local.unwrap(),
            peer.unwrap()
        )
    }
}

/// What becomes of the connection that the program with this script names.
fn told(name: &str, script: &str, stdout: Stdio) -> FlowInfo {
    let mut agent = Agent::new(name, |_| {});
    let mut program = start_with(script, &agent.socket(), stdout);
    let start = Instant::now();
    while agent.seen.flows.is_empty() {
        assert!(start.elapsed() < GIVE_UP, "no flow");
        if !agent.turn() {
            agent.intake.wait(Duration::from_millis(20));
        }
    }
    program.go_on();
    agent.run_to_the_end(1);
    assert!(program.ended().success());
    let mut flows = agent.seen.flows.values();
    let (flow, other) = (flows.next().unwrap(), flows.next());
    assert!(other.is_none());
    assert_eq!(flow.all(), 5, "nothing is lost for it");
    flow.info.clone()
}

#[test]
fn a_connection_of_ones_own_is_proven() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let info = told("own", &format!("connected {address}"), Stdio::piped());
    assert_eq!(info.proof, Some(Proof::Proven));
    assert_eq!(info.binding, Binding::Socket);
    assert_eq!(info.tuple.server, address);
}

#[test]
fn anothers_connection_is_refused() {
    let victim = Victim::new();
    let local = victim.socket.local_addr().unwrap();
    // Another cookie, and none at all.
    for cookie in [victim.cookie() + 1, 0] {
        let name = format!("other-{cookie}");
        let info = told(&name, &victim.script(cookie), Stdio::piped());
        assert_eq!(info.proof, Some(Proof::Contradicted));
        assert_eq!(info.binding, Binding::Placeholder);
        assert_ne!(info.tuple.server, local);
    }
    // In a namespace that nobody can look into.
    let script = victim.script_in(victim.cookie(), u64::MAX);
    let info = told("nowhere", &script, Stdio::piped());
    assert_eq!(info.proof, Some(Proof::Contradicted));
    assert_eq!(info.binding, Binding::Placeholder);
    if without_root("only root's sockets can be another user's") {
        return;
    }
    // The right cookie, which anybody can find out.
    let victim = Victim::new().of_another_user();
    let info = told("cookie", &victim.script(victim.cookie()), Stdio::piped());
    assert_eq!(info.proof, Some(Proof::Contradicted));
    assert_eq!(info.binding, Binding::Placeholder);
}

/// systemd makes sockets as root, and others pass theirs on.
#[test]
fn who_was_given_a_descriptor_has_the_connection() {
    if without_root("only root's sockets can be another user's") {
        return;
    }
    let victim = Victim::new().of_another_user();
    let script = victim.script(victim.cookie());
    let given: OwnedFd = victim.socket.try_clone().unwrap().into();
    let info = told("given", &script, given.into());
    assert_eq!(info.proof, Some(Proof::Proven));
    assert_eq!(info.tuple.server, victim.socket.local_addr().unwrap());
}

#[test]
fn what_is_over_is_unproven() {
    let victim = Victim::new();
    let script = victim.script(victim.cookie());
    let local = victim.socket.local_addr().unwrap();
    drop(victim);
    let info = told("over", &script, Stdio::piped());
    assert_eq!(info.proof, Some(Proof::Unproven));
    assert_eq!(info.binding, Binding::Socket);
    assert_eq!(info.tuple.server, local);
}
