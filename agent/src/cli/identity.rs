//! Who is who between hosts and collectors: `-C --init`, `enroll`, `join`, `agents`.

use std::path::PathBuf;
use std::time::Duration;

use agent::filter::network;
use agent::identity::{Address, AgentName, DEFAULT_STATE_DIR};
use clap::{Args, Subcommand};
use mirror_hook::filter::Network;

use super::values::{parse_quota, parse_time};

/// Where identities are kept.
#[derive(Args, Clone, Debug)]
pub(crate) struct StateArgs {
    /// Directory of this machine's keys, and of what a collector knows of its agents. Without it, as the
    /// configuration file says
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR, global = true)]
    pub(crate) state: PathBuf,

    /// A configuration file that has it. Without this option, /etc/sslcollector/sslcollector.toml if it is there
    #[arg(long, value_name = "FILE", conflicts_with = "no_config", global = true)]
    pub(crate) config: Option<PathBuf>,

    /// Read no configuration file
    #[arg(long, global = true)]
    pub(crate) no_config: bool,
}

const COLLECTOR: &str = "Being a collector";

/// A collector's identity.
#[derive(Args, Debug)]
pub(crate) struct IdentityArgs {
    /// Make this collector's identity, and do nothing else
    #[arg(help_heading = COLLECTOR, long, requires = "collector", conflicts_with = "rotate")]
    pub(crate) init: bool,

    /// With --init: a name or address by which hosts reach this collector, with a port if it isn't 7833; may be
    /// repeated. Without it, this host's own
    #[arg(help_heading = COLLECTOR, long, value_name = "HOST[:PORT]", requires = "init")]
    pub(crate) name: Vec<Address>,

    /// Make a new server key, and do nothing else: hosts that have joined needn't do anything
    #[arg(help_heading = COLLECTOR, long, requires = "collector")]
    pub(crate) rotate: bool,
}

/// `sslcollector enroll`.
#[derive(Args, Debug)]
pub(crate) struct EnrollArgs {
    /// Where the host finds this collector; may be repeated. Without it, what `-C --init` was told
    #[arg(long, value_name = "HOST[:PORT]")]
    pub(crate) address: Vec<Address>,

    /// What the agent is called here; without it, as its host calls itself
    #[arg(long, value_name = "AGENT")]
    pub(crate) name: Option<AgentName>,

    /// There is an agent of that name: revoke it when the token is used
    #[arg(long, requires = "name")]
    pub(crate) replace: bool,

    /// Network in which the mirrored ends of the agent's sessions may be (10.0.0.0/8); may be repeated. Without it,
    /// they are at the addresses that the host has when it joins
    #[arg(long, value_name = "NET", value_parser = network)]
    pub(crate) net: Vec<Network>,

    /// How long the token is good (90s, 15m, 24h)
    #[arg(long, value_name = "TIME", default_value = "15m", value_parser = parse_time)]
    pub(crate) valid: Duration,

    /// Where the collector's identity is.
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `sslcollector join`.
#[derive(Args, Debug)]
pub(crate) struct JoinArgs {
    /// What `sslcollector enroll` printed on the collector; `-` reads it from standard input
    #[arg(value_name = "TOKEN")]
    pub(crate) token: String,

    /// This host has joined that collector before: replace its key
    #[arg(long)]
    pub(crate) again: bool,

    /// Where the host's identity is kept.
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// `sslcollector agents`.
#[derive(Args, Debug)]
pub(crate) struct AgentsArgs {
    /// What is done; without it, agents are listed.
    #[command(subcommand)]
    pub(crate) command: Option<AgentsCommand>,

    /// Where the collector's identity is.
    #[command(flatten)]
    pub(crate) state: StateArgs,
}

/// What is done to an agent. A collector that runs takes it at its next reload (SIGHUP).
#[derive(Debug, Subcommand)]
pub(crate) enum AgentsCommand {
    /// Never let this agent's key in again
    Revoke {
        /// Its name
        name: AgentName,
    },
    /// Replace the networks in which the mirrored ends of this agent's sessions may be
    Allow {
        /// Its name
        name: AgentName,
        /// Networks or addresses: 10.0.0.0/8 2001:db8::1
        #[arg(required = true, value_name = "NET", value_parser = network)]
        nets: Vec<Network>,
    },
    /// Limit what this agent may send
    Limit {
        /// Its name
        name: AgentName,
        /// Bits of clear text a second (K, M and G are known), or `none`
        #[arg(value_name = "BITS|none", value_parser = parse_quota)]
        quota: Quota,
    },
}

/// Most bits of clear text a second; `None`: as much as others leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quota(pub(crate) Option<u64>);
