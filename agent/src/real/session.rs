//! One session of a trusted proxy.
//!
//! ```text
//! requests:  Header ──> Opaque                      (PROXY protocol)
//!            Head ──> Body ──> Head … ──> Opaque    (HTTP/1.1)
//! answers:   Head ──> Body ──> Head … ──> Opaque    each in the flow of its request
//! ```

use std::collections::VecDeque;

use super::body::{Body, Framing};
use super::claim::{Claim, Policy, Way};
use super::held::Held;
use super::http::{
    MAX_HEAD_BYTES, Method, ResponseHead, head_end, may_be_request, request, response,
};
use super::lanes::{Client, Context, LaneNumber, Lanes};
use super::proxy::{Header, header};
use super::stats::Stop;
use crate::event::{FlowChange, FlowInfo, RealClientWay, Side, WallTime};

/// Requests that may wait for their answers.
const MAX_UNANSWERED: usize = 1024;

/// A session from its beginning to its end.
#[derive(Debug)]
pub(super) struct Session {
    lanes: Lanes,
    requests: Requests,
    /// The flow that the client's text goes into; none before the first has begun.
    asking: Option<LaneNumber>,
    /// Of a header or a head that isn't complete.
    held: Held,
    /// So much of it has been looked at.
    looked_at: usize,
    answers: Answers,
    /// The flow that the server's text goes into, where that isn't the client's.
    answering: Option<LaneNumber>,
    /// The head of an answer, as far as it has come. (It is in its flow already.)
    head: Vec<u8>,
    unanswered: VecDeque<Asked>,
    finished: [bool; 2],
    /// When it began, as long as nothing is told of it, and others are to wait for it.
    began: Option<WallTime>,
    /// Time of the last event.
    last: WallTime,
}

#[derive(Debug)]
struct Asked {
    lane: LaneNumber,
    method: Method,
}

/// What the client says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Requests {
    /// A PROXY header.
    Header,
    /// A request's head.
    Head,
    /// Its body.
    Body(Body),
    /// Nobody knows.
    Opaque,
}

/// What the server says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answers {
    Head,
    Body(Body),
    Opaque,
}

impl Session {
    pub(super) fn new(flow: u64, at: WallTime, info: &FlowInfo, way: Way) -> Self {
        Self {
            lanes: Lanes::new(flow, info),
            requests: match way {
                Way::Xff => Requests::Head,
                Way::ProxyProtocol => Requests::Header,
            },
            asking: None,
            held: Held::default(),
            looked_at: 0,
            answers: match way {
                Way::Xff => Answers::Head,
                Way::ProxyProtocol => Answers::Opaque,
            },
            answering: None,
            head: Vec::new(),
            unanswered: VecDeque::new(),
            finished: [false; 2],
            began: Some(at),
            last: at,
        }
    }

    /// Since when something waits here that others are to wait for.
    pub(super) fn waits_since(&self) -> Option<WallTime> {
        match (self.asking, self.began) {
            (None, Some(began)) => Some(began),
            _ => self.held.since(),
        }
    }

