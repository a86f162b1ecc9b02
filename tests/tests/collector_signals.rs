//! Signals to a collector under load: SIGHUP takes what was decided about its agents and begins another file,
//! SIGTERM ends it with all that it has acknowledged put out, and its agents go on with the next one.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::binary;
use mirror_tests::streams::{Flow, flows};
use mirror_tests::talkers::{Seen, Talkers, Truths, assert_missing, found_ring_full, judge};
use rustix::process::Signal;

const PAGE: usize = 20_000;

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// Its clients say when it is enough.
fn nginx(place: &Place) -> Nginx<'_> {
    let options = Options {
        requests: u64::from(u32::MAX >> 1),
        ..Options::default()
    };
    let nginx = Nginx::with(place, options);
    nginx.start();
    nginx
}

/// An agent in a place of its own, which sends to these collectors.
fn agent(place: &Place, to: &[SocketAddr]) -> Agent {
    let to: Vec<_> = to.iter().map(ToString::to_string).collect();
    let (to, state) = (to.join(","), place.path("agent").display().to_string());
    let words = ["-t", &to, "--state", &state, "-I", "none"];
    let sizes = ["--ring-size", "16M", "--window", "1G"];
    Agent::sending(place, &[&words[..], &sizes].concat())
}

fn talk<'p>(place: &'p Place, port: u16) -> Talkers<'p> {
    let mut talkers = Talkers::new(place, port);
    talkers.start(&["until:/get/20000", "close"]);
    talkers.start(&["each:/get/20000"]);
    talkers.until_they_go_on();
    talkers
}

/// `sslcollector agents` with these words.
fn agents(home: &Place, words: &[&str]) {
    let mut command = Command::new(binary());
    command.arg("agents").args(words).arg("--state");
    output_of(command.arg(home.path("sensor")));
}

/// Clear text that the collector has put out, by its next report.
fn clear_text(sensor: &Sensor) -> u64 {
    let before = sensor.said().len();
    sensor.process.signal(Signal::USR1);
    until("a report of the collector", || {
        let said = sensor.said();
        let (report, _) = said.get(before..)?.split_once(" bytes of clear text")?;
        let (_, count) = report.rsplit_once(", ")?;
        count.parse().ok()
    })
}

/// Until what programs say now has come through the collector.
fn until_it_passes(sensor: &Sensor, talkers: &Talkers<'_>) {
    let before = clear_text(sensor);
    talkers.until_they_go_on();
    until("more at the collector", || {
        (clear_text(sensor) > before + 5 * PAGE as u64).then_some(())
    });
}

fn read(file: &Path) -> Vec<Flow> {
    let capture = Capture::read(file).expect("a capture");
    let violations = rules::check(&capture);
    assert!(violations.is_empty(), "{}: {violations:?}", file.display());
    flows(&capture).expect("flows")
}

/// What became of the connections of these programs.
fn fate(all: &[Flow], truths: &Truths) -> Vec<Seen> {
    let ours = all.iter();
    let ours = ours.filter(|flow| truths.contains_key(&flow.client.port()));
    judge(&ours.cloned().collect::<Vec<_>>(), truths)
}

/// Nothing is there twice, and nothing is missing but what never came to the agent that says this.
fn assert_whole(seen: &[Seen], truths: &Truths, said: &str) {
    assert_missing(seen, truths, found_ring_full(said), said);
    assert!(
        seen.iter().all(|seen| seen.repeated == 0),
        "{seen:?}: {said}"
    );
}

