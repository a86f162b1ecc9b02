//! What the looks at sockets and the counts that sessions tell leave of the ways to join them. Pure.

use std::cell::Cell;
use std::collections::{HashMap, HashSet, VecDeque};

use mirror_hook::event::LookPart;

use super::history::{MOST_TOLD, Place, Session, Told};
use super::moment::{Moment, is_excluded};
use super::told::Parts;
use super::{Counts, Found, Look, Sample};
use crate::event::{MonotonicTime, SessionKey};
use crate::flow::proof::{Claim, Ends};

/// Looks at a process that are remembered …
const MOST_LOOKS: usize = 512;
/// … and samples in them all.
const MOST_SAMPLES: usize = 16 * 1024;
/// Sessions of one process at a time. Of one with more, none is bound: each has to be known.
const MOST_SESSIONS: usize = 256;
/// What is compared at most to decide once, in socket or session and look: whatever a process tells, others don't wait for it.
const MOST_STEPS: usize = 1 << 18;

/// One process: its sessions, and what was seen of its sockets.
#[derive(Debug, Default)]
pub(super) struct Process {
    sessions: HashMap<SessionKey, Session>,
    looks: VecDeque<Look>,
    /// Samples in them.
    samples: usize,
    /// Samples that have come since sockets were forgotten.
    new_samples: usize,
    /// Looks that were forgotten: the number of the first that isn't.
    forgotten_looks: u64,
    /// Addresses of sockets that are in a look.
    ends: HashMap<u64, Found>,
    /// Connections whose session says their addresses itself, by how many.
    said: HashMap<Ends, usize>,
    /// The same by the cookie, where that is told, too.
    said_cookies: HashMap<u64, usize>,
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
            compared_looks: 0,
            spoke: true,
            stood: Vec::new(),
            parts: Parts::default(),
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
        session.spoke = true;
        self.news = true;
    }

    /// A part of a look that the process has taken, in the words of this session.
    pub(super) fn told_look(&mut self, key: SessionKey, at: MonotonicTime, part: &LookPart<'_>) {
        let session = self.sessions.get_mut(&key);
        let look = session.and_then(|session| session.parts.add(part, at));
        let is_sought = |session: &Session| session.place == Place::Sought;
        if let Some(look) = look
            && self.sessions.values().any(is_sought)
        {
            self.seen(look);
        }
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
    pub(super) fn say(&mut self, claim: &Claim) {
        *self.said.entry(claim.ends).or_default() += 1;
        if let Some((cookie, _)) = claim.cookies {
            *self.said_cookies.entry(cookie).or_default() += 1;
        }
        let seen = self.looks.iter().flat_map(|look| &look.samples);
        let its = seen.filter(|sample| is_said(sample, &self.said, &self.said_cookies));
        self.taken.extend(its.map(|sample| sample.socket));
        self.news = true;
    }

    /// Such a session is over.
    pub(super) fn unsay(&mut self, claim: &Claim) {
        take_one(&mut self.said, &claim.ends);
        if let Some((cookie, _)) = claim.cookies {
            take_one(&mut self.said_cookies, &cookie);
        }
    }

    /// Takes what was seen.
    pub(super) fn seen(&mut self, mut look: Look) {
        look.samples.sort_unstable_by_key(|sample| sample.socket);
        for sample in &look.samples {
            if is_said(sample, &self.said, &self.said_cookies) {
                self.taken.insert(sample.socket);
            }
            let Some(ends) = sample.ends else {
                continue;
            };
            let cookies = Some((sample.socket, 0));
            match look.told {
                false => self.ends.insert(sample.socket, Found::Seen(ends)),
                // The kernel's word stays.
                true => Some(
                    *self
                        .ends
                        .entry(sample.socket)
                        .or_insert(Found::Told(Claim { ends, cookies })),
                ),
            };
        }
        self.samples += look.samples.len();
        self.new_samples += look.samples.len();
        self.looks.push_back(look);
        while self.looks.len() > MOST_LOOKS || self.samples > MOST_SAMPLES {
            let Some(oldest) = self.looks.pop_front() else {
                break;
            };
            self.samples -= oldest.samples.len();
            self.forgotten_looks += 1;
        }
        if self.new_samples > MOST_SAMPLES {
            self.forget_sockets();
        }
        self.news = true;
    }

    /// Another process has this socket, and a session for it.
    pub(super) fn take(&mut self, socket: u64) {
        self.news |= self.taken.insert(socket);
    }

    /// The socket of a session.
    pub(super) fn found(&self, key: SessionKey) -> Option<Found> {
        match self.sessions.get(&key)?.place {
            Place::Found(found) => Some(found),
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
            && (!session.ended || self.is_undecided(session) || !session.stood.is_empty())
    }

    /// Whether there is something with which it hasn't been compared yet.
    fn is_undecided(&self, session: &Session) -> bool {
        let looks = self.forgotten_looks + self.looks.len() as u64;
        session.spoke || session.compared_looks < looks
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
        for session in self.sessions.values_mut() {
            if !session.odd && !matches!(session.place, Place::Found(_)) {
                session.compare_all(&self.looks, self.forgotten_looks);
            }
        }
        let steps = Cell::new(MOST_STEPS);
        loop {
            let sought = self
                .sessions
                .iter()
                .filter(|(_, session)| session.place == Place::Sought && !session.odd);
            let found: Vec<_> = sought
                .filter_map(|(key, session)| Some((*key, self.only_one(*key, session, &steps)?)))
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
            if steps.get() == 0 {
                // Who else would have been found isn't known yet.
                self.news = !all.is_empty();
                return all;
            }
            if found.is_empty() {
                return all;
            }
            for (key, (socket, found)) in found {
                self.taken.insert(socket);
                if let Some(session) = self.sessions.get_mut(&key) {
                    session.place = Place::Found(found);
                }
                all.push((key, socket));
            }
        }
    }

    /// Forgets sessions that can't be mistaken for others any more: they ended before everything that is remembered.
    pub(super) fn forget(&mut self) {
        let Some(first) = self.looks.iter().map(|look| look.began).min() else {
            return;
        };
        self.sessions.retain(|_, session| {
            let last = session.told.last().map(|told| told.at);
            !session.ended || session.place == Place::Sought || last >= Some(first)
        });
        self.forget_sockets();
    }

    /// Forgets sockets that are in no look any more: one that is gone never comes again.
    fn forget_sockets(&mut self) {
        self.new_samples = 0;
        let samples = self.looks.iter().flat_map(|look| &look.samples);
        let there: HashSet<_> = samples.map(|sample| sample.socket).collect();
        let is_there = |socket: &u64| there.contains(socket);
        self.taken.retain(is_there);
        self.ends.retain(|socket, _| is_there(socket));
        for session in self.sessions.values_mut() {
            session.contradicted.retain(is_there);
            session.behind.retain(is_there);
        }
    }

    /// The looks at which a socket stood where the session did, oldest first. (A process's own are told later.)
    fn moments<'p>(&'p self, session: &'p Session) -> Vec<Moment<'p>> {
        let moments = session.stood.iter().filter_map(|stood| {
            let at = stood.look.checked_sub(self.forgotten_looks)?;
            let look = self.looks.get(usize::try_from(at).ok()?)?;
            let number = session.last(look.began)?;
            Some(Moment {
                look,
                number: stood.look,
                sample: look.of(stood.socket)?,
                least: session.told.get(number)?.counts,
                most: session.told.get(number + 1).map(|told| told.counts),
            })
        });
        let mut moments: Vec<_> = moments.collect();
        moments.sort_by_key(|moment| moment.look.began);
        moments
    }

    /// The one socket that can be this session's, which no other session can have, as far as these steps go.
    fn only_one(
        &self,
        key: SessionKey,
        session: &Session,
        steps: &Cell<usize>,
    ) -> Option<(u64, Found)> {
        if !walk(steps, session.stood.len()) {
            return None;
        }
        let mut moments = self.moments(session);
        // Each socket's stay in their order.
        moments.sort_by_key(|moment| moment.sample.socket);
        let of_one = |one: &Moment<'_>, next: &Moment<'_>| one.sample.socket == next.sample.socket;
        let candidates = moments.chunk_by(of_one).filter_map(|moments| {
            let socket = moments.first()?.sample.socket;
            let is_free = !self.taken.contains(&socket) && !session.contradicted.contains(&socket);
            is_free.then_some((socket, moments))
        });
        let mut found = candidates
            .filter(|(socket, moments)| self.is_only(key, session, *socket, moments, steps))
            .map(|(socket, _)| socket);
        let socket = found.next().filter(|_| found.next().is_none())?;
        Some((socket, *self.ends.get(&socket)?))
    }

    /// Whether no other socket can be the session's, and no other session can have this one, which is free and hasn't contradicted
    /// it. `moments`: at which it stood with it, at least one.
    fn is_only(
        &self,
        key: SessionKey,
        session: &Session,
        socket: u64,
        moments: &[Moment<'_>],
        steps: &Cell<usize>,
    ) -> bool {
        // Was its own socket there at all?
        let Some(first) = moments.first().filter(|first| first.most.is_some()) else {
            return false;
        };
        let others = first.look.samples.iter().map(|sample| sample.socket);
        let mut others = others.filter(|other| *other != socket && !self.taken.contains(other));
        if others.any(|other| !walk(steps, moments.len()) || !is_excluded(session, other, moments))
        {
            return false;
        }
        let mut rivals = self.sessions.iter().filter(|(other, _)| **other != key);
        rivals.all(|(_, rival)| {
            let excluded = || {
                rival.contradicted.contains(&socket)
                    || moments.iter().any(|moment| moment.shows_elsewhere(rival))
            };
            matches!(rival.place, Place::Found(..))
                || !rival.odd && walk(steps, moments.len()) && excluded()
        })
    }
}

/// Goes so many steps; whether there were as many.
fn walk(steps: &Cell<usize>, count: usize) -> bool {
    steps.set(steps.get().saturating_sub(count));
    steps.get() != 0
}

/// Whether a session says itself that this is its socket.
fn is_said(
    sample: &Sample,
    said: &HashMap<Ends, usize>,
    said_cookies: &HashMap<u64, usize>,
) -> bool {
    sample.ends.is_some_and(|ends| said.contains_key(&ends))
        || said_cookies.contains_key(&sample.socket)
}

/// Counts one less.
fn take_one<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
