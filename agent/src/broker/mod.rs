//! By a broker, NATS JetStream: any number of agents, any number of collectors, and neither knows the other.
//!
//! ```text
//! agent      Window ──Publisher──> one subject for each of 64 partitions ──> a stream, on the broker's disk
//! collector  a share of the partitions, by leases ──> Reader ──> open ──> Feed ──> workers ──> marks
//! ```
//!
//! - [`key`]: who may read, and who may speak. [`envelope`]: what the broker gets: nothing that it could read, or change
//!   without its being noticed.
//! - `access`: who we are to the broker, and whom we believe. `life`, `notices`: going on, and saying so, whatever it says.
//!   `publisher`: from an agent's window. `lease`, `permit`: one live consumer for each partition. `partition`, `reader`,
//!   `mark`: in order, each envelope once, and where a successor goes on.
//!
//! **What is lost.** Nothing that the broker has acknowledged to an agent, as long as the broker keeps it: a stream that
//! is full refuses, and what is refused stays in the agent's window. A server that is killed keeps what it has
//! acknowledged; of a machine that loses power, `replicas` keeps it.
//!
//! **What is put out twice.** A collector marks each second how far its outputs have come. If it dies, its successor
//! begins the live flows of the mark anew, as new flows, and reads on from there: what came between the mark and the
//! death may be seen again, in another TCP flow, at most `may_repeat_bytes`. If it hands over, nothing is.
//!
//! **Two at a time.** A collector asks its permit before it reads each batch; it ends by itself before anybody may take over.
//! One that is stopped between that look and the end of its worker's turn puts out, when it goes on, what it had
//! read in that turn and what its outputs still hold back (a capture's reordering window): nothing else. It can't mark
//! it, and its batches that were queued are left out. What both put out lies in different TCP flows.
//!
//! **What the broker can do.** Withhold, delay, and lose; it sees the agents' names, sizes and times. It can take
//! marks and stream together back to an earlier state, so that something is put out again. It can't read, forge,
//! change, move or cut out anything without its being counted.
//!
//! **What a stolen agent's key allows.** To speak in this agent's name until its name isn't let in any more; not
//! to read anything, nor to speak for others. **A stolen fleet's key** opens all that was recorded under it.

mod access;
mod collectors;
mod connect;
pub mod envelope;
mod flight;
pub mod key;
mod lease;
mod life;
mod mark;
mod notices;
mod partition;
mod permit;
mod publisher;
mod reader;
mod size;

pub use access::{Access, AccessError, Credentials, TlsFiles};
pub use collectors::{Collector, CollectorStats, Feeds};
pub use connect::BrokerConfig;
#[cfg(any(test, fuzzing))]
pub use mark::hostile_mark;
pub use publisher::{Publisher, PublisherStats};
