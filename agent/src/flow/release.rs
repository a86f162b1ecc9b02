//! When a waiting session's flow begins, and as what.

use mirror_hook::event::{Announcement, EarlyData, Role};
use sha2::{Digest, Sha256};

use super::binder::Randoms;
use super::held::{Held, HeldChange};
use super::live::LiveFlow;
use super::mapper::Mapper;
use super::placeholder::placeholder;
use super::proof::{Sockets, Unproven, Verdict, judge};
use super::session::{Recent, Session, State, Waiting};
use super::twin::{Comparison, Fingerprint};
use crate::event::{
    Binding, Continued, FlowId, FlowInfo, FlowSink, MonotonicTime, SessionKey, Settled, Side, Tuple,
};
use crate::filter::Excluded;

impl Mapper {
    /// Begins the session's flow if all is known that it needs; else sees to it that it doesn't
    /// wait for ever.
    pub(super) fn try_release(
        &mut self,
        key: SessionKey,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        if !matches!(session.state, State::Waiting(_)) || !session.known.is_complete() {
            return;
        }
        let found = session.found().is_some();
        let randoms = session.known.randoms();
        let on_wire = randoms.is_some_and(|randoms| self.binder.find(&randoms).is_some());
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
        let doubted = session.known.verdict() == Some(Verdict::Doubtful);
        // The hello of one that begins has passed by now; its frame may still be on its way to here.
        let is_new = session.known.announcement == Announcement::New && session.continued.is_none();
        let awaits_fingerprint = known && is_new && randoms.is_some();
        let may_wait = self.config.capture || doubted;
        if on_wire || goes_on || !may_wait || known && !awaits_fingerprint {
            return self.release(key, now, sink);
        }
        let State::Waiting(waiting) = &mut session.state else {
            return;
        };
        let patience_ns = match known {
            true => self.config.fingerprint_timeout_ns,
            false => self.config.bind_timeout_ns,
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
            self.awaited.entry(randoms).or_default().push(key);
        }
    }

    /// A waiting session's deadline has passed.
    pub(super) fn deadline_passed(
        &mut self,
        key: SessionKey,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let State::Waiting(waiting) = &mut session.state else {
            return;
        };
        waiting.deadline = None;
        if session.known.early == EarlyData::Pending {
            // Whether this text ever reached anybody isn't known: better late than wrong. But the
            // other flows needn't wait for it.
            self.waiting.remove(&(waiting.opened, key));
        } else if session.known.is_complete() || waiting.held.has_text() {
            self.release(key, now, sink);
        } else {
            // A handshake that takes long has nothing to tell yet.
            self.waiting.remove(&(waiting.opened, key));
        }
    }

