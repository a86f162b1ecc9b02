//! What came out, checked byte by byte.

use std::collections::HashMap;

use agent::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side};

use crate::program::text;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Open,
    Finished,
    Reset,
}

#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) info: FlowInfo,
    delivered: HashMap<Side, u64>,
    next: HashMap<Side, u64>,
    /// Bytes missing, of both sides.
    pub(crate) holes: u64,
    finished: usize,
    pub(crate) end: End,
}

impl Flow {
    pub(crate) fn delivered(&self, side: Side) -> u64 {
        self.delivered.get(&side).copied().unwrap_or(0)
    }

    pub(crate) fn all(&self) -> u64 {
        self.delivered.values().sum()
    }
}

#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) flows: HashMap<u64, Flow>,
}

impl FlowSink for Seen {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let flow = Flow {
                info: info.clone(),
                delivered: HashMap::new(),
                next: HashMap::new(),
                holes: 0,
                finished: 0,
                end: End::Open,
            };
            assert!(self.flows.insert(event.flow, flow).is_none());
            return;
        }
        let flow = self.flows.get_mut(&event.flow).expect("begun");
        assert_eq!(flow.end, End::Open);
        match event.change {
            FlowChange::Begin(_) => unreachable!(),
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                let next = flow.next.entry(from).or_default();
                assert_eq!(*next, offset);
                assert_eq!(bytes, text(from, offset, bytes.len() as u64));
                *next += bytes.len() as u64;
                *flow.delivered.entry(from).or_default() += bytes.len() as u64;
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                let next = flow.next.entry(from).or_default();
                assert_eq!(*next, offset);
                *next += bytes;
                flow.holes += bytes;
            }
            FlowChange::Finish { .. } => {
                flow.finished += 1;
                if flow.finished == 2 {
                    flow.end = End::Finished;
                }
            }
            FlowChange::Reset { .. } => flow.end = End::Reset,
        }
    }
}
