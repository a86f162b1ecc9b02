//! Captures for many readers at once, by TCP (PCAP-over-IP): whoever connects gets a capture that begins then.
//!
//! ```text
//!  agent's thread          a thread for each reader
//!  FlowEvent ──Feed──> log ──> Forger ──> Reorder ──> CaptureWriter ──> connection
//!                       └───> Forger ──> …
//! ```
//!
//! Each reader forges for itself, at its own pace: so none waits for another, nor the agent for any. What happened lies
//! in memory once, in a log of bounded size. Who comes late takes up the flows that are live, each in a conversation
//! of its own with a handshake, whose comment (pcapng has them) tells the offsets at which it begins. Who falls behind
//! so far that the log has gone on without it does the same with what has begun meanwhile; of what it has it gets on,
//! and what it missed is a gap of its exact size in the sequence numbers.

mod access;
mod connection;
mod listen;
mod log;
mod reader;
mod server;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

pub use access::{Access, TlsFiles};
pub use listen::{ListenAddress, ListenError};
pub use server::{Feed, ReaderStats, ReadersConfig, ReadersStats};
pub use stream::{Stream, StreamStats};

/// Readers can't be served.
#[derive(Debug, thiserror::Error)]
pub enum ReadersError {
    /// Others than this machine's users would reach it.
    #[error(
        "{0} can be reached from other machines, and whoever connects would read the clear text: ask readers for \
         certificates (--pcap-over-ip-client-ca, with --pcap-over-ip-cert and --pcap-over-ip-key), or say \
         --pcap-over-ip-anybody"
    )]
    Exposed(SocketAddr),
    /// A name has no address.
    #[error("can't find the address of {host}: {cause}")]
    Unknown {
        /// The name.
        host: String,
        /// The resolver's words.
        cause: io::Error,
    },
    /// Nobody can connect there.
    #[error("can't listen for readers at {address}: {cause}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The kernel's words.
        cause: io::Error,
    },
    /// A file for TLS can't be used.
    #[error("can't use {0} for readers by TLS: {1}")]
    Tls(PathBuf, String),
}

#[cfg(test)]
mod tests;
