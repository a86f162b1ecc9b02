//! The table of sessions: each waits until its handshake is complete and its addresses are known,
//! then its flow begins and its events pass through.
//!
//! ```text
//!            handshake complete,                       Free, Abort, Died
//!   Waiting ─ addresses known or waited long enough ─> Flowing ────────> gone
//!      ├───── other end already put out ─────────────> Twin ───────────> gone
//!      └───── the filters exclude it ────────────────> Excluded ───────> gone
//! ```
//!
//! - Text of a waiting session is kept, up to a bound for each session and one for all. A session
//!   that passes it goes out with placeholder addresses at once: addresses are less than text. Only
//!   where it isn't known whether the server read the 0-RTT data, what doesn't fit becomes a hole.
//! - Filters are asked when a flow would begin; what isn't known by then excludes where a rule asks for it.
//! - Flow ids are SHA-256 of both randoms, cut to 128 bits: the same at both ends and on every host.
//! - Two sessions of one id and opposite roles are two copies of one connection, see [`super::twin`].
//!   Two of the same role and one of them inherited are a parent and its child: one flow, which ends with
//!   the last of them.
//!
//! - What a process says of its socket is checked before it is believed, see [`super::proof`]. A claim in doubt waits,
//!   as long as for the wire: it is contradicted, and the session goes as one without a socket, unless it ends.
//!
//! Pure: the time is an argument, and so is who can be asked about sockets. Events of one session must come in their order.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use mirror_hook::event::{CloseReason, Direction, EarlyData, Meta, Transport};

use super::binder::{Binder, Randoms};
use super::bounded::BoundedMap;
use super::held::{Held, HeldChange};
use super::known::Known;
use super::live::LiveFlow;
use super::own::Sockets;
use super::proof::{self, NoSockets};
use super::session::{Recent, Session, State, Waiting};
use super::stats::FlowStats;
use super::wire::WireFact;
use crate::clock::{Clock, Step};
use crate::event::{
    Continued, FlowId, FlowSink, MonotonicTime, ProcessInfo, SessionChange, SessionEvent,
    SessionKey, Settled, Side, WallTime,
};
use crate::filter::Policy;

/// Bounds of a [`Mapper`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapperConfig {
    /// Handshakes are captured: a session without a socket waits for the wire.
    pub capture: bool,
    /// How long it waits, from when its handshake is complete, in nanoseconds.
    pub bind_timeout_ns: u64,
    /// How long one with a socket waits for its fingerprint, which the wire shows, in nanoseconds.
    pub fingerprint_timeout_ns: u64,
    /// How long a session may wait for the end of its handshake, in nanoseconds. (Not when it
    /// sent 0-RTT data that the server may still refuse.)
    pub handshake_timeout_ns: u64,
    /// Memory for the waiting events of one session, in bytes.
    pub session_bytes: usize,
    /// Memory for those of all sessions, in bytes.
    pub total_bytes: usize,
    /// Most sessions at a time.
    pub max_sessions: usize,
    /// Handshakes on the wire to remember.
    pub wire_capacity: usize,
    /// How long an ended flow is remembered for the sake of its other end, in nanoseconds.
    pub recent_ns: u64,
    /// The first flow's number: above those of an agent whose sessions go on here.
    pub first_flow: u64,
    /// Somebody asks for [`Mapper::take_settled`].
    pub reports_settled: bool,
    /// Goes into the ids of sessions without randoms: something else in each run.
    pub seed: [u8; 16],
}

impl Default for MapperConfig {
    fn default() -> Self {
        Self {
            capture: false,
            bind_timeout_ns: 500_000_000,
            fingerprint_timeout_ns: 100_000_000,
            handshake_timeout_ns: 2_000_000_000,
            session_bytes: 4 << 20,
            total_bytes: 64 << 20,
            max_sessions: 128 * 1024,
            wire_capacity: 64 * 1024,
            recent_ns: 60_000_000_000,
            first_flow: 1,
            reports_settled: false,
            seed: [0; 16],
        }
    }
}

