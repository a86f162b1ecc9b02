//! What isn't understood, isn't allowed or is too much: the session goes on as it is.

use super::*;
use crate::transform::Stop;

/// The frames of one side are told up to the last, which isn't, nor is what follows: that comes out as it was.
fn stops(from: Side, told: &[Vec<u8>], refused: &[u8], why: Stop) -> Scene {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/idle")]);
    scene.server(&[ok(3, "x")]);
    for frames in told {
        scene.say(from, frames);
    }
    let begins = (scene.position(Side::Client), scene.position(Side::Server));
    let more = b"whatever comes";
    for piece in [refused, more].concat().chunks(7) {
        scene.say(from, piece);
    }
    scene.say(from.peer(), more);
    let shown = format!("{}", refused.escape_ascii());
    assert_eq!(
        scene.stats().stopped[why as usize],
        1,
        "{why:?} {shown} {:?}",
        scene.stats()
    );
    let kind = PartKind::Raw {
        client: begins.0,
        server: begins.1,
        why,
    };
    assert_eq!(scene.raw().kind(), Some(kind), "{shown}");
    assert_eq!(scene.raw().info.http1.unwrap().session, scene.own().info.id);
    let said = &scene.raw().said;
    assert_eq!(said[from as usize], [refused, more].concat(), "{shown}");
    assert_eq!(said[from.peer() as usize], more);
    // What was under way is cut off; what was idle has ended.
    assert_eq!(scene.own().end, End::Reset(Side::Client));
    assert_eq!(scene.others()[0].end, End::Finished(Side::Client));
    scene
}

fn request(fields: &str) -> Vec<u8> {
    let pseudo = ":method: GET\n:scheme: https\n:authority: a.example\n:path: /\n";
    headers(5, true, &format!("{pseudo}{fields}"))
}

fn raw_field(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = block(":method: GET\n:scheme: https\n:authority: a.example\n:path: /");
    field(name, value, &mut block);
    frame(1, END_STREAM | END_HEADERS, 5, &block)
}

#[test]
fn requests_that_are_no_requests() {
    for (frame, why) in [
        (raw_field(b"x", b"a\r\nb: c"), Stop::Bytes),
        (raw_field(b"x", b"a\nb"), Stop::Bytes),
        (raw_field(b"x", b"a\0b"), Stop::Bytes),
        (raw_field(b"x: y\r\nz", b"a"), Stop::Bytes),
        (raw_field(b"", b"a"), Stop::Bytes),
        (
            request("transfer-encoding: chunked"),
            Stop::TransferEncoding,
        ),
        (
            request("Transfer-Encoding: chunked"),
            Stop::TransferEncoding,
        ),
        (
            request("content-length: 1\ncontent-length: 1"),
            Stop::Length,
        ),
        (request("content-length: 1"), Stop::Length),
        (headers(5, true, ":method: GET"), Stop::Malformed),
        (headers(6, true, ":method: GET"), Stop::Frames),
        (frame(1, END_HEADERS, 5, &[0x80]), Stop::HeaderBlock),
        (
            frame(1, END_HEADERS, 5, &[0xff, 0xff, 0xff, 0xff, 0xff, 1]),
            Stop::HeaderBlock,
        ),
        (frame(1, END_HEADERS, 5, &[0x3f, 0xff, 0xff, 1]), Stop::Size),
        (frame(0, 8, 1, &[9, 0]), Stop::Frames),
        (frame(9, 4, 1, b""), Stop::Frames),
        (data(7, true, b"x"), Stop::Frames),
        (frame(5, END_HEADERS, 1, &[0, 0, 0, 2]), Stop::Frames),
    ] {
        stops(Side::Client, &[], &frame, why);
    }
}

#[test]
fn answers_that_are_no_answers() {
    let ok = |fields: &str| headers(1, false, &format!(":status: 200\n{fields}"));
    for (told, refused, why) in [
        (vec![], headers(1, true, "x: 1"), Stop::Malformed),
        (vec![], headers(1, true, ":status: 101"), Stop::Malformed),
        (vec![], data(1, true, b"x"), Stop::Malformed),
        (vec![ok("")], ok(""), Stop::Malformed),
        (
            vec![ok("content-length: 1")],
            data(1, true, b"xy"),
            Stop::Length,
        ),
        (
            vec![ok("content-length: 3")],
            data(1, true, b""),
            Stop::Length,
        ),
        (
            vec![headers(1, false, ":status: 204")],
            data(1, true, b"x"),
            Stop::Length,
        ),
        (vec![], headers(5, true, ":status: 200"), Stop::Frames),
        (vec![], frame(0, 0, 1, &[0; 16_385]), Stop::Size),
    ] {
        stops(Side::Server, &told, &refused, why);
    }
}

