#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Whatever becomes of the agent, the connections go on and every byte arrives. Each application is
//! this test binary started again, for the hook has one state a process.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use common::recorder::Agent;
use common::tls;
use rustls_mirror::{ClientConnection, ServerConnection, StreamOwned};

const SCENARIO: &str = "RUSTLS_MIRROR_TEST_SCENARIO";
const SOCKET: &str = "SSLCOLLECTOR_SOCKET";
/// Said by each end before and after each pause: many times the ring's size.
const ROUND_BYTES: usize = 3_000_000;
const ROUNDS: usize = 2;

/// A program that this binary plays. Killed when it is dropped.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(scenario: &str, socket: Option<&Path>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "plays_its_scenario", "--nocapture"])
            .env(SCENARIO, scenario)
            .env_remove(SOCKET)
            .env_remove("SSLCOLLECTOR_ENABLE")
            .env(
                "SSLCOLLECTOR_AGENT_UID",
                rustix::process::getuid().as_raw().to_string(),
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(path) = socket {
            command.env(SOCKET, path);
        }
        let mut child = command.spawn().unwrap();
        Self {
            stdin: child.stdin.take().unwrap(),
            stdout: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Waits until it says that it has reached `step`.
    fn reached(&mut self, step: &str) {
        let mut line = String::new();
        while line.trim() != format!("@{step}") {
            line.clear();
            let count = self.stdout.read_line(&mut line).unwrap();
            assert_ne!(count, 0, "the program ended before {step}");
        }
    }

    fn go(&mut self) {
        self.stdin.write_all(b"go\n").unwrap();
    }

    /// Waits for its end, which must be good.
    fn end(mut self) {
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn reach(step: &str) {
    println!("\n@{step}");
}

/// Tells the test, and waits for it.
fn pause(step: &str) {
    reach(step);
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "go\n", "the test has ended");
}

/// Nothing by itself: what the tests below start.
#[test]
fn plays_its_scenario() {
    match std::env::var(SCENARIO).as_deref() {
        Ok("talk") => talk(),
        Ok("agent") => agent(),
        _ => {}
    }
}

/// Reads all that it gets, until it is killed.
fn agent() {
    let path = std::env::var_os(SOCKET).unwrap();
    let agent = Agent::listen(Path::new(&path));
    reach("listening");
    let mut ring = agent.accept(1 << 20);
    reach("reading");
    loop {
        ring.discard_all();
        thread::sleep(std::time::Duration::from_millis(1));
    }
}

fn text(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| ((at + seed) % 251).to_le_bytes()[0])
        .collect()
}

/// Both ends of one connection, each checking all that it reads.
fn talk() {
    let (client_config, server_config) = tls::configs();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client_socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server_socket, _) = listener.accept().unwrap();
    let serving = thread::spawn(move || {
        let server = ServerConnection::new(server_config).unwrap();
        let mut server = StreamOwned::new(server, server_socket);
        for round in 0..ROUNDS {
            let mut got = vec![0; ROUND_BYTES];
            server.read_exact(&mut got).unwrap();
            assert!(got == text(ROUND_BYTES, round));
            server.write_all(&text(ROUND_BYTES, round + 100)).unwrap();
            server.flush().unwrap();
        }
        server.conn.send_close_notify();
        server.flush().unwrap();
    });
    let client = ClientConnection::new(client_config, tls::name("talk")).unwrap();
    let mut client = StreamOwned::new(client, client_socket);
    for round in 0..ROUNDS {
        client.write_all(&text(ROUND_BYTES, round)).unwrap();
        client.flush().unwrap();
        let mut got = vec![0; ROUND_BYTES];
        client.read_exact(&mut got).unwrap();
        assert!(got == text(ROUND_BYTES, round + 100));
        pause(&format!("round {round}"));
    }
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    serving.join().unwrap();
    reach("done");
}

/// Lets a talk go on to its end.
fn to_its_end(mut talk: Program) {
    for round in 0..ROUNDS {
        talk.reached(&format!("round {round}"));
        talk.go();
    }
    talk.reached("done");
    talk.end();
}

#[test]
fn nobody_asked_for_a_mirror() {
    to_its_end(Program::start("talk", None));
}

#[test]
fn no_agent_is_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    to_its_end(Program::start("talk", Some(&path)));
}

#[test]
fn an_agent_never_answers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let _agent = Agent::listen(&path);
    to_its_end(Program::start("talk", Some(&path)));
}

#[test]
fn the_ring_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let agent = Agent::listen(&path);
    let talk = Program::start("talk", Some(&path));
    let ring = agent.accept(64 * 1024);
    to_its_end(talk);
    let dropped = ring.consumer.counters().dropped_bytes;
    assert!(
        dropped > ROUND_BYTES as u64,
        "{dropped} bytes found no room"
    );
}

#[test]
fn the_agent_is_killed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let mut agent = Program::start("agent", Some(&path));
    agent.reached("listening");
    let mut talk = Program::start("talk", Some(&path));
    agent.reached("reading");
    talk.reached("round 0");
    drop(agent);
    talk.go();
    talk.reached("round 1");
    talk.go();
    talk.reached("done");
    talk.end();
}
