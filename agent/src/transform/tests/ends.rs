//! How sessions begin and end, and those that speak something else.

use super::*;
use crate::transform::Stop;
use mirror_hook::event::Announcement;

/// What was said comes out as it was, in the session's own flow.
fn passes(alpn: Option<&str>, said: &[(Side, &[u8])]) {
    let mut scene = Scene::begun(alpn);
    let mut meant = [Vec::new(), Vec::new()];
    for (from, text) in said {
        scene.say(*from, text);
        meant[*from as usize].extend_from_slice(text);
    }
    scene.finish(Side::Client);
    scene.finish(Side::Server);
    assert_eq!(scene.own().said, meant);
    assert_eq!(scene.own().end, End::Finished(Side::Client));
    assert!(scene.others().is_empty());
    assert_eq!(scene.stats(), TransformStats::default());
}

#[test]
fn other_protocols_pass() {
    let (client, server) = (Side::Client, Side::Server);
    passes(None, &[]);
    passes(
        None,
        &[
            (client, b"GET / HTTP/1.1\r\n\r\n"),
            (server, b"HTTP/1.1 200 OK\r\n\r\n"),
        ],
    );
    passes(
        None,
        &[(client, b"PRI * HTTP/2.0\r\n\r\nXX"), (server, b"x")],
    );
    passes(None, &[(client, b"PRI")]);
    passes(None, &[(server, b"220 mail\r\n"), (client, b"EHLO x\r\n")]);
    passes(
        None,
        &[(server, b"\0\0\x06\x04\0\0\0\0\0"), (client, b"EHLO x\r\n")],
    );
    passes(
        None,
        &[(
            server,
            &[&b"\0\0\x06\x04\0\0\0\0\0"[..], &[0; 2000]].concat(),
        )],
    );
    passes(Some("http/1.1"), &[(client, PREFACE), (server, b"x")]);
    passes(Some("http/1.1"), &[(client, b"GET / HTTP/1.1\r\n\r\n")]);
}

#[test]
fn other_protocols_are_told_at_once() {
    let mut scene = Scene::begun(None);
    scene.say(Side::Client, b"P");
    assert_eq!(scene.own().said[0], b"");
    scene.say(Side::Client, b"OST / HTTP/1.1\r\n");
    assert_eq!(scene.own().said[0], b"POST / HTTP/1.1\r\n");
    scene.lose(Side::Client, 3);
    scene.say(Side::Server, b"HTTP/1.1 ");
    assert_eq!(scene.own().both(), ["POST / HTTP/1.1\r\n???", "HTTP/1.1 "]);
    scene.abort(Side::Server);
    assert_eq!(scene.own().end, End::Reset(Side::Server));
}

#[test]
fn http2_is_recognised_by_its_first_words() {
    for cut in [1, 10, 24] {
        let mut scene = Scene::begun(None);
        scene.say(Side::Server, &frame(4, 0, 0, &[0; 12]));
        scene.say(Side::Client, &PREFACE[..cut]);
        assert_eq!(scene.own().said, [b"", b""]);
        scene.say(
            Side::Client,
            &[&PREFACE[cut..], &frame(4, 0, 0, b""), &get(1, "/")].concat(),
        );
        scene.server(&[ok(1, "x")]);
        assert_eq!(scene.own().both(), [got("/"), was_ok("x")]);
        assert_eq!(scene.stats().sessions, 1);
    }
}

#[test]
fn late_sessions_pass() {
    let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
    info.alpn = Some("h2".into());
    info.announcement = Announcement::Midstream;
    let mut scene = Scene::with(&info);
    scene.client(&[get(3, "/")]);
    assert_eq!(scene.own().said[0], get(3, "/"));
    assert_eq!(scene.stats().stopped[Stop::Late as usize], 1);
}

#[test]
fn the_end_of_a_session_is_the_end_of_its_lanes() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/3")]);
    scene.server(&[headers(1, false, ":status: 200"), data(1, false, b"so")]);
    scene.finish(Side::Client);
    scene.server(&[data(1, true, b"me"), ok(3, "3")]);
    scene.finish(Side::Server);
    let ends: Vec<_> = scene.flows.0.values().map(|told| told.end).collect();
    assert_eq!(ends, [End::Finished(Side::Client); 2]);
    assert!(
        scene
            .own()
            .text(Side::Server)
            .ends_with("2\r\nso\r\n2\r\nme\r\n0\r\n\r\n")
    );

    let mut scene = Scene::new();
    scene.client(&[get(1, "/1"), get(3, "/3")]);
    scene.abort(Side::Server);
    let ends: Vec<_> = scene.flows.0.values().map(|told| told.end).collect();
    assert_eq!(ends, [End::Reset(Side::Server); 2]);
}

#[test]
fn what_was_not_whole_is_told_as_it_is() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/1")]);
    scene.server(&[ok(1, "1")]);
    let begin = scene.position(Side::Client);
    let cut = get(3, "/3")[..20].to_vec();
    scene.client(std::slice::from_ref(&cut));
    scene.finish(Side::Client);
    let server = scene.position(Side::Server);
    assert_eq!(scene.raw().said, [cut, Vec::new()]);
    let raw = PartKind::Raw {
        client: begin,
        server,
        why: Stop::Cut,
    };
    assert_eq!(scene.raw().kind(), Some(raw));
    assert_eq!(scene.raw().end, End::Half(Side::Client));
    scene.finish(Side::Server);
    assert_eq!(scene.raw().end, End::Finished(Side::Client));
}
