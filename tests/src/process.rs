//! Other programs: started, waited for within a bound, and ended by their id.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// A test that waits longer than this has failed; no test should come near it.
pub const LIMIT: Duration = Duration::from_secs(150);

/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(10);

/// A running program. It is killed when this is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a program; it reads nothing.
    ///
    /// # Panics
    /// If it can't be started; the text names the way to install it.
    pub fn start(command: &mut Command) -> Self {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// As [`Process::start`], with a pipe to its standard input.
    ///
    /// # Panics
    /// As above.
    pub fn start_fed(command: &mut Command) -> (Self, ChildStdin) {
        let mut process = Self::spawn(command.stdin(Stdio::piped()));
        let stdin = process
            .child
            .stdin
            .take()
            .expect("standard input is a pipe");
        (process, stdin)
    }

    fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error} (scripts/install-peers.sh test)"));
        Self { child, name }
    }

    /// As [`Process::start`], with both outputs in pipes for [`Process::output`].
    ///
    /// # Panics
    /// As above.
    pub fn start_piped(command: &mut Command) -> Self {
        Self::start(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If there is no such process any more.
    pub fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    /// Whether it has ended already.
    ///
    /// # Panics
    /// If it can't be waited for.
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("wait for a child").is_some()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// After [`LIMIT`].
    pub fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("end of {name}"), || {
            self.child.try_wait().expect("wait for a child")
        })
    }

    /// Waits for its end and what it printed to the pipes that it was given.
    ///
    /// # Panics
    /// After [`LIMIT`].
    pub fn output(mut self) -> Output {
        let stdout = drain(self.child.stdout.take());
        let stderr = drain(self.child.stderr.take());
        let status = self.wait();
        Output {
            status,
            stdout: stdout.join().expect("reader of stdout"),
            stderr: stderr.join().expect("reader of stderr"),
        }
    }

    /// Its first line on standard error, which must be a pipe. What follows is read and dropped.
    ///
    /// # Panics
    /// If there is no such pipe, or it says nothing.
    pub fn first_words(&mut self) -> String {
        let pipe = self.child.stderr.take().expect("standard error is a pipe");
        let mut reader = BufReader::new(pipe);
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        drain(Some(reader));
        line
    }

    /// The pipe from its standard output, if it was given one and it wasn't taken yet.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A stopped process dies of SIGKILL as well. Both calls are harmless after its end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether this is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether a test can't be run because this isn't root. It is said, past the harness, which shows only what tests say
/// that fail.
pub fn without_root(why: &str) -> bool {
    if !is_root() {
        let thread = thread::current();
        let test = thread.name().unwrap_or("a test");
        let _ = writeln!(io::stderr(), "{test}: NOT RUN without root: {why}");
    }
    !is_root()
}

/// Runs a program to its end with both outputs in pipes.
///
/// # Panics
/// See [`Process::start`] and [`Process::wait`].
pub fn run(command: &mut Command) -> Output {
    Process::start_piped(command).output()
}

/// Runs a program that must succeed; both outputs, stdout first.
///
/// # Panics
/// If it fails.
pub fn output_of(command: &mut Command) -> String {
    let output = successful(command);
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Runs a program that must succeed; its standard output alone.
///
/// # Panics
/// If it fails.
pub fn stdout_of(command: &mut Command) -> String {
    String::from_utf8_lossy(&successful(command).stdout).into_owned()
}

fn successful(command: &mut Command) -> Output {
    let output = run(command);
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Sends a signal to one process.
///
/// # Panics
/// If there is no such process.
pub fn send(id: u32, signal: Signal) {
    let id = Pid::from_raw(id.cast_signed()).expect("a process id isn't 0");
    kill_process(id, signal).expect("signal a process");
}

/// Looks again and again until there is something.
///
/// # Panics
/// After [`LIMIT`].
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begin.elapsed() < LIMIT, "waited too long for: {what}");
        thread::sleep(POLL);
    }
}

/// The processes whose parent is `id` now.
pub fn children(id: u32) -> Vec<u32> {
    let file = format!("/proc/{id}/task/{id}/children");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let ids = text.split_ascii_whitespace();
    ids.filter_map(|child| child.parse().ok()).collect()
}

/// Whether somebody listens at this port of TCP, in this thread's network namespace. Nobody is connected to for it.
pub fn listens(port: u16) -> bool {
    listens_beside("thread-self", port)
}

/// The same in the network namespace of a process.
pub fn listens_beside(process: &str, port: u16) -> bool {
    // proc(5): local address, remote address, state; 0A is LISTEN.
    let local = format!(":{port:04X}");
    ["tcp", "tcp6"].iter().any(|family| {
        let file = format!("/proc/{process}/net/{family}");
        let table = std::fs::read_to_string(file).unwrap_or_default();
        table.lines().any(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            fields.next().is_some_and(|end| end.ends_with(&local)) && fields.nth(1) == Some("0A")
        })
    })
}

/// Where a program is, looked for as a shell does and in the directories of system programs.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"])
        .map(|directory| Path::new(directory).join(program))
        .find(|file| file.is_file())
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What came before an error is what there is.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}
