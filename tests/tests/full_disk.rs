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
use mirror_tests::talkers::{Talkers, assert_missing, judge};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

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

    /// No file of the agent's may have more than so many bytes from now on. It has to be our user's.
    fn limit_files(&self, bytes: u64) {
        let agent = Pid::from_raw(self.agent.process.id().cast_signed());
        let limit = Rlimit {
            current: Some(bytes),
            maximum: None,
        };
        prlimit(agent, Resource::Fsize, limit).expect("a limit");
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
const TOO_LARGE: &str = "is as large as a file may be (ulimit";
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
    assert!(lost(&report) > 0, "{report}");
    assert_missing(&seen, &truths, lost(&report), &report);
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
    // The report has what became of it, although it is broken.
    assert!(lost(&said) > 0, "{said}");
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

#[test]
fn people_who_ask_for_another_file_lose_none_for_it() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 64);
    let options = ["--rotate-size", "1G", "--keep", "2"];
    let mut scenario = Scenario::start(&place, &disk, &options);
    let names = |numbers: [u32; 2]| numbers.map(|n| disk.path(&format!("out.{n:05}.pcapng")));
    let filled = |file: &PathBuf| fs::metadata(file).is_ok_and(|file| file.len() > 1 << 20);
    until("a file", || filled(&names([1, 2])[0]).then_some(()));
    scenario.agent.signal(Signal::HUP);
    until("another one", || filled(&names([1, 2])[1]).then_some(()));
    disk.fill();
    scenario.wait_for(FULL, 1);
    scenario.talkers.until_they_go_on();
    // The counts are printed behind what SIGHUP does.
    scenario.agent.signal(Signal::HUP);
    scenario.agent.signal(Signal::USR1);
    scenario.wait_for(" of clear text LOST while ", 1);
    assert_eq!(disk.captures(), names([1, 2]));
    disk.empty();
    scenario.wait_for(AGAIN, 1);
    until("a third one", || {
        (disk.captures() == names([2, 3])).then_some(())
    });
    scenario.talkers.until_they_go_on();
    let truths = scenario.talkers.end();
    scenario.agent.end_well();
    scenario.nginx.quit();
    judge(&flows_of(&disk.captures()), &truths);
}

#[test]
fn a_file_that_is_as_large_as_one_may_be() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 256);
    let mut scenario = Scenario::start(&place, &disk, &["--user", "root"]);
    scenario.limit_files(2 << 20);
    scenario.wait_for(TOO_LARGE, 1);
    scenario.talkers.until_they_go_on();
    scenario.limit_files(8 << 20);
    scenario.wait_for(AGAIN, 1);
    scenario.wait_for(TOO_LARGE, 2);
    scenario.talkers.until_they_go_on();
    let truths = scenario.talkers.end();
    scenario.agent.signal(Signal::TERM);
    let status = scenario.agent.process.wait();
    let said = scenario.agent.said();
    assert_eq!(status.code(), Some(1), "{said}");
    scenario.nginx.quit();
    let captures = disk.captures();
    assert_eq!(captures, [disk.path("out.pcapng")]);
    let seen = judge(&flows_of(&captures), &truths);
    assert_missing(&seen, &truths, lost(&said), &said);
}

/// The first one meets a limit that comes while it is written. Those behind it end before they do.
#[test]
fn files_as_large_as_they_may_be_follow_one_another() {
    let place = Place::new(&[1, 20_000]);
    let disk = Disk::new(&place.path("disk"), 256);
    let mut scenario = Scenario::start(&place, &disk, &["--rotate-size", "1G", "--user", "root"]);
    scenario.limit_files(4 << 20);
    scenario.wait_for(TOO_LARGE, 1);
    scenario.wait_for(AGAIN, 1);
    until("more files", || (disk.captures().len() >= 4).then_some(()));
    let truths = scenario.talkers.end();
    let report = scenario.agent.end_well();
    scenario.nginx.quit();
    assert_eq!(report.matches(TOO_LARGE).count(), 1, "{report}");
    let seen = judge(&flows_of(&disk.captures()), &truths);
    assert_missing(&seen, &truths, lost(&report), &report);
}
