//! All flows of a worker.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;

use mirror_hook::event::Transport;

use super::context::{Context, ForgeConfig};
use super::conversation::Sides;
use super::flow::{Flow, ResetReason};
use super::live::LiveFlow;
use super::path::{Pair, Path};
use super::recent::Recent;
use super::stats::ForgeStats;
use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, PacketSink, Side, WallTime};
use crate::wire::FramePlace;

/// Forges the packets of all flows that are given to it, and hands them to a sink.
///
/// [`FlowSink`] has no result: the first error of the sink is kept for
/// [`take_error`](Self::take_error), and nothing is forged any more after it.
#[derive(Debug)]
pub struct Forger<P> {
    flows: HashMap<u64, Slot>,
    /// Which flow holds a pair of endpoints.
    holders: HashMap<Pair, u64>,
    /// When the last flow of a pair ended. Another may have begun earlier by its own clock (a process
    /// and its child, each with a ring), but its packets come behind.
    ended: Recent<Pair, WallTime>,
    context: Context<P>,
}

#[derive(Debug)]
enum Slot {
    Forged(Box<Flow>),
    /// Isn't forged; kept so that what comes for it is known as such. Which sides have finished.
    Unforged(Why, Sides<bool>),
}

#[derive(Clone, Copy, Debug)]
enum Why {
    /// It can't be told as TCP.
    Refused,
    /// The view leaves it out.
    Hidden,
}

