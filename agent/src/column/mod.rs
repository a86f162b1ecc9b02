//! The lower end of the column: what takes the flow events, and where it goes.
//!
//! Each output is an [`End`] in a file of its own.

mod away;
mod broken;
mod broker;
mod capture;
mod interface;
mod readers;
mod stream;
mod summary;
mod tunnel;
mod vxlan;

use std::io;

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::forge::{ForgeStats, SequenceKey};
use agent::helper::Helper;
use agent::output::{ReaderStats, ReadersStats, ReorderStats, SendStats, StreamStats};

pub(crate) use self::broken::Broken;
pub(crate) use self::broker::BrokerStats;
use self::broker::BrokerWay;
use self::interface::InterfaceEnd;
use self::readers::ReadersEnd;
use self::summary::SummaryEnd;
use self::tunnel::TunnelWay;
pub(crate) use self::tunnel::{LinkStats, TunnelStats};
use self::vxlan::VxlanEnd;
use crate::config::OutputChoice;

/// All outputs. Each forges for itself: they may show flows differently, and none waits for another.
pub(crate) struct Column {
    branches: Vec<Branch>,
    /// What people should know, a line each.
    complaints: Vec<String>,
}

struct Branch {
    output: OutputChoice,
    end: Box<dyn End>,
}

/// One output, from the flow events on.
trait End {
    /// Begins to hear or to be heard. When an end is opened privileges are still there, so nothing foreign is read
    /// before this.
    ///
    /// # Errors
    /// It can't; says what to do.
    fn begin(&mut self) -> anyhow::Result<()> {
        Ok(())
    }

    /// Takes an event. What fails is told by the next call that can tell.
    fn flow_event(&mut self, event: FlowEvent<'_>);

    /// Writes what is older than `until`, and hands it on to readers. Comes with each turn of the agent.
    ///
    /// # Errors
    /// The output takes nothing any more, ever.
    fn release(&mut self, until: WallTime) -> io::Result<()>;

    /// Begins another file, where there is one.
    ///
    /// # Errors
    /// As above.
    fn turn_over(&mut self, _at: WallTime) -> io::Result<()> {
        Ok(())
    }

    /// Nothing more comes. Waits for nobody.
    fn end(&mut self, _at: WallTime) {}

    /// Behind [`End::end`]: whether somebody has yet to read what there is, and may be waited for.
    fn is_awaited(&mut self) -> bool {
        false
    }

    /// Ends what is still live, and writes all that is left. Waits a bounded time at most.
    ///
    /// # Errors
    /// As above.
    fn finish(&mut self, at: WallTime) -> io::Result<()>;

    /// What people should know, a line each; once.
    fn take_complaints(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What it has done.
    fn stats(&mut self) -> EndStats;
}

/// What one end has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct EndStats {
    /// What was forged for it; nothing where no packets are made.
    pub(crate) forge: Option<ForgeStats>,
    /// What the window of a capture did.
    pub(crate) window: ReorderStats,
    /// What became of packets that were sent somewhere.
    pub(crate) sent: SendStats,
    /// What went to collectors.
    pub(crate) tunnel: Option<TunnelStats>,
    /// What went to a broker.
    pub(crate) broker: Option<BrokerStats>,
    /// What became of readers who connect.
    pub(crate) readers: Option<ReadersStats>,
    /// What each of those who are there has got.
    pub(crate) each_reader: Vec<ReaderStats>,
    /// What went to standard output or a pipe.
    pub(crate) stream: Option<StreamStats>,
}

/// What one output has done.
#[derive(Clone, Debug)]
pub(crate) struct BranchStats {
    /// Where it goes.
    pub(crate) output: OutputChoice,
    /// What it has done.
    pub(crate) end: EndStats,
}

impl Column {
    /// Opens the outputs, with all that needs a privilege: they are given up behind this. Initial sequence numbers come
    /// from `key`; a `helper` does what has to be done later.
    ///
    /// # Errors
    /// One can't be written; says why, and what to do.
    pub(crate) fn open(
        outputs: &[OutputChoice],
        key: &SequenceKey,
        helper: Option<&Helper>,
    ) -> anyhow::Result<Self> {
        let mut branches = Vec::new();
        for (number, output) in (0..).zip(outputs) {
            let helper = helper.map(|helper| (helper.clone(), number));
            let end: Box<dyn End> = match output {
                OutputChoice::Summary => Box::new(SummaryEnd::new()),
                OutputChoice::Stdout => capture::open_stdout(key)?,
                OutputChoice::File(path, rotation) => capture::open(path, *rotation, key, helper)?,
                OutputChoice::Interface(choice) => {
                    Box::new(InterfaceEnd::open(choice, key, helper)?)
                }
                OutputChoice::Broker(choice) => Box::new(BrokerWay::open(choice)?),
                OutputChoice::Tunnel(choice) => Box::new(TunnelWay::open(choice)?),
                OutputChoice::Vxlan(choice) => Box::new(VxlanEnd::open(choice, key)?),
                OutputChoice::Readers(choice) => Box::new(ReadersEnd::open(choice, key)?),
            };
            branches.push(Branch {
                output: output.clone(),
                end,
            });
        }
        let mut column = Self {
            branches,
            complaints: Vec::new(),
        };
        column.collect_complaints();
        Ok(column)
    }

