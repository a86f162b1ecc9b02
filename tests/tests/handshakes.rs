//! Handshakes that take another way: with a HelloRetryRequest, with a session that goes on, and with 0-RTT data, which is
//! taken or refused. A program whose library has memory BIOs and no socket speaks with the openssl command, and is found
//! on the wire.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::JoinHandle;

use mirror_tests::bio::{data, fingerprints, good_flows, is_over, packet, segment, word};
use mirror_tests::native::compile_gnu;
use mirror_tests::network::{HOST, Listener, Network, PEER};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::sslcollector;
use mirror_tests::streams::Flow;

/// Of a server that takes the client's first key share, and of one that doesn't.
const PORTS: [u16; 2] = [44_330, 44_331];
const GROUPS: [&str; 2] = ["X25519:P-256", "P-384"];
/// As the program says them.
const EARLY: &str = "said early\n";
const TEXT: &str = "said over memory BIOs\n";
const ANSWER: &str = "answered by openssl s_server, which has a socket\n";
/// Connections with each server.
const EACH: usize = 3;

/// The ServerHello.random that is a HelloRetryRequest's begins so (RFC 8446 4.1.3).
const RETRY: [u8; 8] = [0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11];

fn program(place: &Place) -> PathBuf {
    let program = place.path("memory");
    compile_gnu(&[data("memory.c")], &program, &["-lssl", "-lcrypto"]);
    program
}

fn mirrored(file: &Path, program: &Path) -> Command {
    let mut command = sslcollector::run_to(file, &["-I", "wire0"]);
    command.arg(program);
    command
}

/// Whether the server's port listens there.
fn until_listening(process: &Process, port: u16) {
    let listens = format!(":{port:04X} 00000000:0000 0A");
    until("a server", || {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", process.id())).ok()?;
        table.contains(&listens).then_some(())
    });
}

/// `openssl s_server`; what it hears, of all its connections. It answers each TEXT.
fn s_server(network: &Network, place: &Place, number: usize) -> JoinHandle<String> {
    let mut openssl = network.in_peer("openssl");
    let accept = format!("{}:{}", PEER[0], PORTS[number]);
    openssl.args(["s_server", "-quiet", "-early_data", "-accept", &accept]);
    openssl.args(["-groups", GROUPS[number], "-naccept", &EACH.to_string()]);
    openssl.arg("-cert").arg(place.path("cert.pem"));
    openssl.arg("-key").arg(place.path("key.pem"));
    openssl.stdout(Stdio::piped()).stderr(Stdio::null());
    let (mut server, mut stdin) = Process::start_fed(&mut openssl);
    until_listening(&server, PORTS[number]);
    std::thread::spawn(move || {
        let stdout = server.stdout().expect("a pipe");
        let mut heard = String::new();
        for line in BufReader::new(stdout).lines() {
            let line = line.expect("text") + "\n";
            heard += &line;
            if line == TEXT {
                stdin.write_all(ANSWER.as_bytes()).expect("an answer");
            }
        }
        assert!(server.wait().success());
        heard
    })
}

/// The client's ports whose connections had a HelloRetryRequest, in the direction of the client.
fn retried(wire: &mirror_tests::reader::Capture) -> Vec<u16> {
    let frames = wire.packets.iter();
    let told = frames.filter_map(|one| {
        let segment = segment(packet(&one.frame)?.0)?;
        let payload = segment.get(usize::from(segment[12] >> 4) * 4..)?;
        let is_retry = payload.get(11..19) == Some(&RETRY[..]) && payload.get(5) == Some(&2);
        is_retry.then(|| u16::from_be_bytes([segment[2], segment[3]]))
    });
    told.collect()
}

/// What the program says of its connections, behind their ports.
fn said(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(output);
    let words = text.lines().map(|line| line.split(' ').skip(1));
    words
        .map(|words| words.collect::<Vec<_>>().join(" "))
        .collect()
}

/// The flow's comment says what the program says; it has Suricata's fingerprint.
fn assert_told(flow: &Flow, words: &str, seen: &HashMap<u16, String>) {
    let comment = &flow.comment;
    assert_eq!(word(flow, "bound"), Some("wire"), "{comment}");
    let ja4 = seen.get(&flow.client.port()).map(String::as_str);
    assert_eq!(word(flow, "ja4"), ja4, "{comment}");
    let resumed = words.contains("resumed").then_some("yes");
    assert_eq!(word(flow, "resumed"), resumed, "{comment}");
    let mut early = ["accepted", "rejected"].into_iter();
    let early = early.rfind(|early| words.contains(early));
    assert_eq!(word(flow, "early"), early, "{comment}");
}

