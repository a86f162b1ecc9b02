//! The fuzz targets of what proxies say.

use crate::corpus::{retold, run, steps};
use crate::tunnel::batch::tests::info;

#[test]
fn requests() {
    let cases = [
        (
            "two-clients",
            steps(&[
                (0, b"GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7, 10.0.0.9\r\n\r\n"),
                (0, b"POST / HTTP/1.1\r\nForwarded: for=\"[2001:db8::1]:7\"\r\nContent-Length: 2\r\n\r\nhi"),
                (1, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 204 No\r\n\r\n"),
            ]),
        ),
        (
            "chunks",
            steps(&[
                (0, b"PUT / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7:9\r\nTransfer-Encoding: chunked\r\n\r\n"),
                (0, b"3;a=b\r\nabc\r\n0\r\nA: b\r\n\r\n"),
                (1, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
                (0, b"GET / HTTP/1.1\r\n\r\n"),
                (1, b"HTTP/1.1 200 OK\r\n\r\nuntil the end"),
            ]),
        ),
        (
            "hole",
            [steps(&[(0, b"GET / HTTP/1.1\r\nX-Fo")]), vec![7 << 2 | 2, 63 << 2 | 3]].concat(),
        ),
    ];
    for (name, bytes) in cases {
        run("xff", name, &bytes, |bytes| retold::xff(bytes, &info(3)));
    }
}

#[test]
fn headers() {
    let cases = [
        ("text", &b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\nGET / HTTP/1.0\r\n\r\n"[..]),
        ("binary", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xcb\0\x71\x07\x0a\0\0\x02\xdc\x04\x01\xbb\x04\0\x01\nGET /"),
        ("local", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0EHLO a\r\n"),
    ];
    for (name, said) in cases {
        let property = |bytes: &[u8]| retold::proxy_protocol(bytes, &info(3));
        run(
            "proxy_protocol",
            name,
            &steps(&[(0, said), (1, b"answer")]),
            property,
        );
    }
}
