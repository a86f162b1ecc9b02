//! A session's flow begins, with all that was held back for it, and ends.

use std::sync::Arc;

use mirror_hook::event::Announcement;

use super::describe::{Joins, verify};
use super::held::HeldChange;
use super::live::LiveFlow;
use super::mapper::Mapper;
use super::session::{Recent, Session, State, Waiting};
use super::twin::{Comparison, Fingerprint};
use crate::event::{Binding, FlowId, FlowSink, MonotonicTime, SessionKey, Settled, Side};
use crate::filter::Excluded;

impl Mapper {
    /// Begins the session's flow with what is known, and replays what it said so far.
    pub(super) fn release(&mut self, key: SessionKey, now: MonotonicTime, sink: &mut dyn FlowSink) {
        // A parent comes first, and its children are there before anything of it is told: else its end
        // would be the flow's.
        let family = self.family_waiting(key);
        let eldest = family.first().copied().unwrap_or(key);
        let Some((mut session, waiting)) = self.take_waiting(eldest) else {
            return;
        };
        if let Some(finder) = &mut self.finder {
            finder.give_up(eldest);
        }
        let children = family.get(1..).unwrap_or(&[]);
        let (mut id, joins) = match waiting.joined {
            Some(number) => (FlowId([0; 16]), Joins::Already(number)),
            None => self.identify(eldest, &session),
        };
        if matches!(joins, Joins::Nothing) {
            verify(&mut session, &mut *self.claims);
        }
        if waiting.over {
            // Its socket was closed when the kernel was asked: somebody else had these addresses then.
            session.clear_doubt();
        }
        if matches!(joins, Joins::Nothing) {
            self.doubt_told(&mut session);
            self.doubt_shown(&mut session, waiting.over);
            if session.is_shown_anothers() {
                id = self.own_id(eldest, Some(&id)); // that is the other's
            }
        }
        if let Some(why) = self.excluded(&session) {
            self.stats.excluded += 1;
            self.stats.excluded_unknown += u64::from(why == Excluded::Unknown);
            self.stats.excluded_bytes += waiting.held.text_bytes();
            if !waiting.over {
                session.state = State::Excluded;
                self.sessions.insert(eldest, session);
            }
            for child in children {
                self.release(*child, now, sink);
            }
            return;
        }
        let mut fingerprint = Fingerprint::default();
        if session.continued.is_some() {
            fingerprint.hole(); // what came before can't be compared
        }
        let mut settled = Settled::default();
        let state = match joins {
            Joins::Nothing => {
                let info = self.describe(id, &mut session);
                if let Some(verdict) = session.verdict() {
                    self.stats.judged(verdict);
                }
                self.stats.begun(info.binding);
                self.make_way(&info, waiting.opened, now, sink);
                let number = self.next_flow;
                self.next_flow += 1;
                // A placeholder is this agent's own.
                settled.found = Some((info.tuple, info.binding))
                    .filter(|(_, binding)| *binding != Binding::Placeholder);
                settled.flow = Some(number);
                let mut flow = LiveFlow::begin(number, waiting.opened, &info, session.base, sink);
                flow.fingerprint = fingerprint;
                flow.note(eldest);
                self.taken.take(number, &flow);
                self.flows.insert(number, flow);
                self.live_ids.insert(id, number);
                State::Flowing(number)
            }
            Joins::Parent(number) => {
                self.join(number, eldest);
                settled.flow = Some(number);
                State::Flowing(number)
            }
            Joins::Already(number) => {
                settled.flow = Some(number);
                State::Flowing(number)
            }
            Joins::Twin => {
                self.stats.twins += 1;
                State::Twin(id, fingerprint)
            }
        };
        if self.config.reports_settled {
            self.settled.push((eldest, settled));
        }
        session.state = state;
        if let State::Flowing(number) = session.state {
            for child in children {
                if self.joins_early(*child, number) {
                    self.join(number, *child);
                }
            }
        }
        self.replay(&mut session, &waiting, sink);
        if let State::Flowing(number) = session.state {
            self.forget_if_ended(number, now);
        }
        if !waiting.over {
            self.sessions.insert(eldest, session);
        } else if let State::Twin(id, fingerprint) = session.state {
            self.twin_ended(id, fingerprint);
        }
        for child in children {
            self.release(*child, now, sink);
        }
    }

    /// Another process holds the flow's connection.
    fn join(&mut self, number: u64, key: SessionKey) {
        self.stats.joined += 1;
        if let Some(flow) = self.flows.get_mut(&number) {
            flow.join(key);
        }
    }

    /// Notes at a waiting session that its parent's flow knows of it; false: it isn't that one's child.
    fn joins_early(&mut self, child: SessionKey, number: u64) -> bool {
        let process = |session: &Session| Arc::clone(&session.process);
        let process = self.sessions.get(&child).map(process);
        let may = process.is_some_and(|process| self.may_join(number, &process));
        match self
            .sessions
            .get_mut(&child)
            .map(|session| &mut session.state)
        {
            Some(State::Waiting(waiting)) if may => {
                waiting.joined = Some(number);
                true
            }
            _ => false,
        }
    }

