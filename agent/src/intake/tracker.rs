//! The connections of one ring, and where each of their streams stands.
//!
//! Turns parsed records into [`SessionEvent`]s whose `Data` and `Lost` follow one another without
//! gap or overlap. A record that would break that is a violation: the ring is no longer believed.
//! What is only odd, and can't make text wrong, is left out and counted.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_hook::event::{Announcement, Body, CloseReason, Direction, EarlyData, Meta, Transport};
use mirror_hook::layout::FLAG_RECEIVED;
use mirror_hook::ring::{ClosedConnection, UnfinishedText};

use super::family::{End, Leaving};
use super::stats::IntakeStats;
use crate::event::{MonotonicTime, ProcessInfo, SessionChange, SessionEvent, SessionKey};
use crate::filter::Policy;
use crate::keep::saved::Saved;

/// Takes session events.
pub(super) type Sink<'s> = dyn FnMut(SessionEvent<'_>) + 's;

/// A record that no hook writes at this point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Its bytes mean nothing.
    #[error(transparent)]
    Malformed(#[from] mirror_hook::event::EventError),
    /// Text or a hole at an offset that was passed already.
    #[error("connection {connection} goes back from offset {expected} to {offset} ({direction:?})")]
    Backwards {
        /// Which connection.
        connection: u64,
        /// Which of its streams.
        direction: Direction,
        /// What comes next.
        expected: u64,
        /// What came.
        offset: u64,
    },
    /// A connection is announced a second time while it is open.
    #[error("connection {0} is announced twice")]
    OpenedTwice(u64),
    /// Text of a connection that was never announced.
    #[error("connection {0} was never announced")]
    NeverOpened(u64),
}

#[derive(Debug)]
struct Connection {
    /// Offsets that come next: sent, received.
    next: [u64; 2],
    early: EarlyData,
    /// Its text isn't forged, so it isn't passed on.
    without_text: bool,
    /// Forks of the process before which nobody else can have had it.
    forks: u32,
    /// The process has sent close_notify: whoever holds it, the session is over with its end.
    sent_ended: bool,
}

impl Connection {
    /// Whether somebody may hold it whom its process has forked, now that this has forked so often.
    fn may_be_held(&self, forks: u32) -> bool {
        forks > self.forks && !self.sent_ended && !self.without_text
    }
}

/// The open connections of one ring.
#[derive(Debug)]
pub(super) struct Tracker {
    ring: u64,
    process: Arc<ProcessInfo>,
    policy: Option<Arc<Policy>>,
    open: HashMap<u64, Connection>,
    /// The highest number that was announced.
    highest: u64,
    max_open: usize,
    /// Another agent began it, and may have been killed before it noted an OPEN.
    resumed: bool,
    /// Ends that a forked process may outlive.
    leaving: Vec<Leaving>,
}

impl Tracker {
    pub(super) fn new(
        ring: u64,
        process: Arc<ProcessInfo>,
        policy: Option<Arc<Policy>>,
        max_open: usize,
    ) -> Self {
        Self {
            ring,
            process,
            policy,
            open: HashMap::new(),
            highest: 0,
            max_open,
            resumed: false,
            leaving: Vec::new(),
        }
    }

    /// The connections of a ring that another agent has read so far.
    pub(super) fn resume(mut self, saved: &Saved) -> Self {
        self.resumed = true;
        self.highest = saved.highest;
        for session in &saved.sessions {
            let Some(meta) = session.meta() else {
                continue;
            };
            let connection = Connection {
                next: [meta.offsets.0, meta.offsets.1],
                early: meta.early,
                without_text: meta.transport != Transport::Tcp,
                forks: forks_before(&meta),
                sent_ended: session.ended.0,
            };
            self.open.insert(session.connection, connection);
        }
        self
    }

    pub(super) fn process(&self) -> &Arc<ProcessInfo> {
        &self.process
    }

    /// Takes the body of a record.
    ///
    /// # Errors
    /// See [`Violation`]; the ring is over.
    pub(super) fn record(
        &mut self,
        connection: u64,
        at: MonotonicTime,
        body: &Body<'_>,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Result<(), Violation> {
        match body {
            Body::Open(meta) => self.open(connection, at, meta, stats, sink),
            Body::Update(meta) => {
                self.update(connection, at, meta, stats, sink);
                Ok(())
            }
            Body::Data {
                direction,
                offset,
                bytes,
            } => self.data(connection, at, *direction, *offset, bytes, stats, sink),
            Body::Close {
                sent,
                received,
                reason,
                forks,
            } => {
                let closed = ClosedConnection {
                    connection,
                    reason: *reason,
                    sent: *sent,
                    received: *received,
                    at_ns: at.0,
                };
                self.close(&closed, at, *forks, stats, sink);
                Ok(())
            }
            Body::Lost {
                direction,
                from,
                to,
            } => self.lost(connection, at, *direction, *from, *to, stats, sink),
            Body::Look(part) => {
                match self.open.contains_key(&connection) {
                    true => sink(self.event(connection, at, SessionChange::Look { part })),
                    false => stats.stray_records += 1,
                }
                Ok(())
            }
        }
    }

