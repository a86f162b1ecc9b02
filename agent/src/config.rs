//! What the command line means on this machine: defaults filled in, paths found, contradictions
//! refused. Nothing is opened or changed here.

use std::ffi::OsString;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use agent::filter::Filters;
use agent::forge::View;
use agent::output::Pace;
use anyhow::{Context, bail};
use mirror_hook::filter::Action;

use crate::cli::{CaptureArgs, Cli, Command, InterfaceArgs, MirrorArgs, RunArgs, ServeArgs};
use crate::library;
use crate::rotation::RotationChoice;

/// Ring of a process that a serving agent grants, in bytes: stays in the cache of one core.
const SERVE_RING_BYTES: u64 = 1024 * 1024;
/// Ring that `run` grants: bulk on loopback stays whole on a busy machine of two cores.
const RUN_RING_BYTES: u64 = 16 * 1024 * 1024;

/// Where packets go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum OutputChoice {
    /// A capture file, or several one after the other.
    File(PathBuf, RotationChoice),
    /// A capture on standard output.
    Stdout,
    /// An interface.
    Interface(InterfaceChoice),
    /// No packets: a summary for people on standard error.
    Summary,
}

/// An interface for packets, and how they look there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct InterfaceChoice {
    /// Its name.
    pub(crate) name: String,
    /// Make it if it isn't there.
    pub(crate) create: bool,
    /// Also where the default route leads.
    pub(crate) force: bool,
    /// How flows look.
    pub(crate) view: View,
    /// How fast packets go out.
    pub(crate) pace: Option<Pace>,
}

impl fmt::Display for OutputChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, _) => path.display().fmt(f),
            Self::Stdout => f.write_str("standard output"),
            Self::Interface(choice) => f.write_str(&choice.name),
            Self::Summary => f.write_str("standard error"),
        }
    }
}

impl OutputChoice {
    /// The same, or for a file that exists already, another one beside it: `out.pcapng`, `out.2.pcapng` …
    pub(crate) fn unused(&self) -> Self {
        let Self::File(path, rotation) = self else {
            return self.clone();
        };
        if *rotation != RotationChoice::default() {
            // Their numbers go on.
            return self.clone();
        }
        let numbered = |number: u64| match path.extension() {
            _ if number == 1 => path.clone(),
            Some(extension) => {
                let mut end = OsString::from(format!("{number}."));
                end.push(extension);
                path.with_extension(end)
            }
            None => path.with_extension(number.to_string()),
        };
        // A device or a pipe isn't something to be kept.
        let taken = |path: &PathBuf| path.metadata().is_ok_and(|file| file.is_file());
        let free = (1..).map(numbered).find(|path| !taken(path));
        Self::File(free.unwrap_or_else(|| path.clone()), *rotation)
    }
}

/// Where handshakes are watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchChoice {
    /// On these interfaces; not being able to is an error.
    Interfaces(Vec<String>),
    /// On all, where the user may capture; else not.
    AnyIfAllowed,
    /// Nowhere.
    Nowhere,
}

/// A program to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// The program, then its arguments.
    pub(crate) words: Vec<OsString>,
    /// Directory of the patched library, if there is one; a program that mirrors by itself needs none.
    pub(crate) library_dir: Option<PathBuf>,
}

/// How the agent is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// At a socket that anybody who may can reach, until a signal comes.
    Serve {
        /// The socket's path.
        socket: PathBuf,
    },
    /// By one program and its children, until these have ended.
    Run(Program),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Task {
    /// Mirror, as these settings say.
    Mirror(Settings),
    /// Print this directory of a patched library.
    TellLibraryDir(PathBuf),
}

/// All that the agent needs to know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Who is served.
    pub(crate) mode: Mode,
    /// Where packets go; at least one.
    pub(crate) outputs: Vec<OutputChoice>,
    /// Where handshakes are watched.
    pub(crate) watch: WatchChoice,
    /// Ring that is granted to a process, in bytes.
    pub(crate) ring_bytes: u64,
    /// How long a program's call waits where the ring is full, in milliseconds; 0 but for debugging.
    pub(crate) wait_ms: u32,
    /// Which processes and connections are mirrored.
    pub(crate) filters: Filters,
}

/// Resolves the command line.
///
/// # Errors
/// What is missing on this machine, with the next step.
pub(crate) fn resolve(cli: Cli) -> anyhow::Result<Task> {
    match cli.command {
        Some(Command::Run(args)) => resolve_run(*args).map(Task::Mirror),
        Some(Command::LibraryDir { program }) => {
            library::directory_for(program.as_deref()).map(Task::TellLibraryDir)
        }
        None => resolve_serve(cli.serve).map(Task::Mirror),
    }
}

fn resolve_run(args: RunArgs) -> anyhow::Result<Settings> {
    let library_dir = match args.library_dir {
        Some(dir) => Some(library::checked(dir)?),
        None => library::directory_to_run(args.program.first().map(OsString::as_os_str))?,
    };
    Ok(Settings {
        mode: Mode::Run(Program {
            words: args.program,
            library_dir,
        }),
        outputs: match outputs(args.capture, args.interface)? {
            none if none.is_empty() => vec![OutputChoice::Summary],
            outputs => outputs,
        },
        watch: watch_choice(&args.mirror, WatchChoice::AnyIfAllowed)?,
        ring_bytes: args.mirror.ring_size.unwrap_or(RUN_RING_BYTES),
        wait_ms: args.on_full.wait_ms(),
        filters: filters(args.mirror)?,
    })
}

