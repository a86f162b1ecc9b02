//! A live flow of a source: what of it was told, and what may still come.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{CopySink, InletStats};
use crate::collector::agent::{Agent, AgentCounts};
use crate::event::{
    FlowChange, FlowEvent, FlowInfo, MAX_PROCESS_NAME_BYTES, ResetCause, Side, WallTime,
};

/// Names in a flow's metadata are at most so long; no real ones are longer.
const MAX_NAME_BYTES: usize = 255;

#[derive(Debug)]
pub(super) struct Live {
    /// `None`: refused, and kept so that what comes for it is known as such.
    pub(super) copy: Option<u64>,
    /// Offsets at which it begins: client, server.
    pub(super) base: [u64; 2],
    /// Offsets that come next.
    pub(super) next: [u64; 2],
    pub(super) finished: [bool; 2],
    /// The preamble in which it was told of last.
    pub(super) preamble: u32,
    pub(super) last: WallTime,
}

/// Where the checks of one batch happen.
pub(super) struct Pass<'a> {
    pub(super) agent: &'a Agent,
    pub(super) stats: &'a mut InletStats,
    pub(super) sink: &'a mut dyn CopySink,
}

impl Live {
    pub(super) fn has_ended(&self) -> bool {
        self.finished == [true, true]
    }

    pub(super) fn data(
        &mut self,
        at: WallTime,
        from: Side,
        offset: u64,
        bytes: &[u8],
        pass: &mut Pass<'_>,
    ) {
        self.reach(at, from, offset, pass);
        let side = index(from);
        let next = self.next[side];
        let known = usize::try_from(next.saturating_sub(offset)).unwrap_or(usize::MAX);
        let fresh = match self.finished[side] {
            true => &[],
            false => bytes.get(known..).unwrap_or(&[]),
        };
        let repeated = (bytes.len() - fresh.len()) as u64;
        if repeated > 0 && self.copy.is_some() {
            pass.stats.repeated_bytes += repeated;
            AgentCounts::add(&pass.agent.counts.dropped_bytes, repeated);
        }
        if fresh.is_empty() {
            return;
        }
        self.next[side] = next + fresh.len() as u64;
        if self.copy.is_some() {
            pass.stats.bytes += fresh.len() as u64;
            AgentCounts::add(&pass.agent.counts.clear_bytes, fresh.len() as u64);
        }
        let change = FlowChange::Data {
            from,
            offset: next - self.base[side],
            bytes: fresh,
        };
        self.emit(at, change, pass);
    }

    /// Nothing is known of what `from` said up to `to`.
    pub(super) fn reach(&mut self, at: WallTime, from: Side, to: u64, pass: &mut Pass<'_>) {
        let side = index(from);
        let next = self.next[side];
        if to <= next || self.finished[side] {
            return;
        }
        self.next[side] = to;
        if self.copy.is_some() {
            pass.stats.holes += 1;
            pass.stats.hole_bytes = pass.stats.hole_bytes.saturating_add(to - next);
            AgentCounts::add(&pass.agent.counts.missing_bytes, to - next);
        }
        let change = FlowChange::Hole {
            from,
            offset: next - self.base[side],
            bytes: to - next,
        };
        self.emit(at, change, pass);
    }

    pub(super) fn finish(&mut self, at: WallTime, from: Side, pass: &mut Pass<'_>) {
        if !std::mem::replace(&mut self.finished[index(from)], true) {
            self.emit(at, FlowChange::Finish { from }, pass);
        }
    }

    /// Ends it in the name of an agent that doesn't.
    pub(super) fn abandon(&mut self, at: WallTime, pass: &mut Pass<'_>) {
        if self.copy.is_some() {
            pass.stats.abandoned += 1;
            pass.agent.counts.live_flows.fetch_sub(1, Ordering::Relaxed);
        }
        // Whichever side it mirrored: nobody knows who ended what.
        let (by, cause) = (Side::Client, ResetCause::Untold);
        self.emit(at, FlowChange::Reset { by, cause }, pass);
    }

    pub(super) fn emit(&mut self, at: WallTime, change: FlowChange<'_>, pass: &mut Pass<'_>) {
        self.last = self.last.max(at);
        if let Some(copy) = self.copy {
            let event = FlowEvent {
                flow: copy,
                at: self.last,
                change,
            };
            pass.sink.copy_event(pass.agent.number(), event);
        }
    }
}

/// What a flow's metadata may hold, and where the flow goes on.
pub(super) fn tidy(info: &mut FlowInfo, base: [u64; 2]) {
    let too_long = |name: &String| name.len() > MAX_NAME_BYTES;
    info.sni = info.sni.take().filter(|name| !too_long(name));
    info.alpn = info.alpn.take().filter(|name| !too_long(name));
    info.ja4 = info.ja4.take().filter(|name| !too_long(name));
    let process = Arc::make_mut(&mut info.process);
    if too_long(&process.name) {
        process.name.clear();
    }
    // No agent sends longer ones.
    let fits = |name: &String| name.len() <= MAX_PROCESS_NAME_BYTES;
    process.executable = process.executable.take().filter(fits);
    process.cgroup = process.cgroup.take().filter(fits);
    process.network_name = process.network_name.take().filter(fits);
    if base != [0, 0] {
        let (client, server) = info.continued.unwrap_or((0, 0));
        info.continued = Some((
            client.saturating_add(base[0]),
            server.saturating_add(base[1]),
        ));
    }
}

/// Where a side's part of a pair stands.
pub(in crate::collector) fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}
