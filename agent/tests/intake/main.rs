//! The intake and the flow mapping with the real hook: programs that mirror made-up connections
//! attach over the socket, and what comes out is compared to what they said, byte by byte.
//!
//! The programs are this test binary itself, started again with a script in its environment.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an unexpected error should stop there"
)]

mod claims;
mod hostile;
mod program;
mod seen;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use agent::clock::{Clock, monotonic_now};
use agent::event::{Binding, Side};
use agent::flow::proof::kernel::KernelSockets;
use agent::flow::{Mapper, MapperConfig};
use agent::intake::{Intake, IntakeConfig, IntakeStats};

use mirror_hook::layout::{OWNER_DIED, control};
use mirror_hook::ring::Memory;
use program::{FLOOD_BYTES, LISTENING, SCRIPT, TALK_BYTES, TALKS};

/// A test that waits this long waits for what will never come.
const GIVE_UP: Duration = Duration::from_secs(120);
use seen::{End, Seen};

/// An agent's upstream half, with a directory for its socket.
pub(crate) struct Agent {
    directory: PathBuf,
    pub(crate) intake: Intake,
    mapper: Mapper,
    seen: Seen,
}

impl Agent {
    pub(crate) fn new(name: &str, change: impl FnOnce(&mut IntakeConfig)) -> Self {
        let name = format!("sslcollector-intake-{name}-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        let mut builder = std::fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory).unwrap();
        let mut config = IntakeConfig::private(directory.join("agent.sock"));
        change(&mut config);
        Self {
            directory,
            intake: Intake::new(config).unwrap(),
            mapper: Mapper::new(MapperConfig::default(), Clock::start())
                .asking(Box::new(KernelSockets::new(None))),
            seen: Seen::default(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join("agent.sock")
    }

    fn start(&self, script: &str) -> Program {
        start(script, &self.socket())
    }

    /// One turn of the main loop. True: something was done.
    pub(crate) fn turn(&mut self) -> bool {
        let Self {
            intake,
            mapper,
            seen,
            ..
        } = self;
        let outcome = intake.poll(&mut |event| {
            mapper.session_event(event, monotonic_now(), seen);
        });
        mapper.expire(monotonic_now(), seen);
        outcome.worked
    }

    /// Runs the main loop until `done` says so.
    pub(crate) fn run_until(&mut self, done: impl Fn(&IntakeStats) -> bool) {
        let start = Instant::now();
        while !done(&self.intake.stats()) {
            assert!(
                start.elapsed() < GIVE_UP,
                "stuck: {:?}",
                self.intake.stats()
            );
            if !self.turn() {
                self.intake.wait(Duration::from_millis(100));
            }
        }
    }

    fn run_to_the_end(&mut self, rings: u64) {
        self.run_until(|stats| stats.attached == rings && stats.live == 0);
        // Ends of those that died are told behind the last words of their children.
        while self.turn() {}
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn start(script: &str, socket: &Path) -> Program {
    start_with(script, socket, Stdio::piped())
}

fn start_with(script: &str, socket: &Path, stdout: Stdio) -> Program {
    let uid = rustix::process::geteuid().as_raw();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["program::runs_the_script", "--exact", "--nocapture"])
        .env(SCRIPT, script)
        .env("SSLCOLLECTOR_SOCKET", socket)
        .env("SSLCOLLECTOR_AGENT_UID", uid.to_string())
        .stdin(Stdio::piped())
        .stdout(stdout)
        .spawn()
        .unwrap();
    Program(child)
}

/// Ends with the test.
struct Program(Child);

impl Program {
    /// Lets a program go on that waits for it.
    fn go_on(&mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    fn ended(&mut self) -> std::process::ExitStatus {
        self.0.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_a_program_says_comes_out_whole() {
    let mut agent = Agent::new("talk", |_| {});
    let mut programs = [agent.start("talk"), agent.start("talk")];
    agent.run_until(|stats| stats.attached == 2);
    programs.iter_mut().for_each(Program::go_on);
    agent.run_to_the_end(2);
    for program in &mut programs {
        assert!(program.ended().success());
    }
    let stats = agent.intake.stats();
    assert_eq!((stats.lost_bytes, stats.dropped_bytes), (0, 0));
    assert_eq!((stats.quarantined, stats.refused_total()), (0, 0));
    assert_eq!(agent.seen.flows.len(), 2 * TALKS);
    for flow in agent.seen.flows.values() {
        assert_eq!(flow.info.binding, Binding::Placeholder);
        assert_eq!(flow.delivered(Side::Client), TALK_BYTES);
        assert_eq!(flow.delivered(Side::Server), 2 * TALK_BYTES);
        assert_eq!((flow.holes, flow.end), (0, End::Finished));
        assert_eq!(flow.info.sni.as_deref(), Some("example.com"));
        assert!(flow.info.process.name.starts_with("intake"));
    }
    assert_eq!(agent.mapper.live_flows(), 0);
}

#[test]
fn a_program_that_was_over_before_anybody_looked_is_read() {
    let mut agent = Agent::new("early", |_| {});
    let mut program = agent.start("hasty");
    // Nothing was granted: what doesn't fit the first 64 KiB is missing, to the byte.
    assert!(program.ended().success());
    agent.run_to_the_end(1);
    let delivered: u64 = agent.seen.flows.values().map(|flow| flow.all()).sum();
    let holes: u64 = agent.seen.flows.values().map(|flow| flow.holes).sum();
    assert!(delivered > 16 * 1024, "{delivered}");
    let stats = agent.intake.stats();
    assert_eq!(stats.lost_bytes, holes);
    assert_eq!(agent.mapper.stats().bytes, delivered);
}

#[test]
fn who_asked_before_the_agent_left_is_heard() {
    let mut agent = Agent::new("last", |_| {});
    let mut program = agent.start("hasty");
    assert!(program.ended().success());
    // Not one turn of the main loop before the end.
    let Agent {
        intake,
        mapper,
        seen,
        ..
    } = &mut agent;
    intake.shutdown(&mut |event| mapper.session_event(event, monotonic_now(), seen));
    mapper.finish(monotonic_now(), seen);
    let delivered: u64 = agent.seen.flows.values().map(|flow| flow.all()).sum();
    assert!(delivered > 16 * 1024, "{delivered}");
    assert_eq!(agent.intake.stats().attached, 1);
}

#[test]
fn a_full_ring_leaves_holes_of_the_exact_size() {
    let mut agent = Agent::new("flood", |config| config.ring_bytes = 256 * 1024);
    let mut program = agent.start("flood");
    agent.run_until(|stats| stats.attached == 1);
    program.go_on();
    assert!(program.ended().success()); // and only now is anything read
    agent.run_to_the_end(1);
    assert_eq!(agent.seen.flows.len(), 1);
    let flow = agent.seen.flows.values().next().unwrap();
    assert!(flow.holes > 0);
    assert_eq!(flow.all() + flow.holes, FLOOD_BYTES);
    assert_eq!(flow.end, End::Finished); // by the close table
    let stats = agent.intake.stats();
    assert_eq!(stats.lost_bytes, flow.holes);
    assert_eq!(stats.dropped_bytes, flow.holes);
}

#[test]
fn a_full_ring_is_caught_up_with() {
    let mut agent = Agent::new("chase", |config| config.ring_bytes = 128 * 1024);
    let mut program = agent.start("flood");
    agent.run_until(|stats| stats.attached == 1);
    program.go_on();
    agent.run_to_the_end(1);
    let flow = agent.seen.flows.values().next().unwrap();
    assert_eq!(flow.all() + flow.holes, FLOOD_BYTES);
    assert_eq!(agent.intake.stats().lost_bytes, flow.holes);
    assert!(program.ended().success());
}

#[test]
fn a_killed_program_is_read_to_its_end_and_reset() {
    let mut agent = Agent::new("killed", |_| {});
    let mut program = agent.start("killed");
    agent.run_to_the_end(1);
    assert!(!program.ended().success());
    let flow = agent.seen.flows.values().next().unwrap();
    assert_eq!(flow.delivered(Side::Client), TALK_BYTES);
    assert_eq!(flow.end, End::Reset);
}

#[test]
fn the_live_processes_are_known() {
    let mut agent = Agent::new("live", |_| {});
    let mut program = agent.start("flood");
    agent.run_until(|stats| stats.live == 1);
    let pids: Vec<u32> = agent
        .intake
        .processes()
        .map(|process| process.pid)
        .collect();
    assert_eq!(pids, [program.0.id()]);
    program.go_on();
    agent.run_to_the_end(1);
    assert_eq!(agent.intake.processes().count(), 0);
}

#[test]
fn an_agent_that_leaves_says_so() {
    let mut agent = Agent::new("leave", |_| {});
    let mut program = agent.start("flood");
    agent.run_until(|stats| stats.live == 1);
    let Agent {
        intake,
        mapper,
        seen,
        ..
    } = &mut agent;
    intake.shutdown(&mut |event| mapper.session_event(event, monotonic_now(), seen));
    program.go_on(); // into a ring that nobody reads: no harm
    assert!(program.ended().success());
    agent.run_to_the_end(1);
    assert_eq!(
        agent
            .seen
            .flows
            .values()
            .map(|flow| flow.all())
            .sum::<u64>(),
        0
    );
}

#[test]
fn a_program_is_told_how_far_its_ring_was_read() {
    let mut agent = Agent::new("rest", |_| {});
    let ring = hostile::attach_at(&agent.socket());
    hostile::opened(&ring);
    agent.run_until(|stats| stats.connections == 1);
    let word = |at| ring.load_u64(at, Ordering::Acquire);
    assert_ne!(word(control::HEAD), 0);
    assert_eq!(word(control::RESTING_TAIL), word(control::HEAD));
}

#[test]
fn a_user_who_is_not_allowed_is_refused() {
    let mut agent = Agent::new("refused", |config| {
        config.admission = agent::intake::Admission::Users(vec![u32::MAX - 7]);
    });
    let mut program = agent.start("hasty");
    assert!(program.ended().success());
    agent.run_until(|stats| stats.refused_total() == 1);
    let stats = agent.intake.stats();
    assert_eq!(stats.refused[agent::intake::Refusal::User.index()], 1);
    assert_eq!(stats.attached, 0);
}

#[test]
fn a_killed_agent_leaves_its_mark() {
    // Its directory is all that is used of this one.
    let directory = Agent::new("mark", |_| {});
    let socket = directory.directory.join("other.sock");
    let mut victim = start("agent", &socket);
    let output = BufReader::new(victim.0.stdout.take().unwrap());
    let mut lines = output.lines().map(Result::unwrap);
    assert!(lines.any(|line| line == LISTENING));
    let ring = hostile::attach_at(&socket);
    let owner = || ring.load_u32(control::OWNER, Ordering::Acquire);
    let start = Instant::now();
    while owner() == 0 {
        assert!(start.elapsed() < GIVE_UP, "the agent owns nothing");
        std::thread::yield_now();
    }
    assert_eq!(owner() & OWNER_DIED, 0);
    victim.0.kill().unwrap();
    victim.ended();
    assert_ne!(owner() & OWNER_DIED, 0);
}
