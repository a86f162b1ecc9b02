//! Programs whose TLS has a transport of their own, which another thread or process carries to a TCP connection: rustls by
//! wrappers and by its provider, and libssl. Each session is found on the wire, however it shook hands: with a hello
//! of the hybrid X25519MLKEM768 that is longer than a packet, with a HelloRetryRequest, and resumed in each way.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::bio::{data, fingerprints, good_flows, is_over, packet, segment, word};
use mirror_tests::native::compile_gnu;
use mirror_tests::network::{HOST, Listener, Network, PEER, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run};
use mirror_tests::reader::Capture;
use mirror_tests::sslcollector::{beside, run_to};

const PORT: u16 = 44_332;
const STEPS: [&str; 6] = ["1.3", "1.3", "1.2-id", "1.2-id", "1.2-ticket", "1.2-ticket"];
/// As the program says it.
const TEXT: &[u8] = b"carried by somebody else\n";
const RESUMED_RETRIED: &str = "ResumedWithHelloRetryRequest";
/// Of a packet with the options that Linux sets.
const MOST_IN_A_PACKET: usize = 1448;

/// One end of the connections.
#[derive(Clone, Copy, Debug)]
struct End<'a> {
    program: &'a Path,
    way: &'a str,
}

/// What the program is mirrored by, if it is.
fn command(network: &Network, end: End<'_>, mirrored_to: Option<&Path>) -> Command {
    match mirrored_to {
        Some(file) => {
            let mut command = run_to(file, &["-I", "wire0"]);
            command.arg(end.program).arg(end.way);
            command
        }
        None => {
            let mut command = network.in_peer(end.program);
            command.arg(end.way);
            command
        }
    }
}

/// A server and what it says of its connections once it has had all.
struct Serving {
    process: Process,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serving {
    fn start(mut command: Command, place: &Place, address: SocketAddr, group: &str) -> Self {
        command.arg("server").arg(place.path("cert.pem"));
        command.arg(place.path("key.pem")).arg(address.to_string());
        command.args([group, &STEPS.len().to_string()]);
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let mut lines = BufReader::new(process.stdout().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert_eq!(first, format!("listening on {address}"));
        Self { process, lines }
    }

    fn end(mut self) -> Vec<String> {
        let lines = self.lines.map(|line| line.expect("text")).collect();
        assert!(self.process.wait().success());
        lines
    }
}

fn ask(mut command: Command, place: &Place, address: SocketAddr) -> Vec<String> {
    command.arg("client").arg(place.path("cert.pem"));
    let output = run(command.arg(address.to_string()).args(STEPS));
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    said.lines().map(str::to_owned).collect()
}

/// The ClientHellos' lengths, of those that begin a packet.
fn hellos(wire: &Capture) -> Vec<usize> {
    let frames = wire.packets.iter();
    let lengths = frames.filter_map(|one| {
        let segment = segment(packet(&one.frame)?.0)?;
        let payload = segment.get(usize::from(segment[12] >> 4) * 4..)?;
        let is_hello = payload.first() == Some(&22) && payload.get(5) == Some(&1);
        is_hello.then(|| 5 + usize::from(u16::from_be_bytes([payload[3], payload[4]])))
    });
    lengths.collect()
}

/// Lets this end, mirrored, talk with rustls over a transport of its own, in both roles and with each way in which servers
/// answer a client's first key share.
fn is_found(program: &Path, way: &str) {
    let ours = End { program, way };
    let program = beside("carried");
    let (program, way) = (program.as_path(), "stream");
    let peers = End { program, way };
    for group in ["any", "secp384r1"] {
        talk(ours, peers, "client", group);
        talk(peers, ours, "server", group);
    }
}

fn talk(client: End<'_>, server: End<'_>, mirrored: &str, group: &str) {
    let network = Network::new();
    // Else the veth pair carries in one what takes several packets.
    ip("link set wire0 gso_max_segs 1");
    let place = Place::new(&[]);
    let (file, wire) = (place.path("capture.pcapng"), place.path("wire.pcapng"));
    let listener = Listener::start("wire0", &wire);
    let to = |role: &str| (role == mirrored).then_some(file.as_path());
    let (own, peers) = match mirrored {
        "client" => (HOST[0], PEER[0]),
        _ => (PEER[0], HOST[0]),
    };
    let address = SocketAddr::new(peers, PORT);
    let serving = command(&network, server, to("server"));
    let serving = Serving::start(serving, &place, address, group);
    let said = ask(command(&network, client, to("client")), &place, address);
    // Of a session that goes on rustls' server doesn't say whether it asked again.
    let plain = |lines: &[String]| lines.join(" ").replace(RESUMED_RETRIED, "Resumed");
    assert_eq!(plain(&serving.end()), plain(&said), "{client:?} {server:?}");
    let seen = listener.end(|capture| is_over(capture, STEPS.len()));
    // rustls offers the hybrid in TLS 1.3, and OpenSSL 3.0 doesn't.
    let is_long = hellos(&seen)
        .iter()
        .any(|length| *length > MOST_IN_A_PACKET);
    assert_eq!(is_long, client.program == beside("carried"), "{client:?}");
    let ja4 = fingerprints(&place, &wire, &PORT.to_string());
    let flows = good_flows(&file);
    assert_eq!(flows.len(), STEPS.len());
    for (number, (flow, said)) in flows.iter().zip(&said).enumerate() {
        let what = format!(
            "{group} {number} {said} {client:?} {server:?}: {}",
            flow.comment
        );
        let (port, how) = said.split_once(' ').expect("a port and how");
        // Who has asked before may know the group.
        let is_retried = number == 0 && group != "any" || number == 1 && how.ends_with("Request");
        let kind = ["Full", "Resumed"][number % 2];
        let retried = ["", "WithHelloRetryRequest"][usize::from(is_retried)];
        assert_eq!(how, format!("{kind}{retried}"), "{what}");
        assert_eq!(word(flow, "bound"), Some("wire"), "{what}");
        assert_eq!(flow.client.ip(), own, "{what}");
        assert_eq!(flow.client.port().to_string(), port, "{what}");
        assert_eq!(flow.server, address, "{what}");
        let resumed = [None, Some("yes")][number % 2];
        assert_eq!(word(flow, "resumed"), resumed, "{what}");
        let version = if number < 2 { "TLSv1.3" } else { "TLSv1.2" };
        assert_eq!(word(flow, "tls"), Some(version), "{what}");
        let ja4 = ja4.get(&flow.client.port()).map(String::as_str);
        assert!(ja4.is_some() && word(flow, "ja4") == ja4, "{ja4:?} {what}");
        assert_eq!(flow.request.whole(), Some(TEXT), "{what}");
        assert_eq!(flow.response.whole(), Some(TEXT), "{what}");
    }
}

#[test]
fn rustls_by_wrappers() {
    is_found(&beside("carried"), "stream");
}

#[test]
fn rustls_by_wrappers_of_tokio() {
    is_found(&beside("carried"), "tokio");
}

#[test]
fn rustls_by_its_provider() {
    is_found(&beside("carried"), "install");
}

fn openssl_is_found(way: &str) {
    let place = Place::new(&[]);
    let program = place.path("carried");
    compile_gnu(&[data("carried.c")], &program, &["-lssl", "-lcrypto"]);
    is_found(&program, way);
}

#[test]
fn openssl_with_a_bio_of_its_own() {
    openssl_is_found("bio");
}

#[test]
fn openssl_with_a_socket_that_is_no_connection_of_tcp() {
    openssl_is_found("unix");
}
