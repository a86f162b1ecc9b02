//! What the command line means on this machine: defaults filled in, paths found, contradictions
//! refused. Nothing is opened or changed here.

mod broker;
mod collector;
mod fleet_key;
mod midstream;
mod outputs;
mod shown;
mod tunnel;

use std::ffi::OsString;
use std::path::PathBuf;

use agent::filter::Filters;
use agent::helper::User;
use agent::identity::Address;
use agent::midstream::Midstream;
use agent::real::Policy;
use anyhow::{Context, bail};
use mirror_hook::filter::Action;

pub(crate) use self::broker::{BrokerChoice, SourceChoice};
pub(crate) use self::collector::CollectorSettings;
use self::collector::resolve_collector;
pub(crate) use self::fleet_key::FleetKeyTask;
use self::midstream::midstream;
use self::outputs::outputs;
pub(crate) use self::outputs::{
    InterfaceChoice, LogChoice, OutputChoice, ReadersChoice, VxlanChoice,
};
pub(crate) use self::shown::Http2As;
use self::shown::{http1, real_clients};
pub(crate) use self::tunnel::TunnelChoice;
use crate::cli::{AgentsArgs, Cli, Command, EnrollArgs, JoinArgs, MirrorArgs, RunArgs, ServeArgs};
use crate::library;

/// Ring of a process that a serving agent grants, in bytes: stays in the cache of one core.
const SERVE_RING_BYTES: u64 = 1024 * 1024;
/// Ring that `run` grants: bulk on loopback stays whole on a busy machine of two cores.
const RUN_RING_BYTES: u64 = 16 * 1024 * 1024;

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

/// What is done to identities.
#[derive(Debug)]
pub(crate) enum IdentityTask {
    /// Make a collector's, known by these names.
    Init {
        /// Where.
        state: PathBuf,
        /// None: this host's.
        names: Vec<Address>,
    },
    /// Make a new key of a collector's server.
    Rotate {
        /// Where.
        state: PathBuf,
    },
    /// Make a token.
    Enroll(EnrollArgs),
    /// Use one.
    Join(JoinArgs),
    /// List agents, or change what they may.
    Agents(AgentsArgs),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Task {
    /// Mirror, as these settings say.
    Mirror(Settings),
    /// Collect what agents send.
    Collect(Box<CollectorSettings>),
    /// Something about identities, and no mirroring.
    Identity(IdentityTask),
    /// Print this directory of a patched library.
    TellLibraryDir(PathBuf),
    /// Make or print a key for what goes by a broker.
    FleetKey(FleetKeyTask),
}

/// All that the agent needs to know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Who is served.
    pub(crate) mode: Mode,
    /// Who the agent becomes, with a helper that stays; nobody else: it is one process as who it was started.
    pub(crate) user: Option<User>,
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
    /// Who is asked for a client's address.
    pub(crate) real_clients: Option<Policy>,
    /// What becomes of sessions whose beginning nobody saw.
    pub(crate) midstream: Midstream,
    /// HTTP/2 is shown as HTTP/1.1.
    pub(crate) http1: Http2As,
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
        Some(Command::Enroll(args)) => Ok(Task::Identity(IdentityTask::Enroll(args))),
        Some(Command::Join(args)) => Ok(Task::Identity(IdentityTask::Join(args))),
        Some(Command::Agents(args)) => Ok(Task::Identity(IdentityTask::Agents(args))),
        None if cli.serve.identity.init => Ok(Task::Identity(IdentityTask::Init {
            state: cli.serve.tunnel.state,
            names: cli.serve.identity.name,
        })),
        None if cli.serve.identity.rotate => Ok(Task::Identity(IdentityTask::Rotate {
            state: cli.serve.tunnel.state,
        })),
        None if cli.serve.collector.collector => {
            resolve_collector(cli.serve).map(|settings| Task::Collect(Box::new(settings)))
        }
        Some(Command::FleetKey(args)) => Ok(Task::FleetKey(fleet_key::fleet_key(args))),
        None => resolve_serve(cli.serve).map(Task::Mirror),
    }
}

