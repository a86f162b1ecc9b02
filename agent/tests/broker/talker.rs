//! An agent that talks.

use agent::broker::key::AgentKey;
use agent::broker::{BrokerConfig, Publisher};
use agent::event::{FlowChange, FlowEvent, FlowSink, Side, WallTime};
use agent::tunnel::SharedWindow;
use agent::tunnel::frame::Batch;
use agent::tunnel::outbox::{Outbox, OutboxStats};
use agent::tunnel::window::{Outgoing, Window};
use mirror_tests::process::until;

use crate::truth::{FLOWS, Phase, ROUND_BYTES, info, text};

pub(crate) struct Talker {
    pub(crate) publisher: Publisher,
    voice: Voice,
    window: SharedWindow,
    window_bytes: u64,
    said: String,
}

/// Tells flows to an outbox.
struct Voice {
    outbox: Outbox,
    at: u64,
}

impl Talker {
    pub(crate) fn new(config: BrokerConfig, key: &AgentKey, window_bytes: u64) -> Self {
        let window = SharedWindow::new(Window::new(window_bytes));
        Self {
            publisher: Publisher::start(config, key, window.clone()),
            voice: Voice::new(&window),
            window,
            window_bytes,
            said: String::new(),
        }
    }

    pub(crate) fn outbox(&self) -> OutboxStats {
        self.voice.outbox.stats()
    }

    /// All that it has said for people, a line each.
    pub(crate) fn said(&mut self) -> &str {
        for notice in self.publisher.take_notices() {
            self.said += &notice;
            self.said += "\n";
        }
        &self.said
    }

    pub(crate) fn wait_for_words(&mut self, words: &str) {
        until(words, || self.said().contains(words).then_some(()));
    }

    pub(crate) fn wait_for_envelopes(&self) {
        until("the broker to have an envelope", || {
            (self.publisher.stats().envelopes > 0).then_some(())
        });
    }

    /// All flows of the phase say something, both sides.
    pub(crate) fn talk(&mut self, phase: Phase, round: u64) {
        self.voice.talk(phase, round);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.window.lock().free() > self.window_bytes / 2
    }

    /// The broker has all.
    pub(crate) fn is_drained(&self) -> bool {
        self.window.lock().stats().waiting_batches == 0
    }

    /// So much at a time that batches go out one after the other.
    pub(crate) fn wait_for_room(&self) {
        until("room in the window", || self.has_room().then_some(()));
    }

    /// All flows of the phase end.
    pub(crate) fn say_farewell(&mut self, phase: Phase) {
        self.voice.say_farewell(phase);
    }
}

/// What an agent would hand over of a phase's first round.
pub(crate) fn batches(phase: Phase) -> Vec<Batch> {
    let window = SharedWindow::new(Window::new(8 << 20));
    Voice::new(&window).talk(phase, 0);
    let mut batches = Vec::new();
    while let Some(outgoing) = window.lock().outgoing() {
        if let Outgoing::Batch(batch) = outgoing {
            batches.push(batch);
        }
    }
    batches
}

impl Voice {
    fn new(window: &SharedWindow) -> Self {
        Self {
            outbox: Outbox::new(vec![window.clone()]),
            at: 1_800_000_000_000_000_000,
        }
    }

    fn talk(&mut self, phase: Phase, round: u64) {
        for flow in 0..FLOWS {
            let id = phase.id(flow);
            if round == 0 {
                self.tell(phase.flow(flow), FlowChange::Begin(&info(id)));
            }
            for from in [Side::Client, Side::Server] {
                let offset = round * ROUND_BYTES;
                let bytes = text(id, from, offset, ROUND_BYTES);
                let bytes = &bytes;
                let change = FlowChange::Data {
                    from,
                    offset,
                    bytes,
                };
                self.tell(phase.flow(flow), change);
            }
        }
        self.outbox.flush();
    }

    fn say_farewell(&mut self, phase: Phase) {
        for flow in 0..FLOWS {
            for from in [Side::Client, Side::Server] {
                self.tell(phase.flow(flow), FlowChange::Finish { from });
            }
        }
        self.outbox.flush();
    }

    fn tell(&mut self, flow: u64, change: FlowChange<'_>) {
        self.at += 1000;
        let at = WallTime(self.at);
        self.outbox.flow_event(FlowEvent { flow, at, change });
    }
}
