//! Text for people on standard error.

use std::io::{self, Stderr};

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::output::TextSummary;

use super::{End, EndStats};

pub(super) struct SummaryEnd(TextSummary<Stderr>);

impl SummaryEnd {
    pub(super) fn new() -> Self {
        Self(TextSummary::new(io::stderr()))
    }
}

impl End for SummaryEnd {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
    }

    fn release(&mut self, _until: WallTime) -> io::Result<()> {
        self.0.flush()
    }

    fn finish(&mut self, _at: WallTime) -> io::Result<()> {
        self.0.finish();
        self.0.flush()
    }

    fn stats(&mut self) -> EndStats {
        EndStats::default()
    }
}
