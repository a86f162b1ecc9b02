//! HTTP/2 shown as HTTP/1.1: a WebSocket (RFC 8441) that Chromium opens at HAProxy and at Apache.

use std::collections::HashSet;
use std::path::Path;
use std::process::Command;

use mirror_tests::apache::apache_in_front;
use mirror_tests::chromium;
use mirror_tests::clear::alone;
use mirror_tests::client::PYTHON;
use mirror_tests::examples::judge;
use mirror_tests::haproxy::haproxy_http2;
use mirror_tests::judges::follow;
use mirror_tests::lanes::{HTTP1, assert_lanes, word};
use mirror_tests::place::{HOST, Place, free_port};
use mirror_tests::process::{Process, listens, stdout_of, until};
use mirror_tests::service::Service;
use mirror_tests::streams::Stream;

/// Frames of the page and of the server, by opcode (RFC 6455 section 5.2): text, binary, the end, a ping and its answer.
/// How many continue another one is the browser's affair.
const FRAMES: [(&str, usize); 5] = [("1", 2), ("2", 14), ("8", 2), ("9", 1), ("10", 1)];
/// What a server appends to the key that it has read (section 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The page of `tests/data/websocket.html` at a service that speaks HTTP/2, in front of `tests/data/websocket.py`.
fn a_websocket(service: impl FnOnce(&Place, u16) -> Service) {
    let place = Place::new(&[]);
    alone();
    let (_server, port) = server(&place);
    let service = service(&place, port);
    let mirrored = service.start_with(&place, &HTTP1);
    let document = chromium::page(&place, &format!("https://{HOST}:{}/", service.port));
    assert!(document.contains("<title>8 the same</title>"), "{document}");
    let said = mirrored.end().said;
    let (flows, verdict) = judge(&place);
    let sessions = flows.iter().filter_map(|flow| word(flow, "session"));
    assert_lanes(&flows, sessions.collect::<HashSet<_>>().len());
    let mut seen: Vec<_> = verdict
        .http
        .iter()
        .map(|event| (event.url.as_str(), event.status))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [("/", 200), ("/over", 200), ("/socket", 101)],
        "{said}"
    );

    // The handshake, once, and behind it every byte that the server behind got and sent.
    let port = verdict.http.iter().find(|event| event.status == 101);
    let port = port.map(|event| event.port);
    let flow = flows.iter().find(|flow| Some(flow.client.port()) == port);
    let flow = flow.expect("the socket's flow");
    let (asked, received) = head(&flow.request);
    let (answered, sent) = head(&flow.response);
    assert!(received == place.read("out/received"), "{said}");
    assert!(sent == place.read("out/sent"), "{said}");
    assert!(asked.starts_with(&format!("GET /socket HTTP/1.1\r\nHost: {HOST}:")));
    assert!(answered.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
    for head in [&asked, &answered] {
        let told = head.contains("\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n");
        assert!(told, "{head}");
    }
    let key = the_one(&asked, "Sec-WebSocket-Key");
    let accept = the_one(&answered, "Sec-WebSocket-Accept");
    let hash = format!("printf %s '{key}{GUID}' | openssl sha1 -binary | openssl base64");
    let expected = stdout_of(Command::new("sh").args(["-c", &hash]));
    assert_eq!(accept, expected.trim_end());

    let capture = place.path("capture.pcapng");
    let lines = follow(&capture, "websocket", &["websocket.opcode"]);
    let opcodes: Vec<_> = lines.iter().flat_map(|line| line.split(',')).collect();
    for (opcode, count) in FRAMES {
        let found = opcodes.iter().filter(|found| **found == opcode).count();
        assert_eq!(found, count, "{opcode}: {opcodes:?}");
    }
}

/// Head and what is behind it, of a stream without a hole.
fn head(stream: &Stream) -> (String, Vec<u8>) {
    let text = stream.whole().expect("no hole");
    let end = text.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, rest) = text.split_at(end.expect("a head") + 4);
    (String::from_utf8_lossy(head).into_owned(), rest.to_vec())
}

/// Value of a field that is there once.
fn the_one<'h>(head: &'h str, name: &str) -> &'h str {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let values: Vec<_> = fields.filter(|field| field.0 == name).collect();
    let [(_, value)] = values[..] else {
        panic!("{name} isn't there once: {head}");
    };
    value
}

fn server(place: &Place) -> (Process, u16) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let port = free_port();
    let mut python = Command::new(PYTHON);
    python.arg(data.join("websocket.py")).arg(port.to_string());
    python
        .arg(data.join("websocket.html"))
        .arg(place.path("out"));
    let mut process = Process::start(&mut python);
    until("the server listens", || {
        assert!(!process.ended());
        listens(port).then_some(())
    });
    (process, port)
}

#[test]
fn haproxy() {
    a_websocket(haproxy_http2);
}

#[test]
fn apache() {
    a_websocket(apache_in_front);
}
