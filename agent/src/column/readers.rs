//! Captures for readers who connect.

use std::io;

use agent::event::{FlowEvent, FlowSink, WallTime};
use agent::forge::{ForgeConfig, Mtu, SequenceKey, View};
use agent::output::{Feed, ReadersConfig};

use super::{End, EndStats, Waits};
use crate::config::ReadersChoice;

pub(super) struct ReadersEnd(Feed);

impl ReadersEnd {
    pub(super) fn open(choice: &ReadersChoice, key: &SequenceKey) -> anyhow::Result<Self> {
        let config = ReadersConfig {
            listen: choice.listen.clone(),
            access: choice.access.clone(),
            readers: choice.readers,
            format: choice.format,
            forge: ForgeConfig {
                key: *key,
                mtu: Mtu::default(),
                view: View::default(),
            },
        };
        Ok(Self(Feed::open(config)?))
    }
}

impl End for ReadersEnd {
    fn begin(&mut self) -> anyhow::Result<()> {
        self.0.begin();
        Ok(())
    }

    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
    }

    fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.0.release(until);
        Ok(())
    }

    fn waits(&self) -> Waits {
        Waits::Others
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.0.finish(at);
        Ok(())
    }

    fn take_complaints(&mut self) -> Vec<String> {
        self.0.take_complaints()
    }

    fn stats(&mut self) -> EndStats {
        EndStats {
            readers: Some(self.0.stats()),
            each_reader: self.0.readers(),
            ..EndStats::default()
        }
    }
}
