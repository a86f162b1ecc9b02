//! A program in a small memory cgroup lives, with its ring as large as it gets: the ring's pages are the
//! agent's, except for the first few.
//!
//! Of the two versions of cgroups the one is used whose memory controller this system has.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mirror_tests::attach::{Scenario, assert_no_wrong_byte, flow_of};
use mirror_tests::native::{compile_gnu, hook_archive, source};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run};
use mirror_tests::sslcollector::serve;
use rustix::process::{Signal, geteuid};

const PAGE: usize = 1_500_000;
/// More than the ring's 16 MiB in all.
const SESSIONS: usize = 14;
/// What the client itself needs from here on is about 3 MiB.
const LIMIT: usize = 6 << 20;
/// What a ring costs the process that asks for it: until an agent has answered it may use this much.
const BOOTSTRAP: u64 = 64 << 10;
/// The control pages, of which few are ever touched.
const CONTROL: u64 = 64 << 10;

/// A memory cgroup, which goes when this is dropped.
struct Group(PathBuf);

impl Group {
    /// `None`: this system lets us make none.
    fn new(name: &str, limit_bytes: Option<usize>) -> Option<Self> {
        let name = format!("mirror-tests-{name}-{}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        // Version 1 has a hierarchy for memory; in version 2 children get what their parent passes on.
        let (parent, limit) = match root.join("memory/cgroup.procs").exists() {
            true => (root.join("memory"), "memory.limit_in_bytes"),
            false => (root.to_owned(), "memory.max"),
        };
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        let group = Self(parent.join(name));
        fs::create_dir(&group.0).ok()?;
        if let Some(bytes) = limit_bytes {
            fs::write(group.0.join(limit), bytes.to_string()).ok()?;
        }
        let _ = fs::write(group.0.join("memory.swap.max"), "0");
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// An agent, and a program that measures what its rings cost it.
struct Charges {
    place: Place,
    group: Group,
    agent: Process,
}

impl Charges {
    fn new(name: &str) -> Option<Self> {
        let group = Group::new(name, None)?;
        let place = Place::new(&[]);
        let sources = [source("tests/data/charged.c")];
        compile_gnu(&sources, &place.path("charged"), &[&hook_archive()]);
        let mut agent = serve(&place.path("capture.pcapng"), &place.path("agent.sock"));
        agent.args(["--ring-size", "4M"]);
        let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = agent.first_words();
        assert!(said.contains("agent.sock"), "{said}");
        Some(Self {
            place,
            group,
            agent,
        })
    }

    /// What the program prints for each ring.
    fn rings(&self, what: &str, more: &[&str]) -> Vec<String> {
        let mut command = Command::new(self.place.path("charged"));
        command.arg(what).arg(&self.group.0).args(more);
        command.env("SSLCOLLECTOR_SOCKET", self.place.path("agent.sock"));
        command.env("SSLCOLLECTOR_AGENT_UID", geteuid().as_raw().to_string());
        let output = run(&mut command);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{}: {said}", output.status);
        said.lines().map(str::to_owned).collect()
    }
}

#[test]
fn a_small_memory_cgroup() {
    let Some(group) = Group::new("small", Some(LIMIT)) else {
        println!("no memory cgroup can be made here: nothing was tested");
        return;
    };
    let place = Place::new(&[PAGE]);
    let scenario = Scenario::new(&place);
    let mut steps = vec![format!("cgroup:{}", group.0.display())];
    let get = format!("get:/get/{PAGE}");
    for _ in 0..SESSIONS {
        steps.extend(["open".to_owned(), get.clone(), "close".to_owned()]);
    }

    let agent = scenario.agent("capture.pcapng");
    let said = scenario.same(&steps);
    assert_eq!(said.len(), SESSIONS);
    let flows = scenario.flows(agent, "capture.pcapng");
    let seen: u64 = flows
        .iter()
        .map(|flow| flow.response.length() - flow.response.missing())
        .sum();
    assert!(
        seen > LIMIT as u64,
        "only {seen} bytes went through the ring"
    );
    for connection in &said {
        let flow = flow_of(&flows, connection);
        assert_eq!(flow.response.difference(&connection.received), None);
    }

    // An agent that never answers: the process has its first pages to fill, and no more.
    let agent = scenario.agent("second.pcapng");
    agent.signal(Signal::STOP);
    let said = scenario.same(&steps);
    agent.signal(Signal::CONT);
    let flows = scenario.flows(agent, "second.pcapng");
    for flow in &flows {
        let connection = said.iter().find(|one| one.port == flow.client.port());
        assert_no_wrong_byte(flow, connection.expect("a connection of the client's"));
    }
    scenario.nginx.quit();
}

/// One process, one ring after another, each of them filled, with 1 MiB to spare for all.
#[test]
fn two_hundred_rings_of_a_process_with_a_mebibyte_to_spare() {
    let Some(mut charges) = Charges::new("again") else {
        println!("no memory cgroup can be made here: nothing was tested");
        return;
    };
    let rings = charges.rings("again", &["200", &(1 << 20).to_string()]);
    assert_eq!(rings.len(), 200);
    charges.agent.signal(Signal::TERM);
    assert!(charges.agent.wait().success());
}
/// The process gives such a ring up after a while, and asks anew. The agent still has it in its socket.
#[test]
fn an_agent_that_never_answers_costs_one_bootstrap_region() {
    let Some(charges) = Charges::new("unanswered") else {
        println!("no memory cgroup can be made here: nothing was tested");
        return;
    };
    charges.agent.signal(Signal::STOP);
    let rings = charges.rings("unanswered", &["2"]);
    assert_eq!(rings.len(), 2);
    for ring in &rings {
        let (_, charged) = ring.split_once(' ').expect("a charge");
        let charged = charged.parse().expect("a charge");
        // It has been filled, so there is one.
        let expected = BOOTSTRAP..=BOOTSTRAP + CONTROL;
        assert!(expected.contains(&charged), "{rings:?}");
    }
}
