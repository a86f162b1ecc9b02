//! HTTP/1.1 that may be upgraded to HTTP/2 (h2c, RFC 7540 section 3.2).
//!
//! ```text
//! client:  GET / … Upgrade: h2c, HTTP2-Settings: …             the preface, frames
//! server:                              101 … Upgrade: h2c │ SETTINGS, the answer (stream 1)
//!          └──────── as it is ───────┘ └──── waits ─────┘ └──── told as HTTP/1.1 ────
//! ```
//!
//! All text goes out as it comes, but for what may be the `101`, which waits until its head is whole.
//! Messages are followed by RFC 9112 section 6.3, as far as it takes to know which answer is whose; where that can't be said for
//! certain, nothing is watched any more.

use std::collections::VecDeque;

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use httparse::Header;

use super::frame::Settings;
use super::message::Asked;
use crate::event::Side;
use crate::real::body::{Body, Framing};
use crate::real::http::{
    HeadEnd, MAX_HEAD_BYTES, Method, ResponseHead, request_with, response, room,
};

/// Requests that wait for an answer.
const MAX_UNANSWERED: usize = 64;
/// What the answer begins with by which it is HTTP/2 from there on.
const SWITCHES: &[u8] = b"HTTP/1.1 101";

/// A session that speaks HTTP/1.1.
#[derive(Debug, Default)]
pub(super) struct Watch {
    requests: Messages,
    answers: Messages,
    unanswered: VecDeque<Unanswered>,
    /// Nothing of what is kept of an answer's head has gone out.
    holds: bool,
}

/// What becomes of it.
#[derive(Debug)]
pub(super) enum Then {
    GoesOn,
    /// It stays HTTP/1.1, or nobody knows.
    Ends,
    /// It may be HTTP/2 from here on, and can't be read as such.
    CannotBeFollowed,
    Upgraded(Box<Upgraded>),
}

/// It is HTTP/2 from here on.
#[derive(Debug)]
pub(super) struct Upgraded {
    /// By stream 1.
    pub(super) asked: Asked,
    /// What the client permits.
    pub(super) settings: Settings,
    /// What the server has said of it.
    pub(super) text: Vec<u8>,
}

/// One direction's.
#[derive(Debug, Default)]
struct Messages {
    /// What has come of a head.
    head: Vec<u8>,
    end: HeadEnd,
    /// Of the body that is under way.
    body: Option<Body>,
}

#[derive(Debug)]
struct Unanswered {
    method: Method,
    upgrade: Upgrade,
}

/// Whether a request asks for HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upgrade {
    No,
    /// With what the client permits.
    Yes(Settings),
    /// Not as it has to be asked.
    Wrong,
}

impl Watch {
    /// One side says something: `out` takes what is to go out of it. Where it isn't watched any more, that is all of it but for what
    /// is [`held`](Self::held).
    pub(super) fn data(&mut self, from: Side, text: &[u8], out: &mut impl FnMut(&[u8])) -> Then {
        match from {
            Side::Client => {
                out(text);
                self.asks(text).unwrap_or_else(|then| then)
            }
            Side::Server => {
                let mut rest = text;
                self.answers(&mut rest, out).unwrap_or_else(|then| {
                    if !self.holds {
                        out(rest);
                    }
                    then
                })
            }
        }
    }

    /// What the server has said and hasn't gone out.
    pub(super) fn held(&self) -> &[u8] {
        match self.holds {
            true => &self.answers.head,
            false => &[],
        }
    }

    /// Bytes that are kept.
    pub(super) fn memory_bytes(&self) -> usize {
        self.requests.head.capacity() + self.answers.head.capacity()
    }

    fn asks(&mut self, mut text: &[u8]) -> Result<Then, Then> {
        while !text.is_empty() {
            if self.requests.take_body(&mut text)? {
                continue;
            }
            let is_upgrade = |asked: &Unanswered| asked.upgrade != Upgrade::No;
            if self.unanswered.back().is_some_and(is_upgrade) {
                // Whether what it says is HTTP/1.1 isn't known before the answer.
                return Err(Then::CannotBeFollowed);
            }
            let Some(head) = self.requests.take_head(&mut text)? else {
                break;
            };
            let read = request_with(&head, upgrade);
            let (framing, method, upgrade) = read.map_err(|_| Then::Ends)?;
            self.requests.begin_body(framing)?;
            if self.unanswered.len() >= MAX_UNANSWERED {
                return Err(Then::Ends);
            }
            self.unanswered.push_back(Unanswered { method, upgrade });
        }
        Ok(Then::GoesOn)
    }

