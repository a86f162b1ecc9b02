#![allow(unsafe_code, reason = "a thread's network namespace has no safe call")]
//! A network of a test's own: a host and a peer, each in its network namespace, joined by a veth pair.
//!
//! ```text
//!   the test's thread, and what it starts          the peer
//!   wire0 10.7.0.1, fd07::1  ─────────────────  wire1 10.7.0.2, fd07::2
//! ```
//!
//! The thread itself moves into a namespace, so that whatever it starts is there, too. The kernel removes
//! both with their last process.

use std::ffi::OsStr;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::process::{Process, listens_beside, output_of, until};
use crate::reader::Capture;
use crate::service::Service;

/// The host's addresses; those of its interface `wire0`.
pub const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 7, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 1)),
];
/// The same as nginx writes them.
pub const HOST_WORDS: &[&str] = &["10.7.0.1", "[fd07::1]"];

/// The peer's; those of its interface `wire1`.
pub const PEER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 7, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, 2)),
];
/// The same as nginx writes them.
pub const PEER_WORDS: &[&str] = &["10.7.0.2", "[fd07::2]"];

/// A network namespace beside this thread's; it lives as long as this does.
#[derive(Debug)]
pub struct Namespace {
    holder: Process,
    /// It has users of its own, too.
    of_users: bool,
}

/// The user and the group that are root's where [`Namespace::with_users`] is.
pub const ITS_ROOT: u32 = 100_000;

impl Namespace {
    /// An empty one.
    ///
    /// # Panics
    /// If this isn't root.
    pub fn new() -> Self {
        Self::made(false)
    }

    /// One in a namespace of users, whose root is nobody here: as containers without privilege have it.
    ///
    /// # Panics
    /// If this isn't root.
    pub fn with_users() -> Self {
        Self::made(true)
    }

    fn made(of_users: bool) -> Self {
        let mut sleep = Command::new("unshare");
        if of_users {
            sleep.arg("--user");
        }
        sleep.args(["--net", "sleep", "600"]);
        let holder = Process::start(&mut sleep);
        let name = format!("/proc/{}/comm", holder.id());
        until("another namespace", || {
            let name = fs::read_to_string(&name).ok()?;
            (name == "sleep\n").then_some(())
        });
        if of_users {
            for map in ["uid_map", "gid_map"] {
                let file = format!("/proc/{}/{map}", holder.id());
                fs::write(file, format!("0 {ITS_ROOT} 1000")).expect("users");
            }
        }
        Self { holder, of_users }
    }

    /// A process in it, by which `ip` names it.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A program that runs there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.id()));
        if self.of_users {
            command.arg(format!("--user=/proc/{}/ns/user", self.id()));
        }
        command.arg("--").arg(program);
        command
    }

    /// Runs `ip` with these words there.
    ///
    /// # Panics
    /// If it fails.
    pub fn ip(&self, words: &str) {
        output_of(self.command("ip").args(words.split_ascii_whitespace()));
    }
}

impl Default for Namespace {
    fn default() -> Self {
        Self::new()
    }
}

/// The network; while it lives, the peer does.
#[derive(Debug)]
pub struct Network {
    peer: Namespace,
}

impl Network {
    /// Moves this thread into a namespace of its own, and makes the peer.
    ///
    /// # Panics
    /// If this isn't root, or `ip` isn't there.
    pub fn new() -> Self {
        enter_new_namespace();
        let peer = Namespace::new();
        let id = peer.id();
        ip(&format!(
            "link add wire0 type veth peer name wire1 netns {id}"
        ));
        ip("addr add 10.7.0.1/24 dev wire0");
        ip("addr add fd07::1/64 dev wire0 nodad");
        ip("link set lo up");
        ip("link set wire0 up");
        peer.ip("addr add 10.7.0.2/24 dev wire1");
        peer.ip("addr add fd07::2/64 dev wire1 nodad");
        peer.ip("link set wire1 up");
        peer.ip("link set lo up");
        // The kernel says a moment later that they run; until then packets don't count as sent.
        until("wire0", || runs(Command::new("ip"), "wire0"));
        until("wire1", || runs(peer.command("ip"), "wire1"));
        Self { peer }
    }

    /// Starts a service at the peer with the distribution's libraries, and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn serve_in_peer(&self, service: &Service) -> Process {
        let mut command = self.in_peer(&service.words[0]);
        command.args(&service.words[1..]).stdout(Stdio::null());
        let mut process = Process::start(command.stderr(Stdio::null()));
        let peer = self.peer.id().to_string();
        until("a service at the peer", || {
            assert!(!process.ended(), "{:?} has ended", service.words);
            listens_beside(&peer, service.port).then_some(())
        });
        process
    }

    /// A program that runs at the peer.
    pub fn in_peer(&self, program: impl AsRef<OsStr>) -> Command {
        self.peer.command(program)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

/// Moves this thread, and what it starts from now on, into an empty network.
///
/// # Panics
/// If this isn't root.
pub fn enter_new_namespace() {
    // SAFETY: only the network namespace is unshared: file descriptors and memory stay common to all threads.
    let unshared = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
    unshared.expect("a network namespace (needs root)");
}

/// Runs `ip` with these words in this thread's namespace.
///
/// # Panics
/// If it fails.
pub fn ip(words: &str) {
    output_of(Command::new("ip").args(words.split_ascii_whitespace()));
}

/// Whether this interface is up and has a carrier, by the `ip` of its namespace.
fn runs(mut ip: Command, interface: &str) -> Option<()> {
    let shown = output_of(ip.args(["-oneline", "link", "show", interface]));
    shown.contains("state UP").then_some(())
}

/// Somebody who writes down what passes on an interface.
#[derive(Debug)]
pub struct Listener {
    process: Process,
    file: std::path::PathBuf,
}

impl Listener {
    /// Listens on `interface` of this thread's namespace, and writes to `file`.
    ///
    /// # Panics
    /// If it can't.
    pub fn start(interface: &str, file: &Path) -> Self {
        Self::start_by(Command::new("dumpcap"), interface, file)
    }

    /// The same, where `dumpcap` runs: in another namespace.
    ///
    /// # Panics
    /// If it can't.
    pub fn start_by(dumpcap: Command, interface: &str, file: &Path) -> Self {
        let mut command = dumpcap;
        command
            .args(["-q", "-p", "-B", "64", "-i", interface, "-w"])
            .arg(file);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command);
        // "Capturing on 'mirror0'"; the file is there once packets are taken.
        let words = process.first_words();
        assert!(words.contains("Capturing"), "dumpcap: {words}");
        until("dumpcap's file", || file.is_file().then_some(()));
        Self {
            process,
            file: file.to_owned(),
        }
    }

    /// Ends it once it has written down all that is awaited; what passed.
    ///
    /// # Panics
    /// If that doesn't come, or it doesn't end well.
    pub fn end(mut self, all: impl Fn(&Capture) -> bool) -> Capture {
        // What it has taken and not written when it ends is lost.
        until("all packets at the listener", || {
            let capture = Capture::read(&self.file).ok();
            capture.is_some_and(|capture| all(&capture)).then_some(())
        });
        self.process.signal(Signal::INT);
        let status = self.process.wait();
        assert!(status.success(), "dumpcap: {status}");
        Capture::read(&self.file).expect("a capture")
    }
}
