//! What stood in the [table](super::table) of an agent that has ended.

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::Meta;
use mirror_hook::layout::kind;
use mirror_hook::shm::MapError;

use crate::event::{ProcessInfo, Settled};

/// Whose ring it is, and how it was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What its process said when it asked for the agent.
    pub message: AttachMessage,
    /// What was granted of it.
    pub granted_bytes: u64,
    /// The ring, by the agent.
    pub number: u64,
    /// The process.
    pub process: ProcessInfo,
}

/// A session that was open.
#[derive(Clone, Debug)]
pub struct SavedSession {
    /// Its number in its ring.
    pub connection: u64,
    /// The offsets that come next, sent and received.
    pub next: (u64, u64),
    /// Directions that had ended, sent and received.
    pub ended: (bool, bool),
    /// What had become of it.
    pub settled: Settled,
    pub(super) meta: Box<[u8]>,
}

impl SavedSession {
    /// What was known of it; its offsets are those that come next.
    pub fn meta(&self) -> Option<Meta<'_>> {
        let meta = Meta::parse(kind::OPEN, &self.meta).ok()?;
        let offsets = self.next;
        Some(Meta { offsets, ..meta })
    }
}

/// What stood in a table.
#[derive(Debug)]
pub struct Saved {
    /// Whose it is.
    pub identity: Identity,
    /// Open sessions.
    pub sessions: Vec<SavedSession>,
    /// The highest connection that was announced.
    pub highest: u64,
    /// When the last event was, CLOCK_MONOTONIC in nanoseconds.
    pub last_ns: u64,
}

/// It isn't a table, or none that this agent can read.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Not memory of the right kind.
    #[error(transparent)]
    Memory(#[from] MapError),
    /// Something else, or of another version of the agent.
    #[error("it isn't a table of sessions of this version")]
    NotOne,
}
