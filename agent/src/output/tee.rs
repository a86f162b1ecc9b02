//! One stream of events for two.

use crate::event::{FlowEvent, FlowSink};

/// Gives every event to both sinks, the first one first.
#[derive(Debug)]
pub struct Tee<A, B>(
    /// Takes each event first.
    pub A,
    /// Takes it next.
    pub B,
);

impl<A: FlowSink, B: FlowSink> FlowSink for Tee<A, B> {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.flow_event(event);
        self.1.flow_event(event);
    }
}
