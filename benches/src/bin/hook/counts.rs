//! Instructions of a call, by callgrind: the same on every run and every machine with this library.

use std::process::{Command, Stdio};

use anyhow::Context;

use crate::figures::Figures;
use crate::programs::Place;

/// Calls in the shorter of two runs; the longer has one thousand more.
const CALLS: u32 = 500;

/// What SSL_write costs more than the stock library's where nothing is mirrored.
pub(crate) fn counts(place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let stock = instructions(place, place.tls_calls(&place.stock, "null"))?;
    let off = instructions(place, place.tls_calls(&place.patched, "null"))?;
    let mut command = place.tls_calls(&place.patched, "null");
    command.env("SSLCOLLECTOR_SOCKET", place.path("nobody"));
    let no_agent = instructions(place, command)?;
    println!("instructions of an SSL_write of 64 bytes: {stock:.0}");
    println!(
        "  more where the mirror is off: {:.0}; without an agent: {:.0}",
        off - stock,
        no_agent - stock
    );
    figures.add("off_instructions", off - stock);
    figures.add("no_agent_instructions", no_agent - stock);
    Ok(())
}

fn instructions(place: &Place, program: Command) -> anyhow::Result<f64> {
    let few = collected(place, &program, CALLS)?;
    let many = collected(place, &program, CALLS + 1000)?;
    Ok((many - few) / 1000.0)
}

/// Instructions inside of SSL_write_ex.
fn collected(place: &Place, program: &Command, calls: u32) -> anyhow::Result<f64> {
    let input = place.path("callgrind.in");
    std::fs::write(&input, format!("64 {calls}\n"))?;
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--toggle-collect=SSL_write_ex"])
        .arg(format!(
            "--callgrind-out-file={}",
            place.path("callgrind.out").display()
        ))
        .arg(program.get_program())
        .args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = command
        .stdin(Stdio::from(std::fs::File::open(&input)?))
        .output()
        .context("valgrind (scripts/install-peers.sh bench)")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.with_context(|| format!("callgrind: {said}"))?.1;
    Ok(count.trim().parse()?)
}
