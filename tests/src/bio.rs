//! `tests/data/bio.py`: Python programs whose TLS library has memory BIOs and no socket, and what was mirrored of them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::client::PYTHON;
use crate::place::Place;
use crate::process::{Process, output_of, run};
use crate::reader::Capture;
use crate::rules;
use crate::sslcollector;
use crate::streams::{Flow, flows};

/// What clients say, and servers say back.
pub const TEXT: &[u8] = b"said over memory BIOs";

/// A connection as the client tells of it: its port, and whether the session was resumed.
pub type Told = (u16, bool);

/// A file of `tests/data`.
pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

/// Python, mirrored by `sslcollector run` that looks at `wire0`.
pub fn mirrored(file: &Path) -> Command {
    let mut command = sslcollector::run_to(file, &["-I", "wire0", "--ring-size", "64M"]);
    command.arg(PYTHON);
    command
}

/// Starts the server, by `python`, for so many connections; also its port. It logs to `server.log` of the place.
///
/// # Panics
/// If it doesn't come up.
pub fn server(
    mut python: Command,
    place: &Place,
    address: IpAddr,
    count: usize,
    case: &str,
) -> (Process, u16) {
    python.arg(data("bio.py")).arg("server");
    python.arg(address.to_string()).arg(place.path("cert.pem"));
    python.arg(place.path("key.pem")).arg(count.to_string());
    python.arg(case).arg(place.path("server.log"));
    let mut server = Process::start(python.stdout(Stdio::piped()));
    let mut line = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a port");
    let port = line.trim().parse();
    (server, port.expect("a port"))
}

/// What the server has logged: each connection's address and port, and what it said; sorted.
///
/// # Panics
/// If it isn't there.
pub fn logged(place: &Place) -> Vec<(IpAddr, u16, Vec<u8>)> {
    let text = place.text("server.log");
    let line = |line: &str| {
        let mut words = line.splitn(3, ' ');
        let address = words.next()?.parse().ok()?;
        let port = words.next()?.parse().ok()?;
        Some((address, port, words.next()?.as_bytes().to_vec()))
    };
    let lines = text.lines().map(|text| line(text).expect("a line"));
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    lines
}

/// Runs the client, by `python`, to its end.
///
/// # Panics
/// If it fails.
pub fn client(mut python: Command, address: IpAddr, port: u16, cases: &[&str]) -> Vec<Told> {
    python.arg(data("bio.py")).arg("client");
    python.arg(address.to_string()).arg(port.to_string());
    let output = run(python.args(cases));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    text.lines().map(told).collect()
}

fn told(line: &str) -> Told {
    let (port, resumed) = line.split_once(' ').unwrap_or((line, ""));
    (port.parse().expect("a port"), resumed == "resumed")
}

/// A client whose last connection stays open.
#[derive(Debug)]
pub struct Held {
    process: Process,
    stdin: std::process::ChildStdin,
    /// All its connections; it is the last one.
    pub told: Vec<Told>,
}

impl Held {
    /// Starts it by `python`, with these cases before, and waits until it has been answered.
    ///
    /// # Panics
    /// If it hasn't.
    pub fn start(mut python: Command, address: IpAddr, port: u16, cases: &[&str]) -> Self {
        python.arg(data("bio.py")).arg("client");
        python.arg(address.to_string()).arg(port.to_string());
        python.args(cases).arg("held").stdout(Stdio::piped());
        let (mut process, stdin) = Process::start_fed(&mut python);
        let lines = BufReader::new(process.stdout().expect("a pipe")).lines();
        let lines = lines.take(cases.len() + 1);
        let told: Vec<_> = lines.map(|line| told(&line.expect("a line"))).collect();
        assert_eq!(told.len(), cases.len() + 1);
        Self {
            process,
            stdin,
            told,
        }
    }

    /// Lets it end.
    ///
    /// # Panics
    /// If it fails.
    pub fn end(mut self) {
        drop(self.stdin);
        assert!(self.process.wait().success());
    }
}

