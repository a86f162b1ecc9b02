//! A worker's column, and what the main thread hears of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use agent::collector::Outlet;
use agent::event::{FlowEvent, FlowSink, WallTime};

use crate::column::{BranchStats, Broken, Column, ShownStats};

/// Where workers leave what people should know, and see that they may begin.
#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    /// Privileges are given up.
    begun: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// By worker, as of its last report.
    stats: Vec<Vec<BranchStats>>,
    shown: Vec<ShownStats>,
    lines: Vec<String>,
    /// Why an output isn't written any more, the first one that failed.
    failure: Option<anyhow::Error>,
}

impl State {
    fn has_other_failure(&self, output: &Broken) -> bool {
        let failure = self.failure.as_ref();
        failure.is_some_and(|failure| failure.to_string() != output.to_string())
    }
}

impl Board {
    /// Privileges are given up: outputs that speak to others begin to, at their worker's next turn.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release); // pairs with the Acquire load in `may_begin`
    }

    fn may_begin(&self) -> bool {
        self.begun.load(Ordering::Acquire) // pairs with the Release store in `begin`
    }

    pub(super) fn stats(&self) -> Vec<BranchStats> {
        self.lock().stats.iter().flatten().cloned().collect()
    }

    /// What was found in what is shown, by all workers.
    pub(super) fn shown_stats(&self) -> ShownStats {
        let mut sum = ShownStats::default();
        self.lock().shown.iter().for_each(|one| sum.add(one));
        sum
    }

    pub(super) fn take_lines(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().lines)
    }

    pub(super) fn take_failure(&self) -> Option<anyhow::Error> {
        self.lock().failure.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The column of one worker.
pub(super) struct ColumnOutlet {
    number: usize,
    column: Column,
    board: Arc<Board>,
    /// The column was told to.
    begun: bool,
    /// No output is left.
    blind: bool,
}

impl ColumnOutlet {
    pub(super) fn new(number: usize, column: Column, board: Arc<Board>) -> Self {
        let mut outlet = Self {
            number,
            column,
            board,
            begun: false,
            blind: false,
        };
        outlet.note(Vec::new(), false);
        outlet
    }

    /// Begins when it may. An output that can't is as good as none.
    fn begin(&mut self) {
        if self.begun || !self.board.may_begin() {
            return;
        }
        self.begun = true;
        if let Err(error) = self.column.begin() {
            self.blind = true;
            self.board.lock().failure.get_or_insert(error);
        }
    }

    /// Leaves word. False: no output is left.
    fn note(&mut self, broken: Vec<Broken>, ending: bool) -> bool {
        let mut complaints = self.column.take_complaints();
        if !complaints.is_empty() || !broken.is_empty() {
            let mut state = self.board.lock();
            // What concerns an interface concerns all workers: it is said once.
            complaints.retain(|line| !state.lines.contains(line));
            state.lines.extend(complaints);
            for output in broken {
                if !output.last && !ending {
                    state
                        .lines
                        .push(format!("{output}; the other output goes on"));
                } else if !output.is_failure() || ending && state.has_other_failure(&output) {
                    state.lines.push(output.to_string());
                }
                self.blind |= output.last;
                if output.is_failure() {
                    let failure = &mut state.failure;
                    failure.get_or_insert_with(|| anyhow::anyhow!(output.to_string()));
                }
            }
        }
        !self.blind
    }
}

impl FlowSink for ColumnOutlet {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.column.flow_event(event);
    }
}

impl Outlet for ColumnOutlet {
    fn release(&mut self, until: WallTime) -> bool {
        self.begin();
        let broken = self.column.release(until);
        self.note(broken, false)
    }

    fn oldest_held(&self) -> Option<WallTime> {
        self.column.oldest_held()
    }

    fn turn_over(&mut self, at: WallTime) {
        let broken = self.column.turn_over(at);
        self.note(broken, false);
    }

    fn finish(&mut self, at: WallTime) -> bool {
        let broken = self.column.finish(at);
        self.note(broken, true)
    }

    fn report(&mut self) {
        let stats = self.column.stats();
        let shown = self.column.shown_stats();
        let mut state = self.board.lock();
        if state.stats.len() <= self.number {
            state.stats.resize(self.number + 1, Vec::new());
        }
        state.stats[self.number] = stats;
        let workers = state.stats.len();
        state.shown.resize(workers, ShownStats::default());
        state.shown[self.number] = shown;
    }
}
