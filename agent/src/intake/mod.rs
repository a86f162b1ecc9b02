//! Where clear text enters the agent: processes attach here, their rings are read, and what they
//! hold becomes [`SessionEvent`](crate::event::SessionEvent)s. All of it comes from other people's processes and is checked
//! once, here; behind this module nothing is hostile but the clear text itself.
//!
//! ```text
//! socket ─> Listener ─message, memfd─> admit ─Consumer─> Ring ─records─> Tracker ─> SessionEvent
//!               └──── credentials ───> Peer ──pidfd──────┘   │ ends of who has forked
//!                                                            └────> Families ──> SessionEvent
//! ```

mod admit;
mod door;
mod doorbell;
mod family;
mod kept;
pub(crate) mod kin;
mod listener;
mod owner;
mod pace;
pub(crate) mod peer;
mod process;
pub(crate) mod seen;
mod sleep;
mod stats;
mod tracker;

mod facade;

pub use admit::Refusal;
pub use facade::{Admission, Intake, IntakeConfig, IntakeError, PollOutcome};
pub use listener::{ListenConfig, ListenError, Listener};
pub use stats::IntakeStats;
pub use tracker::Violation;
