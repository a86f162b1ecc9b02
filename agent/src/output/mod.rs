//! Where packets and summaries go.
//!
//! ```text
//! Forger ──> Reorder ──> PcapngWriter ──> file, pipe
//! TextSummary ──> terminal
//! ```

mod pcapng;
mod reorder;
mod tee;
mod text;

pub use pcapng::PcapngWriter;
pub use reorder::{Reorder, ReorderStats};
pub use tee::Tee;
pub use text::{TextLimits, TextSummary};
