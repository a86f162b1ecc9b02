//! A line for each session: who, with whom, by which program.

use std::io;

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::helper::Helper;
use agent::output::{LogTarget, LogWriter, SessionLog};
use anyhow::Context;

use super::{End, EndStats, Waits};
use crate::config::{LogChoice, OutputChoice};

/// The log of a column; several columns may write the same.
pub(super) struct LogEnd(SessionLog);

/// Opens the log among the outputs, if there is one: for all columns.
///
/// # Errors
/// It can't be written; says what to do.
pub(crate) fn open_log(
    outputs: &[OutputChoice],
    helper: Option<&Helper>,
) -> anyhow::Result<Option<LogWriter>> {
    for (number, output) in (0..).zip(outputs) {
        let OutputChoice::Log(choice) = output else {
            continue;
        };
        let target = match choice {
            LogChoice::Stdout => {
                let stdout = rustix::io::dup(rustix::stdio::stdout());
                LogTarget::stream(stdout.context("can't write standard output")?.into())
            }
            LogChoice::File(path) => {
                let file = LogTarget::open(path).with_context(|| {
                    format!(
                        "can't write {}: give another file with --log",
                        path.display()
                    )
                })?;
                let (path, helper) = (path.clone(), helper.cloned());
                LogTarget::file(file, move || match &helper {
                    Some(helper) => helper.next_file(number),
                    None => LogTarget::open_next(&path),
                })
            }
        };
        return Ok(Some(LogWriter::new(&output.to_string(), target)));
    }
    Ok(None)
}

impl LogEnd {
    pub(super) fn new(writer: LogWriter) -> Self {
        Self(SessionLog::new(writer))
    }
}

impl End for LogEnd {
    fn begin(&mut self) -> anyhow::Result<()> {
        let begun = self.0.writer().begin();
        begun.context("can't start a thread for the log")
    }

    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
    }

    fn release(&mut self, _until: WallTime) -> io::Result<()> {
        self.0.writer().flush();
        self.0.writer().check()
    }

    fn turn_over(&mut self, _at: WallTime) -> io::Result<()> {
        self.0.writer().turn_over();
        Ok(())
    }

    fn waits(&self) -> Waits {
        match self.0.writer().is_stream() {
            true => Waits::Reader,
            false => Waits::Nobody,
        }
    }

    fn end(&mut self, at: WallTime) {
        self.0.finish(at);
        self.0.writer().flush();
    }

    fn is_awaited(&mut self) -> bool {
        self.0.writer().is_stream() && self.0.writer().is_waiting()
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.0.finish(at);
        self.0.writer().finish(at)
    }

    fn take_complaints(&mut self) -> Vec<String> {
        self.0.writer().take_complaints()
    }

    fn stats(&mut self) -> EndStats {
        EndStats {
            log: Some(self.0.writer().stats()),
            ..EndStats::default()
        }
    }
}
