//! The forged flows of one session: lanes, on each of which one exchange is under way at a time.

use std::collections::HashMap;

use super::decoding::Budget;
use super::part::{Http1Part, PartKind};
use super::stats::{Stop, TransformStats};
use crate::endpoints::Endpoints;
use crate::event::{
    FlowChange, FlowId, FlowInfo, FlowSink, ResetCause, Side, ToldAddress, Tuple, WallTime,
};
use crate::retold::{RetoldFlow, RetoldSession, further_id};

/// Ports from which lanes take theirs: those that nobody can register (RFC 6335 section 6), so no monitor takes them for a
/// protocol's, and above the ones that Linux gives to clients (32,768 to 60,999).
const PORTS: std::ops::RangeInclusive<u16> = 61_000..=65_535;

/// Where things go, and what all sessions share.
pub(super) struct Context<'a> {
    pub(super) endpoints: &'a Endpoints,
    /// Which session has a lane with these addresses that are made up.
    pub(super) derived: &'a mut HashMap<Tuple, u64>,
    pub(super) next_flow: &'a mut u64,
    /// What decoders may take, where content is to be shown decoded.
    pub(super) decoding: Option<&'a Budget>,
    pub(super) stats: &'a mut TransformStats,
    pub(super) sink: &'a mut dyn FlowSink,
}

/// The flows of a session.
#[derive(Debug)]
pub(super) struct Lanes {
    session: RetoldSession,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    flow: RetoldFlow,
    tuple: Tuple,
    use_: Use,
    finished: [bool; 2],
}

/// What a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// The next request may take it.
    Idle,
    Busy,
    /// It has ended; its place is free.
    Over,
}

/// One of the flows: its place, and the flow that has it. Once that has ended, it names nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneNumber(usize, u64);

impl Lanes {
    /// The session's own flow begins.
    pub(super) fn begin(
        flow: u64,
        at: WallTime,
        info: &FlowInfo,
        is_http2: bool,
        context: &mut Context<'_>,
    ) -> Self {
        let mut own = Lane::new(flow, at, info.tuple);
        own.use_ = Use::Idle;
        context.endpoints.take(info.tuple);
        let mut lanes = Self {
            session: RetoldSession::new(flow, info),
            lanes: Vec::new(),
        };
        lanes.session.begun = 1;
        let mut info = info.clone();
        // Where it turns out only later what it is, the first packet can't tell.
        info.http1 = is_http2.then_some(Http1Part {
            session: info.id,
            kind: PartKind::Lane(1),
        });
        own.flow.emit(at, FlowChange::Begin(&info), context.sink);
        lanes.lanes.push(own);
        lanes
    }

    pub(super) fn id(&self) -> FlowId {
        self.session.info.id
    }

    /// A lane for a request: one that is idle, or another.
    pub(super) fn claim(
        &mut self,
        at: WallTime,
        context: &mut Context<'_>,
    ) -> Result<LaneNumber, Stop> {
        let mut lanes = self.lanes.iter();
        let idle = lanes.position(|lane| lane.use_ == Use::Idle && lane.finished == [false; 2]);
        if let Some(idle) = idle {
            return Ok(self.take(idle));
        }
        self.add(at, PartKind::Lane, context)
    }

    /// A lane for what nobody asked for.
    pub(super) fn claim_for_push(
        &mut self,
        at: WallTime,
        context: &mut Context<'_>,
    ) -> Result<LaneNumber, Stop> {
        self.add(at, PartKind::Push, context)
    }

