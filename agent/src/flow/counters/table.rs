//! What the looks at sockets and the counts that sessions tell leave of the ways to join them. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use super::history::{MOST_TOLD, Place, Session, Told};
use super::moment::{Moment, is_excluded};
use super::{Counts, Look};
use crate::event::{MonotonicTime, SessionKey};
use crate::flow::proof::Ends;

/// Looks at a process that are remembered.
const MOST_LOOKS: usize = 32;
/// Sessions of one process at a time. Of one with more, none is bound: each has to be known.
const MOST_SESSIONS: usize = 256;

/// One process: its sessions, and what was seen of its sockets.
#[derive(Debug, Default)]
pub(super) struct Process {
    sessions: HashMap<SessionKey, Session>,
    looks: VecDeque<Look>,
    /// Looks that were forgotten.
    forgotten_looks: u64,
    /// Connections whose session says their addresses itself, by how many.
    said: HashMap<Ends, usize>,
    /// Sockets that have a session, or had one.
    taken: HashSet<u64>,
    /// Something was learnt since it was last decided.
    news: bool,
    /// There was a session too many.
    crowded: bool,
}

impl Process {
    /// A session begins, or is announced, having carried this much by then. One that doesn't say how much is never
    /// found, and may have any socket.
    pub(super) fn open(&mut self, key: SessionKey, at: MonotonicTime, counts: Option<Counts>) {
        if self.sessions.len() >= MOST_SESSIONS {
            self.crowded = true;
            return;
        }
        let told = counts.map(|counts| Told { at, counts });
        let session = Session {
            odd: told.is_none(),
            told: told.into_iter().collect(),
            contradicted: HashSet::new(),
            behind: HashSet::new(),
            settled_looks: 0,
            place: match counts {
                Some(_) => Place::Sought,
                None => Place::GivenUp,
            },
            ended: false,
        };
        self.sessions.insert(key, session);
        self.news = true;
    }