    fn answers(&mut self, text: &mut &[u8], out: &mut impl FnMut(&[u8])) -> Result<Then, Then> {
        while !text.is_empty() {
            let before = *text;
            if self.answers.take_body(text)? {
                out(&before[..before.len() - text.len()]);
                if self.answers.body.is_none() {
                    self.unanswered.pop_front();
                }
                continue;
            }
            let asked = self.unanswered.front().ok_or(Then::Ends)?;
            let (method, upgrade) = (asked.method, asked.upgrade);
            if upgrade != Upgrade::No && self.answers.may_be_switch(text) {
                self.answers.head.extend_from_slice(text);
                self.holds = true;
                return self.switch(method, upgrade);
            }
            if std::mem::take(&mut self.holds) {
                out(&self.answers.head);
            }
            let head = self.answers.take_head(text)?;
            out(&before[..before.len() - text.len()]);
            let Some(head) = head else {
                break;
            };
            match response(&head, method).map_err(|_| Then::Ends)? {
                ResponseHead::Interim => {}
                ResponseHead::Switches | ResponseHead::Final(Framing::UntilClose) => {
                    return Err(Then::Ends);
                }
                ResponseHead::Final(framing) => {
                    self.answers.begin_body(framing)?;
                    if self.answers.body.is_none() {
                        self.unanswered.pop_front();
                    }
                }
            }
        }
        Ok(Then::GoesOn)
    }

    /// What is held may be the answer by which it is HTTP/2.
    fn switch(&mut self, method: Method, upgrade: Upgrade) -> Result<Then, Then> {
        let Messages { head, end, .. } = &mut self.answers;
        let Some(length) = end.find(head) else {
            return match head.len() {
                ..MAX_HEAD_BYTES => Ok(Then::GoesOn),
                _ => Err(Then::CannotBeFollowed),
            };
        };
        let (head, text) = head.split_at(length);
        if !switches_to_http2(head) {
            return Err(Then::Ends);
        }
        // The request is whole, and nothing else is under way.
        let is_alone = self.requests.body.is_none() && self.unanswered.len() == 1;
        let (Upgrade::Yes(settings), true) = (upgrade, is_alone) else {
            return Err(Then::CannotBeFollowed);
        };
        self.holds = false;
        Ok(Then::Upgraded(Box::new(Upgraded {
            asked: match method {
                Method::Head => Asked::Head,
                Method::Connect | Method::Other => Asked::Ordinary,
            },
            settings,
            text: text.to_vec(),
        })))
    }
}

impl Messages {
    /// Takes from the front of `text` what is a body's. `false`: none is under way.
    fn take_body(&mut self, text: &mut &[u8]) -> Result<bool, Then> {
        let Some(body) = &mut self.body else {
            return Ok(false);
        };
        let (taken, is_over) = body.advance(text).map_err(|_| Then::Ends)?;
        *text = &text[taken..];
        if is_over {
            self.body = None;
        }
        Ok(true)
    }

    /// Takes from the front of `text` what is a head's, and says what it is when it is whole.
    fn take_head(&mut self, text: &mut &[u8]) -> Result<Option<Vec<u8>>, Then> {
        let before = self.head.len();
        self.head.extend_from_slice(text);
        let Some(length) = self.end.find(&self.head) else {
            *text = &[];
            return match self.head.len() {
                ..MAX_HEAD_BYTES => Ok(None),
                _ => Err(Then::Ends),
            };
        };
        *text = &text[length - before..];
        self.end = HeadEnd::default();
        let mut head = std::mem::take(&mut self.head);
        head.truncate(length);
        Ok(Some(head))
    }

    fn begin_body(&mut self, framing: Framing) -> Result<(), Then> {
        self.body = match framing {
            Framing::Length(0) => None,
            Framing::Length(bytes) => Some(Body::Length(bytes)),
            Framing::Chunked => Some(Body::chunked()),
            Framing::UntilClose => return Err(Then::Ends),
        };
        Ok(())
    }

    /// What has come and comes may be the answer by which it is HTTP/2.
    fn may_be_switch(&self, text: &[u8]) -> bool {
        let all = self.head.iter().chain(text);
        all.zip(SWITCHES).all(|(byte, meant)| byte == meant)
    }
}

/// What a request's fields ask for (RFC 7540 section 3.2).
fn upgrade(fields: &[Header<'_>]) -> Upgrade {
    if !names_http2(fields) {
        return Upgrade::No;
    }
    let mut settings = values(fields, "HTTP2-Settings");
    let (Some(settings), None) = (settings.next(), settings.next()) else {
        return Upgrade::Wrong;
    };
    // Section 3.2.1: without padding, which six bytes each never need.
    let payload = BASE64_URL_SAFE_NO_PAD.decode(settings.trim_ascii());
    let settings = payload.map(|payload| Settings::of_payload(&payload));
    match settings {
        Ok(Ok(settings)) => Upgrade::Yes(settings),
        _ => Upgrade::Wrong,
    }
}

fn switches_to_http2(head: &[u8]) -> bool {
    let mut fields = room(head);
    let mut response = httparse::Response::new(&mut fields);
    let is_whole = response
        .parse(head)
        .is_ok_and(|parsed| parsed.is_complete());
    is_whole && response.code == Some(101) && names_http2(response.headers)
}

/// `Upgrade: h2c`, perhaps among others.
fn names_http2(fields: &[Header<'_>]) -> bool {
    let mut protocols =
        values(fields, "Upgrade").flat_map(|value| value.split(|byte| *byte == b','));
    protocols.any(|name| name.trim_ascii().eq_ignore_ascii_case(b"h2c"))
}

fn values<'f>(fields: &'f [Header<'f>], name: &'f str) -> impl Iterator<Item = &'f [u8]> {
    let named = fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name));
    named.map(|field| field.value)
}
