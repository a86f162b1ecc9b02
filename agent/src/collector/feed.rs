//! How batches come to the workers, whoever brings them: a connection, or a broker.
//!
//! ```text
//! Feed::room ──waits──> Room ──Feed::push──> WorkQueue of the partition's worker ──> Receipt::done
//! ```
//!
//! Room is bounded for each source and in all, in bytes of events, and given back when a batch has been read. So
//! who brings more than can be read waits in `room`, and nobody else does.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::queue::{ITEM_BYTES, Item, Work, WorkQueue};
use super::source::SourceInfo;
use crate::tunnel::batch::BatchError;
use crate::tunnel::frame::Batch;

/// Hears what became of batches. Called by workers: must not wait.
pub trait Acknowledge: Send + Sync + fmt::Debug {
    /// The outputs have taken this batch (0: one of a preamble, of which nobody needs to know). Batches of different partitions come in any order.
    fn done(&self, seq: u64);

    /// This batch can't be read. Nothing of the source is read any more.
    fn refused(&self, seq: u64, error: &UnreadableBatch);

    /// Asked right before a batch is read. If not, it is left out, and nothing more is said of it.
    fn may_be_read(&self) -> bool {
        true
    }
}

/// Why a batch can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnreadableBatch {
    /// What is in it.
    #[error(transparent)]
    Events(#[from] BatchError),
    /// It isn't what its header says, once it is uncompressed.
    #[error("a compressed batch isn't as its header says")]
    Compressed,
}

/// Whom to tell what became of a batch.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// Who.
    pub to: Arc<dyn Acknowledge>,
    /// As which batch.
    pub seq: u64,
}

/// Room for a batch, given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    _own: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Brings the batches of one source.
#[derive(Clone, Debug)]
pub struct Feed {
    info: Arc<SourceInfo>,
    queues: Arc<[Arc<WorkQueue>]>,
    own_room: Arc<Semaphore>,
    all_room: Arc<Semaphore>,
    own_bytes: u32,
}

impl Feed {
    pub(super) fn new(
        info: Arc<SourceInfo>,
        queues: Arc<[Arc<WorkQueue>]>,
        own_bytes: u32,
        all_room: Arc<Semaphore>,
    ) -> Self {
        Self {
            info,
            queues,
            own_room: Arc::new(Semaphore::new(own_bytes as usize)),
            all_room,
            own_bytes,
        }
    }

    /// Whose batches these are.
    pub fn info(&self) -> &Arc<SourceInfo> {
        &self.info
    }

    /// Waits for room for a batch of so many bytes of events, uncompressed, and what it costs beside them. `None`: the workers have stopped.
    pub async fn room(&self, bytes: u32) -> Option<Room> {
        let bytes = bytes.saturating_add(ITEM_BYTES).min(self.own_bytes);
        let own = Arc::clone(&self.own_room).acquire_many_owned(bytes).await;
        let all = Arc::clone(&self.all_room).acquire_many_owned(bytes).await;
        Some(Room {
            _own: own.ok()?,
            _all: all.ok()?,
        })
    }

    /// Hands a batch to its worker. Batches of one partition are read in this order.
    pub fn push(&self, batch: Batch, room: Room, receipt: Receipt) {
        let worker = usize::from(batch.partition) % self.queues.len();
        let work = Work::Batch {
            batch,
            _room: room,
            receipt,
        };
        self.queues[worker].push(self.item(work));
    }

    /// From here on the source tells again of all its live flows.
    pub fn preamble_begins(&self) {
        self.push_all(|| Work::PreambleBegins);
    }

    /// It has told of all: others are gone.
    pub fn preamble_ends(&self) {
        self.push_all(|| Work::PreambleEnds);
    }

    /// The source is gone: its live flows are reset behind what was pushed before.
    pub fn end(&self) {
        self.push_all(|| Work::End);
    }

    fn push_all(&self, work: impl Fn() -> Work) {
        for queue in &*self.queues {
            queue.push(self.item(work()));
        }
    }

    fn item(&self, work: Work) -> Item {
        Item {
            source: Arc::clone(&self.info),
            work,
        }
    }
}
