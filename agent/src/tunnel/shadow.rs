//! The flows as they are at the oldest batch that isn't acknowledged: what a collector that knows nothing is told.

use std::collections::HashMap;

use super::batch::{BatchReader, Begin, TunnelChange, TunnelEvent};
use crate::event::{FlowInfo, Side, WallTime};

/// Flows that live where the window begins. Takes about 200 bytes a flow, and its names.
#[derive(Debug, Default)]
pub(crate) struct Shadow {
    flows: HashMap<u64, Known>,
}

#[derive(Debug)]
struct Known {
    partition: u16,
    /// Postcard of its [`FlowInfo`]: a third of what the thing itself takes.
    info: Box<[u8]>,
    /// What client and server have said up to here.
    offsets: [u64; 2],
    finished: [bool; 2],
    /// Time of its last event.
    last: WallTime,
}

impl Shadow {
    /// Goes on over the events of a batch.
    pub(crate) fn apply(&mut self, partition: u16, events: &[u8]) {
        // They are our own: what can't be read isn't there.
        for event in BatchReader::new(events).map_while(Result::ok) {
            self.step(partition, event);
        }
    }

    fn step(&mut self, partition: u16, event: TunnelEvent<'_>) {
        if let TunnelChange::Begin(begin) = event.change {
            // It was written once, so that it can be again.
            let Ok(info) = postcard::to_stdvec(&begin.info) else {
                return;
            };
            let known = Known {
                partition,
                info: info.into_boxed_slice(),
                offsets: [begin.base.0, begin.base.1],
                finished: [begin.finished.0, begin.finished.1],
                last: event.at,
            };
            self.flows.insert(event.flow, known);
            return;
        }
        let Some(known) = self.flows.get_mut(&event.flow) else {
            return;
        };
        known.last = event.at;
        match event.change {
            TunnelChange::Begin(_) => {}
            TunnelChange::Data {
                from,
                offset,
                bytes,
            } => known.offsets[index(from)] = offset + bytes.len() as u64,
            TunnelChange::Hole {
                from,
                offset,
                bytes,
            } => known.offsets[index(from)] = offset + bytes,
            TunnelChange::Finish { from, offset } => {
                known.offsets[index(from)] = offset;
                known.finished[index(from)] = true;
                if known.finished == [true; 2] {
                    self.flows.remove(&event.flow);
                }
            }
            TunnelChange::Reset { .. } => {
                self.flows.remove(&event.flow);
            }
        }
    }

    /// All flows with their partitions, in the order of a preamble.
    pub(crate) fn order(&self) -> Vec<(u16, u64)> {
        let mut order: Vec<_> = self
            .flows
            .iter()
            .map(|(flow, known)| (known.partition, *flow))
            .collect();
        order.sort_unstable();
        order
    }

    /// How a flow is told of from here on.
    pub(crate) fn begin(&self, flow: u64) -> Option<TunnelEvent<'static>> {
        let known = self.flows.get(&flow)?;
        let info: FlowInfo = postcard::from_bytes(&known.info).ok()?;
        let [client, server] = known.offsets;
        let begin = Begin {
            info,
            base: (client, server),
            finished: (known.finished[0], known.finished[1]),
        };
        Some(TunnelEvent {
            flow,
            at: known.last,
            change: TunnelChange::Begin(Box::new(begin)),
        })
    }

    /// How many flows live.
    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }
}

/// Where an array has what belongs to a side.
pub(super) fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}
