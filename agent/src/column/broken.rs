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
        use io::ErrorKind as Kind;
        let Self { output, error, .. } = self;
        let (what, option, others) = match output {
            OutputChoice::Log(_) => ("log", "--log", "move it away and send SIGHUP in time"),
            _ => (
                "capture",
                "-w",
                "have files follow one another with --rotate-size",
            ),
        };
        match error.kind() {
            Kind::BrokenPipe => write!(
                f,
                "{output} was closed by its reader: the {what} ends there; let the reader read on to have more, or \
                 write to a file with {option} FILE"
            ),
            Kind::StorageFull | Kind::QuotaExceeded => write!(
                f,
                "no room left for {output}: the {what} ends there; \
                 free some space, or write elsewhere with {option} FILE"
            ),
            Kind::FileTooLarge => write!(
                f,
                "{output} is as large as a file may be: the {what} ends there; raise the limit (ulimit -f, \
                 LimitFSIZE=), or {others}"
            ),
            Kind::TimedOut => write!(
                f,
                "can't write {output}: {error}; have its reader read faster, or write to a file with {option} FILE"
            ),
            _ => write!(
                f,
                "can't write {output}: {error}; the {what} ends there; see to what it says and start sslcollector \
                 again, or write elsewhere with {option} FILE"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogChoice;

    #[test]
    fn each_has_the_next_step() {
        let text_of = |output, kind: io::ErrorKind| {
            let broken = Broken {
                output,
                error: kind.into(),
                last: true,
            };
            broken.to_string()
        };
        let text = |kind| text_of(OutputChoice::Stdout, kind);
        for (kind, step) in [
            (io::ErrorKind::BrokenPipe, "let the reader read on"),
            (io::ErrorKind::StorageFull, "free some space"),
            (io::ErrorKind::QuotaExceeded, "free some space"),
            (io::ErrorKind::FileTooLarge, "LimitFSIZE="),
            (io::ErrorKind::TimedOut, "have its reader read faster"),
            (
                io::ErrorKind::ReadOnlyFilesystem,
                "start sslcollector again",
            ),
        ] {
            let text = text(kind);
            assert!(
                text.contains("standard output") && text.contains(step),
                "{text}"
            );
        }
        let log = OutputChoice::Log(LogChoice::Stdout);
        let text = text_of(log, io::ErrorKind::FileTooLarge);
        assert!(
            text.contains("SIGHUP") && !text.contains("--rotate-size"),
            "{text}"
        );
    }
}
