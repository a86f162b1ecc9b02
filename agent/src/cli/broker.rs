//! Options about a broker between agents and collectors, and the fleet's keys.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use agent::filter::network;
use agent::identity::Address;
use async_nats::ServerAddr;
use clap::{Args, Subcommand};
use mirror_hook::filter::Network;

use super::values::{parse_rotation_size, parse_time};

const BROKER: &str = "By a broker (NATS JetStream)";

/// Where `-t` leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// To a collector; behind a broker's first server, to another one of it.
    Collector(Address),
    /// To a broker: `nats://` or `tls://`.
    Broker(ServerAddr),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return broker(text).map(Self::Broker);
        }
        text.parse().map(Self::Collector)
    }
}

/// A server of a broker.
fn broker(text: &str) -> Result<ServerAddr, String> {
    let known = ["nats://", "tls://"]
        .iter()
        .any(|scheme| text.starts_with(scheme));
    match text.parse::<ServerAddr>() {
        Ok(server) if known && !server.host().is_empty() => Ok(server),
        _ => Err(format!(
            "'{text}' is no broker: nats://HOST[:PORT], or tls://HOST[:PORT]"
        )),
    }
}

/// Collecting from a broker.
#[derive(Args, Debug)]
pub(crate) struct FromArgs {
    /// With -C: take what agents have handed to this broker, together with all other collectors that do
    #[arg(help_heading = BROKER, long, value_name = "nats://HOST[:PORT],…", value_delimiter = ',', requires = "collector")]
    pub(crate) from: Vec<Target>,

    /// With --from: don't let in this agent any more, whose key was stolen; may be repeated
    #[arg(help_heading = BROKER, long, value_name = "NAME", requires = "from")]
    pub(crate) fleet_deny: Vec<String>,
}

/// A broker between agents and collectors.
#[derive(Args, Clone, Debug)]
pub(crate) struct BrokerArgs {
    /// The key for what goes by a broker: an agent's own one (`sslcollector fleet-key agent`), or, with -C, the
    /// fleet's (`sslcollector fleet-key init`). Without it, fleet.key in the directory of --state
    #[arg(help_heading = BROKER, long, value_name = "FILE")]
    pub(crate) fleet_key: Option<PathBuf>,

    /// Credentials of the broker's user (a JWT and a seed), as its own tools write them
    #[arg(help_heading = BROKER, long, value_name = "FILE", conflicts_with_all = ["nats_nkey_file", "nats_token_file", "nats_user"])]
    pub(crate) nats_creds: Option<PathBuf>,

    /// The seed of the broker's user, who is known by an NKey
    #[arg(help_heading = BROKER, long, value_name = "FILE", conflicts_with_all = ["nats_token_file", "nats_user"])]
    pub(crate) nats_nkey_file: Option<PathBuf>,

    /// The token that the broker asks for
    #[arg(help_heading = BROKER, long, value_name = "FILE", conflicts_with = "nats_user")]
    pub(crate) nats_token_file: Option<PathBuf>,

    /// The broker's user
    #[arg(help_heading = BROKER, long, value_name = "NAME", requires = "nats_password_file")]
    pub(crate) nats_user: Option<String>,

    /// The password of --nats-user
    #[arg(help_heading = BROKER, long, value_name = "FILE", requires = "nats_user")]
    pub(crate) nats_password_file: Option<PathBuf>,

    /// The authorities (PEM) whose certificate the broker must show, in place of the system's. Without TLS it is
    /// refused then, as it is with tls://
    #[arg(help_heading = BROKER, long, value_name = "FILE")]
    pub(crate) nats_ca: Option<PathBuf>,

    /// The certificate (PEM) that is shown to the broker
    #[arg(help_heading = BROKER, long, value_name = "FILE", requires = "nats_key")]
    pub(crate) nats_cert: Option<PathBuf>,

    /// The key (PEM) of --nats-cert
    #[arg(help_heading = BROKER, long, value_name = "FILE", requires = "nats_cert")]
    pub(crate) nats_key: Option<PathBuf>,

    /// The broker's stream, made if it isn't there. Its subjects are NAME.events.00 to NAME.events.63
    #[arg(help_heading = BROKER, long, value_name = "NAME", default_value = "sslcollector", value_parser = parse_stream)]
    pub(crate) nats_stream: String,

    /// How long a stream that is made keeps what no collector has read
    #[arg(help_heading = BROKER, long, value_name = "TIME", default_value = "24h", value_parser = parse_time)]
    pub(crate) nats_max_age: Duration,

    /// Most bytes in a stream that is made (K, M and G are known): what finds no room stays with the agents.
    /// Without it, as many as the broker allows
    #[arg(help_heading = BROKER, long, value_name = "BYTES", value_parser = parse_rotation_size)]
    pub(crate) nats_max_bytes: Option<u64>,

    /// Servers of the broker's cluster that keep a copy each of a stream that is made
    #[arg(help_heading = BROKER, long, value_name = "N", default_value = "1")]
    pub(crate) nats_replicas: NonZeroUsize,
}

fn parse_stream(text: &str) -> Result<String, String> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match (1..=32).contains(&text.len()) && text.bytes().all(is_part) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "'{text}' is no stream's name: 1 to 32 letters, digits, dashes and underscores"
        )),
    }
}

/// `sslcollector fleet-key`.
#[derive(Args, Debug)]
pub(crate) struct FleetKeyArgs {
    /// The file of the fleet's key
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) fleet_key: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub(crate) what: FleetKeyCommand,
}

/// What is done with a fleet's key.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub(crate) enum FleetKeyCommand {
    /// Make the key of a new fleet of collectors. All of them get a copy of the file; nobody else
    Init,
    /// Print the key of an agent, which is to be kept in a file on its host. It opens nothing. `umask 077` before it is
    /// written: a file that others can read is refused
    Agent {
        /// The agent's name
        name: String,

        /// Network in which the mirrored ends of the agent's sessions may be (10.0.0.0/8); may be repeated. Without
        /// it, anywhere. It is part of the key: another one takes a new key
        #[arg(long, value_name = "NET", value_parser = network)]
        net: Vec<Network>,
    },
    /// Put a new key in front of the fleet's: agents' keys are made from it, and what comes by older ones is read.
    /// All collectors get the file and are started again, then the agents get new keys
    Rotate,
    /// Drop the older keys, when no agent uses one any more. All collectors get the file and are started again
    Retire,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_told_from_collectors() {
        let target = |text: &str| text.parse::<Target>();
        assert!(matches!(target("sensor:7000"), Ok(Target::Collector(_))));
        for text in ["nats://a", "tls://b:4443", "nats://[::1]:4222"] {
            assert!(matches!(target(text), Ok(Target::Broker(_))), "{text}");
        }
        for text in ["http://a", "ws://a", "nats://", "nats:// a"] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
