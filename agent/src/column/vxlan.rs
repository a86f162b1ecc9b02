//! Packets to a sensor by VXLAN, as they come.

use std::io;

use agent::event::{FlowEvent, FlowSink, PacketSink, WallTime};
use agent::forge::{ForgeConfig, Forger, SequenceKey};
use agent::output::VxlanSink;

use super::{End, EndStats};
use crate::config::VxlanChoice;

pub(super) struct VxlanEnd(Forger<VxlanSink>);

impl VxlanEnd {
    pub(super) fn open(choice: &VxlanChoice, key: &SequenceKey) -> anyhow::Result<Self> {
        let tagged = choice.view.vlan.is_some();
        let sink = VxlanSink::open(&choice.destination, choice.vni, tagged, choice.pace)?;
        let config = ForgeConfig {
            key: *key,
            mtu: sink.mtu(),
            view: choice.view.clone(),
        };
        Ok(Self(Forger::new(config, sink)))
    }
}

impl End for VxlanEnd {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
    }

    fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.0.sink_mut().flush()?;
        if let Some(losses) = self.0.sink_mut().take_recovery() {
            self.0.restart_all(|from, to| losses.first(from, to), until);
        }
        Ok(())
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.0.finish(at);
        self.0.sink_mut().flush()
    }

    fn take_complaints(&mut self) -> Vec<String> {
        self.0.sink_mut().take_complaints()
    }

    fn stats(&mut self) -> EndStats {
        EndStats {
            forge: Some(self.0.stats()),
            sent: self.0.sink_mut().stats(),
            ..EndStats::default()
        }
    }
}
