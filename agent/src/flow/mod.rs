//! Whose clear text is it: finds each session's TCP connection, brings its events in order and in
//! one shape, and sees to it that a connection with both ends mirrored comes out once.
//!
//! ```text
//! SessionEvent ───────────────────────> Mapper ──> FlowEvent
//! frames ──> Capture ─> Hellos ─> Binder ┤
//! kernel's table of sockets ──> proof ───┘
//! ```
//!
//! All but [`capture`] and what asks the kernel in [`proof`] is pure: bytes, the time, and who can be asked about
//! sockets are arguments.

pub mod binder;
pub mod capture;
#[cfg(test)]
mod corpus_tests;
pub mod counters;
pub mod hello;
pub mod hellos;
pub mod proof;
pub mod wire;

pub(crate) mod bounded;
mod describe;
mod ebpf;
mod events;
mod filter;
#[cfg(test)]
mod frames;
mod held;
mod known;
mod live;
mod local;
mod mapper;
mod own;
mod placeholder;
mod reading;
mod release;
mod session;
mod stats;
mod taken;
mod twin;
mod waiting;

#[cfg(test)]
mod tests;

pub use capture::{Capture, CaptureConfig, CaptureError, CaptureStats, OpenCapture};
pub use mapper::{Mapper, MapperConfig};
pub use own::{Networks, ProcNetworks};
pub use placeholder::placeholder;
pub use stats::FlowStats;
