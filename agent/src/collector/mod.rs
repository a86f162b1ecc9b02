//! The collector: takes the events of many agents, and puts out their flows.
//!
//! ```text
//! connection ──┐                       ┌─ worker: inlet ─> merge ─> outlet
//! connection ──┼─ Feed (bounded) ─────>├─ worker: …
//! broker ──────┘                       └─ …
//! ```
//!
//! - [`Inlet`] checks what agents say; [`Merge`] brings both copies of a connection together; [`Workers`] do both,
//!   each for its partitions, and own the outputs.
//! - [`Feed`] is how batches come to them, whoever brings them.
//! - [`Listener`] takes connections; [`Fleet`] knows the agents behind them, across reconnects.

mod acks;
mod agent;
mod connection;
#[cfg(test)]
mod corpus_tests;
mod feed;
mod fleet;
mod framed;
mod gulp;
mod inlet;
mod lines;
mod listener;
mod merge;
mod pending;
mod queue;
mod quota;
mod source;
#[cfg(test)]
mod testing;
mod worker;
mod workers;

pub use agent::{Agent, AgentCounts};
pub use feed::{Acknowledge, Feed, Receipt, Room, UnreadableBatch};
pub use fleet::{AgentReport, Fleet};
pub use inlet::{CopySink, Inlet, InletLimits, InletStats};
pub use listener::{ListenError, Listener};
pub use merge::{Merge, MergeConfig, MergeStats};
pub use source::{CLOCK_TOLERANCE_NS, SourceId, SourceInfo};
pub use workers::{Outlet, WorkerReport, Workers, WorkersConfig};
