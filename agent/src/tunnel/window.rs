//! The window: batches that nobody has acknowledged yet, numbered from 1, and where a connection goes on.
//!
//! ```text
//!  acknowledged │ front: sent, or to be sent          │ on disk │ tail: on its way there
//!               oldest            cursor                                                next
//!    (shadow)   └ resume: back to here or to a later one
//! ```
//!
//! It knows no transport: the [`Outbox`](super::outbox::Outbox) pushes; whoever sends asks
//! [`outgoing`](Window::outgoing) what comes next, and says what has arrived. Without a [`Spool`](super::Spool)
//! the front is all there is.
//!
//! Its memory: batches of at most [`limit`](Window::new) bytes, each counted with [`SLOT_BYTES`] beside its events;
//! about 200 bytes and its names for each flow that lives at the oldest batch. The buffers in which batches lie
//! are shared by those of a partition, which adds 16 MiB at most; with a spool, one batch more than the limit may be on its
//! way back from the disk.

use std::collections::VecDeque;

use bytes::Bytes;

use super::batch::BatchWriter;
use super::frame::{Batch, Resume};
use super::shadow::Shadow;

/// What a batch takes beside its events, in bytes.
pub const SLOT_BYTES: u64 = 64;

/// Batches that wait for their acknowledgement.
#[derive(Debug)]
pub struct Window {
    limit: u64,
    spools: bool,
    /// The batches from `oldest` on.
    front: VecDeque<Kept>,
    front_bytes: u64,
    /// Number of the first in front, or of the next one if none is there.
    oldest: u64,
    /// How many are on disk; they come behind those in front.
    stored: u64,
    /// What comes behind those on disk.
    tail: VecDeque<Batch>,
    tail_bytes: u64,
    /// The number for the next batch.
    next: u64,
    /// The batch that a connection takes next.
    cursor: u64,
    /// The first number that has never been sent.
    unsent: u64,
    shadow: Shadow,
    preamble: Option<Preamble>,
    stats: WindowStats,
}

#[derive(Debug)]
struct Kept {
    batch: Batch,
    acknowledged: bool,
}

/// Flows that are still to be told of.
#[derive(Debug)]
struct Preamble {
    /// By partition.
    order: Vec<(u16, u64)>,
    told: usize,
}

/// What is to be sent next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// A batch; of a preamble if its number is 0.
    Batch(Batch),
    /// The preamble is complete.
    PreambleEnd,
}

/// What a window has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowStats {
    /// Batches that were sent, each counted once.
    pub sent_batches: u64,
    /// Bytes of events in them.
    pub sent_bytes: u64,
    /// Batches that were sent again.
    pub resent_batches: u64,
    /// Bytes of events in them.
    pub resent_bytes: u64,
    /// Batches that were acknowledged.
    pub acknowledged_batches: u64,
    /// Batches that wait, sent or not, in memory or on disk.
    pub waiting_batches: u64,
    /// Those of them that are on disk.
    pub stored_batches: u64,
    /// Batches that were on disk and couldn't be read again: their numbers came without events.
    pub lost_batches: u64,
    /// What those in memory take, in bytes.
    pub waiting_bytes: u64,
    /// Times that the receiver knew nothing of what had been.
    pub begun_anew: u64,
    /// Flows that live at the oldest batch.
    pub live_flows: usize,
}

/// The other side has said something that can't be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// What was acknowledged hasn't been sent.
    #[error("batch {through} was acknowledged, but those from {unsent} on haven't been sent")]
    AckOfUnsent {
        /// Its number.
        through: u64,
        /// The first that hasn't been sent on this connection.
        unsent: u64,
    },
    /// It wants what was acknowledged long ago, or what hasn't been sent yet.
    #[error("batch {wanted} is wanted, but there are those from {oldest} on, sent before {unsent}")]
    Resume {
        /// Its number.
        wanted: u64,
        /// The oldest one.
        oldest: u64,
        /// The first that was never sent.
        unsent: u64,
    },
}

