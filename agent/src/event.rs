//! The events that travel down the column: from `intake` to `flow`, and from `flow` to `forge`.
//!
//! ```text
//! RawRecord ──intake──> SessionEvent ──flow──> FlowEvent ──forge──> Segment ──wire──> Frame ──> output
//! (hostile)             (checked)              (has its tuple)
//! ```
//!
//! Both kinds borrow their clear text: who must keep it, copies it. Times are in nanoseconds.

mod facts;

use std::sync::Arc;

use mirror_hook::event::{CloseReason, Direction, LookPart, Meta, Role};
use serde::{Deserialize, Serialize};

use crate::filter::Policy;

pub use facts::{
    Binding, FlowId, FlowInfo, LeftOut, MAX_PROCESS_NAME_BYTES, ProcessInfo, Proof, RealClient,
    RealClientWay, ToldAddress, Tuple,
};

/// CLOCK_MONOTONIC in nanoseconds, as the hook stamps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MonotonicTime(pub u64);

/// Nanoseconds since 1970-01-01 00:00 UTC, as a capture file has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

/// A session: one connection of one process (one ring).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionKey {
    /// The ring, numbered by the agent; never used again.
    pub ring: u64,
    /// The connection's number in that ring.
    pub connection: u64,
}

/// Something happened in a mirrored session. Everything in it has been checked.
#[derive(Clone, Copy, Debug)]
pub struct SessionEvent<'a> {
    /// Which session.
    pub session: SessionKey,
    /// When, by the mirrored process.
    pub at: MonotonicTime,
    /// What.
    pub change: SessionChange<'a>,
}

/// What happened in a session.
///
/// For each direction of a session `Data` and `Lost` follow one another without gap or overlap,
/// beginning at the offset that `Open` or `Resumed` gives; intake makes sure of it.
#[derive(Clone, Copy, Debug)]
pub enum SessionChange<'a> {
    /// It begins, or is announced.
    Open {
        /// Whose it is.
        process: &'a Arc<ProcessInfo>,
        /// What is known of it.
        meta: &'a Meta<'a>,
        /// The filters, as far as they concern the process; `None`: there are none.
        policy: Option<&'a Arc<Policy>>,
    },
    /// It was open when the agent before this one ended, and goes on here.
    Resumed {
        /// Whose it is.
        process: &'a Arc<ProcessInfo>,
        /// What was known of it; its offsets are those at which it goes on.
        meta: &'a Meta<'a>,
        /// The filters, as for `Open`.
        policy: Option<&'a Arc<Policy>>,
        /// Where its flow goes on.
        continued: &'a Continued,
    },
    /// More is known of it. Where its early data turns out to be rejected, the offsets of what is
    /// sent begin again at 0, once: what was sent before was never read.
    Update {
        /// What is known now; replaces what was.
        meta: &'a Meta<'a>,
    },
    /// What its process's connections have carried by then.
    Look {
        /// A part of that.
        part: &'a LookPart<'a>,
    },
    /// Clear text passed.
    Data {
        /// Seen from the process.
        direction: Direction,
        /// Offset of the first byte.
        offset: u64,
        /// 1 to 16,384 bytes.
        bytes: &'a [u8],
    },
    /// Clear text passed that nobody saw.
    Lost {
        /// Seen from the process.
        direction: Direction,
        /// First offset.
        from: u64,
        /// Offset behind the last.
        to: u64,
    },
    /// One direction, or the session, ends. A hole at the tail came before as `Lost`.
    Close {
        /// What ends, and how.
        reason: CloseReason,
    },
    /// The process is gone: the session ends where it stands.
    Died,
}

/// Where a flow goes on that another agent began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Continued {
    /// Stream offsets, sent and received, from which on it hasn't been passed on. Not below the
    /// session's own.
    pub base: (u64, u64),
    /// Its addresses, if they had been found.
    pub found: Option<(Tuple, Binding)>,
}

/// What has become of a session: for the agent that may have to go on with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// The flow that tells it; none where another copy is told.
    pub flow: Option<u64>,
    /// The addresses that it was told with, by the first session of the flow.
    pub found: Option<(Tuple, Binding)>,
}

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The one that connected.
    Client,
    /// The one that accepted.
    Server,
}

impl Side {
    /// The other end.
    pub fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }

    /// Who speaks when a process of this role sends or receives.
    pub fn speaker(role: Role, direction: Direction) -> Self {
        match (role, direction) {
            (Role::Client, Direction::Sent) | (Role::Server, Direction::Received) => Self::Client,
            (Role::Client, Direction::Received) | (Role::Server, Direction::Sent) => Self::Server,
        }
    }
}

/// Something to be forged.
#[derive(Clone, Copy, Debug)]
pub struct FlowEvent<'a> {
    /// Numbered by the agent; never used again.
    pub flow: u64,
    /// The event's time. Never goes back within a flow.
    pub at: WallTime,
    /// What is to be forged.
    pub change: FlowChange<'a>,
}

/// What is to be forged. `Begin` comes first and once, nothing follows the flow's end: a `Finish`
/// of each side, or a `Reset`.
#[derive(Clone, Copy, Debug)]
pub enum FlowChange<'a> {
    /// The flow begins.
    Begin(&'a FlowInfo),
    /// Clear text.
    Data {
        /// Who speaks.
        from: Side,
        /// Offset of the first byte in what this side says in this flow, from 0.
        offset: u64,
        /// 1 to 16,384 bytes.
        bytes: &'a [u8],
    },
    /// This much of what a side says is missing here.
    Hole {
        /// Who spoke.
        from: Side,
        /// Offset of the first byte that is missing.
        offset: u64,
        /// How many are missing; at least 1.
        bytes: u64,
    },
    /// A side says no more.
    Finish {
        /// Who.
        from: Side,
    },
    /// The flow ends abruptly.
    Reset {
        /// Who ended it.
        by: Side,
        /// Why.
        cause: ResetCause,
    },
}

/// Why a flow ends abruptly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResetCause {
    /// Its program gave the connection up before both sides had said that they end.
    Abort,
    /// Its process is gone, or not believed any more: it broke the rules of its ring.
    Died,
    /// Whoever told of it is gone, or knows nothing of it any more: an agent, at a collector.
    Untold,
    /// Its content was shown decoded, and can't be from there on.
    Undecoded,
}

/// Takes flow events: the forger, or a summary for people.
pub trait FlowSink {
    /// Takes one event, in the order of its flow.
    fn flow_event(&mut self, event: FlowEvent<'_>);
}

/// A frame on its way out.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When.
    pub at: WallTime,
    /// A whole Ethernet frame without FCS.
    pub frame: &'a [u8],
    /// What a reader should be told about it: on the first packet of a flow, and on a reset that tells of a hole or
    /// that the session itself did not show.
    pub comment: Option<&'a str>,
}

/// Takes packets: a capture file, an interface.
pub trait PacketSink {
    /// Takes one packet.
    ///
    /// # Errors
    /// The output can't be written; the caller stops or counts.
    fn packet(&mut self, packet: Packet<'_>) -> std::io::Result<()>;

    /// Hands on what is kept in buffers.
    ///
    /// # Errors
    /// As above.
    fn flush(&mut self) -> std::io::Result<()>;
}
