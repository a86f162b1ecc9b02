//! An instance of an agent, across its connections, of which one speaks for it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use super::{AgentKey, Fleet};
use crate::collector::CLOCK_TOLERANCE_NS;
use crate::collector::acks::Acks;
use crate::collector::feed::{Feed, Receipt, Room};
use crate::collector::quota::Quota;
use crate::identity::AgentRecord;
use crate::tunnel::frame::{Batch, Instance, Reason, Resume};

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::collector) enum Closing {
    /// Another one speaks for its instance.
    Replaced,
    /// The agent may come in no more.
    Refused(Reason),
}

/// An instance of an agent, across its connections.
#[derive(Debug)]
pub(in crate::collector) struct Life {
    pub(super) state: Mutex<LifeState>,
}

#[derive(Debug)]
pub(super) struct LifeState {
    /// The connection that speaks for it.
    pub(super) connection: u64,
    /// The batch that comes next.
    pub(super) next: u64,
    pub(super) feed: Feed,
    pub(super) acks: Arc<Acks>,
    pub(super) closing: watch::Sender<Option<Closing>>,
    /// Since when it has no connection.
    pub(super) alone_since: Option<Instant>,
    /// It has said goodbye, or was thrown out.
    pub(super) over: bool,
}

/// A connection of an instance: what it may do is over as soon as there is a newer one.
#[derive(Debug)]
pub(in crate::collector) struct Seat {
    pub(super) fleet: Arc<Fleet>,
    pub(in crate::collector) life: Arc<Life>,
    pub(super) key: (AgentKey, Instance),
    pub(super) connection: u64,
    pub(in crate::collector) resume: Resume,
    /// The oldest batch that the agent has.
    pub(in crate::collector) oldest: u64,
    pub(in crate::collector) feed: Feed,
    pub(in crate::collector) acks: Arc<Acks>,
    pub(in crate::collector) quota: Arc<Quota>,
    pub(in crate::collector) record: Option<AgentRecord>,
    /// Why it has to end.
    pub(in crate::collector) closing: watch::Receiver<Option<Closing>>,
}

impl Life {
    pub(super) fn lock(&self) -> MutexGuard<'_, LifeState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its flows end; with a reason, so does its connection.
    pub(super) fn end(&self, reason: Option<Reason>) {
        let mut life = self.lock();
        if !std::mem::replace(&mut life.over, true) {
            life.feed.end();
        }
        if let Some(reason) = reason {
            life.closing.send_replace(Some(Closing::Refused(reason)));
        }
    }
}

impl Seat {
    /// Hands on a batch that comes next: part of the preamble, or by its number.
    ///
    /// # Errors
    /// It isn't the one that comes next; or (`None`) another connection speaks for the instance now.
    pub(in crate::collector) fn push(
        &self,
        batch: Batch,
        room: Room,
    ) -> Result<(), Option<Reason>> {
        let mut life = self.life.lock();
        if life.connection != self.connection || life.over {
            return Err(None);
        }
        if batch.seq != 0 {
            if batch.seq != life.next {
                return Err(Some(Reason::Malformed));
            }
            life.next += 1;
        }
        let receipt = Receipt {
            to: Arc::clone(&self.acks) as Arc<_>,
            seq: batch.seq,
        };
        self.feed.push(batch, room, receipt);
        Ok(())
    }

    /// The agent has said goodbye, or what can't be read: its flows end.
    pub(in crate::collector) fn end_source(&self) {
        let life = self.life.lock();
        if life.connection == self.connection {
            drop(life);
            self.life.end(None);
        }
    }

    pub(in crate::collector) fn clock_was_measured(&self, difference_ns: i64) -> bool {
        let counts = &self.feed.info().agent.counts;
        let before = counts.clock_difference_ns.load(Ordering::Relaxed);
        let felt = self.feed.info().set_clock_difference(difference_ns);
        felt && before.abs_diff(difference_ns) > CLOCK_TOLERANCE_NS.unsigned_abs()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.fleet.lock();
        state.connections = state.connections.saturating_sub(1);
        let mut life = self.life.lock();
        if life.connection != self.connection {
            return;
        }
        if life.over {
            // Whoever comes again under this name is taken for new.
            state.lives.remove(&self.key);
        } else {
            life.alone_since = Some(Instant::now());
        }
    }
}
