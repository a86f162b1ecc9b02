//! HTTP/2 shown as HTTP/1.1: calls of each kind between tonic and tonic, mirrored at one end or at the other. Bodies
//! are exact, with trailers behind them.

use mirror_tests::examples::{ask, client, end, judge, server, start};
use mirror_tests::http1::{Message, requests, responses};
use mirror_tests::judges::{HttpEvent, Verdict};
use mirror_tests::lanes::{HTTP1, assert_lanes, event, events, hash_count, mirror};
use mirror_tests::place::Place;
use mirror_tests::process::run;
use mirror_tests::streams::Flow;

/// Messages of a stream.
const COUNT: u8 = 50;
/// All of a stream's are more than a frame of HTTP/2 holds.
const TEXT: &str = "a message that is its own answer, and as long as that takes. ";

fn text() -> String {
    TEXT.repeat(16)
}

/// The message `{ text, times: COUNT }` as gRPC frames it: not compressed, its length, and its fields.
fn framed() -> Vec<u8> {
    let text = text();
    assert!((128..1 << 14).contains(&text.len()), "two bytes of length");
    let length = [text.len() % 128 + 128, text.len() / 128];
    let length = length.map(|byte| u8::try_from(byte).expect("a byte"));
    let message = [&[0x0a], &length[..], text.as_bytes(), &[0x10, COUNT]].concat();
    let bytes = u32::try_from(message.len()).expect("a length");
    [&[0], &bytes.to_be_bytes()[..], &message].concat()
}

/// The calls in their order: path, messages that are sent, messages that come back.
const CALLS: [(&str, u8, u8); 4] = [
    ("/mirror.Echo/Once", 1, 1),
    ("/mirror.Echo/Each", COUNT, COUNT),
    ("/mirror.Echo/Repeat", 1, COUNT),
    ("/mirror.Echo/Count", COUNT, 1),
];

fn call(place: &Place, port: u16) -> Vec<std::ffi::OsString> {
    let (count, text) = (COUNT.to_string(), text());
    client(place, "tonic-service", port, "", &[&count, &text])
}

/// What the client printed is `printed`: each answer's text.
fn assert_exact(place: &Place, printed: &[u8], said: &str) {
    let lines = CALLS.iter().map(|call| usize::from(call.2)).sum::<usize>();
    let expected = (text() + "\n").repeat(lines);
    assert!(printed == expected.as_bytes(), "what the client printed");
    let (flows, verdict) = judge(place);
    assert_lanes(&flows, 1);
    let [flow] = &flows[..] else {
        panic!("one after another: {said}");
    };
    let (asked, answered) = messages(flow);
    assert_eq!((asked.len(), answered.len()), (CALLS.len(), CALLS.len()));
    for ((path, sent, received), (request, response)) in
        CALLS.into_iter().zip(asked.iter().zip(&answered))
    {
        assert_eq!(request.line, format!("POST {path}"));
        assert_eq!(response.line, "200");
        for (message, count) in [(request, sent), (response, received)] {
            let content = framed().repeat(count.into());
            assert!(message.content == content, "{path}: {message:?}");
            let kind = ("Content-Type".to_owned(), b"application/grpc".to_vec());
            assert!(message.fields.contains(&kind), "{:?}", message.fields);
        }
        assert_eq!(request.trailers, []);
        let status = ("Grpc-Status".to_owned(), b"0".to_vec());
        assert_eq!(response.trailers, [status]);
    }
    assert_seen(place, &verdict);
    let told = format!("shown as HTTP/1.1: {} requests, in 0 flows", CALLS.len());
    assert!(said.contains(&told), "{said}");
}

fn messages(flow: &Flow) -> (Vec<Message>, Vec<Message>) {
    let asked = requests(flow.request.whole().expect("no hole"));
    let answered = responses(flow.response.whole().expect("no hole"));
    (asked.expect("requests"), answered.expect("responses"))
}

/// Suricata saw the same calls and bodies.
fn assert_seen(place: &Place, verdict: &Verdict) {
    let shown = events(verdict);
    let mut expected = CALLS.map(|(path, ..)| event("POST", path, 200, 0));
    expected.sort();
    // It counts with what frames chunks.
    let shown = shown
        .into_iter()
        .map(|event| HttpEvent { length: 0, ..event });
    assert_eq!(shown.collect::<Vec<_>>(), expected);
    for (count, name) in [(1, "one"), (COUNT, "many")] {
        let file = place.path(&format!("out/{name}"));
        std::fs::write(&file, framed().repeat(count.into())).expect("a file");
        for upload in [false, true] {
            assert_eq!(hash_count(verdict, &file, upload), 2, "{name}");
        }
    }
}

#[test]
fn of_a_client() {
    let place = Place::new(&[]);
    let service = server(&place, "tonic-service");
    let running = start(&service);
    let output = run(mirror(&place).args(call(&place, service.port)));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    end(running);
    assert_exact(&place, &output.stdout, &said);
}

#[test]
fn of_a_server() {
    let place = Place::new(&[]);
    let service = server(&place, "tonic-service");
    let mirrored = service.start_with(&place, &HTTP1);
    let printed = ask(&call(&place, service.port));
    let said = mirrored.end().said;
    assert_exact(&place, &printed, &said);
}