/// Turns [`SessionEvent`]s and what the wire shows into flow events.
#[derive(Debug)]
pub struct Mapper {
    pub(super) config: MapperConfig,
    pub(super) clock: Clock,
    pub(super) binder: Binder,
    pub(super) sessions: HashMap<SessionKey, Session>,
    pub(super) flows: HashMap<u64, LiveFlow>,
    pub(super) live_ids: HashMap<FlowId, u64>,
    pub(super) recent: BoundedMap<FlowId, Recent>,
    /// Waiting sessions by the time of their first event.
    pub(super) waiting: BTreeSet<(WallTime, SessionKey)>,
    /// Waiting sessions by the time at which something must happen to them.
    pub(super) deadlines: BTreeSet<(MonotonicTime, SessionKey)>,
    /// Waiting sessions by what the wire must show for them.
    pub(super) awaited: HashMap<Randoms, Vec<SessionKey>>,
    pub(super) held_bytes: usize,
    pub(super) next_flow: u64,
    pub(super) settled: Vec<(SessionKey, Settled)>,
    pub(super) next_placeholder: u64,
    pub(super) claims: Box<dyn proof::Sockets>,
    pub(super) stats: FlowStats,
    pub(super) sockets: Option<Box<dyn Sockets>>,
}

impl Mapper {
    /// An empty table. `clock` maps the events' times.
    pub fn new(config: MapperConfig, clock: Clock) -> Self {
        Self {
            binder: Binder::new(config.wire_capacity),
            recent: BoundedMap::new(config.max_sessions),
            next_flow: config.first_flow.max(1),
            config,
            clock,
            sessions: HashMap::new(),
            flows: HashMap::new(),
            live_ids: HashMap::new(),
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            awaited: HashMap::new(),
            held_bytes: 0,
            settled: Vec::new(),
            next_placeholder: 0,
            claims: Box::new(NoSockets),
            stats: FlowStats::default(),
            sockets: None,
        }
    }

    /// Asks these about what processes say of their sockets. Nobody is asked before.
    #[must_use]
    pub fn asking(mut self, sockets: Box<dyn proof::Sockets>) -> Self {
        self.claims = sockets;
        self
    }

    /// Where the wire shows a session under several addresses, from now on these say which are its own.
    pub fn ask_sockets(&mut self, sockets: Box<dyn Sockets>) {
        self.sockets = Some(sockets);
    }

    /// Takes an event of a session. `now`: when it was read from the ring.
    pub fn session_event(
        &mut self,
        event: SessionEvent<'_>,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let at = self.clock.wall(event.at);
        let key = event.session;
        match event.change {
            SessionChange::Open {
                process,
                meta,
                policy,
            } => self.open(key, at, process, meta, policy, None, now, sink),
            SessionChange::Resumed {
                process,
                meta,
                policy,
                continued,
            } => {
                let continued = Some(*continued);
                self.open(key, at, process, meta, policy, continued, now, sink);
            }
            SessionChange::Update { meta } => self.update(key, meta, now, sink),
            SessionChange::Data {
                direction,
                offset,
                bytes,
            } => self.data(key, at, direction, offset, bytes, now, sink),
            SessionChange::Lost {
                direction,
                from,
                to,
            } => self.lost(key, at, direction, from, to, now, sink),
            SessionChange::Close { reason } => {
                self.ended(key, at, HeldChange::Close(reason), now, sink);
            }
            SessionChange::Died => self.ended(key, at, HeldChange::Died, now, sink),
        }
    }

    /// Takes what the wire shows of a handshake.
    pub fn wire_fact(&mut self, fact: WireFact, now: MonotonicTime, sink: &mut dyn FlowSink) {
        let Some(randoms) = self.binder.observe(fact) else {
            return;
        };
        // Each takes itself out of the table.
        for key in self.awaited.get(&randoms).cloned().unwrap_or_default() {
            self.try_release(key, now, sink);
        }
    }