    /// Takes the ends that a forked process may outlive: they weren't told.
    pub(super) fn take_leaving(&mut self) -> Vec<Leaving> {
        std::mem::take(&mut self.leaving)
    }

    /// Takes a CLOSE, from a record or from the close table. `forks`: how often the process had forked by
    /// then.
    pub(super) fn close(
        &mut self,
        closed: &ClosedConnection,
        at: MonotonicTime,
        forks: u32,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) {
        // An OPEN that never found room, or a second CLOSE.
        let Some(connection) = self.open.get_mut(&closed.connection) else {
            stats.stray_records += 1;
            return;
        };
        let session = SessionKey {
            ring: self.ring,
            connection: closed.connection,
        };
        // The end of one direction says nothing final of the other.
        let sent = closed.reason != CloseReason::ReceivedEnd;
        let received = closed.reason != CloseReason::SentEnd;
        let finals = [
            (sent, Direction::Sent, closed.sent),
            (received, Direction::Received, closed.received),
        ];
        for (is_final, direction, end) in finals {
            let next = &mut connection.next[index(direction)];
            if is_final && !connection.without_text && end > *next {
                stats.lost_bytes = stats.lost_bytes.saturating_add(end - *next);
                let change = SessionChange::Lost {
                    direction,
                    from: *next,
                    to: end,
                };
                *next = end;
                sink(SessionEvent {
                    session,
                    at,
                    change,
                });
            }
        }
        connection.sent_ended |= closed.reason == CloseReason::SentEnd;
        if matches!(closed.reason, CloseReason::Free | CloseReason::Abort) {
            let held = closed.reason == CloseReason::Free && connection.may_be_held(forks);
            let before = connection.forks;
            self.open.remove(&closed.connection);
            if held {
                self.leaving.push(Leaving {
                    session,
                    at,
                    end: End::Free,
                    forks: (before, forks),
                });
                return;
            }
        }
        let change = SessionChange::Close {
            reason: closed.reason,
        };
        sink(SessionEvent {
            session,
            at,
            change,
        });
    }

    /// The process was killed while it wrote this text: a hole, where it is known whose. Being beyond
    /// what it had completed, a wrong word in it can't make other text wrong.
    pub(super) fn unfinished(
        &mut self,
        text: &UnfinishedText,
        at: MonotonicTime,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) {
        let direction = match text.flags {
            FLAG_RECEIVED => Direction::Received,
            _ => Direction::Sent,
        };
        let Some(connection) = self.open.get(&text.connection) else {
            return;
        };
        let from = connection.next[index(direction)].max(text.offset);
        let to = from.saturating_add(text.length);
        // Neither unknown nor backwards, as has just been seen.
        let _ = self.lost_before(text.connection, at, direction, to, stats, sink);
    }

    /// The process is gone, having forked so often, or it is no longer believed (`None`): every open
    /// connection ends where it stands. The end of one that is gone is told by [`Tracker::take_leaving`]: what a
    /// child of it says comes first, also of one that was forked behind the hook's back, by a bare clone(2).
    pub(super) fn died(&mut self, at: MonotonicTime, forks: Option<u32>, sink: &mut Sink<'_>) {
        let mut connections: Vec<_> = self.open.drain().collect();
        connections.sort_unstable_by_key(|(number, _)| *number);
        for (number, connection) in connections {
            let session = SessionKey {
                ring: self.ring,
                connection: number,
            };
            match forks {
                Some(forks) => self.leaving.push(Leaving {
                    session,
                    at,
                    end: End::Died,
                    forks: match connection.may_be_held(forks) {
                        true => (connection.forks, forks),
                        false => (forks, forks),
                    },
                }),
                None => sink(SessionEvent {
                    session,
                    at,
                    change: SessionChange::Died,
                }),
            }
        }
    }

