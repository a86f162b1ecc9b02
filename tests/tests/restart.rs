//! An agent ends and the next one goes on, while programs talk: by SIGTERM and a service manager that
//! keeps its rings nothing is lost; by SIGKILL what is missing is declared. Nothing is there twice, and
//! no byte is anywhere but at its place.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mirror_tests::client;
use mirror_tests::manager::Manager;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, until};
use mirror_tests::reader::{Capture, ReadError};
use mirror_tests::rules::{self, Rule};
use mirror_tests::sslcollector::library_dir;
use mirror_tests::streams::{Flow, Stream, flows};
use rustix::process::Signal;

/// Restarts under load; `MIRROR_RESTARTS` for another number.
const RESTARTS: usize = 4;
/// What programs hear between two restarts, at least.
const BETWEEN: u64 = 20_000;
/// Room for descriptors in the manager.
const ROOM: usize = 100;
const PAGE: usize = 20_000;

/// A client with the patched library; what it says and hears lies in a directory of its own.
struct Client {
    directory: PathBuf,
    process: Process,
}

struct Scenario<'p> {
    place: &'p Place,
    nginx: Nginx<'p>,
    manager: Manager,
    clients: Vec<Client>,
}

impl<'p> Scenario<'p> {
    fn new(place: &'p Place, room: usize) -> Self {
        let options = Options {
            requests: u64::from(u32::MAX >> 1),
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        nginx.start();
        fs::create_dir(place.path("run")).expect("make a directory");
        Self {
            place,
            nginx,
            manager: Manager::new(place, room),
            clients: Vec::new(),
        }
    }

    /// The agent, whose captures are `capture.pcapng`, `capture.2.pcapng` …
    fn start_agent(&mut self) {
        let capture = self.place.path("capture.pcapng");
        let socket = self.place.path("run/agent.sock");
        let options = ["-I", "none", "--ring-size", "16M"];
        self.manager.start(&capture, &socket, &options);
    }

    fn start_client(&mut self, steps: &[&str]) {
        let directory = self.place.path(&format!("out/{}", self.clients.len()));
        fs::create_dir(&directory).expect("make a directory");
        let mut words = client::words(self.place, self.nginx.port, steps);
        words[3] = directory.display().to_string();
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..]);
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", self.place.path("run/agent.sock"));
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
        // What it prints is more than a pipe holds.
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let process = Process::start(&mut command);
        self.clients.push(Client { directory, process });
    }

    /// Until all clients have heard more.
    fn until_they_go_on(&self) {
        let heard = |client: &Client| -> u64 {
            let files = (1..).map(|number| client.directory.join(format!("received.{number}")));
            files
                .map_while(|file| fs::metadata(file).ok())
                .map(|file| file.len())
                .sum()
        };
        let before: Vec<_> = self.clients.iter().map(heard).collect();
        until("programs that go on", || {
            let mut all = self.clients.iter().zip(&before);
            all.all(|(client, before)| heard(client) > before + BETWEEN)
                .then_some(())
        });
    }

    /// The clients end, then the agent; all that was said, by port. Of a port that the kernel gave twice
    /// it isn't known which flow is whose: `None`.
    fn end(&mut self) -> BTreeMap<u16, Option<Truth>> {
        let mut all = BTreeMap::new();
        for client in &self.clients {
            fs::write(client.directory.join("enough"), "").expect("say that it is enough");
        }
        for client in std::mem::take(&mut self.clients) {
            let output = client.process.output();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}", output.status);
            for number in 1.. {
                let read = |name: &str| fs::read(client.directory.join(format!("{name}.{number}")));
                let (Ok(port), Ok(sent), Ok(received)) =
                    (read("port"), read("sent"), read("received"))
                else {
                    break;
                };
                let port: u16 = String::from_utf8_lossy(&port).parse().expect("a port");
                let truth = Some(Truth { sent, received });
                all.entry(port)
                    .and_modify(|truth| *truth = None)
                    .or_insert(truth);
            }
        }
        self.manager.end(Signal::TERM);
        self.nginx.quit();
        all
    }

    /// The flows of all captures, in the order of the agents. Those that were killed haven't closed any.
    fn flows(&self, killed: bool) -> Vec<Flow> {
        let first = Path::new("capture.pcapng").to_owned();
        let later = (2..).map(|number| PathBuf::from(format!("capture.{number}.pcapng")));
        let files = std::iter::once(first).chain(later);
        let mut all = Vec::new();
        for file in files.map_while(|name| fs::read(self.place.path(name.to_str()?)).ok()) {
            let capture = match Capture::parse(&file) {
                // An agent that was killed.
                Err(ReadError::Truncated(at)) if at > 0 => Capture::parse(&file[..at]),
                result => result,
            };
            let capture = capture.expect("a capture");
            let mut violations = rules::check(&capture);
            if killed {
                violations.retain(|violation| violation.rule != Rule::NotClosed);
            }
            assert!(violations.is_empty(), "{violations:?}");
            all.extend(flows(&capture).expect("flows"));
        }
        all
    }
}