    /// A waiting session is over: what hasn't been decided yet won't be.
    pub(super) fn settle(&mut self, key: SessionKey, now: MonotonicTime, sink: &mut dyn FlowSink) {
        let Some(session) = self.sessions.get(&key) else {
            return;
        };
        let State::Waiting(waiting) = &session.state else {
            return;
        };
        if session.known.is_complete() {
            if session.known.verdict() == Some(Verdict::Doubtful) {
                return self.release(key, now, sink);
            }
            return; // its addresses may still be seen
        }
        let unanswered = session.known.early == EarlyData::Pending;
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
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let State::Waiting(waiting) = &mut session.state else {
            return;
        };
        if session.known.early == EarlyData::Pending {
            let before = waiting.held.charge();
            self.stats.early_unanswered_bytes += waiting.held.drop_sent();
            self.held_bytes -= before - waiting.held.charge();
        }
        if session.known.is_complete() || waiting.held.has_text() {
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
        let Some(session) = self.sessions.get(&key) else {
            return true;
        };
        let State::Waiting(waiting) = &session.state else {
            return true;
        };
        let cost = Held::cost(length);
        if waiting.held.charge() + cost <= self.config.session_bytes
            && self.held_bytes + cost <= self.config.total_bytes
        {
            return true;
        }
        if session.known.early == EarlyData::Pending {
            return false;
        }
        self.stats.unbound_for_space += u64::from(session.known.tuple().is_none());
        self.release(key, now, sink);
        true
    }

    /// Begins the session's flow with what is known, and replays what it said so far.
    fn release(&mut self, key: SessionKey, now: MonotonicTime, sink: &mut dyn FlowSink) {
        // A parent comes first, and its children are there before anything of it is told: else its end
        // would be the flow's.
        let family = self.family_waiting(key);
        let eldest = family.first().copied().unwrap_or(key);
        let Some((mut session, waiting)) = self.take_waiting(eldest) else {
            return;
        };
        let children = family.get(1..).unwrap_or(&[]);
        let (id, joins) = match waiting.joined {
            Some(number) => (FlowId([0; 16]), Joins::Already(number)),
            None => self.identify(eldest, &session),
        };
        if matches!(joins, Joins::Nothing) {
            verify(&mut session, &mut *self.claims);
        }
        if waiting.over && session.known.verdict() == Some(Verdict::Doubtful) {
            // Its socket was closed when the kernel was asked: somebody else had these addresses then.
            let gone = Verdict::Unproven(Unproven::Gone);
            session.known.set_verdict(gone);
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
                if let Some(verdict) = session.known.verdict() {
                    self.stats.judged(verdict);
                }
                self.stats.begun(info.binding);
                let number = self.next_flow;
                self.next_flow += 1;
                // A placeholder is this agent's own.
                settled.found = Some((info.tuple, info.binding))
                    .filter(|(_, binding)| *binding != Binding::Placeholder);
                settled.flow = Some(number);
                let mut flow = LiveFlow::begin(number, waiting.opened, &info, session.base, sink);
                flow.fingerprint = fingerprint;
                self.flows.insert(number, flow);
                self.live_ids.insert(id, number);
                State::Flowing(number)
            }
            Joins::Parent(number) => {
                self.join(number);
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
                    self.join(number);
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
    fn join(&mut self, number: u64) {
        self.stats.joined += 1;
        if let Some(flow) = self.flows.get_mut(&number) {
            flow.join();
        }
    }

    /// Notes at a waiting session that its parent's flow knows of it; false: it isn't that one's child.
    fn joins_early(&mut self, child: SessionKey, number: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&child) else {
            return false;
        };
        let uid = session.process.uid;
        let flow = self.flows.get(&number);
        let may = flow.is_some_and(|flow| flow.may_be_joined_by(uid));
        match &mut session.state {
            State::Waiting(waiting) if may => {
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

    /// Whether the filters exclude a session of which all is known that will be.
    fn excluded(&self, session: &Session) -> Option<Excluded> {
        let policy = session.policy.as_deref()?;
        let is_asked = policy.takes_wire() && session.known.tuple().is_none();
        let wire = is_asked.then(|| self.on_wire(session)).flatten();
        let wire = wire.or_else(|| session.found()).map(|(tuple, _)| tuple);
        policy.judge(&session.known.facts(wire))
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
    fn take_waiting(&mut self, key: SessionKey) -> Option<(Session, Waiting)> {
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

    /// The id of a session's flow, and whether that is one that exists.
    fn identify(&self, key: SessionKey, session: &Session) -> (FlowId, Joins) {
        let Some(randoms) = session.known.randoms() else {
            return (self.own_id(key, None), Joins::Nothing);
        };
        let id = shared_id(&randoms);
        let role = session.known.role;
        if let Some(number) = self.live_ids.get(&id)
            && let Some(flow) = self.flows.get(number)
        {
            if flow.role != role {
                return (id, Joins::Twin);
            }
            let inherited = session.known.announcement == Announcement::Inherited;
            if inherited && flow.may_be_joined_by(session.process.uid) {
                return (id, Joins::Parent(*number));
            }
        } else {
            match self.recent.get(&id) {
                None => return (id, Joins::Nothing),
                Some(recent) if recent.role != role => return (id, Joins::Twin),
                Some(_) => {}
            }
        }
        // The connection was put out once already: what comes now is a flow of its own, with other
        // sequence numbers.
        (self.own_id(key, Some(&id)), Joins::Nothing)
    }

    /// An id from the agent's own numbers.
    fn own_id(&self, key: SessionKey, after: Option<&FlowId>) -> FlowId {
        let hash = Sha256::new()
            .chain_update(b"tls-mirror session\0")
            .chain_update(self.config.seed)
            .chain_update(key.ring.to_be_bytes())
            .chain_update(key.connection.to_be_bytes())
            .chain_update(after.map_or([0; 16], |id| id.0));
        cut(&hash.finalize().into())
    }

    fn describe(&mut self, id: FlowId, session: &mut Session) -> FlowInfo {
        let randoms = session.known.randoms();
        let wire = randoms
            .and_then(|randoms| self.binder.find(&randoms))
            .cloned();
        let on_wire = self.on_wire(session);
        let found = session.found();
        // What was doubted and is seen on the wire, or was believed before, was true.
        let shown = found.or(on_wire).map(|(tuple, _)| tuple);
        let known = &mut session.known;
        if known.verdict() == Some(Verdict::Doubtful) {
            known.set_verdict(Verdict::Unproven(Unproven::Gone));
            if shown.is_none() || known.tuple() != shown {
                known.set_verdict(Verdict::Doubtful);
            }
        }
        let known = &session.known;
        let (tuple, binding) = match (known.tuple(), on_wire) {
            (Some(tuple), _) if known.addresses_told => (tuple, Binding::Told),
            (Some(tuple), _) => (tuple, Binding::Socket),
            (None, Some(found)) => found,
            (None, None) => (self.placeholder(), Binding::Placeholder),
        };
        let (tuple, binding) = found.unwrap_or((tuple, binding));
        let wire_prefix = wire.as_ref().and_then(|wire| wire.clear_prefix);
        let hello = wire.and_then(|wire| wire.hello);
        FlowInfo {
            id,
            tuple,
            binding,
            proof: known.verdict().map(Verdict::proof),
            process: std::sync::Arc::clone(&session.process),
            role: known.role,
            announcement: known.announcement,
            transport: known.transport,
            sni: known.sni.clone().or_else(|| hello.as_ref()?.sni.clone()),
            alpn: known.alpn.clone(),
            tls_version: known.tls_version,
            cipher: known.cipher,
            resumed: known.resumed,
            early: known.early,
            clear_prefix: match known.role {
                Role::Client => known.clear_prefix_sent.or(wire_prefix),
                Role::Server => wire_prefix,
            },
            continued: session
                .continued
                .map(|Continued { base, .. }| match known.role {
                    Role::Client => base,
                    Role::Server => (base.1, base.0),
                }),
            ja4: hello.map(|hello| hello.ja4.clone()),
            agent: None,
            real_client: None,
        }
    }

    /// What the wire tells of the addresses of a session that tells none. Where it shows several on the way, those are
    /// its own that are a socket's in its process's network.
    fn on_wire(&self, session: &Session) -> Option<(Tuple, Binding)> {
        let randoms = session.known.randoms()?;
        let wire = self.binder.find(&randoms)?;
        if let Some(sockets) = self.sockets.as_deref() {
            let mut tuples = self.binder.tuples(&randoms.0);
            if !tuples.contains(&wire.tuple) {
                tuples.push(wire.tuple);
            }
            if tuples.len() > 1 {
                tuples.retain(|tuple| sockets.has(&session.process, session.known.role, tuple));
                if let [tuple] = tuples[..] {
                    return Some((tuple, Binding::Wire));
                }
            }
        }
        let binding = match wire.ambiguous {
            true => Binding::WireAmbiguous,
            false => Binding::Wire,
        };
        Some((wire.tuple, binding))
    }

    /// Moves a flow that has ended to the recent ones.
    pub(super) fn forget_if_ended(&mut self, number: u64, now: MonotonicTime) {
        if !self.flows.get(&number).is_some_and(LiveFlow::has_ended) {
            return;
        }
        let Some(mut flow) = self.flows.remove(&number) else {
            return;
        };
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

    fn placeholder(&mut self) -> Tuple {
        let tuple = placeholder(self.next_placeholder);
        self.next_placeholder += 1;
        tuple
    }
}

/// Asks about what a session says of its socket, unless that was done.
fn verify(session: &mut Session, sockets: &mut dyn Sockets) {
    if session.known.verdict().is_none()
        && let Some(claim) = session.known.claim()
    {
        let verdict = judge(&claim, &session.process, sockets);
        session.known.set_verdict(verdict);
    }
}

/// Which flow a session belongs to.
enum Joins {
    /// Its own.
    Nothing,
    /// That of the process that forked it.
    Parent(u64),
    /// The same, and the flow knows.
    Already(u64),
    /// The other end's.
    Twin,
}

/// The id that both ends give a session: of public values, without a secret, on purpose.
fn shared_id(randoms: &Randoms) -> FlowId {
    let hash = Sha256::new()
        .chain_update(b"tls-mirror flow\0")
        .chain_update(randoms.0)
        .chain_update(randoms.1);
    cut(&hash.finalize().into())
}

fn cut(hash: &[u8; 32]) -> FlowId {
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    FlowId(id)
}
