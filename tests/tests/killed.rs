//! Processes killed in the middle of a write into their ring: what was complete is delivered, what wasn't is a hole
//! of its exact length, and nobody else's text suffers.
//!
//! By default a few kills at chosen places and some more at random ones; `MIRROR_KILLS=N` (`make kills`) takes N of
//! them, and every single instruction of a write.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ChildStdin, Command, Stdio};

use mirror_tests::native::{compile_gnu, hook_archive, source};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector::serve;
use mirror_tests::streams::{End, Flow, flows};
use rustix::process::{Signal, geteuid};

/// Text in one record, and so in one hole.
const RECORD: u64 = 16 * 1024;
const SENT: u64 = 0;
const RECEIVED: u64 = 1;
/// What a process has said on its first connection before the call in which it is killed.
const BEFORE: u64 = 999;
/// The call that is watched instruction by instruction.
const STEPPED: u64 = 100;
const WITNESS: u32 = 65_535;

/// The number of kills that was asked for.
fn asked_for() -> Option<u32> {
    let number = std::env::var("MIRROR_KILLS").ok()?;
    Some(number.parse().expect("MIRROR_KILLS is a number"))
}

/// The bytes that `tests/data/killed.c` makes up.
fn text(number: u32, port: u16, direction: u64, length: u64) -> Vec<u8> {
    let word = |index: u64| {
        let place = u64::from(number) << 16 | u64::from(port);
        let z = (place << 33)
            .wrapping_add(direction << 32)
            .wrapping_add(index);
        let z = z
            .wrapping_add(0x9e37_79b9_7f4a_7c15)
            .wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31).to_le_bytes()
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(word).collect();
    bytes.truncate(usize::try_from(length).expect("a short text"));
    bytes
}

/// An agent, and a process that goes on while others are killed.
struct Kills {
    place: Place,
    agent: Process,
    witness: Process,
    feed: ChildStdin,
    fed: u64,
}

/// What is left when all is over.
struct Left {
    flows: Vec<Flow>,
    /// What the agent said.
    said: String,
}

impl Kills {
    fn new() -> Self {
        let place = Place::new(&[]);
        let sources = [source("tests/data/killed.c")];
        compile_gnu(
            &sources,
            &place.path("killed"),
            &[&hook_archive(), "-lpthread"],
        );
        let said = File::create(place.path("said")).expect("a file");
        let mut agent = serve(&place.path("capture.pcapng"), &place.path("agent.sock"));
        let agent = Process::start(agent.stdout(Stdio::null()).stderr(said));
        until("the agent to listen", || {
            place.text("said").contains("agent.sock").then_some(())
        });
        let mut witness = killed(&place, &["witness", &WITNESS.to_string()]);
        let (witness, feed) = Process::start_fed(&mut witness);
        Self {
            place,
            agent,
            witness,
            feed,
            fed: 0,
        }
    }

    /// Runs a process that is killed, or that sees another one killed; what it said.
    fn kill(&mut self, words: &[&str]) -> String {
        let output = run(&mut killed(&self.place, words));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let as_meant = match words[0] {
            "copy" => output.status.signal() == Some(9),
            _ => output.status.success(),
        };
        assert!(as_meant, "{words:?}: {}: {said}", output.status);
        self.feed.write_all(b".").expect("the witness lives");
        self.fed += 1;
        said
    }

    fn end(mut self) -> Left {
        drop(self.feed);
        assert!(self.witness.wait().success());
        let capture = self.place.path("capture.pcapng");
        until("the end of the witness's flow", || {
            let found = flows(&Capture::read(&capture).ok()?).ok()?;
            let witness = found
                .iter()
                .find(|flow| flow.client == address(WITNESS, 0))?;
            (witness.end != End::Open).then_some(())
        });
        self.agent.signal(Signal::TERM);
        assert!(self.agent.wait().success());
        let capture = Capture::read(&capture).expect("a capture");
        rules::assert_good(&capture, "killed");
        let left = Left {
            flows: flows(&capture).expect("flows"),
            said: self.place.text("said"),
        };
        let witness = left.flow(WITNESS, 0);
        let request = text(WITNESS, 1000, SENT, self.fed * 500);
        let response = text(WITNESS, 1000, RECEIVED, self.fed * 300);
        assert!(witness.request.whole() == Some(&request[..]), "{witness:?}");
        assert!(
            witness.response.whole() == Some(&response[..]),
            "{witness:?}"
        );
        assert_eq!(witness.end, End::ClosedByClient);
        left
    }
}

