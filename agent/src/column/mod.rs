//! The lower end of the column: what takes the flow events, and where it goes.
//!
//! Each output is an [`End`] in a file of its own.

mod away;
mod broken;
mod broker;
mod capture;
mod interface;
mod log;
mod readers;
mod shown;
mod stream;
mod summary;
mod tunnel;
mod vxlan;

use std::io;

use agent::event::{FlowChange, FlowEvent, FlowSink, WallTime};
use agent::forge::{ForgeStats, SequenceKey};
use agent::helper::Helper;
use agent::output::{
    LogStats, LogWriter, ReaderStats, ReadersStats, ReorderStats, SendStats, StreamStats,
};

pub(crate) use self::broken::Broken;
pub(crate) use self::broker::BrokerStats;
use self::broker::BrokerWay;
use self::interface::InterfaceEnd;
use self::log::LogEnd;
pub(crate) use self::log::open_log;
use self::readers::ReadersEnd;
use self::shown::Outputs;
pub(crate) use self::shown::{Shown, ShownStats};
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
    /// What becomes of flows where packets are made.
    shown: Shown,
}

struct Branch {
    output: OutputChoice,
    state: State,
}

enum State {
    Live(Box<dyn End>),
    /// Nothing more is written there.
    Over(Over),
}

/// An output that was written to its end, or as long as it could be.
struct Over {
    stats: Box<EndStats>,
    /// It couldn't be written any longer.
    broken: bool,
    /// Clear text that came later.
    unseen_bytes: u64,
}

impl Over {
    fn of(end: &mut dyn End, broken: bool) -> State {
        State::Over(Self {
            stats: Box::new(end.stats()),
            broken,
            unseen_bytes: 0,
        })
    }

    fn note(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Data { bytes, .. } = event.change {
            self.unseen_bytes += bytes.len() as u64;
        }
    }
}

/// For whom an output waits at the end. Those that wait for nobody end first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Waits {
    /// For no other process.
    Nobody,
    /// For others who take what is left, within a bounded time.
    Others,
    /// For who reads at a pipe, as long as [`End::is_awaited`] says so.
    Reader,
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

    /// For whom [`End::finish`] waits.
    fn waits(&self) -> Waits {
        Waits::Nobody
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
    /// What became of the log, whoever writes to it.
    pub(crate) log: Option<LogStats>,
}

/// What one output has done.
#[derive(Clone, Debug)]
pub(crate) struct BranchStats {
    /// Where it goes.
    pub(crate) output: OutputChoice,
    /// What it has done.
    pub(crate) end: EndStats,
    /// It could be written no longer before the end.
    pub(crate) broken: bool,
    /// Clear text that came later.
    pub(crate) unseen_bytes: u64,
}

impl Branch {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        match &mut self.state {
            State::Live(end) => end.flow_event(event),
            State::Over(over) => over.note(event),
        }
    }

    fn live(&mut self) -> Option<&mut dyn End> {
        match &mut self.state {
            State::Live(end) => Some(&mut **end),
            State::Over(_) => None,
        }
    }
}

