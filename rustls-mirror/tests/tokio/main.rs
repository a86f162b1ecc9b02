#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Streams of tokio-rustls, mirrored: they do what the bare ones do, and what they say is exact.

#[path = "../common/mod.rs"]
mod common;

mod early;
mod ends;
mod exact;
mod handshakes;
mod lazy;
mod many;
mod support;
mod transports;
mod views;