impl Left {
    fn flow(&self, number: u32, connection: u16) -> &Flow {
        let mut found = self
            .flows
            .iter()
            .filter(|flow| flow.client == address(number, connection));
        match (found.next(), found.next()) {
            (Some(flow), None) => flow,
            (first, _) => panic!("process {number}, connection {connection}: {first:?}"),
        }
    }

    /// What the killed process said on a connection that lasted until its end: `complete` bytes, and `lost` that are
    /// declared as lost.
    fn assert_cut(&self, number: u32, connection: u16, complete: u64, lost: u64) {
        let flow = self.flow(number, connection);
        let truth = text(number, 1000 + connection, SENT, complete);
        assert_eq!(flow.request.difference(&truth), None, "process {number}");
        assert_eq!(flow.request.holes(), [], "process {number}");
        assert_eq!(flow.end, End::ResetByClient, "process {number}");
        // No packet can show a hole that nothing follows; the reset's comment does.
        let mut words = flow.end_comment.split(' ');
        let told = words.find_map(|word| word.strip_prefix("client_missing="));
        let lost = Some(lost.to_string()).filter(|_| lost > 0);
        assert_eq!(told, lost.as_deref(), "process {number}");
    }

    /// The agent counts as many, in a line of its report that goes on like this.
    fn assert_told(&self, count: usize, what: &str) {
        let line = self.said.lines().find(|line| line.contains(what));
        let told = line.and_then(|line| {
            let line = line.strip_prefix("sslcollector: ")?;
            line.split(' ').next()?.parse().ok()
        });
        assert_eq!(told.unwrap_or(0), count, "{what}: {}", self.said);
    }
}

fn killed(place: &Place, words: &[&str]) -> Command {
    let mut command = Command::new(place.path("killed"));
    command.args(words).stdout(Stdio::piped());
    command.env("SSLCOLLECTOR_SOCKET", place.path("agent.sock"));
    command.env("SSLCOLLECTOR_AGENT_UID", geteuid().as_raw().to_string());
    command
}

fn address(number: u32, connection: u16) -> SocketAddr {
    let [_, _, high, low] = number.to_be_bytes();
    SocketAddr::from(([10, 0, high, low], 1000 + connection))
}

/// Length of the call, and how much of it is copied before the process is held.
fn places_in_a_copy(kills: u32) -> Vec<(u64, u64)> {
    let chosen = [
        (1, 0),
        (100, 99),
        (RECORD, 0),
        (RECORD, RECORD - 1),
        (RECORD + 1, RECORD),
        (3 * RECORD, 2 * RECORD),
        (3 * RECORD, 3 * RECORD - 1),
    ];
    let random = |index: u32| {
        let bits = u64::from_le_bytes(text(index, 0, 0, 8)[..8].try_into().expect("8 bytes"));
        let length = 1 + (bits >> 32) % (3 * RECORD);
        (length, (bits & 0xffff_ffff) % length)
    };
    let random = (0..kills.saturating_sub(7)).map(random);
    chosen.into_iter().chain(random).collect()
}

