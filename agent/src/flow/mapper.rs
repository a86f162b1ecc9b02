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
//!   as long as for the wire: it is contradicted, and the session goes as one without a socket, unless it ends. So does one
//!   that names the randoms of somebody else's connection.
//!
//! Pure: the time is an argument, and so is who can be asked about sockets. Events of one session must come in their order.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::binder::{Binder, Randoms};
use super::bounded::BoundedMap;
use super::counters::{Finder, Looker};
use super::held::HeldChange;
use super::live::LiveFlow;
use super::own::Networks;
use super::proof::{self, NoSockets};
use super::session::{Recent, Session};
use super::stats::FlowStats;
use super::taken::Taken;
use super::wire::WireFact;
use crate::clock::{Clock, Step};
use crate::event::{
    FlowId, FlowSink, MonotonicTime, ProcessInfo, SessionChange, SessionEvent, SessionKey, Settled,
    WallTime,
};

/// Bounds of a [`Mapper`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapperConfig {
    /// Handshakes are captured: a session without a socket waits for the wire.
    pub capture: bool,
    /// How long it waits, from when its handshake is complete, in nanoseconds.
    pub bind_timeout_ns: u64,
    /// How long one with a socket waits for its fingerprint, which the wire shows, in nanoseconds.
    pub fingerprint_timeout_ns: u64,
    /// The same where the wire has shown nothing of its connection so far: it may not be watched there.
    pub unseen_timeout_ns: u64,
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
            unseen_timeout_ns: 30_000_000,
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
    pub(super) taken: Taken,
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
    pub(super) networks: Option<Box<dyn Networks>>,
    pub(super) finder: Option<Finder>,
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
            taken: Taken::default(),
            waiting: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            awaited: HashMap::new(),
            held_bytes: 0,
            settled: Vec::new(),
            next_placeholder: 0,
            claims: Box::new(NoSockets),
            stats: FlowStats::default(),
            networks: None,
            finder: None,
        }
    }

    /// Asks these about what processes say of their sockets. Nobody is asked before.
    #[must_use]
    pub fn asking(mut self, sockets: Box<dyn proof::Sockets>) -> Self {
        self.claims = sockets;
        self
    }

    /// Where the wire shows a session under several addresses, from now on these say which are its own.
    pub fn ask_networks(&mut self, networks: Box<dyn Networks>) {
        self.networks = Some(networks);
    }

    /// Where a session tells no addresses, from now on these may be found by what the process's connections have carried,
    /// see [`counters`](super::counters). `told`: processes were asked to look themselves, too.
    #[must_use]
    pub fn looking(mut self, looker: Box<dyn Looker>, told: bool) -> Self {
        self.finder = Some(Finder::new(looker, told));
        self
    }

    /// A process is mirrored from now on, and hasn't said anything yet.
    pub fn expect(&mut self, process: &Arc<ProcessInfo>, now: MonotonicTime) {
        if let Some(finder) = &mut self.finder {
            finder.expect(process, now);
        }
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
        if let Some(finder) = &mut self.finder {
            finder.note(&event, now);
        }
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
            // The finder's alone.
            SessionChange::Look { .. } => {}
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
        for randoms in self.binder.observe(fact) {
            // Who is let go takes itself out of the table.
            for key in self.awaited.get(&randoms).cloned().unwrap_or_default() {
                self.try_release(key, now, sink);
            }
        }
    }

    /// Lets go what has waited long enough, forgets what is old. To be called some times a second
    /// at least, and after each batch of events.
    pub fn expire(&mut self, now: MonotonicTime, sink: &mut dyn FlowSink) {
        let found = self.finder.as_mut().map(|finder| finder.turn(now));
        for (key, found) in found.unwrap_or_default() {
            self.counted(key, found, now, sink);
        }
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
        // What has just come may say where somebody belongs.
        self.expire(now, sink);
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
}
