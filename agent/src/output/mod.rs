//! Where packets and summaries go.
//!
//! ```text
//! Forger ──> Reorder ──> PcapngWriter ──> file, pipe
//! Forger ──> InterfaceSink ──> interface
//! TextSummary ──> terminal
//! ```

mod interface;
mod packet_socket;
mod pcapng;
mod reorder;
mod tee;
mod text;

pub use interface::{InterfaceError, InterfaceSink, InterfaceStats, Losses, Pace};
pub use pcapng::PcapngWriter;
pub use reorder::{Reorder, ReorderStats};
pub use tee::Tee;
pub use text::{TextLimits, TextSummary};
