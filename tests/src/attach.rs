//! A client in C that does to itself what programs do: `tests/data/attach.c`. With the distribution's
//! library, with the patched one; and an agent which serves it.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::nginx::Nginx;
use crate::place::Place;
use crate::process::{Process, output_of, run, until};
use crate::reader::Capture;
use crate::rules;
use crate::sslcollector::{library_dir, serve};
use crate::streams::{Flow, flows};

/// A scenario: a server, and the client's program.
#[derive(Debug)]
pub struct Scenario<'a> {
    /// Where everything lies.
    pub place: &'a Place,
    /// The server, which runs.
    pub nginx: Nginx<'a>,
}

/// What one of the client's connections said and heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The port that it came from.
    pub port: u16,
    /// What it sent.
    pub sent: Vec<u8>,
    /// What it received.
    pub received: Vec<u8>,
}

/// How a run of the client ended.
#[derive(Clone)]
pub struct Run {
    /// What a user sees.
    pub stdout: String,
    /// Its exit status; `None`: killed.
    pub code: Option<i32>,
    /// In the order of their ends.
    pub connections: Vec<Connection>,
}

impl<'a> Scenario<'a> {
    /// Compiles the client and starts the server.
    ///
    /// # Panics
    /// If either fails.
    pub fn new(place: &'a Place) -> Self {
        // Some of the clients are another user.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(place.directory(), open).expect("let others in");
        std::fs::create_dir(place.path("run")).expect("make a directory");
        compile(&place.path("attach"), &[]);
        let nginx = Nginx::new(place);
        nginx.start();
        Self { place, nginx }
    }

    /// Where the agent listens.
    pub fn socket(&self) -> PathBuf {
        self.place.path("run/agent.sock")
    }

    /// Starts an agent that writes to the file `capture`, and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn agent(&self, capture: &str) -> Process {
        self.agent_with(capture, &[])
    }

    /// As [`Scenario::agent`], with options.
    ///
    /// # Panics
    /// As above.
    pub fn agent_with(&self, capture: &str, options: &[&str]) -> Process {
        let mut command = serve(&self.place.path(capture), &self.socket());
        command.args(options);
        let mut agent = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = agent.first_words();
        assert!(said.contains("agent.sock"), "{said}");
        agent
    }

    /// The client's words.
    pub fn words<S: AsRef<str>>(&self, steps: &[S]) -> Vec<String> {
        let mut words = vec![
            self.place.path("attach").display().to_string(),
            self.nginx.port.to_string(),
        ];
        words.extend(steps.iter().map(|step| step.as_ref().to_owned()));
        words
    }

    /// A program with the distribution's library.
    pub fn stock<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env_remove("LD_LIBRARY_PATH");
        command.env_remove("SSLCOLLECTOR_SOCKET");
        command
    }

    /// A program with the patched library, which asks for the agent.
    pub fn patched<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let mut command = self.stock(words);
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", self.socket());
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
        command
    }

    /// Runs the client with the distribution's library, then with the patched one: a user sees the
    /// same. What the second of them said.
    ///
    /// # Panics
    /// If there is a difference, or both failed.
    pub fn same<S: AsRef<str>>(&self, steps: &[S]) -> Vec<Connection> {
        let words = self.words(steps);
        let stock = Run::of(run(&mut self.stock(&words)));
        assert_eq!(stock.code, Some(0), "{stock:?}");
        assert!(stock.stdout.ends_with("done\n"), "{stock:?}");
        let patched = Run::of(run(&mut self.patched(&words)));
        patched.assert_same(&stock, &words.join(" "));
        patched.connections
    }

    /// Ends an agent; the flows that it wrote to `capture`.
    ///
    /// # Panics
    /// If it doesn't end well, or the capture isn't a good one.
    pub fn flows(&self, mut agent: Process, capture: &str) -> Vec<Flow> {
        // Who has asked for it before this one has been heard when this one's flow is there.
        let words = self.words(&["open", "get:/get/1", "close"]);
        let last = Run::of(run(&mut self.patched(&words)));
        assert_eq!(last.code, Some(0), "{last:?}");
        let port = last.connections[0].port;
        let path = self.place.path(capture);
        until("the flow of the last program", || {
            // What is being written at this moment can't be read to its end.
            let found = flows(&Capture::read(&path).ok()?).ok()?;
            found.into_iter().find(|flow| flow.client.port() == port)
        });
        agent.signal(rustix::process::Signal::TERM);
        assert!(agent.wait().success());
        let read = Capture::read(&path).expect("a capture");
        rules::assert_good(&read, capture);
        let mut found = flows(&read).expect("flows");
        found.retain(|flow| flow.client.port() != port);
        found
    }
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { stdout, code, .. } = self;
        let connections = self.connections.len();
        write!(f, "{code:?}, {connections} connections: {stdout}")
    }
}

