//! The commands that put packets out on an interface, at a host or at a collector, and monitors that listen there
//! live, at the interface itself and at its far end.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::judges::{FileInfo, HttpEvent, Listening, Profile, Suricata};
use crate::network::{Network, PEER};
use crate::place::Place;
use crate::sensor::{self, Sensor};
use crate::service::Agent;
use crate::sslcollector::binary;

/// The tag of what is forged, where it is beside the original.
const VLAN: &str = "7";

/// Where packets go: options, the interface, and its far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// To an interface of their own.
    Alone,
    /// To the one that has the original packets, too.
    Beside,
}

/// A host with an agent, and its peer.
#[derive(Debug)]
pub struct Host<'a> {
    /// Both.
    pub network: &'a Network,
    /// Files of the host's programs.
    pub place: &'a Place,
    /// Those of the peer's.
    pub away: &'a Place,
    /// It serves the host's programs.
    pub agent: &'a Agent,
}

/// What was seen of what the host's programs did.
#[derive(Debug)]
pub struct Seen<T> {
    /// What these tell themselves.
    pub told: T,
    /// Suricata's http events, the same in the file and live, in order.
    pub http: Vec<HttpEvent>,
    /// Its files.
    pub files: Vec<FileInfo>,
    /// What agent and collector said.
    pub said: String,
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

    /// Each has seen exactly what is in the file, and nobody objects.
    fn seen<T>(self, told: T, capture: &Path, said: String) -> Seen<T> {
        let file = Suricata.read(capture, Profile::Sslcollector, &self.judge);
        assert_eq!(file.complaints(), [""; 0], "{said}");
        let (http, files) = (sorted(&file.http), sorted(&file.files));
        assert_eq!(self.at.len(), 2);
        for (interface, listening) in self.at {
            let live = listening.verdict();
            assert_eq!(sorted(&live.http), http, "{interface}: {said}");
            assert_eq!(sorted(&live.files), files, "{interface}");
            let mut complaints = live.complaints();
            if self.output == Output::Beside {
                // The original's checksums, for one, are made behind the listener.
                complaints.retain(|text| text.contains(" on VLAN [7]"));
            }
            assert_eq!(complaints, [""; 0], "{interface}");
        }
        Seen {
            told,
            http,
            files,
            said,
        }
    }
}

fn sorted<T: Clone + Ord>(all: &[T]) -> Vec<T> {
    let mut all = all.to_vec();
    all.sort();
    all
}

/// `sslcollector -I wire0 -o …`, with further options, while the host talks; there are files of these sizes.
///
/// # Panics
/// If it fails, something is lost, or a monitor has not seen all of it or objects.
pub fn here<T>(
    output: Output,
    options: &[&str],
    sizes: &[usize],
    talk: impl FnOnce(&Host<'_>) -> T,
) -> Seen<T> {
    let network = Network::new();
    let (place, away) = (Place::new(sizes), Place::new(sizes));
    let capture = place.path("capture.pcapng");
    let fixed = ["-I", "wire0", "--ring-size", "16M"];
    let options = [&fixed[..], &output.options("wire0"), options].concat();
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
    let told = talk(&Host {
        network: &network,
        place: &place,
        away: &away,
        agent: &agent,
    });
    let said = agent.end_well();
    assert!(!said.contains("LOST"), "{said}");
    monitors.seen(told, &capture, said)
}

/// `sslcollector -I wire0 -t …` at the host, `sslcollector -C -o …` with further options at the sensor, which is the
/// peer; else as [`here`].
///
/// # Panics
/// As there.
pub fn at_a_collector<T>(
    output: Output,
    options: &[&str],
    sizes: &[usize],
    talk: impl FnOnce(&Host<'_>) -> T,
) -> Seen<T> {
    let network = Network::new();
    let (place, away) = (Place::new(sizes), Place::new(sizes));
    sensor::init(&place);
    let capture = place.path("collected.pcapng");
    let file = capture.display().to_string();
    let options = [&["-w", &file], &output.options("wire1")[..], options].concat();
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
    let told = talk(&Host {
        network: &network,
        place: &place,
        away: &away,
        agent: &agent,
    });
    let said = agent.end_well();
    assert!(said.contains("all acknowledged"), "{said}");
    let said = said + &collector.end();
    assert!(!said.contains("LOST"), "{said}");
    monitors.seen(told, &capture, said)
}
