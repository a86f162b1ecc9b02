//! Requests and answers, one stream at a time.

use super::*;

#[test]
fn one_after_another_on_the_sessions_own_addresses() {
    let mut scene = Scene::new();
    for (stream, path) in [(1, "/1"), (3, "/2"), (7, "/3")] {
        scene.client(&[get(stream, path)]);
        scene.server(&[ok(stream, path)]);
    }
    let asked = ["/1", "/2", "/3"].map(got).concat();
    let answered = ["/1", "/2", "/3"].map(was_ok).concat();
    assert_eq!(scene.own().both(), [asked, answered]);
    assert_eq!(scene.own().kind(), Some(PartKind::Lane(1)));
    assert!(scene.others().is_empty());
    let stats = scene.stats();
    assert_eq!((stats.sessions, stats.requests, stats.lanes), (1, 3, 0));
}

#[test]
fn content_goes_out_as_it_comes() {
    let mut scene = Scene::new();
    scene.client(&[get(1, "/")]);
    scene.server(&[headers(1, false, ":status: 200")]);
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(scene.own().text(Side::Server), chunked);
    let whole = data(1, false, b"some text");
    scene.server(&[whole[..13].to_vec()]);
    assert_eq!(
        scene.own().text(Side::Server),
        format!("{chunked}4\r\nsome\r\n")
    );
    scene.server(&[whole[13..].to_vec(), data(1, true, b"")]);
    let all = format!("{chunked}4\r\nsome\r\n5\r\n text\r\n0\r\n\r\n");
    assert_eq!(scene.own().text(Side::Server), all);
}

#[test]
fn content_of_any_size_and_padding() {
    let text: Vec<u8> = (b'a'..=b'z').cycle().take(100_000).collect();
    let mut scene = Scene::new();
    let fields =
        ":method: POST\n:scheme: https\n:authority: a.example\n:path: /\ncontent-length: 100000";
    scene.client(&[headers(1, false, fields)]);
    let pieces: Vec<_> = text
        .chunks(16_384)
        .map(|piece| data(1, false, piece))
        .collect();
    scene.client(&pieces);
    scene.client(&[frame(0, END_STREAM | 8, 1, b"\x03xxx")]);
    let padded = |text: &[u8]| frame(0, 8, 1, &[&[100], text, &[0; 100]].concat());
    scene.server(&[headers(1, false, ":status: 200")]);
    scene.server(&text.chunks(16_283).map(padded).collect::<Vec<_>>());
    scene.server(&[data(1, true, b"")]);
    let (head, content) = scene
        .own()
        .text(Side::Client)
        .split_once("\r\n\r\n")
        .unwrap();
    assert!(head.ends_with("\r\nContent-Length: 100000"));
    assert_eq!(content.as_bytes(), text);
    let (_, mut rest) = scene
        .own()
        .text(Side::Server)
        .split_once("\r\n\r\n")
        .unwrap();
    let mut content = String::new();
    loop {
        let (length, behind) = rest.split_once("\r\n").unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        content += &behind[..length];
        rest = behind[length..].strip_prefix("\r\n").unwrap();
        if length == 0 {
            break;
        }
    }
    assert_eq!((content.as_bytes(), rest), (&text[..], ""));
}

#[test]
fn fields_behind_content() {
    let mut scene = Scene::new();
    let grpc = ":method: POST\n:scheme: https\n:authority: a.example\n:path: /S/M\nte: trailers\n\
        content-type: application/grpc";
    scene.client(&[headers(1, false, grpc), data(1, true, b"\0\0\0\0\x01x")]);
    scene.server(&[
        headers(1, false, ":status: 200\ncontent-type: application/grpc"),
        data(1, false, b"\0\0\0\0\x01y"),
        headers(1, true, "grpc-status: 0"),
    ]);
    assert_eq!(
        scene.own().both(),
        [
            "POST /S/M HTTP/1.1\r\nHost: a.example\r\nTE: trailers\r\nContent-Type: application/grpc\r\n\
             Transfer-Encoding: chunked\r\n\r\n6\r\n\0\0\0\0\x01x\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Type: application/grpc\r\nTransfer-Encoding: chunked\r\n\r\n\
             6\r\n\0\0\0\0\x01y\r\n0\r\nGrpc-Status: 0\r\n\r\n",
        ]
    );
    // Behind a length there is no place: that is counted.
    scene.client(&[get(3, "/")]);
    scene.server(&[
        headers(3, false, ":status: 200\ncontent-length: 1"),
        data(3, false, b"x"),
        headers(3, true, "a: 1\nb: 2"),
    ]);
    assert!(scene.own().text(Side::Server).ends_with("\r\n\r\nx"));
    assert_eq!(scene.stats().unshown_trailers, 2);
    scene.client(&[get(5, "/")]);
    assert!(scene.own().text(Side::Client).ends_with(&got("/")));
}