impl<P: PacketSink> Forger<P> {
    /// A forger without flows.
    pub fn new(config: ForgeConfig, sink: P) -> Self {
        Self {
            flows: HashMap::new(),
            holders: HashMap::new(),
            ended: Recent::default(),
            context: Context::new(config, sink),
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> ForgeStats {
        self.context.stats
    }

    /// Flows that have begun and not ended.
    pub fn live_flows(&self) -> usize {
        self.flows.len()
    }

    /// The first error of the sink, once.
    pub fn take_error(&mut self) -> Option<io::Error> {
        self.context.take_error()
    }

    /// The sink, to release or flush it.
    pub fn sink_mut(&mut self) -> &mut P {
        &mut self.context.sink
    }

    /// Gives the sink back.
    pub fn into_sink(self) -> P {
        self.context.sink
    }

    /// The agent ends: every live flow is reset, by the side that was mirrored, in the order in which
    /// they were numbered.
    pub fn finish(&mut self, at: WallTime) {
        let mut live: Vec<_> = self.flows.drain().collect();
        live.sort_unstable_by_key(|(number, _)| *number);
        self.holders.clear();
        for (_, slot) in live {
            if let Slot::Forged(mut flow) = slot {
                flow.abandon(ResetReason::AgentEnd, at, &mut self.context);
            }
        }
    }

    /// Packets were lost on their way out, and get through again. Every live flow is reset, and goes on with
    /// a new handshake: who has missed the first one would make nothing of what follows.
    ///
    /// `first_lost`: the first packet that was lost of those between a source and a destination.
    pub fn restart_all(
        &mut self,
        first_lost: impl Fn(SocketAddr, SocketAddr) -> Option<FramePlace>,
        at: WallTime,
    ) {
        self.each_live(|flow, context| flow.sever(&first_lost, at, context));
    }

    /// What comes from here on goes to another file, which has to stand alone: every live flow is reset, and
    /// goes on with a new handshake.
    pub fn turn_over(&mut self, at: WallTime) {
        self.each_live(|flow, context| flow.turn_over(at, context));
    }

    /// Events were missed, and these flows are live now. What was missed of a flow that was live before is a hole of
    /// its exact size; one that has ended unheard is reset; one that has begun unheard is told from here on, in a
    /// conversation whose first packet's comment has the offsets at which it begins.
    pub fn catch_up(&mut self, live: &HashMap<u64, LiveFlow>, at: WallTime) {
        let mut gone: Vec<_> = self.flows.keys().copied().collect();
        gone.retain(|number| !live.contains_key(number));
        gone.sort_unstable();
        for number in gone {
            if let Some(Slot::Forged(flow)) = self.flows.get_mut(&number) {
                // What it held is free once it is told as ended.
                let pair = flow.pair();
                flow.abandon(ResetReason::OutputLost, at, &mut self.context);
                let ended = flow.at();
                if let Some(pair) = pair {
                    self.holders.remove(&pair);
                    self.ended.insert(pair, ended);
                }
            }
            self.flows.remove(&number);
        }
        let mut numbers: Vec<_> = live.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            let now = &live[&number];
            match self.flows.get_mut(&number) {
                Some(Slot::Forged(flow)) => flow.catch_up(now, at, &mut self.context),
                Some(Slot::Unforged(_, finished)) => {
                    finished.client |= now.side(Side::Client).finished;
                    finished.server |= now.side(Side::Server).finished;
                }
                None => self.take_over(number, now, at),
            }
        }
    }

    /// A flow that has begun unheard. Nothing is shown of it before it says something.
    fn take_over(&mut self, number: u64, now: &LiveFlow, at: WallTime) {
        self.context.stats.flows += 1;
        let Some(path) = self.path_or_unforged(number, &now.info) else {
            return;
        };
        let at = self.supersede(path.pair(), at.max(now.at));
        self.holders.insert(path.pair(), number);
        let flow = Flow::take_over(now, path, at, &self.context);
        self.flows.insert(number, Slot::Forged(Box::new(flow)));
    }

    /// In the order in which they were numbered.
    fn each_live(&mut self, mut act: impl FnMut(&mut Flow, &mut Context<P>)) {
        let mut live: Vec<_> = self.flows.iter_mut().collect();
        live.sort_unstable_by_key(|(number, _)| **number);
        for (_, slot) in live {
            if let Slot::Forged(flow) = slot {
                act(flow, &mut self.context);
            }
        }
    }

    fn begin(&mut self, number: u64, at: WallTime, info: &FlowInfo) {
        if self.flows.contains_key(&number) {
            self.context.stats.violations += 1;
            return;
        }
        self.context.stats.flows += 1;
        let Some(path) = self.path_or_unforged(number, info) else {
            return;
        };
        let at = self.supersede(path.pair(), at);
        self.holders.insert(path.pair(), number);
        let flow = Flow::begin(info, path, at, &mut self.context);
        self.flows.insert(number, Slot::Forged(Box::new(flow)));
    }

    /// Nothing: the flow isn't forged, and is kept as such.
    fn path_or_unforged(&mut self, number: u64, info: &FlowInfo) -> Option<Path> {
        match self.path(info) {
            Ok(path) => Some(path),
            Err(why) => {
                let stats = &mut self.context.stats;
                match why {
                    Why::Refused => stats.flows_refused += 1,
                    Why::Hidden => stats.flows_hidden += 1,
                }
                let finished = Sides::default();
                self.flows.insert(number, Slot::Unforged(why, finished));
                None
            }
        }
    }

    fn path(&self, info: &FlowInfo) -> Result<Path, Why> {
        let view = &self.context.config.view;
        // Datagrams are never told as a stream.
        if info.transport != Transport::Tcp {
            return Err(Why::Refused);
        }
        let tuple = view.show(info.tuple).ok_or(Why::Hidden)?;
        Path::new(tuple, view).map_err(|_| Why::Refused)
    }

    /// Ends a live flow between the same endpoints. Returns the time at which another may begin.
    fn supersede(&mut self, pair: Pair, at: WallTime) -> WallTime {
        let holder = self
            .holders
            .remove(&pair)
            .and_then(|holder| self.flows.get_mut(&holder));
        let Some(Slot::Forged(flow)) = holder else {
            return self.ended.get(&pair).map_or(at, |ended| at.max(ended));
        };
        self.context.stats.flows_superseded += 1;
        flow.abandon(ResetReason::Superseded, at, &mut self.context);
        flow.at()
    }

    fn end(&mut self, number: u64) {
        if let Some(Slot::Forged(flow)) = self.flows.remove(&number)
            && let Some(pair) = flow.pair()
        {
            self.holders.remove(&pair);
            self.ended.insert(pair, flow.at());
        }
    }
}

impl<P: PacketSink> FlowSink for Forger<P> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if self.context.has_failed() {
            return;
        }
        if let FlowChange::Begin(info) = event.change {
            return self.begin(event.flow, event.at, info);
        }
        let over = match self.flows.get_mut(&event.flow) {
            Some(Slot::Forged(flow)) => flow.change(event.change, event.at, &mut self.context),
            Some(Slot::Unforged(why, finished)) => {
                let bytes = clear_text_bytes(&event.change);
                match why {
                    Why::Refused => self.context.stats.dropped_bytes += bytes,
                    Why::Hidden => self.context.stats.hidden_bytes += bytes,
                }
                unforged_ends(&event.change, finished)
            }
            None => {
                self.context.stats.violations += 1;
                self.context.stats.dropped_bytes += clear_text_bytes(&event.change);
                false
            }
        };
        if over {
            self.end(event.flow);
        }
    }
}

fn clear_text_bytes(change: &FlowChange<'_>) -> u64 {
    match change {
        FlowChange::Data { bytes, .. } => bytes.len() as u64,
        _ => 0,
    }
}

/// True if the change is the end of a flow of which these sides have finished.
fn unforged_ends(change: &FlowChange<'_>, finished: &mut Sides<bool>) -> bool {
    match change {
        FlowChange::Reset { .. } => true,
        FlowChange::Finish { from } => {
            finished[*from] = true;
            finished.client && finished.server
        }
        _ => false,
    }
}
