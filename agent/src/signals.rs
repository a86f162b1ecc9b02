//! Signals as requests that the main loop asks for.

use rustix::process::Signal;
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;

/// The signals that have come and haven't been asked for.
#[derive(Debug)]
pub(crate) struct Signals(SignalsInfo<WithOrigin>);

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
    /// Print the counts (SIGUSR1, as tcpdump and dd do).
    PrintCounts,
}

impl Signals {
    /// From now on signals wait here.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn catch() -> std::io::Result<Self> {
        SignalsInfo::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1]).map(Self)
    }

    /// The requests that have come since the last call.
    pub(crate) fn pending(&mut self) -> impl Iterator<Item = Request> {
        self.0.pending().filter_map(|origin| {
            let signal = match origin.signal {
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
