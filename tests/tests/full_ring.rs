//! The ring full: the application goes on, the hole is exact, and what follows is read again.

use mirror_tests::client;
use mirror_tests::judges::{Profile, Suricata, in_time_order};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::run;
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::{Flow, flows};

const BULK: usize = 20 << 20;

/// Runs the client below an agent that grants the smallest ring; what it said, and the capture's flows.
fn mirrored(place: &Place, steps: &[&str]) -> (String, String, Vec<Flow>) {
    let nginx = Nginx::new(place);
    nginx.start();
    let file = place.path("capture.pcapng");
    let mut command = sslcollector::run_to(&file, &["--ring-size", "64K"]);
    let output = run(command.args(client::words(place, nginx.port, steps)));
    nginx.quit();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "ring full");
    assert!(in_time_order(&file));
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    (stdout, said, flows(&capture).expect("flows"))
}

fn missing(flow: &Flow) -> u64 {
    flow.request.missing() + flow.response.missing()
}

#[test]
fn a_hole_in_the_middle_is_exact_and_later_requests_are_read() {
    let place = Place::new(&[1, 20_000, BULK]);
    let bulk = format!("get:/get/{BULK}");
    // The agent stands still while 20 MiB pass.
    let steps = [
        "get:/get/20000",
        "stop",
        &bulk,
        "go",
        "slowly:/get/1",
        "get:/get/20000?last",
        "close",
        "get:/get/20000?new",
    ];
    let (stdout, said, flows) = mirrored(&place, &steps);
    // The application saw nothing of it.
    assert_eq!(stdout.matches("HTTP/1.1 200 OK").count(), 54, "{stdout}");
    assert_eq!(flows.len(), 2);
    assert_eq!(client::difference(&place, 1, &flows[0]), None);
    assert_eq!(client::difference(&place, 2, &flows[1]), None);
    let lost = missing(&flows[0]);
    assert!(lost > BULK as u64 / 2, "only {lost} bytes were lost");
    assert_eq!(missing(&flows[1]), 0);
    // What is said agrees with the packets, to the byte.
    assert!(said.contains(&lost.to_string()), "{lost} isn't in: {said}");

    let file = place.path("capture.pcapng");
    let verdict = Suricata.read(&file, Profile::Sslcollector, &place.path("judge"));
    assert!(verdict.tcp("reassembly_gap") > 0);
    assert_eq!(verdict.tcp("invalid_checksum"), 0);
    for url in ["/get/20000?last", "/get/20000?new"] {
        let event = verdict.http.iter().find(|event| event.url == url);
        let event = event.unwrap_or_else(|| panic!("{url} isn't in {:?}", verdict.http));
        assert_eq!((event.status, event.length), (200, 20_000), "{url}");
    }
}

#[test]
fn a_hole_at_the_end_is_told() {
    let place = Place::new(&[1, BULK]);
    let bulk = format!("get:/get/{BULK}");
    // The agent never looks before the connection is gone.
    let steps = [
        "get:/get/1",
        "stop",
        &bulk,
        // What bulk leaves free is too small for its records only.
        "slowly:/get/1",
        "close",
        "go",
        "get:/get/1?new",
    ];
    let (_, said, flows) = mirrored(&place, &steps);
    assert_eq!(flows.len(), 2);
    assert_eq!(client::difference(&place, 2, &flows[1]), None);
    let flow = &flows[0];
    // No packet can show a hole that nothing follows; the reset's comment and the summary do.
    let mut lost = missing(flow);
    let ends = [
        ("client", "sent", &flow.request),
        ("server", "received", &flow.response),
    ];
    for (side, file, stream) in ends {
        let truth = place.read(&format!("out/{file}.1"));
        assert_eq!(stream.difference_at_beginning(&truth), None, "{side}");
        let tail = truth.len() as u64 - stream.length();
        let told = format!("{side}_missing={tail}");
        let comment = &flow.end_comment;
        assert!(
            tail == 0 || comment.contains(&told),
            "{told} isn't in: {comment}"
        );
        lost += tail;
    }
    assert!(
        flow.end_comment.contains("server_missing="),
        "the end is there"
    );
    assert!(lost > BULK as u64 / 2, "only {lost} bytes were lost");
    assert!(said.contains(&lost.to_string()), "{lost} isn't in: {said}");
}

/// Small rings lose much of a bulk transfer even when the agent does its best: the capture still
/// has every byte at its place or in a hole.
#[test]
fn bulk_through_a_small_ring() {
    let place = Place::new(&[20_000, BULK]);
    let bulk = format!("get:/get/{BULK}");
    let steps = [
        "get:/get/20000",
        &bulk,
        "get:/get/20000?last",
        "close",
        "get:/get/20000?new",
    ];
    let (stdout, _, flows) = mirrored(&place, &steps);
    assert_eq!(stdout.matches("HTTP/1.1 200 OK").count(), 4, "{stdout}");
    assert_eq!(flows.len(), 2);
    let received = place.read("out/received.1");
    let response = &flows[0].response;
    assert_eq!(response.difference_at_beginning(&received), None);
    assert_eq!(client::difference(&place, 2, &flows[1]), None);
}
