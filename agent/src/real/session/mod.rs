//! One session of a trusted proxy.
//!
//! ```text
//! requests:  Header ──> Opaque                      (PROXY protocol)
//!            Head ──> Body ──> Head … ──> Opaque    (HTTP/1.1) each in the flow of its client
//! answers:   Head ──> Body ──> Head … ──> Rest      each in the flow of its request
//!                                     ──> Lost      in the flow of the latest request
//! ```
//!
//! What nobody knows whose it is goes into a flow of the proxy's own address: not to whoever spoke before, who may be
//! somebody else.

mod answers;
mod requests;

use std::collections::VecDeque;

use self::answers::Answers;
use self::requests::Requests;
use super::claim::{Policy, Way};
use super::held::Held;
use super::http::{HeadEnd, Method};
use super::lanes::{Context, LaneNumber, Lanes};
use super::stats::Stop;
use crate::event::{FlowChange, FlowInfo, Side, WallTime};
use crate::retold::RetoldFlow;

/// A session from its beginning to its end.
#[derive(Debug)]
pub(super) struct Session {
    lanes: Lanes,
    requests: Requests,
    /// The flow that the client's text goes into; none before the first has begun.
    asking: Option<LaneNumber>,
    /// Of a header or a head that isn't complete.
    held: Held,
    held_end: HeadEnd,
    answers: Answers,
    /// The flow that the server's text goes into, where that isn't the client's.
    answering: Option<LaneNumber>,
    /// The head of an answer, as far as it has come. (It is in its flow already.)
    head: Vec<u8>,
    head_end: HeadEnd,
    unanswered: VecDeque<Asked>,
    /// When it began, as long as nothing is told of it, and others are to wait for it.
    began: Option<WallTime>,
    /// Time of the last event.
    last: WallTime,
    /// It isn't followed any more, at least one side of it. That is counted.
    stopped: bool,
}

#[derive(Debug)]
struct Asked {
    lane: LaneNumber,
    method: Method,
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
            held_end: HeadEnd::default(),
            answers: match way {
                Way::Xff => Answers::Head,
                Way::ProxyProtocol => Answers::Lost,
            },
            answering: None,
            head: Vec::new(),
            head_end: HeadEnd::default(),
            unanswered: VecDeque::new(),
            began: Some(at),
            last: at,
            stopped: false,
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
            FlowChange::Data { from, bytes, .. } => match from {
                Side::Client => self.asks(at, bytes, policy, context),
                Side::Server => self.answers(at, bytes, context),
            },
            FlowChange::Hole { from, bytes, .. } => match from {
                Side::Client => self.misses_requests(at, bytes, context),
                Side::Server => self.misses_answers(at, bytes, context),
            },
            FlowChange::Finish { from } => {
                match from {
                    Side::Client => self.end_requests(context),
                    // The client may be in the middle of a request.
                    Side::Server => self.begin_at_least(context),
                }
                self.lanes.finish(at, from, context.sink);
            }
            FlowChange::Reset { by, cause } => {
                self.end_requests(context);
                self.lanes.reset(at, by, cause, context.sink);
            }
        }
        let over = self.lanes.are_over();
        if over {
            self.lanes.give_back(context.endpoints);
        }
        over
    }

    /// There is a flow, whosever it is.
    fn begin_at_least(&mut self, context: &mut Context<'_>) {
        if self.asking.is_none() && self.held_bytes() == 0 {
            self.ask_as_the_proxy(context);
        }
    }

    /// What the client says from here on is shown as the proxy's own.
    fn ask_as_the_proxy(&mut self, context: &mut Context<'_>) {
        let at = self.begins_at();
        let lane = self.lanes.own(at, 0, context);
        self.ask_in(lane);
    }

    /// A request, or something else that isn't the one before, begins in this flow.
    fn ask_in(&mut self, lane: LaneNumber) {
        self.asking = Some(lane);
        if self.answers == Answers::Lost {
            self.answering = None;
        }
    }

    /// When the flow begins whose first text is what waits.
    fn begins_at(&mut self) -> WallTime {
        let began = self.began.take().or(self.held.since());
        began.unwrap_or(self.last)
    }

    /// It isn't followed any more, for the first of all reasons.
    fn note_stop(&mut self, why: Stop, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.stopped, true) {
            context.stats.stopped(why);
        }
    }

    fn lane(&self, from: Side) -> Option<LaneNumber> {
        match from {
            Side::Client => self.asking,
            Side::Server => self.answering.or(self.asking),
        }
    }

    fn flow(&mut self, from: Side) -> Option<&mut RetoldFlow> {
        self.lane(from).and_then(|lane| self.lanes.flow(lane))
    }

    fn say(&mut self, at: WallTime, from: Side, bytes: &[u8], context: &mut Context<'_>) {
        if let Some(flow) = self.flow(from) {
            flow.data(at, from, bytes, context.sink);
        }
    }

    fn miss(&mut self, at: WallTime, from: Side, bytes: u64, context: &mut Context<'_>) {
        if let Some(flow) = self.flow(from) {
            flow.hole(at, from, bytes, context.sink);
        }
    }
}