    /// It has carried this much by now.
    pub(super) fn tell(&mut self, key: SessionKey, at: MonotonicTime, counts: Counts) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let Some(last) = session.told.last().copied() else {
            return;
        };
        if counts == last.counts {
            return;
        }
        let grows = counts.sent >= last.counts.sent && counts.received >= last.counts.received;
        session.odd |= !grows || at < last.at;
        if session.told.len() >= MOST_TOLD {
            session.forget_words(&self.looks);
        }
        if !session.odd {
            session.told.push(Told { at, counts });
        }
        self.news = true;
    }

    /// It is over.
    pub(super) fn end(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.ended = true;
            self.news = true;
        }
    }

    /// Nobody asks for it any more. It is remembered as long as others may be taken for it.
    pub(super) fn give_up(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(&key)
            && session.place == Place::Sought
        {
            session.place = Place::GivenUp;
        }
    }

    /// A connection of this process whose session says its addresses itself, or no longer does.
    pub(super) fn say(&mut self, ends: Ends) {
        *self.said.entry(ends).or_default() += 1;
        let seen = self.looks.iter().flat_map(|look| &look.samples);
        let its = seen.filter(|sample| sample.ends == ends);
        self.taken.extend(its.map(|sample| sample.socket));
        self.news = true;
    }

    /// Such a session is over.
    pub(super) fn unsay(&mut self, ends: &Ends) {
        if let Some(count) = self.said.get_mut(ends) {
            *count -= 1;
            if *count == 0 {
                self.said.remove(ends);
            }
        }
    }

    /// Takes what was seen.
    pub(super) fn seen(&mut self, mut look: Look) {
        look.samples.sort_unstable_by_key(|sample| sample.socket);
        for sample in &look.samples {
            if self.said.contains_key(&sample.ends) {
                self.taken.insert(sample.socket);
            }
        }
        if self.looks.len() >= MOST_LOOKS {
            self.looks.pop_front();
            self.forgotten_looks += 1;
        }
        self.looks.push_back(look);
        self.news = true;
    }

    /// Another process has this socket, and a session for it.
    pub(super) fn take(&mut self, socket: u64) {
        self.news |= self.taken.insert(socket);
    }

    /// The socket of a session.
    pub(super) fn found(&self, key: SessionKey) -> Option<Ends> {
        match self.sessions.get(&key)?.place {
            Place::Found(_, ends) => Some(ends),
            Place::Sought | Place::GivenUp => None,
        }
    }

    /// Whether a session that is sought may be found yet: not one that has ended and was never seen.
    pub(super) fn may_find(&self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(&key) else {
            return false;
        };
        session.place == Place::Sought
            && !session.odd
            && !self.crowded
            && (!session.ended || !self.moments(session).is_empty())
    }

    /// Whether any is sought.
    pub(super) fn seeks(&self) -> bool {
        self.sessions
            .iter()
            .any(|(key, session)| !session.ended && self.may_find(*key))
    }

    /// Gives up those that can't be found any more; which these are.
    pub(super) fn take_hopeless(&mut self) -> Vec<SessionKey> {
        let keys = self.sessions.iter().filter(|(key, session)| {
            session.place == Place::Sought && session.ended && !self.may_find(**key)
        });
        let keys: Vec<_> = keys.map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.give_up(*key));
        keys
    }

    /// Gives up all.
    pub(super) fn take_sought(&mut self) -> Vec<SessionKey> {
        let sought = self
            .sessions
            .iter()
            .filter(|(_, session)| session.place == Place::Sought);
        let keys: Vec<_> = sought.map(|(key, _)| *key).collect();
        keys.iter().for_each(|key| self.give_up(*key));
        keys
    }

    /// Whether nothing more will be known of it.
    pub(super) fn is_over(&self, key: SessionKey) -> bool {
        self.sessions
            .get(&key)
            .is_none_or(|session| session.ended && session.place != Place::Sought)
    }

    /// Nothing of it is needed any more once no session is sought or open.
    pub(super) fn is_idle(&self) -> bool {
        let done = |session: &Session| session.ended && session.place != Place::Sought;
        self.said.is_empty() && self.sessions.values().all(done)
    }

    /// Decides what can be decided, and says of which sockets. Each binding takes a socket from the others, so it is
    /// gone on until nothing changes.
    pub(super) fn decide(&mut self) -> Vec<(SessionKey, u64)> {
        let mut all = Vec::new();
        if !std::mem::take(&mut self.news) || self.crowded {
            return all;
        }
        self.contradict();
        loop {
            let sought = self
                .sessions
                .iter()
                .filter(|(_, session)| session.place == Place::Sought && !session.odd);
            let found: Vec<_> = sought
                .filter_map(|(key, session)| Some((*key, self.only_one(*key, session)?)))
                .collect();
            // Two for one socket: neither.
            let twice = |socket| {
                found
                    .iter()
                    .filter(|(_, (other, _))| *other == socket)
                    .count()
                    > 1
            };
            let found: Vec<_> = found
                .iter()
                .filter(|(_, (socket, _))| !twice(*socket))
                .copied()
                .collect();
            if found.is_empty() {
                return all;
            }
            for (key, (socket, ends)) in found {
                self.taken.insert(socket);
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.place = Place::Found(socket, ends);
                }
                all.push((key, socket));
            }
        }
    }

    /// Forgets sessions that can't be mistaken for others any more: they ended before everything that is remembered.
    pub(super) fn forget(&mut self) {
        let Some(first) = self.looks.front().map(|look| look.began) else {
            return;
        };
        self.sessions.retain(|_, session| {
            let last = session.told.last().map(|told| told.at);
            !session.ended || session.place == Place::Sought || last >= Some(first)
        });
        let looks = &self.looks;
        // A socket that is gone never comes again.
        let is_there = |socket: &u64| looks.iter().any(|look| look.of(*socket).is_some());
        self.taken.retain(is_there);
        for session in self.sessions.values_mut() {
            session.contradicted.retain(is_there);
            session.behind.retain(is_there);
        }
    }

    /// Keeps in mind which sockets contradict which sessions.
    fn contradict(&mut self) {
        for session in self.sessions.values_mut() {
            let last = session.told.last().map(|told| told.at);
            let number = |at: usize| self.forgotten_looks + at as u64;
            for (at, look) in self.looks.iter().enumerate() {
                if number(at) < session.settled_looks {
                    continue;
                }
                look.samples
                    .iter()
                    .for_each(|sample| session.compare(sample));
                // What it says from now on is of later.
                let over = last > Some(look.ended);
                if over && number(at) == session.settled_looks.max(self.forgotten_looks) {
                    session.settled_looks = number(at) + 1;
                }
            }
        }
    }

    /// The looks at which a socket stood where the session did, oldest first.
    fn moments<'p>(&'p self, session: &Session) -> Vec<Moment<'p>> {
        let mut all = Vec::new();
        for look in &self.looks {
            let Some(number) = session.last(look.began) else {
                continue;
            };
            let Some(least) = session.told.get(number) else {
                continue;
            };
            let most = session.told.get(number + 1).map(|told| told.counts);
            for sample in &look.samples {
                if sample.counts == least.counts && session.stood(look, sample).is_some() {
                    all.push(Moment {
                        look,
                        sample,
                        least: least.counts,
                        most,
                    });
                }
            }
        }
        all
    }

    /// The one socket that can be this session's, which no other session can have.
    fn only_one(&self, key: SessionKey, session: &Session) -> Option<(u64, Ends)> {
        let moments = self.moments(session);
        let candidates: HashSet<_> = moments
            .iter()
            .map(|moment| (moment.sample.socket, moment.sample.ends))
            .collect();
        let mut found = candidates.into_iter().filter(|(socket, _)| {
            let own = moments
                .iter()
                .filter(|moment| moment.sample.socket == *socket);
            self.is_only(key, session, *socket, &own.copied().collect::<Vec<_>>())
        });
        found.next().filter(|_| found.next().is_none())
    }

    /// Whether no other socket can be the session's, and no other session can have this one. `moments`: at which it
    /// stood with it, at least one.
    fn is_only(
        &self,
        key: SessionKey,
        session: &Session,
        socket: u64,
        moments: &[Moment<'_>],
    ) -> bool {
        if self.taken.contains(&socket) || session.contradicted.contains(&socket) {
            return false;
        }
        // Was its own socket there at all?
        let Some(first) = moments.first().filter(|first| first.most.is_some()) else {
            return false;
        };
        let others = first.look.samples.iter().map(|sample| sample.socket);
        let mut others = others.filter(|other| *other != socket && !self.taken.contains(other));
        if others.any(|other| !is_excluded(session, other, moments)) {
            return false;
        }
        let mut rivals = self.sessions.iter().filter(|(other, _)| **other != key);
        rivals.all(|(_, rival)| {
            let excluded = || {
                rival.contradicted.contains(&socket)
                    || moments.iter().any(|moment| moment.shows_elsewhere(rival))
            };
            matches!(rival.place, Place::Found(..)) || !rival.odd && excluded()
        })
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
