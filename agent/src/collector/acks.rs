//! Batches are read by several workers, and acknowledged in their order.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::feed::{Acknowledge, UnreadableBatch};

/// The acknowledgements of one source.
#[derive(Debug)]
pub(super) struct Acks {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// All up to this one are done.
    through: u64,
    /// Those that are done and have one before them that isn't.
    ahead: BTreeSet<u64>,
    refused: Option<UnreadableBatch>,
}

impl Acks {
    /// The first batch will be `first`.
    pub(super) fn new(first: u64) -> Self {
        Self {
            state: Mutex::new(State {
                through: first.saturating_sub(1),
                ahead: BTreeSet::new(),
                refused: None,
            }),
            changed: Notify::new(),
        }
    }

    /// All up to this one are done.
    pub(super) fn through(&self) -> u64 {
        self.lock().through
    }

    /// Why a batch can't be read, if that happened.
    pub(super) fn refused(&self) -> Option<UnreadableBatch> {
        self.lock().refused
    }

    /// Batches up to here never come.
    pub(super) fn skip_to(&self, through: u64) {
        let mut state = self.lock();
        state.through = state.through.max(through);
        state.close_up();
    }

    /// Until something has changed since the last time that this was waited for. For one at a time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn close_up(&mut self) {
        let through = self.through;
        self.ahead.retain(|seq| *seq > through);
        while self.ahead.first() == Some(&(self.through + 1)) {
            self.ahead.pop_first();
            self.through += 1;
        }
    }
}

impl Acknowledge for Acks {
    fn done(&self, seq: u64) {
        let mut state = self.lock();
        if seq <= state.through {
            return;
        }
        if seq == state.through + 1 {
            state.through = seq;
            if state.ahead.is_empty() {
                drop(state);
                return self.changed.notify_one();
            }
        } else {
            state.ahead.insert(seq);
        }
        state.close_up();
        drop(state);
        self.changed.notify_one();
    }

    fn refused(&self, _seq: u64, error: &UnreadableBatch) {
        self.lock().refused.get_or_insert(*error);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_acknowledged_has_come_without_a_gap(first in 1_u64..5, order in Just((0_u64..40).collect::<Vec<_>>()).prop_shuffle()) {
            let acks = Acks::new(first);
            let mut done = BTreeSet::new();
            for number in order {
                acks.done(first + number);
                done.insert(first + number);
                let gap = (first..).find(|seq| !done.contains(seq)).unwrap();
                prop_assert_eq!(acks.through(), gap - 1);
            }
            acks.done(0);
            acks.skip_to(first + 50);
            acks.done(first + 51);
            prop_assert_eq!(acks.through(), first + 51);
        }
    }
}