/// What a connection said and heard.
struct Truth {
    sent: Vec<u8>,
    received: Vec<u8>,
}

/// What is missing of a connection, and in how many flows it is.
#[derive(Debug, Default)]
struct Seen {
    missing: u64,
    /// … of these behind all flows.
    tail: u64,
    flows: usize,
}

/// Where in the session a flow begins: client, server.
fn base(flow: &Flow) -> (u64, u64) {
    let offset = |name: &str| {
        let word = flow
            .comment
            .split(' ')
            .find_map(|word| word.strip_prefix(name));
        word.map_or(0, |number| number.parse().expect("an offset"))
    };
    let bases = (offset("client_offset="), offset("server_offset="));
    if !flow.comment.contains("continued=yes") {
        assert_eq!(bases, (0, 0), "{}", flow.comment);
    }
    bases
}

/// Looks whether the flows of a connection, one behind the other, are what it said.
fn look(flows: &[&Flow], truth: &Truth) -> Seen {
    let mut seen = Seen::default();
    let mut at = (0, 0);
    for flow in flows {
        seen.flows += 1;
        let bases = base(flow);
        let streams: [(&Stream, &[u8], u64, &mut u64); 2] = [
            (&flow.request, &truth.sent, bases.0, &mut at.0),
            (&flow.response, &truth.received, bases.1, &mut at.1),
        ];
        for (stream, truth, base, at) in streams {
            let comment = &flow.comment;
            assert!(base >= *at, "there twice from {base} to {at}: {comment}");
            let from = usize::try_from(base).expect("a length");
            let truth = truth.get(from..).expect("no more than was said");
            let difference = stream.difference_at_beginning(truth);
            assert_eq!(difference, None, "{comment}");
            seen.missing += base - *at + stream.missing();
            *at = base + stream.length();
        }
    }
    seen.tail = truth.sent.len() as u64 - at.0 + truth.received.len() as u64 - at.1;
    seen.missing += seen.tail;
    seen
}

/// What became of each connection.
fn judge(flows: &[Flow], truth: &BTreeMap<u16, Option<Truth>>) -> Vec<Seen> {
    let ports = flows.iter().map(|flow| flow.client.port());
    for port in ports {
        assert!(truth.contains_key(&port), "a flow from nowhere: {port}");
    }
    let of = |port: u16| -> Vec<&Flow> {
        let ours = flows.iter().filter(|flow| flow.client.port() == port);
        ours.collect()
    };
    let known = truth
        .iter()
        .filter_map(|(port, truth)| Some((port, truth.as_ref()?)));
    known.map(|(port, truth)| look(&of(*port), truth)).collect()
}

fn restarts() -> usize {
    let number = std::env::var("MIRROR_RESTARTS").ok();
    number.map_or(RESTARTS, |number| {
        number.parse().expect("a number of restarts")
    })
}

/// Programs that talk while agents come and go; what became of what they said.
fn under_load(signal: Signal) -> (Vec<Seen>, usize) {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place, ROOM);
    scenario.start_agent();
    scenario.start_client(&["until:/get/20000", "close"]);
    scenario.start_client(&["until:/get/1", "close"]);
    scenario.start_client(&["each:/get/20000"]);
    for number in 0..restarts() {
        scenario.until_they_go_on();
        scenario.manager.end(signal);
        if number == 1 {
            // Asks for an agent when there is none: it is heard by the next one.
            scenario.start_client(&["get:/get/20000", "until:/get/1", "close"]);
        }
        scenario.start_agent();
    }
    scenario.until_they_go_on();
    let truth = scenario.end();
    let seen = judge(&scenario.flows(signal == Signal::KILL), &truth);
    let said = scenario.manager.said();
    assert!(!said.contains("isn't used"), "{said}");
    (seen, said.matches("went on here").count())
}