impl Window {
    /// An empty window for so many bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            spools: false,
            front: VecDeque::new(),
            front_bytes: 0,
            oldest: 1,
            stored: 0,
            tail: VecDeque::new(),
            tail_bytes: 0,
            next: 1,
            cursor: 1,
            unsent: 1,
            shadow: Shadow::default(),
            preamble: None,
            stats: WindowStats::default(),
        }
    }

    /// Bytes that batches may have in memory.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Bytes that are free in memory. Only [`push`](Self::push) takes of them, so that who pushes may go by an old
    /// value.
    pub fn free(&self) -> u64 {
        match self.spools {
            // The other half is the front's.
            true => (self.limit / 2).saturating_sub(self.tail_bytes),
            false => self.limit.saturating_sub(self.front_bytes),
        }
    }

    /// Takes a batch's events, and returns its number. There is always room: see [`free`](Self::free).
    pub fn push(&mut self, partition: u16, events: Bytes) -> u64 {
        let batch = Batch {
            seq: self.next,
            partition,
            event_bytes: u32::try_from(events.len()).expect("batches are bounded"),
            compressed: false,
            events,
        };
        self.next += 1;
        let number = batch.seq;
        match self.stored == 0 && self.tail.is_empty() && self.front_has_room() {
            true => self.push_front(batch),
            false => {
                self.tail_bytes += cost(&batch);
                self.tail.push_back(batch);
            }
        }
        number
    }

    /// What comes next on the connection; `None`: nothing yet.
    pub fn outgoing(&mut self) -> Option<Outgoing> {
        if let Some(preamble) = &mut self.preamble {
            let told = next_of_preamble(preamble, &self.shadow);
            if told.is_none() {
                self.preamble = None;
            }
            return Some(told.map_or(Outgoing::PreambleEnd, Outgoing::Batch));
        }
        let at = usize::try_from(self.cursor - self.oldest).ok()?;
        let batch = self.front.get(at)?.batch.clone();
        let bytes = batch.events.len() as u64;
        if self.cursor < self.unsent {
            self.stats.resent_batches += 1;
            self.stats.resent_bytes += bytes;
        } else {
            self.stats.sent_batches += 1;
            self.stats.sent_bytes += bytes;
            self.unsent = self.cursor + 1;
        }
        self.cursor += 1;
        Some(Outgoing::Batch(batch))
    }

    /// All up to this one have arrived for good: they are forgotten.
    ///
    /// # Errors
    /// It hasn't been sent on this connection. Nothing is forgotten.
    pub fn ack(&mut self, through: u64) -> Result<(), WindowError> {
        self.check_sent(through)?;
        while self.oldest <= through {
            self.forget_oldest();
        }
        Ok(())
    }

    /// This one has arrived for good, whatever became of those before it. It is forgotten as soon as these are.
    ///
    /// # Errors
    /// As above.
    pub fn ack_one(&mut self, number: u64) -> Result<(), WindowError> {
        self.check_sent(number)?;
        let at = number
            .checked_sub(self.oldest)
            .and_then(|at| usize::try_from(at).ok());
        if let Some(kept) = at.and_then(|at| self.front.get_mut(at)) {
            kept.acknowledged = true;
        }
        while self.front.front().is_some_and(|kept| kept.acknowledged) {
            self.forget_oldest();
        }
        Ok(())
    }

    /// A connection begins here. Without one, nothing may be asked for or acknowledged.
    ///
    /// # Errors
    /// The batch isn't there. Where the connection goes on is undefined: it must be ended.
    pub fn resume(&mut self, resume: Resume) -> Result<(), WindowError> {
        match resume {
            Resume::Anew => {
                self.cursor = self.oldest;
                self.stats.begun_anew += u64::from(self.unsent > 1);
                self.preamble = Some(Preamble {
                    order: self.shadow.order(),
                    told: 0,
                });
            }
            Resume::From(wanted) => {
                if !(self.oldest..=self.unsent).contains(&wanted) {
                    return Err(WindowError::Resume {
                        wanted,
                        oldest: self.oldest,
                        unsent: self.unsent,
                    });
                }
                self.cursor = wanted;
                self.preamble = None;
            }
        }
        Ok(())
    }

    /// Everything has been handed out on this connection, the preamble too.
    pub fn is_all_sent(&self) -> bool {
        self.preamble.is_none() && self.cursor == self.next
    }

    /// The number of the oldest batch, or of the one that will come next.
    pub fn oldest(&self) -> u64 {
        self.oldest
    }

    /// Nothing waits for an acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.oldest == self.next
    }

    /// The counts so far.
    pub fn stats(&self) -> WindowStats {
        WindowStats {
            acknowledged_batches: self.oldest - 1,
            waiting_batches: self.next - self.oldest,
            stored_batches: self.stored,
            waiting_bytes: self.front_bytes + self.tail_bytes,
            live_flows: self.shadow.len(),
            ..self.stats
        }
    }

    fn check_sent(&self, through: u64) -> Result<(), WindowError> {
        match through < self.cursor {
            true => Ok(()),
            false => Err(WindowError::AckOfUnsent {
                through,
                unsent: self.cursor,
            }),
        }
    }

    fn forget_oldest(&mut self) {
        let Some(Kept { batch, .. }) = self.front.pop_front() else {
            return;
        };
        self.shadow.apply(batch.partition, &batch.events);
        self.front_bytes -= cost(&batch);
        self.oldest += 1;
        // One that was acknowledged on a connection before this one needn't go out again.
        self.cursor = self.cursor.max(self.oldest);
        self.advance();
    }

    fn front_has_room(&self) -> bool {
        !self.spools || self.front_bytes < self.limit / 2
    }

    fn push_front(&mut self, batch: Batch) {
        self.front_bytes += cost(&batch);
        self.front.push_back(Kept {
            batch,
            acknowledged: false,
        });
    }

    /// What needn't go to the disk any more goes to the front.
    fn advance(&mut self) {
        while self.stored == 0
            && self.front_has_room()
            && let Some(batch) = self.tail.pop_front()
        {
            self.tail_bytes -= cost(&batch);
            self.push_front(batch);
        }
    }
}