impl Run {
    /// Reads what the client printed.
    ///
    /// # Panics
    /// If that isn't as its head says.
    pub fn of(output: Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            code: output.status.code(),
            connections: connections(&output.stderr),
        }
    }

    /// A user sees the same as of `other`.
    ///
    /// # Panics
    /// If not.
    pub fn assert_same(&self, other: &Self, what: &str) {
        let (ours, theirs) = ((&self.stdout, self.code), (&other.stdout, other.code));
        assert_eq!(ours, theirs, "{what}");
    }
}

/// The flow of a connection, whose bytes are all at their places or missing.
///
/// # Panics
/// If there isn't exactly one, or a byte is wrong.
pub fn flow_of<'f>(flows: &'f [Flow], connection: &Connection) -> &'f Flow {
    let mut found = flows
        .iter()
        .filter(|flow| flow.client.port() == connection.port);
    let flow = found.next().expect("a flow of this connection");
    if let Some(second) = found.next() {
        panic!("two flows of one connection: {flow:?} and {second:?}");
    }
    assert_no_wrong_byte(flow, connection);
    flow
}

/// Each byte of a flow is at its place.
///
/// # Panics
/// If not.
pub fn assert_no_wrong_byte(flow: &Flow, connection: &Connection) {
    let request = flow.request.difference_at_beginning(&connection.sent);
    assert_eq!(request, None, "what the client said");
    let response = flow.response.difference_at_beginning(&connection.received);
    assert_eq!(response, None, "what the server said");
}

/// The flow of a connection is there, and nothing is missing.
///
/// # Panics
/// If something is.
pub fn assert_whole(flows: &[Flow], connection: &Connection) {
    let flow = flow_of(flows, connection);
    let comment = &flow.comment;
    assert_eq!(
        flow.request.whole(),
        Some(&connection.sent[..]),
        "{comment}"
    );
    let response = flow.response.whole();
    assert_eq!(response, Some(&connection.received[..]), "{comment}");
}

/// Compiles the client for the library that the loader finds, or for the one that `options` name.
///
/// # Panics
/// If the compiler objects.
pub fn compile(program: &Path, options: &[&str]) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/attach.c");
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
    cc.arg(program).arg(source).args(options);
    output_of(cc.args(["-lssl", "-lcrypto"]));
}

fn connections(mut text: &[u8]) -> Vec<Connection> {
    const HEAD: &[u8] = b"#connection ";
    let mut found = Vec::new();
    while let Some(at) = text.windows(HEAD.len()).position(|bytes| bytes == HEAD) {
        let line = &text[at + HEAD.len()..];
        let end = line.iter().position(|byte| *byte == b'\n');
        let end = end.expect("the head of a connection is a line");
        let numbers: Vec<usize> = String::from_utf8_lossy(&line[..end])
            .split(' ')
            .map(|number| number.parse().expect("a number"))
            .collect();
        let (sent, rest) = line[end + 1..].split_at(numbers[1]);
        let (received, rest) = rest.split_at(numbers[2]);
        found.push(Connection {
            port: u16::try_from(numbers[0]).expect("a port"),
            sent: sent.to_vec(),
            received: received.to_vec(),
        });
        text = rest;
    }
    found
}
