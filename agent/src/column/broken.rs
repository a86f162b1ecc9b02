//! What is said when an output ends before its time.

use std::fmt;
use std::io;

use crate::config::OutputChoice;

/// An output that can't be written any more. It takes no part any longer. Shown with what to do.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) output: OutputChoice,
    pub(crate) error: io::Error,
    /// No output is left.
    pub(crate) last: bool,
}

impl Broken {
    /// Whether it is one to complain of. Who closes a pipe has what it wanted, as with tcpdump: that is the ordinary
    /// end of `sslcollector -w - | head`.
    pub(crate) fn is_failure(&self) -> bool {
        self.error.kind() != io::ErrorKind::BrokenPipe
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, error, .. } = self;
        match error.kind() {
            io::ErrorKind::BrokenPipe => write!(
                f,
                "{output} was closed by its reader: the capture ends there"
            ),
            io::ErrorKind::StorageFull => write!(
                f,
                "no room left for {output}: the capture ends there; \
                 free some space, or write elsewhere with -w FILE"
            ),
            _ => write!(f, "can't write {output}: {error}; the capture ends there"),
        }
    }
}
