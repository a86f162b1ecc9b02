//! The log of sessions: a line of JSON for each, at its end.
//!
//! ```text
//! FlowEvent ──> SessionLog ──line──> LogWriter ══ queue, bounded ══> thread ──> file, or a pipe
//!               (each worker's)      (one for all)
//! ```
//!
//! Nobody waits for the file: what finds no room in the queue is counted, and declared by a line of its own in the place
//! where the sessions would stand. `docs/session-log.md` explains the fields.

mod log;
mod record;
mod target;
mod writer;

pub use log::SessionLog;
pub use target::LogTarget;
pub use writer::{LogStats, LogWriter};