    /// The waiting sessions that are `key`'s connection in processes of one family: the eldest first. At
    /// least `key` itself, if it waits.
    fn family_waiting(&self, key: SessionKey) -> Vec<SessionKey> {
        let Some(session) = self.sessions.get(&key) else {
            return Vec::new();
        };
        let alone = vec![key];
        let Some(randoms) = session.known.randoms() else {
            return alone;
        };
        let role = session.known.role;
        let relative = |key: &&SessionKey| {
            self.sessions
                .get(key)
                .is_some_and(|session| session.known.role == role)
        };
        let waiting = self.awaited.get(&randoms).into_iter().flatten();
        let same: Vec<_> = waiting.filter(relative).copied().collect();
        let inherited = |key: &SessionKey| {
            let session = self.sessions.get(key);
            session.is_some_and(|session| session.known.announcement == Announcement::Inherited)
        };
        let joined = matches!(&session.state, State::Waiting(waiting) if waiting.joined.is_some());
        let Some(place) = same.iter().position(|one| *one == key).filter(|_| !joined) else {
            return alone;
        };
        // From the last one in front that has no parent here, up to the next such.
        let first = (0..=place)
            .rev()
            .find(|at| !inherited(&same[*at]))
            .unwrap_or(0);
        let rest = same[first + 1..].iter().take_while(|key| inherited(key));
        std::iter::once(same[first]).chain(rest.copied()).collect()
    }

    fn replay(&mut self, session: &mut Session, waiting: &Waiting, sink: &mut dyn FlowSink) {
        let stats = &mut self.stats;
        match &mut session.state {
            State::Flowing(number) => {
                let Some(flow) = self.flows.get_mut(number) else {
                    return;
                };
                for (at, change, text) in waiting.held.events() {
                    match change {
                        HeldChange::Data {
                            direction, offset, ..
                        } => flow.data(at, direction, offset, text, stats, sink),
                        HeldChange::Lost { direction, to, .. } => {
                            flow.lost(at, direction, to, stats, sink);
                        }
                        HeldChange::Close(reason) => flow.close(at, reason, stats, sink),
                        HeldChange::Died => flow.died(at, stats, sink),
                    }
                }
            }
            State::Twin(_, fingerprint) => {
                for (_, change, text) in waiting.held.events() {
                    match change {
                        HeldChange::Data { direction, .. } => {
                            stats.twin_bytes += text.len() as u64;
                            fingerprint.data(Side::speaker(session.known.role, direction), text);
                        }
                        HeldChange::Lost { .. } => fingerprint.hole(),
                        HeldChange::Close(_) | HeldChange::Died => {}
                    }
                }
            }
            State::Waiting(_) | State::Excluded | State::NotForged => {}
        }
    }

    /// Takes a waiting session out of the table and of every index.
    pub(super) fn take_waiting(&mut self, key: SessionKey) -> Option<(Session, Waiting)> {
        let session = self.sessions.get(&key)?;
        if !matches!(session.state, State::Waiting(_)) {
            return None;
        }
        let mut session = self.sessions.remove(&key)?;
        let State::Waiting(waiting) = std::mem::replace(&mut session.state, State::NotForged)
        else {
            return None;
        };
        self.held_bytes -= waiting.held.charge();
        self.waiting.remove(&(waiting.opened, key));
        if let Some(deadline) = waiting.deadline {
            self.deadlines.remove(&(deadline, key));
        }
        if let Some(randoms) = session.known.randoms()
            && let Some(keys) = self.awaited.get_mut(&randoms)
        {
            keys.retain(|waiting| *waiting != key);
            if keys.is_empty() {
                self.awaited.remove(&randoms);
            }
        }
        Some((session, waiting))
    }

    /// Moves a flow that has ended to the recent ones.
    pub(super) fn forget_if_ended(&mut self, number: u64, now: MonotonicTime) {
        if !self.flows.get(&number).is_some_and(LiveFlow::has_ended) {
            return;
        }
        let Some(mut flow) = self.flows.remove(&number) else {
            return;
        };
        self.taken.give_back(flow.tuple, number);
        self.live_ids.remove(&flow.id);
        if let Some(twin) = flow.twin.take() {
            self.compared(flow.fingerprint.compare(&twin));
        }
        let recent = Recent {
            role: flow.role,
            ended: now,
            fingerprint: flow.fingerprint,
        };
        self.recent.insert(flow.id, recent);
    }

    /// A session that wasn't put out has ended: compares it as soon as the other copy has, too.
    pub(super) fn twin_ended(&mut self, id: FlowId, fingerprint: Fingerprint) {
        let live = self.live_ids.get(&id).copied();
        if let Some(flow) = live.and_then(|number| self.flows.get_mut(&number)) {
            flow.twin = Some(fingerprint);
        } else if let Some(recent) = self.recent.get(&id) {
            self.compared(recent.fingerprint.compare(&fingerprint));
        } else {
            self.compared(Comparison::Incomparable);
        }
    }

    fn compared(&mut self, result: Comparison) {
        match result {
            Comparison::Equal => self.stats.twins_equal += 1,
            Comparison::Different => self.stats.twins_different += 1,
            Comparison::Incomparable => self.stats.twins_incomparable += 1,
        }
    }
}