impl Column {
    /// Opens the outputs, with all that needs a privilege: they are given up behind this. Initial sequence numbers come
    /// from `key`; a `helper` does what has to be done later. The `log` among the outputs is open already.
    ///
    /// # Errors
    /// One can't be written; says why, and what to do.
    pub(crate) fn open(
        outputs: &[OutputChoice],
        key: &SequenceKey,
        helper: Option<&Helper>,
        log: Option<&LogWriter>,
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
                OutputChoice::Log(_) => match log {
                    Some(writer) => Box::new(LogEnd::new(writer.clone())),
                    None => continue,
                },
            };
            branches.push(Branch {
                output: output.clone(),
                state: State::Live(end),
            });
        }
        let mut column = Self {
            branches,
            complaints: Vec::new(),
            shown: Shown::default(),
        };
        column.collect_complaints();
        Ok(column)
    }

    /// From here on flows are shown so.
    pub(crate) fn show(&mut self, shown: Shown) {
        self.shown = shown;
    }

    /// What was found in them.
    pub(crate) fn shown_stats(&self) -> ShownStats {
        self.shown.stats()
    }

    /// The earliest time of what waits here for what follows it.
    pub(crate) fn oldest_held(&self) -> Option<WallTime> {
        self.shown.oldest_held()
    }

    /// Privileges are given up: who speaks to others begins to.
    ///
    /// # Errors
    /// One can't; says what to do.
    pub(crate) fn begin(&mut self) -> anyhow::Result<()> {
        self.live().try_for_each(|end| end.begin())
    }

    /// Writes what is older than `until`, and hands it on to readers. Interfaces get all there is.
    pub(crate) fn release(&mut self, until: WallTime) -> Vec<Broken> {
        self.shown.expire(until, &mut Here(&mut self.branches));
        let until = self.oldest_held().map_or(until, |held| held.min(until));
        self.each(Waits::Reader, |end| end.release(until))
    }

    /// Begins another file, where there is one: people ask for it when they have moved the old one.
    pub(crate) fn turn_over(&mut self, at: WallTime) -> Vec<Broken> {
        self.each(Waits::Reader, |end| end.turn_over(at))
    }

    /// Nothing more comes. Finishes all but what is read at a pipe: a reader who stands still there holds back nothing
    /// else. It may be waited for as long as [`Column::is_awaited`] says so, before [`Column::finish`].
    pub(crate) fn end(&mut self, at: WallTime) -> Vec<Broken> {
        self.shown.finish(&mut Here(&mut self.branches));
        self.live().for_each(|end| end.end(at));
        let mut broken = self.finish_those(Waits::Nobody, at);
        broken.extend(self.finish_those(Waits::Others, at));
        broken
    }

    /// Whether somebody has yet to read what there is.
    pub(crate) fn is_awaited(&mut self) -> bool {
        self.live().any(|end| end.is_awaited())
    }

    /// Ends what is still live, and writes all that is left. Waits a bounded time for those who take it.
    pub(crate) fn finish(&mut self, at: WallTime) -> Vec<Broken> {
        let mut broken = self.end(at);
        broken.extend(self.finish_those(Waits::Reader, at));
        broken
    }

    /// Finishes the outputs that wait so long at most. What they did stays known.
    fn finish_those(&mut self, waits: Waits, at: WallTime) -> Vec<Broken> {
        let broken = self.each(waits, |end| end.finish(at));
        for branch in &mut self.branches {
            if let State::Live(end) = &mut branch.state
                && end.waits() <= waits
            {
                branch.state = Over::of(&mut **end, false);
            }
        }
        broken
    }

    fn live(&mut self) -> impl Iterator<Item = &mut dyn End> {
        self.branches.iter_mut().filter_map(Branch::live)
    }

    /// Has the outputs act that wait so long at most. Those that fail take no part any longer; what they did stays
    /// known.
    fn each(
        &mut self,
        waits: Waits,
        mut act: impl FnMut(&mut dyn End) -> io::Result<()>,
    ) -> Vec<Broken> {
        let mut broken = Vec::new();
        let complaints = &mut self.complaints;
        for branch in &mut self.branches {
            let Some(end) = branch.live().filter(|end| end.waits() <= waits) else {
                continue;
            };
            let result = act(end);
            complaints.extend(end.take_complaints());
            let Err(error) = result else {
                continue;
            };
            branch.state = Over::of(end, true);
            broken.push(Broken {
                output: branch.output.clone(),
                error,
                last: false,
            });
        }
        let is_broken = |branch: &Branch| matches!(&branch.state, State::Over(over) if over.broken);
        let is_last = self.branches.iter().all(is_broken);
        if let Some(last) = broken.last_mut() {
            last.last = is_last;
        }
        broken
    }

    fn collect_complaints(&mut self) {
        let complaints = self.live().flat_map(|end| end.take_complaints());
        let complaints: Vec<_> = complaints.collect();
        self.complaints.extend(complaints);
    }

    /// What people should know, a line each; once.
    pub(crate) fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// What each output has done, those that are broken included.
    pub(crate) fn stats(&mut self) -> Vec<BranchStats> {
        let stats = |branch: &mut Branch| {
            let (end, broken, unseen_bytes) = match &mut branch.state {
                State::Live(end) => (end.stats(), false, 0),
                State::Over(over) => ((*over.stats).clone(), over.broken, over.unseen_bytes),
            };
            BranchStats {
                output: branch.output.clone(),
                end,
                broken,
                unseen_bytes,
            }
        };
        self.branches.iter_mut().map(stats).collect()
    }
}

impl FlowSink for Column {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let away = self.branches.iter_mut();
        away.filter(|branch| branch.output.is_away())
            .for_each(|branch| branch.flow_event(event));
        self.shown.flow_event(event, &mut Here(&mut self.branches));
    }
}

/// The outputs whose packets are made here.
struct Here<'b>(&'b mut [Branch]);

impl Outputs for Here<'_> {
    fn log_event(&mut self, event: FlowEvent<'_>) {
        let logs = self.0.iter_mut();
        logs.filter(|branch| matches!(branch.output, OutputChoice::Log(_)))
            .for_each(|branch| branch.flow_event(event));
    }
}

impl FlowSink for Here<'_> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let here = self.0.iter_mut();
        here.filter(|branch| !branch.output.is_away())
            .for_each(|branch| branch.flow_event(event));
    }
}
