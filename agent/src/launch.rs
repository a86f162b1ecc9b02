//! Starts the program of `run`, hands signals to it, and reaps it and its descendants.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use agent::filter::Filters;
use anyhow::{Context, anyhow};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions, wait, waitid};

use crate::config::Program;

/// A program that has been started.
#[derive(Debug)]
pub(crate) struct Running {
    pid: Pid,
    exit: Option<Exit>,
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// By itself, with this status.
    Status(i32),
    /// By this signal.
    Signal(i32),
}

impl Exit {
    /// The status to pass on: 128 + N for signal N, as shells have it.
    pub(crate) fn code(self) -> u8 {
        let (Self::Status(code) | Self::Signal(code)) = self;
        let code = u8::try_from(code & 0xff).unwrap_or(u8::MAX);
        match self {
            Self::Status(_) => code,
            Self::Signal(_) => code.wrapping_add(128),
        }
    }
}

/// What a program is told that is started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms<'a> {
    /// Where the agent listens.
    pub(crate) socket: &'a Path,
    /// Size of the ring that it may count on: what it says before the agent has looked is whole, too.
    pub(crate) ring_bytes: u64,
    /// How long its calls may wait where that is full, in milliseconds.
    pub(crate) wait_ms: u32,
    /// It has them from its first connection on.
    pub(crate) filters: &'a Filters,
    /// The agent doesn't see the wire.
    pub(crate) tell_sockets: bool,
    /// Its standard output goes where ours for errors goes.
    pub(crate) stdout_to_stderr: bool,
}

impl Running {
    /// Starts `program` so that it loads the patched library (where there is one), on these terms.
    ///
    /// This process becomes the reaper of all descendants: they stay in its tree also when their
    /// parents end first, which is how the agent knows them as its own.
    ///
    /// # Errors
    /// The program can't be started; says why.
    pub(crate) fn start(program: &Program, terms: &Terms<'_>) -> anyhow::Result<Self> {
        let [name, arguments @ ..] = program.words.as_slice() else {
            return Err(anyhow!("no program to run"));
        };
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .context("can't become the reaper of the program's children")?;
        let uid = rustix::process::geteuid().as_raw();
        let mut command = Command::new(name);
        command
            .args(arguments)
            .env("SSLCOLLECTOR_SOCKET", terms.socket)
            .env("SSLCOLLECTOR_AGENT_UID", uid.to_string())
            .env("SSLCOLLECTOR_RING_BYTES", terms.ring_bytes.to_string())
            .env("SSLCOLLECTOR_WAIT_MS", terms.wait_ms.to_string())
            // Not those of a run around this one.
            .env_remove("SSLCOLLECTOR_POLICY")
            .env_remove("SSLCOLLECTOR_TELL_SOCKETS")
            .arg0(name);
        if let Some(dir) = &program.library_dir {
            command.env("LD_LIBRARY_PATH", library_path(dir));
        }
        if terms.tell_sockets {
            command.env("SSLCOLLECTOR_TELL_SOCKETS", "1");
        }
        if !terms.filters.is_empty() {
            let policy = terms.filters.until_answered().context("too many filters")?;
            command.env("SSLCOLLECTOR_POLICY", hex(&policy));
        }
        if terms.stdout_to_stderr {
            let stderr = io::stderr().as_fd().try_clone_to_owned();
            command.stdout(Stdio::from(
                stderr.context("can't duplicate standard error")?,
            ));
        }
        let child = command.spawn().map_err(|error| not_started(name, &error))?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        Ok(Self {
            pid: pid.context("the program has no process id")?,
            exit: None,
        })
    }

    /// Reaps whoever has ended; says how the program ended, once it has. The program itself is
    /// reaped a call later: until then the kernel still tells the agent who it was.
    ///
    /// # Errors
    /// The kernel's, which isn't to be expected.
    pub(crate) fn poll(&mut self) -> anyhow::Result<Option<Exit>> {
        if self.exit.is_none() {
            let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
            match waitid(WaitId::Pid(self.pid), look) {
                Ok(Some(status)) => {
                    self.exit = exit_of(status.exit_status(), status.terminating_signal());
                    return Ok(self.exit);
                }
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("can't wait for the program"),
            }
        }
        loop {
            match wait(WaitOptions::NOHANG) {
                // It has ended just now.
                Ok(Some((pid, status))) if pid == self.pid && self.exit.is_none() => {
                    self.exit = exit_of(status.exit_status(), status.terminating_signal());
                }
                Ok(Some(_)) | Err(Errno::INTR) => {}
                Ok(None) | Err(Errno::CHILD) => return Ok(self.exit),
                Err(error) => return Err(error).context("can't wait for the program's children"),
            }
        }
    }

    /// Whether the program has this process id.
    pub(crate) fn is(&self, pid: i32) -> bool {
        self.pid.as_raw_nonzero().get() == pid
    }

    /// Sends a signal to the program, unless it has ended.
    pub(crate) fn signal(&self, signal: Signal) {
        if self.exit.is_none() {
            // It may end at this moment; that isn't an error.
            let _ = rustix::process::kill_process(self.pid, signal);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing into a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn exit_of(code: Option<i32>, signal: Option<i32>) -> Option<Exit> {
    code.map(Exit::Status).or(signal.map(Exit::Signal))
}

/// Our directory in front of what the user has set.
pub(crate) fn library_path(dir: &Path) -> OsString {
    let mut path = dir.as_os_str().to_owned();
    if let Some(old) = std::env::var_os("LD_LIBRARY_PATH").filter(|old| !old.is_empty()) {
        path.push(":");
        path.push(old);
    }
    path
}

fn not_started(name: &OsStr, error: &io::Error) -> anyhow::Error {
    let name = name.to_string_lossy();
    match error.kind() {
        io::ErrorKind::NotFound if name.contains('/') => {
            anyhow!("can't run {name}: there is no such file (or not the interpreter it names)")
        }
        io::ErrorKind::NotFound => anyhow!("can't run {name}: no program of that name in PATH"),
        io::ErrorKind::PermissionDenied => anyhow!("can't run {name}: it isn't executable for you"),
        _ => anyhow!("can't run {name}: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_passed_on_as_shells_do() {
        assert_eq!(Exit::Status(0).code(), 0);
        assert_eq!(Exit::Status(41).code(), 41);
        assert_eq!(Exit::Signal(9).code(), 137);
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let program = Program {
            words: vec!["no-such-program".into()],
            library_dir: Some("/x".into()),
        };
        let terms = Terms {
            socket: Path::new("/x"),
            ring_bytes: 1 << 20,
            wait_ms: 0,
            filters: &Filters::default(),
            tell_sockets: false,
            stdout_to_stderr: false,
        };
        let error = Running::start(&program, &terms).unwrap_err().to_string();
        assert_eq!(
            error,
            "can't run no-such-program: no program of that name in PATH"
        );
    }
}
