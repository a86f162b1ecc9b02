//! What the server says: to which request it belongs.

use super::Session;
use crate::event::{Side, WallTime};
use crate::real::body::{Body, Framing};
use crate::real::http::{HeadEnd, MAX_HEAD_BYTES, Method, ResponseHead, response};
use crate::real::lanes::Context;
use crate::real::session::requests::Requests;
use crate::real::stats::Stop;

/// What the server says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// An answer's head.
    Head,
    /// Its body.
    Body(Body),
    /// All that comes belongs to the present one.
    Rest,
    /// Nobody knows. Proxies ask for one thing at a time: it is taken for an answer to the latest request.
    Lost,
}

impl Session {
    /// The server says something.
    pub(super) fn answers(&mut self, at: WallTime, mut bytes: &[u8], context: &mut Context<'_>) {
        if self.asking.is_none() {
            // Who speaks first isn't HTTP's server, nor one that waits for a PROXY header.
            self.stop_requests(Stop::NotHttp, context);
            self.answers = Answers::Lost;
        }
        while !bytes.is_empty() {
            match &mut self.answers {
                Answers::Head => {
                    let Some(asked) = self.unanswered.front() else {
                        self.lose_answers(Stop::Answer, context);
                        continue;
                    };
                    self.answering = Some(asked.lane);
                    let method = asked.method;
                    bytes = self.read_answer(at, bytes, method, context);
                }
                Answers::Body(body) => match body.advance(bytes) {
                    Ok((taken, ended)) => {
                        let (body, rest) = bytes.split_at(taken);
                        bytes = rest;
                        self.say(at, Side::Server, body, context);
                        if ended {
                            self.answered();
                        }
                    }
                    Err(_) => self.lose_answers(Stop::Answer, context),
                },
                Answers::Rest | Answers::Lost => {
                    self.say(at, Side::Server, bytes, context);
                    return;
                }
            }
        }
    }

    /// Adds to the head of an answer. Returns what stands behind it.
    fn read_answer<'b>(
        &mut self,
        at: WallTime,
        bytes: &'b [u8],
        method: Method,
        context: &mut Context<'_>,
    ) -> &'b [u8] {
        let before = self.head.len();
        let room = MAX_HEAD_BYTES.saturating_sub(before).min(bytes.len());
        self.head.extend_from_slice(&bytes[..room]);
        let Some(end) = self.head_end.find(&self.head) else {
            self.say(at, Side::Server, &bytes[..room], context);
            if self.head.len() >= MAX_HEAD_BYTES {
                self.lose_answers(Stop::Answer, context);
            }
            return &bytes[room..];
        };
        let (head, rest) = bytes.split_at(end - before);
        self.say(at, Side::Server, head, context);
        let read = response(&self.head[..end], method);
        self.head.clear();
        self.head_end = HeadEnd::default();
        if method == Method::Connect && matches!(read, Ok(ResponseHead::Final(_))) {
            self.refuse_tunnel(context);
        }
        match read {
            Err(why) => self.lose_answers(why, context),
            Ok(ResponseHead::Interim) => {}
            Ok(ResponseHead::Switches) => self.leave_http(context),
            Ok(ResponseHead::Final(Framing::Length(0))) => self.answered(),
            Ok(ResponseHead::Final(Framing::Length(length))) => {
                self.answers = Answers::Body(Body::Length(length));
            }
            Ok(ResponseHead::Final(Framing::Chunked)) => {
                self.answers = Answers::Body(Body::chunked());
            }
            // Nothing that the client says behind this request is answered.
            Ok(ResponseHead::Final(Framing::UntilClose)) => self.answers = Answers::Rest,
        }
        rest
    }

    /// An answer has ended.
    fn answered(&mut self) {
        self.answers = Answers::Head;
        if let Some(asked) = self.unanswered.pop_front() {
            self.lanes.answered(asked.lane);
        }
        self.answering = None;
    }

    /// So much of what the server says is missing.
    pub(super) fn misses_answers(
        &mut self,
        at: WallTime,
        mut bytes: u64,
        context: &mut Context<'_>,
    ) {
        if self.asking.is_none() {
            self.stop_requests(Stop::Hole, context);
        }
        if let Answers::Body(body) = &mut self.answers
            && let Some((within, ended)) = body.skip(bytes)
        {
            self.miss(at, Side::Server, within, context);
            bytes -= within;
            if ended {
                self.answered();
            }
        }
        if bytes > 0 {
            self.lose_answers(Stop::Hole, context);
            self.miss(at, Side::Server, bytes, context);
        }
    }

    /// Nobody knows what belongs to which request any more.
    fn lose_answers(&mut self, why: Stop, context: &mut Context<'_>) {
        if matches!(self.answers, Answers::Rest | Answers::Lost) {
            return;
        }
        // Behind a client's text that isn't followed there are answers to nothing that is known.
        if self.requests != Requests::Opaque || !self.unanswered.is_empty() {
            self.note_stop(why, context);
        }
        // The present one goes on, or the next one that is due begins.
        let due = self.unanswered.front().map(|asked| asked.lane);
        self.answering = self.answering.or(due);
        self.answers = Answers::Lost;
        self.head = Vec::new();
        self.unanswered.clear();
        self.lanes.await_nothing();
    }

    /// A tunnel was refused: what its client says next is anybody's request, or still meant for the other end.
    fn refuse_tunnel(&mut self, context: &mut Context<'_>) {
        self.note_stop(Stop::Framing, context);
        self.ask_as_the_proxy(context);
    }

    /// What both say from here on is no HTTP/1.1 any more: it stays in the flow of who has asked for that.
    fn leave_http(&mut self, context: &mut Context<'_>) {
        self.answers = Answers::Rest;
        if self.requests == Requests::Head {
            self.asking = self.answering;
        }
        self.requests = Requests::Opaque;
        self.flush(0, context);
    }
}
