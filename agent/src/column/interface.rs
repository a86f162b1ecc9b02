//! Packets on an interface, as they come.

use std::io;

use agent::event::{FlowEvent, FlowSink, PacketSink, WallTime};
use agent::forge::{ForgeConfig, Forger, SequenceKey};
use agent::helper::Helper;
use agent::output::InterfaceSink;

use super::{End, EndStats};
use crate::config::InterfaceChoice;
use crate::pair;

pub(super) struct InterfaceEnd {
    forger: Forger<InterfaceSink>,
    complaints: Vec<String>,
}

impl InterfaceEnd {
    pub(super) fn open(
        choice: &InterfaceChoice,
        key: &SequenceKey,
        helper: Option<(Helper, u32)>,
    ) -> anyhow::Result<Self> {
        let complaints = prepare(choice, helper)?.into_iter().collect();
        let mut sink = InterfaceSink::open(&choice.name, choice.pace)?;
        if choice.wire_only {
            sink.for_wire_only();
        }
        let config = ForgeConfig {
            key: *key,
            mtu: sink.mtu(),
            view: choice.view.clone(),
        };
        Ok(Self {
            forger: Forger::new(config, sink),
            complaints,
        })
    }
}

impl End for InterfaceEnd {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.forger.flow_event(event);
    }

    fn release(&mut self, until: WallTime) -> io::Result<()> {
        self.forger.sink_mut().flush()?;
        if let Some(losses) = self.forger.sink_mut().take_recovery() {
            let first = |from, to| losses.first(from, to);
            self.forger.restart_all(first, until);
        }
        Ok(())
    }

    fn finish(&mut self, at: WallTime) -> io::Result<()> {
        self.forger.finish(at);
        self.forger.sink_mut().flush()
    }

    fn take_complaints(&mut self) -> Vec<String> {
        let mut complaints = std::mem::take(&mut self.complaints);
        complaints.extend(self.forger.sink_mut().take_complaints());
        complaints
    }

    fn stats(&mut self) -> EndStats {
        EndStats {
            forge: Some(self.forger.stats()),
            sent: self.forger.sink_mut().stats(),
            ..EndStats::default()
        }
    }
}

/// Makes the interface if that is asked for, and refuses the one that leads to the world. Returns what was done.
fn prepare(
    choice: &InterfaceChoice,
    helper: Option<(Helper, u32)>,
) -> anyhow::Result<Option<String>> {
    let made = match (choice.create, helper) {
        (true, Some((helper, number))) => helper.make_interface(number)?,
        (true, None) => pair::make(&choice.name)?,
        (false, _) => None,
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
