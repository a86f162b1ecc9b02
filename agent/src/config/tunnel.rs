//! Which collectors get what is mirrored.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use agent::identity::Address;
use anyhow::bail;

use crate::cli::{Target, TunnelArgs};

/// A tunnel to one collector or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TunnelChoice {
    /// At least one.
    pub(crate) collectors: Vec<Address>,
    /// Each gets its part, instead of one of them everything.
    pub(crate) spread: bool,
    /// Bytes that wait in memory, for each one where it is spread.
    pub(crate) window_bytes: u64,
    /// A directory for what has no room there, and bytes in it.
    pub(crate) spool: Option<(PathBuf, u64)>,
    /// zstd's level.
    pub(crate) compression: Option<i32>,
    /// How long the end may take.
    pub(crate) linger: Duration,
    /// Without TLS.
    pub(crate) plaintext: bool,
    /// Where this host's identity is kept.
    pub(crate) state: PathBuf,
}

impl fmt::Display for TunnelChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.collectors.iter().map(Address::to_string).collect();
        write!(f, "the tunnel to {}", names.join(", "))
    }
}

/// The tunnel, if one is asked for.
///
/// # Errors
/// The options contradict one another.
pub(super) fn tunnel(args: TunnelArgs) -> anyhow::Result<Option<TunnelChoice>> {
    if args.tunnel.is_empty() {
        return Ok(None);
    }
    if args.spread && args.tunnel.len() == 1 {
        bail!("--spread needs several collectors: -t a,b");
    }
    let targets = args.tunnel.into_iter().map(|target| match target {
        Target::Collector(address) => Ok(address),
        Target::Broker(_) => bail!("a broker isn't a collector"),
    });
    let mut collectors = targets.collect::<anyhow::Result<Vec<_>>>()?;
    let mut seen = Vec::new();
    collectors.retain(|one| {
        let new = !seen.contains(one);
        seen.push(one.clone());
        new
    });
    Ok(Some(TunnelChoice {
        collectors,
        spread: args.spread,
        window_bytes: args.window,
        spool: args.spool.map(|directory| (directory, args.spool_size)),
        compression: args.compress,
        linger: args.linger,
        plaintext: args.insecure_plaintext,
        state: args.state,
    }))
}
