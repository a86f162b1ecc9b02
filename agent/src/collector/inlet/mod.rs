//! Turns what agents say into flow events that can be relied on.
//!
//! ```text
//! batch ──BatchReader──> TunnelEvent ──Inlet──> FlowEvent, as a FlowSink expects it
//! (hostile)              (well formed)          (checked)
//! ```
//!
//! Whatever comes in: a flow begins once, its offsets count from 0 without gap or overlap but for holes, its time
//! never goes back, and nothing comes behind its end. A gap becomes a hole, what is told again is dropped, a flow
//! that an agent may not tell of is refused, and each of these is counted.
//!
//! One inlet belongs to one worker, and knows of each source the flows in that worker's partitions. It is pure:
//! bytes and time come as arguments.

mod live;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub(super) use self::live::index;
use self::live::{Live, Pass, tidy};
use super::agent::AgentCounts;
use super::source::{SourceId, SourceInfo};
use crate::event::{FlowChange, FlowEvent, Side, WallTime};
use crate::tunnel::batch::{BatchError, BatchReader, Begin, TunnelChange, TunnelEvent};

/// An event may be so far ahead of our clock, and gets this time if it is farther: one agent's wrong clock must
/// not spoil the order of all packets.
const MAX_AHEAD_NS: u64 = 250_000_000;
/// Complaints that wait to be said.
const MAX_COMPLAINTS: usize = 8;

/// Takes checked events. Each flow of each source is a copy with a number of its own: a connection that is
/// mirrored at both ends has two.
pub trait CopySink {
    /// Takes one event; `event.flow` is the copy's number, and `agent` the number of whose it is.
    fn copy_event(&mut self, agent: u64, event: FlowEvent<'_>);
}

/// Counts of an inlet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InletStats {
    /// Events that were read.
    pub events: u64,
    /// Clear text bytes passed on.
    pub bytes: u64,
    /// Flows that have begun.
    pub flows: u64,
    /// Flows told of again, which go on.
    pub told_again: u64,
    /// Flows refused since their mirrored end isn't the agent's.
    pub foreign_flows: u64,
    /// Flows refused since the agent has too many.
    pub surplus_flows: u64,
    /// Clear text bytes of refused flows.
    pub refused_bytes: u64,
    /// Events of flows that never began, or have ended.
    pub unknown_events: u64,
    /// Clear text bytes in them.
    pub unknown_bytes: u64,
    /// Clear text bytes told a second time.
    pub repeated_bytes: u64,
    /// Holes, told or found.
    pub holes: u64,
    /// Bytes in them.
    pub hole_bytes: u64,
    /// Flows reset since their agent has gone, or knows nothing of them any more.
    pub abandoned: u64,
    /// Events whose time was ahead of ours.
    pub ahead: u64,
}

/// How much one source may have.
#[derive(Clone, Copy, Debug)]
pub struct InletLimits {
    /// Live flows of one source in one inlet.
    pub flows: usize,
}

impl Default for InletLimits {
    fn default() -> Self {
        Self { flows: 1 << 18 }
    }
}

/// Checks the events of all sources of a worker.
#[derive(Debug, Default)]
pub struct Inlet {
    limits: InletLimits,
    sources: HashMap<SourceId, Source>,
    copies: u64,
    stats: InletStats,
    complaints: Vec<String>,
}

#[derive(Debug)]
struct Source {
    info: Arc<SourceInfo>,
    flows: HashMap<u64, Live>,
    /// How many preambles have begun.
    preambles: u32,
}

