//! Packets in order of time on standard output, a pipe or a device: for whoever reads there, at whatever pace.

use std::fs::File;
use std::io;

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::forge::ForgeConfig;
use agent::output::Stream;

use super::{End, EndStats, Waits};

pub(super) struct StreamEnd(Stream);

impl StreamEnd {
    pub(super) fn new(name: &str, to: File, forge: ForgeConfig) -> Self {
        Self(Stream::new(name, to, forge))
    }
}

impl End for StreamEnd {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
    }

    fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.0.release(until)
    }

    fn waits(&self) -> Waits {
        Waits::Reader
    }

    fn end(&mut self, at: WallTime) {
        self.0.end(at);
    }

    fn is_awaited(&mut self) -> bool {
        self.0.is_read()
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.0.finish(at)
    }

    fn take_complaints(&mut self) -> Vec<String> {
        self.0.take_complaints()
    }

    fn stats(&mut self) -> EndStats {
        let stats = self.0.stats();
        EndStats {
            forge: Some(stats.forge),
            window: stats.window,
            stream: Some(stats),
            ..EndStats::default()
        }
    }
}
