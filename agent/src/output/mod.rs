//! Where packets and summaries go.

mod pcapng;
mod tee;

pub use pcapng::PcapngWriter;
pub use tee::Tee;
