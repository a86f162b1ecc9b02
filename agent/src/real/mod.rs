//! Behind a proxy: flows get the address of the client that the proxy speaks for, instead of the proxy's.
//!
//! ```text
//! FlowEvent ──> RealClients ──> FlowEvent
//!               proxy -> server          client A -> server   GET /1, its answer, GET /3, its answer
//!               GET /1 (for A)    ──>    client B -> server   GET /2, its answer
//!               GET /2 (for B)
//!               GET /3 (for A)
//! ```
//!
//! It stands where packets are forged, in front of the outputs: at an agent behind the mapper, at a collector behind
//! the union of both ends' copies, which is made of whole streams. What goes to a collector or a broker isn't touched.
//!
//! - Only what a trusted proxy says counts: [`Policy`] names their networks, and a flow whose client isn't in one of
//!   them passes as it is. Of a list of addresses the rightmost that isn't a trusted proxy's is the client's, since each
//!   proxy appends whom it has heard itself.
//! - [`Way::Xff`]: the heads of HTTP/1.1 requests are read, wherever they are in the stream. A request for another
//!   client than the one before goes into a flow of its own (a lane), with its answer. Ends of messages are followed
//!   by RFC 9112 section 6.3. A request that isn't understood, or may lie in a hole, ends the following: it and what comes behind
//!   it is nobody's, in a flow of the proxy's own address. Behind an answer that isn't understood, requests are told apart as
//!   before, and what the server says goes to the latest. HTTP/2 isn't read.
//! - [`Way::ProxyProtocol`]: the header in front of the client's text names the client; it is taken out.
//! - A head that isn't complete yet waits, within bounds of bytes and time, so each byte is in the flow that it belongs
//!   to. It is never in two, and never missing: all bytes come out, but for the PROXY header.
//! - A client whose port isn't known has the proxy's, or the next one with which no live flow has these addresses.
//!   Where client and server are of two families, the IPv4 address is written as an IPv6 one (RFC 4291 section 2.5.5.2).
//!
//! Pure: events and the time come as arguments.

mod address;
pub(crate) mod body;
mod claim;
mod clients;
#[cfg(test)]
mod corpus_tests;
mod held;
pub(crate) mod http;
mod lanes;
mod proxy;
mod session;
mod stats;
#[cfg(test)]
mod tests;
mod waiting;

pub use claim::{Policy, Way};
pub use clients::RealClients;
pub use stats::{RealStats, Stop};
