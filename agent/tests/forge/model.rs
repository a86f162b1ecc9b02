//! What a forged capture has to say, derived from the events alone.

use std::collections::HashMap;

use agent::event::{FlowChange, FlowInfo, ResetCause, Side};
use mirror_hook::event::Role;

use crate::reader::Dialogue;

const MAX_GAP: u64 = 512 << 20;

/// An event that owns its bytes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Begin(Box<FlowInfo>),
    Data {
        from: Side,
        offset: u64,
        bytes: Vec<u8>,
    },
    Hole {
        from: Side,
        offset: u64,
        bytes: u64,
    },
    Finish {
        from: Side,
    },
    Reset {
        by: Side,
    },
}

impl Change {
    pub(crate) fn borrowed(&self) -> FlowChange<'_> {
        match self {
            Self::Begin(info) => FlowChange::Begin(info),
            Self::Data {
                from,
                offset,
                bytes,
            } => FlowChange::Data {
                from: *from,
                offset: *offset,
                bytes,
            },
            Self::Hole {
                from,
                offset,
                bytes,
            } => FlowChange::Hole {
                from: *from,
                offset: *offset,
                bytes: *bytes,
            },
            Self::Finish { from } => FlowChange::Finish { from: *from },
            Self::Reset { by } => FlowChange::Reset {
                by: *by,
                cause: ResetCause::Abort,
            },
        }
    }
}

/// A flow as it ought to be shown.
struct Expected {
    id: String,
    mirrored: Side,
    dialogues: Vec<Dialogue>,
    /// Client and server: said so far, missing at the end of it, finished.
    said: [u64; 2],
    pending: [u64; 2],
    finished: [bool; 2],
    state: State,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Talking,
    /// The next data begins another conversation.
    Severed,
    Over,
}

/// All flows.
#[derive(Default)]
pub(crate) struct Model {
    flows: HashMap<u64, Expected>,
    holders: HashMap<Vec<std::net::SocketAddr>, u64>,
}

fn index(side: Side) -> usize {
    usize::from(side == Side::Server)
}

impl Model {
    pub(crate) fn apply(&mut self, number: u64, at: u64, change: &Change) {
        if let Change::Begin(info) = change {
            return self.begin(number, info);
        }
        let flow = self.flows.get_mut(&number).unwrap();
        if flow.state == State::Over {
            return;
        }
        match change {
            Change::Begin(_) => unreachable!(),
            Change::Data {
                from,
                offset,
                bytes,
            } => flow.data(*from, *offset, bytes, at),
            Change::Hole { from, bytes, .. } => flow.hole(*from, *bytes),
            Change::Finish { from } => flow.finish(*from),
            Change::Reset { by } => flow.end(Some(*by)),
        }
    }

    fn begin(&mut self, number: u64, info: &FlowInfo) {
        let mut pair = vec![info.tuple.client, info.tuple.server];
        pair.sort();
        if let Some(holder) = self.holders.insert(pair, number) {
            let flow = self.flows.get_mut(&holder).unwrap();
            flow.end(Some(flow.mirrored));
        }
        let mirrored = if info.role == Role::Client {
            Side::Client
        } else {
            Side::Server
        };
        self.flows.insert(
            number,
            Expected {
                id: info.id.0.iter().map(|byte| format!("{byte:02x}")).collect(),
                mirrored,
                dialogues: vec![Dialogue::default()],
                said: [0; 2],
                pending: [0; 2],
                finished: [false; 2],
                state: State::Talking,
            },
        );
    }

    /// The agent ends.
    pub(crate) fn finish(mut self) -> HashMap<String, Vec<Dialogue>> {
        for flow in self.flows.values_mut() {
            flow.end(Some(flow.mirrored));
        }
        self.flows
            .into_values()
            .map(|flow| (flow.id, flow.dialogues))
            .collect()
    }
}

impl Expected {
    fn dialogue(&mut self) -> &mut Dialogue {
        self.dialogues.last_mut().unwrap()
    }

    fn data(&mut self, from: Side, offset: u64, bytes: &[u8], at: u64) {
        assert_eq!(
            offset,
            self.said[index(from)],
            "the generator's own offsets"
        );
        if self.state == State::Severed {
            let mut dialogue = Dialogue::default();
            dialogue.client.base = self.said[0];
            dialogue.server.base = self.said[1];
            dialogue.fins.extend(
                [Side::Client, Side::Server]
                    .into_iter()
                    .filter(|s| self.finished[index(*s)]),
            );
            self.dialogues.push(dialogue);
            self.state = State::Talking;
        }
        let end = offset + bytes.len() as u64;
        self.said[index(from)] = end;
        self.pending[index(from)] = 0;
        let stream = self.dialogue().stream(from);
        stream.add(offset, bytes);
        stream.pushes.push((end, at));
    }

    fn hole(&mut self, from: Side, bytes: u64) {
        self.said[index(from)] += bytes;
        if self.state == State::Talking {
            self.pending[index(from)] += bytes;
            if self.pending[index(from)] > MAX_GAP {
                self.dialogue().reset = Some(from);
                self.pending = [0; 2];
                self.state = State::Severed;
            }
        }
    }

    fn finish(&mut self, from: Side) {
        self.finished[index(from)] = true;
        if self.state == State::Talking && self.pending[index(from)] == 0 {
            self.dialogue().fins.push(from);
        }
        if self.finished[index(from.peer())] {
            let holed = [from, from.peer()]
                .into_iter()
                .find(|side| self.pending[index(*side)] > 0);
            self.end(holed);
        }
    }

    fn end(&mut self, reset: Option<Side>) {
        if self.state == State::Talking {
            self.dialogue().reset = reset;
        }
        self.state = State::Over;
    }
}