/// A word of a flow's comment.
pub fn word<'f>(flow: &'f Flow, key: &str) -> Option<&'f str> {
    let mut words = flow.comment.split(' ');
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The flows of a capture, which keeps all rules.
///
/// # Panics
/// If it doesn't.
pub fn good_flows(file: &Path) -> Vec<Flow> {
    let capture = Capture::read(file).expect("a capture");
    rules::assert_good(&capture, "memory BIOs");
    flows(&capture).expect("flows")
}

/// The flows of a capture by the client's port; each is one of these, with its text and its own addresses.
///
/// # Panics
/// If not.
pub fn bound(
    file: &Path,
    clients: &[Told],
    ends: (IpAddr, IpAddr),
    port: u16,
) -> HashMap<u16, Flow> {
    let flows = good_flows(file);
    assert_eq!(flows.len(), clients.len());
    let flows = flows.into_iter().map(|flow| (flow.client.port(), flow));
    let flows: HashMap<_, _> = flows.collect();
    for (client, resumed) in clients {
        let flow = flows.get(client);
        let flow = flow.unwrap_or_else(|| panic!("no flow of {client}: {flows:?}"));
        assert_eq!((flow.client.ip(), flow.server.ip()), ends);
        assert_eq!(flow.server.port(), port);
        let comment = &flow.comment;
        assert_eq!(word(flow, "bound"), Some("wire"), "{comment}");
        assert_eq!(word(flow, "resumed").is_some(), *resumed, "{comment}");
        assert_eq!(flow.request.whole(), Some(TEXT));
        assert_eq!(flow.response.whole(), Some(TEXT));
    }
    flows
}

/// A captured frame's IP packet, behind its VLAN tags, and how many there are; `None`: it is something else.
pub fn packet(frame: &[u8]) -> Option<(&[u8], usize)> {
    let mut at = 12;
    while [[0x81, 0], [0x88, 0xa8]].contains(frame[at..].first_chunk()?) {
        at += 4;
    }
    let is_ip = [[8, 0], [0x86, 0xdd]].contains(frame[at..].first_chunk()?);
    is_ip.then(|| (&frame[at + 2..], (at - 12) / 4))
}

/// The TCP segment of an IP packet without options or extension headers.
pub fn segment(packet: &[u8]) -> Option<&[u8]> {
    let (header, protocol) = match packet[0] >> 4 {
        4 => (20, packet[9]),
        _ => (40, packet[6]),
    };
    packet.get(header..).filter(|_| protocol == 6)
}

/// Whether so many captured connections have ended, by the FINs of both ends.
pub fn is_over(capture: &Capture, connections: usize) -> bool {
    let ends = |frame: &[u8]| Some(segment(packet(frame)?.0)?.get(13)? & 1 != 0);
    let frames = capture.packets.iter().map(|packet| &packet.frame);
    let ends = frames.filter(|frame| ends(frame).unwrap_or(false));
    ends.count() >= 2 * connections
}

/// The fingerprints of the handshakes in a capture, by the client's port, as Suricata says.
///
/// # Panics
/// If it can't read the capture.
pub fn fingerprints(place: &Place, capture: &Path, ports: &str) -> HashMap<u16, String> {
    let directory = place.path("judge");
    std::fs::create_dir_all(&directory).expect("make a directory");
    let mut suricata = Command::new("suricata");
    suricata.arg("-c").arg(data("ja4.yaml"));
    suricata.arg("-r").arg(capture).arg("-l").arg(&directory);
    suricata.args(["-k", "none", "--set"]);
    let ports = format!("app-layer.protocols.tls.detection-ports.dp={ports}");
    output_of(suricata.arg(ports));
    let events = std::fs::read_to_string(directory.join("eve.json")).expect("Suricata's events");
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("JSON");
        let ja4 = event["tls"]["ja4"].as_str()?;
        let port = u16::try_from(event["src_port"].as_u64()?).ok()?;
        Some((port, ja4.to_owned()))
    };
    events.lines().filter_map(event).collect()
}