    /// Lets go what has waited long enough, forgets what is old. To be called some times a second
    /// at least, and after each batch of events.
    pub fn expire(&mut self, now: MonotonicTime, sink: &mut dyn FlowSink) {
        while let Some(&(deadline, key)) = self.deadlines.first()
            && deadline <= now
        {
            self.deadlines.pop_first();
            self.deadline_passed(key, now, sink);
        }
        self.claims.rest();
        let kept_ns = self.config.recent_ns;
        self.recent
            .drop_while(|flow| now.0.saturating_sub(flow.ended.0) > kept_ns);
    }

    /// The agent ends: everything that waits goes out as it is. Live flows are left as they stand:
    /// their connections go on.
    pub fn finish(&mut self, now: MonotonicTime, sink: &mut dyn FlowSink) {
        let waiting: Vec<_> = self.sessions_waiting();
        for key in waiting {
            self.release_anyhow(key, now, sink);
        }
    }

    /// The earliest time that an event yet to come from here may have because it waits here now.
    /// `None`: nothing waits. (A session whose 0-RTT data is neither accepted nor refused after the
    /// handshake's timeout no longer counts; its events may come out later than their time.)
    pub fn oldest_held(&self) -> Option<WallTime> {
        self.waiting.first().map(|(opened, _)| *opened)
    }

    /// What has become of sessions since the last call, where [`MapperConfig::reports_settled`] is set.
    pub fn take_settled(&mut self) -> Vec<(SessionKey, Settled)> {
        std::mem::take(&mut self.settled)
    }

    /// Takes another reading of both clocks; once a second is enough. Tells if the wall clock was set since.
    pub fn adjust_clock(&mut self, monotonic: MonotonicTime, wall: WallTime) -> Option<Step> {
        let step = self.clock.adjust(monotonic, wall);
        self.stats.clock_steps += u64::from(step.is_some());
        step
    }

    /// The wall time of a moment, as the events get it.
    pub fn wall(&self, at: MonotonicTime) -> WallTime {
        self.clock.wall(at)
    }

    /// Counts so far.
    pub fn stats(&self) -> &FlowStats {
        &self.stats
    }

    /// Flows that have begun and not ended.
    pub fn live_flows(&self) -> usize {
        self.flows.len()
    }

