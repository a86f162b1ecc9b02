//! Signals as requests that the main loop asks for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

/// The signals that have come and haven't been asked for.
#[derive(Debug)]
pub(crate) struct Signals {
    signals: SignalsInfo<WithOrigin>,
    serves: bool,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// End in good order.
    Stop {
        /// The signal.
        signal: Signal,
        /// The terminal sent it, and so to the program, too: it must not be handed on.
        from_terminal: bool,
        /// The process that sent it, by its id.
        sender: Option<i32>,
    },
    /// Begin another file: SIGHUP that a process sent; from a terminal that has gone it is the end.
    NextFile,
    /// Print the counts (SIGUSR1, as tcpdump and dd do).
    PrintCounts,
}

/// From now on a write that would make a file larger than this process may (RLIMIT_FSIZE, `LimitFSIZE=`) fails with
/// EFBIG, and doesn't end the process. Caught, not ignored: that would be handed on to programs that are run.
///
/// # Errors
/// The kernel's.
pub(crate) fn survive_size_limit() -> io::Result<()> {
    // What the write says is enough.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false))).map(drop)
}

impl Signals {
    /// From now on signals wait here. Where it `serves`, SIGHUP isn't for a program that it runs.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn catch(serves: bool) -> io::Result<Self> {
        let signals = SignalsInfo::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1])?;
        Ok(Self { signals, serves })
    }

    /// The requests that have come since the last call.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Request> {
        let serves = self.serves;
        self.signals.pending().filter_map(move |origin| {
            let signal = match origin.signal {
                SIGHUP if serves && origin.process.is_some() => return Some(Request::NextFile),
                SIGUSR1 => return Some(Request::PrintCounts),
                SIGINT => Signal::INT,
                SIGTERM => Signal::TERM,
                SIGHUP => Signal::HUP,
                SIGQUIT => Signal::QUIT,
                _ => return None,
            };
            Some(Request::Stop {
                signal,
                from_terminal: origin.process.is_none(),
                sender: origin.process.map(|process| process.pid),
            })
        })
    }
}
