//! An agent below which somebody is attacked ([`crate::attacks`]), and others who are mirrored meanwhile.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::footprint::peak_bytes;
use crate::http1::{requests, responses};
use crate::lanes::{RING, word};
use crate::nginx::{Nginx, Options};
use crate::onwire::clear_text;
use crate::place::Place;
use crate::place::content;
use crate::process::{Process, output_of, until};
use crate::service::Agent;
use crate::sessions;
use crate::streams::Flow;
use crate::told::{self, Conversation};

/// Of each answer of nginx's, in bytes.
pub const ANSWER_BYTES: usize = 1000;

/// The agent; nginx and a server that says what it is told to, which it mirrors.
#[derive(Debug)]
pub struct Siege<'p> {
    place: &'p Place,
    /// Mirrors both.
    pub agent: Agent,
    nginx: Nginx<'p>,
    server: Process,
    /// The server's.
    pub port: u16,
}

impl<'p> Siege<'p> {
    /// All run, and the agent, which writes the place's capture and log, has their rings.
    ///
    /// # Panics
    /// If one doesn't come up.
    pub fn new(place: &'p Place, options: &[&str]) -> Self {
        let log = place.path("sessions.jsonl");
        let own = ["--ring-size", RING, "--log", &log.display().to_string()];
        let capture = place.path("capture.pcapng");
        let agent = Agent::start(place, &capture, &[&own, options].concat());
        let options = Options {
            http2: true,
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        nginx.start_with(|command| agent.prepare(command));
        let (server, port) = told::server(place, &agent);
        let siege = Self {
            place,
            agent,
            nginx,
            server,
            port,
        };
        // Until it has, little may be said.
        told::finish(siege.begin(&[Conversation::new("first")]));
        let url = format!("https://127.0.0.1:{}/get/{ANSWER_BYTES}", siege.nginx.port);
        output_of(Command::new("h2load").args(["-n", "1", &url]));
        sessions::await_lines(&log, 2);
        siege
    }

    /// Has these conversations with the server, all at once.
    pub fn begin(&self, conversations: &[Conversation]) -> Process {
        told::begin(self.place, self.port, conversations)
    }

    /// As [`begin`](Self::begin), until all wait and the agent has read what they have said: as much more has room in the ring,
    /// however late it is.
    ///
    /// # Panics
    /// If it never does.
    pub fn begin_and_read(&self, conversations: &[Conversation]) -> Process {
        let read = || {
            self.agent.signal(Signal::USR1);
            clear_text(&self.agent.said())
        };
        let before = until("a report", read);
        let more: usize = conversations
            .iter()
            .map(Conversation::bytes_until_wait)
            .sum();
        let client = self.begin(conversations);
        told::until_they_wait(self.place, conversations);
        until("the agent to read", || {
            (read()? >= before + more as u64).then_some(())
        });
        client
    }

    /// Somebody who loads nginx.
    pub fn load(&self) -> Load<'p> {
        Load::begin(self.place, self.nginx.port)
    }

    /// Port of nginx.
    pub fn nginx_port(&self) -> u16 {
        self.nginx.port
    }

    /// Ends all. What the agent has said, and the most memory that it has had, in bytes.
    ///
    /// # Panics
    /// If it doesn't end well.
    pub fn end(mut self) -> (String, u64) {
        self.nginx.quit();
        self.server.signal(Signal::TERM);
        assert!(self.server.wait().success());
        let most = peak_bytes(self.agent.process.id());
        (self.agent.end_well(), most)
    }
}

/// Requests by HTTP/2, twenty at a time on each of two connections, again and again.
#[derive(Debug)]
pub struct Load<'p> {
    place: &'p Place,
    shell: Process,
}

impl<'p> Load<'p> {
    /// Begins; the first connections are over.
    fn begin(place: &'p Place, port: u16) -> Self {
        let urls: String = (0..10)
            .map(|number| format!("https://127.0.0.1:{port}/get/{ANSWER_BYTES}?{number} "))
            .collect();
        // When the end is told there is one more.
        let script = format!(
            "cd '{}'\n\
             round() {{ h2load -n 60 -c 2 -m 20 {urls} >load 2>&1 || exit 9; echo >>rounds; }}\n\
             until [ -e enough ]; do round; done\nround\n",
            place.directory().display()
        );
        let load = Self {
            place,
            shell: Process::start(Command::new("sh").args(["-c", &script])),
        };
        until("a round of h2load", || {
            fs::exists(place.path("rounds")).ok()?.then_some(())
        });
        load
    }

    /// Ends it, after another round.
    ///
    /// # Panics
    /// If h2load fails.
    pub fn end(mut self) {
        fs::write(self.place.path("enough"), "").expect("a file");
        assert!(self.shell.wait().success(), "{}", self.place.text("load"));
    }
}

/// These flows have all requests that nginx has logged, each with its answer, as HTTP/1.1, and nothing else.
///
/// # Panics
/// If not.
pub fn assert_all_told(flows: &[&Flow], place: &Place) {
    let mut told = BTreeMap::new();
    for flow in flows {
        let is_lane = word(flow, "http1").is_some_and(|part| part.starts_with("lane:"));
        assert!(is_lane, "{}", flow.comment);
        let asked = requests(flow.request.whole().expect("no hole")).expect("requests");
        let answered = responses(flow.response.whole().expect("no hole")).expect("responses");
        assert_eq!(asked.len(), answered.len());
        for (request, response) in asked.into_iter().zip(answered) {
            assert!(response.line == "200" && response.content == content(ANSWER_BYTES));
            *told.entry(request.line).or_insert(0) += 1;
        }
    }
    let mut logged = BTreeMap::new();
    for entry in Nginx::read_log(place) {
        let line = format!("{} {}", entry.method, entry.url);
        *logged.entry(line).or_insert(0) += 1;
    }
    assert_eq!(told, logged);
}
