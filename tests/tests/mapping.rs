//! Sessions whose library has no socket are found on the wire, whatever way their hellos take: the addresses are
//! those that the program's own socket had, the fingerprint is Suricata's.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use mirror_tests::client::PYTHON;
use mirror_tests::network::{HOST, Listener, Network, PEER, enter_new_namespace, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::Agent;
use mirror_tests::sslcollector;
use mirror_tests::streams::{Flow, flows};
use rustix::process::Signal;
use serde_json::Value;

const TEXT: &[u8] = b"said over memory BIOs";

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(name)
}

/// Starts the server of `bio.py` for so many connections; also its port.
fn server(
    mut command: Command,
    place: &Place,
    address: IpAddr,
    count: usize,
    case: &str,
) -> (Process, u16) {
    command.arg(data("bio.py")).arg("server");
    command.arg(address.to_string()).arg(place.path("cert.pem"));
    command.arg(place.path("key.pem")).arg(count.to_string());
    let mut server = Process::start(command.arg(case).stdout(Stdio::piped()));
    let mut line = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a port");
    let port = line.trim().parse();
    (server, port.expect("a port"))
}

fn client(mut command: Command, address: IpAddr, port: u16, cases: &[&str]) -> Vec<(u16, bool)> {
    command.arg(data("bio.py")).arg("client");
    command.arg(address.to_string()).arg(port.to_string());
    let output = run(command.args(cases));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout).expect("text");
    let line = |line: &str| {
        let (port, resumed) = line.split_once(' ').unwrap_or((line, ""));
        (port.parse().expect("a port"), resumed == "resumed")
    };
    text.lines().map(line).collect()
}

fn mirrored(file: &Path) -> Command {
    let mut command = sslcollector::run_to(file, &["-I", "wire0"]);
    command.arg(PYTHON);
    command
}

/// A word of a flow's comment.
fn word<'f>(flow: &'f Flow, key: &str) -> Option<&'f str> {
    let mut words = flow.comment.split(' ');
    words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

/// The fingerprints of the handshakes in a capture, by the client's port, as Suricata says.
fn fingerprints(place: &Place, capture: &Path, port: u16) -> HashMap<u16, String> {
    let directory = place.path("judge");
    let mut suricata = Command::new("suricata");
    suricata
        .arg("-c")
        .arg(data("ja4.yaml"))
        .arg("-r")
        .arg(capture);
    suricata
        .arg("-l")
        .arg(&directory)
        .args(["-k", "none", "--set"]);
    let ports = format!("app-layer.protocols.tls.detection-ports.dp={port}");
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

/// The flows of a capture by the client's port; each is one of these, with its text and its own addresses.
fn bound(
    file: &Path,
    clients: &[(u16, bool)],
    ends: (IpAddr, IpAddr),
    port: u16,
) -> HashMap<u16, Flow> {
    let capture = Capture::read(file).expect("a capture");
    rules::assert_good(&capture, "memory BIOs");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), clients.len());
    let flows: HashMap<_, _> = flows
        .into_iter()
        .map(|flow| (flow.client.port(), flow))
        .collect();
    for (client, resumed) in clients {
        let flow = flows
            .get(client)
            .unwrap_or_else(|| panic!("no flow of {client}: {flows:?}"));
        assert_eq!((flow.client.ip(), flow.server.ip()), ends);
        assert_eq!(flow.server.port(), port);
        assert_eq!(word(flow, "bound"), Some("wire"), "{}", flow.comment);
        assert_eq!(
            word(flow, "resumed").is_some(),
            *resumed,
            "{}",
            flow.comment
        );
        assert_eq!(flow.request.whole(), Some(TEXT));
        assert_eq!(flow.response.whole(), Some(TEXT));
    }
    flows
}

/// A client's hello in every way.
#[test]
fn clients_are_found_and_fingerprinted_by_their_hellos_in_pieces() {
    let cases = [
        "asyncio",
        "cut:1,2,3,5,6,9",
        "cut:5",
        "cut:42",
        "cut:43",
        "cut:44,200",
        "long:1400",
        "long:3,1000,2000",
        "records:30",
        "resume",
    ];
    for (host, peer) in HOST.into_iter().zip(PEER) {
        let network = Network::new();
        let place = Place::new(&[]);
        let wire = place.path("wire.pcapng");
        let listener = Listener::start("wire0", &wire);
        let command = network.in_peer(PYTHON);
        let (mut served, port) = server(command, &place, peer, cases.len(), "cut:");
        let file = place.path("capture.pcapng");
        let clients = client(mirrored(&file), peer, port, &cases);
        assert!(served.wait().success());
        assert_eq!(clients.len(), cases.len());
        assert!(clients[cases.len() - 1].1, "the last one resumes");
        let ends = (host, peer);
        let flows = bound(&file, &clients, ends, port);
        listener.end(|capture| is_over(capture, cases.len()));
        let expected = fingerprints(&place, &wire, port);
        for (case, (client, _)) in cases.iter().zip(&clients) {
            let flow = &flows[client];
            let seen = word(flow, "ja4");
            assert!(seen.is_some(), "{case}: {}", flow.comment);
            let suricata = expected.get(client).map(String::as_str);
            assert_eq!(seen, suricata, "{case}");
            assert_eq!(word(flow, "sni"), Some("mirror.test"));
        }
    }
}

/// Whether all connections have ended, by the FINs of both ends.
fn is_over(capture: &Capture, connections: usize) -> bool {
    let ends = |frame: &[u8]| {
        let tcp = 14 + if frame[12..14] == [8, 0] { 20 } else { 40 };
        frame.get(tcp + 13).is_some_and(|flags| flags & 1 != 0)
    };
    capture
        .packets
        .iter()
        .filter(|packet| ends(&packet.frame))
        .count()
        >= 2 * connections
}

/// A server's hello in pieces, by asyncio, and behind a HelloRetryRequest.
#[test]
fn servers_are_found_by_theirs() {
    for case in ["asyncio", "cut:3", "cut:20,42", "curve:secp384r1"] {
        let network = Network::new();
        let place = Place::new(&[]);
        let file = place.path("capture.pcapng");
        let clients = ["cut:3,60", "asyncio", "long:1400"];
        let (mut served, port) = server(mirrored(&file), &place, HOST[0], clients.len(), case);
        let clients = client(network.in_peer(PYTHON), HOST[0], port, &clients);
        assert!(served.wait().success());
        let flows = bound(&file, &clients, (PEER[0], HOST[0]), port);
        for flow in flows.values() {
            assert!(word(flow, "ja4").is_some(), "{case}: {}", flow.comment);
        }
    }
}

/// An agent goes on without it, and its report says what that means.
#[test]
fn an_interface_that_goes_is_in_the_report() {
    enter_new_namespace();
    ip("link add gone0 type veth peer name gone1");
    ip("link set gone0 up");
    let place = Place::new(&[]);
    let agent = Agent::start(&place, &place.path("capture.pcapng"), &["-I", "gone0"]);
    ip("link del gone0");
    until("its end in the report", || {
        agent.process.signal(Signal::USR1);
        let said = agent.said();
        said.contains("1 interface ceased to show handshakes")
            .then_some(())
    });
    agent.end_well();
}
