//! The tunnel between agent and collector is cut while programs talk: what they say arrives all the same, each byte
//! once, in its flow. Where a collector or an agent is killed, what is missing or told again is said to be.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use mirror_tests::manager::Manager;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::until;
use mirror_tests::reader::{Capture, ReadError};
use mirror_tests::rules::{self, Rule};
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::binary;
use mirror_tests::streams::{Flow, flows};
use mirror_tests::talkers::{Seen, Talkers, Truths, assert_missing, found_ring_full, judge, lost};
use mirror_tests::way::Way;
use rustix::process::Signal;

/// Cuts of each kind in a test; `MIRROR_CUTS` for another number.
const CUTS: usize = 3;
const PAGE: usize = 20_000;
/// What passes before and behind a cut, at least.
const BETWEEN: u64 = 100_000;

fn cuts() -> usize {
    let number = std::env::var("MIRROR_CUTS").ok();
    number.map_or(CUTS, |number| number.parse().expect("a number of cuts"))
}

/// Programs that talk, an agent, a way that can be cut, and a collector.
struct Scenario<'p> {
    place: &'p Place,
    nginx: Nginx<'p>,
    talkers: Talkers<'p>,
    way: Way,
    sensor: Option<Sensor>,
    /// Where collectors listen, one after another.
    address: SocketAddr,
    captures: Vec<PathBuf>,
    /// Some were killed.
    killed: bool,
}

impl<'p> Scenario<'p> {
    fn new(place: &'p Place) -> Self {
        let options = Options {
            requests: u64::from(u32::MAX >> 1),
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        nginx.start();
        sensor::init(place);
        fs::create_dir_all(place.path("run")).expect("make a directory");
        let (sensor, capture) = start_sensor(place, SocketAddr::from(([127, 0, 0, 1], 0)), 1);
        let way = Way::to(sensor.address);
        let token = sensor::token(place, way.address(), "host", &[]);
        sensor::join(Command::new(binary()), place, "agent", &token);
        Self {
            place,
            talkers: Talkers::new(place, nginx.port),
            nginx,
            way,
            address: sensor.address,
            sensor: Some(sensor),
            captures: vec![capture],
            killed: false,
        }
    }

    /// Where the last one listened.
    fn start_sensor(&mut self) {
        let number = self.captures.len() + 1;
        let (sensor, capture) = start_sensor(self.place, self.address, number);
        self.sensor = Some(sensor);
        self.captures.push(capture);
    }

    fn kill_sensor(&mut self) {
        self.sensor.take().expect("a collector").kill();
        self.killed = true;
    }

    /// What an agent needs to send here.
    fn agent_options(&self) -> Vec<String> {
        let state = self.place.path("agent").display().to_string();
        let to = self.way.address().to_string();
        // Programs say much in the time after which an agent believes that nobody hears it.
        let words = [
            "-t",
            &to,
            "--state",
            &state,
            "-I",
            "none",
            "--ring-size",
            "16M",
            "--window",
            "1G",
        ];
        words.map(str::to_owned).to_vec()
    }

    fn start_agent(&self) -> Agent {
        let options = self.agent_options();
        let options: Vec<_> = options.iter().map(String::as_str).collect();
        Agent::sending(self.place, &options)
    }

    fn start_talkers(&mut self) {
        self.start_talkers_at("pace:0");
    }

    /// With pauses, where it takes long: all that is said is kept, and compared at the end.
    fn start_talkers_at(&mut self, pace: &str) {
        self.talkers.start(&[pace, "until:/get/20000", "close"]);
        self.talkers.start(&[pace, "until:/get/1", "close"]);
        self.talkers.start(&[pace, "each:/get/20000"]);
        self.go_on();
    }

    /// Until programs have said more, and more has passed on the way.
    fn go_on(&self) {
        let before = self.way.bytes();
        self.talkers.until_they_go_on();
        until("more on the way to the collector", || {
            (self.way.bytes() > before + BETWEEN).then_some(())
        });
    }

    /// The collector ends, and what all of them wrote is read.
    fn flows(&mut self) -> Vec<Flow> {
        self.sensor.take().expect("a collector").end();
        self.nginx.quit();
        let mut all = Vec::new();
        for file in &self.captures {
            let bytes = fs::read(file).expect("a capture");
            let capture = match Capture::parse(&bytes) {
                // A collector that was killed.
                Err(ReadError::Truncated(at)) if at > 0 => Capture::parse(&bytes[..at]),
                result => result,
            };
            let capture = capture.expect("a capture");
            let mut violations = rules::check(&capture);
            if self.killed {
                violations.retain(|violation| violation.rule != Rule::NotClosed);
            }
            assert!(violations.is_empty(), "{violations:?}");
            all.extend(flows(&capture).expect("flows"));
        }
        all
    }
}

/// A collector, and its capture.
fn start_sensor(place: &Place, address: SocketAddr, number: usize) -> (Sensor, PathBuf) {
    let capture = place.path(&format!("capture.{number}.pcapng"));
    let options = ["-w", &capture.display().to_string()];
    (Sensor::start(place, address, &options), capture)
}

fn total(seen: &[Seen], of: impl Fn(&Seen) -> u64) -> u64 {
    seen.iter().map(of).sum()
}

/// Whoever is on the way may lose packets for a while, send resets, or never be heard of again.
#[test]
fn cuts_of_the_way_lose_nothing_and_show_in_no_flow() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place);
    let agent = scenario.start_agent();
    scenario.start_talkers();
    for _ in 0..cuts() {
        scenario.way.hold(true);
        scenario.talkers.until_they_go_on();
        scenario.way.hold(false);
        scenario.go_on();
        assert!(scenario.way.reset() >= 1, "{}", agent.said());
        scenario.go_on();
    }
    // Nobody notices but by the silence.
    for _ in 0..cuts().div_ceil(10) {
        assert!(scenario.way.swallow() >= 1, "{}", agent.said());
        scenario.go_on();
    }
    let truths = scenario.talkers.end();
    let said = agent.end_well();
    let seen = judge(&scenario.flows(), &truths);
    assert!(!seen.is_empty());
    assert_missing(&seen, &truths, found_ring_full(&said), &said);
    for seen in &seen {
        assert_eq!((seen.repeated, seen.flows), (0, 1), "{seen:?}: {said}");
    }
}

