//! The lower end of the column: what takes the flow events, and where it goes.

use std::fs::{File, OpenOptions};
use std::io::{self, Stderr, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use agent::event::{FlowEvent, FlowSink, PacketSink, WallTime};
use agent::forge::{ForgeConfig, ForgeStats, Forger};
use agent::output::{PcapngWriter, Reorder, ReorderStats, TextSummary};
use anyhow::Context;

use crate::config::OutputChoice;

/// Where the forger's packets go: in order of time into a file, or whatever can be written.
pub(crate) type CaptureOutput = Reorder<PcapngWriter<Box<dyn Write>>>;

/// Forged packets into a capture, or a summary for people.
pub(crate) enum Column {
    /// Packets.
    Packets(Box<Forger<CaptureOutput>>),
    /// Text on standard error.
    Summary(Box<TextSummary<Stderr>>),
}

impl Column {
    /// Opens the output. A capture holds clear text: nobody but its owner may read it.
    ///
    /// # Errors
    /// The file can't be written; says why, and what to do.
    pub(crate) fn open(output: &OutputChoice, forge: ForgeConfig) -> anyhow::Result<Self> {
        let writer: Box<dyn Write> = match output {
            OutputChoice::Summary => {
                let summary = TextSummary::new(io::stderr());
                return Ok(Self::Summary(Box::new(summary)));
            }
            OutputChoice::Stdout => Box::new(io::stdout()),
            OutputChoice::File(path) => Box::new(create(path)?),
        };
        let mut writer = PcapngWriter::new(writer).context("can't write the capture")?;
        // A reader of a pipe sees at once that a capture is coming.
        writer.flush().context("can't write the capture")?;
        Ok(Self::Packets(Box::new(Forger::new(
            forge,
            Reorder::new(writer),
        ))))
    }

    /// Writes what is older than `until`, and hands it on to readers.
    ///
    /// # Errors
    /// The output can't be written any more.
    pub(crate) fn release(&mut self, until: WallTime) -> io::Result<()> {
        match self {
            Self::Packets(forger) => {
                forger.take_error().map_or(Ok(()), Err)?;
                let window = forger.sink_mut();
                window.release(until)?;
                window.sink_mut().flush()
            }
            Self::Summary(summary) => summary.flush(),
        }
    }

    /// Ends what is still live, and writes all that is left.
    ///
    /// # Errors
    /// As above.
    pub(crate) fn finish(&mut self, at: WallTime) -> io::Result<()> {
        match self {
            Self::Packets(forger) => {
                forger.finish(at);
                forger.take_error().map_or(Ok(()), Err)?;
                forger.sink_mut().finish()
            }
            Self::Summary(summary) => {
                summary.finish();
                summary.flush()
            }
        }
    }

    /// What was forged, and what the window did to it; nothing where no packets are made.
    pub(crate) fn packet_stats(&mut self) -> Option<(ForgeStats, ReorderStats)> {
        match self {
            Self::Packets(forger) => Some((forger.stats(), forger.sink_mut().stats())),
            Self::Summary(_) => None,
        }
    }
}

impl FlowSink for Column {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        match self {
            Self::Packets(forger) => forger.flow_event(event),
            Self::Summary(summary) => summary.flow_event(event),
        }
    }
}

fn create(path: &Path) -> anyhow::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("can't write {}: give another file with -w", path.display()))
}