#[test]
fn an_agent_that_is_ended_under_load_loses_nothing() {
    let (seen, went_on) = under_load(Signal::TERM);
    let missing: u64 = seen.iter().map(|seen| seen.missing).sum();
    assert_eq!(missing, 0, "{seen:?}");
    // There is a connection that has seen all of them.
    assert!(
        seen.iter().any(|seen| seen.flows == restarts() + 1),
        "{seen:?}"
    );
    assert_eq!(went_on, restarts());
}

#[test]
fn an_agent_that_is_killed_under_load_leaves_exact_holes() {
    let (seen, _) = under_load(Signal::KILL);
    // Connections go on with a later agent, and what the last one had of them is whole.
    let lasting = seen.iter().filter(|seen| seen.flows > 1);
    let tails: Vec<_> = lasting.map(|seen| seen.tail).collect();
    assert!(
        tails.len() >= 2 && tails.iter().all(|tail| *tail == 0),
        "{seen:?}"
    );
}

#[test]
fn what_is_not_right_is_not_used() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place, ROOM);
    // One whose ring is always right.
    scenario.start_agent();
    scenario.start_client(&["until:/get/20000", "close"]);
    let sealed = "no memfd that is sealed";
    let cases = [
        ("ring", "null", "the memory isn't sealed"),
        ("ring", "loose", "the memory isn't sealed"),
        ("ring", "small", "the memory has another size"),
        ("ring", "copy:sessions", "the memory has another size"),
        ("process", "null", "the process isn't the one"),
        ("process", "self", "the process isn't the one"),
        ("sessions", "null", sealed),
        ("sessions", "copy:ring", "bytes where"),
        ("sessions", "nothing", "1 of its parts are missing"),
    ];
    let mut good = Vec::new();
    for (part, kind, reason) in cases {
        let case = format!("{part}: {kind}");
        scenario.until_they_go_on();
        let before = scenario.manager.kept();
        scenario.start_client(&["until:/get/20000", "close"]);
        scenario.until_they_go_on();
        let kept = scenario.manager.kept();
        good = before;
        scenario.manager.end(Signal::TERM);
        let mut ring = kept.iter().filter(|name| !good.contains(name));
        let ring = ring.find_map(|name| name.strip_prefix("ring-"));
        let ring = ring.expect("its ring is kept").to_owned();

        let manager = &mut scenario.manager;
        let kind = match kind.strip_prefix("copy:") {
            Some(other) => format!("copy:{other}-{ring}"),
            None => kind.to_owned(),
        };
        let name = format!("{part}-{ring}");
        manager.drop_kept(&name);
        if kind != "nothing" {
            manager.put(&name, &kind);
        }
        manager.put("something", "null");
        let said_before = manager.said().len();
        scenario.start_agent();
        assert_eq!(scenario.manager.kept(), good, "{case}");
        let said = scenario.manager.said()[said_before..].to_owned();
        for words in [&ring, reason, "something"] {
            assert!(said.contains(words), "{case}: {words} isn't in {said}");
        }
        // Its program says to nobody what it says, and notices nothing.
        scenario.until_they_go_on();
    }
    assert_eq!(good.len(), 5, "{good:?}");
    let truth = scenario.end();
    let seen = judge(&scenario.flows(false), &truth);
    let whole = seen.iter().filter(|seen| seen.missing == 0).count();
    assert_eq!(whole, 1, "{seen:?}");
}

#[test]
fn a_program_that_ends_meanwhile_is_read_to_its_end() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place, ROOM);
    scenario.start_agent();
    scenario.start_client(&["until:/get/20000", "close"]);
    scenario.until_they_go_on();
    scenario.manager.end(Signal::TERM);
    let enough = scenario.clients[0].directory.join("enough");
    fs::write(enough, "").expect("say that it is enough");
    scenario.clients[0].process.wait();
    scenario.start_agent();
    until("the end of its ring", || {
        (scenario.manager.kept().len() == 2).then_some(())
    });
    let truth = scenario.end();
    let seen = judge(&scenario.flows(false), &truth);
    assert_eq!((seen[0].missing, seen[0].flows), (0, 2));
}
