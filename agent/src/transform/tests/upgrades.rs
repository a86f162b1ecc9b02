//! HTTP/1.1 that becomes HTTP/2, or doesn't.

use super::*;
use crate::transform::Stop;

const ASKED: &str = "GET /1 HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade, HTTP2-Settings\r\n\
    Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n\r\n";
const SWITCHES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// What the server says of HTTP/2 behind its `101`, with the answer.
fn begin() -> Vec<u8> {
    [frame(4, 0, 0, b""), ok(1, "one")].concat()
}

fn preface() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, b"")].concat()
}

/// All ways in which a session may begin that isn't known to speak HTTP/2.
fn scenes() -> [Scene; 2] {
    [None, Some("http/1.1")].map(Scene::begun)
}

#[test]
fn the_answer_is_the_first_streams() {
    for mut scene in scenes() {
        scene.say(Side::Client, ASKED.as_bytes());
        scene.say(Side::Server, &[SWITCHES.as_bytes(), &begin()].concat());
        assert_eq!(scene.own().both(), [ASKED, &was_ok("one")]);
        scene.client(&[preface(), get(3, "/3"), get(5, "/5")]);
        scene.server(&[ok(5, "five"), ok(3, "three")]);
        let both = [
            ASKED.to_owned() + &got("/3"),
            was_ok("one") + &was_ok("three"),
        ];
        assert_eq!(scene.own().both(), both);
        assert_eq!(scene.others()[0].both(), [got("/5"), was_ok("five")]);
        let stats = scene.stats();
        let counted = (stats.sessions, stats.upgraded, stats.requests, stats.lanes);
        assert_eq!(counted, (1, 1, 3, 1));
        assert_eq!(stats.stopped.iter().sum::<u64>(), 0);
    }
}

/// In whatever pieces it comes, and behind whatever came in front.
#[test]
fn in_any_pieces() {
    let posted = "POST /0 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n";
    let head = "HEAD /0 HTTP/1.1\r\n\r\n";
    let empty = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    for cut in (1..60).chain([16_384]) {
        for mut scene in scenes() {
            let mut say =
                |from, text: &[u8]| text.chunks(cut).for_each(|text| scene.say(from, text));
            say(Side::Client, posted.as_bytes());
            say(Side::Server, PLAIN.as_bytes());
            say(Side::Client, head.as_bytes());
            say(Side::Server, empty.as_bytes());
            say(Side::Client, ASKED.as_bytes());
            say(Side::Server, b"HTTP/1.1 100 Continue\r\n\r\n");
            say(Side::Server, &[SWITCHES.as_bytes(), &begin()].concat());
            say(Side::Client, &[preface(), get(3, "/3")].concat());
            say(Side::Server, &ok(3, "three"));
            let [asked, answered] = scene.own().both();
            assert_eq!(asked, [posted, head, ASKED, &got("/3")].concat(), "{cut}");
            let interim = "HTTP/1.1 100 Continue\r\n\r\n";
            let meant = [PLAIN, empty, interim, &was_ok("one"), &was_ok("three")].concat();
            assert_eq!(answered, meant, "{cut}");
            assert_eq!(scene.stats().upgraded, 1);
        }
    }
}

#[test]
fn a_head_has_no_content_there_either() {
    let mut scene = Scene::begun(None);
    let asked = ASKED.replace("GET", "HEAD");
    scene.say(Side::Client, asked.as_bytes());
    let answer = headers(1, true, ":status: 200\ncontent-length: 5");
    scene.say(
        Side::Server,
        &[SWITCHES.as_bytes(), &frame(4, 0, 0, b""), &answer].concat(),
    );
    let told = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(scene.own().both(), [&asked[..], told]);
}

/// The client permits a larger table, and the server uses it.
#[test]
fn the_clients_settings_hold() {
    for (settings, stops) in [("AAEAACAA", 0), ("AAMAAABk", 1), ("", 1)] {
        let mut scene = Scene::begun(None);
        let asked = ASKED.replace("AAMAAABkAAQCAAAAAAIAAAAA", settings);
        scene.say(Side::Client, asked.as_bytes());
        let block = [&[0x3f, 0xe1, 0x3f][..], &block(":status: 204")].concat();
        let answer = frame(1, END_HEADERS | END_STREAM, 1, &block);
        scene.say(
            Side::Server,
            &[SWITCHES.as_bytes(), &frame(4, 0, 0, b""), &answer].concat(),
        );
        let stopped = scene.stats().stopped[Stop::Size as usize]
            + scene.stats().stopped[Stop::HeaderBlock as usize];
        assert_eq!(stopped, stops, "{settings}");
    }
}

