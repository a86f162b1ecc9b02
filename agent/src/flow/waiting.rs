//! How long a session waits, for the end of its handshake and for its addresses, and when it is let go.

use std::collections::HashMap;

use mirror_hook::event::{Announcement, EarlyData};

use super::counters::{Finder, Found};
use super::describe::{shared_id, shown, verify};
use super::held::Held;
use super::known::Known;
use super::mapper::Mapper;
use super::proof::judge;
use super::session::{Session, State, Waiting};
use crate::event::{FlowSink, MonotonicTime, SessionKey};

/// Sessions that wait for the same randoms, and are let go by them: both ends of a connection, and the children of their
/// processes. Anybody may know randoms, and name them any number of times; further ones wait for their deadline.
pub(super) const MAX_AWAITING: usize = 64;

impl Mapper {
    /// Begins the session's flow if all is known that it needs; else sees to it that it doesn't
    /// wait for ever.
    pub(super) fn try_release(
        &mut self,
        key: SessionKey,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let parent_waits = self.parent_waits(key);
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if !matches!(session.state, State::Waiting(_)) || !session.known.is_complete() {
            return;
        }
        let found = session.found().is_some();
        let randoms = session.known.randoms();
        let role = session.known.role;
        let inherited = session.known.announcement == Announcement::Inherited;
        let live = |randoms| {
            Some(
                self.flows
                    .get(self.live_ids.get(&shared_id(&randoms))?)?
                    .role,
            )
        };
        let live = randoms.and_then(live);
        // A flow that goes on has its addresses, and so has the other end's.
        let goes_on = inherited && live == Some(role);
        let is_twin = live.is_some_and(|other| other != role);
        if !goes_on && !is_twin {
            verify(session, &mut *self.claims);
        }
        let known = session.known.tuple().is_some() || found;
        let on_wire = if known {
            randoms.is_some_and(|randoms| self.binder.find(&randoms).is_some())
        } else {
            let networks = self.networks.as_deref();
            let shown = shown(&self.binder, networks, &mut *self.claims, session);
            let settled = shown.filter(|shown| shown.is_settled);
            session.shown = settled.map(|shown| (shown.tuple, shown.binding));
            match session.shown {
                Some(_) if goes_on || is_twin => true,
                Some((tuple, _)) => !session.shows_anothers(tuple, &mut *self.claims),
                None => false,
            }
        };
        let doubted = session.is_doubted();
        // The hello of one that begins has passed by now; its frame may still be on its way to here.
        let is_new = session.known.announcement == Announcement::New && session.continued.is_none();
        let begins = is_new && randoms.is_some() || parent_waits;
        let awaits_fingerprint = known && begins && !is_twin;
        let seeks = |finder: &Finder| finder.seeks(key);
        let is_sought =
            session.counted.is_none() && self.finder.as_ref().is_some_and(seeks) || parent_waits;
        let may_wait = self.config.capture || doubted || !known && is_sought;
        if on_wire || goes_on || !may_wait || known && !awaits_fingerprint {
            return self.release(key, now, sink);
        }
        let State::Waiting(waiting) = &mut session.state else {
            return;
        };
        let patience_ns = match session.known.tuple() {
            _ if !known => self.config.bind_timeout_ns,
            Some(tuple) if !self.binder.has_seen(&tuple) => self.config.unseen_timeout_ns,
            _ => self.config.fingerprint_timeout_ns,
        };
        if !waiting.for_addresses {
            waiting.for_addresses = true;
            if let Some(old) = waiting.deadline.take() {
                self.deadlines.remove(&(old, key));
            }
            let deadline = MonotonicTime(now.0.saturating_add(patience_ns));
            waiting.deadline = Some(deadline);
            self.deadlines.insert((deadline, key));
        }
        if !waiting.awaits_wire
            && let Some(randoms) = randoms
        {
            waiting.awaits_wire = true;
            let awaiting = self.awaited.entry(randoms).or_default();
            if awaiting.len() < MAX_AWAITING {
                awaiting.push(key);
            }
        }
    }

    /// Whether the session from which this one has inherited its connection waits: its flow is this one's, and begins
    /// with it.
    fn parent_waits(&self, key: SessionKey) -> bool {
        let Some(session) = self.sessions.get(&key) else {
            return false;
        };
        let inherited = session.known.announcement == Announcement::Inherited;
        let randoms = session.known.randoms().filter(|_| inherited);
        let waiting = randoms.and_then(|randoms| self.awaited.get(&randoms));
        let role = session.known.role;
        let same = |other: &SessionKey| {
            let other = self.sessions.get(other).filter(|_| *other != key);
            other.is_some_and(|other| other.known.role == role)
        };
        waiting.is_some_and(|waiting| waiting.iter().any(same))
    }

