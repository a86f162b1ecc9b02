//! A connection that is mirrored at both ends, on two hosts, is told once.
//!
//! ```text
//! copy of the client's host ──┐
//!                             ├──> Told: what either says first, at its place ──> FlowSink
//! copy of the server's host ──┘    (the other's bytes are compared, and dropped)
//! ```
//!
//! Copies have the same flow id and opposite roles. What is told is their union: whichever says the next byte
//! first is heard. What one lacks, the other fills: a copy that comes to a hole waits, within bounds of time and
//! bytes, for the other to have passed it. So requests stay in front of their answers: each copy has them in this
//! order, and none is ever ahead of what is told.
//!
//! The end of what a side says is believed to the copy of that side, or to the other once nobody would know
//! better. A copy whose agent goes away leaves the rest to the other. A connection that has ended is remembered for
//! a while: a copy that comes later is compared and not told, as far as it says nothing new.
//!
//! Pure: events and time come as arguments.

mod compare;
mod told;

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};

use self::told::{Context, Copy, Ended, Told};
use crate::event::{FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, WallTime};
use crate::flow::bounded::BoundedMap;

/// Bounds of what is kept.
#[derive(Clone, Copy, Debug)]
pub struct MergeConfig {
    /// How long a copy waits at a hole for the other one, in nanoseconds.
    pub hold_ns: u64,
    /// Bytes of one copy that wait meanwhile.
    pub copy_bytes: usize,
    /// And of all copies.
    pub all_bytes: usize,
    /// How long a connection that has ended is remembered, in nanoseconds.
    pub remember_ns: u64,
    /// How many are.
    pub remembered: usize,
}

impl Default for MergeConfig {
    fn default() -> Self {
        Self {
            hold_ns: 1_000_000_000,
            copy_bytes: 256 << 10,
            all_bytes: 32 << 20,
            remember_ns: 60_000_000_000,
            remembered: 1 << 16,
        }
    }
}

/// Counts of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeStats {
    /// Connections told.
    pub flows: u64,
    /// Of which a second copy came.
    pub twins: u64,
    /// Second copies that said the same to the last byte.
    pub equal: u64,
    /// Connections whose copies differ. The first that said something was told.
    pub different: u64,
    /// Bytes of second copies, which aren't told.
    pub suppressed_bytes: u64,
    /// Holes at which a copy waited for another.
    pub waited: u64,
    /// Holes that the other copy has filled.
    pub filled: u64,
    /// Bytes told while another copy waited at a hole.
    pub filled_bytes: u64,
    /// Holes told.
    pub holes: u64,
    /// Bytes in them.
    pub hole_bytes: u64,
    /// Copies that came when the connection had been told and had ended.
    pub late_copies: u64,
    /// Bytes that only they had, or that came behind an end.
    pub late_bytes: u64,
    /// Copies in whose place a newer one of the same agent came.
    pub replaced: u64,
    /// Copies of an end that another agent tells of, too; told as connections of their own.
    pub clashes: u64,
}

/// When something came: our clock, and the batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment {
    at: WallTimeNs,
    batch: u64,
}

type WallTimeNs = u64;

/// Brings copies together. Belongs to one worker.
#[derive(Debug)]
pub struct Merge {
    config: MergeConfig,
    flows: HashMap<u64, Told>,
    /// Which flow a copy belongs to, where that hasn't its number.
    copies: HashMap<u64, u64>,
    by_id: HashMap<FlowId, u64>,
    ended: BoundedMap<FlowId, Ended>,
    /// Copies that wait at a hole: since when, the flow, the copy.
    stalled: BTreeSet<(Moment, u64, u64)>,
    held_bytes: usize,
    now: Moment,
    expecting: bool,
    stats: MergeStats,
}

