//! The fuzz target of sessions of HTTP/2.

use super::tests::{PREFACE, data, frame, get, headers, ok, reset};
use crate::corpus::{retold, run, steps};
use crate::tunnel::batch::tests::info;

/// `abc`, nine times.
const BROTLI: &[u8] = b"\xa1\xd0\x00\x00\x20\x19\x26\x36\x16\xdc\x04\x21\x0d";
const ZSTD: &[u8] =
    b"\x28\xb5\x2f\xfd\x24\x1b\x4d\x00\x00\x18\x61\x62\x63\x01\x00\x82\x6e\x08\xe2\xaa\x30\x8e";
const GZIP: &[u8] =
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\x4b\x4c\x4a\x4e\xc4\x81\x00\xd1\x8e\xf6\xa8\x1b\x00\x00\x00";

/// An answer whose content is coded; gzip's isn't at its end.
fn coded(stream: u32, coding: &str, text: &[u8]) -> Vec<u8> {
    let fields = format!(":status: 200\ncontent-encoding: {coding}");
    let last = coding != "gzip";
    [headers(stream, false, &fields), data(stream, last, text)].concat()
}

#[test]
fn sessions() {
    let begin = [PREFACE, &frame(4, 0, 0, b""), &get(1, "/1"), &get(3, "/3")].concat();
    let grpc = ":method: POST\n:scheme: https\n:authority: a\n:path: /S/M\nte: trailers";
    let websocket =
        ":method: CONNECT\n:protocol: websocket\n:scheme: https\n:authority: a\n:path: /";
    let cases = [
        (
            "two-streams",
            steps(&[
                (0, &begin),
                (
                    1,
                    &[
                        ok(3, "x"),
                        headers(1, false, ":status: 200"),
                        data(1, true, b"y"),
                    ]
                    .concat(),
                ),
                (0, &[get(5, "/5"), reset(5), get(7, "/7")].concat()),
            ]),
        ),
        (
            "trailers",
            steps(&[
                (0, PREFACE),
                (
                    0,
                    &[headers(1, false, grpc), data(1, true, b"abc")].concat(),
                ),
                (
                    1,
                    &[
                        headers(1, false, ":status: 200"),
                        data(1, false, b"d"),
                        headers(1, true, "a: b"),
                    ]
                    .concat(),
                ),
            ]),
        ),
        (
            "tunnel",
            steps(&[
                (0, PREFACE),
                (0, &headers(1, false, websocket)),
                (
                    1,
                    &[headers(1, false, ":status: 200"), data(1, false, b"d")].concat(),
                ),
                (0, &data(1, true, b"abc")),
            ]),
        ),
        (
            "hole",
            [
                steps(&[(0, &begin), (1, &ok(1, "abcdef")[..40])]),
                vec![3 << 2 | 3],
                steps(&[(1, b"f"), (0, &get(5, "/5")[..20])]),
                vec![9 << 2 | 2],
            ]
            .concat(),
        ),
        (
            "forbidden",
            steps(&[
                (0, &begin),
                (
                    0,
                    &headers(5, true, ":method: GET\ntransfer-encoding: chunked"),
                ),
                (1, &ok(1, "x")),
            ]),
        ),
        (
            "coded",
            steps(&[
                (0, &[&begin[..], &get(5, "/5")].concat()),
                (1, &coded(1, "br", BROTLI)),
                (1, &coded(3, "zstd", ZSTD)),
                (1, &coded(5, "gzip", &GZIP[..20])),
                (1, &data(5, true, &GZIP[20..])),
            ]),
        ),
        (
            "upgrade",
            steps(&[
                (0, b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\n"),
                (0, b"HTTP2-Settings: AAMAAABk\r\n"),
                (0, b"Connection: Upgrade, HTTP2-Settings\r\n\r\n"),
                (1, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n"),
                (1, b"Connection: Upgrade\r\n\r\n"),
                (1, &[frame(4, 0, 0, b""), ok(1, "x")].concat()),
                (0, &[PREFACE, &frame(4, 0, 0, b""), &get(3, "/3")].concat()),
                (1, &ok(3, "y")),
            ]),
        ),
    ];
    for (name, bytes) in cases {
        run("http2", name, &bytes, |bytes| {
            retold::http2(bytes, &info(3))
        });
    }
}