fn resolve_run(args: RunArgs) -> anyhow::Result<Settings> {
    let library_dir = match args.library_dir {
        Some(dir) => Some(library::checked(dir)?),
        None => library::directory_to_run(args.program.first().map(OsString::as_os_str))?,
    };
    let mut outputs = outputs(args.output, (args.tunnel, args.broker))?;
    if outputs.iter().all(|it| matches!(it, OutputChoice::Log(_))) {
        outputs.push(OutputChoice::Summary);
    }
    Ok(Settings {
        mode: Mode::Run(Program {
            words: args.program,
            library_dir,
        }),
        real_clients: real_clients(args.real, &outputs)?,
        midstream: midstream(args.midstream, &outputs)?,
        http1: http1(&args.http1, &outputs)?,
        outputs,
        // The program is the user's own.
        user: None,
        watch: watch_choice(&args.mirror, WatchChoice::AnyIfAllowed)?,
        ring_bytes: args.mirror.ring_size.unwrap_or(RUN_RING_BYTES),
        wait_ms: args.on_full.wait_ms(),
        filters: filters(args.mirror)?,
    })
}

fn resolve_serve(args: ServeArgs) -> anyhow::Result<Settings> {
    let outputs = outputs(args.output, (args.tunnel, args.broker))?;
    if outputs.is_empty() {
        bail!(
            "no output: say where packets go, for example `sslcollector -w out.pcapng`, `sslcollector -o mirror0`, or to a \
             collector: `sslcollector -t sensor`"
        );
    }
    let socket = match args.socket {
        // Programs look for it by the whole path, from whichever directory.
        Some(socket) => std::path::absolute(socket).context("--socket has no absolute path")?,
        None => default_socket()?,
    };
    Ok(Settings {
        mode: Mode::Serve { socket },
        user: user(args.user.user)?,
        real_clients: real_clients(args.real, &outputs)?,
        midstream: midstream(args.midstream, &outputs)?,
        http1: http1(&args.http1, &outputs)?,
        outputs,
        watch: watch_choice(&args.mirror, WatchChoice::AnyIfAllowed)?,
        ring_bytes: args.mirror.ring_size.unwrap_or(SERVE_RING_BYTES),
        wait_ms: 0,
        filters: filters(args.mirror)?,
    })
}

/// Who a command becomes: nobody else where it isn't root's.
fn user(choice: Option<User>) -> anyhow::Result<Option<User>> {
    let is_root = rustix::process::geteuid().is_root();
    match choice {
        Some(user) if user.is_root() => Ok(None),
        Some(user) if !is_root => bail!("only root can become {}: leave --user out", user.name),
        None if !is_root => Ok(None),
        Some(user) => Ok(Some(user)),
        None => Ok(Some(User::unprivileged())),
    }
}

fn filters(args: MirrorArgs) -> anyhow::Result<Filters> {
    let allows = args.allow.into_iter().map(|rule| (Action::Allow, rule));
    let denies = args.deny.into_iter().map(|rule| (Action::Deny, rule));
    Filters::new(allows.chain(denies).collect(), args.unknown_flow)
        .context("too many filters: --allow and --deny")
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
            other => bail!("{other:?}"),
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
    fn a_log_stands_beside_other_outputs() {
        let outputs = |words: &[&str]| {
            let words = [words, &["--socket", "/tmp/x"]].concat();
            settings(&words).map(|settings| settings.outputs)
        };
        let log = |path: &str| OutputChoice::Log(LogChoice::File(path.into()));
        assert_eq!(outputs(&["--log", "x"]).unwrap(), [log("x")]);
        let both = outputs(&["-w", "-", "--log", "x"]).unwrap();
        assert_eq!(both, [OutputChoice::Stdout, log("x")]);
        let both = outputs(&["-w", "x", "--log", "-"]).unwrap();
        assert_eq!(both[1], OutputChoice::Log(LogChoice::Stdout));
        let error = outputs(&["-w", "-", "--log", "-"]).unwrap_err();
        assert!(error.to_string().contains("one thing"), "{error}");
    }

    #[test]
    fn none_excludes_other_interfaces() {
        assert!(settings(&["-w", "-", "--socket", "x", "-I", "none", "-I", "lo"]).is_err());
    }
}
