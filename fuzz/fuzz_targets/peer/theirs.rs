//! What h2 understands, and what it says. Nobody waits: what there is to read is there.

use std::collections::HashSet;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use super::{Message, PREFACE, SETTINGS, Understood};

/// What may wait between h2 and us.
const ROOM: usize = 1 << 22;

/// What h2 serves of what a client says behind its preface.
pub(super) fn served(bytes: &[u8]) -> Understood {
    let (mut near, far) = tokio::io::duplex(ROOM);
    write(&mut near, &[PREFACE, SETTINGS, bytes].concat());
    let mut understood = Understood::default();
    let mut builder = h2::server::Builder::new();
    builder.max_header_list_size(1 << 16);
    let Poll::Ready(Ok(mut connection)) = poll(builder.handshake::<_, Bytes>(far)) else {
        understood.is_partial = true;
        return understood;
    };
    let (mut live, mut said) = (Vec::new(), Vec::new());
    let mut context = Context::from_waker(Waker::noop());
    loop {
        let accepted = connection.poll_accept(&mut context);
        said.extend(read(&mut near));
        match accepted {
            Poll::Ready(Some(Ok((request, respond)))) => {
                let (head, body) = request.into_parts();
                let target = head.uri.path_and_query().map_or("", |path| path.as_str());
                let mut message = Message {
                    line: format!("{} {target}", head.method),
                    ..Message::default()
                };
                understood.is_partial |= head.method == http::Method::CONNECT;
                let authority = head.uri.authority().map(|text| text.as_str().as_bytes());
                if let Some(authority) = authority {
                    message.add("host", authority);
                }
                let said = head.headers.iter().filter(|(name, value)| {
                    *name != "cookie" && (*name != "host" || authority != Some(value.as_bytes()))
                });
                for (name, value) in said {
                    message.add(name.as_str(), value.as_bytes());
                }
                let cookies: Vec<_> = head.headers.get_all("cookie").iter().collect();
                if !cookies.is_empty() {
                    let cookies: Vec<_> = cookies.iter().map(|value| value.as_bytes()).collect();
                    message.add("cookie", &cookies.join(&b"; "[..]));
                }
                let length = length_of(&head.headers);
                live.push((message, body, length, respond));
            }
            Poll::Ready(Some(Err(_)) | None) => {
                understood.is_partial = true;
                break;
            }
            Poll::Pending => {
                let mut heard = false;
                for (message, body, ..) in &mut live {
                    heard |= hear(message, body, &mut understood.is_partial);
                }
                if !heard {
                    break;
                }
            }
        }
    }
    // Some requests it leaves out without a word.
    let opened = frames(bytes).filter(|(kind, _)| *kind == 1);
    let opened: HashSet<u32> = opened.map(|(_, stream)| stream).collect();
    understood.is_partial |= opened.len() > live.len();
    for (message, _, length, _) in live {
        understood.take(message, length);
    }
    understood.is_partial |= refuses(&said);
    understood
}

/// Whether there is an RST_STREAM or a GOAWAY in what h2 says.
fn refuses(said: &[u8]) -> bool {
    frames(said).any(|(kind, _)| matches!(kind, 3 | 7))
}

/// Kinds and streams.
fn frames(mut said: &[u8]) -> impl Iterator<Item = (u8, u32)> {
    std::iter::from_fn(move || {
        let [a, b, c, kind, _, w, x, y, z, ..] = said else {
            return None;
        };
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).expect("24 bits");
        said = &said[(9 + length).min(said.len())..];
        Some((*kind, u32::from_be_bytes([*w, *x, *y, *z]) & 0x7fff_ffff))
    })
}

/// What h2 says to ask three times, and what it gets to hear of the answers.
pub(super) fn answered(bytes: &[u8]) -> (Vec<u8>, Understood) {
    let (mut near, far) = tokio::io::duplex(ROOM);
    let mut understood = Understood::default();
    let builder = h2::client::Builder::new();
    let Poll::Ready(Ok((mut asks, connection))) = poll(builder.handshake::<_, Bytes>(far)) else {
        panic!("a client begins by itself");
    };
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    for number in 0..3 {
        let request = http::Request::get(format!("https://a/{number}")).body(());
        let sent = asks.send_request(request.expect("a request"), true);
        waiting.push(sent.expect("room for it").0);
    }
    let mut over = connection.as_mut().poll(&mut context).is_ready();
    let asked = read(&mut near);
    write(&mut near, &[SETTINGS, bytes].concat());
    let mut live: Vec<(Message, RecvStream, Option<usize>)> = Vec::new();
    let mut said = Vec::new();
    loop {
        over = over || connection.as_mut().poll(&mut context).is_ready();
        said.extend(read(&mut near));
        let mut heard = false;
        waiting.retain_mut(|response| match pin!(response).poll(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => {
                understood.is_partial = true;
                false
            }
            Poll::Ready(Ok(response)) => {
                let (head, body) = response.into_parts();
                let mut message = Message {
                    line: head.status.as_str().to_owned(),
                    ..Message::default()
                };
                message.add_all(&head.headers);
                let has_none = matches!(head.status.as_u16(), 204 | 304);
                let length = if has_none {
                    Some(0)
                } else {
                    length_of(&head.headers)
                };
                live.push((message, body, length));
                heard = true;
                false
            }
        });
        for (message, body, _) in &mut live {
            heard |= hear(message, body, &mut understood.is_partial);
        }
        if !heard {
            break;
        }
    }
    understood.is_partial |= over || refuses(&said);
    for (message, _, length) in live {
        understood.take(message, length);
    }
    (asked, understood)
}