    fn event<'a>(
        &self,
        connection: u64,
        at: MonotonicTime,
        change: SessionChange<'a>,
    ) -> SessionEvent<'a> {
        SessionEvent {
            session: SessionKey {
                ring: self.ring,
                connection,
            },
            at,
            change,
        }
    }

    fn open(
        &mut self,
        number: u64,
        at: MonotonicTime,
        meta: &Meta<'_>,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Result<(), Violation> {
        if self.open.contains_key(&number) {
            return Err(Violation::OpenedTwice(number));
        }
        self.highest = self.highest.max(number);
        if self.open.len() >= self.max_open {
            stats.refused_connections += 1;
            return Ok(());
        }
        stats.connections += 1;
        let without_text = meta.transport != Transport::Tcp;
        stats.not_mirrored += u64::from(without_text);
        let connection = Connection {
            next: [meta.offsets.0, meta.offsets.1],
            early: meta.early,
            without_text,
            forks: forks_before(meta),
            sent_ended: false,
        };
        self.open.insert(number, connection);
        let process = &self.process;
        let change = SessionChange::Open {
            process,
            meta,
            policy: self.policy.as_ref(),
        };
        sink(self.event(number, at, change));
        Ok(())
    }

    fn update(
        &mut self,
        number: u64,
        at: MonotonicTime,
        meta: &Meta<'_>,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) {
        let Some(connection) = self.open.get_mut(&number) else {
            stats.stray_records += 1;
            return;
        };
        if meta.early == EarlyData::Rejected && connection.early != EarlyData::Rejected {
            connection.next[index(Direction::Sent)] = 0;
        }
        // What has been rejected stays so: offsets begin again once.
        if connection.early != EarlyData::Rejected {
            connection.early = meta.early;
        }
        let early = connection.early;
        let meta = &Meta { early, ..*meta };
        sink(self.event(number, at, SessionChange::Update { meta }));
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one record, taken apart by the only caller"
    )]
    fn data(
        &mut self,
        number: u64,
        at: MonotonicTime,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Result<(), Violation> {
        if !self.lost_before(number, at, direction, offset, stats, sink)? {
            stats.stray_bytes += bytes.len() as u64;
            return Ok(());
        }
        if let Some(connection) = self.open.get_mut(&number) {
            connection.next[index(direction)] = offset.saturating_add(bytes.len() as u64);
        }
        stats.text_bytes += bytes.len() as u64;
        let change = SessionChange::Data {
            direction,
            offset,
            bytes,
        };
        sink(self.event(number, at, change));
        Ok(())
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the fields of one record, taken apart by the only caller"
    )]
    fn lost(
        &mut self,
        number: u64,
        at: MonotonicTime,
        direction: Direction,
        from: u64,
        to: u64,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Result<(), Violation> {
        let next = self
            .open
            .get(&number)
            .map(|connection| connection.next[index(direction)]);
        if let Some(expected) = next
            && from < expected
        {
            return Err(Violation::Backwards {
                connection: number,
                direction,
                expected,
                offset: from,
            });
        }
        self.lost_before(number, at, direction, to, stats, sink)?;
        Ok(())
    }

    /// Declares what is missing in front of `offset`. False: the connection isn't to be told of.
    fn lost_before(
        &mut self,
        number: u64,
        at: MonotonicTime,
        direction: Direction,
        offset: u64,
        stats: &mut IntakeStats,
        sink: &mut Sink<'_>,
    ) -> Result<bool, Violation> {
        let Some(connection) = self.open.get_mut(&number) else {
            // Closed already, refused because there were too many, or its OPEN was lost with the agent
            // that had read it: counted by the caller.
            return match self.resumed || number <= self.highest {
                true => Ok(false),
                false => Err(Violation::NeverOpened(number)),
            };
        };
        if connection.without_text {
            return Ok(false);
        }
        let next = &mut connection.next[index(direction)];
        if offset < *next {
            return Err(Violation::Backwards {
                connection: number,
                direction,
                expected: *next,
                offset,
            });
        }
        if offset > *next {
            let change = SessionChange::Lost {
                direction,
                from: *next,
                to: offset,
            };
            stats.lost_bytes = stats.lost_bytes.saturating_add(offset - *next);
            *next = offset;
            sink(self.event(number, at, change));
        }
        Ok(true)
    }
}

/// Forks of the process before which nobody else can have had the connection. One that was announced before,
/// by whomever, may have gone to any child.
fn forks_before(meta: &Meta<'_>) -> u32 {
    match meta.announcement {
        Announcement::New => meta.forks,
        Announcement::Midstream | Announcement::Inherited => 0,
    }
}

fn index(direction: Direction) -> usize {
    match direction {
        Direction::Sent => 0,
        Direction::Received => 1,
    }
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