    /// Bytes that wait.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.bytes().len()
    }

    /// It has waited long enough. One that has said nothing yet begins when it does.
    pub(super) fn expire(&mut self, context: &mut Context<'_>) {
        if self.held_bytes() > 0 {
            self.stop_requests(Stop::Time, context);
        }
        self.began = None;
    }

    /// Takes a change. True: it was the session's end.
    pub(super) fn change(
        &mut self,
        at: WallTime,
        change: FlowChange<'_>,
        policy: &Policy,
        context: &mut Context<'_>,
    ) -> bool {
        self.last = self.last.max(at);
        match change {
            FlowChange::Begin(_) => {}
            FlowChange::Data {
                from: Side::Client,
                bytes,
                ..
            } => self.asks(at, bytes, policy, context),
            FlowChange::Data { bytes, .. } => self.answers(at, bytes, context),
            FlowChange::Hole { from, bytes, .. } => self.hole(at, from, bytes, context),
            FlowChange::Finish { from } => {
                self.end_requests(context);
                self.lanes.finish(at, from, context.sink);
                self.finished[from as usize] = true;
            }
            FlowChange::Reset { by, cause } => {
                self.end_requests(context);
                self.lanes.reset(at, by, cause, context.sink);
                self.finished = [true; 2];
            }
        }
        let over = self.finished == [true; 2];
        if over {
            self.lanes.give_back(context.endpoints);
        }
        over
    }

    /// The client says something.
    fn asks(&mut self, at: WallTime, mut bytes: &[u8], policy: &Policy, context: &mut Context<'_>) {
        while !bytes.is_empty() {
            match &mut self.requests {
                Requests::Header => {
                    self.held.push(at, bytes);
                    return self.read_header(context);
                }
                Requests::Head => {
                    bytes = self.read_head(at, bytes, policy, context);
                }
                Requests::Body(body) => match body.advance(bytes) {
                    Ok((taken, ended)) => {
                        let (body, rest) = bytes.split_at(taken);
                        bytes = rest;
                        if ended {
                            self.requests = Requests::Head;
                        }
                        self.say(at, Side::Client, body, context);
                    }
                    Err(_) => self.stop_requests(Stop::Framing, context),
                },
                Requests::Opaque => {
                    self.say(at, Side::Client, bytes, context);
                    return;
                }
            }
        }
    }

    fn read_header(&mut self, context: &mut Context<'_>) {
        let (length, told) = match header(self.held.bytes()) {
            Header::Incomplete => return,
            Header::Whole(length, told) => (length, told),
            Header::None => return self.stop_requests(Stop::NotHttp, context),
        };
        context.stats.header_bytes += length as u64;
        let client = told.map(|told| (told, RealClientWay::ProxyProtocol));
        let at = self.begins_at();
        self.asking = self.lanes.of(client, at, length, context);
        self.requests = Requests::Opaque;
        self.flush(length, context);
    }

    /// Adds to the head of a request. Returns what stands behind it.
    fn read_head<'b>(
        &mut self,
        at: WallTime,
        bytes: &'b [u8],
        policy: &Policy,
        context: &mut Context<'_>,
    ) -> &'b [u8] {
        let before = self.held_bytes();
        let room = MAX_HEAD_BYTES.saturating_sub(before).min(bytes.len());
        self.held.push(at, &bytes[..room]);
        let Some(end) = head_end(self.held.bytes(), self.looked_at) else {
            self.looked_at = self.held_bytes();
            if self.held_bytes() >= MAX_HEAD_BYTES {
                self.stop_requests(Stop::Size, context);
            } else if before == 0 && !may_be_request(self.held.bytes()) {
                self.stop_requests(Stop::NotHttp, context);
            }
            return &bytes[room..];
        };
        self.held.truncate(end);
        self.looked_at = 0;
        let rest = &bytes[end - before..];
        match request(self.held.bytes(), policy) {
            Err(why) => self.stop_requests(why, context),
            Ok(head) => {
                if self.unanswered.len() == MAX_UNANSWERED {
                    self.stop_requests(Stop::Crowd, context);
                    return rest;
                }
                let client = client(head.claim, context);
                let at = self.begins_at();
                let Some(lane) = self.lanes.of(client, at, 0, context) else {
                    self.stop_requests(Stop::Crowd, context);
                    return rest;
                };
                self.asking = Some(lane);
                self.lanes.asked(lane);
                self.unanswered.push_back(Asked {
                    lane,
                    method: head.method,
                });
                self.flush(0, context);
                self.requests = match (head.method, head.framing) {
                    (Method::Connect, _) | (_, Framing::UntilClose) => Requests::Opaque,
                    (_, Framing::Length(0)) => Requests::Head,
                    (_, Framing::Length(length)) => Requests::Body(Body::Length(length)),
                    (_, Framing::Chunked) => Requests::Body(Body::chunked()),
                };
            }
        }
        rest
    }

    /// The server says something.
    fn answers(&mut self, at: WallTime, mut bytes: &[u8], context: &mut Context<'_>) {
        if self.asking.is_none() {
            // Who speaks first isn't HTTP's server, nor one that waits for a PROXY header.
            self.stop_requests(Stop::NotHttp, context);
            self.answers = Answers::Opaque;
        }
        while !bytes.is_empty() {
            match &mut self.answers {
                Answers::Head => {
                    let Some(asked) = self.unanswered.front() else {
                        if self.requests != Requests::Opaque {
                            self.stop_answers(Stop::Answer, context);
                        }
                        self.answers = Answers::Opaque;
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
                    Err(_) => self.stop_answers(Stop::Answer, context),
                },
                Answers::Opaque => {
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
        let Some(end) = head_end(&self.head, before) else {
            self.say(at, Side::Server, &bytes[..room], context);
            if self.head.len() >= MAX_HEAD_BYTES {
                self.stop_answers(Stop::Answer, context);
            }
            return &bytes[room..];
        };
        let (head, rest) = bytes.split_at(end - before);
        self.say(at, Side::Server, head, context);
        let read = response(&self.head[..end], method);
        self.head.clear();
        match read {
            Err(why) => self.stop_answers(why, context),
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
            Ok(ResponseHead::Final(Framing::UntilClose)) => self.leave_http(context),
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

    fn hole(&mut self, at: WallTime, from: Side, bytes: u64, context: &mut Context<'_>) {
        match from {
            Side::Client => self.stop_requests(Stop::Hole, context),
            Side::Server => {
                if self.asking.is_none() {
                    self.stop_requests(Stop::Hole, context);
                }
                if self.answers == Answers::Head && self.answering.is_none() {
                    self.answering = self.unanswered.front().map(|asked| asked.lane);
                }
                if self.answers != Answers::Opaque {
                    self.stop_answers(Stop::Hole, context);
                }
            }
        }
        if let Some(lane) = self.lane(from) {
            self.lanes.hole(lane, at, from, bytes, context.sink);
        }
    }

    /// The client's text isn't followed any more: it stays in the flow that it is in.
    pub(super) fn stop_requests(&mut self, why: Stop, context: &mut Context<'_>) {
        if self.requests != Requests::Opaque {
            match self.requests {
                Requests::Header => context.stats.headerless += 1,
                _ => context.stats.stopped(why),
            }
            self.requests = Requests::Opaque;
        }
        if self.asking.is_none() {
            let at = self.begins_at();
            self.asking = self.lanes.of(None, at, 0, context);
        }
        self.flush(0, context);
    }

    /// The server's text isn't followed any more.
    fn stop_answers(&mut self, why: Stop, context: &mut Context<'_>) {
        if self.requests != Requests::Opaque {
            context.stats.stopped(why);
        }
        self.leave_http(context);
    }

    /// What follows stays in the flow of the present answer, that of the client too, unless it is in the middle of a
    /// request.
    fn leave_http(&mut self, context: &mut Context<'_>) {
        self.answers = Answers::Opaque;
        self.head = Vec::new();
        self.unanswered.clear();
        self.answering = self.answering.or(self.asking);
        if self.requests == Requests::Head {
            self.asking = self.answering;
        }
        self.requests = Requests::Opaque;
        self.flush(0, context);
    }

    /// A side says no more: no request that waits becomes complete, and none that comes is answered.
    fn end_requests(&mut self, context: &mut Context<'_>) {
        if self.held_bytes() > 0 {
            return self.stop_requests(Stop::Time, context);
        }
        self.requests = Requests::Opaque;
        if self.asking.is_none() {
            let at = self.begins_at();
            self.asking = self.lanes.of(None, at, 0, context);
        }
    }

    /// When the flow begins whose first text is what waits.
    fn begins_at(&mut self) -> WallTime {
        let began = self.began.take().or(self.held.since());
        began.unwrap_or(self.last)
    }

    fn lane(&self, from: Side) -> Option<LaneNumber> {
        match from {
            Side::Client => self.asking,
            Side::Server => self.answering.or(self.asking),
        }
    }

    fn say(&mut self, at: WallTime, from: Side, bytes: &[u8], context: &mut Context<'_>) {
        if let Some(lane) = self.lane(from) {
            self.lanes.data(lane, at, from, bytes, context.sink);
        }
    }

    /// What waits goes into the client's flow, but for so many bytes at its beginning.
    fn flush(&mut self, skip: usize, context: &mut Context<'_>) {
        self.looked_at = 0;
        let (lanes, asking) = (&mut self.lanes, self.asking);
        self.held.drain(skip, |at, piece| {
            if let Some(lane) = asking {
                lanes.data(lane, at, Side::Client, piece, context.sink);
            }
        });
    }
}

fn client(claim: Claim, context: &mut Context<'_>) -> Client {
    match claim {
        Claim::Told(told, way) => return Some((told, way)),
        Claim::Silent => context.stats.silent += 1,
        Claim::Unusable => context.stats.unusable += 1,
        Claim::Conflict => context.stats.conflicts += 1,
    }
    None
}