impl Understood {
    /// In HTTP/1.1 nothing follows content of a known length.
    fn take(&mut self, mut message: Message, length: Option<usize>) {
        if let Some(length) = length {
            message.is_whole |= length == message.content.len();
            message.trailers.clear();
            // A 204 with content: h2 doesn't mind.
            if message.content.len() > length {
                (message.is_whole, self.is_partial) = (false, true);
            }
        }
        self.messages.push(message);
    }
}

fn length_of(fields: &HeaderMap) -> Option<usize> {
    fields.get("content-length")?.to_str().ok()?.parse().ok()
}

/// Takes what there is of a message's content; whether there was anything.
fn hear(message: &mut Message, body: &mut RecvStream, is_partial: &mut bool) -> bool {
    let mut context = Context::from_waker(Waker::noop());
    let mut heard = false;
    while !message.is_whole {
        match body.poll_data(&mut context) {
            Poll::Pending => return heard,
            Poll::Ready(Some(Ok(bytes))) => {
                let released = body.flow_control().release_capacity(bytes.len());
                *is_partial |= released.is_err();
                message.content.extend_from_slice(&bytes);
            }
            Poll::Ready(Some(Err(_))) => {
                *is_partial = true;
                return heard;
            }
            Poll::Ready(None) => match body.poll_trailers(&mut context) {
                Poll::Pending => return heard,
                Poll::Ready(Ok(trailers)) => {
                    for (name, value) in trailers.iter().flatten() {
                        let values = message.trailers.entry(name.as_str().to_owned());
                        values.or_default().push(value.as_bytes().to_vec());
                    }
                    message.is_whole = true;
                }
                Poll::Ready(Err(_)) => {
                    *is_partial = true;
                    return heard;
                }
            },
        }
        heard = true;
    }
    heard
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    let mut future = pin!(future);
    future
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()))
}

fn write(stream: &mut DuplexStream, bytes: &[u8]) {
    let mut context = Context::from_waker(Waker::noop());
    let written = pin!(stream).poll_write(&mut context, bytes);
    assert!(matches!(written, Poll::Ready(Ok(length)) if length == bytes.len()));
}

/// All that is there.
fn read(stream: &mut DuplexStream) -> Vec<u8> {
    let mut context = Context::from_waker(Waker::noop());
    let mut all = Vec::new();
    loop {
        let mut bytes = [0; 4096];
        let mut buffer = ReadBuf::new(&mut bytes);
        match pin!(&mut *stream).poll_read(&mut context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                all.extend_from_slice(buffer.filled());
            }
            _ => return all,
        }
    }
}

/// What h2 writes for these requests: method, path, fields, content, and fields behind it.
pub(crate) type Asked<'a> = (
    &'a str,
    &'a str,
    &'a [(&'a str, &'a str)],
    &'a [&'a str],
    &'a [(&'a str, &'a str)],
);

/// The frames behind preface and settings, of a client that asks these.
pub(crate) fn asking(requests: &[Asked<'_>]) -> Vec<u8> {
    let (mut near, far) = tokio::io::duplex(ROOM);
    write(&mut near, SETTINGS);
    let Poll::Ready(Ok((mut asks, connection))) =
        poll(h2::client::Builder::new().handshake::<_, Bytes>(far))
    else {
        panic!("a client begins by itself");
    };
    let mut connection = pin!(connection);
    let mut context = Context::from_waker(Waker::noop());
    let _ = connection.as_mut().poll(&mut context);
    read(&mut near);
    for (method, path, fields, content, trailers) in requests {
        let mut request = http::Request::builder().method(*method);
        request = request.uri(format!("https://a.example{path}"));
        for (name, value) in *fields {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let last = content.is_empty() && trailers.is_empty();
        let (_, mut body) = asks.send_request(request, last).expect("room");
        for (number, piece) in content.iter().enumerate() {
            let last = number + 1 == content.len() && trailers.is_empty();
            let sent = body.send_data(Bytes::copy_from_slice(piece.as_bytes()), last);
            sent.expect("room");
        }
        if !trailers.is_empty() {
            body.send_trailers(fields_of(trailers)).expect("room");
        }
        let _ = connection.as_mut().poll(&mut context);
    }
    read(&mut near)
}

fn fields_of(fields: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in fields {
        let name: http::HeaderName = name.parse().expect("a name");
        map.append(name, value.parse().expect("a value"));
    }
    map
}
