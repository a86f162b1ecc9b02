//! Options for what speaks HTTP/2.

use clap::Args;

/// How HTTP/2 is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct Http1Args {
    /// Show sessions of HTTP/2 as the HTTP/1.1 that a browser would have spoken, so that rules for HTTP/1.1 match: requests
    /// one after another on the session's own addresses, those at the same time on further ports
    #[arg(long, help_heading = "HTTP/2")]
    pub(crate) http1: bool,

    /// Show content of HTTP/2 that is coded (gzip, deflate, br, zstd) decoded, as far as it can be: what would be far too much, is
    /// broken, or has a hole is shown as it came, or ends its flow by a reset
    #[arg(long, help_heading = "HTTP/2", requires = "http1")]
    pub(crate) decompress: bool,
}