#[test]
fn in_the_middle_of_a_copy() {
    let places = places_in_a_copy(asked_for().unwrap_or(25));
    let mut kills = Kills::new();
    let mut held = std::collections::BTreeMap::new();
    for (number, (length, at)) in (0u32..).zip(&places) {
        let said = kills.kill(&[
            "copy",
            &number.to_string(),
            &length.to_string(),
            &at.to_string(),
        ]);
        *held.entry(said).or_insert(0) += 1;
    }
    println!("{held:?}");
    let left = kills.end();
    for (number, (length, at)) in (0u32..).zip(&places) {
        let complete = at / RECORD * RECORD;
        let lost = RECORD.min(length - complete);
        left.assert_cut(number, 0, BEFORE + complete, lost);
        let response = text(number, 1000, RECEIVED, 450);
        assert_eq!(left.flow(number, 0).response.whole(), Some(&response[..]));
        // Its other thread's: one connection that is older than the record in the middle, and a younger one.
        left.assert_cut(number, 1, 2100 + 3000, 0);
        let younger = left.flow(number, 2);
        let request = text(number, 1002, SENT, 2000);
        assert_eq!(younger.request.whole(), Some(&request[..]));
        assert_eq!(younger.end, End::ClosedByClient);
    }
    left.assert_told(
        places.len(),
        "in the middle of which its process was killed",
    );
    left.assert_told(0, "ended in the middle of a write");
}

/// Instructions behind which to kill, from what has become of the record after each of them.
fn steps_to_take(stages: &str) -> Vec<u64> {
    let begins: Vec<u64> = stages
        .lines()
        .map(|line| line.split(' ').next().expect("a number"))
        .map(|number| number.parse().expect("a number"))
        .collect();
    let end = *begins.last().expect("its end");
    if asked_for().is_some() {
        return (0..end).collect();
    }
    let around = begins.windows(2).flat_map(|pair| {
        let (from, to) = (pair[0], pair[1]);
        // A stage shifts by an instruction or two when the clock is read at a bad moment: its middle doesn't.
        [from - 1, from, from + 1, (from + to) / 2]
    });
    let mut steps: Vec<u64> = around.chain((0..end).step_by(40)).collect();
    steps.sort_unstable();
    steps.dedup();
    steps
}

/// What a write can have become.
const STAGES: [&str; 5] = ["nothing", "reserved", "marked", "begun", "committed"];

#[test]
fn behind_an_instruction_of_a_write() {
    let mut kills = Kills::new();
    let first = 20_000;
    let stages = kills.kill(&["steps", &first.to_string()]);
    let mut numbers = first + 1..;
    let mut became = Vec::new();
    let mut kill_behind = |step: u64| {
        let number = numbers.next().expect("numbers enough");
        let said = kills.kill(&["step", &number.to_string(), &step.to_string()]);
        became.push((number, said.trim().to_owned()));
        said.trim().to_owned()
    };
    let mut met = std::collections::BTreeSet::new();
    for step in steps_to_take(&stages) {
        met.insert(kill_behind(step));
    }
    // Each has to be met, and how many instructions come before it depends on what the agent has just read:
    // those that were missed are looked for around the place where they were once.
    for line in stages.lines() {
        let (step, stage) = line.split_once(' ').expect("a step and a stage");
        let step: u64 = step.parse().expect("a number");
        let mut places = (step.saturating_sub(150)..step + 150).step_by(9);
        while STAGES.contains(&stage) && !met.contains(stage) {
            let place = places.next();
            let place = place.unwrap_or_else(|| panic!("{stage} isn't met: {met:?} in {stages}"));
            met.insert(kill_behind(place));
        }
    }
    let left = kills.end();
    left.assert_cut(first, 0, BEFORE + STEPPED, 0);
    let mut counts = std::collections::BTreeMap::new();
    for (number, stage) in &became {
        *counts.entry(&**stage).or_insert(0) += 1;
        let (complete, lost) = match &**stage {
            // Not begun; or nobody can say of what length, and whose it was to be.
            "nothing" | "reserved" | "marked" => (BEFORE, 0),
            "begun" => (BEFORE, STEPPED),
            "committed" => (BEFORE + STEPPED, 0),
            other => panic!("{other}"),
        };
        left.assert_cut(*number, 0, complete, lost);
    }
    for stage in STAGES {
        assert!(counts.contains_key(stage), "{counts:?} in {stages}");
    }
    left.assert_told(counts["reserved"], "ended in the middle of a write");
    let unfinished = counts["marked"] + counts["begun"];
    left.assert_told(unfinished, "in the middle of which its process was killed");
}
