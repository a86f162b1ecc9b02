//! Whose addresses are a live flow's already: what an application tells takes nobody's.
//!
//! Sockets and the wire may show one pair of addresses twice, and both be right: in two network namespaces, or for a child
//! that couldn't be seen to hold its parent's connection. What an application tells can't be asked about, so it comes
//! last: told addresses that a live flow has are another's; and a flow of told ones makes way for one that has them by
//! the kernel's word, or on the wire.

use std::collections::HashMap;

use super::live::{LiveFlow, Told};
use super::mapper::Mapper;
use super::proof::Verdict;
use super::session::{Session, State, Waiting};
use crate::event::{Binding, FlowInfo, FlowSink, MonotonicTime, Proof, Settled, Tuple, WallTime};

/// The addresses of the live flows. Any number of sessions may name the same socket: none of them is looked at for
/// another one's sake.
#[derive(Debug, Default)]
pub(super) struct Taken(HashMap<Tuple, Takers>);

#[derive(Debug, Default)]
struct Takers {
    flows: usize,
    /// Those of them of which they were told: one, or some that another agent has begun.
    told: Vec<u64>,
}

impl Taken {
    pub(super) fn take(&mut self, number: u64, flow: &LiveFlow) {
        let takers = self.0.entry(flow.tuple).or_default();
        takers.flows += 1;
        if flow.told().is_some() {
            takers.told.push(number);
        }
    }

    pub(super) fn give_back(&mut self, tuple: Tuple, number: u64) {
        if let Some(takers) = self.0.get_mut(&tuple) {
            takers.flows -= 1;
            takers.told.retain(|one| *one != number);
            if takers.flows == 0 {
                self.0.remove(&tuple);
            }
        }
    }

    fn are_taken(&self, tuple: &Tuple) -> bool {
        self.0.contains_key(tuple)
    }

    /// The flows of which they were told.
    fn told(&self, tuple: &Tuple) -> Vec<u64> {
        let takers = self.0.get(tuple);
        takers.map_or_else(Vec::new, |takers| takers.told.clone())
    }
}

impl Mapper {
    /// Doubts addresses that an application tells of a session that begins, if a live flow has them.
    pub(super) fn doubt_told(&self, session: &mut Session) {
        let is_told = session.known.addresses_told && session.found().is_none();
        let told = session.known.tuple().filter(|_| is_told);
        if told.is_some_and(|tuple| self.taken.are_taken(&tuple)) {
            session.known.set_verdict(Verdict::Doubtful);
        }
    }

    /// A flow with these addresses is about to begin: flows of which they were only told go on without them.
    pub(super) fn make_way(
        &mut self,
        info: &FlowInfo,
        at: WallTime,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let is_known = info.proof == Some(Proof::Proven) || info.binding == Binding::Wire;
        if !is_known {
            return;
        }
        for number in self.taken.told(&info.tuple) {
            let told = self.flows.get(&number).and_then(LiveFlow::told);
            if let Some(told) = told.cloned() {
                self.move_away(number, told, at, now, sink);
            }
        }
    }

    /// The flow ends here, and its sessions go on as another one, whose addresses nobody knows.
    fn move_away(
        &mut self,
        number: u64,
        told: Told,
        at: WallTime,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let next = self.next_flow;
        let mut holders = Vec::new();
        for key in told.sessions {
            let session = self.sessions.get_mut(&key);
            let flow = match session.map(|session| &mut session.state) {
                Some(
                    State::Flowing(flow)
                    | State::Waiting(Waiting {
                        joined: Some(flow), ..
                    }),
                ) => flow,
                _ => continue,
            };
            if *flow == number {
                *flow = next;
                holders.push(key);
            }
        }
        let (Some(eldest), tuple) = (holders.iter().min(), self.placeholder()) else {
            return;
        };
        let told = told.info;
        let id = self.own_id(*eldest, Some(&told.id));
        let Some(flow) = self.flows.get_mut(&number) else {
            return;
        };
        self.next_flow += 1;
        let info = FlowInfo {
            id,
            tuple,
            binding: Binding::Placeholder,
            proof: Some(Proof::Contradicted),
            continued: Some(flow.reached()),
            ..told
        };
        let moved = flow.move_to(next, at, &info, &mut self.stats, sink);
        self.stats.begun(info.binding);
        self.stats.judged(Verdict::Doubtful);
        self.forget_if_ended(number, now);
        self.taken.take(next, &moved);
        self.flows.insert(next, moved);
        self.live_ids.insert(id, next);
        if self.config.reports_settled {
            let settled = || Settled {
                flow: Some(next),
                found: None,
            };
            let settled = holders.into_iter().map(|key| (key, settled()));
            self.settled.extend(settled);
        }
    }
}
