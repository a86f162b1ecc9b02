//! Who shows HTTP/2 as HTTP/1.1 keeps so much of it, and no more, whoever says what; who keeps most goes on as frames.

use std::collections::HashMap;

use mirror_tests::http1::requests;
use mirror_tests::http2::{
    CONTINUATION, END_HEADERS, END_STREAM, HEADERS, PREFACE, TABLE_SIZE, block, frame, integer,
    literal, request, settings,
};
use mirror_tests::lanes::word;
use mirror_tests::place::Place;
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::siege::{ANSWER_BYTES, Siege, assert_all_told};
use mirror_tests::streams::{Flow, flows};
use mirror_tests::told::{self, Conversation, Who};

/// Sessions that take as much as they may, at the same time.
const SESSIONS: usize = 260;
/// So many begin at once. What they say has room in their server's ring, of 16 MiB at the least.
const BATCH: usize = 65;
/// What each has in its two tables and in two header blocks that aren't whole, by RFC 7541 section 4.1 and in bytes.
const KEPT_BYTES: usize = 2 * FIELDS * 33 + 2 * 2 * VALUE_BYTES;
const FIELDS: usize = 1900;
const VALUE_BYTES: usize = 48_000;
/// The documented bound.
const MIB: usize = 1 << 20;
const BOUND_BYTES: usize = 64 * MIB;

/// A header block with a large value, from its begin on without its end.
fn begun(stream: u32, fields: Vec<u8>) -> Vec<u8> {
    let block = [fields, literal(0, (b"x", &[b'x'; VALUE_BYTES]))].concat();
    let mut pieces = block.chunks(16_384);
    let first = pieces.next().expect("a piece");
    let further = pieces.flat_map(|piece| frame(CONTINUATION, 0, stream, piece));
    let mut frames = frame(HEADERS, END_STREAM, stream, first);
    frames.extend(further);
    frames
}

/// A header block that fills the largest table that is kept.
fn filled(stream: u32, fields: Vec<u8>) -> Vec<u8> {
    let small = literal(0x40, (b"a", b"")).repeat(FIELDS);
    let block = [integer(0x20, 5, 64 << 10), fields, small].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block)
}

/// A conversation that keeps so much, and where in what each side says the first message ends, and the second.
fn keeper(number: usize) -> (Conversation, [[usize; 2]; 2]) {
    use Who::{Client, Server, Wait};
    let large = settings(&[(TABLE_SIZE, 64 << 10)]);
    let status = || block(&[(b":status", b"200")]);
    let asks = |path| block(&request(path));
    let first = Conversation::new(&format!("keeper-{number}"))
        .then(Server, std::slice::from_ref(&large))
        .then(Client, &[PREFACE.to_vec(), large, filled(1, asks("/1"))])
        .then(Server, &[filled(1, status())]);
    let end = frame(CONTINUATION, END_HEADERS, 3, b"");
    let both = first
        .clone()
        .then(Client, &[begun(3, asks("/2"))])
        .then(Server, &[begun(3, status())])
        .then(Wait, &[])
        .then(Client, std::slice::from_ref(&end))
        .then(Server, &[end]);
    let ends = [Client, Server].map(|who| [&first, &both].map(|talk| talk.said(who).len()));
    (both, ends)
}

/// All of it is there, once: up to some place as HTTP/1.1, from there on as frames. Whether there are such.
fn assert_whole(talk: &Conversation, ends: [[usize; 2]; 2], flows: &[&Flow]) -> bool {
    let name = &talk.name;
    let is_raw = |flow: &&&Flow| word(flow, "http1") == Some("raw:memory");
    let raw = flows.iter().find(is_raw);
    let from = raw.map(|raw| word(raw, "http2_from").and_then(|from| from.split_once(',')));
    let from = from.map(|from| from.expect("two offsets"));
    let from =
        from.map(|(client, server)| [client, server].map(|place| place.parse().expect("one")));
    let sides = [Who::Client, Who::Server];
    let from = from.unwrap_or(sides.map(|side| talk.said(side).len()));
    let mut heads = [Vec::new(), Vec::new()];
    for lane in flows.iter().filter(|flow| !is_raw(flow)) {
        for (heads, stream) in heads.iter_mut().zip([&lane.request, &lane.response]) {
            heads.push(stream.whole().expect("no hole").to_vec());
        }
    }
    let [asked, answered] = heads.map(|texts| texts.concat());
    let asked = requests(&asked).expect("requests");
    let lines: Vec<_> = asked.iter().map(|request| &*request.line).collect();
    let count = |side: usize| ends[side].iter().filter(|end| from[side] >= **end).count();
    assert_eq!(lines, ["GET /1", "GET /2"][..count(0)], "{name}");
    let answered = answered
        .windows(15)
        .filter(|text| *text == b"HTTP/1.1 200 OK");
    assert_eq!(answered.count(), count(1), "{name}");
    let raw_said = raw.map(|raw| [&raw.request, &raw.response]);
    for (side, streams) in raw_said.into_iter().flatten().enumerate() {
        let difference = streams.difference(&talk.said(sides[side])[from[side]..]);
        assert_eq!((difference, streams.missing()), (None, 0), "{name}");
    }
    raw.is_some()
}

/// Has all of them with somebody who is mirrored, and with others meanwhile. What the agent says, and its memory.
fn besiege(place: &Place, talks: &[Conversation], options: &[&str]) -> (String, u64, [u16; 2]) {
    let siege = Siege::new(place, options);
    let batches = talks.chunks(BATCH);
    let keepers: Vec<_> = batches.map(|talks| siege.begin_and_read(talks)).collect();
    let load = siege.load();
    told::go(place);
    keepers.into_iter().for_each(told::finish);
    load.end();
    let ports = [siege.nginx_port(), siege.port];
    let (said, peak) = siege.end();
    (said, peak, ports)
}

#[test]
fn what_is_kept_is_bounded() {
    let keepers: Vec<_> = (0..SESSIONS).map(keeper).collect();
    let talks: Vec<_> = keepers.iter().map(|(talk, _)| talk.clone()).collect();
    let place = Place::new(&[ANSWER_BYTES]);
    let (_, without, _) = besiege(&place, &talks, &[]);
    let place = Place::new(&[ANSWER_BYTES]);
    let (said, peak, [nginx, server]) = besiege(&place, &talks, &["--http1"]);
    // What is kept, and as much again for a ring whose pages weren't all touched before.
    assert!(
        peak < without + 2 * BOUND_BYTES as u64,
        "{peak} with, {without} without"
    );

    let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
    rules::assert_good(&capture, &said);
    let all = flows(&capture).expect("flows");
    let of_port = |port| all.iter().filter(move |flow| flow.server.port() == port);
    assert_all_told(&of_port(nginx).collect::<Vec<_>>(), &place);
    let mut by_name: HashMap<_, Vec<_>> = HashMap::new();
    for flow in of_port(server) {
        by_name.entry(word(flow, "sni")).or_default().push(flow);
    }
    let stopped = keepers.iter().filter(|(talk, ends)| {
        let flows = &by_name[&Some(&*talk.name)];
        assert_whole(talk, *ends, flows)
    });
    let stopped = stopped.count();
    assert!(
        SESSIONS - stopped <= BOUND_BYTES / KEPT_BYTES && stopped < SESSIONS,
        "{stopped}"
    );
    let told = format!("too much memory in all ({stopped})");
    assert!(said.contains(&told), "{told}: {said}");
}
