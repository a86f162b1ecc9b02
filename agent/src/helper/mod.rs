//! The agent and its helper: what needs privilege is done by a process that reads nothing foreign, and what
//! reads foreign bytes has no privilege.
//!
//! ```text
//!  started as root ──fork──> helper: root, few capabilities. Answers typed requests, each of them about
//!        │                     │     something that it was told before there was any foreign byte
//!        │ opens sockets,      │
//!        │ files, interfaces   │  Unix sockets, one message a request: names of processes, who shares a
//!        │                     │  ring, the next file of an output, a pair of interfaces
//!        v                     │
//!   agent: another user, no capability, none to be had ever again
//!          programs' rings, packets, the tunnel
//! ```
//!
//! The process that was started becomes the agent, so signals, its exit status and the service manager's idea of
//! its main process are as without a helper. Either ends with the other one's end: the helper at once, since its
//! sockets say so; the agent goes on with what it has, and says what it can't do any more.
//!
//! No request is on the data path: one when a process attaches, one a second for all rings, one a file.

mod channel;
mod client;
mod duties;
mod request;
mod serve;
mod start;
mod unprivileged;
mod user;

pub use client::{Gone, Helper};
pub use duties::{Duties, Duty};
pub use request::Refusal;
pub use serve::refused;
pub use start::{StartError, start};
pub(crate) use unprivileged::take_right_to_enter;
pub use unprivileged::{BecomeError, become_user, give, renounce};
pub use user::User;
