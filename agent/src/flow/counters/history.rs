//! What a session without a socket has told of itself, and what that says of sockets. Pure.

use std::collections::{HashSet, VecDeque};

use super::told::Parts;
use super::{Counts, Found, Look, Sample};
use crate::event::MonotonicTime;

/// Words of one session that are remembered, of those that matter to no look that is.
pub(super) const MOST_TOLD: usize = 256;
/// Sockets with which it stood at looks that are remembered, for each of these.
pub(super) const MOST_STOOD: usize = 512;
/// Sockets that have contradicted one session, of those in looks that are remembered. One that more have contradicted is odd.
pub(super) const MOST_CONTRADICTED: usize = 1024;

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
    /// Looks before this one won't say anything else of it any more.
    pub(super) settled_looks: u64,
    /// With looks before this one it has been compared.
    pub(super) compared_looks: u64,
    /// It has said something since.
    pub(super) spoke: bool,
    /// At which looks it stood with which sockets, in the order of the looks.
    pub(super) stood: Vec<Stood>,
    /// Of a look that its process takes.
    pub(super) parts: Parts,
    pub(super) place: Place,
    pub(super) ended: bool,
}

/// A session stood with a socket at a look.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stood {
    /// The look's number.
    pub(super) look: u64,
    pub(super) socket: u64,
}

/// Where a session belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It may be found yet.
    Sought,
    /// It has this socket.
    Found(Found),
    /// Nobody asks any more.
    GivenUp,
}

impl Session {
    /// The last word before this time, by its number. Of what has the same time, as with a coarse clock, nobody knows which came
    /// first.
    pub(super) fn last(&self, at: MonotonicTime) -> Option<usize> {
        self.told
            .partition_point(|told| told.at < at)
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
        let next = self.told.partition_point(|told| told.at <= at);
        self.told.get(next).map(|told| told.counts)
    }

    /// Where the session stood at this look, if it did for the whole of it.
    fn stood_at(&self, look: &Look) -> Option<Counts> {
        let number = self.last(look.began)?;
        let behind = self.told.partition_point(|told| told.at <= look.ended);
        let stood = look.complete && behind == number + 1;
        Some(self.told.get(number).filter(|_| stood)?.counts)
    }

    /// The sockets with which it stood at this look.
    pub(super) fn stood_with(&self, look: u64) -> impl Iterator<Item = u64> {
        let first = self.stood.partition_point(|stood| stood.look < look);
        let all = self.stood.iter().skip(first);
        all.take_while(move |stood| stood.look == look)
            .map(|stood| stood.socket)
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
                    .is_none_or(|next| next.at >= look.began);
                let behind = after.is_none_or(|before| before.at <= look.ended);
                before && behind
            };
            if number + 1 == self.told.len() || looks.iter().any(matters) {
                kept.push(*told);
            }
        }
        self.odd |= kept.len() >= MOST_TOLD;
        self.told = kept;
    }

    /// Keeps in mind what these looks, which have numbers from `first` on, say of it.
    pub(super) fn compare_all(&mut self, looks: &VecDeque<Look>, first: u64) {
        let from = match std::mem::take(&mut self.spoke) {
            true => self.settled_looks,
            false => self.compared_looks,
        };
        self.stood
            .retain(|stood| (first..from).contains(&stood.look));
        let last = self.told.last().map(|told| told.at);
        for (number, look) in (first..).zip(looks) {
            if number < from {
                continue;
            }
            look.samples.iter().for_each(|sample| self.compare(sample));
            if let Some(counts) = self.stood_at(look) {
                let alike = look.samples.iter().filter(|one| one.counts == counts);
                self.make_room(alike.clone().count());
                self.stood.extend(alike.map(|one| Stood {
                    look: number,
                    socket: one.socket,
                }));
            }
            // What it says from now on is of later.
            if last > Some(look.ended) && number == self.settled_looks.max(first) {
                self.settled_looks = number + 1;
            }
        }
        self.compared_looks = first + looks.len() as u64;
        if self.contradicted.len() > MOST_CONTRADICTED {
            self.odd = true;
            self.contradicted = HashSet::new();
            self.behind = HashSet::new();
        }
    }

    /// Forgets the oldest looks at which it stood with something, each as a whole: at one that is remembered, it is known with
    /// which sockets it stood, and with which it didn't.
    fn make_room(&mut self, count: usize) {
        if self.stood.len() + count > MOST_STOOD {
            let half = self.stood.get(self.stood.len() / 2);
            let kept = half.map_or(u64::MAX, |half| half.look + 1);
            self.stood.retain(|stood| stood.look >= kept);
        }
    }

    /// Keeps in mind whether this contradicts it.
    fn compare(&mut self, sample: &Sample) {
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
