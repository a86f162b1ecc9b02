//! Content that is shown decoded.

use super::*;
use crate::transform::Undecoded;
use crate::transform::decoding::tests::{brotli, gzip, noise};

const HEAD: &str = "HTTP/1.1 200 OK\r\n";

fn scene() -> Scene {
    let mut scene = Scene::new();
    scene.http1 = std::mem::take(&mut scene.http1).with_decoding();
    scene
}

fn answer(stream: u32, coding: &str, text: &[u8]) -> Vec<u8> {
    let fields = format!(
        ":status: 200\netag: x\ncontent-encoding: {coding}\ncontent-length: {}",
        text.len()
    );
    headers(stream, false, &fields)
}

/// The head of [`answer`] as it is told for decoded content, and as it came.
fn decoded(coding: &str, text: &[u8]) -> String {
    format!(
        "{HEAD}ETag: x\r\nX-Decoded-Content-Encoding: {coding}\r\nX-Decoded-Content-Length: {}\r\n\
         Transfer-Encoding: chunked\r\n\r\n",
        text.len()
    )
}

fn as_it_came(coding: &str, text: &[u8]) -> Vec<u8> {
    let head = format!(
        "{HEAD}ETag: x\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
        text.len()
    );
    [head.as_bytes(), text].concat()
}

fn undecoded(scene: &Scene, why: Undecoded) -> u64 {
    scene.stats().undecoded[why as usize]
}

#[test]
fn answers_and_requests() {
    for (coding, text) in [
        ("gzip", gzip(b"hello")),
        ("br", brotli(b"hello")),
        ("gzip, br", brotli(&gzip(b"hello"))),
        ("zstd", zstd::bulk::compress(b"hello", 1).unwrap()),
    ] {
        for cut in 1..text.len() {
            let mut scene = scene();
            scene.client(&[get(1, "/")]);
            scene.server(&[answer(1, coding, &text), data(1, false, &text[..cut])]);
            scene.server(&[data(1, true, &text[cut..])]);
            let [_, told] = scene.own().both();
            let content = told.strip_prefix(&decoded(coding, &text)).unwrap();
            let content: String = content.lines().skip(1).step_by(2).collect();
            assert_eq!(content, "hello");
            assert!(told.ends_with("\r\n0\r\n\r\n"));
            // The lane is another's.
            scene.client(&[get(3, "/3")]);
            scene.server(&[ok(3, "three")]);
            assert!(scene.own().text(Side::Server).ends_with(&was_ok("three")));
            assert_eq!(scene.stats().decoded, 1);
        }
    }
    let mut scene = scene();
    let post = ":method: POST\n:scheme: https\n:authority: a\n:path: /\ncontent-encoding: gzip";
    scene.client(&[headers(1, false, post)]);
    assert_eq!(scene.own().text(Side::Client), "");
    // Who is to go on is told so behind the head.
    scene.server(&[headers(1, false, ":status: 100")]);
    scene.client(&[data(1, true, &gzip(b"up"))]);
    scene.server(&[ok(1, "one")]);
    let head = "POST / HTTP/1.1\r\nHost: a\r\nX-Decoded-Content-Encoding: gzip\r\n\
        Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\n\r\n";
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".to_owned();
    assert_eq!(scene.own().both(), [head, &(interim + &was_ok("one"))]);
}

#[test]
fn fields_behind_it_and_nothing_in_it() {
    let text = gzip(b"hello");
    let mut scene = scene();
    scene.client(&[get(1, "/")]);
    let trailers = headers(1, true, "a: 1");
    scene.server(&[answer(1, "gzip", &text), data(1, false, &text), trailers]);
    let told = decoded("gzip", &text) + "5\r\nhello\r\n0\r\nA: 1\r\n\r\n";
    assert_eq!(scene.own().text(Side::Server), told);
    assert_eq!(scene.stats().unshown_trailers, 0);
    scene.client(&[get(3, "/")]);
    let empty = gzip(b"");
    scene.server(&[answer(3, "gzip", &empty), data(3, true, &empty)]);
    let told = told + &decoded("gzip", &empty) + "0\r\n\r\n";
    assert_eq!(scene.own().text(Side::Server), told);
    assert_eq!(scene.stats().decoded, 2);
}

