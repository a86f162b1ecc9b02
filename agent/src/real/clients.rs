//! All flows, on their way to the outputs.

use std::collections::HashMap;

use mirror_hook::event::Announcement;

use super::claim::{Policy, Way};
use super::lanes::{Context, Lanes};
use super::session::Session;
use super::stats::{RealStats, Stop};
use super::waiting::Waiting;
use crate::endpoints::{Endpoints, Passing};
use crate::event::{Binding, FlowChange, FlowEvent, FlowInfo, FlowSink, WallTime};

/// Text that may wait in all, in bytes.
const MAX_HELD_BYTES: usize = 32 << 20;
/// Further flows have numbers that no session's flow has.
const FIRST_FLOW: u64 = 1 << 63;

/// Gives flows behind trusted proxies the addresses of their clients. See the [module](super).
#[derive(Debug)]
pub struct RealClients {
    policy: Policy,
    sessions: HashMap<u64, Session>,
    /// Flows that pass as they are.
    passing: Passing,
    endpoints: Endpoints,
    next_flow: u64,
    waiting: Waiting,
    held_bytes: usize,
    stats: RealStats,
}

impl RealClients {
    /// Without flows.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            sessions: HashMap::new(),
            passing: Passing::default(),
            endpoints: Endpoints::default(),
            next_flow: FIRST_FLOW,
            waiting: Waiting::default(),
            held_bytes: 0,
            stats: RealStats::default(),
        }
    }

    /// For another worker, whose flows come out beside ours: no live ones have the same made-up addresses.
    pub fn beside(&self) -> Self {
        Self {
            endpoints: self.endpoints.clone(),
            ..Self::new(self.policy.clone())
        }
    }

    /// How clients are told.
    pub fn way(&self) -> Way {
        self.policy.way
    }

    /// Takes an event, and hands on what is to be told now.
    pub fn flow_event(&mut self, event: FlowEvent<'_>, sink: &mut dyn FlowSink) {
        if let FlowChange::Begin(info) = event.change {
            return self.begin(event, info, sink);
        }
        let (at, change) = (event.at, event.change);
        let over = self.with(event.flow, sink, |session, policy, context| {
            session.change(at, change, policy, context)
        });
        match over {
            None => {
                self.passing.pass(event, &self.endpoints);
                sink.flow_event(event);
            }
            Some(true) => drop(self.sessions.remove(&event.flow)),
            Some(false) if self.held_bytes > MAX_HELD_BYTES => {
                self.with(event.flow, sink, |session, _, context| {
                    if session.held_bytes() > 0 {
                        session.stop_requests(Stop::Size, context);
                    }
                });
            }
            Some(false) => {}
        }
    }

    /// All that happened before `now` has been taken: what has waited long enough waits no more.
    pub fn expire(&mut self, now: WallTime, sink: &mut dyn FlowSink) {
        while let Some(flow) = self.waiting.due(now) {
            self.with(flow, sink, |session, _, context| session.expire(context));
        }
    }

    /// Nothing more comes: nothing waits any more.
    pub fn finish(&mut self, sink: &mut dyn FlowSink) {
        while let Some(flow) = self.waiting.pop() {
            self.with(flow, sink, |session, _, context| session.expire(context));
        }
    }

    /// The earliest time that an event yet to come from here may have because it waits here now.
    pub fn oldest_held(&self) -> Option<WallTime> {
        self.waiting.oldest()
    }

    /// Counts so far.
    pub fn stats(&self) -> RealStats {
        self.stats
    }

    fn begin(&mut self, event: FlowEvent<'_>, info: &FlowInfo, sink: &mut dyn FlowSink) {
        let flow = event.flow;
        // The addresses of who isn't known are nobody's.
        let known = info.binding != Binding::Placeholder;
        if !known || !self.policy.trusts(info.tuple.client.ip()) {
            self.passing.begin(flow, info.tuple, &self.endpoints);
            return sink.flow_event(event);
        }
        self.stats.sessions += 1;
        let from_start = info.announcement == Announcement::New && info.continued.is_none();
        let speaks_http2 = info.alpn.as_deref() == Some("h2") && info.http1.is_none();
        let is_http2 = self.policy.way == Way::Xff && speaks_http2;
        if from_start && !is_http2 {
            let session = Session::new(flow, event.at, info, self.policy.way);
            self.waiting.note(flow, session.waits_since());
            self.sessions.insert(flow, session);
            return;
        }
        self.stats.stopped(match is_http2 {
            true => Stop::Http2,
            false => Stop::Late,
        });
        let Self {
            endpoints,
            next_flow,
            stats,
            ..
        } = self;
        let mut context = Context {
            endpoints,
            next_flow,
            stats,
            sink,
        };
        let mut lanes = Lanes::new(flow, info);
        lanes.own(event.at, 0, &mut context);
        lanes.give_back(context.endpoints);
        self.passing.begin(flow, info.tuple, &self.endpoints);
    }

    /// Acts on a session, and notes what waits then.
    fn with<R>(
        &mut self,
        flow: u64,
        sink: &mut dyn FlowSink,
        act: impl FnOnce(&mut Session, &Policy, &mut Context<'_>) -> R,
    ) -> Option<R> {
        let session = self.sessions.get_mut(&flow)?;
        let held = session.held_bytes();
        let mut context = Context {
            endpoints: &self.endpoints,
            next_flow: &mut self.next_flow,
            stats: &mut self.stats,
            sink,
        };
        let result = act(session, &self.policy, &mut context);
        self.held_bytes = self.held_bytes + session.held_bytes() - held;
        self.waiting.note(flow, session.waits_since());
        Some(result)
    }
}