impl Inlet {
    /// An inlet without sources.
    pub fn new(limits: InletLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> InletStats {
        self.stats
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Live flows of all sources.
    pub fn live_flows(&self) -> usize {
        self.sources.values().map(|source| source.flows.len()).sum()
    }

    /// Reads a batch of a source's events. `now`: our clock.
    ///
    /// # Errors
    /// It can't be read to its end; what came before the fault is passed on. The source isn't to be trusted
    /// with more.
    pub fn batch(
        &mut self,
        info: &Arc<SourceInfo>,
        events: &[u8],
        now: WallTime,
        sink: &mut dyn CopySink,
    ) -> Result<(), BatchError> {
        let source = self.sources.entry(info.id).or_insert_with(|| Source {
            info: Arc::clone(info),
            flows: HashMap::new(),
            preambles: 0,
        });
        let shift = info.shift_ns.load(Ordering::Relaxed);
        let latest = WallTime(now.0.saturating_add(MAX_AHEAD_NS));
        AgentCounts::add(&info.agent.counts.event_bytes, events.len() as u64);
        let mut pass = Pass {
            agent: &info.agent,
            stats: &mut self.stats,
            sink,
        };
        for event in BatchReader::new(events) {
            let mut event = event?;
            pass.stats.events += 1;
            event.at = WallTime(event.at.0.saturating_add_signed(shift));
            if event.at > latest {
                pass.stats.ahead += 1;
                event.at = latest;
            }
            match event.change {
                TunnelChange::Begin(begin) => {
                    let room = source.flows.len() < self.limits.flows;
                    let refused = source.begin(
                        event.flow,
                        event.at,
                        *begin,
                        room,
                        &mut self.copies,
                        &mut pass,
                    );
                    if let Some(why) = refused
                        && self.complaints.len() < MAX_COMPLAINTS
                    {
                        self.complaints.push(why);
                    }
                }
                _ => source.change(&event, &mut pass),
            }
        }
        Ok(())
    }

    /// From here on the source tells again of all its live flows.
    pub fn preamble_begins(&mut self, source: SourceId) {
        if let Some(source) = self.sources.get_mut(&source) {
            source.preambles += 1;
        }
    }

    /// It has told of all: others are gone.
    pub fn preamble_ends(&mut self, source: SourceId, now: WallTime, sink: &mut dyn CopySink) {
        if let Some(source) = self.sources.get_mut(&source) {
            let current = source.preambles;
            let mut pass = Pass {
                agent: &source.info.agent,
                stats: &mut self.stats,
                sink,
            };
            source.flows.retain(|_, live| {
                let told = live.preamble == current;
                if !told {
                    live.abandon(now, &mut pass);
                }
                told
            });
        }
    }

    /// The source is gone: its live flows are reset.
    pub fn end(&mut self, source: SourceId, now: WallTime, sink: &mut dyn CopySink) {
        if let Some(mut source) = self.sources.remove(&source) {
            let mut pass = Pass {
                agent: &source.info.agent,
                stats: &mut self.stats,
                sink,
            };
            let mut live: Vec<_> = source.flows.drain().map(|(_, live)| live).collect();
            live.sort_unstable_by_key(|live| live.copy);
            live.iter_mut()
                .for_each(|live| live.abandon(now, &mut pass));
        }
    }
}

impl Source {
    /// Returns a complaint if the flow is refused.
    fn begin(
        &mut self,
        flow: u64,
        at: WallTime,
        begin: Begin,
        room: bool,
        copies: &mut u64,
        pass: &mut Pass<'_>,
    ) -> Option<String> {
        let Begin {
            mut info,
            base,
            finished,
        } = begin;
        let (base, finished) = ([base.0, base.1], [finished.0, finished.1]);
        let over = finished == [true, true];
        let known = self.flows.contains_key(&flow);
        if !known {
            if over {
                return None;
            }
            if !room {
                pass.stats.surplus_flows += 1;
                AgentCounts::add(&pass.agent.counts.refused_flows, 1);
                return None;
            }
        }
        let live = self.flows.entry(flow).or_insert_with(|| Live {
            copy: None,
            base,
            next: base,
            finished: [false; 2],
            preamble: 0,
            last: at,
        });
        live.preamble = self.preambles;
        let mut complaint = None;
        if known {
            pass.stats.told_again += 1;
        } else if pass.agent.may_tell(&info) {
            *copies += 1;
            live.copy = Some(*copies);
            tidy(&mut info, base);
            info.agent = Some(pass.agent.shared_name());
            pass.stats.flows += 1;
            AgentCounts::add(&pass.agent.counts.flows, 1);
            pass.agent.counts.live_flows.fetch_add(1, Ordering::Relaxed);
            live.emit(at, FlowChange::Begin(&info), pass);
        } else {
            pass.stats.foreign_flows += 1;
            AgentCounts::add(&pass.agent.counts.refused_flows, 1);
            complaint = Some(format!(
                "{} claims foreign addresses: a flow from {} to {} of which it mirrors the {:?}; refused \
                 (`sslcollector agents allow` lets it)",
                pass.agent.name(),
                info.tuple.client,
                info.tuple.server,
                info.role,
            ));
        }
        // Known or not, what is said of its sides holds from here on.
        for (side, finished) in [Side::Client, Side::Server].into_iter().zip(finished) {
            if finished {
                live.reach(at, side, base[index(side)], pass);
                live.finish(at, side, pass);
            }
        }
        if live.has_ended() {
            self.end(flow, pass);
        }
        complaint
    }

    fn change(&mut self, event: &TunnelEvent<'_>, pass: &mut Pass<'_>) {
        let bytes = match &event.change {
            TunnelChange::Data { bytes, .. } => bytes.len() as u64,
            _ => 0,
        };
        let Some(live) = self.flows.get_mut(&event.flow) else {
            pass.stats.unknown_events += 1;
            pass.stats.unknown_bytes += bytes;
            AgentCounts::add(&pass.agent.counts.dropped_bytes, bytes);
            return;
        };
        if live.copy.is_none() {
            pass.stats.refused_bytes += bytes;
            AgentCounts::add(&pass.agent.counts.dropped_bytes, bytes);
        }
        let at = event.at;
        match event.change {
            TunnelChange::Begin(_) => {}
            TunnelChange::Data {
                from,
                offset,
                bytes,
            } => live.data(at, from, offset, bytes, pass),
            TunnelChange::Hole {
                from,
                offset,
                bytes,
            } => live.reach(at, from, offset.saturating_add(bytes), pass),
            TunnelChange::Finish { from, offset } => {
                live.reach(at, from, offset, pass);
                live.finish(at, from, pass);
            }
            TunnelChange::Reset { by, cause, offsets } => {
                live.reach(at, Side::Client, offsets.0, pass);
                live.reach(at, Side::Server, offsets.1, pass);
                live.emit(at, FlowChange::Reset { by, cause }, pass);
                live.finished = [true; 2];
            }
        }
        if live.has_ended() {
            self.end(event.flow, pass);
        }
    }

    fn end(&mut self, flow: u64, pass: &mut Pass<'_>) {
        if let Some(Live { copy: Some(_), .. }) = self.flows.remove(&flow) {
            pass.agent.counts.live_flows.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
