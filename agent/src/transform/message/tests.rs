//! Messages as they are told, and messages that can't be.

use super::request::Request;
use super::{Asked, Framing, MessageError, Response, Seed, Shown, request, response, trailers};
use crate::event::FlowId;
use crate::transform::frame::StreamId;
use crate::transform::hpack::FieldList;

/// Fields as `name: value`, one a line.
fn fields(text: &[u8]) -> FieldList {
    let mut fields = FieldList::new(64 << 10);
    for line in text.split(|byte| *byte == b'|') {
        let colon = 1 + line[1..].iter().position(|byte| *byte == b':').unwrap();
        fields.add(&line[..colon], &line[colon + 1..]);
    }
    fields
}

fn asked(text: &[u8], last: bool) -> Result<(String, Request), MessageError> {
    let mut out = Vec::new();
    let seed = Seed(FlowId([7; 16]), StreamId::CONNECTION);
    let request = request(&fields(text), last, &seed, Shown::AsItCame, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), request))
}

fn answered(text: &[u8], last: bool, asked: &Asked) -> Result<(String, Response), MessageError> {
    let mut out = Vec::new();
    let response = response(&fields(text), last, asked, Shown::AsItCame, &mut out)?;
    Ok((String::from_utf8(out).unwrap(), response))
}

const GET: &[u8] = b":method:GET|:scheme:https|:authority:a.example|:path:/x?y=1";

fn get(more: &str) -> Vec<u8> {
    [GET, more.as_bytes()].concat()
}

