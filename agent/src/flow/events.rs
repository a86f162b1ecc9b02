//! What becomes of each event of a session: it waits, flows, or is dropped and counted.

use std::sync::Arc;

use mirror_hook::event::{CloseReason, Direction, EarlyData, Meta, Transport};

use super::held::{Held, HeldChange};
use super::known::Known;
use super::mapper::Mapper;
use super::session::{Session, State, Waiting};
use crate::event::{Continued, FlowSink, MonotonicTime, ProcessInfo, SessionKey, Side, WallTime};
use crate::filter::Policy;

impl Mapper {
    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one event, taken apart by the only caller"
    )]
    pub(super) fn open(
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
            counted: None,
            counted_verdict: None,
            continued,
            shown: None,
            looked_at: None,
            state,
        };
        self.sessions.insert(key, session);
        self.try_release(key, now, sink);
    }

    pub(super) fn update(
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
    pub(super) fn data(
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
    pub(super) fn lost(
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
    pub(super) fn ended(
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
                    if over {
                        flow.forget(key);
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
