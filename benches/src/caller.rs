//! Programs that are told by lines what to do, and answer with the time that it took.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};

/// Such a program, running. It ends when this is dropped.
#[derive(Debug)]
pub struct Caller {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Caller {
    /// Starts it.
    ///
    /// # Errors
    /// It can't be started.
    pub fn start(command: &mut Command) -> anyhow::Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: child.stdin.take(),
            output: BufReader::new(child.stdout.take().context("a pipe")?),
            child,
        })
    }

    /// Has it do what the line says; returns the number that it answers.
    ///
    /// # Errors
    /// It answers otherwise, or not at all.
    pub fn ask(&mut self, line: &str) -> anyhow::Result<f64> {
        writeln!(self.input.as_ref().context("a pipe")?, "{line}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        answer
            .trim()
            .parse()
            .with_context(|| format!("the answer to {line:?} is {answer:?}"))
    }

    /// Has it end as it likes, and waits for that.
    ///
    /// # Errors
    /// It doesn't end well.
    pub fn end(mut self) -> anyhow::Result<()> {
        drop(self.input.take());
        let status = self.child.wait()?;
        ensure!(status.success(), "a program of the benchmark: {status}");
        Ok(())
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Takes away what would enable a mirror.
pub fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "SOCKET",
        "ENABLE",
        "AGENT_UID",
        "RING_BYTES",
        "TELL_SOCKETS",
    ] {
        command.env_remove(format!("SSLCOLLECTOR_{name}"));
    }
    command
}

/// Runs a command to its end, and returns what it printed.
///
/// # Errors
/// It can't be run, or fails.
pub fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{name} (scripts/install-peers.sh build bench)"))?;
    ensure!(
        output.status.success(),
        "{name}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
