//! Options that say which collectors get what is mirrored.

use std::path::PathBuf;
use std::time::Duration;

use agent::identity::DEFAULT_STATE_DIR;
use clap::Args;

use super::broker::Target;
use super::values::{parse_compression, parse_memory, parse_time};

const TUNNEL: &str = "To a collector";

/// A tunnel to one collector or several.
#[derive(Args, Debug)]
pub(crate) struct TunnelArgs {
    /// Send the sessions to this collector: a name or an address, with a port if it isn't 7833
    /// (`sensor:7000`, `[2001:db8::1]:7000`). Several, separated by commas: the next one where one fails. Or to a
    /// broker from which collectors take them (`nats://HOST[:PORT]`). May stand beside -w and -o
    #[arg(help_heading = TUNNEL, short = 't', long = "tunnel", value_name = "HOST[:PORT],…", value_delimiter = ',',
          group = "remote")]
    pub(crate) tunnel: Vec<Target>,

    /// Send each session to one of the collectors of -t, instead of all to the first that answers. What is for one
    /// that is down waits for it
    #[arg(help_heading = TUNNEL, long, requires = "tunnel")]
    pub(crate) spread: bool,

    /// Keep so many bytes in memory until the collector has them (K, M and G are known), for each collector with
    /// --spread. What doesn't fit is missing, and said to be
    #[arg(help_heading = TUNNEL, long, value_name = "BYTES", default_value = "64M", requires = "tunnel",
          value_parser = parse_memory)]
    pub(crate) window: u64,

    /// Keep what the window has no room for in a file without a name in this directory, sealed: nobody can read it
    /// when sslcollector has ended
    #[arg(help_heading = TUNNEL, long, value_name = "DIR", requires = "tunnel")]
    pub(crate) spool: Option<PathBuf>,

    /// So many bytes at most, for each collector with --spread
    #[arg(help_heading = TUNNEL, long, value_name = "BYTES", default_value = "1G", requires = "spool",
          value_parser = parse_memory)]
    pub(crate) spool_size: u64,

    /// Compress with zstd, at level 1 to 3
    #[arg(help_heading = TUNNEL, long, value_name = "LEVEL", num_args = 0..=1, default_missing_value = "1",
          requires = "tunnel", value_parser = parse_compression)]
    pub(crate) compress: Option<i32>,

    /// At the end, wait this long for the collector to have everything
    #[arg(help_heading = TUNNEL, long, value_name = "TIME", default_value = "5s", requires = "tunnel",
          value_parser = parse_time)]
    pub(crate) linger: Duration,

    /// Directory of this machine's keys, and of what a collector knows of its agents
    #[arg(help_heading = TUNNEL, long, value_name = "DIR", default_value = DEFAULT_STATE_DIR, requires = "remote")]
    pub(crate) state: PathBuf,

    /// Without TLS: whoever is on the way reads and writes what he likes. Both ends have to want it
    #[arg(help_heading = TUNNEL, long, requires = "remote")]
    pub(crate) insecure_plaintext: bool,
}
