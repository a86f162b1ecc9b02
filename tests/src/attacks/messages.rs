//! Messages that would be others in HTTP/1.1.

use super::Attack;
use crate::http2::{Field, data, get, get_with, headers, ok, request};
use crate::told::Who;

/// All.
pub(super) fn all() -> Vec<Attack> {
    let requests = fields().chain(targets());
    let all = requests.chain(answers());
    all.chain([without_content()]).collect()
}

/// Fields that would be something else in HTTP/1.1.
fn fields() -> impl Iterator<Item = Attack> {
    let fields: [(&str, &[Field<'_>], &str); 14] = [
        ("crlf", &[(b"x", b"a\r\nevil: b")], "bytes"),
        (
            "end",
            &[(b"x", b"a\r\n\r\nGET /evil HTTP/1.1\r\n\r\n")],
            "bytes",
        ),
        ("lf", &[(b"x", b"a\nevil: b")], "bytes"),
        ("cr", &[(b"x", b"a\revil: b")], "bytes"),
        ("nul", &[(b"x", b"a\0b")], "bytes"),
        ("crlf-in-name", &[(b"x: a\r\nevil", b"b")], "bytes"),
        ("nul-in-name", &[(b"x\0", b"b")], "bytes"),
        ("space-in-name", &[(b"content-length ", b"9")], "bytes"),
        ("no-name", &[(b"", b"b")], "bytes"),
        (
            "chunked",
            &[(b"transfer-encoding", b"chunked")],
            "transfer-encoding",
        ),
        (
            "chunked-capital",
            &[(b"Transfer-Encoding", b"x")],
            "transfer-encoding",
        ),
        (
            "lengths",
            &[(b"content-length", b"0"), (b"Content-Length", b"9")],
            "length",
        ),
        ("length", &[(b"content-length", b"9")], "length"),
        ("signed", &[(b"content-length", b"+0")], "length"),
    ];
    fields.into_iter().map(|(name, fields, why)| {
        let fields = [&request("/never")[..], fields].concat();
        Attack::client(name, &[headers(5, true, &fields)], why)
    })
}

/// Requests within a request's line.
fn targets() -> impl Iterator<Item = Attack> {
    const EVIL: &[u8] = b"/ HTTP/1.1\r\n\r\nGET /evil";
    let targets: [(&str, &[u8], &[u8], &str); 16] = [
        ("path-end", b":path", EVIL, "bytes"),
        ("path-space", b":path", b"/a HTTP/1.1", "bytes"),
        ("path-tab", b":path", b"/a\tb", "bytes"),
        ("path-vt", b":path", b"/a\x0bb", "bytes"),
        ("path-ff", b":path", b"/a\x0cb", "bytes"),
        ("path-cr", b":path", b"/a\rb", "bytes"),
        ("path-nul", b":path", b"/a\0b", "bytes"),
        ("path-empty", b":path", b"", "malformed"),
        (
            "path-elsewhere",
            b":path",
            b"http://evil.test/",
            "malformed",
        ),
        (
            "authority-end",
            b":authority",
            b"a\r\n\r\nGET /evil HTTP/1.1\r\n",
            "bytes",
        ),
        ("authority-space", b":authority", b"a b", "bytes"),
        ("authority-lf", b":authority", b"a\nevil: b", "bytes"),
        (
            "method-end",
            b":method",
            b"GET /evil HTTP/1.1\r\n\r\nGET",
            "bytes",
        ),
        ("method-space", b":method", b"GET /evil", "bytes"),
        ("method-empty", b":method", b"", "malformed"),
        (
            "scheme-end",
            b":scheme",
            b"a\r\n\r\nGET /evil HTTP/1.1\r\n",
            "bytes",
        ),
    ];
    let twice = Attack::client(
        "twice",
        &[get_with(5, "/never", (b":path", b"/evil"))],
        "malformed",
    );
    let in_target = targets.into_iter().map(|(name, which, value, why)| {
        let fields = request("/never").map(|(name, text)| match name == which {
            true => (name, value),
            false => (name, text),
        });
        Attack::client(name, &[headers(5, true, &fields)], why)
    });
    in_target.chain([
        twice,
        tunnel("early-tunnel", None),
        tunnel("early-upgrade", Some("/up")),
    ])
}

/// What is said into a tunnel that nobody has granted yet would be a request.
fn tunnel(name: &str, path: Option<&str>) -> Attack {
    let method: Field<'_> = (b":method", b"CONNECT");
    let (fields, line) = match path {
        None => (
            vec![method, (b":authority", b"a.test:1")],
            "CONNECT a.test:1",
        ),
        Some(path) => {
            let rest = &request(path)[1..];
            (
                [&[method, (b":protocol", b"websocket")], rest].concat(),
                "GET /up",
            )
        }
    };
    let refused = data(5, false, b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n");
    let begun = headers(5, false, &fields);
    Attack::client(name, &[refused], "malformed").behind(Who::Client, &[begun], &[line])
}

/// What a server says to who asked for `/busy`.
fn answers() -> Vec<Attack> {
    let answer = |fields: &[Field<'_>], last| headers(1, last, fields);
    let ok: Field<'_> = (b":status", b"200");
    let with = |field| answer(&[ok, field], false);
    let begun = || vec![with((b"content-length", b"3"))];
    let server = |name, refused: Vec<u8>, why| Attack::server(name, &[refused], why);
    vec![
        server(
            "answer-end",
            with((b"x", b"\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")),
            "bytes",
        ),
        server("answer-name", with((b"x\r\n\r\n", b"")), "bytes"),
        server(
            "answer-chunked",
            with((b"transfer-encoding", b"chunked")),
            "transfer-encoding",
        ),
        server(
            "answer-lengths",
            answer(&[ok, (b"content-length", b"1, 1")], false),
            "length",
        ),
        server(
            "answer-status",
            answer(&[(b":status", b"200 OK\r\nx: y")], true),
            "malformed",
        ),
        server(
            "answer-switches",
            answer(&[(b":status", b"101")], false),
            "malformed",
        ),
        server("answer-first", data(1, true, b"x"), "malformed"),
        server("answer-twice", answer(&[ok], false), "malformed").behind(
            Who::Server,
            &begun(),
            &[],
        ),
        server("answer-longer", data(1, true, b"HTTP"), "length").behind(
            Who::Server,
            &begun(),
            &[],
        ),
        server("answer-shorter", data(1, true, b"HT"), "length").behind(Who::Server, &begun(), &[]),
        server("answer-half", answer(&[ok], true)[..3].to_vec(), "cut"),
    ]
}

/// Answers without content that tell of a length, and what comes behind them.
fn without_content() -> Attack {
    let mut attack = Attack {
        answered: 4,
        ..Attack::harmless("without-content")
    };
    let length: Field<'_> = (b"content-length", b"40");
    for (stream, status) in [(5, b"304"), (7, b"204"), (9, b"103")] {
        let is_last = status != b"103";
        let path = format!("/{}", String::from_utf8_lossy(status));
        let asked = [get(stream, &path)];
        let line = format!("GET {path}");
        let mut answer = vec![headers(stream, is_last, &[(b":status", status), length])];
        if !is_last {
            answer.push(ok(stream, b"HTTP/1.1 200 OK"));
        }
        attack = attack.behind(Who::Client, &asked, &[&line]);
        attack = attack.behind(Who::Server, &answer, &[]);
    }
    attack
        .behind(Who::Client, &[get(11, "/last")], &["GET /last"])
        .behind(Who::Server, &[ok(11, b"last")], &[])
}
