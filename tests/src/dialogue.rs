//! What was said on a connection, as far as its unmirrored end knows it, and what is wrong with a flow of it.

use std::collections::BTreeSet;

use crate::curl::size_of;
use crate::nginx::LogEntry;
use crate::place::content;
use crate::postgres;
use crate::streams::{Flow, Stream};

/// What was said on a connection.
#[derive(Clone, Debug)]
pub enum Text {
    /// Each byte is known.
    Whole {
        /// By the client.
        request: Vec<u8>,
        /// By the server.
        response: Vec<u8>,
    },
    /// A session of psql with this table, see [`postgres::difference`].
    Psql(Vec<u8>),
    /// HTTP/1.1 with heads that a proxy made; the requests in their order, as the server logged them. Each body is known.
    Logged(Vec<LogEntry>),
    /// The same where only its clients know which requests they are, each once, and what line is in each response to them.
    Asked {
        /// Methods and URLs.
        requests: BTreeSet<(&'static str, String)>,
        /// Without its end.
        line: String,
    },
}

impl Text {
    /// What is wrong with a flow's text; `None`: nothing, to the last byte.
    pub fn difference(&self, flow: &Flow) -> Option<String> {
        let whole = |stream: &Stream, truth: &[u8]| match stream.missing() {
            0 => stream.difference(truth),
            missing => Some(format!("{missing} bytes are missing")),
        };
        match self {
            Self::Whole { request, response } => {
                whole(&flow.request, request).or_else(|| whole(&flow.response, response))
            }
            Self::Psql(table) => postgres::difference(flow, table),
            Self::Logged(entries) => logged(flow, entries),
            Self::Asked { requests, line } => asked(flow, requests, line),
        }
    }
}

/// What is wrong with a flow on which these requests were made.
fn logged(flow: &Flow, entries: &[LogEntry]) -> Option<String> {
    let (Some(mut requests), Some(mut responses)) = (flow.request.whole(), flow.response.whole())
    else {
        return Some("bytes are missing".into());
    };
    for entry in entries {
        let (sent, received) = bodies(&entry.method, &entry.url);
        let line = format!("{} {} HTTP/1.1\r\n", entry.method, entry.url);
        let request = message(&mut requests, entry.request_length, &sent);
        if !request.is_some_and(|request| request.starts_with(line.as_bytes())) {
            return Some(format!("the request isn't {line}"));
        }
        if message(&mut responses, entry.bytes_sent, &received).is_none() {
            return Some(format!("another response to {line}"));
        }
    }
    let left = requests.len() + responses.len();
    (left > 0).then(|| format!("{left} bytes are left over"))
}

/// What is wrong with a flow on which these requests were made, in whichever order.
fn asked(flow: &Flow, made: &BTreeSet<(&str, String)>, line: &str) -> Option<String> {
    let (Some(mut requests), Some(mut responses)) = (flow.request.whole(), flow.response.whole())
    else {
        return Some("bytes are missing".into());
    };
    let line = format!("\r\n{line}\r\n");
    let mut left = made.clone();
    while let Some((head, sent)) = framed(&mut requests) {
        let mut words = head.split(' ');
        let (method, url) = (words.next()?, words.next()?.to_owned());
        let (of_client, of_server) = bodies(method, &url);
        let Some((answer, received)) = framed(&mut responses) else {
            return Some(format!("no answer to {url}"));
        };
        if !left.remove(&(method, url)) {
            return Some(format!("nobody has asked this here: {head}"));
        }
        if (sent, received) != (&of_client, &of_server) || !answer.contains(&line) {
            return Some(format!("not what was said: {head}{answer}"));
        }
    }
    let over = requests.len() + responses.len();
    (over > 0 || !left.is_empty()).then(|| format!("{over} bytes and {left:?} are left over"))
}

/// What is sent with a request, and what comes back.
fn bodies(method: &str, url: &str) -> (Vec<u8>, Vec<u8>) {
    let body = content(size_of(url));
    match method {
        "GET" => (Vec::new(), body),
        _ => (body, b"stored".to_vec()),
    }
}

/// Takes a message off a stream by the length that it tells (RFC 9112 6.2); its head and its body.
fn framed<'s>(stream: &mut &'s [u8]) -> Option<(&'s str, &'s [u8])> {
    let end = stream.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let (head, rest) = stream.split_at(end);
    let head = std::str::from_utf8(head).ok()?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then_some(value)
    });
    let length = length.map_or(Some(0), |length| length.parse().ok())?;
    let (body, rest) = rest.split_at_checked(length)?;
    *stream = rest;
    Some((head, body))
}

/// Takes a message of this length off a stream, if this body is all that is behind its head.
fn message<'s>(stream: &mut &'s [u8], length: u64, body: &[u8]) -> Option<&'s [u8]> {
    let (message, rest) = stream.split_at_checked(usize::try_from(length).ok()?)?;
    let head = message.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    *stream = rest;
    (message[head..] == *body).then_some(message)
}
