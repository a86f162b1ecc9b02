//! Where packets and summaries go.
//!
//! ```text
//! Forger ──> Reorder ──> FileSink ──> file
//! Stream ──> log ──> Forger ──> Reorder ──> CaptureWriter ──> pipe
//! Feed ──> log ──> Forger ──> Reorder ──> CaptureWriter ──> each reader's connection
//! Forger ──> InterfaceSink ──> interface
//! Forger ──> VxlanSink ──> sensor
//! TextSummary ──> terminal
//! SessionLog ──> LogWriter ──> file
//! ```

mod batch;
mod file;
mod interface;
mod losses;
mod pace;
pub(crate) mod packet_socket;
mod pcap;
mod pcapng;
mod readers;
mod reorder;
mod sessions;
mod tee;
mod text;
mod vxlan;

pub use file::{FileSink, Hope};
pub use interface::{InterfaceError, InterfaceSink, leave_cutting_to_kernel};
pub use losses::{Losses, SendStats};
pub use pace::Pace;
pub use pcap::{CaptureFormat, CaptureWriter, PcapWriter};
pub use pcapng::PcapngWriter;
pub use readers::{
    Access, Feed, ListenAddress, ListenError, ReaderStats, ReadersConfig, ReadersError,
    ReadersStats, Stream, StreamStats, TlsFiles,
};
pub use reorder::{Reorder, ReorderStats};
pub use sessions::{LogStats, LogTarget, LogWriter, SessionLog};
pub use tee::Tee;
pub use text::{TextLimits, TextSummary};
pub use vxlan::{Vni, VxlanAddress, VxlanError, VxlanSink};
