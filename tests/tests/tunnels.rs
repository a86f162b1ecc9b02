//! Tunnels to several collectors, and to one that is too slow.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::binary;
use mirror_tests::streams::{Flow, flows};
use mirror_tests::talkers::{Talkers, judge, lost};
use mirror_tests::way::Way;
use rustix::process::Signal;

const PAGE: usize = 20_000;
const LARGE: usize = 300_000;

/// A collector with a home of its own, and its captures, one for each life.
struct Collector {
    home: Place,
    sensor: Option<Sensor>,
    address: SocketAddr,
    captures: Vec<PathBuf>,
}

impl Collector {
    fn start(address: &str) -> Self {
        let home = Place::new(&[]);
        sensor::init(&home);
        let mut collector = Self {
            home,
            sensor: None,
            address: address.parse().expect("an address"),
            captures: Vec::new(),
        };
        collector.start_again();
        collector
    }

    /// Where it listened before, if it did.
    fn start_again(&mut self) {
        let name = format!("capture.{}.pcapng", self.captures.len());
        let capture = self.home.path(&name);
        let options = ["-w", &capture.display().to_string()];
        let sensor = Sensor::start(&self.home, self.address, &options);
        self.address = sensor.address;
        self.sensor = Some(sensor);
        self.captures.push(capture);
    }

    /// Lets the place's agent in, which will call it by this name.
    fn enroll(&self, place: &Place, called: &str) {
        let mut command = Command::new(binary());
        command.args(["enroll", "--address", called, "--name", "host", "--state"]);
        let token = output_of(command.arg(self.home.path("sensor")));
        let token = token
            .split_whitespace()
            .find(|word| word.starts_with("sslc1_"));
        let token = token.expect("a token");
        sensor::join(Command::new(binary()), place, "agent", token);
    }

    fn stop(&mut self) -> String {
        self.sensor.take().expect("it runs").end()
    }

    /// The flows of its last life.
    fn flows(&self) -> Vec<Flow> {
        let last = self.captures.last().expect("a capture");
        let capture = Capture::read(last).expect("a capture");
        rules::assert_good(&capture, "the collector's capture");
        flows(&capture).expect("flows")
    }
}

fn nginx(place: &Place) -> Nginx<'_> {
    let options = Options {
        requests: u64::from(u32::MAX >> 1),
        ..Options::default()
    };
    let nginx = Nginx::with(place, options);
    nginx.start();
    fs::create_dir_all(place.path("run")).expect("make a directory");
    nginx
}

fn agent(place: &Place, to: &str, options: &[&str]) -> Agent {
    let state = place.path("agent").display().to_string();
    let fixed = [
        "-t",
        to,
        "--state",
        &state,
        "-I",
        "none",
        "--ring-size",
        "64M",
        "--linger",
        "60s",
    ];
    Agent::sending(place, &[&fixed, options].concat())
}

/// The window is full: what it has no room for is a hole at the collector, and in the agent's report.
#[test]
fn what_finds_no_room_in_the_window_is_an_exact_hole() {
    let place = Place::new(&[1, LARGE]);
    let nginx = nginx(&place);
    let mut collector = Collector::start("127.0.0.1:0");
    let way = Way::to(collector.address);
    let to = way.address().to_string();
    collector.enroll(&place, &to);
    let agent = agent(&place, &to, &["--window", "1M"]);
    let mut talkers = Talkers::new(&place, nginx.port);
    talkers.start(&["until:/get/300000", "close"]);
    talkers.until_they_go_on();
    way.hold(true);
    until("text that is lost", || {
        agent.signal(Signal::USR1);
        lost(&agent.said())
    });
    way.hold(false);
    talkers.until_they_go_on();
    let truths = talkers.end();
    let said = agent.end_well();
    let report = collector.stop();
    nginx.quit();
    let seen = judge(&collector.flows(), &truths);
    assert_eq!(seen.len(), 1);
    // The last that was said may be part of it.
    assert_eq!(
        (seen[0].flows, seen[0].repeated),
        (1, 0),
        "{seen:?}: {said}"
    );
    assert!(seen[0].missing > 0);
    assert_eq!(Some(seen[0].missing), lost(&said), "{said}");
    let missing = format!("{} bytes missing in ", seen[0].missing);
    assert!(report.contains(&missing), "{missing}: {report}");
}