/// Nobody has granted the tunnel: HTTP/1.1 would read a request.
#[test]
fn what_a_client_says_too_early_into_a_tunnel() {
    let upgrade = ":method: CONNECT\n:protocol: x\n:scheme: https\n:path: /\n:authority: a.example";
    for connect in [":method: CONNECT\n:authority: b.example:22", upgrade] {
        let mut scene = Scene::new();
        let early = data(1, false, b"GET /never HTTP/1.1\r\n\r\n");
        scene.client(&[headers(1, false, connect), early.clone()]);
        assert!(scene.own().text(Side::Client).ends_with("\r\n\r\n"));
        assert_eq!(scene.own().end, End::Reset(Side::Client));
        assert_eq!(scene.raw().said[0], early);
        assert_eq!(scene.stats().stopped[Stop::Malformed as usize], 1);
    }
}

#[test]
fn a_frame_that_was_begun_goes_on_where_it_was() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    scene.server(&[headers(1, false, ":status: 200\ncontent-length: 3")]);
    let long = data(1, true, b"abcdef");
    scene.say(Side::Server, &long[..12]);
    let begin = scene.position(Side::Server);
    scene.say(Side::Server, &long[12..]);
    assert!(scene.own().text(Side::Server).ends_with("\r\n\r\nabc"));
    assert_eq!(scene.raw().said[1], b"def");
    let kind = scene.raw().kind();
    assert!(
        matches!(kind, Some(PartKind::Raw { server, why: Stop::Length, .. }) if server == begin)
    );
}

#[test]
fn what_the_other_side_had_begun_is_told_too() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    let begun = frame(1, 0, 1, &block(":status: 200"));
    scene.server(std::slice::from_ref(&begun));
    let refused = raw_field(b"x", b"\n");
    scene.client(std::slice::from_ref(&refused));
    assert_eq!(scene.raw().said, [refused, begun]);
}

#[test]
fn before_the_first_request_the_sessions_own_flow_goes_on() {
    let mut scene = Scene::begun(Some("h2"));
    scene.say(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    scene.say(Side::Server, b"HTTP/1.1 200 OK\r\n\r\n");
    assert_eq!(
        scene.own().both(),
        ["GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"]
    );
    assert!(scene.others().is_empty());
    assert_eq!(scene.stats().stopped[Stop::Frames as usize], 1);
}

#[test]
fn holes_in_content_are_holes_in_it() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    scene.server(&[headers(1, false, ":status: 200\ncontent-length: 10")]);
    let content = data(1, true, b"0123456789");
    scene.say(Side::Server, &content[..11]);
    scene.lose(Side::Server, 5);
    scene.say(Side::Server, &content[16..]);
    assert!(
        scene
            .own()
            .text(Side::Server)
            .ends_with("\r\n\r\n01?????789")
    );
    scene.client(&[get(3, "/3")]);
    scene.server(&[headers(3, false, ":status: 200")]);
    let content = data(3, true, b"0123456789");
    scene.say(Side::Server, &content[..11]);
    scene.lose(Side::Server, 8);
    assert!(
        scene
            .own()
            .text(Side::Server)
            .ends_with("\r\n\r\n2\r\n01\r\n8\r\n????????\r\n0\r\n\r\n")
    );
    scene.client(&[get(5, "/5")]);
    scene.server(&[ok(5, "5")]);
    assert!(scene.own().text(Side::Server).ends_with(&was_ok("5")));
    assert_eq!(scene.stats().holes, 2);
    assert_eq!(scene.stats().stopped, [0; Stop::ALL.len()]);
}

#[test]
fn other_holes_end_the_telling() {
    let head = headers(1, false, ":status: 200");
    for cut in [0, 5, 12] {
        let mut scene = Scene::new();
        scene.client(&[get(1, "/1")]);
        let begin = scene.position(Side::Server);
        scene.say(Side::Server, &head[..cut]);
        scene.lose(Side::Server, 3);
        scene.say(Side::Server, b"more");
        let meant = [&head[..cut], b"???more"].concat();
        assert_eq!(scene.raw().said[1], meant);
        let kind = scene.raw().kind();
        assert!(
            matches!(kind, Some(PartKind::Raw { server, why: Stop::Hole, .. }) if server == begin)
        );
    }
    // One that is longer than its frame.
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    scene.server(&[headers(1, false, ":status: 200")]);
    scene.say(Side::Server, &data(1, false, b"0123456789")[..12]);
    scene.lose(Side::Server, 8);
    assert_eq!(scene.raw().said[1], b"????????");
}