/// It goes on as HTTP/1.1, and may be asked again.
#[test]
fn declined() {
    for mut scene in scenes() {
        for _ in 0..2 {
            scene.say(Side::Client, ASKED.as_bytes());
            scene.say(Side::Server, PLAIN.as_bytes());
        }
        scene.say(Side::Client, ASKED.as_bytes());
        scene.say(Side::Server, &[SWITCHES.as_bytes(), &begin()].concat());
        let both = [ASKED.repeat(3), PLAIN.repeat(2) + &was_ok("one")];
        assert_eq!(scene.own().both(), both);
    }
}

/// What isn't such an upgrade, or can't be followed, is in the session's own flow as it is.
#[test]
fn as_it_is() {
    let websocket = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nxx";
    let switched = [SWITCHES.as_bytes(), &begin()].concat();
    let without = |what: &str| ASKED.replace(what, "X: ");
    let twice = ASKED.replace("\r\n\r\n", "\r\nHTTP2-Settings: AAMAAABk\r\n\r\n");
    let posted = ASKED
        .replace("GET /1", "POST /1")
        .replace("\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nab");
    for (asked, answered, stops) in [
        (ASKED.to_owned(), websocket.as_bytes(), 0),
        (without("Upgrade: "), &switched, 0),
        (without("HTTP2-Settings: "), &switched, 1),
        (twice, &switched, 1),
        // Six bytes each, and what is no number at all.
        (ASKED.replace("AAMAAABk", "AAMAAAB"), &switched, 1),
        (ASKED.replace("AAMAAABk", "AA*AAABk"), &switched, 1),
        // Neither the request nor what went before it is whole.
        (posted, &switched, 1),
        ([ASKED, ASKED].concat(), &switched, 1),
        (["GET /0 HTTP/1.1\r\n\r\n", ASKED].concat(), &switched, 0),
        ("no HTTP at all".into(), b"nor here", 0),
    ] {
        for cut in [1, 16_384] {
            for mut scene in scenes() {
                asked
                    .as_bytes()
                    .chunks(cut)
                    .for_each(|text| scene.say(Side::Client, text));
                answered
                    .chunks(cut)
                    .for_each(|text| scene.say(Side::Server, text));
                scene.client(&[preface()]);
                scene.lose(Side::Client, 3);
                scene.client(&[get(3, "/3")]);
                let all = [asked.as_bytes(), &preface(), b"???", &get(3, "/3")].concat();
                assert_eq!(scene.own().said, [all, answered.to_vec()], "{asked}");
                assert!(scene.others().is_empty());
                let stats = scene.stats();
                let counted = (stats.upgraded, stats.stopped[Stop::Upgrade as usize]);
                assert_eq!(counted, (0, stops), "{asked}");
            }
        }
    }
}

/// However it ends, nothing that waits is missing.
#[test]
fn an_end_within_the_answer() {
    for end in 0..4 {
        let mut scene = Scene::begun(Some("http/1.1"));
        scene.say(Side::Client, ASKED.as_bytes());
        scene.say(Side::Server, &SWITCHES.as_bytes()[..40]);
        assert_eq!(scene.own().text(Side::Server), "");
        match end {
            0 => scene.finish(Side::Server),
            1 => scene.abort(Side::Client),
            2 => scene.lose(Side::Client, 1),
            _ => scene.client(&[preface()]),
        }
        assert_eq!(scene.own().text(Side::Server), &SWITCHES[..40]);
    }
    let mut scene = Scene::begun(None);
    scene.say(Side::Client, ASKED.as_bytes());
    let endless = ["HTTP/1.1 101 x\r\nX: ".as_bytes(), &[b'x'; 70_000]].concat();
    scene.say(Side::Server, &endless);
    assert_eq!(scene.own().said[1], endless);
    assert_eq!(scene.stats().stopped[Stop::Upgrade as usize], 1);
}

/// Behind the upgrade it is HTTP/2 like any other: what can't be told is in a flow of its own, from where it is.
#[test]
fn frames_that_are_none() {
    let mut scene = Scene::begun(None);
    scene.say(Side::Client, ASKED.as_bytes());
    scene.say(Side::Server, SWITCHES.as_bytes());
    scene.server(&[begin()]);
    scene.say(Side::Client, b"GET / HTTP/1.1\r\n\r\n");
    scene.server(&[frame(4, 1, 0, b"")]);
    assert_eq!(scene.own().both(), [ASKED, &was_ok("one")]);
    let raw = scene.raw();
    assert_eq!(
        raw.said,
        [b"GET / HTTP/1.1\r\n\r\n".to_vec(), frame(4, 1, 0, b"")]
    );
    let begins = (ASKED.len() as u64, (SWITCHES.len() + begin().len()) as u64);
    let Some(PartKind::Raw {
        client,
        server,
        why: Stop::Frames,
    }) = raw.kind()
    else {
        panic!("{:?}", raw.kind());
    };
    assert_eq!((client, server), begins);
}