    /// Privileges are given up: who speaks to others begins to.
    ///
    /// # Errors
    /// One can't; says what to do.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        let mut ends = self.branches.iter_mut().map(|branch| &mut branch.end);
        ends.try_for_each(|end| end.begin())
    }

    /// Writes what is older than `until`, and hands it on to readers. Interfaces get all there is.
    pub(crate) fn release(&mut self, until: WallTime) -> Vec<Broken> {
        self.each(|end| end.release(until))
    }

    /// Begins another file, where there is one: people ask for it when they have moved the old one.
    pub(crate) fn turn_over(&mut self, at: WallTime) -> Vec<Broken> {
        self.each(|end| end.turn_over(at))
    }

    /// Nothing more comes. Who reads at a pipe may be waited for as long as [`Column::is_awaited`] says so, before
    /// [`Column::finish`].
    pub(crate) fn end(&mut self, at: WallTime) {
        let ends = self.branches.iter_mut().map(|branch| &mut branch.end);
        ends.for_each(|end| end.end(at));
    }

    /// Whether somebody has yet to read what there is.
    pub(crate) fn is_awaited(&mut self) -> bool {
        let mut ends = self.branches.iter_mut().map(|branch| &mut branch.end);
        ends.any(|end| end.is_awaited())
    }

    /// Ends what is still live, and writes all that is left. Waits a bounded time for those who take it.
    pub(crate) fn finish(&mut self, at: WallTime) -> Vec<Broken> {
        self.each(|end| end.finish(at))
    }

    /// Takes out the outputs of which `act` fails.
    fn each(&mut self, mut act: impl FnMut(&mut dyn End) -> io::Result<()>) -> Vec<Broken> {
        let mut broken = Vec::new();
        let complaints = &mut self.complaints;
        self.branches.retain_mut(|branch| {
            let result = act(&mut *branch.end);
            complaints.extend(branch.end.take_complaints());
            let Err(error) = result else {
                return true;
            };
            broken.push(Broken {
                output: branch.output.clone(),
                error,
                last: false,
            });
            false
        });
        if self.branches.is_empty()
            && let Some(last) = broken.last_mut()
        {
            last.last = true;
        }
        broken
    }

    fn collect_complaints(&mut self) {
        let ends = self.branches.iter_mut().map(|branch| &mut branch.end);
        self.complaints
            .extend(ends.flat_map(|end| end.take_complaints()));
    }

    /// What people should know, a line each; once.
    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// What each output has done; broken ones aren't there.
    pub(crate) fn stats(&mut self) -> Vec<BranchStats> {
        let stats = |branch: &mut Branch| BranchStats {
            output: branch.output.clone(),
            end: branch.end.stats(),
        };
        self.branches.iter_mut().map(stats).collect()
    }
}

impl FlowSink for Column {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        for branch in &mut self.branches {
            branch.end.flow_event(event);
        }
    }
}
