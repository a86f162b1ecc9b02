//! Options of a collector.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;

use super::values::{parse_bit_rate, parse_time};

const COLLECTOR: &str = "Being a collector";

/// Collects what agents send with `-t`.
#[derive(Args, Debug)]
pub(crate) struct CollectorArgs {
    /// Collect what many hosts send with -t, and put it out as packets: with -o, -w and whatever else says where
    /// packets go. Nothing on this host is mirrored
    #[arg(help_heading = COLLECTOR, short = 'C', long = "collector", group = "remote",
          conflicts_with_all = ["interfaces", "socket", "ring_size", "allow", "deny"])]
    pub(crate) collector: bool,

    /// Listen for agents at this address and port; may be repeated. Without it, at all addresses of this host,
    /// port 7833
    #[arg(help_heading = COLLECTOR, long, value_name = "ADDR:PORT", requires = "collector")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Threads that make packets, each with a socket of its own on the interface. Without it, one for each core. With
    /// an output that is one file or stream (-w), or with --pace, it is one
    #[arg(help_heading = COLLECTOR, long, value_name = "N", requires = "collector")]
    pub(crate) workers: Option<NonZeroUsize>,

    /// Take at most so many bits a second from each agent (K, M and G are known), unless it was given a limit of
    /// its own. What is more waits at the agent
    #[arg(help_heading = COLLECTOR, long, value_name = "BITS", requires = "collector", value_parser = parse_bit_rate)]
    pub(crate) quota: Option<u64>,

    /// Wait this long for an agent that has lost its connection before its sessions are ended
    #[arg(help_heading = COLLECTOR, long, value_name = "TIME", default_value = "60s", requires = "collector",
          value_parser = parse_time)]
    pub(crate) wait_for_agents: Duration,
}
