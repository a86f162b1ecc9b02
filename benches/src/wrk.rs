//! wrk: requests to a server, as fast as one thread of it can.

use std::process::Command;

use anyhow::{Context, ensure};

use crate::caller::run;

/// What wrk counted in a round.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// Requests that were answered, all of them well.
    pub requests: f64,
    /// Of them, in a second.
    pub speed: f64,
}

/// Has wrk ask for `url`.
///
/// # Errors
/// A request failed, or wrk says what nobody understands.
pub fn wrk(url: &str, connections: u32, duration: &str) -> anyhow::Result<Counted> {
    let connections = connections.to_string();
    let said = run(Command::new("wrk").args(["-t1", "-c", &connections, "-d", duration, url]))?;
    ensure!(
        !said.contains("Socket errors") && !said.contains("Non-2xx"),
        "{url}: {said}"
    );
    let number = |line: &str, prefix: &str| {
        let line = said.lines().find(|text| text.contains(line))?;
        let text = line.strip_prefix(prefix)?.split_whitespace().next()?;
        text.parse().ok()
    };
    Ok(Counted {
        requests: number(" requests in ", "").context("no count of requests")?,
        speed: number("Requests/sec:", "Requests/sec:").context("no speed")?,
    })
}
