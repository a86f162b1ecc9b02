//! The lower end of the column: what takes the flow events, and where it goes.

use std::io::{self, Stderr, Write};

use agent::event::{FlowEvent, FlowSink, PacketSink, WallTime};
use agent::forge::{ForgeConfig, ForgeStats, Forger, Mtu, SequenceKey, View};
use agent::output::{
    InterfaceSink, InterfaceStats, PcapngWriter, Reorder, ReorderStats, TextSummary,
};
use anyhow::Context;

use crate::config::{InterfaceChoice, OutputChoice};
use crate::pair;
use crate::rotation::CaptureFile;

/// All outputs. Each forges for itself: they may show flows differently, and none waits for another.
pub(crate) struct Column {
    branches: Vec<Branch>,
    /// What people should know, a line each.
    complaints: Vec<String>,
}

struct Branch {
    output: OutputChoice,
    end: End,
    /// Why the next file can't be written.
    error: Option<io::Error>,
}

/// Forged packets, or a summary for people.
enum End {
    /// In order of time into a file, which may be followed by others.
    File(Box<Forger<CaptureOutput>>, CaptureFile),
    /// In order of time to whatever reads.
    Stream(Box<Forger<CaptureOutput>>),
    /// As they come.
    Interface(Box<Forger<InterfaceSink>>),
    /// Text on standard error.
    Summary(Box<TextSummary<Stderr>>),
}

type CaptureOutput = Reorder<PcapngWriter<Box<dyn Write>>>;

/// What one output has done.
#[derive(Clone, Debug)]
pub(crate) struct BranchStats {
    /// Where it goes.
    pub(crate) output: OutputChoice,
    /// What was forged for it; nothing where no packets are made.
    pub(crate) forge: Option<ForgeStats>,
    /// What the window of a capture did.
    pub(crate) window: ReorderStats,
    /// What became of an interface's packets.
    pub(crate) interface: InterfaceStats,
}

/// An output that can't be written any more. It takes no part any longer.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) output: OutputChoice,
    pub(crate) error: io::Error,
    /// No output is left.
    pub(crate) last: bool,
}

impl Column {
    /// Opens the outputs. Initial sequence numbers come from `key`.
    ///
    /// # Errors
    /// One can't be written; says why, and what to do.
    pub(crate) fn open(outputs: &[OutputChoice], key: &SequenceKey) -> anyhow::Result<Self> {
        let mut column = Self {
            branches: Vec::new(),
            complaints: Vec::new(),
        };
        for output in outputs {
            let config = |mtu, view| ForgeConfig {
                key: *key,
                mtu,
                view,
            };
            let end = match output {
                OutputChoice::Summary => End::Summary(Box::new(TextSummary::new(io::stderr()))),
                OutputChoice::Stdout => End::Stream(capture(config, Box::new(io::stdout()))?),
                OutputChoice::File(path, rotation) => {
                    let opened = CaptureFile::open(path, *rotation);
                    let (file, writer) = opened.with_context(|| {
                        format!("can't write {}: give another file with -w", path.display())
                    })?;
                    End::File(capture(config, Box::new(writer))?, file)
                }
                OutputChoice::Interface(choice) => {
                    column.complaints.extend(prepare(choice)?);
                    let sink = InterfaceSink::open(&choice.name, choice.pace)?;
                    let config = config(sink.mtu(), choice.view.clone());
                    End::Interface(Box::new(Forger::new(config, sink)))
                }
            };
            column.branches.push(Branch {
                output: output.clone(),
                end,
                error: None,
            });
        }
        Ok(column)
    }

    /// Writes what is older than `until`, and hands it on to readers. Interfaces get all there is.
    pub(crate) fn release(&mut self, until: WallTime) -> Vec<Broken> {
        self.each(|end| match end {
            End::File(forger, file) => {
                write_until(forger, until)?;
                match file.is_old() {
                    true => begin_next(forger, file, until),
                    false => Ok(()),
                }
            }
            End::Stream(forger) => write_until(forger, until),
            End::Interface(forger) => {
                forger.sink_mut().flush()?;
                if let Some(losses) = forger.sink_mut().take_recovery() {
                    forger.restart_all(|from, to| losses.first(from, to), until);
                }
                Ok(())
            }
            End::Summary(summary) => summary.flush(),
        })
    }

    /// Begins another file, where there is one: people ask for it when they have moved the old one.
    pub(crate) fn turn_over(&mut self, at: WallTime) -> Vec<Broken> {
        self.each(|end| match end {
            End::File(forger, file) => begin_next(forger, file, at),
            _ => Ok(()),
        })
    }

