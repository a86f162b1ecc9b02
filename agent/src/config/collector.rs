//! What a collector is to do.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use agent::helper::User;
use agent::midstream::Midstream;
use agent::real::Policy;
use anyhow::bail;

use super::broker::{SourceChoice, source};
use super::midstream::midstream;
use super::outputs::outputs;
use super::shown::{Http2As, http1, real_clients};
use super::{InterfaceChoice, OutputChoice, VxlanChoice};
use crate::cli::ServeArgs;

/// All that a collector needs to know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CollectorSettings {
    /// Who it becomes, with a helper that stays; nobody else: it is one process as who it was started.
    pub(crate) user: Option<User>,
    /// Where packets go; at least one.
    pub(crate) outputs: Vec<OutputChoice>,
    /// Where agents call; none: everywhere, or nowhere where there is a broker.
    pub(crate) listen: Vec<SocketAddr>,
    /// A broker to which agents hand what they have.
    pub(crate) broker: Option<SourceChoice>,
    /// Where its identity is; `None`: it has none, and agents come without TLS.
    pub(crate) state: Option<PathBuf>,
    /// Threads that make packets.
    pub(crate) workers: usize,
    /// Bits a second of each agent that has no limit of its own.
    pub(crate) quota: Option<u64>,
    /// How long an agent is waited for.
    pub(crate) linger: Duration,
    /// Who is asked for a client's address.
    pub(crate) real_clients: Option<Policy>,
    /// What becomes of sessions whose beginning nobody saw.
    pub(crate) midstream: Midstream,
    /// HTTP/2 is shown as HTTP/1.1.
    pub(crate) http1: Http2As,
}

/// Resolves `-C`.
///
/// # Errors
/// Options that contradict one another, or no output.
pub(super) fn resolve_collector(args: ServeArgs) -> anyhow::Result<CollectorSettings> {
    let own_state = args.tunnel.state.clone();
    let state = (!args.tunnel.insecure_plaintext).then(|| args.tunnel.state.clone());
    let outputs = outputs(args.output, (args.tunnel, args.broker.clone()))?;
    let broker = source(args.from, args.broker, &own_state)?;
    if outputs.is_empty() {
        bail!(
            "no output: say where packets go, for example `sslcollector -C -o mirror0`, or `sslcollector -C -w out.pcapng`"
        );
    }
    let user = super::user(args.user.user)?;
    let real_clients = real_clients(args.real, &outputs)?;
    let midstream = midstream(args.midstream, &outputs)?;
    let http1 = http1(&args.http1, &outputs)?;
    let args = args.collector;
    // Each worker has a socket of its own; a file, a stream and a pace limit are one thing.
    let single = outputs.iter().find(|output| !is_shared(output));
    let workers = match (single, args.workers.map(NonZeroUsize::get)) {
        (Some(output), Some(workers)) if workers > 1 => bail!(
            "{output} can be written by one worker only: leave --workers out, or have packets on an interface or by VXLAN alone, without --pace"
        ),
        (Some(_), _) => 1,
        (None, Some(workers)) => workers,
        (None, None) => std::thread::available_parallelism().map_or(1, NonZeroUsize::get),
    };
    Ok(CollectorSettings {
        user,
        outputs,
        // Who is called by nobody needs no identity.
        state: state.filter(|_| broker.is_none() || !args.listen.is_empty()),
        listen: args.listen,
        broker,
        workers,
        quota: args.quota,
        linger: args.wait_for_agents,
        real_clients,
        midstream,
        http1,
    })
}

impl CollectorSettings {
    /// Agents call it.
    pub(crate) fn listens(&self) -> bool {
        self.broker.is_none() || !self.listen.is_empty()
    }
}

/// Whether several workers can put packets out there at once.
fn is_shared(output: &OutputChoice) -> bool {
    matches!(
        output,
        OutputChoice::Interface(InterfaceChoice { pace: None, .. })
            | OutputChoice::Vxlan(VxlanChoice { pace: None, .. })
            | OutputChoice::Log(_)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::config::{Task, resolve};

    fn settings(words: &[&str]) -> anyhow::Result<CollectorSettings> {
        let words = [&["sslcollector", "-C"], words].concat();
        match resolve(Cli::try_parse_from(words)?)? {
            Task::Collect(settings) => Ok(*settings),
            other => bail!("{other:?}"),
        }
    }

    #[test]
    fn a_file_has_one_writer() {
        assert_eq!(settings(&["-w", "x"]).unwrap().workers, 1);
        assert_eq!(settings(&["-o", "x", "--workers", "3"]).unwrap().workers, 3);
        let log = ["-o", "x", "--log", "y", "--workers", "3"];
        assert_eq!(settings(&log).unwrap().workers, 3);
        assert_eq!(settings(&["-o", "x", "--pace", "1G"]).unwrap().workers, 1);
        let vxlan = ["--vxlan", "10.0.0.5", "--vni", "7", "--workers", "3"];
        assert_eq!(settings(&vxlan).unwrap().workers, 3);
        assert!(settings(&[&vxlan[..], &["--pace", "1G"]].concat()).is_err());
        let error = settings(&["-w", "x", "--workers", "2"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("one worker only"), "{error}");
    }

    #[test]
    fn a_collector_needs_an_output_and_mirrors_nothing() {
        let error = settings(&[]).unwrap_err().to_string();
        assert!(error.contains("-C -o mirror0"), "{error}");
        for mixed in [
            ["-t", "sensor"],
            ["-I", "lo"],
            ["--socket", "x"],
            ["--allow", "all"],
        ] {
            let words = [&["-w", "x"], &mixed[..]].concat();
            assert!(settings(&words).is_err(), "{mixed:?}");
        }
        let plain = settings(&["-w", "x", "--insecure-plaintext"]).unwrap();
        assert_eq!(plain.state, None);
        assert!(settings(&["-w", "x"]).unwrap().state.is_some());
    }

    #[test]
    fn who_has_a_broker_needs_no_identity() {
        let from = settings(&["-w", "x", "--from", "nats://a:4223,b,[::1]:4224"]).unwrap();
        assert!(from.state.is_none() && !from.listens());
        let servers = from.broker.unwrap().broker.servers;
        let names: Vec<_> = servers
            .iter()
            .map(|server| format!("{}:{}", server.host(), server.port()))
            .collect();
        assert_eq!(names, ["a:4223", "b:4223", "::1:4224"]);
        let both = ["-w", "x", "--from", "nats://a", "--listen", "[::]:7833"];
        assert!(settings(&both).unwrap().state.is_some());
        assert!(settings(&["-w", "x", "--from", "sensor"]).is_err());
    }
}
