//! Two peers that say on TLS connections what they are told to, in turns: `tests/data/told.py`.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::bio::data;
use crate::client::PYTHON;
use crate::place::Place;
use crate::process::{Process, until};
use crate::service::Agent;

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Who connects.
    Client,
    /// Who is mirrored.
    Server,
    /// Nobody, until [`go`].
    Wait,
}

/// What is said on one connection.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// Its SNI.
    pub name: String,
    turns: Vec<(Who, Vec<u8>)>,
}

impl Conversation {
    /// In which nothing is said yet.
    pub fn new(name: &str) -> Self {
        Self {
            name: format!("{}.test", name.to_lowercase()),
            turns: Vec::new(),
        }
    }

    /// A turn, or more of one.
    #[must_use]
    pub fn then(mut self, who: Who, text: &[Vec<u8>]) -> Self {
        match self.turns.last_mut() {
            Some((last, said)) if *last == who => said.extend(text.concat()),
            _ => self.turns.push((who, text.concat())),
        }
        self
    }

    /// All that a side says.
    pub fn said(&self, by: Who) -> Vec<u8> {
        let turns = self.turns.iter().filter(|(who, _)| *who == by);
        turns.flat_map(|(_, text)| text).copied().collect()
    }

    /// Bytes that both sides say until somebody waits.
    pub fn bytes_until_wait(&self) -> usize {
        let turns = self.turns.iter().take_while(|(who, _)| *who != Who::Wait);
        turns.map(|(_, text)| text.len()).sum()
    }

    fn write(&self, place: &Place) {
        let word = |who| match who {
            Who::Client => "client",
            Who::Server => "server",
            Who::Wait => "wait",
        };
        let turns = self.turns.iter();
        let turns: Vec<_> = turns.map(|(who, text)| (word(*who), text.len())).collect();
        let mut file = serde_json::to_vec(&turns).expect("JSON");
        file.push(b'\n');
        file.extend(self.turns.iter().flat_map(|(_, text)| text));
        std::fs::write(place.path(&self.name), file).expect("a file");
    }
}

/// The server, which this agent mirrors; and its port.
///
/// # Panics
/// If it doesn't come up.
pub fn server(place: &Place, agent: &Agent) -> (Process, u16) {
    let mut python = Command::new(PYTHON);
    agent.prepare(&mut python);
    python.arg(data("told.py")).arg("server");
    python
        .arg(place.path("cert.pem"))
        .arg(place.path("key.pem"));
    python.arg(place.directory()).stdout(Stdio::piped());
    let mut server = Process::start(&mut python);
    let mut line = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a port");
    (server, line.trim().parse().expect("a port"))
}

/// Has all of these at once, each on a connection to `port` from a client that nobody mirrors.
pub fn begin(place: &Place, port: u16, conversations: &[Conversation]) -> Process {
    let mut python = Command::new(PYTHON);
    python.arg(data("told.py")).arg("client");
    python.arg(port.to_string()).arg(place.directory());
    for conversation in conversations {
        conversation.write(place);
        python.arg(&conversation.name);
    }
    Process::start_piped(&mut python)
}

/// Waits until all have come to where they wait.
///
/// # Panics
/// If they don't.
pub fn until_they_wait(place: &Place, conversations: &[Conversation]) {
    let waits = |one: &Conversation| place.path(&format!("{}.waits", one.name)).exists();
    until("conversations", || {
        conversations.iter().all(waits).then_some(())
    });
}

/// Lets those go on that wait.
///
/// # Panics
/// If the disk is full.
pub fn go(place: &Place) {
    std::fs::write(place.path("go"), "").expect("a file");
}

/// Waits until they are over.
///
/// # Panics
/// If one didn't go as it should.
pub fn finish(client: Process) {
    let output = client.output();
    assert!(output.status.success(), "{output:?}");
}
