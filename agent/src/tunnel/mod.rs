//! The way from agents to collectors: flow events in numbered batches, over TLS 1.3 or by a broker.
//!
//! ```text
//! agent                                              collector
//! FlowEvent ──outbox──> Batch ── window ── Frame ══> Frame ── Batch ──inlet──> FlowEvent
//!           (by partition)   (till acked)   TLS             (hostile)  (checked)
//! ```
//!
//! What travels has its addresses already: only the host has the wire, the sockets and the filters. The
//! collector's column goes on behind `flow`.
//!
//! - [`batch`] is what events look like; [`frame`] what passes on a connection.
//! - [`outbox`] turns an agent's flow events into batches; they wait in a [`window`] until they are acknowledged.
//!   Neither knows how they travel.
//! - [`Spool`] keeps on disk, sealed, what a window has no room for in memory.
//! - [`Sender`] brings a window's batches to a collector: `queue` writes them, `connection` is one connection, `dial`
//!   makes it.

mod backoff;
pub mod batch;
mod connection;
#[cfg(test)]
mod corpus_tests;
mod dial;
mod difference;
pub mod frame;
#[cfg(test)]
mod oracle_tests;
pub mod outbox;
mod queue;
pub(crate) mod remote;
mod sender;
#[cfg(test)]
mod sender_tests;
pub(crate) mod shadow;
mod shared;
mod spool;
mod spool_file;
mod status;
pub mod window;

pub use dial::{Collector, Security};
pub use difference::ClockDifference;
pub use sender::{Sender, SenderConfig};
pub use shared::SharedWindow;
pub use spool::Spool;
#[cfg(any(test, fuzzing))]
pub use spool_file::hostile_spool;
pub use status::{Connected, TunnelStatus};