/// Called by a name and by an IPv6 address, each with a port.
#[test]
fn sessions_spread_over_collectors_are_whole_at_one_of_them() {
    let place = Place::new(&[1, PAGE]);
    let nginx = nginx(&place);
    let mut collectors = ["127.0.0.1:0", "[::1]:0"].map(Collector::start);
    let [one, other] = &collectors;
    let names = [
        format!("localhost:{}", one.address.port()),
        other.address.to_string(),
    ];
    one.enroll(&place, &names[0]);
    other.enroll(&place, &names[1]);
    let agent = agent(&place, &names.join(","), &["--spread"]);
    let mut talkers = Talkers::new(&place, nginx.port);
    for steps in [
        &["each:/get/20000"][..],
        &["each:/get/1"],
        &["until:/get/20000", "close"],
    ] {
        talkers.start(steps);
    }
    // Until there are so many connections that no chance brings all of them to one.
    until("connections", || {
        let seen = fs::read_dir(place.path("out/1")).expect("what a client writes");
        (seen.count() > 3 * 40).then_some(())
    });
    let truths = talkers.end();
    let said = agent.end_well();
    nginx.quit();
    let mut all = Vec::new();
    for collector in &mut collectors {
        let report = collector.stop();
        let flows = collector.flows();
        assert!(!flows.is_empty(), "{report}: {said}");
        all.extend(flows);
    }
    let seen = judge(&all, &truths);
    for seen in &seen {
        let counts = (seen.flows, seen.missing, seen.repeated);
        assert_eq!(counts, (1, 0, 0), "{seen:?}: {said}");
    }
}

/// To the second collector while the first is away, and back: nothing is missing, and nothing told twice. Meanwhile
/// the first has a new key.
#[test]
fn the_next_collector_takes_over_and_gives_back() {
    let place = Place::new(&[1, PAGE]);
    let nginx = nginx(&place);
    let mut first = Collector::start("127.0.0.1:0");
    let mut second = Collector::start("127.0.0.1:0");
    let names = [&first, &second].map(|one| one.address.to_string());
    first.enroll(&place, &names[0]);
    second.enroll(&place, &names[1]);
    let agent = agent(&place, &names.join(","), &[]);
    let connected = |name: &str, times: usize| {
        let words = format!("connected to the collector {name}");
        until(&words, || {
            (agent.said().matches(&words).count() >= times).then_some(())
        });
    };
    let mut talkers = Talkers::new(&place, nginx.port);
    talkers.start(&["until:/get/20000", "close"]);
    talkers.start(&["each:/get/20000"]);
    connected(&names[0], 1);
    talkers.until_they_go_on();
    first.stop();
    connected(&names[1], 1);
    talkers.until_they_go_on();
    let mut rotate = Command::new(binary());
    rotate.args(["-C", "--rotate", "--state"]);
    output_of(rotate.arg(first.home.path("sensor")));
    let mut all = first.flows();
    first.start_again();
    talkers.until_they_go_on();
    second.stop();
    all.extend(second.flows());
    connected(&names[0], 2);
    talkers.until_they_go_on();
    let truths = talkers.end();
    let said = agent.end_well();
    first.stop();
    nginx.quit();
    all.extend(first.flows());
    let seen = judge(&all, &truths);
    assert!(seen.iter().any(|seen| seen.flows == 3), "{seen:?}: {said}");
    for seen in &seen {
        assert_eq!((seen.missing, seen.repeated), (0, 0), "{seen:?}: {said}");
    }
}
