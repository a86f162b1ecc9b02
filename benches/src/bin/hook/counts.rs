//! Instructions of a call, by callgrind: the same on every run and every machine with this library.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, anyhow, ensure};

use crate::figures::Figures;
use crate::programs::{Caller, Place};
use crate::reader::{Reader, Reads};

/// Calls in the shorter of two runs; the longer has one thousand more.
const CALLS: u32 = 500;

/// What is in the way of a call.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Stock,
    Off,
    NoAgent,
    /// The agent has granted a ring, and stands still. There is room.
    Stopped,
    /// The same without room.
    Full,
}

/// What SSL_write costs more than the stock library's where nothing is mirrored, or nothing is read.
pub(crate) fn counts(place: &Place, figures: &mut Figures) -> anyhow::Result<()> {
    let stock = instructions(place, Condition::Stock)?;
    println!("instructions of an SSL_write of 64 bytes: {stock:.0}; more");
    for (condition, figure, what) in [
        (Condition::Off, "off", "where the mirror is off"),
        (Condition::NoAgent, "no_agent", "without an agent"),
        (
            Condition::Stopped,
            "stopped",
            "for an agent that stands still",
        ),
        (Condition::Full, "full", "once its ring is full"),
    ] {
        let more = instructions(place, condition)? - stock;
        println!("  {what}: {more:.0}");
        figures.add(&format!("{figure}_instructions"), more);
    }
    Ok(())
}

fn instructions(place: &Place, condition: Condition) -> anyhow::Result<f64> {
    let collected = |calls| move || collected(place, condition, calls);
    thread::scope(|scope| {
        let few = scope.spawn(collected(CALLS));
        let many = scope.spawn(collected(CALLS + 1000));
        let [few, many] = [few, many].map(|run| run.join().map_err(|_| anyhow!("a run panicked")));
        Ok((many?? - few??) / 1000.0)
    })
}

/// Instructions inside of SSL_write_ex in one run.
fn collected(place: &Place, condition: Condition, calls: u32) -> anyhow::Result<f64> {
    let name = format!("{condition:?}-{calls}");
    let library = match condition {
        Condition::Stock => &place.stock,
        _ => &place.patched,
    };
    let mut program = place.tls_calls(library, "null");
    let mut reader = None;
    match condition {
        Condition::Stock | Condition::Off => {}
        Condition::NoAgent => {
            program.env("SSLCOLLECTOR_SOCKET", place.path("nobody"));
        }
        Condition::Stopped | Condition::Full => {
            let stopped = Reader::start(&place.path(&name), Reads::Nothing)?;
            stopped.mirrors(&mut program);
            reader = Some(stopped);
        }
    }
    let is_full = matches!(condition, Condition::Full);
    if is_full {
        program.env("SSLCOLLECTOR_RING_BYTES", "65536");
    }
    let log = place.path(&format!("{name}.log"));
    let mut caller = Caller::start(&mut under_callgrind(&program, &log))?;
    if let Some(reader) = &reader {
        // Not before the ring is granted: until then other instructions run.
        reader.wait_attached()?;
    }
    if is_full {
        // Smaller than what is counted, so that nothing of that fits.
        caller.ask("32 1100")?;
    }
    caller.ask(&format!("64 {calls}"))?;
    caller.end()?;
    if let Some(reader) = reader {
        let dropped = reader.finish()?.dropped_records;
        ensure!((dropped > 0) == is_full, "{condition:?}: {dropped} dropped");
    }
    let said = std::fs::read_to_string(&log)?;
    let count = said
        .lines()
        .find_map(|line| line.split_once("Collected : "));
    let count = count.with_context(|| format!("callgrind: {said}"))?.1;
    Ok(count.trim().parse()?)
}

fn under_callgrind(program: &Command, log: &Path) -> Command {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--toggle-collect=SSL_write_ex"])
        .arg("--callgrind-out-file=/dev/null")
        .arg(format!("--log-file={}", log.display()))
        .arg(program.get_program())
        .args(program.get_args())
        .stderr(Stdio::inherit());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}