#[test]
fn a_reload_takes_what_was_decided_and_begins_another_file() {
    let home = Place::new(&[1, PAGE]);
    let (first, second) = (Place::new(&[]), Place::new(&[]));
    let nginx = nginx(&home);
    sensor::init(&home);
    let capture = home.path("capture.pcapng");
    let sensor = Sensor::start(&home, any(), &["-w", &capture.display().to_string()]);
    for (place, name) in [(&first, "first"), (&second, "second")] {
        let token = sensor::token(&home, sensor.address, name, &[]);
        sensor::join(Command::new(binary()), place, "agent", &token);
    }
    let (one, other) = (
        agent(&first, &[sensor.address]),
        agent(&second, &[sensor.address]),
    );
    let mut talkers = talk(&first, nginx.port);
    until_it_passes(&sensor, &talkers);

    // What an agent may send, while it sends.
    agents(&home, &["limit", "first", "16M"]);
    sensor.process.signal(Signal::HUP);
    sensor.wait_for("reloaded", 1);
    let (begin, before) = (Instant::now(), clear_text(&sensor));
    let passed = until("some megabytes at the collector", || {
        Some(clear_text(&sensor) - before).filter(|passed| *passed > 12_000_000)
    });
    // What was read and not put out yet, what is in the queues, and what may come at once are less than four
    // seconds' of 2 MB.
    let most = (begin.elapsed() + Duration::from_secs(4)).as_secs_f64() * 2e6;
    #[allow(clippy::cast_precision_loss, reason = "some megabytes")]
    let passed = passed as f64;
    assert!(passed <= most, "{passed} bytes, at most {most}");

    // Whoever is revoked is thrown out, in the middle of a word; the other one isn't.
    let mut others = talk(&second, nginx.port);
    until_it_passes(&sensor, &others);
    agents(&home, &["revoke", "first"]);
    sensor.process.signal(Signal::HUP);
    sensor.wait_for("reloaded", 2);
    sensor.wait_for("first may come in no more (Revoked)", 1);
    until("the agent to be told", || {
        one.said().contains("revoked").then_some(())
    });
    until_it_passes(&sensor, &others);
    let (truths, revoked) = (others.end(), talkers.end());
    let said = other.end_well();
    assert!(said.contains("all acknowledged"), "{said}");
    one.signal(Signal::TERM);
    sensor.end();
    nginx.quit();

    let captures = [
        "capture.pcapng",
        "capture.00001.pcapng",
        "capture.00002.pcapng",
    ];
    let files = captures.map(|file| read(&home.path(file)));
    assert!(!home.path("capture.00003.pcapng").exists());
    let all = files.concat();
    assert!(
        all.iter().all(|flow| {
            let port = flow.client.port();
            truths.contains_key(&port) || revoked.contains_key(&port)
        }),
        "a flow from nowhere"
    );
    // Nothing of one who stays is missing, whatever happened to the files meanwhile.
    let seen = fate(&all, &truths);
    assert!(seen.iter().any(|seen| seen.flows > 1), "{seen:?}");
    assert_whole(&seen, &truths, &said);
    // Of the other one there is what had come, and it ends there.
    let seen = fate(&all, &revoked);
    assert!(
        seen.iter().any(|seen| seen.flows > 0 && seen.tail > 0),
        "{seen:?}"
    );
    assert!(seen.iter().all(|seen| seen.repeated == 0), "{seen:?}");
}

#[test]
fn an_end_puts_out_what_it_acknowledged_and_agents_go_to_the_next() {
    let (home, next_home) = (Place::new(&[1, PAGE]), Place::new(&[]));
    let nginx = nginx(&home);
    for home in [&home, &next_home] {
        sensor::init(home);
    }
    let capture = |home: &Place| home.path("capture.pcapng");
    let start = |home: &Place| {
        let words = ["-w", &capture(home).display().to_string()];
        Sensor::start(home, any(), &words)
    };
    let (sensor, next) = (start(&home), start(&next_home));
    for (of, sensor) in [(&home, &sensor), (&next_home, &next)] {
        let token = sensor::token(of, sensor.address, "host", &[]);
        sensor::join(Command::new(binary()), &home, "agent", &token);
    }
    let agent = agent(&home, &[sensor.address, next.address]);
    let mut talkers = talk(&home, nginx.port);
    until_it_passes(&sensor, &talkers);
    let said = sensor.end();
    assert!(
        !said.contains("LOST") && !said.contains("stands still"),
        "{said}"
    );
    talkers.until_they_go_on();
    until_it_passes(&next, &talkers);
    let truths = talkers.end();
    let told = agent.end_well();
    assert!(told.contains("all acknowledged"), "{told}");
    next.end();
    nginx.quit();
    let all = [read(&capture(&home)), read(&capture(&next_home))].concat();
    let seen = judge(&all, &truths);
    // What was open is in both.
    assert!(seen.iter().any(|seen| seen.flows == 2), "{seen:?}");
    assert_whole(&seen, &truths, &told);
}
