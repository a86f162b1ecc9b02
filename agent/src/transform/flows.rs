//! All flows, on their way to the outputs.

use std::collections::{BTreeSet, HashMap};

use mirror_hook::event::Announcement;

use super::connection::Scratch;
use super::decoding::Budget;
use super::lanes::Context;
use super::session::Session;
use super::stats::{Stop, TransformStats};
use crate::endpoints::{Endpoints, Passing};
use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Tuple, WallTime};

/// Largest header list that is told, as SETTINGS_MAX_HEADER_LIST_SIZE counts it.
const MAX_LIST_BYTES: usize = 64 << 10;
/// What all sessions may take in memory.
const MAX_MEMORY_BYTES: usize = 64 << 20;
/// Lanes have numbers that no session's flow has, nor a flow of a client behind a proxy.
const FIRST_FLOW: u64 = 1 << 62;

/// Tells sessions of HTTP/2 as HTTP/1.1. See the [module](super).
#[derive(Debug)]
pub struct Http1 {
    sessions: HashMap<u64, Session>,
    /// Flows that pass as they are.
    passing: Passing,
    shared: Shared,
    pub(super) memory_bytes: usize,
    /// Sessions that are followed, by what they take: its power of two.
    by_size: BTreeSet<(u32, u64)>,
    scratch: Scratch,
}

/// What all sessions share.
#[derive(Debug)]
struct Shared {
    endpoints: Endpoints,
    derived: HashMap<Tuple, u64>,
    next_flow: u64,
    decoding: Option<Budget>,
    stats: TransformStats,
}

impl Shared {
    fn new(endpoints: Endpoints, decoding: Option<Budget>) -> Self {
        Self {
            endpoints,
            decoding,
            derived: HashMap::new(),
            next_flow: FIRST_FLOW,
            stats: TransformStats::default(),
        }
    }

    fn context<'a>(&'a mut self, sink: &'a mut dyn FlowSink) -> Context<'a> {
        Context {
            endpoints: &self.endpoints,
            derived: &mut self.derived,
            next_flow: &mut self.next_flow,
            decoding: self.decoding.as_ref(),
            stats: &mut self.stats,
            sink,
        }
    }
}

impl Default for Http1 {
    fn default() -> Self {
        Self::new()
    }
}

impl Http1 {
    /// Without flows.
    pub fn new() -> Self {
        Self {
            sessions: HashMap::new(),
            passing: Passing::default(),
            shared: Shared::new(Endpoints::default(), None),
            memory_bytes: 0,
            by_size: BTreeSet::new(),
            scratch: Scratch::new(MAX_LIST_BYTES),
        }
    }

    /// Content that is coded (gzip, deflate, br, zstd) is shown decoded.
    #[must_use]
    pub fn with_decoding(mut self) -> Self {
        self.shared.decoding = Some(Budget::default());
        self
    }

    /// For another worker, whose flows come out beside ours: no live ones have the same made-up addresses.
    pub fn beside(&self) -> Self {
        let Shared {
            endpoints,
            decoding,
            ..
        } = &self.shared;
        Self {
            shared: Shared::new(endpoints.clone(), decoding.clone()),
            ..Self::new()
        }
    }

    /// Takes an event, and hands on what is to be told.
    pub fn flow_event(&mut self, event: FlowEvent<'_>, sink: &mut dyn FlowSink) {
        if let FlowChange::Begin(info) = event.change {
            return self.begin(event, info, sink);
        }
        let (at, change) = (event.at, event.change);
        let over = self.with(event.flow, sink, |session, scratch, context| {
            session.change(at, change, scratch, context)
        });
        match over {
            None => {
                self.passing.pass(event, &self.shared.endpoints);
                sink.flow_event(event);
            }
            Some(true) => drop(self.sessions.remove(&event.flow)),
            Some(false) => {
                while self.memory_bytes > MAX_MEMORY_BYTES
                    && let Some(&(_, largest)) = self.by_size.last()
                {
                    self.with(largest, sink, |session, _, context| {
                        session.stop(at, Stop::Memory, context);
                        false
                    });
                }
            }
        }
    }

    /// Counts so far.
    pub fn stats(&self) -> TransformStats {
        self.shared.stats
    }

    fn begin(&mut self, event: FlowEvent<'_>, info: &FlowInfo, sink: &mut dyn FlowSink) {
        let flow = event.flow;
        if self.sessions.contains_key(&flow) || self.passing.contains(flow) {
            return sink.flow_event(event);
        }
        self.make_way(info.tuple, event.at, sink);
        let alpn = info.alpn.as_deref();
        let from_start = info.announcement == Announcement::New && info.continued.is_none();
        if !matches!(alpn, None | Some("h2" | "http/1.1")) || !from_start {
            if alpn == Some("h2") {
                self.shared.stats.stopped(Stop::Late);
            }
            self.passing.begin(flow, info.tuple, &self.shared.endpoints);
            return sink.flow_event(event);
        }
        let mut context = self.shared.context(sink);
        let session = Session::begin(flow, event.at, info, &mut context);
        self.weigh(flow, 0, session.memory_bytes());
        self.sessions.insert(flow, session);
    }

    /// These addresses are a real connection's: a lane that has them ends first.
    fn make_way(&mut self, tuple: Tuple, at: WallTime, sink: &mut dyn FlowSink) {
        if let Some(&session) = self.shared.derived.get(&tuple.in_one_family()) {
            self.with(session, sink, |session, _, context| {
                session.yield_to(tuple.in_one_family(), at, context);
                false
            });
        }
    }

    /// Acts on a session, which may be over then, and notes what it takes in memory.
    fn with(
        &mut self,
        flow: u64,
        sink: &mut dyn FlowSink,
        act: impl FnOnce(&mut Session, &mut Scratch, &mut Context<'_>) -> bool,
    ) -> Option<bool> {
        let session = self.sessions.get_mut(&flow)?;
        let before = session.memory_bytes();
        let mut context = self.shared.context(sink);
        let is_over = act(session, &mut self.scratch, &mut context);
        let after = if is_over { 0 } else { session.memory_bytes() };
        self.weigh(flow, before, after);
        Some(is_over)
    }

    fn weigh(&mut self, flow: u64, before: usize, after: usize) {
        self.memory_bytes = self.memory_bytes + after - before;
        let [before, after] = [before, after].map(|bytes| usize::BITS - bytes.leading_zeros());
        if before != after {
            self.by_size.remove(&(before, flow));
            if after > 0 {
                self.by_size.insert((after, flow));
            }
        }
    }
}