#[test]
fn a_client_of_openssl() {
    let network = Network::new();
    let place = Place::new(&[]);
    let program = program(&place);
    let (file, wire) = (place.path("capture.pcapng"), place.path("wire.pcapng"));
    let listener = Listener::start("wire0", &wire);
    let servers = [0, 1].map(|number| s_server(&network, &place, number));
    let mut client = mirrored(&file, &program);
    client.arg("client").arg(PEER[0].to_string());
    let steps = PORTS.map(|port| ["full", "resume", "early"].map(|step| format!("{step}:{port}")));
    let output = run(client.args(steps.iter().flatten()));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    let heard = servers.map(|server| server.join().expect("a server"));
    let twice = format!("{TEXT}{TEXT}{EARLY}{TEXT}");
    assert_eq!(heard, [twice.clone(), twice]);
    let wire_seen = listener.end(|capture| is_over(capture, 2 * EACH));
    let retried = retried(&wire_seen);
    let seen = fingerprints(&place, &wire, &format!("\"{},{}\"", PORTS[0], PORTS[1]));
    let flows = good_flows(&file);
    // With a second ClientHello, s_server takes no session again for which it takes 0-RTT data.
    let words = ["", "resumed", "resumed accepted", "", "", "rejected"];
    assert_eq!(said(&output.stdout), words);
    assert_eq!(flows.len(), 2 * EACH);
    for (number, flow) in flows.iter().enumerate() {
        let (server, early) = (number / EACH, ["", "", EARLY][number % EACH]);
        assert_told(flow, words[number], &seen);
        assert_eq!(flow.client.ip(), HOST[0]);
        assert_eq!(flow.server, (PEER[0], PORTS[server]).into());
        assert_eq!(retried.contains(&flow.client.port()), server == 1);
        let request = format!("{early}{TEXT}");
        assert_eq!(flow.request.whole(), Some(request.as_bytes()));
        assert_eq!(flow.response.whole(), Some(ANSWER.as_bytes()));
    }
}

/// `openssl s_client` with these words; what it is answered.
fn s_client(network: &Network, place: &Place, port: u16, words: &[&str]) -> String {
    let connect = format!("{}:{port}", HOST[0]);
    let text = place.path("text");
    fs::write(&text, TEXT).expect("a file");
    let mut openssl = network.in_peer("openssl");
    openssl.args(["s_client", "-quiet", "-ign_eof", "-connect", &connect]);
    openssl.args(["-servername", "mirror.test"]);
    let input = fs::File::open(&text).expect("a file");
    let output = openssl.args(words).stdin(input).stderr(Stdio::null());
    let output = output.output().expect("openssl");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_server_of_openssl() {
    let network = Network::new();
    let place = Place::new(&[]);
    let program = program(&place);
    for number in [0, 1] {
        let file = place.path(&format!("{number}.pcapng"));
        let wire = place.path(&format!("wire-{number}.pcapng"));
        let listener = Listener::start("wire0", &wire);
        let port = PORTS[number];
        let mut server = mirrored(&file, &program);
        server.args(["server", &HOST[0].to_string(), &port.to_string()]);
        server
            .arg(place.path("cert.pem"))
            .arg(place.path("key.pem"));
        server.args([GROUPS[number], &EACH.to_string()]);
        let server = Process::start_piped(&mut server);
        until_listening(&server, port);
        let path = |name: &str| place.path(name).display().to_string();
        let (session, early) = (path("session.pem"), path("early"));
        fs::write(&early, EARLY).expect("a file");
        let ways = [
            &["-sess_out", &session][..],
            &["-sess_in", &session],
            &["-sess_in", &session, "-early_data", &early],
        ];
        let answers = ways.map(|words| s_client(&network, &place, port, words));
        let output = server.output();
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{complaint}");
        let early = if number == 0 { EARLY } else { "" };
        let expected = ["", "", early].map(|early| format!("{early}{TEXT}"));
        assert_eq!(answers, expected);
        let retried = retried(&listener.end(|capture| is_over(capture, EACH)));
        let seen = fingerprints(&place, &wire, &port.to_string());
        let flows = good_flows(&file);
        assert_eq!(flows.len(), EACH);
        let last = ["resumed accepted", "resumed rejected"][number];
        let words = ["", "resumed", last];
        assert_eq!(said(&output.stdout), words);
        for ((flow, words), text) in flows.iter().zip(words).zip(&expected) {
            // What a server doesn't read isn't told of.
            assert_told(flow, &words.replace("rejected", ""), &seen);
            assert_eq!(flow.client.ip(), PEER[0]);
            assert_eq!(flow.server, (HOST[0], port).into());
            assert_eq!(retried.contains(&flow.client.port()), number == 1);
            assert_eq!(flow.request.whole(), Some(text.as_bytes()));
            assert_eq!(flow.response.whole(), Some(text.as_bytes()));
        }
    }
}
