//! A collector at its socket: agents that do as they should, and others.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests, also the helpers that aren't test functions"
)]

mod agent_side;
mod plaintext;
mod shares;
mod tls;
mod world;
