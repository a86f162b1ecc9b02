//! HTTP/2 shown as HTTP/1.1 while somebody attacks who shows it: the others lose nothing, the attacker's session goes on as the
//! frames that it is, no byte is missing or there twice, and nobody reads a request that wasn't made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use mirror_tests::attacks::{self, Attack};
use mirror_tests::decode::Segment;
use mirror_tests::http1::{requests_begun, responses};
use mirror_tests::http2::{PREFACE, get, ok, ping, settings};
use mirror_tests::judges::{Profile, Suricata, complaints, in_time_order};
use mirror_tests::lanes::word;
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sessions;
use mirror_tests::siege::{ANSWER_BYTES, Siege, assert_all_told};
use mirror_tests::streams::{End, Flow, flows};
use mirror_tests::synth;
use mirror_tests::told::{self, Conversation, Who};
use serde_json::Value;

/// What the report says of each reason.
const REASONS: [(&str, &str); 10] = [
    ("cut", "ended within a frame"),
    ("frames", "frames that can't be"),
    ("header-block", "a header block that can't be read"),
    ("size", "headers too large"),
    ("streams", "too many streams at once"),
    ("resets", "too many streams given up"),
    ("bytes", "fields that HTTP/1.1 would misread"),
    ("transfer-encoding", "a transfer-encoding"),
    ("length", "a false content-length"),
    ("malformed", "a malformed message"),
];

/// The answer that comes before any attack.
const IDLE: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nidle";

fn is_raw(flow: &Flow) -> bool {
    word(flow, "http1").is_some_and(|part| part.starts_with("raw:"))
}

/// An attack as a conversation, and how far each side had come when it was refused.
fn conversation(attack: &Attack) -> (Conversation, [usize; 2]) {
    use Who::{Client, Server};
    let two = [
        PREFACE.to_vec(),
        settings(&[]),
        get(1, "/busy"),
        get(3, "/idle"),
    ];
    let mut talk = Conversation::new(&attack.name)
        .then(Client, &two)
        .then(Server, &[settings(&[]), ok(3, b"idle")]);
    for (who, frames) in &attack.shown {
        talk = talk.then(*who, frames);
    }
    let [mut client, mut server] = [Client, Server].map(|who| talk.said(who).len());
    if let Some((who, frames, why)) = &attack.refused {
        let peer = if *who == Client { Server } else { Client };
        talk = talk.then(*who, frames);
        // It is told only at the end that there is no more of the frame.
        if *why != "cut" {
            talk = talk.then(*who, &[ping()]);
        }
        talk = talk.then(peer, &[ping()]);
        if *why == "cut" {
            let other = if peer == Client {
                &mut client
            } else {
                &mut server
            };
            *other = talk.said(peer).len();
        }
    }
    (talk, [client, server])
}

/// The flows of an attack: what was told before it as HTTP/1.1, and what it was from there on.
fn assert_shown(attack: &Attack, flows: &[&Flow]) {
    let name = &attack.name;
    let (talk, begins) = conversation(attack);
    let (raw, lanes): (Vec<&Flow>, Vec<&Flow>) = flows.iter().partition(|flow| is_raw(flow));
    let (mut told, mut texts) = (Vec::new(), Vec::new());
    for lane in &lanes {
        let asked = requests_begun(lane.request.whole().expect("no hole"));
        let (asked, _) = asked.unwrap_or_else(|error| panic!("{name}: {error}"));
        let lines = asked.iter().map(|request| request.line.clone());
        let lines: Vec<_> = lines.collect();
        let answers = lane.response.whole().expect("no hole");
        if lines[0] == "GET /idle" {
            let first = &answers[..IDLE.len().min(answers.len())];
            assert_eq!(first, IDLE, "{name}");
            let answers = responses(answers).expect("responses");
            assert_eq!(answers.len(), 1 + attack.answered, "{name}");
        } else {
            let heads = answers.windows(9).filter(|nine| *nine == b"HTTP/1.1 ");
            assert!(heads.count() <= 1, "{name}");
        }
        // Where something was under way it is cut off, else it ends.
        let end = match &attack.refused {
            Some(_) if lines != ["GET /idle"] => End::ResetByClient,
            _ => End::ClosedByClient,
        };
        assert_eq!(lane.end, end, "{name}: {lines:?}");
        told.extend(lines);
        texts.extend(lane.request.whole());
    }
    let has = texts.concat();
    let has = has.windows(attack.shown_as.len().max(1));
    assert!(attack.shown_as.is_empty() || has.into_iter().any(|text| text == attack.shown_as));
    let mut made = vec!["GET /busy".to_owned(), "GET /idle".to_owned()];
    made.extend(attack.requests.iter().cloned());
    told.sort_unstable();
    made.sort_unstable();
    assert_eq!(told, made, "{name}");
    let Some((_, _, why)) = &attack.refused else {
        return assert!(raw.is_empty(), "{name}: {}", raw[0].comment);
    };
    let [raw] = raw[..] else {
        panic!("{name}: {} flows of frames", raw.len());
    };
    assert_eq!(word(raw, "http1"), Some(&*format!("raw:{why}")), "{name}");
    let [client, server] = begins;
    assert_eq!(
        word(raw, "http2_from"),
        Some(&*format!("{client},{server}")),
        "{name}"
    );
    let sides = [
        (Who::Client, client, &raw.request),
        (Who::Server, server, &raw.response),
    ];
    for (who, begin, stream) in sides {
        let difference = stream.difference(&talk.said(who)[begin..]);
        assert_eq!((difference, stream.missing()), (None, 0), "{name}: {who:?}");
    }
    assert_eq!(raw.end, End::ClosedByClient, "{name}");
}

