//! Which part of a session a flow tells.

use super::stats::Stop;
use crate::event::FlowId;

/// A flow that was made of a session of HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http1Part {
    /// The session's own id: the same in all flows that were made of it.
    pub session: FlowId,
    /// What it tells.
    pub kind: PartKind,
}

/// What a flow tells of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// Messages one after another, as HTTP/1.1. The session's own addresses have number 1.
    Lane(u64),
    /// One request that the server made for the client, with its answer.
    Push(u64),
    /// Frames as they are, from some place on.
    Raw {
        /// Offset in what the client said at which the flow begins.
        client: u64,
        /// The same of the server.
        server: u64,
        /// Why it couldn't go on.
        why: Stop,
    },
}