    /// By what a session has carried its ends are known now, or it is that they won't be.
    pub(super) fn counted(
        &mut self,
        key: SessionKey,
        found: Option<Found>,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.counted = found.map(|found| found.ends().tuple(session.known.role));
            if let Some(Found::Told(claim)) = found {
                let verdict = judge(&claim, &session.process, &mut *self.claims);
                session.counted_verdict = Some(verdict);
            }
            let is_over = matches!(&session.state, State::Waiting(waiting) if waiting.over);
            match is_over && session.is_doubted() && session.known.is_complete() {
                true => self.release(key, now, sink),
                false => self.try_release(key, now, sink),
            }
        }
    }

    /// A waiting session's deadline has passed.
    pub(super) fn deadline_passed(
        &mut self,
        key: SessionKey,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some((known, waiting)) = waiting(&mut self.sessions, key) else {
            return;
        };
        waiting.deadline = None;
        if known.early == EarlyData::Pending {
            // Whether this text ever reached anybody isn't known: better late than wrong. But the
            // other flows needn't wait for it.
            self.waiting.remove(&(waiting.opened, key));
        } else if known.is_complete() || waiting.held.has_text() {
            self.release(key, now, sink);
        } else {
            // A handshake that takes long has nothing to tell yet.
            self.waiting.remove(&(waiting.opened, key));
        }
    }

    /// A waiting session is over: what hasn't been decided yet won't be.
    pub(super) fn settle(&mut self, key: SessionKey, now: MonotonicTime, sink: &mut dyn FlowSink) {
        let doubted = self.sessions.get(&key).is_some_and(Session::is_doubted);
        let Some((known, waiting)) = waiting(&mut self.sessions, key) else {
            return;
        };
        if known.is_complete() {
            if doubted {
                return self.release(key, now, sink);
            }
            return; // its addresses may still be seen
        }
        let unanswered = known.early == EarlyData::Pending;
        if waiting.held.has_text() && !unanswered {
            return self.release(key, now, sink);
        }
        if let Some((_, mut waiting)) = self.take_waiting(key) {
            let dropped = waiting.held.drop_sent();
            if unanswered {
                self.stats.early_unanswered_bytes += dropped;
            }
            self.stats.handshakes_failed += 1;
        }
    }

    /// Lets a session go as it is, because the agent ends.
    pub(super) fn release_anyhow(
        &mut self,
        key: SessionKey,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some((known, waiting)) = waiting(&mut self.sessions, key) else {
            return;
        };
        if known.early == EarlyData::Pending {
            let before = waiting.held.charge();
            self.stats.early_unanswered_bytes += waiting.held.drop_sent();
            self.held_bytes -= before - waiting.held.charge();
        }
        if known.is_complete() || waiting.held.has_text() {
            self.release(key, now, sink);
        } else {
            self.take_waiting(key);
        }
    }

    pub(super) fn sessions_waiting(&self) -> Vec<SessionKey> {
        let mut keys: Vec<_> = self
            .sessions
            .iter()
            .filter_map(|(key, session)| match &session.state {
                State::Waiting(waiting) => Some((waiting.opened, *key)),
                _ => None,
            })
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, key)| key).collect()
    }

    /// Makes room for another event of `length` bytes if the session waits. False: there is none.
    pub(super) fn has_room(
        &mut self,
        key: SessionKey,
        length: usize,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) -> bool {
        let Some((known, waiting)) = waiting(&mut self.sessions, key) else {
            return true;
        };
        let cost = Held::cost(length);
        if waiting.held.charge() + cost <= self.config.session_bytes
            && self.held_bytes + cost <= self.config.total_bytes
        {
            return true;
        }
        if known.early == EarlyData::Pending {
            return false;
        }
        self.stats.unbound_for_space += u64::from(known.tuple().is_none());
        self.release(key, now, sink);
        true
    }
}

/// A session that waits, and what is known of it.
fn waiting(
    sessions: &mut HashMap<SessionKey, Session>,
    key: SessionKey,
) -> Option<(&Known, &mut Waiting)> {
    let session = sessions.get_mut(&key)?;
    match &mut session.state {
        State::Waiting(waiting) => Some((&session.known, waiting)),
        _ => None,
    }
}
