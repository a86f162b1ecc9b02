//! What waits for a worker, in turns: each source gets its share of the worker's time, by bytes, however much it
//! brings (deficit round robin, Shreedhar and Varghese 1995).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::feed::{Receipt, Room};
use super::source::{SourceId, SourceInfo};
use super::workers::Request;
use crate::tunnel::batch::MAX_BATCH_BYTES;
use crate::tunnel::frame::Batch;

/// Bytes that a source gets a turn: the largest batch fits.
const QUANTUM_BYTES: usize = MAX_BATCH_BYTES;
/// What an item costs beside its bytes.
pub(super) const ITEM_BYTES: u32 = 256;

/// Something for a worker.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) source: Arc<SourceInfo>,
    pub(super) work: Work,
}

/// What is to be done.
#[derive(Debug)]
pub(super) enum Work {
    /// Read this.
    Batch {
        batch: Batch,
        _room: Room,
        receipt: Receipt,
    },
    /// See [`Feed`](super::feed::Feed).
    PreambleBegins,
    PreambleEnds,
    End,
}

impl Item {
    fn bytes(&self) -> usize {
        let own = match &self.work {
            Work::Batch { batch, .. } => batch.event_bytes as usize,
            _ => 0,
        };
        own + ITEM_BYTES as usize
    }
}

/// The queue of one worker. Its bytes are bounded by the [`Room`]s in it.
#[derive(Debug, Default)]
pub(super) struct WorkQueue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Debug, Default)]
struct State {
    sources: HashMap<SourceId, Waiting>,
    /// Whose turn it is.
    turns: VecDeque<SourceId>,
    requests: Vec<Request>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Waiting {
    items: VecDeque<Item>,
    deficit_bytes: usize,
}

/// What a worker is woken for.
#[derive(Debug, Default)]
pub(super) struct Turn {
    pub(super) items: Vec<Item>,
    pub(super) requests: Vec<Request>,
    /// Nothing waits, and nothing comes any more.
    pub(super) over: bool,
}

impl WorkQueue {
    pub(super) fn push(&self, item: Item) {
        let mut state = self.lock();
        if state.closed {
            return;
        }
        let id = item.source.id;
        let State { sources, turns, .. } = &mut *state;
        let waiting = sources.entry(id).or_default();
        if waiting.items.is_empty() {
            turns.push_back(id);
        }
        waiting.items.push_back(item);
        drop(state);
        self.wake.notify_one();
    }

    pub(super) fn request(&self, request: Request) {
        self.lock().requests.push(request);
        self.wake.notify_one();
    }

    /// Nothing more is taken; what waits is still read.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// Takes one source's turn, or waits for something.
    pub(super) fn next(&self, patience: Duration) -> Turn {
        let mut state = self.lock();
        if state.turns.is_empty() && state.requests.is_empty() && !state.closed {
            let waited = self.wake.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut turn = Turn {
            requests: std::mem::take(&mut state.requests),
            ..Turn::default()
        };
        state.take_turn(&mut turn.items);
        turn.over = state.closed && state.turns.is_empty() && turn.items.is_empty();
        turn
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // What is in it is whole between two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_turn(&mut self, into: &mut Vec<Item>) {
        let Some(id) = self.turns.pop_front() else {
            return;
        };
        let Some(waiting) = self.sources.get_mut(&id) else {
            return;
        };
        waiting.deficit_bytes += QUANTUM_BYTES + ITEM_BYTES as usize;
        while let Some(item) = waiting.items.front() {
            let bytes = item.bytes();
            if bytes > waiting.deficit_bytes {
                break;
            }
            waiting.deficit_bytes -= bytes;
            into.extend(waiting.items.pop_front());
        }
        if waiting.items.is_empty() {
            // Who has nothing to say saves nothing up.
            self.sources.remove(&id);
        } else {
            self.turns.push_back(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collector::agent::Agent;

    #[test]
    fn who_has_much_to_say_does_not_keep_others_waiting() {
        let queue = WorkQueue::default();
        let source = |id| {
            Arc::new(SourceInfo::new(
                SourceId(id),
                Arc::new(Agent::new(id, "", None)),
            ))
        };
        let (loud, quiet) = (source(1), source(2));
        let push = |source: &Arc<SourceInfo>, count: usize| {
            for _ in 0..count {
                queue.push(Item {
                    source: Arc::clone(source),
                    work: Work::PreambleEnds,
                });
            }
        };
        let each = QUANTUM_BYTES / ITEM_BYTES as usize + 1;
        push(&loud, 3 * each);
        push(&quiet, 1);
        let order: Vec<_> = std::iter::from_fn(|| {
            let turn = queue.next(Duration::ZERO);
            Some((turn.items.first()?.source.id.0, turn.items.len()))
        })
        .collect();
        assert_eq!(order, [(1, each), (2, 1), (1, each), (1, each)]);
        queue.close();
        assert!(queue.next(Duration::ZERO).over);
        push(&loud, 1);
        assert!(queue.next(Duration::ZERO).over, "closed");
    }
}
