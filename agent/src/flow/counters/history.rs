//! What a session without a socket has told of itself, and what that says of sockets. Pure.

use std::collections::{HashSet, VecDeque};

use super::{Counts, Look, Sample};
use crate::event::MonotonicTime;
use crate::flow::proof::Ends;

/// Words of one session that are remembered, of those that matter to no look that is.
pub(super) const MOST_TOLD: usize = 256;

/// Counts that a session has told, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) at: MonotonicTime,
    pub(super) counts: Counts,
}

/// What is known of a session without a socket.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) told: Vec<Told>,
    /// What it tells isn't the history of one connection: it fits nothing, and may be anything.
    pub(super) odd: bool,
    /// Sockets that have contradicted it once.
    pub(super) contradicted: HashSet<u64>,
    /// Of these, those into which less had come than it had read, which no clear text can cause.
    pub(super) behind: HashSet<u64>,
    /// Looks before this one can't contradict it any more.
    pub(super) settled_looks: u64,
    pub(super) place: Place,
    pub(super) ended: bool,
}

/// Where a session belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It may be found yet.
    Sought,
    /// It has this socket.
    Found(u64, Ends),
    /// Nobody asks any more.
    GivenUp,
}

impl Session {
    /// The last word at this time, by its number.
    pub(super) fn last(&self, at: MonotonicTime) -> Option<usize> {
        self.told
            .partition_point(|told| told.at <= at)
            .checked_sub(1)
    }

    /// No less had passed by then.
    pub(super) fn least(&self, at: MonotonicTime) -> Counts {
        self.last(at)
            .and_then(|number| self.told.get(number))
            .map_or(Counts::default(), |told| told.counts)
    }

    /// No more had passed by then, by its own word; `None`: it has said nothing since.
    pub(super) fn most(&self, at: MonotonicTime) -> Option<Counts> {
        let next = self.told.partition_point(|told| told.at < at);
        self.told.get(next).map(|told| told.counts)
    }

    /// Where the session stood at this look, by the number of its word: one that holds for the whole of it.
    pub(super) fn stood(&self, look: &Look, sample: &Sample) -> Option<usize> {
        let number = self.last(look.began)?;
        let stood = look.complete && self.last(look.ended) == Some(number);
        let counts = self.told.get(number)?.counts;
        (stood && sample.counts == counts).then_some(number)
    }

    /// Keeps the words around these looks, and the last one.
    pub(super) fn forget_words(&mut self, looks: &VecDeque<Look>) {
        let mut kept: Vec<Told> = Vec::new();
        for (number, told) in self.told.iter().enumerate() {
            let after = number
                .checked_sub(1)
                .and_then(|before| self.told.get(before));
            let matters = |look: &Look| {
                let before = self
                    .told
                    .get(number + 1)
                    .is_none_or(|next| next.at > look.began);
                let behind = after.is_none_or(|before| before.at < look.ended);
                before && behind
            };
            if number + 1 == self.told.len() || looks.iter().any(matters) {
                kept.push(*told);
            }
        }
        self.odd |= kept.len() >= MOST_TOLD;
        self.told = kept;
    }

    /// Keeps in mind whether this contradicts it.
    pub(super) fn compare(&mut self, sample: &Sample) {
        if sample.counts.received < self.least(sample.from).received {
            self.behind.insert(sample.socket);
            self.contradicted.insert(sample.socket);
        }
        let most = self.most(sample.to);
        if most.is_some_and(|most| sample.counts.sent > most.sent) {
            self.contradicted.insert(sample.socket);
        }
    }
}
