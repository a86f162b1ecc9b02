//! A capture on a disk that becomes full, and has room again: it goes on by itself, each byte at its place, and what
//! is missing is what was counted.

use std::fs;
use std::path::PathBuf;

use mirror_tests::disk::Disk;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::until;
use mirror_tests::reader::Capture;
use mirror_tests::rules::{self, Rule};
use mirror_tests::service::Agent;
use mirror_tests::streams::{Flow, flows};
use mirror_tests::talkers::{Talkers, judge};
use rustix::process::Signal;

struct Scenario<'p> {
    nginx: Nginx<'p>,
    agent: Agent,
    talkers: Talkers<'p>,
}

impl<'p> Scenario<'p> {
    /// Programs that talk, mirrored to `out.pcapng` on the disk.
    fn start(place: &'p Place, disk: &Disk, options: &[&str]) -> Self {
        let lasting = Options {
            requests: u64::from(u32::MAX >> 1),
            ..Options::default()
        };
        let nginx = Nginx::with(place, lasting);
        nginx.start();
        let options = [&["-I", "none", "--ring-size", "16M"], options].concat();
        let agent = Agent::start(place, &disk.path("out.pcapng"), &options);
        let mut talkers = Talkers::new(place, nginx.port);
        talkers.start(&["until:/get/1", "close"]);
        talkers.start(&["each:/get/20000"]);
        Self {
            nginx,
            agent,
            talkers,
        }
    }

    /// Waits until the agent has said these words so often.
    fn wait_for(&self, words: &str, times: usize) {
        until(words, || {
            (self.agent.said().matches(words).count() == times).then_some(())
        });
    }
}

/// The flows of these captures. Those of which the end was lost are open.
fn flows_of(captures: &[PathBuf]) -> Vec<Flow> {
    let of = |path: &PathBuf| {
        let capture = Capture::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut violations = rules::check(&capture);
        violations.retain(|violation| violation.rule != Rule::NotClosed);
        assert!(violations.is_empty(), "{}: {violations:?}", path.display());
        flows(&capture).expect("flows")
    };
    captures.iter().flat_map(of).collect()
}

/// The clear text that the report says was lost on its way to the file.
fn lost(report: &str) -> u64 {
    let mut words = report.lines().filter_map(|line| {
        let (before, _) = line.split_once(" bytes of clear text LOST while ")?;
        before.rsplit_once(' ')?.1.parse().ok()
    });
    words.next_back().unwrap_or_else(|| panic!("{report}"))
}

const FULL: &str = "no room left for";
const AGAIN: &str = "is written again";

#[test]
fn a_full_disk_is_waited_for() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 64);
    // Full from the start, and once more in the middle.
    fs::write(disk.path("out.pcapng"), "").expect("a file");
    disk.fill();
    let mut scenario = Scenario::start(&place, &disk, &[]);
    scenario.talkers.until_they_go_on();
    for times in 1..=2 {
        scenario.wait_for(FULL, times);
        scenario.talkers.until_they_go_on();
        let torn = Capture::read(&disk.path("out.pcapng"));
        assert!(torn.is_ok() || times == 1, "whole all the while: {torn:?}");
        disk.empty();
        scenario.wait_for(AGAIN, times);
        scenario.talkers.until_they_go_on();
        if times == 1 {
            disk.fill();
        }
    }
    let truths = scenario.talkers.end();
    let report = scenario.agent.end_well();
    scenario.nginx.quit();
    let flows = flows_of(&disk.captures());
    let seen = judge(&flows, &truths);
    assert!(seen.iter().all(|seen| seen.repeated == 0), "{seen:?}");
    let missing: u64 = seen.iter().map(|seen| seen.missing).sum();
    assert!(missing > 0, "{report}");
    assert_eq!(missing, lost(&report), "{report}");
    let lasting = seen.iter().filter(|seen| seen.flows > 1);
    assert_eq!(lasting.map(|seen| seen.tail).sum::<u64>(), 0, "{seen:?}");
    assert!(seen.iter().any(|seen| seen.flows > 1), "{seen:?}");
}

#[test]
fn an_agent_ends_on_a_full_disk() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 64);
    let mut scenario = Scenario::start(&place, &disk, &[]);
    until("more than the room that is waited for", || {
        let file = fs::metadata(disk.path("out.pcapng")).expect("a file");
        (file.len() > 2 << 20).then_some(())
    });
    disk.fill();
    scenario.wait_for(FULL, 1);
    // Whoever removes it for the room that it takes doesn't get that while it is open: another one is begun.
    fs::remove_file(disk.path("out.pcapng")).expect("remove it");
    scenario.wait_for(AGAIN, 1);
    scenario.talkers.until_they_go_on();
    disk.fill();
    scenario.wait_for(FULL, 2);
    scenario.talkers.until_they_go_on();
    let truths = scenario.talkers.end();
    scenario.agent.signal(Signal::TERM);
    let status = scenario.agent.process.wait();
    let said = scenario.agent.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("the capture ends there"), "{said}");
    scenario.nginx.quit();
    let captures = disk.captures();
    assert_eq!(captures, [disk.path("out.00001.pcapng")]);
    let flows = flows_of(&captures);
    assert!(!flows.is_empty(), "{said}");
    judge(&flows, &truths);
}

#[test]
fn files_that_are_kept_fill_a_small_disk() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 12);
    let options = ["--rotate-size", "3M", "--keep", "9"];
    let mut scenario = Scenario::start(&place, &disk, &options);
    scenario.wait_for(FULL, 1);
    scenario.talkers.until_they_go_on();
    // None is removed for the room that it takes; that is up to people.
    let captures = disk.captures();
    assert!(captures.len() >= 4, "{captures:?}");
    for old in &captures[..2] {
        fs::remove_file(old).expect("remove it");
    }
    scenario.wait_for(AGAIN, 1);
    let truths = scenario.talkers.end();
    scenario.agent.signal(Signal::TERM);
    scenario.agent.process.wait();
    scenario.nginx.quit();
    let captures = disk.captures();
    let flows = flows_of(&captures);
    let restarted = flows.iter().any(|flow| flow.comment.contains("restarted="));
    assert!(restarted, "{}", scenario.agent.said());
    judge(&flows, &truths);
}