/// What isn't decoded, from its begin.
#[test]
fn as_it_was() {
    let whole = gzip(b"hello");
    let cut = &whole[..whole.len() - 1];
    let mut broken = whole.clone();
    broken[12] ^= 0xff;
    for (coding, text, why) in [
        ("aes128gcm", &whole[..], Undecoded::Coding),
        ("br", &whole, Undecoded::Broken),
        ("gzip", cut, Undecoded::Broken),
        ("gzip", &broken, Undecoded::Broken),
    ] {
        let mut scene = scene();
        scene.client(&[get(1, "/")]);
        scene.server(&[answer(1, coding, text), data(1, false, &text[..4])]);
        scene.server(&[data(1, true, &text[4..])]);
        let told = as_it_came(coding, text);
        assert!(scene.own().said[1] == told, "{coding} {why:?}");
        assert_eq!(undecoded(&scene, why), 1, "{coding} {why:?}");
        assert_eq!(scene.stats().decoded, 0);
        scene.client(&[get(3, "/3")]);
        assert!(scene.others().is_empty());
    }
    // Without content, or without all of it.
    let mut scene = scene();
    let head = ":method: HEAD\n:scheme: https\n:authority: a\n:path: /";
    scene.client(&[headers(1, true, head)]);
    scene.server(&[headers(
        1,
        true,
        ":status: 200\ncontent-encoding: gzip\ncontent-length: 5",
    )]);
    scene.client(&[get(3, "/")]);
    scene.server(&[headers(3, true, ":status: 304\ncontent-encoding: gzip")]);
    scene.client(&[get(5, "/")]);
    let part = ":status: 206\ncontent-encoding: gzip\ncontent-length: 2";
    scene.server(&[headers(5, false, part), data(5, true, &whole[..2])]);
    let told = scene.own().said[1].escape_ascii().to_string();
    assert_eq!(told.matches("Content-Encoding: gzip").count(), 3, "{told}");
    assert!(!told.contains("X-Decoded"), "{told}");
    assert_eq!(undecoded(&scene, Undecoded::Part), 1);
}

/// However it ends, what waits is told as it came.
#[test]
fn nothing_that_waits_is_missing() {
    let text = gzip(b"hello");
    for end in 0..6 {
        let mut scene = scene();
        scene.client(&[get(1, "/")]);
        scene.server(&[answer(1, "gzip", &text), data(1, false, &text[..11])]);
        assert_eq!(scene.own().text(Side::Server), "");
        match end {
            0 => scene.server(&[reset(1)]),
            1 => scene.finish(Side::Server),
            2 => scene.abort(Side::Client),
            // No frames any more.
            3 => scene.client(&[frame(0, 0, 0, b"x")]),
            4 => scene.server(&[frame(7, 0, 0, &[0; 8])]),
            _ => {
                let rest = data(1, true, &text[11..]);
                scene.say(Side::Server, &rest[..9]);
                scene.lose(Side::Server, 1);
                scene.say(Side::Server, &rest[10..]);
            }
        }
        let mut told = as_it_came("gzip", &text);
        let said = &scene.own().said[1];
        match end {
            5 => {
                let lost = told.len() - text.len() + 11;
                told[lost] = b'?';
                assert_eq!(undecoded(&scene, Undecoded::Hole), 1);
            }
            _ => {
                told.truncate(told.len() - text.len() + 11);
                assert_eq!(undecoded(&scene, Undecoded::Cut), 1, "{end}");
            }
        }
        assert_eq!(
            said.escape_ascii().to_string(),
            told.escape_ascii().to_string(),
            "{end}"
        );
    }
}

/// Where some was told decoded, its flow ends, and says so; others go on.
#[test]
fn what_breaks_off() {
    let plain = noise(100_000);
    let mut text = gzip(&plain);
    let at = text.len() - 3;
    text[at] ^= 1;
    for hole in [false, true] {
        let mut scene = scene();
        scene.client(&[get(1, "/1"), get(3, "/3")]);
        scene.server(&[answer(1, "gzip", &text)]);
        for piece in text[..96_000].chunks(16_000) {
            scene.server(&[data(1, false, piece)]);
        }
        let rest = data(1, true, &text[96_000..]);
        if hole {
            scene.say(Side::Server, &rest[..100]);
            scene.lose(Side::Server, 1);
            scene.say(Side::Server, &rest[101..]);
        } else {
            scene.server(&[rest]);
        }
        scene.server(&[ok(3, "three")]);
        assert_eq!(scene.own().end, End::Reset(Side::Server));
        let told = &scene.own().said[1];
        assert!(told.starts_with(decoded("gzip", &text).as_bytes()));
        assert_eq!(scene.others()[0].text(Side::Server), was_ok("three"));
        let why = if hole {
            Undecoded::Hole
        } else {
            Undecoded::Broken
        };
        let stats = scene.stats();
        assert_eq!((stats.broken_off[why as usize], stats.decoded), (1, 0));
        assert_eq!(stats.stopped.iter().sum::<u64>(), 0);
    }
}

#[test]
fn far_more_than_came() {
    let text = gzip(&vec![0; 1 << 20]);
    let mut scene = scene();
    scene.client(&[get(1, "/")]);
    scene.server(&[answer(1, "gzip", &text), data(1, true, &text)]);
    assert_eq!(scene.own().end, End::Reset(Side::Server));
    assert!(scene.own().said[1].len() < (66 << 10) + 100 * text.len());
    assert_eq!(scene.stats().broken_off[Undecoded::Ratio as usize], 1);
}

/// Who doesn't ask for it sees what came.
#[test]
fn only_if_asked_for() {
    let text = gzip(b"hello");
    let mut scene = Scene::new();
    scene.client(&[get(1, "/")]);
    scene.server(&[answer(1, "gzip", &text), data(1, true, &text)]);
    assert!(scene.own().said[1] == as_it_came("gzip", &text));
    assert_eq!(scene.http1.beside().stats().decoded, 0);
}