/// Live flows begin again as new ones, from what the last collector had acknowledged.
#[test]
fn a_collector_that_is_killed_is_followed_by_another() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place);
    let agent = scenario.start_agent();
    // With each kill the agent takes longer to try again, up to half a minute.
    scenario.start_talkers_at(if cuts() > CUTS { "pace:20" } else { "pace:0" });
    for _ in 0..cuts() {
        scenario.kill_sensor();
        scenario.talkers.until_they_go_on();
        scenario.start_sensor();
        scenario.go_on();
    }
    let truths = scenario.talkers.end();
    let said = agent.end_well();
    let seen = judge(&scenario.flows(), &truths);
    // Programs may say more than the window holds before the next collector has taken what waits.
    assert_missing(&seen, &truths, lost(&said).unwrap_or(0), &said);
    // The window at its largest: what repeats is what wasn't acknowledged.
    let repeated = total(&seen, |seen| seen.repeated);
    assert!(repeated <= cuts() as u64 * (64 << 20), "{seen:?}");
    assert!(seen.iter().any(|seen| seen.flows > 1), "{seen:?}");
}

/// What it had read and nobody had acknowledged is missing, and what is there says so.
#[test]
fn an_agent_that_is_killed_leaves_exact_holes() {
    let place = Place::new(&[1, PAGE]);
    let mut scenario = Scenario::new(&place);
    let options = scenario.agent_options();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut manager = Manager::new(&place, 100);
    let socket = place.path("run/agent.sock");
    manager.start_sending(&socket, &options);
    scenario.start_talkers();
    for _ in 0..cuts() {
        scenario.go_on();
        manager.end(Signal::KILL);
        manager.start_sending(&socket, &options);
    }
    scenario.go_on();
    let truths: Truths = scenario.talkers.end();
    manager.end(Signal::TERM);
    let flows = scenario.flows();
    let seen = judge(&flows, &truths);
    assert_eq!(total(&seen, |seen| seen.repeated), 0, "{seen:?}");
    let said = manager.said();
    assert!(said.contains("went on here"), "{said}");
    // With each agent goes what it had read and not sent: the last of each client's connections, one behind the other.
    let lost = |seen: &&Seen| seen.tail > 0;
    let of_client = seen.chunk_by(|one, next| one.place.0 == next.place.0);
    for seen in of_client {
        let runs = seen.chunk_by(|one, next| lost(&one) == lost(&next));
        let runs = runs.filter(|run| lost(&&run[0])).count();
        assert!(runs <= cuts(), "{seen:?}: {said}");
    }
}
