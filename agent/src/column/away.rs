//! Sessions that leave as they are: packets are forged where they arrive.

use std::io;

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::tunnel::outbox::{Outbox, OutboxStats};

use super::{End, EndStats, Waits};

/// An outbox, and the way that what is in its windows takes.
pub(super) struct AwayEnd<W> {
    outbox: Outbox,
    way: W,
}

/// Who brings the batches of an outbox's windows to others.
pub(super) trait Way {
    /// Begins to.
    ///
    /// # Errors
    /// It can't; says what to do.
    fn begin(&mut self) -> anyhow::Result<()>;

    /// Nothing more comes: brings away what waits, as long as that is worth waiting for.
    fn finish(&mut self);

    /// What people should know, a line each; once.
    fn take_complaints(&mut self) -> Vec<String>;

    /// What it has done with what it was told.
    fn stats(&self, outbox: OutboxStats) -> EndStats;
}

impl<W> AwayEnd<W> {
    pub(super) fn new(outbox: Outbox, way: W) -> Self {
        Self { outbox, way }
    }
}

impl<W: Way> End for AwayEnd<W> {
    fn begin(&mut self) -> anyhow::Result<()> {
        self.way.begin()
    }

    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.outbox.flow_event(event);
    }

    fn release(&mut self, _until: WallTime) -> io::Result<()> {
        self.outbox.flush();
        Ok(())
    }

    fn waits(&self) -> Waits {
        Waits::Others
    }

    fn finish(&mut self, _at: WallTime) -> io::Result<()> {
        self.outbox.flush();
        self.way.finish();
        Ok(())
    }

    fn take_complaints(&mut self) -> Vec<String> {
        self.way.take_complaints()
    }

    fn stats(&mut self) -> EndStats {
        self.way.stats(self.outbox.stats())
    }
}
