//! Options for what speaks HTTP/2.

use clap::Args;

/// How HTTP/2 is shown.
#[derive(Args, Clone, Debug)]
pub(crate) struct Http1Args {
    /// Show sessions of HTTP/2 as the HTTP/1.1 that a browser would have spoken, so that rules for HTTP/1.1 match: requests
    /// one after another on the session's own addresses, those at the same time on further ports
    #[arg(long, help_heading = "HTTP/2")]
    pub(crate) http1: bool,
}
