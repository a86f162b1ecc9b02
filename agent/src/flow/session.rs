//! A session as the table keeps it.

use std::sync::Arc;

use mirror_hook::event::Role;

use super::held::Held;
use super::known::Known;
use super::proof::{Ends, Sockets, Unproven, Verdict, is_anothers};
use super::twin::Fingerprint;
use crate::event::{Binding, Continued, FlowId, MonotonicTime, ProcessInfo, Tuple, WallTime};
use crate::filter::Policy;

/// A session of which the end hasn't come.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) process: Arc<ProcessInfo>,
    pub(super) known: Known,
    /// The filters, as far as they concern its process.
    pub(super) policy: Option<Arc<Policy>>,
    /// Stream offsets sent and received at which the session begins.
    pub(super) base: (u64, u64),
    /// Addresses that were found by what it has carried.
    pub(super) counted: Option<Tuple>,
    /// What the kernel said of these, where they are its process's word.
    pub(super) counted_verdict: Option<Verdict>,
    /// Its flow was begun by another agent.
    pub(super) continued: Option<Continued>,
    /// The addresses that the wire shows, once more of it will change nothing.
    pub(super) shown: Option<(Tuple, Binding)>,
    /// Of which of those that it has shown the kernel was asked last, and whether that is another's connection.
    pub(super) looked_at: Option<(Tuple, bool)>,
    pub(super) state: State,
}

impl Session {
    /// What the kernel said of the addresses that its process has told.
    pub(super) fn verdict(&self) -> Option<Verdict> {
        self.known.verdict().or(self.counted_verdict)
    }

    /// It had ended when the kernel was asked.
    pub(super) fn clear_doubt(&mut self) {
        let gone = Verdict::Unproven(Unproven::Gone);
        if self.known.verdict() == Some(Verdict::Doubtful) {
            self.known.set_verdict(gone);
        }
        if self.counted_verdict == Some(Verdict::Doubtful) {
            self.counted_verdict = Some(gone);
        }
    }

    /// Its addresses, where they were found by what it has carried and aren't contradicted.
    pub(super) fn counted(&self) -> Option<Tuple> {
        let contradicted = self.counted_verdict == Some(Verdict::Doubtful);
        self.counted.filter(|_| !contradicted)
    }

    /// The addresses that another agent has found.
    pub(super) fn found(&self) -> Option<(Tuple, Binding)> {
        self.continued.and_then(|continued| continued.found)
    }

    /// What the process or the wire tells of its connection is another's, unless the session turns out to be over.
    pub(super) fn is_doubted(&self) -> bool {
        self.verdict() == Some(Verdict::Doubtful) || self.is_shown_anothers()
    }

    /// Whether the connection that the wire shows is another's. Randoms are public: whoever has seen them may name them.
    pub(super) fn shows_anothers(&mut self, tuple: Tuple, sockets: &mut dyn Sockets) -> bool {
        if let Some((looked_at, is_anothers)) = self.looked_at
            && looked_at == tuple
        {
            return is_anothers;
        }
        let ends = Ends::of(tuple, self.known.role);
        let is_anothers = is_anothers(&ends, &self.process, sockets);
        self.looked_at = Some((tuple, is_anothers));
        is_anothers
    }

    /// The wire has shown nothing but another's connection.
    pub(super) fn is_shown_anothers(&self) -> bool {
        matches!(self.looked_at, Some((_, true)))
    }
}

#[derive(Debug)]
pub(super) enum State {
    Waiting(Waiting),
    /// Its flow; it may have ended.
    Flowing(u64),
    /// The other end of this flow is put out.
    Twin(FlowId, Fingerprint),
    /// The filters exclude it.
    Excluded,
    NotForged,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) held: Held,
    pub(super) opened: WallTime,
    pub(super) deadline: Option<MonotonicTime>,
    /// The deadline is the one for addresses, no longer the one for the handshake.
    pub(super) for_addresses: bool,
    /// It stands in the table of those that do.
    pub(super) awaits_wire: bool,
    /// Ends of a single direction that are held: sent, received.
    pub(super) half_closed: (bool, bool),
    /// The session has closed or died in the meantime.
    pub(super) over: bool,
    /// The flow of the process that forked this one, which has been told of it.
    pub(super) joined: Option<u64>,
}

/// A flow that has ended.
#[derive(Debug)]
pub(super) struct Recent {
    pub(super) role: Role,
    pub(super) ended: MonotonicTime,
    pub(super) fingerprint: Fingerprint,
}
