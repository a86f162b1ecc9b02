//! Services on rustls whose agent dies, or can't keep up: every request is answered.

use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_tests::examples::{assert_all_succeeded, curl_http2, end, h2load, server, start_as};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::{Agent, Service};
use mirror_tests::streams::flows;
use rustix::process::Signal;

/// Requests of h2load, each of 20,000 bytes: far more than a ring holds.
const REQUESTS: usize = 1500;
const PATH: &str = "/get/20000";

/// A service that asks for this agent.
fn served(service: &Service, agent: &Agent) -> Process {
    let mut command = Command::new("env");
    agent.prepare(&mut command);
    // What its library would be otherwise is no concern of its own.
    command.env_remove("LD_LIBRARY_PATH");
    start_as(service, &mut command)
}

/// The agent has written packets; headers alone are smaller.
fn has_packets(capture: &Path) -> bool {
    std::fs::metadata(capture).is_ok_and(|file| file.len() > 1000)
}

/// Load that stands still in its middle, when the agent has written packets of it.
fn load_in_its_middle(service: &Service, capture: &Path) -> Process {
    // On a machine with much else to do it may be over before anybody has looked.
    let attempts = (0..20).find_map(|_| {
        let mut load = Process::start_piped(&mut h2load(service.port, PATH, REQUESTS));
        until("packets of the load", || {
            (has_packets(capture) || load.ended()).then_some(())
        });
        if load.ended() {
            assert_all_succeeded(&load.output(), REQUESTS);
            return None;
        }
        load.signal(Signal::STOP);
        Some(load)
    });
    attempts.expect("load that takes longer than to look")
}

fn agent_killed(name: &str) {
    let place = Place::new(&[20_000]);
    let service = server(&place, name);
    let capture = place.path("capture.pcapng");
    let mut agent = Agent::start(&place, &capture, &[]);
    let server = served(&service, &agent);
    let load = load_in_its_middle(&service, &capture);
    agent.process.signal(Signal::KILL);
    agent.process.wait();
    load.signal(Signal::CONT);
    assert_all_succeeded(&load.output(), REQUESTS);

    // One that comes later is found by connections that come later.
    let capture: PathBuf = place.path("second.pcapng");
    let mut agent = Agent::start(&place, &capture, &[]);
    until("packets of the second agent", || {
        assert_all_succeeded(&run(&mut h2load(service.port, PATH, 8)), 8);
        has_packets(&capture).then_some(())
    });
    end(server);
    agent.process.signal(Signal::TERM);
    assert!(agent.process.wait().success());
    let capture = Capture::read(&capture).expect("a capture");
    rules::assert_good(&capture, name);
    assert!(!flows(&capture).expect("flows").is_empty());
}

/// The agent stands still while 30 MB pass a ring of 64 KiB.
fn ring_full(name: &str) {
    let place = Place::new(&[20_000]);
    let service = server(&place, name);
    let capture = place.path("capture.pcapng");
    let mut agent = Agent::start(&place, &capture, &["--ring-size", "64K"]);
    let server = served(&service, &agent);
    until("packets", || {
        curl_http2(&place, service.port, 20_000);
        has_packets(&capture).then_some(())
    });
    agent.process.signal(Signal::STOP);
    let output = run(&mut h2load(service.port, PATH, REQUESTS));
    agent.process.signal(Signal::CONT);
    assert_all_succeeded(&output, REQUESTS);
    end(server);
    agent.process.signal(Signal::TERM);
    assert!(agent.process.wait().success());

    let said = agent.said();
    let capture = Capture::read(&capture).expect("a capture");
    rules::assert_good(&capture, &said);
    let flows = flows(&capture).expect("flows");
    let lengths = flows
        .iter()
        .map(|flow| flow.response.whole().map_or(0, <[u8]>::len));
    let most = 20_000 * REQUESTS / 2;
    assert!(lengths.sum::<usize>() < most, "nothing was lost: {said}");
    assert!(
        said.contains("ring was full") || said.contains("found the ring full"),
        "{said}"
    );
}

#[test]
fn hyper_whose_agent_is_killed() {
    agent_killed("hyper-server");
}

#[test]
fn axum_whose_agent_is_killed() {
    agent_killed("axum-service");
}

#[test]
fn hyper_whose_ring_is_full() {
    ring_full("hyper-server");
}

#[test]
fn axum_whose_ring_is_full() {
    ring_full("axum-service");
}
