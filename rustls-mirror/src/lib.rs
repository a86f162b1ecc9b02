//! The rustls side of the mirror. Not built yet: this crate holds its place in the workspace and
//! says what it will be.
//!
//! A Rust service that uses rustls will be mirrored by wrappers with rustls' own names, or by one
//! line at start. Both will feed [`mirror_hook`], as the patched libssl does.
