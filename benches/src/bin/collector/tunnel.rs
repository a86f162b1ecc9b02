//! The real agent: a program's ring in, tunnel out.
//!
//! It has a processor for itself; the program and the sink share the others. What counts is the processor time that it
//! used for what it sent, whatever else the machine does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::fleet::Load;
use crate::place::{Core, Place, processor_s, run_on};

/// What the program says, so that neither it nor the sink keeps the agent waiting for long, in Gbit/s.
const SAID_GBIT: &str = "2.0";

struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A line of what a child says.
fn line(child: &mut BufReader<impl std::io::Read>) -> anyhow::Result<String> {
    let mut line = String::new();
    child.read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

pub(crate) fn measure(place: &Place, bytes: u64) -> anyhow::Result<Load> {
    let (state, address) = {
        let collector = place.collector()?;
        let state = place.path("real");
        if !state.exists() {
            place.join("real", &collector)?;
        }
        (state, collector.address.to_string())
    };
    run_on(Core::Others)?;
    let mut sink = Command::new(std::env::current_exe()?)
        .arg("sink")
        .arg(place.state())
        .arg(&address)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut sink_says = BufReader::new(sink.stdout.take().context("a pipe")?);
    let _sink = KillOnDrop(sink);
    ensure!(line(&mut sink_says)? == "ready", "the sink doesn't begin");

    run_on(Core::First)?;
    let child = place
        .sslcollector()
        .args(["run", "-I", "none", "--on-full", "wait:1000", "-t"])
        .arg(&address)
        .arg("--state")
        .arg(state)
        .arg("--")
        .arg(std::env::current_exe()?)
        .args(["app-as", "bulk", &bytes.to_string(), SAID_GBIT])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    run_on(Core::All)?;
    let mut child = child?;
    let mut app_says = BufReader::new(child.stdout.take().context("a pipe")?);
    // The agent has started, and has a connection.
    ensure!(line(&mut app_says)? == "begun", "the program doesn't begin");
    let before = processor_s(child.id())?;
    let start = Instant::now();
    line(&mut app_says)?;
    let seconds = start.elapsed().as_secs_f64();
    // What is still on its way.
    std::thread::sleep(Duration::from_millis(300));
    let processor_s = processor_s(child.id())? - before;
    child.stdin.take().context("a pipe")?.write_all(b"\n")?;
    let output = child.wait_with_output()?;
    let report = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the agent: {report}");
    println!("  {}", line(&mut sink_says)?);
    // What found no room in the ring was never read, and what found none in the window was never sent.
    let number_before = |line: &str, words: &str| -> Option<f64> {
        let (before, _) = line.split_once(words)?;
        before.rsplit(' ').next()?.parse().ok()
    };
    let mut sessions = report.lines().filter(|line| line.contains(" sessions of "));
    let read = sessions.find_map(|line| number_before(line, " bytes of clear text"));
    let read = read.with_context(|| format!("the agent says: {report}"))?;
    let words = " bytes of clear text LOST on the way into the tunnel";
    let lost = report.lines().find_map(|line| number_before(line, words));
    let lost = lost.unwrap_or(0.0);
    if lost > 0.0 {
        println!("  of {read} bytes {lost} found no room in the window");
    }
    Ok(Load {
        bytes: read - lost,
        seconds,
        processor_s,
    })
}
