//! HTTP/2 as HTTP/1.1: sessions that speak HTTP/2 are told as a client would have spoken HTTP/1.1.
//!
//! ```text
//! FlowEvent ──> Http1 ──> FlowEvent
//!               stream 1 ──> session's own addresses    GET /1, its answer, GET /5, its answer
//!               stream 3 ──> another port (a lane)      GET /3, its answer, which took longer
//!               stream 5 ──^
//! ```
//!
//! It stands where packets are forged, in front of what gives flows their clients' addresses and of the outputs.
//!
//! - The first stream is told on the session's own addresses, as HTTP/1.1 with connections that are kept. One that begins while
//!   another is under way takes a lane that is idle, or a new one: the same addresses with a client port that no live flow has. So
//!   nothing waits for anything else, and all comes in the order in which it was said.
//! - Text is never kept: content goes out as it comes, in chunks where nobody said its length. Header blocks are kept until they
//!   are whole.
//! - Fields keep their order, and get the capitals that programs write in HTTP/1.1. Nothing of them can make another boundary
//!   than ours. Flow control, priorities and padding have no counterpart and aren't told.
//! - HTTP/1.1 goes on as it is, until it is upgraded to HTTP/2 (h2c, RFC 7540 section 3.2): from there on its streams are told,
//!   the answer to the request that asked for it first. The `101` isn't told, since behind it HTTP/1.1 would have ended.
//! - Where it is asked for, content that is coded (gzip, deflate, br, zstd) is told decoded, in chunks. Its head waits for the first
//!   text that is decoded, and what can't be is told as it came. What can't be gone on with ends its lane by a reset.
//! - A stream that is given up ends its lane by a reset. A hole within content is a hole in the lane.
//! - What isn't understood, isn't allowed or is too much ([`Stop`]) ends the telling: lanes with something under way are reset, the
//!   idle ones closed, and the session goes on as the frames that it is, in a flow of its own, from the first that wasn't told (in
//!   the middle of a DATA frame, where its begin was). Nothing is lost, and nothing is told twice.
//!
//! Bounds: 256 streams at a time, 256 given up within a second, header lists of 64 KiB in at most 17 frames, tables of 64 KiB, 64 MiB
//! for all sessions.
//!
//! Pure: events and the time come as arguments.

mod connection;
#[cfg(test)]
mod corpus_tests;
mod decoding;
mod exchange;
mod flows;
pub mod frame;
pub mod hpack;
mod lanes;
mod message;
mod part;
mod session;
mod stats;
mod streams;
#[cfg(test)]
mod tests;
mod upgrade;

pub use flows::Http1;
pub use part::{Http1Part, PartKind};
pub use stats::{Stop, TransformStats, Undecoded};
