//! The commands about identities: what they do, and what they say.

use std::io::{self, Read, Write};
use std::path::Path;

use agent::identity::{
    Administration, CollectorIdentity, ListedAgent, NewToken, join, network_text,
};
use anyhow::Context;
use time::OffsetDateTime;

use crate::cli::{AgentsArgs, AgentsCommand, EnrollArgs, JoinArgs};
use crate::config::IdentityTask;
use crate::run::say;

/// Longer than any token.
const MAX_TOKEN_BYTES: u64 = 8192;

/// Does it.
///
/// # Errors
/// Why not, with the next step.
pub(crate) fn perform(task: IdentityTask) -> anyhow::Result<()> {
    match task {
        IdentityTask::Init { state, names } => {
            let pin = CollectorIdentity::init(&state, &names)?;
            say(&format!(
                "made this collector's identity in {}; its key is {pin}",
                state.display()
            ));
            say(
                "next: `sslcollector -C -o mirror0 --create` (or with another output), then for each host `sslcollector enroll`",
            );
            Ok(())
        }
        IdentityTask::Rotate { state } => {
            CollectorIdentity::rotate(&state)?;
            say(
                "made a new server key; hosts that have joined go on, since the authority's key is the same",
            );
            tell(&Administration::open(&state)?);
            Ok(())
        }
        IdentityTask::Enroll(args) => enroll(args),
        IdentityTask::Join(args) => join_collector(&args),
        IdentityTask::Agents(args) => agents(args),
    }
}

/// How a collector that runs takes a change.
fn tell(administration: &Administration) {
    match administration.running() {
        Some(process) => say(&format!(
            "the collector that runs takes it at its next reload: kill -HUP {process}"
        )),
        None => say("no collector runs here; the next one takes it"),
    }
}

fn enroll(args: EnrollArgs) -> anyhow::Result<()> {
    let administration = Administration::open(&args.state.state)?;
    let token = administration.enroll(NewToken {
        addresses: args.address,
        name: args.name,
        replaces: args.replace,
        networks: args.net,
        valid: args.valid,
    })?;
    // The token alone, for a pipe to the host.
    writeln!(io::stdout(), "{}", token.encode()).context("can't print the token")?;
    let addresses: Vec<String> = token.addresses.iter().map(ToString::to_string).collect();
    say(&format!(
        "a token for one host, good until {}. On that host:  sslcollector join TOKEN",
        date(token.expires)
    ));
    say(&format!(
        "it will look for this collector at {}",
        addresses.join(", ")
    ));
    if administration.running().is_none() {
        say(
            "no collector runs here: start one before the host joins (`sslcollector -C -o mirror0 --create`)",
        );
    }
    Ok(())
}

fn join_collector(args: &JoinArgs) -> anyhow::Result<()> {
    let mut token = args.token.clone();
    if token == "-" {
        token.clear();
        let mut input = io::stdin().take(MAX_TOKEN_BYTES);
        let read = input.read_to_string(&mut token);
        read.context("can't read the token from standard input")?;
    }
    let joined = join(&args.state.state, &token, args.again)?;
    say(&format!(
        "this host has joined the collector at {} as {}; its key is {}",
        joined.address, joined.name, joined.pin
    ));
    say(&format!(
        "it may tell of sessions that end at {}; the certificate is good until {} and renews itself",
        either(&joined.networks.join(", "), "loopback only"),
        date(joined.certificate_until)
    ));
    say(&format!("next:  sslcollector -t {}", joined.address));
    Ok(())
}

fn agents(args: AgentsArgs) -> anyhow::Result<()> {
    let state: &Path = &args.state.state;
    let administration = Administration::open(state)?;
    match args.command {
        None => return list(&administration.agents()?).context("can't print the list"),
        Some(AgentsCommand::Revoke { name }) => administration.revoke(name.as_str())?,
        Some(AgentsCommand::Allow { name, nets }) => administration.allow(name.as_str(), nets)?,
        Some(AgentsCommand::Limit { name, quota }) => {
            administration.limit(name.as_str(), quota.0)?;
        }
    }
    tell(&administration);
    Ok(())
}

fn list(agents: &[ListedAgent]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if agents.is_empty() {
        say("no agent has joined yet: `sslcollector enroll` makes a token for one");
        return Ok(());
    }
    let name = |agent: &ListedAgent| agent.record.name.len();
    let width = agents.iter().map(name).max().unwrap_or_default().max(5);
    writeln!(
        out,
        "{:width$}  {:16}  {:20}  {:20}  {:20}  {:12}  NETWORKS",
        "AGENT", "KEY", "JOINED", "CERTIFICATE UNTIL", "REVOKED", "LIMIT"
    )?;
    for agent in agents {
        let record = &agent.record;
        let networks: Vec<String> = record.networks.iter().map(network_text).collect();
        let limit = record.quota_bits_per_s.map(|bits| format!("{bits} bit/s"));
        writeln!(
            out,
            "{:width$}  {:.16}  {:20}  {:20}  {:20}  {:12}  {}",
            record.name,
            record.key.to_string(),
            date(agent.joined),
            date(agent.certificate_until),
            agent.revoked.map_or_else(|| "-".into(), date),
            limit.unwrap_or_else(|| "-".into()),
            either(&networks.join(" "), "-"),
        )?;
    }
    Ok(())
}

fn either<'t>(text: &'t str, otherwise: &'t str) -> &'t str {
    if text.is_empty() { otherwise } else { text }
}

/// Seconds since 1970 as people read them.
fn date(seconds: u64) -> String {
    let date = i64::try_from(seconds).ok();
    match date.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) {
        None => seconds.to_string(),
        Some(date) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02} UTC",
            date.year(),
            u8::from(date.month()),
            date.day(),
            date.hour(),
            date.minute()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_795_374_600), "2026-11-22 19:10 UTC");
        assert_eq!(date(u64::MAX), u64::MAX.to_string());
    }
}
