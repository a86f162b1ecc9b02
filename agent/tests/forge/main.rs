//! The forger, judged by a reader that shares no code with it, and by other people's programs.

#![allow(
    clippy::unwrap_used,
    reason = "all of this is tests, also the helpers that aren't test functions"
)]

mod contract;
mod judges;
mod model;
mod reader;
mod sessions;