impl Merge {
    /// Without flows. Copies are waited for: see [`Merge::expect_twins`].
    pub fn new(config: MergeConfig) -> Self {
        Self {
            config,
            flows: HashMap::new(),
            copies: HashMap::new(),
            by_id: HashMap::new(),
            ended: BoundedMap::new(config.remembered),
            stalled: BTreeSet::new(),
            held_bytes: 0,
            now: Moment::default(),
            expecting: true,
            stats: MergeStats::default(),
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> MergeStats {
        self.stats
    }

    /// Whether a hole of a connection with one copy waits for another one to come.
    pub fn expect_twins(&mut self, expect: bool) {
        self.expecting = expect;
    }

    /// Events from here on are of this batch. `now`: our clock.
    pub fn batch(&mut self, batch: u64, now: WallTime) {
        self.now = Moment { at: now.0, batch };
    }

    /// Whether any copy waits.
    pub fn holds(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// The first batch of which events wait.
    pub fn oldest_held_batch(&self) -> Option<u64> {
        self.stalled.first().map(|(since, ..)| since.batch)
    }

    /// Takes an event of a copy; `agent`: whose it is.
    pub fn copy_event(&mut self, agent: u64, event: FlowEvent<'_>, sink: &mut dyn FlowSink) {
        if let FlowChange::Begin(info) = event.change {
            return self.begin(agent, event.flow, event.at, info, sink);
        }
        let flow = self.copies.get(&event.flow).copied().unwrap_or(event.flow);
        let Some(told) = self.flows.get_mut(&flow) else {
            return;
        };
        let Some(which) = told.which(event.flow) else {
            return;
        };
        let mut context = Context {
            stats: &mut self.stats,
            sink,
            expecting: self.expecting,
        };
        let was = told.copies[which].stalled.is_some();
        let held = told.event(which, event.at, self.now, event.change, &mut context);
        self.held_bytes += held;
        let is = &told.copies[which].stalled;
        let surplus = is.as_ref().is_some_and(|stalled| {
            stalled.bytes > self.config.copy_bytes
                || held > 0 && self.held_bytes > self.config.all_bytes
        });
        // Most have one copy, which goes on.
        let lone_goes_on = told.copies.len() == 1 && !was && is.is_none();
        if lone_goes_on && !told.copies[0].is_over() || was && is.is_some() && !surplus {
            return;
        }
        self.settle(flow, surplus.then_some(event.flow), sink);
    }

    /// Copies that have waited long enough wait no more.
    pub fn expire(&mut self, now: WallTime, sink: &mut dyn FlowSink) {
        let (hold, remember) = (self.config.hold_ns, self.config.remember_ns);
        while let Some((since, ..)) = self.stalled.first()
            && since.at.saturating_add(hold) <= now.0
        {
            self.give_up(sink);
        }
        self.ended
            .drop_while(|ended| ended.at.0.saturating_add(remember) <= now.0);
    }

    /// Nobody waits any more.
    pub fn finish(&mut self, sink: &mut dyn FlowSink) {
        self.expecting = false;
        while self.holds() {
            self.give_up(sink);
        }
    }

    /// Whoever has waited longest waits no more.
    fn give_up(&mut self, sink: &mut dyn FlowSink) {
        if let Some((_, flow, copy)) = self.stalled.pop_first() {
            self.settle(flow, Some(copy), sink);
        }
    }

    fn begin(
        &mut self,
        agent: u64,
        number: u64,
        at: WallTime,
        info: &FlowInfo,
        sink: &mut dyn FlowSink,
    ) {
        let copy = Copy::new(number, agent, info);
        let mut context = Context {
            stats: &mut self.stats,
            sink,
            expecting: self.expecting,
        };
        let known = self.by_id.get(&info.id).copied();
        if let Some(flow) = known
            && let Some(told) = self.flows.get_mut(&flow)
        {
            let same_end = told
                .of_role(info.role)
                .map(|old| (old.number, old.agent, old.is_aligned()));
            match same_end {
                None => {
                    context.stats.twins += 1;
                    self.held_bytes += told.join(copy, at, self.now, &mut context);
                    self.copies.insert(number, flow);
                    return self.settle(flow, None, sink);
                }
                Some((old, owner, aligned)) if owner == agent => {
                    context.stats.replaced += 1;
                    if let Some(stalled) = told.drop_copy(old) {
                        self.held_bytes -= stalled.bytes;
                        self.stalled.remove(&(stalled.since, flow, old));
                    }
                    self.copies.remove(&old);
                    if aligned && copy.is_aligned() {
                        self.held_bytes += told.join(copy, at, self.now, &mut context);
                        self.copies.insert(number, flow);
                        return self.settle(flow, None, sink);
                    }
                    told.cut(at, &mut context);
                    self.settle(flow, None, sink);
                    self.by_id.remove(&info.id);
                }
                Some(_) => {
                    // Whoever it is: it is told by its own name, beside the other.
                    context.stats.clashes += 1;
                    context.stats.flows += 1;
                    let told = Told::begin(copy, at, info, &mut context);
                    self.flows.insert(number, told);
                    return;
                }
            }
        }
        let mut context = Context {
            stats: &mut self.stats,
            sink,
            expecting: self.expecting,
        };
        let remembered = self
            .ended
            .get(&info.id)
            .filter(|ended| !ended.had(info.role));
        let told = match remembered {
            Some(ended) => Told::revive(copy, at, info, ended.clone(), context.stats),
            None => {
                context.stats.flows += 1;
                Told::begin(copy, at, info, &mut context)
            }
        };
        self.flows.insert(number, told);
        self.by_id.insert(info.id, number);
    }

    /// Lets copies go on that can, and forgets what is over.
    fn settle(&mut self, flow: u64, force: Option<u64>, sink: &mut dyn FlowSink) {
        let Some(told) = self.flows.get_mut(&flow) else {
            return;
        };
        // Two at most.
        let since = |copy: &Copy| copy.stalled.as_ref().map(|stalled| stalled.since);
        let before: Vec<_> = told
            .copies
            .iter()
            .map(|copy| (copy.number, since(copy)))
            .collect();
        let mut context = Context {
            stats: &mut self.stats,
            sink,
            expecting: self.expecting,
        };
        self.held_bytes -= told.settle(force, &mut context);
        for (number, since) in &before {
            if let Some(since) = since {
                self.stalled.remove(&(*since, flow, *number));
            }
        }
        for copy in &told.copies {
            if let Some(stalled) = &copy.stalled {
                self.stalled.insert((stalled.since, flow, copy.number));
            }
        }
        for (number, _) in before {
            if told.which(number).is_none() {
                self.copies.remove(&number);
            }
        }
        if told.copies.is_empty()
            && let Some(told) = self.flows.remove(&flow)
        {
            let id = told.id;
            if self.by_id.get(&id) == Some(&flow) {
                self.by_id.remove(&id);
                let at = WallTime(self.now.at);
                self.ended.insert(id, told.ended(at));
            }
        }
    }
}