#[test]
fn answers_without_content() {
    let mut scene = Scene::new();
    let head = ":method: HEAD\n:scheme: https\n:authority: a.example\n:path: /";
    scene.client(&[headers(1, true, head)]);
    scene.server(&[headers(1, true, ":status: 200\ncontent-length: 5")]);
    scene.client(&[get(3, "/")]);
    scene.server(&[headers(3, false, ":status: 204"), data(3, true, b"")]);
    scene.client(&[get(5, "/")]);
    scene.server(&[
        headers(5, false, ":status: 103\nlink: x"),
        headers(5, false, ":status: 100"),
        headers(5, true, ":status: 304"),
    ]);
    scene.client(&[get(7, "/")]);
    scene.server(&[headers(7, true, ":status: 500")]);
    assert_eq!(
        scene.own().text(Side::Server),
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 304 Not Modified\r\n\r\n\
         HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    );
    assert!(scene.others().is_empty());
}

#[test]
fn tunnels_end_their_lane() {
    let mut scene = Scene::new();
    scene.client(&[headers(
        1,
        false,
        ":method: CONNECT\n:authority: b.example:22",
    )]);
    scene.server(&[headers(1, false, ":status: 200")]);
    scene.server(&[data(1, false, b"SSH-2.0-x\r\n")]);
    scene.client(&[data(1, true, b"SSH-2.0-y\r\n")]);
    assert_eq!(scene.own().end, End::Half(Side::Client));
    scene.server(&[data(1, true, b"bye")]);
    assert_eq!(
        scene.own().both(),
        [
            "CONNECT b.example:22 HTTP/1.1\r\nHost: b.example:22\r\n\r\nSSH-2.0-y\r\n",
            "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-x\r\nbye",
        ]
    );
    assert_eq!(scene.own().end, End::Finished(Side::Client));
    scene.client(&[get(3, "/")]);
    assert_eq!(scene.others()[0].text(Side::Client), got("/"));
}

#[test]
fn a_refused_tunnel_is_an_ordinary_answer() {
    let mut scene = Scene::new();
    scene.client(&[headers(
        1,
        false,
        ":method: CONNECT\n:authority: b.example:22",
    )]);
    scene.server(&[ok(1, "no")]);
    scene.client(&[data(1, true, b"")]);
    assert_eq!(scene.own().text(Side::Server), was_ok("no"));
    assert_eq!(scene.own().end, End::Finished(Side::Server));
}

#[test]
fn websocket_over_http2_is_an_upgrade() {
    let mut scene = Scene::new();
    let connect = ":method: CONNECT\n:protocol: websocket\n:scheme: https\n:path: /chat\n:authority: a.example\n\
        sec-websocket-version: 13";
    scene.client(&[headers(1, false, connect)]);
    scene.server(&[headers(1, false, ":status: 200")]);
    scene.client(&[data(1, false, b"\x81\x01x")]);
    scene.server(&[data(1, false, b"\x81\x01y")]);
    let [asked, answered] =
        [Side::Client, Side::Server].map(|from| &scene.own().said[from as usize]);
    assert!(asked.starts_with(b"GET /chat HTTP/1.1\r\nHost: a.example\r\n"));
    assert!(asked.ends_with(b"\r\n\r\n\x81\x01x"));
    assert!(answered.starts_with(b"HTTP/1.1 101 Switching Protocols\r\n"));
    assert!(answered.ends_with(b"\r\n\r\n\x81\x01y"));
}

#[test]
fn blocks_in_pieces_and_other_frames() {
    let mut scene = Scene::new();
    let whole = block(":method: GET\n:scheme: https\n:authority: a.example\n:path: /");
    let (one, two) = whole.split_at(20);
    scene.client(&[
        frame(8, 0, 0, &[0, 0, 1, 0]),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(1, END_STREAM, 1, one),
        frame(9, END_HEADERS, 1, two),
        frame(6, 0, 0, b"12345678"),
        frame(0xfb, 9, 77, b"unknown"),
    ]);
    scene.server(&[ok(1, "x")]);
    assert_eq!(scene.own().both(), [got("/"), was_ok("x")]);
}

#[test]
fn tables_and_frames_as_agreed_on() {
    let mut scene = Scene::new();
    // The server permits a table of 8,192 bytes and frames of 20,000; the client uses both.
    scene.server(&[frame(4, 0, 0, b"\0\x01\0\0\x20\0\0\x05\0\0\x4e\x20")]);
    let mut block = vec![0x3f, 0xe1, 0x3f];
    block.extend(super::block(
        ":method: POST\n:scheme: https\n:authority: a.example\n:path: /",
    ));
    scene.client(&[
        frame(1, END_HEADERS, 1, &block),
        data(1, true, &[b'x'; 20_000]),
    ]);
    assert!(scene.own().text(Side::Client).ends_with("x\r\n0\r\n\r\n"));
    // The client permits neither.
    let size_update = [&[0x3f, 0xe1, 0x3f][..], &super::block(":status: 200")].concat();
    scene.server(&[frame(1, END_HEADERS, 1, &size_update)]);
    assert_eq!(scene.stats().stopped.iter().sum::<u64>(), 1);
}