/// For whoever moves batches to the disk and back: one at a time, in their order.
impl Window {
    /// From now on half of the memory is for what is about to be sent, and the rest for what is on its way to
    /// the disk.
    pub(super) fn begin_to_spool(&mut self) {
        self.spools = true;
    }

    /// The batch that shall go to the disk.
    pub(super) fn to_store(&self) -> Option<Batch> {
        self.tail.front().cloned()
    }

    /// The disk has the batch that was to be stored. False: it has gone to the front in the meantime, and what the
    /// disk has is to be forgotten.
    #[must_use]
    pub(super) fn stored(&mut self, number: u64) -> bool {
        let Some(batch) = self.tail.pop_front_if(|batch| batch.seq == number) else {
            return false;
        };
        self.tail_bytes -= cost(&batch);
        self.stored += 1;
        true
    }

    /// Whether the front has room for a batch that is stored.
    pub(super) fn wants_load(&self) -> bool {
        self.stored > 0 && self.front_has_room()
    }

    /// The oldest batch on disk is back. `None`: it can't be read; its number comes without events, and what they
    /// said is missing.
    pub(super) fn loaded(&mut self, partition: u16, events: Option<Bytes>) {
        self.stats.lost_batches += u64::from(events.is_none());
        let events = events.unwrap_or_default();
        let batch = Batch {
            seq: self.oldest + self.front.len() as u64,
            partition,
            event_bytes: u32::try_from(events.len()).expect("batches are bounded"),
            compressed: false,
            events,
        };
        self.stored -= 1;
        self.push_front(batch);
        self.advance();
    }
}

/// What a batch counts in the window, in bytes.
fn cost(batch: &Batch) -> u64 {
    batch.events.len() as u64 + SLOT_BYTES
}

/// A batch of the flows that come next, all of one partition.
fn next_of_preamble(preamble: &mut Preamble, shadow: &Shadow) -> Option<Batch> {
    let (partition, _) = *preamble.order.get(preamble.told)?;
    let mut writer = BatchWriter::default();
    while let Some((_, flow)) = preamble
        .order
        .get(preamble.told)
        .filter(|(other, _)| *other == partition)
    {
        let fits = shadow.begin(*flow).is_none_or(|event| writer.push(&event));
        if !fits && !writer.is_empty() {
            break;
        }
        preamble.told += 1;
    }
    let events = writer.take();
    Some(Batch {
        seq: 0,
        partition,
        event_bytes: u32::try_from(events.len()).expect("batches are bounded"),
        compressed: false,
        events,
    })
}