#[test]
fn requests() {
    let head = "GET /x?y=1 HTTP/1.1\r\nHost: a.example\r\n";
    for (text, last, told, framing) in [
        (get(""), true, format!("{head}\r\n"), Framing::Nothing),
        (
            get(
                "|user-agent:x|accept:*/*|cookie:a=1|x-a:1|cookie:b=2|x-a:2|sec-ch-ua:q|dnt:1|X-bAd:1",
            ),
            true,
            format!(
                "{head}User-Agent: x\r\nAccept: */*\r\nCookie: a=1; b=2\r\nX-A: 1\r\nX-A: 2\r\n\
                 sec-ch-ua: q\r\nDNT: 1\r\nX-bAd: 1\r\n\r\n"
            ),
            Framing::Nothing,
        ),
        (
            get("|host:a.example|content-length:5"),
            false,
            format!("{head}Content-Length: 5\r\n\r\n"),
            Framing::Length { left: 5 },
        ),
        (
            get("|host:b.example"),
            false,
            format!("{head}Host: b.example\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Framing::Chunked,
        ),
        (
            get("|trailer:x|content-length:5"),
            false,
            format!("{head}Trailer: x\r\nTransfer-Encoding: chunked\r\n\r\n"),
            Framing::Chunked,
        ),
        (
            b":method:OPTIONS|:scheme:https|:path:*|host:a.example".to_vec(),
            true,
            "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n".into(),
            Framing::Nothing,
        ),
    ] {
        let asked = Asked::Ordinary;
        assert_eq!(
            super::tests::asked(&text, last).unwrap(),
            (told, Request { asked, framing })
        );
    }
    let head = asked(b":method:HEAD|:scheme:https|:authority:a|:path:/", true).unwrap();
    assert_eq!(head.1.asked, Asked::Head);
}

#[test]
fn tunnels() {
    let (text, request) = asked(b":method:CONNECT|:authority:a.example:443|x:1", false).unwrap();
    let told = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nX: 1\r\n\r\n";
    assert_eq!(
        (text.as_str(), request.asked.clone()),
        (told, Asked::Connect)
    );
    assert_eq!(request.framing, Framing::Tunnel);
    let granted = answered(b":status:200", false, &request.asked).unwrap();
    let meant = Response::Final(Framing::Tunnel);
    assert_eq!(granted, ("HTTP/1.1 200 OK\r\n\r\n".into(), meant));
    let refused = answered(b":status:403|content-length:2", false, &request.asked).unwrap();
    assert_eq!(refused.1, Response::Final(Framing::Length { left: 2 }));

    let websocket = b":method:CONNECT|:protocol:websocket|:scheme:https|:path:/chat|:authority:a|sec-websocket-version:13";
    let (text, request) = asked(websocket, false).unwrap();
    let key = "GbJf54d6TnYoM4k+Xd8SXw==";
    let Asked::Upgrade {
        key: Some(told), ..
    } = &request.asked
    else {
        panic!("no upgrade");
    };
    assert_eq!(
        text,
        format!(
            "GET /chat HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Key: {told}\r\n\r\n"
        )
    );
    assert_eq!(told.len(), key.len());
    let with_key = [&websocket[..], b"|sec-websocket-key:x"].concat();
    assert_eq!(asked(&with_key, false).unwrap().0, text);
    // The example of RFC 6455 section 1.3.
    let asked = Asked::Upgrade {
        protocol: b"websocket"[..].into(),
        key: Some("dGhlIHNhbXBsZSBub25jZQ==".into()),
    };
    // What HAProxy has of the server behind it fits another key.
    let granted = b":status:200|sec-websocket-accept:L/KRnvpmLMM+rnsLDe2NOcAPHTE=";
    let (text, response) = answered(granted, false, &asked).unwrap();
    assert_eq!(
        text,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
    );
    assert_eq!(response, Response::Final(Framing::Tunnel));
}

#[test]
fn responses() {
    let ordinary = Asked::Ordinary;
    for (text, last, asked, told, response) in [
        (
            &b":status:200|etag:x|content-length:5"[..],
            false,
            &ordinary,
            "200 OK\r\nETag: x\r\nContent-Length: 5\r\n",
            Response::Final(Framing::Length { left: 5 }),
        ),
        (
            b":status:200",
            false,
            &ordinary,
            "200 OK\r\nTransfer-Encoding: chunked\r\n",
            Response::Final(Framing::Chunked),
        ),
        (
            b":status:404",
            true,
            &ordinary,
            "404 Not Found\r\nContent-Length: 0\r\n",
            Response::Final(Framing::Nothing),
        ),
        (
            b":status:200|content-length:5",
            true,
            &Asked::Head,
            "200 OK\r\nContent-Length: 5\r\n",
            Response::Final(Framing::Nothing),
        ),
        (
            b":status:304|content-length:5",
            true,
            &ordinary,
            "304 Not Modified\r\nContent-Length: 5\r\n",
            Response::Final(Framing::Nothing),
        ),
        (
            b":status:204",
            false,
            &ordinary,
            "204 No Content\r\n",
            Response::Final(Framing::Nothing),
        ),
        (
            b":status:103|link:x",
            false,
            &ordinary,
            "103 Early Hints\r\nLink: x\r\n",
            Response::Interim,
        ),
        (
            b":status:200|trailer:x|content-length:5",
            false,
            &ordinary,
            "200 OK\r\nTrailer: x\r\nTransfer-Encoding: chunked\r\n",
            Response::Final(Framing::Chunked),
        ),
        (
            b":status:799",
            true,
            &ordinary,
            "799 \r\nContent-Length: 0\r\n",
            Response::Final(Framing::Nothing),
        ),
    ] {
        let told = format!("HTTP/1.1 {told}\r\n");
        assert_eq!(answered(text, last, asked).unwrap(), (told, response));
    }
}

#[test]
fn what_cannot_be_told() {
    use MessageError::{Bytes, Length, Malformed, Size, TransferEncoding};
    let protocol = |bytes| {
        let begin = ":method:CONNECT|:scheme:https|:path:/|:authority:a|:protocol:";
        [begin.as_bytes(), &vec![b'x'; bytes]].concat()
    };
    assert!(asked(&protocol(64), false).is_ok());
    for (text, error) in [
        (get("|x:a\rb"), Bytes),
        (get("|x:a\nb"), Bytes),
        (get("|x:a\0b"), Bytes),
        (get("|x y:a"), Bytes),
        (get("|x\r\n:a"), Bytes),
        (get("|cookie:a\r\nb"), Bytes),
        (
            b":method:GET|:scheme:https|:authority:a|:path:/ x".to_vec(),
            Bytes,
        ),
        (
            b":method:GET|:scheme:https|:authority:a|:path:/\r\nx".to_vec(),
            Bytes,
        ),
        (
            b":method:GET|:scheme:https|:authority:a b|:path:/".to_vec(),
            Bytes,
        ),
        (
            b":method:GET|:scheme:https|:authority:a|:path:/x\x0by".to_vec(),
            Bytes,
        ),
        (
            b":method:GET|:scheme:https|:authority:a|:path:http://b/".to_vec(),
            Malformed,
        ),
        (
            b":method:GET|:scheme:https|:authority:a|:path:*".to_vec(),
            Malformed,
        ),
        (protocol(65), Size),
        (
            b":method:GET x|:scheme:https|:authority:a|:path:/".to_vec(),
            Bytes,
        ),
        (get("|transfer-encoding:chunked"), TransferEncoding),
        (get("|Transfer-Encoding:identity"), TransferEncoding),
        (get("|content-length:5|content-length:5"), Length),
        (get("|content-length:5|Content-Length:6"), Length),
        (get("|content-length:+5"), Length),
        (get("|content-length:5, 5"), Length),
        (get("|content-length:"), Length),
        (get("|content-length:99999999999999999999"), Length),
        (get("|:path:/"), Malformed),
        (get("|x:1|:path:/"), Malformed),
        (get("|:status:200"), Malformed),
        (get("|:unknown:1"), Malformed),
        (b":scheme:https|:path:/".to_vec(), Malformed),
        (b":method:GET|:scheme:https".to_vec(), Malformed),
        (b":method:GET|:scheme:https|:path:".to_vec(), Malformed),
        (
            b":method:CONNECT|:scheme:https|:authority:a:1|:path:/".to_vec(),
            Malformed,
        ),
        (b":method:CONNECT".to_vec(), Malformed),
        (
            b":method:GET|:scheme:https|:path:/|:protocol:websocket".to_vec(),
            Malformed,
        ),
        (
            b":method:CONNECT|:authority:a:1|content-length:1".to_vec(),
            Length,
        ),
    ] {
        let shown = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(asked(&text, false).unwrap_err(), error, "{shown}");
    }
    assert_eq!(asked(&get("|content-length:5"), true).unwrap_err(), Length);
    for (text, last, error) in [
        (&b":status:200|x:a\nb"[..], false, Bytes),
        (b":status:200|transfer-encoding:x", false, TransferEncoding),
        (b":status:200|content-length:5", true, Length),
        (b":status:101", false, Malformed),
        (b":status:100", true, Malformed),
        (b":status:20", true, Malformed),
        (b":status:2000", true, Malformed),
        (b":status:099", true, Malformed),
        (b":status:200|:status:200", true, Malformed),
        (b"x:1|:status:200", true, Malformed),
        (b"x:1", true, Malformed),
    ] {
        let told = answered(text, last, &Asked::Ordinary);
        assert_eq!(
            told.unwrap_err(),
            error,
            "{}",
            String::from_utf8_lossy(text)
        );
    }
}

#[test]
fn fields_behind_the_content() {
    let mut out = Vec::new();
    trailers(&fields(b"grpc-status:0|x:1"), &mut out).unwrap();
    assert_eq!(out, b"0\r\nGrpc-Status: 0\r\nX: 1\r\n\r\n");
    for (text, error) in [
        (&b":status:200"[..], MessageError::Malformed),
        (b"x:\r", MessageError::Bytes),
        (b"transfer-encoding:x", MessageError::TransferEncoding),
    ] {
        assert_eq!(trailers(&fields(text), &mut Vec::new()), Err(error));
    }
}

#[test]
fn content_is_as_long_as_was_said() {
    let take = |mut framing: Framing, bytes, last| framing.take(bytes, last).map(|()| framing);
    assert!(take(Framing::Nothing, 1, true).is_err());
    assert!(take(Framing::Nothing, 0, true).is_ok());
    assert!(take(Framing::Length { left: 5 }, 6, false).is_err());
    assert!(take(Framing::Length { left: 5 }, 4, true).is_err());
    assert!(take(Framing::Length { left: 5 }, 5, true).is_ok());
    let left = take(Framing::Length { left: 5 }, 4, false);
    assert_eq!(left, Ok(Framing::Length { left: 1 }));
    assert!(take(Framing::Chunked, 1 << 40, true).is_ok());
}