/// What tshark says of TCP. A lane may have a port that one of another session had before.
fn of_tcp(capture: &Path) -> Vec<String> {
    let is_meant = |line: &String| line.contains(" TCP ") && !line.contains("Port numbers reused");
    complaints(capture).into_iter().filter(is_meant).collect()
}

/// What Suricata says of flows that are as they should be: nothing.
fn assert_good(place: &Place, capture: &Capture, port: u16, flows: usize) {
    let mut some = capture.clone();
    some.packets.retain(|packet| {
        let segment = Segment::decode(&packet.frame).expect("a segment");
        segment.source.port() == port || segment.destination.port() == port
    });
    let file = place.path("some.pcapng");
    fs::write(&file, synth::pcapng(&some)).expect("a capture");
    let verdict = Suricata.read(&file, Profile::Sslcollector, &place.path("judge"));
    assert_eq!(verdict.complaints(), [""; 0], "Suricata objects");
    assert_eq!(verdict.flow_states, vec!["closed"; flows]);
}

/// Suricata has seen these requests, and no other.
fn assert_seen(place: &Place, mut made: Vec<String>) {
    let file = place.path("capture.pcapng");
    let verdict = Suricata.read(&file, Profile::Sslcollector, &place.path("judge"));
    let mut complaints = verdict.complaints();
    // Frames from their middle on are no protocol.
    complaints.retain(|what| !what.contains("rotocol detection skipped"));
    complaints.retain(|what| !what.contains("APPLAYER_PROTO_DETECTION_SKIPPED"));
    assert_eq!(complaints, [""; 0], "Suricata objects");
    let seen = verdict.http.iter();
    let mut seen: Vec<_> = seen
        .map(|one| format!("{} {}", one.method, one.url))
        .collect();
    seen.sort_unstable();
    made.sort_unstable();
    assert_eq!(seen, made);
}

#[test]
fn attacks_harm_nobody_else() {
    let place = Place::new(&[ANSWER_BYTES]);
    let siege = Siege::new(&place, &["--http1"]);
    let load = siege.load();
    let attacks = attacks::all();
    let talks: Vec<_> = attacks
        .iter()
        .map(|attack| conversation(attack).0)
        .collect();
    told::finish(siege.begin(&talks));
    load.end();
    let (nginx, server) = (siege.nginx_port(), siege.port);
    let (said, _) = siege.end();

    let file = place.path("capture.pcapng");
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, &said);
    assert!(in_time_order(&file), "capinfos: not in order of time");
    assert_eq!(of_tcp(&file), [""; 0], "tshark objects");
    let all = flows(&capture).expect("flows");
    let of_port = |port| {
        all.iter()
            .filter(move |flow: &&Flow| flow.server.port() == port)
    };
    assert_all_told(&of_port(nginx).collect::<Vec<_>>(), &place);
    for attack in &attacks {
        let sni = conversation(attack).0.name;
        let mine: Vec<_> = of_port(server)
            .filter(|flow| word(flow, "sni") == Some(&sni))
            .collect();
        assert_shown(attack, &mine);
    }

    assert_good(&place, &capture, nginx, of_port(nginx).count());
    let logged = Nginx::read_log(&place).into_iter();
    let mut made: Vec<_> = logged
        .map(|one| format!("{} {}", one.method, one.url))
        .collect();
    for attack in &attacks {
        made.extend(["GET /busy".into(), "GET /idle".into()]);
        made.extend(attack.requests.iter().cloned());
    }
    assert_seen(&place, made);

    let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
    for attack in &attacks {
        if let Some((_, _, why)) = attack.refused {
            *reasons.entry(why).or_default() += 1;
        }
    }
    let shown_as_frames: u64 = reasons.values().sum();
    assert!(
        said.contains(&format!(
            "{shown_as_frames} sessions of HTTP/2 shown as frames"
        )),
        "{said}"
    );
    for (word, words) in REASONS {
        let told = format!("{words} ({})", reasons[word]);
        assert!(said.contains(&told), "{told}: {said}");
    }
    assert_logged(&all, &sessions::read(&place.path("sessions.jsonl")));
}

/// The log says of each flow of frames what its comment does.
fn assert_logged(flows: &[Flow], lines: &[Value]) {
    let raw = flows.iter().filter(|flow| is_raw(flow));
    for flow in raw {
        let line = lines
            .iter()
            .find(|line| line["session_id"].as_str() == word(flow, "flow"));
        let http1 = &line.expect("a line of each flow")["http1"];
        let begin = |name: &str| http1[name].as_u64().expect("an offset");
        let from = format!("{},{}", begin("offset_toserver"), begin("offset_toclient"));
        assert_eq!(Some(&*from), word(flow, "http2_from"));
        assert_eq!(http1["session_id"].as_str(), word(flow, "session"));
        let reason = http1["reason"].as_str().expect("a reason");
        assert_eq!(Some(&*format!("raw:{reason}")), word(flow, "http1"));
    }
}