fn resolve_serve(args: ServeArgs) -> anyhow::Result<Settings> {
    let outputs = outputs(args.capture, args.interface)?;
    if outputs.is_empty() {
        bail!(
            "no output: say where packets go, for example `sslcollector -w out.pcapng`, or `sslcollector -o mirror0`"
        );
    }
    let socket = match args.socket {
        // Programs look for it by the whole path, from whichever directory.
        Some(socket) => std::path::absolute(socket).context("--socket has no absolute path")?,
        None => default_socket()?,
    };
    Ok(Settings {
        mode: Mode::Serve { socket },
        outputs,
        watch: watch_choice(&args.mirror, WatchChoice::AnyIfAllowed)?,
        ring_bytes: args.mirror.ring_size.unwrap_or(SERVE_RING_BYTES),
        wait_ms: 0,
        filters: filters(args.mirror)?,
    })
}

fn filters(args: MirrorArgs) -> anyhow::Result<Filters> {
    let allows = args.allow.into_iter().map(|rule| (Action::Allow, rule));
    let denies = args.deny.into_iter().map(|rule| (Action::Deny, rule));
    Filters::new(allows.chain(denies).collect(), args.unknown_flow)
        .context("too many filters: --allow and --deny")
}

fn outputs(capture: CaptureArgs, args: InterfaceArgs) -> anyhow::Result<Vec<OutputChoice>> {
    let rotation = RotationChoice {
        bytes: capture.rotate_size,
        time: capture.rotate_time,
        keep: capture.keep.map(NonZeroUsize::get),
    };
    let to_stdout = capture
        .write
        .as_ref()
        .is_some_and(|path| path.as_os_str() == "-");
    if to_stdout && rotation != RotationChoice::default() {
        bail!(
            "standard output is one file: give a name with -w for --rotate-size, --rotate-time or --keep"
        );
    }
    if rotation.keep.is_some() && rotation.bytes.is_none() && rotation.time.is_none() {
        bail!(
            "--keep has nothing to keep: say when a new file begins with --rotate-size or --rotate-time"
        );
    }
    let capture = capture.write.map(|path| match to_stdout {
        true => OutputChoice::Stdout,
        false => OutputChoice::File(path, rotation),
    });
    let interface = args.output.map(|name| {
        OutputChoice::Interface(InterfaceChoice {
            name,
            create: args.create,
            force: args.force,
            view: View {
                vlan: args.vlan,
                destination: args.mac,
                networks: args.net_map,
                ports: args.port_map,
                without_loopback: true,
            },
            pace: args.pace,
        })
    });
    Ok(capture.into_iter().chain(interface).collect())
}

fn watch_choice(args: &MirrorArgs, default: WatchChoice) -> anyhow::Result<WatchChoice> {
    match args.interfaces.as_slice() {
        [] => Ok(default),
        [only] if only == "none" => Ok(WatchChoice::Nowhere),
        names if names.iter().any(|name| name == "none") => {
            bail!("`-I none` contradicts the other -I: give one or the other")
        }
        names => Ok(WatchChoice::Interfaces(names.to_vec())),
    }
}

/// The socket of an agent that serves: the system's for root, else the user's own.
fn default_socket() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from(mirror_hook::config::DEFAULT_SOCKET));
    }
    let runtime = std::env::var_os("XDG_RUNTIME_DIR")
        .filter(|dir| !dir.is_empty())
        .context(
            "not root, and XDG_RUNTIME_DIR isn't set: say where the socket shall be, \
         for example `--socket ~/sslcollector.sock`",
        )?;
    Ok(PathBuf::from(runtime).join("sslcollector/agent.sock"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn settings(words: &[&str]) -> anyhow::Result<Settings> {
        match resolve(Cli::parse_from([&["sslcollector"], words].concat()))? {
            Task::Mirror(settings) => Ok(settings),
            Task::TellLibraryDir(dir) => bail!("a directory: {}", dir.display()),
        }
    }

    #[test]
    fn serving_needs_an_output() {
        let error = settings(&["-I", "lo"]).unwrap_err().to_string();
        assert!(error.contains("-w out.pcapng"), "{error}");
    }

    #[test]
    fn a_missing_library_is_said_with_the_next_step() {
        let error = settings(&["run", "--library-dir", "/nonexistent", "true"])
            .unwrap_err()
            .to_string();
        assert!(error.contains("make openssl"), "{error}");
    }

    #[test]
    fn a_dash_is_standard_output() {
        let settings = settings(&["-w", "-", "--socket", "/tmp/x"]).unwrap();
        assert_eq!(settings.outputs, [OutputChoice::Stdout]);
        assert_eq!(settings.watch, WatchChoice::AnyIfAllowed);
    }

    #[test]
    fn a_capture_that_exists_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let file = |name| OutputChoice::File(path(name), RotationChoice::default());
        let next = |name| file(name).unused();
        assert_eq!(next("out.pcapng"), file("out.pcapng"));
        for name in ["out.pcapng", "out.2.pcapng", "bare"] {
            std::fs::write(path(name), "").unwrap();
        }
        assert_eq!(next("out.pcapng"), file("out.3.pcapng"));
        assert_eq!(next("bare"), file("bare.2"));
    }

    #[test]
    fn none_excludes_other_interfaces() {
        assert!(settings(&["-w", "-", "--socket", "x", "-I", "none", "-I", "lo"]).is_err());
    }
}