    /// The flow for frames as they are, behind so many bytes of client and server: the session's own if it has all of them, else
    /// another, which says where it begins.
    pub(super) fn claim_raw(
        &mut self,
        at: WallTime,
        (client, server): (u64, u64),
        why: Stop,
        context: &mut Context<'_>,
    ) -> Option<LaneNumber> {
        let own = self.lanes.iter().position(|lane| {
            lane.flow.number() == self.session.flow
                && lane.flow.is_silent()
                && lane.use_ == Use::Idle
        });
        let own = own.filter(|_| (client, server) == (0, 0));
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            if Some(place) != own {
                lane.abandon(at, context);
            }
        }
        let raw = |_| PartKind::Raw {
            client,
            server,
            why,
        };
        match own {
            Some(own) => Some(self.take(own)),
            None => self.add(at, raw, context).ok(),
        }
    }

    fn take(&mut self, place: usize) -> LaneNumber {
        let lane = &mut self.lanes[place];
        lane.use_ = Use::Busy;
        LaneNumber(place, lane.flow.number())
    }

    fn live(&mut self, number: LaneNumber) -> Option<&mut Lane> {
        let lane = self.lanes.get_mut(number.0);
        lane.filter(|lane| lane.flow.number() == number.1 && lane.use_ != Use::Over)
    }

    fn add(
        &mut self,
        at: WallTime,
        kind: impl FnOnce(u64) -> PartKind,
        context: &mut Context<'_>,
    ) -> Result<LaneNumber, Stop> {
        let number = self.session.begun + 1;
        let id = further_id("lane", self.session.info.id, number);
        let start = u64::from_be_bytes([0, 0, 0, 0, id.0[0], id.0[1], id.0[2], id.0[3]]);
        let span = u64::from(PORTS.end() - PORTS.start()) + 1;
        let offset = u16::try_from(start % span).unwrap_or(0);
        let client = ToldAddress {
            ip: self.session.info.tuple.client.ip().to_canonical(),
            port: Some(PORTS.start() + offset),
        };
        let tuple = context.endpoints.derive(self.session.info.tuple, client);
        let tuple = tuple.ok_or(Stop::Ports)?;
        self.session.begun = number;
        context.derived.insert(tuple, self.session.flow);
        context.stats.lanes += 1;
        *context.next_flow += 1;
        let mut lane = Lane::new(*context.next_flow, at, tuple);
        let mut info = (*self.session.info).clone();
        info.id = id;
        info.tuple = tuple;
        info.http1 = Some(Http1Part {
            session: self.session.info.id,
            kind: kind(number),
        });
        lane.flow.emit(at, FlowChange::Begin(&info), context.sink);
        for from in [Side::Client, Side::Server] {
            if self.session.finished[from as usize] {
                lane.finish(at, from, context);
            }
        }
        let free = self.lanes.iter().position(|lane| lane.use_ == Use::Over);
        let place = free.unwrap_or(self.lanes.len());
        match self.lanes.get_mut(place) {
            Some(old) => *old = lane,
            None => self.lanes.push(lane),
        }
        Ok(self.take(place))
    }

    /// Text in a lane; any length.
    pub(super) fn data(
        &mut self,
        lane: LaneNumber,
        at: WallTime,
        from: Side,
        bytes: &[u8],
        sink: &mut dyn FlowSink,
    ) {
        if let Some(lane) = self.live(lane) {
            lane.flow.data(at, from, bytes, sink);
        }
    }

    /// So much is missing in a lane.
    pub(super) fn hole(
        &mut self,
        lane: LaneNumber,
        at: WallTime,
        from: Side,
        bytes: u64,
        sink: &mut dyn FlowSink,
    ) {
        if let Some(lane) = self.live(lane) {
            lane.flow.hole(at, from, bytes, sink);
        }
    }

    /// The exchange of a lane is over: another may take it.
    pub(super) fn release(&mut self, lane: LaneNumber) {
        if let Some(lane) = self.live(lane) {
            lane.use_ = Use::Idle;
        }
    }

    /// A side of a lane says no more: what was on it doesn't go on to another exchange.
    pub(super) fn finish_lane(
        &mut self,
        lane: LaneNumber,
        at: WallTime,
        from: Side,
        context: &mut Context<'_>,
    ) {
        if let Some(lane) = self.live(lane) {
            lane.finish(at, from, context);
        }
    }

    /// A lane ends in the middle of an exchange.
    pub(super) fn reset_lane(
        &mut self,
        lane: LaneNumber,
        at: WallTime,
        by: Side,
        cause: ResetCause,
        context: &mut Context<'_>,
    ) {
        if let Some(lane) = self.live(lane) {
            lane.reset(at, by, cause, context);
        }
    }

    /// A real connection takes these addresses: the lane that has them ends. `false`: something is under way on it, and the
    /// session can't go on as HTTP/1.1.
    pub(super) fn yield_to(
        &mut self,
        tuple: Tuple,
        at: WallTime,
        context: &mut Context<'_>,
    ) -> bool {
        let mut live = self.lanes.iter_mut().filter(|lane| lane.use_ != Use::Over);
        let Some(lane) = live.find(|lane| lane.tuple == tuple) else {
            return true;
        };
        let is_idle = lane.use_ == Use::Idle;
        lane.abandon(at, context);
        is_idle
    }

    /// A side of the session says no more: no lane of it does.
    pub(super) fn finish(&mut self, at: WallTime, from: Side, context: &mut Context<'_>) {
        self.session.finished[from as usize] = true;
        for lane in &mut self.lanes {
            if lane.use_ != Use::Over {
                lane.finish(at, from, context);
            }
        }
    }

    /// That side of the session has.
    pub(super) fn has_finished(&self, from: Side) -> bool {
        self.session.finished[from as usize]
    }

    /// Both sides of the session have.
    pub(super) fn is_finished(&self) -> bool {
        self.session.is_finished()
    }

    /// The session ends abruptly.
    pub(super) fn reset(
        &mut self,
        at: WallTime,
        by: Side,
        cause: ResetCause,
        context: &mut Context<'_>,
    ) {
        let live = self.lanes.iter_mut().filter(|lane| lane.use_ != Use::Over);
        live.for_each(|lane| lane.reset(at, by, cause, context));
    }

    /// Bytes that they take in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.lanes.capacity() * size_of::<Lane>() + size_of::<FlowInfo>()
    }
}

impl Lane {
    fn new(flow: u64, at: WallTime, tuple: Tuple) -> Self {
        Self {
            flow: RetoldFlow::new(flow, at),
            tuple,
            use_: Use::Busy,
            finished: [false; 2],
        }
    }

    fn finish(&mut self, at: WallTime, from: Side, context: &mut Context<'_>) {
        if !std::mem::replace(&mut self.finished[from as usize], true) {
            self.flow
                .emit(at, FlowChange::Finish { from }, context.sink);
        }
        if self.finished == [true; 2] {
            self.end(context);
        }
    }

    /// Ends it, whatever it is doing.
    fn abandon(&mut self, at: WallTime, context: &mut Context<'_>) {
        match self.use_ {
            Use::Busy => self.reset(at, Side::Client, ResetCause::Abort, context),
            Use::Idle => {
                for from in [Side::Client, Side::Server] {
                    self.finish(at, from, context);
                }
            }
            Use::Over => {}
        }
    }

    fn reset(&mut self, at: WallTime, by: Side, cause: ResetCause, context: &mut Context<'_>) {
        self.flow
            .emit(at, FlowChange::Reset { by, cause }, context.sink);
        self.end(context);
    }

    /// It has ended: its addresses are free.
    fn end(&mut self, context: &mut Context<'_>) {
        if self.use_ != Use::Over {
            self.use_ = Use::Over;
            context.derived.remove(&self.tuple);
            context.endpoints.give_back(self.tuple);
        }
    }
}