#[test]
fn too_many_streams() {
    let mut scene = Scene::new();
    for stream in 0..256 {
        scene.client(&[get(2 * stream + 1, "/")]);
    }
    assert_eq!(scene.stats().stopped, [0; Stop::ALL.len()]);
    assert_eq!(scene.others().len(), 255);
    scene.client(&[get(513, "/")]);
    assert_eq!(scene.stats().stopped[Stop::Streams as usize], 1);
    assert_eq!(scene.raw().said[0], get(513, "/"));
}

#[test]
fn too_many_streams_given_up() {
    let flood = |streams: u32, step_ns| {
        let mut scene = Scene::new();
        for stream in 0..streams {
            scene.now += step_ns;
            scene.client(&[get(2 * stream + 1, "/"), reset(2 * stream + 1)]);
        }
        scene.stats()
    };
    assert_eq!(flood(256, 0).stopped, [0; Stop::ALL.len()]);
    assert_eq!(flood(257, 0).stopped[Stop::Resets as usize], 1);
    assert_eq!(flood(1000, 0).aborted, 257);
    assert_eq!(flood(600, 4_000_000).stopped, [0; Stop::ALL.len()]);
}

/// A server that hears nobody gives up as much.
#[test]
fn too_many_streams_that_nobody_hears() {
    let mut scene = Scene::new();
    let gets = |from: u32| (from..from + 200).map(|number| get(2 * number + 1, "/"));
    let go_away = frame(7, 0, 0, &[0; 8]);
    scene.client(&gets(0).collect::<Vec<_>>());
    scene.server(std::slice::from_ref(&go_away));
    assert_eq!(scene.stats().stopped, [0; Stop::ALL.len()]);
    scene.client(&gets(200).collect::<Vec<_>>());
    scene.server(std::slice::from_ref(&go_away));
    assert_eq!(scene.stats().stopped[Stop::Resets as usize], 1);
    assert_eq!(scene.raw().said, [vec![], go_away]);
}

#[test]
fn headers_too_large() {
    let large = |bytes| frame(1, 0, 5, &raw_field(b"x", &vec![b'x'; bytes])[9..]);
    assert!(large(16_000).len() < 16_384);
    // A bomb: one entry, named again and again.
    let mut bomb = vec![0x40, 1, b'a', 0x7f, 0xa1, 0x1e];
    bomb.extend([b'x'; 4000]);
    bomb.extend([0xbe; 10_000]);
    stops(
        Side::Client,
        &[],
        &frame(1, END_HEADERS, 5, &bomb),
        Stop::Size,
    );
    let flood: Vec<_> = std::iter::repeat_n(frame(9, 0, 5, b""), 17).collect();
    let flood = [large(10), flood.concat()].concat();
    let mut scene = Scene::new();
    scene.say(Side::Client, &flood);
    assert_eq!(scene.stats().stopped[Stop::Size as usize], 1);
    // Not on the session's own: the preface was before it, and that flow can't say so any more.
    assert_eq!(scene.raw().said[0], flood);
    assert_eq!(scene.own().said, [b"", b""]);
}

#[test]
fn memory_is_bounded() {
    let info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
    let mut scene = Scene::new();
    // Each keeps the most of a header block that isn't whole.
    let kept = [
        PREFACE,
        &frame(1, 0, 1, &[0; 16_384]),
        &frame(9, 0, 1, &[0; 16_384]),
    ]
    .concat();
    for flow in 100..2500 {
        let mut info = info.clone();
        info.tuple = with_port(u16::try_from(flow).unwrap());
        info.alpn = Some("h2".into());
        scene.event(flow, FlowChange::Begin(&info));
        let mut offset = 0;
        for bytes in kept.chunks(16_384) {
            let from = Side::Client;
            scene.event(
                flow,
                FlowChange::Data {
                    from,
                    offset,
                    bytes,
                },
            );
            offset += bytes.len() as u64;
        }
    }
    let stopped = scene.stats().stopped[Stop::Memory as usize];
    assert!((500..2200).contains(&stopped), "{stopped}");
    assert!(scene.http1.memory_bytes <= 64 << 20);
    // Those that take little aren't touched.
    scene.client(&[get(1, "/")]);
    assert_eq!(scene.own().both(), [got("/"), String::new()]);
}
