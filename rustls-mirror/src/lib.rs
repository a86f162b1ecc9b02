//! The rustls side of the mirror: a Rust service that uses rustls is mirrored by wrappers with rustls'
//! own names, or by one line at start. Both feed [`mirror_hook`], as the patched libssl does.
//!
//! Being built: so far only what both have in common.
#![allow(dead_code, reason = "what uses these modules comes next")]

mod hello;
mod install;
mod session;
