//! The three commands, each with curl, nginx and services on rustls: monitors that listen live, at the interface
//! itself and at its far end, see what is in the capture file, by IPv4 and IPv6; also where the original TLS
//! traffic passes there, beside it on a VLAN.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_tests::applications::Applications;
use mirror_tests::judges::{HttpEvent, Listening, Profile, Suricata};
use mirror_tests::network::{Network, PEER};
use mirror_tests::place::Place;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::binary;

/// The tag of what is forged, where it is beside the original.
const VLAN: &str = "7";

/// Where packets go: options, the interface, and its far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// To an interface of their own.
    Alone,
    /// To the one that has the original packets, too.
    Beside,
}

impl Output {
    fn options(self, wire: &str) -> Vec<&str> {
        match self {
            Self::Alone => vec!["-o", "mirror0", "--create"],
            Self::Beside => vec!["-o", wire, "--vlan", VLAN],
        }
    }
}

/// Suricatas at work, by where they listen.
struct Monitors {
    judge: PathBuf,
    output: Output,
    at: Vec<(&'static str, Listening)>,
}

impl Monitors {
    fn new(place: &Place, output: Output) -> Self {
        Self {
            judge: place.path("judge"),
            output,
            at: Vec::new(),
        }
    }

    /// One more, by a command that runs it where that interface is.
    fn listen(&mut self, suricata: Command, interface: &'static str) {
        let directory = self.judge.join(interface);
        let listening = Suricata.listen_by(suricata, interface, &directory);
        self.at.push((interface, listening));
    }

    /// Each has seen exactly this, and so has the file.
    fn have(self, expected: &[HttpEvent], capture: &Path, said: &str) {
        let file = Suricata.read(capture, Profile::Sslcollector, &self.judge);
        assert_eq!(file.complaints(), [""; 0], "{said}");
        assert_eq!(sorted(&file.http), expected, "{said}");
        assert_eq!(self.at.len(), 2);
        for (interface, listening) in self.at {
            let live = listening.verdict();
            assert_eq!(sorted(&live.http), expected, "{interface}: {said}");
            assert_eq!(sorted(&live.files), sorted(&file.files), "{interface}");
            let mut complaints = live.complaints();
            if self.output == Output::Beside {
                // The original's checksums, for one, are made behind the listener.
                complaints.retain(|text| text.contains(" on VLAN [7]"));
            }
            assert_eq!(complaints, [""; 0], "{interface}");
        }
    }
}

fn sorted<T: Clone + Ord>(all: &[T]) -> Vec<T> {
    let mut all = all.to_vec();
    all.sort();
    all
}

/// `sslcollector -I wire0 -o …`
fn replayed_here(output: Output) {
    let network = Network::new();
    let (place, away) = (
        Place::new(&Applications::SIZES),
        Place::new(&Applications::SIZES),
    );
    let capture = place.path("capture.pcapng");
    let options = [
        &["-I", "wire0", "--ring-size", "16M"],
        &output.options("wire0")[..],
    ]
    .concat();
    let agent = Agent::start(&place, &capture, &options);
    let mut monitors = Monitors::new(&place, output);
    match output {
        Output::Alone => {
            monitors.listen(Command::new("suricata"), "mirror0");
            monitors.listen(Command::new("suricata"), "mirror0-tap");
        }
        Output::Beside => {
            monitors.listen(Command::new("suricata"), "wire0");
            monitors.listen(network.in_peer("suricata"), "wire1");
        }
    }
    let mut applications = Applications::start(&network, &place, &away, &agent);
    let expected = applications.talk();
    applications.end();
    let said = agent.end_well();
    assert!(!said.contains("LOST"), "{said}");
    monitors.have(&expected, &capture, &said);
}

/// `sslcollector -I wire0 -t …` at the host, `sslcollector -C -o …` at the sensor, which is the peer.
fn replayed_by_a_collector(output: Output) {
    let network = Network::new();
    let (place, away) = (
        Place::new(&Applications::SIZES),
        Place::new(&Applications::SIZES),
    );
    sensor::init(&place);
    let capture = place.path("collected.pcapng");
    let file = capture.display().to_string();
    let options = [&["-w", &file], &output.options("wire1")[..]].concat();
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0));
    let collector = Sensor::start_by(network.in_peer(binary()), &place, any, &options);
    let mut monitors = Monitors::new(&place, output);
    match output {
        Output::Alone => {
            monitors.listen(network.in_peer("suricata"), "mirror0");
            monitors.listen(network.in_peer("suricata"), "mirror0-tap");
        }
        Output::Beside => {
            monitors.listen(network.in_peer("suricata"), "wire1");
            monitors.listen(Command::new("suricata"), "wire0");
        }
    }
    // Named by one address, reached by the other.
    let port = collector.address.port();
    let token = sensor::token(&place, SocketAddr::new(PEER[0], port), "host", &[]);
    sensor::join(Command::new(binary()), &place, "agent", &token);
    let to = SocketAddr::new(PEER[1], port).to_string();
    let state = place.path("agent").display().to_string();
    let words = [
        "-I",
        "wire0",
        "-t",
        &to,
        "--state",
        &state,
        "--ring-size",
        "16M",
    ];
    let agent = Agent::sending(&place, &words);
    let mut applications = Applications::start(&network, &place, &away, &agent);
    let expected = applications.talk();
    applications.end();
    let said = agent.end_well();
    assert!(said.contains("all acknowledged"), "{said}");
    let said = said + &collector.end();
    assert!(!said.contains("LOST"), "{said}");
    monitors.have(&expected, &capture, &said);
}

#[test]
fn an_agent_with_an_interface() {
    replayed_here(Output::Alone);
}

#[test]
fn an_agent_beside_the_original_packets() {
    replayed_here(Output::Beside);
}

#[test]
fn a_collector_with_an_interface() {
    replayed_by_a_collector(Output::Alone);
}

#[test]
fn a_collector_beside_the_original_packets() {
    replayed_by_a_collector(Output::Beside);
}