    /// Ends what is still live, and writes all that is left.
    pub(crate) fn finish(&mut self, at: WallTime) -> Vec<Broken> {
        self.each(|end| match end {
            End::File(forger, _) | End::Stream(forger) => {
                forger.finish(at);
                forger.take_error().map_or(Ok(()), Err)?;
                forger.sink_mut().finish()
            }
            End::Interface(forger) => {
                forger.finish(at);
                forger.sink_mut().flush()
            }
            End::Summary(summary) => {
                summary.finish();
                summary.flush()
            }
        })
    }

    /// Takes out the outputs of which `act` fails.
    fn each(&mut self, mut act: impl FnMut(&mut End) -> io::Result<()>) -> Vec<Broken> {
        let mut broken = Vec::new();
        let complaints = &mut self.complaints;
        self.branches.retain_mut(|branch| {
            let result = branch
                .error
                .take()
                .map_or_else(|| act(&mut branch.end), Err);
            if let End::Interface(forger) = &mut branch.end {
                complaints.extend(forger.sink_mut().take_complaints());
            }
            match result {
                Ok(()) => true,
                Err(error) => {
                    broken.push(Broken {
                        output: branch.output.clone(),
                        error,
                        last: false,
                    });
                    false
                }
            }
        });
        if self.branches.is_empty()
            && let Some(last) = broken.last_mut()
        {
            last.last = true;
        }
        broken
    }

    /// What people should know, a line each; once.
    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// What each output has done; broken ones aren't there.
    pub(crate) fn stats(&mut self) -> Vec<BranchStats> {
        let stats = |branch: &mut Branch| BranchStats {
            output: branch.output.clone(),
            forge: match &branch.end {
                End::File(forger, _) | End::Stream(forger) => Some(forger.stats()),
                End::Interface(forger) => Some(forger.stats()),
                End::Summary(_) => None,
            },
            window: match &mut branch.end {
                End::File(forger, _) | End::Stream(forger) => forger.sink_mut().stats(),
                _ => ReorderStats::default(),
            },
            interface: match &mut branch.end {
                End::Interface(forger) => forger.sink_mut().stats(),
                _ => InterfaceStats::default(),
            },
        };
        self.branches.iter_mut().map(stats).collect()
    }
}

impl FlowSink for Column {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        for branch in &mut self.branches {
            match &mut branch.end {
                End::File(forger, file) => {
                    forger.flow_event(event);
                    // Here, since a turn may bring more than a file shall have.
                    if file.is_full(|| file_bytes(forger)) && branch.error.is_none() {
                        branch.error = begin_next(forger, file, event.at).err();
                    }
                }
                End::Stream(forger) => forger.flow_event(event),
                End::Interface(forger) => forger.flow_event(event),
                End::Summary(summary) => summary.flow_event(event),
            }
        }
    }
}

fn capture(
    config: impl Fn(Mtu, View) -> ForgeConfig,
    writer: Box<dyn Write>,
) -> anyhow::Result<Box<Forger<CaptureOutput>>> {
    let writer = begin_capture(writer).context("can't write the capture")?;
    let config = config(Mtu::default(), View::default());
    Ok(Box::new(Forger::new(config, Reorder::new(writer))))
}

fn begin_capture(writer: Box<dyn Write>) -> io::Result<PcapngWriter<Box<dyn Write>>> {
    let mut writer = PcapngWriter::new(writer)?;
    // A reader of a pipe sees at once that a capture is coming.
    writer.flush()?;
    Ok(writer)
}

fn write_until(forger: &mut Forger<CaptureOutput>, until: WallTime) -> io::Result<()> {
    forger.take_error().map_or(Ok(()), Err)?;
    let window = forger.sink_mut();
    window.release(until)?;
    window.sink_mut().flush()
}

/// Completes the file, and goes on in another.
fn begin_next(
    forger: &mut Forger<CaptureOutput>,
    file: &mut CaptureFile,
    at: WallTime,
) -> io::Result<()> {
    forger.turn_over(at);
    forger.take_error().map_or(Ok(()), Err)?;
    let next = file.next(file_bytes(forger))?;
    let window = forger.sink_mut();
    window.finish()?;
    window.begin_anew();
    *window.sink_mut() = begin_capture(Box::new(next))?;
    Ok(())
}

/// What the packets that were forged take in files, about: each has a block of its own.
fn file_bytes(forger: &Forger<CaptureOutput>) -> u64 {
    const BLOCK_BYTES: u64 = 36;
    let stats = forger.stats();
    stats.frame_bytes + stats.packets * BLOCK_BYTES
}

/// Makes the interface if that is asked for, and refuses the one that leads to the world. Returns what was done.
fn prepare(choice: &InterfaceChoice) -> anyhow::Result<Option<String>> {
    let made = match choice.create {
        true => pair::make(&choice.name)?,
        false => None,
    };
    if !choice.force && pair::has_default_route(&choice.name) {
        anyhow::bail!(
            "{} leads to the default route: clear text would leave this machine there. Give an interface that only \
             the sensor sees (--create makes one), or --force",
            choice.name
        );
    }
    Ok(made)
}
