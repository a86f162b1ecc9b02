//! The fuzz target of sessions of HTTP/2.

use super::tests::{PREFACE, data, frame, get, headers, ok, reset};
use crate::corpus::{retold, run, steps};
use crate::tunnel::batch::tests::info;

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
    ];
    for (name, bytes) in cases {
        run("http2", name, &bytes, |bytes| {
            retold::http2(bytes, &info(3))
        });
    }
}
