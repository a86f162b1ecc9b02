//! What the client says: to whom it belongs.

use super::{Asked, Session};
use crate::event::{RealClientWay, Side, WallTime};
use crate::real::body::{Body, Framing};
use crate::real::claim::{Claim, Policy};
use crate::real::http::{HeadEnd, MAX_HEAD_BYTES, Method, may_be_request, request};
use crate::real::lanes::{Client, Context};
use crate::real::proxy::{Header, header};
use crate::real::session::answers::Answers;
use crate::real::stats::Stop;

/// Requests that may wait for their answers.
const MAX_UNANSWERED: usize = 1024;

/// What the client says next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    /// A PROXY header.
    Header,
    /// A request's head.
    Head,
    /// Its body.
    Body(Body),
    /// Nobody knows, or it is no HTTP.
    Opaque,
}

impl Session {
    /// The client says something.
    pub(super) fn asks(
        &mut self,
        at: WallTime,
        mut bytes: &[u8],
        policy: &Policy,
        context: &mut Context<'_>,
    ) {
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
        let Some(end) = self.held_end.find(self.held.bytes()) else {
            if self.held_end.is_blank() && self.asking.is_some() {
                // Behind a body (RFC 9112 section 2.2): no request that waits.
                self.flush(0, context);
            } else if self.held_bytes() >= MAX_HEAD_BYTES {
                self.stop_requests(Stop::Size, context);
            } else if before == 0 && !may_be_request(self.held.bytes()) {
                self.stop_requests(Stop::NotHttp, context);
            }
            return &bytes[room..];
        };
        self.held.truncate(end);
        let rest = &bytes[end - before..];
        let head = match request(self.held.bytes(), policy) {
            Ok(_) if self.unanswered.len() == MAX_UNANSWERED => Err(Stop::Crowd),
            head => head,
        };
        let head = match head {
            Ok(head) => head,
            Err(why) => {
                self.stop_requests(why, context);
                return rest;
            }
        };
        let client = client(head.claim, context);
        let at = self.begins_at();
        let Some(lane) = self.lanes.of(client, at, 0, context) else {
            self.stop_requests(Stop::Crowd, context);
            return rest;
        };
        self.ask_in(lane);
        if self.answers != Answers::Lost {
            self.lanes.asked(lane);
            self.unanswered.push_back(Asked {
                lane,
                method: head.method,
            });
        }
        self.flush(0, context);
        self.requests = match (head.method, head.framing) {
            (Method::Connect, _) | (_, Framing::UntilClose) => Requests::Opaque,
            (_, Framing::Length(0)) => Requests::Head,
            (_, Framing::Length(length)) => Requests::Body(Body::Length(length)),
            (_, Framing::Chunked) => Requests::Body(Body::chunked()),
        };
        rest
    }

    /// So much of what the client says is missing.
    pub(super) fn misses_requests(
        &mut self,
        at: WallTime,
        mut bytes: u64,
        context: &mut Context<'_>,
    ) {
        if let Requests::Body(body) = &mut self.requests
            && let Some((within, ended)) = body.skip(bytes)
        {
            if ended {
                self.requests = Requests::Head;
            }
            self.miss(at, Side::Client, within, context);
            bytes -= within;
        }
        if bytes == 0 {
            return;
        }
        // Of a body at least what is missing first; of a head all may be somebody else's.
        let begins_here = matches!(self.requests, Requests::Body(_));
        if begins_here {
            self.miss(at, Side::Client, bytes, context);
        }
        self.stop_requests(Stop::Hole, context);
        if !begins_here {
            self.miss(at, Side::Client, bytes, context);
        }
    }

    /// The client's text isn't followed any more.
    pub(in crate::real) fn stop_requests(&mut self, why: Stop, context: &mut Context<'_>) {
        match self.requests {
            Requests::Opaque => return,
            Requests::Header => context.stats.headerless += 1,
            Requests::Head | Requests::Body(_) => self.note_stop(why, context),
        }
        self.ask_as_the_proxy(context);
        self.requests = Requests::Opaque;
        self.flush(0, context);
    }

    /// The client says no more: no request that waits becomes complete.
    pub(super) fn end_requests(&mut self, context: &mut Context<'_>) {
        if self.held_bytes() > 0 {
            self.stop_requests(Stop::Time, context);
        }
        self.begin_at_least(context);
        self.requests = Requests::Opaque;
    }

    /// What waits goes into the client's flow, but for so many bytes at its beginning.
    pub(super) fn flush(&mut self, skip: usize, context: &mut Context<'_>) {
        self.held_end = HeadEnd::default();
        let mut flow = self.asking.and_then(|lane| self.lanes.flow(lane));
        self.held.drain(skip, |at, piece| {
            if let Some(flow) = &mut flow {
                flow.data(at, Side::Client, piece, context.sink);
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
