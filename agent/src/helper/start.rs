#![allow(unsafe_code, reason = "fork(2) and _exit(2) have no safe form")]
//! Where one process becomes two.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::process::Pid;

use super::channel::Channel;
use super::client::Helper;
use super::duties::Duties;
use super::serve::{Desk, Shared, say};
use super::unprivileged::reduce_to_duties;
use crate::intake::peer::pid_of;
use crate::keep::Inherited;

/// As `ps` shows the helper.
const NAME: &std::ffi::CStr = c"sslcollect-priv";

/// There is no helper.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Only one that has a single thread can be two processes safely.
    #[error("there are {0} threads already")]
    Threads(usize),
    /// The system refused.
    #[error("can't start the privileged helper: {0}")]
    Io(#[from] io::Error),
}

/// Makes a helper with these duties, which may look at the processes whose rings are `kept`. Must be called before
/// there is a second thread, and before anything is opened that the helper isn't to have.
///
/// # Errors
/// See [`StartError`].
pub fn start(duties: Duties, kept: Vec<Inherited>) -> Result<(Helper, Vec<Inherited>), StartError> {
    let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if threads != 1 {
        return Err(StartError::Threads(threads));
    }
    let agent = std::process::id();
    let pids = kept.iter().filter_map(|one| pid_of(one.fd.as_fd()));
    let pids: Vec<_> = pids.filter_map(|pid| u32::try_from(pid).ok()).collect();
    let (lookups, lookups_served) = Channel::pair()?;
    let (scans, scans_served) = Channel::pair()?;
    // SAFETY: there is one thread, so no lock is held by another one that the child won't have.
    let child = unsafe { libc::fork() };
    match child {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            // Its ends close with the agent, but not while the helper has copies.
            drop((lookups, scans, kept));
            let shared = Shared::new(agent, pids);
            let served = catch_unwind(AssertUnwindSafe(|| {
                serve(&shared, &lookups_served, &scans_served, duties);
            }));
            // SAFETY: ends this process; nothing of the agent's is to be run here.
            unsafe { libc::_exit(i32::from(served.is_err())) }
        }
        child => {
            drop((lookups_served, scans_served));
            let helper = Helper::new(lookups, scans, Pid::from_raw(child))?;
            Ok((helper, kept))
        }
    }
}

fn serve(shared: &Shared, lookups: &Channel, scans: &Channel, duties: Duties) {
    ignore_signals();
    // For `ps`, and nothing else.
    let _ = rustix::thread::set_name(NAME);
    reduce_to_duties();
    std::thread::scope(|scope| {
        let scanner = std::thread::Builder::new().name("scans".to_owned());
        let scanner = scanner.spawn_scoped(scope, || shared.serve(scans, Desk::Scans));
        if let Err(error) = scanner {
            say(&format!("can't look at processes: {error}"));
            scans.close();
        }
        shared.serve(lookups, Desk::Lookups(duties));
        scans.close();
    });
    if shared.refused() > 0 {
        say(&format!("{} requests refused", shared.refused()));
    }
}

/// Those that a terminal or a service manager sends to all processes: the helper ends when the agent has.
fn ignore_signals() {
    for signal in [
        libc::SIGINT,
        libc::SIGTERM,
        libc::SIGHUP,
        libc::SIGQUIT,
        libc::SIGUSR1,
    ] {
        // SAFETY: ignoring a signal runs no code of ours.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}
