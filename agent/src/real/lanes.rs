//! The forged flows of one session, one for each client.

use super::stats::RealStats;
use crate::endpoints::Endpoints;
use crate::event::{
    FlowChange, FlowInfo, FlowSink, RealClient, RealClientWay, ResetCause, Side, ToldAddress,
    Tuple, WallTime,
};
use crate::retold::{RetoldFlow, RetoldSession, further_id};

/// Most flows of one session's clients at a time.
const MAX_LANES: usize = 64;

/// Where things go, and what all sessions share.
pub(super) struct Context<'a> {
    pub(super) endpoints: &'a Endpoints,
    pub(super) next_flow: &'a mut u64,
    pub(super) stats: &'a mut RealStats,
    pub(super) sink: &'a mut dyn FlowSink,
}

/// A client: nothing, where it isn't known.
pub(super) type Client = Option<(ToldAddress, RealClientWay)>;

/// The flows. There is none as long as nobody knows whose the first is.
#[derive(Debug)]
pub(super) struct Lanes {
    session: RetoldSession,
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
    client: Client,
    flow: RetoldFlow,
    tuple: Tuple,
    /// Requests without a whole answer.
    unanswered: u32,
}

/// One of the flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LaneNumber(usize);

impl Lanes {
    pub(super) fn new(flow: u64, info: &FlowInfo) -> Self {
        Self {
            session: RetoldSession::new(flow, info),
            lanes: Vec::new(),
        }
    }

    /// The flow of a client, which begins if there is none. Nothing: there are too many.
    pub(super) fn of(
        &mut self,
        client: Client,
        at: WallTime,
        header_bytes: usize,
        context: &mut Context<'_>,
    ) -> Option<LaneNumber> {
        let Some((told, _)) = client else {
            return Some(self.own(at, header_bytes, context));
        };
        if let Some(known) = self.known(Some(told)) {
            return Some(known);
        }
        let slot = if self.lanes.len() < MAX_LANES {
            self.lanes.len()
        } else {
            let lanes = self.lanes.iter().enumerate();
            let idle = lanes.filter(|(_, lane)| lane.unanswered == 0);
            idle.min_by_key(|(_, lane)| lane.flow.last())?.0
        };
        match context.endpoints.derive(self.session.info.tuple, told) {
            Some(tuple) => Some(self.begin(slot, (client, tuple), at, header_bytes, context)),
            // What can't be shown is the proxy's.
            None => Some(self.own(at, header_bytes, context)),
        }
    }

    /// The flow of the proxy's own address, for what nobody is known to have said. There is room for it, besides all
    /// clients'.
    pub(super) fn own(
        &mut self,
        at: WallTime,
        header_bytes: usize,
        context: &mut Context<'_>,
    ) -> LaneNumber {
        self.known(None).unwrap_or_else(|| {
            let tuple = self.session.info.tuple;
            context.endpoints.take(tuple);
            let slot = self.lanes.len();
            self.begin(slot, (None, tuple), at, header_bytes, context)
        })
    }

    fn known(&self, client: Option<ToldAddress>) -> Option<LaneNumber> {
        let mut lanes = self.lanes.iter();
        let known = lanes.position(|lane| lane.client.map(|(told, _)| told) == client);
        known.map(LaneNumber)
    }

    /// Begins a flow, whose addresses are taken, in place of another one or behind the last.
    fn begin(
        &mut self,
        slot: usize,
        (client, tuple): (Client, Tuple),
        at: WallTime,
        header_bytes: usize,
        context: &mut Context<'_>,
    ) -> LaneNumber {
        let finished = self.session.finished;
        if let Some(old) = self.lanes.get_mut(slot) {
            // All that it was asked it has answered.
            let sides = [Side::Client, Side::Server].into_iter();
            sides
                .filter(|side| !finished[*side as usize])
                .for_each(|from| old.flow.emit(at, FlowChange::Finish { from }, context.sink));
            context.endpoints.give_back(old.tuple);
        }
        let mut info = (*self.session.info).clone();
        info.tuple = tuple;
        info.real_client = Some(RealClient {
            proxy: self.session.info.tuple.client,
            told: client,
            header_bytes: u32::try_from(header_bytes).unwrap_or(u32::MAX),
        });
        let flow = match self.session.begun {
            0 => self.session.flow,
            number => {
                info.id = further_id("client", info.id, number);
                *context.next_flow += 1;
                *context.next_flow
            }
        };
        self.session.begun += 1;
        context.stats.begun(client.map(|(_, way)| way));
        let mut lane = Lane {
            client,
            flow: RetoldFlow::new(flow, at),
            tuple,
            unanswered: 0,
        };
        lane.flow.emit(at, FlowChange::Begin(&info), context.sink);
        if finished[Side::Server as usize] {
            let from = Side::Server;
            lane.flow
                .emit(at, FlowChange::Finish { from }, context.sink);
        }
        match self.lanes.get_mut(slot) {
            Some(old) => *old = lane,
            None => self.lanes.push(lane),
        }
        LaneNumber(slot)
    }

    /// One of the flows.
    pub(super) fn flow(&mut self, lane: LaneNumber) -> Option<&mut RetoldFlow> {
        self.lanes.get_mut(lane.0).map(|lane| &mut lane.flow)
    }

    /// A request of a flow has come.
    pub(super) fn asked(&mut self, lane: LaneNumber) {
        if let Some(lane) = self.lanes.get_mut(lane.0) {
            lane.unanswered += 1;
        }
    }

    /// One has its answer.
    pub(super) fn answered(&mut self, lane: LaneNumber) {
        if let Some(lane) = self.lanes.get_mut(lane.0) {
            lane.unanswered = lane.unanswered.saturating_sub(1);
        }
    }

    /// Of no request an answer is waited for any more.
    pub(super) fn await_nothing(&mut self) {
        self.lanes.iter_mut().for_each(|lane| lane.unanswered = 0);
    }

    /// A side of the session says no more: no flow of it does.
    pub(super) fn finish(&mut self, at: WallTime, from: Side, sink: &mut dyn FlowSink) {
        self.session.finished[from as usize] = true;
        let lanes = self.lanes.iter_mut();
        lanes.for_each(|lane| lane.flow.emit(at, FlowChange::Finish { from }, sink));
    }

    /// The session ends abruptly.
    pub(super) fn reset(
        &mut self,
        at: WallTime,
        by: Side,
        cause: ResetCause,
        sink: &mut dyn FlowSink,
    ) {
        self.session.finished = [true; 2];
        let lanes = self.lanes.iter_mut();
        lanes.for_each(|lane| lane.flow.emit(at, FlowChange::Reset { by, cause }, sink));
    }

    /// Neither side says more.
    pub(super) fn are_over(&self) -> bool {
        self.session.is_finished()
    }

    /// All are over.
    pub(super) fn give_back(&mut self, endpoints: &Endpoints) {
        let lanes = self.lanes.drain(..);
        lanes.for_each(|lane| endpoints.give_back(lane.tuple));
    }
}