    /// Memory in use for waiting events, in bytes.
    pub fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one event, taken apart by the only caller"
    )]
    fn open(
        &mut self,
        key: SessionKey,
        at: WallTime,
        process: &Arc<ProcessInfo>,
        meta: &Meta<'_>,
        policy: Option<&Arc<Policy>>,
        continued: Option<Continued>,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        if self.sessions.contains_key(&key) || self.sessions.len() >= self.config.max_sessions {
            self.stats.refused_sessions += 1;
            return;
        }
        self.stats.sessions += 1;
        let state = match meta.transport {
            Transport::Tcp => {
                let deadline =
                    MonotonicTime(now.0.saturating_add(self.config.handshake_timeout_ns));
                self.deadlines.insert((deadline, key));
                self.waiting.insert((at, key));
                State::Waiting(Waiting {
                    held: Held::default(),
                    opened: at,
                    deadline: Some(deadline),
                    for_addresses: false,
                    awaits_wire: false,
                    half_closed: (false, false),
                    over: false,
                    joined: None,
                })
            }
            Transport::Dtls => {
                self.stats.dtls += 1;
                State::NotForged
            }
            Transport::Quic => {
                self.stats.quic += 1;
                State::NotForged
            }
        };
        let session = Session {
            process: Arc::clone(process),
            known: Known::new(meta),
            policy: policy.cloned(),
            base: continued.map_or(meta.offsets, |continued| continued.base),
            continued,
            state,
        };
        self.sessions.insert(key, session);
        self.try_release(key, now, sink);
    }

    fn update(
        &mut self,
        key: SessionKey,
        meta: &Meta<'_>,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let was_rejected = session.known.early == EarlyData::Rejected;
        session.known.learn(meta);
        if let State::Waiting(waiting) = &mut session.state
            && session.known.early == EarlyData::Rejected
            && !was_rejected
        {
            let before = waiting.held.charge();
            self.stats.early_rejected_bytes += waiting.held.drop_sent();
            self.held_bytes -= before - waiting.held.charge();
            session.base.0 = 0; // sent offsets begin again
        }
        self.try_release(key, now, sink);
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one event, taken apart by the only caller"
    )]
    fn data(
        &mut self,
        key: SessionKey,
        at: WallTime,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        if !self.has_room(key, bytes.len(), now, sink) {
            let to = offset.saturating_add(bytes.len() as u64);
            return self.lost(key, at, direction, offset, to, now, sink);
        }
        let length = bytes.len() as u64;
        let Some(session) = self.sessions.get_mut(&key) else {
            self.stats.unknown_bytes += length;
            return;
        };
        match &mut session.state {
            State::Waiting(waiting) => {
                waiting.held.push_data(at, direction, offset, bytes);
                self.held_bytes += Held::cost(bytes.len());
            }
            State::Flowing(flow) => match self.flows.get_mut(flow) {
                Some(flow) => flow.data(at, direction, offset, bytes, &mut self.stats, sink),
                None => self.stats.after_end_bytes += length,
            },
            State::Twin(_, fingerprint) => {
                self.stats.twin_bytes += length;
                fingerprint.data(Side::speaker(session.known.role, direction), bytes);
            }
            State::Excluded => self.stats.excluded_bytes += length,
            State::NotForged => self.stats.not_forged_bytes += length,
        }
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one event, taken apart by the only caller"
    )]
    fn lost(
        &mut self,
        key: SessionKey,
        at: WallTime,
        direction: Direction,
        from: u64,
        to: u64,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        // A hole is taken even where there is no room: adjacent ones are one event.
        self.has_room(key, 0, now, sink);
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        match &mut session.state {
            State::Waiting(waiting) => {
                let before = waiting.held.charge();
                waiting.held.push_lost(at, direction, from, to);
                self.held_bytes += waiting.held.charge() - before;
            }
            State::Flowing(flow) => {
                if let Some(flow) = self.flows.get_mut(flow) {
                    flow.lost(at, direction, to, &mut self.stats, sink);
                }
            }
            State::Twin(_, fingerprint) => fingerprint.hole(),
            State::Excluded | State::NotForged => {}
        }
    }

    /// The session closes, in part or as a whole, or its process has died.
    fn ended(
        &mut self,
        key: SessionKey,
        at: WallTime,
        change: HeldChange,
        now: MonotonicTime,
        sink: &mut dyn FlowSink,
    ) {
        let Some(session) = self.sessions.get_mut(&key) else {
            return;
        };
        let over = !matches!(
            change,
            HeldChange::Close(CloseReason::SentEnd | CloseReason::ReceivedEnd)
        );
        match &mut session.state {
            State::Waiting(waiting) if !waiting.over => {
                let seen = match change {
                    HeldChange::Close(CloseReason::SentEnd) => &mut waiting.half_closed.0,
                    HeldChange::Close(CloseReason::ReceivedEnd) => &mut waiting.half_closed.1,
                    _ => &mut waiting.over,
                };
                if std::mem::replace(seen, true) {
                    return;
                }
                let before = waiting.held.charge();
                waiting.held.push(at, change);
                self.held_bytes += waiting.held.charge() - before;
                if over {
                    self.settle(key, now, sink);
                }
            }
            State::Flowing(number) => {
                let number = *number;
                if let Some(flow) = self.flows.get_mut(&number) {
                    match change {
                        HeldChange::Close(reason) => flow.close(at, reason, &mut self.stats, sink),
                        _ => flow.died(at, &mut self.stats, sink),
                    }
                }
                self.forget_if_ended(number, now);
                if over {
                    self.sessions.remove(&key);
                }
            }
            State::Twin(..) if over => {
                if let Some(session) = self.sessions.remove(&key)
                    && let State::Twin(id, fingerprint) = session.state
                {
                    self.twin_ended(id, fingerprint);
                }
            }
            State::Excluded | State::NotForged if over => {
                self.sessions.remove(&key);
            }
            State::Waiting(_) | State::Twin(..) | State::Excluded | State::NotForged => {}
        }
    }
}
