//! A network of its own, a collector's identity, and collectors that run.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use agent::filter::network;
use agent::identity::{Address, Administration, CollectorIdentity, NewToken, join};
use anyhow::{Context, anyhow, ensure};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, UnshareFlags, sched_setaffinity, unshare_unsafe};

pub(crate) const INTERFACE: &str = "mirror0";
pub(crate) const TAP: &str = "mirror0-tap";

/// Where everything of one run is.
#[derive(Debug)]
pub(crate) struct Place {
    directory: tempfile::TempDir,
    binary: PathBuf,
}

/// A collector, until it is dropped.
#[derive(Debug)]
pub(crate) struct Collector {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Place {
    /// To be called before there are other threads.
    pub(crate) fn new() -> anyhow::Result<Self> {
        // SAFETY: only the network namespace is unshared; this is the only thread.
        unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
            .context("needs root, for a network of its own")?;
        for words in [
            "link add mirror0 type veth peer name mirror0-tap",
            "link set mirror0 addrgenmode none up",
            "link set mirror0-tap addrgenmode none up",
            "link set lo up",
        ] {
            let status = Command::new("ip").args(words.split(' ')).status()?;
            ensure!(status.success(), "ip {words}: {status}");
        }
        let executable = std::env::current_exe()?;
        let binary = executable.with_file_name("sslcollector");
        ensure!(
            binary.is_file(),
            "{} isn't there: run `make bench-collector`",
            binary.display()
        );
        let place = Self {
            directory: tempfile::tempdir()?,
            binary,
        };
        CollectorIdentity::init(&place.state(), &[Address::new("127.0.0.1", None)])?;
        Ok(place)
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.directory.path().join("collector")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn sslcollector(&self) -> Command {
        Command::new(&self.binary)
    }

    /// Starts one, whose packets go to [`INTERFACE`].
    pub(crate) fn collector(&self) -> anyhow::Result<Collector> {
        let mut child = self
            .sslcollector()
            .args(["-C", "-o", INTERFACE, "--listen", "127.0.0.1:0", "--state"])
            .arg(self.state())
            .stderr(Stdio::piped())
            .spawn()?;
        let errors = child.stderr.take().context("a pipe")?;
        let (said, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut kept = Vec::new();
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if let Some(rest) = line.split("collecting at ").nth(1) {
                    let _ = said.send(rest.split(';').next().unwrap_or_default().to_owned());
                } else if line.contains("LOST")
                    || line.contains("missing")
                    || line.contains("refused")
                {
                    kept.push(line);
                }
            }
            kept.iter().for_each(|line| println!("  {line}"));
        });
        let address = lines.recv_timeout(Duration::from_secs(20));
        let address = address.map_err(|_| anyhow!("the collector doesn't begin"))?;
        Ok(Collector {
            child,
            address: address.parse()?,
        })
    }

    /// Makes this directory that of an agent of the collector's, once.
    pub(crate) fn join(&self, name: &str, collector: &Collector) -> anyhow::Result<PathBuf> {
        let state = self.path(name);
        let token = Administration::open(&self.state())?.enroll(NewToken {
            addresses: vec![Address::new("127.0.0.1", Some(collector.address.port()))],
            name: None,
            replaces: false,
            networks: vec![network("10.0.0.0/8").map_err(|error| anyhow!(error))?],
            valid: Duration::from_secs(60),
        })?;
        // The collector hears of the token.
        let _ = kill_process(collector.pid()?, Signal::HUP);
        if state.exists() {
            std::fs::remove_dir_all(&state)?;
        }
        join(&state, &token.encode(), false)?;
        Ok(state)
    }
}

impl Collector {
    fn pid(&self) -> anyhow::Result<Pid> {
        Pid::from_raw(self.child.id().try_into()?).context("a process id")
    }

    /// Processor time that it has used, in seconds.
    pub(crate) fn processor_s(&self) -> anyhow::Result<f64> {
        processor_s(self.child.id())
    }

    /// Its memory.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<i64> {
        let statm = std::fs::read_to_string(format!("/proc/{}/statm", self.child.id()))?;
        let pages: i64 = statm.split(' ').nth(1).context("statm")?.parse()?;
        Ok(pages * i64::try_from(rustix::param::page_size())?)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Ok(pid) = self.pid() {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Where this thread, and what it starts, runs from now on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Core {
    /// Where only the measured agent is.
    First,
    /// Where the rest is; the same if there is but one.
    Others,
    /// Anywhere.
    All,
}

pub(crate) fn run_on(core: Core) -> anyhow::Result<()> {
    let count = std::fs::read_to_string("/proc/cpuinfo")?
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let cores = match core {
        Core::First => 0..1,
        Core::Others => 1.min(count - 1)..count,
        Core::All => 0..count,
    };
    let mut set = CpuSet::new();
    cores.for_each(|core| set.set(core));
    sched_setaffinity(None, &set).context("can't choose a processor")
}

/// Processor time that a process has used, in seconds.
pub(crate) fn processor_s(pid: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    let (_, rest) = stat.rsplit_once(") ").context("stat")?;
    let mut fields = rest.split(' ').skip(11);
    let mut ticks = || -> anyhow::Result<f64> { Ok(fields.next().context("stat")?.parse()?) };
    let (user, system) = (ticks()?, ticks()?);
    #[allow(clippy::cast_precision_loss, reason = "100 of them a second")]
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}
