//! An agent ends and the next one goes on, while programs talk: by SIGTERM and a service manager that
//! keeps its rings nothing is lost; by SIGKILL what is missing is declared. Nothing is there twice, and
//! no byte is anywhere but at its place.

use std::fs;
use std::path::{Path, PathBuf};

use mirror_tests::manager::Manager;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::until;
use mirror_tests::reader::{Capture, ReadError};
use mirror_tests::rules::{self, Rule};
use mirror_tests::streams::{Flow, flows};
use mirror_tests::talkers::{Seen, Talkers, Truths, judge};
use rustix::process::Signal;

/// Restarts under load; `MIRROR_RESTARTS` for another number.
const RESTARTS: usize = 4;
/// Room for descriptors in the manager.
const ROOM: usize = 100;
const PAGE: usize = 20_000;

struct Scenario<'p> {
    place: &'p Place,
    nginx: Nginx<'p>,
    manager: Manager,
    talkers: Talkers<'p>,
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
        let talkers = Talkers::new(place, nginx.port);
        Self {
            place,
            nginx,
            manager: Manager::new(place, room),
            talkers,
        }
    }

    /// The agent, whose captures are `capture.pcapng`, `capture.2.pcapng` …
    fn start_agent(&mut self) {
        let capture = self.place.path("capture.pcapng");
        let socket = self.place.path("run/agent.sock");
        let options = ["-I", "none", "--ring-size", "16M"];
        self.manager.start(&capture, &socket, &options);
    }

    /// The clients end, then the agent; all that was said.
    fn end(&mut self) -> Truths {
        let all = self.talkers.end();
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

/// What became of each connection; nothing of it is there twice.
fn judged(flows: &[Flow], truths: &Truths) -> Vec<Seen> {
    let seen = judge(flows, truths);
    assert!(seen.iter().all(|seen| seen.repeated == 0), "{seen:?}");
    seen
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
    scenario.talkers.start(&["until:/get/20000", "close"]);
    scenario.talkers.start(&["until:/get/1", "close"]);
    scenario.talkers.start(&["each:/get/20000"]);
    for number in 0..restarts() {
        scenario.talkers.until_they_go_on();
        scenario.manager.end(signal);
        if number == 1 {
            // Asks for an agent when there is none: it is heard by the next one.
            scenario
                .talkers
                .start(&["get:/get/20000", "until:/get/1", "close"]);
        }
        scenario.start_agent();
    }
    scenario.talkers.until_they_go_on();
    let truth = scenario.end();
    let seen = judged(&scenario.flows(signal == Signal::KILL), &truth);
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
    scenario.talkers.start(&["until:/get/20000", "close"]);
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
        scenario.talkers.until_they_go_on();
        let before = scenario.manager.kept();
        scenario.talkers.start(&["until:/get/20000", "close"]);
        scenario.talkers.until_they_go_on();
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
        scenario.talkers.until_they_go_on();
    }
    assert_eq!(good.len(), 5, "{good:?}");
    let truth = scenario.end();
    let seen = judged(&scenario.flows(false), &truth);
    let whole = seen.iter().filter(|seen| seen.missing == 0).count();
    assert_eq!(whole, 1, "{seen:?}");
}

#[test]
fn a_program_that_ends_meanwhile_is_read_to_its_end() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place, ROOM);
    scenario.start_agent();
    scenario.talkers.start(&["until:/get/20000", "close"]);
    scenario.talkers.until_they_go_on();
    scenario.manager.end(Signal::TERM);
    scenario.talkers.end_first();
    scenario.start_agent();
    until("the end of its ring", || {
        (scenario.manager.kept().len() == 2).then_some(())
    });
    let truth = scenario.end();
    let seen = judged(&scenario.flows(false), &truth);
    assert_eq!((seen[0].missing, seen[0].flows), (0, 2));
}
