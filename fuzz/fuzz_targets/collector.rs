//! What must hold of whatever an agent says to a collector. The fuzz target calls it with inputs that it makes up, and
//! a test in `agent/src/collector/corpus_tests.rs` with those of the corpus.

use std::collections::HashMap;
use std::sync::Arc;

use agent::collector::{Agent, CopySink, Inlet, InletLimits, SourceId, SourceInfo};
use agent::event::{FlowChange, FlowEvent, FlowId, FlowInfo, ResetCause, Side, WallTime};
use agent::tunnel::batch::{BatchWriter, Begin, TunnelChange, TunnelEvent};

const NOW: WallTime = WallTime(1_700_000_000_000_000_000);
/// Live flows that an agent may have.
const FLOWS: usize = 3;
/// An agent's events can be so far ahead, in nanoseconds.
const AHEAD_NS: u64 = 250_000_000;

/// The bytes are steps, of two agents. One is
///
/// ```text
///   u8 what: 0 bytes as they are │ 1 an event │ 2 a preamble begins │ 3 it ends │ 4 the agent is gone
///      (of the other agent from 128 on)
///   bytes:  u8 length │ so many
///   event:  u8 kind, flow, side │ u8 offset │ u8 length
/// ```
pub(crate) fn inlet(bytes: &[u8], example: &FlowInfo) {
    let mut bench = Bench::new();
    let mut rest = bytes;
    while let [what, more @ ..] = rest {
        let agent = usize::from(what / 128);
        rest = more;
        match what % 8 {
            0 => {
                let Some((length, more)) = rest.split_first() else {
                    break;
                };
                let (batch, more) = more.split_at(usize::from(*length).min(more.len()));
                bench.say(agent, batch);
                rest = more;
            }
            1 => {
                let Some((&[kind, offset, length], more)) = rest.split_first_chunk() else {
                    break;
                };
                bench.tell(agent, example, kind, offset, length);
                rest = more;
            }
            2 => bench.inlet.preamble_begins(SourceId(agent as u64)),
            3 => {
                let seen = &mut bench.seen;
                bench.inlet.preamble_ends(SourceId(agent as u64), NOW, seen);
            }
            4 => bench
                .inlet
                .end(SourceId(agent as u64), NOW, &mut bench.seen),
            _ => break,
        }
        assert!(bench.inlet.live_flows() <= 2 * FLOWS);
        assert!(bench.inlet.take_complaints().len() <= 8);
    }
    for agent in 0..2 {
        bench.inlet.end(SourceId(agent), NOW, &mut bench.seen);
    }
    assert_eq!(bench.inlet.live_flows(), 0);
    assert!(
        bench.seen.flows.values().all(|flow| flow.ended),
        "one is open for ever"
    );
    assert!(bench.seen.text <= bytes.len() * 256, "text from nowhere");
    assert_eq!(bench.inlet.stats().bytes, bench.seen.text as u64);
}

struct Bench {
    inlet: Inlet,
    sources: [Arc<SourceInfo>; 2],
    seen: Seen,
}

impl Bench {
    fn new() -> Self {
        let source = |number| {
            let agent = Arc::new(Agent::new(number, "web1", None));
            Arc::new(SourceInfo::new(SourceId(number), agent))
        };
        Self {
            inlet: Inlet::new(InletLimits { flows: FLOWS }),
            sources: [source(0), source(1)],
            seen: Seen::default(),
        }
    }

    fn say(&mut self, agent: usize, batch: &[u8]) {
        // What can't be read to its end is an error, and what came before it isn't taken back.
        let _ = self
            .inlet
            .batch(&self.sources[agent], batch, NOW, &mut self.seen);
    }

    fn tell(&mut self, agent: usize, example: &FlowInfo, kind: u8, offset: u8, length: u8) {
        let from = if kind & 0x80 == 0 {
            Side::Client
        } else {
            Side::Server
        };
        let flow = u64::from(kind >> 4 & 7);
        let text = [b'x'; 256];
        let offset = u64::from(offset);
        let change = match kind & 15 {
            0..=2 => {
                let mut info = example.clone();
                info.id = FlowId([kind >> 4 & 3; 16]);
                TunnelChange::Begin(Box::new(Begin {
                    info,
                    base: (offset, u64::from(length)),
                    finished: (kind & 15 == 1, kind & 15 == 2),
                }))
            }
            3..=8 => TunnelChange::Data {
                from,
                offset,
                bytes: &text[..usize::from(length).max(1)],
            },
            9 => TunnelChange::Hole {
                from,
                offset,
                bytes: u64::MAX - offset,
            },
            10 => TunnelChange::Hole {
                from,
                offset,
                bytes: u64::from(length).max(1),
            },
            11..=13 => TunnelChange::Finish { from, offset },
            _ => TunnelChange::Reset {
                by: from,
                cause: ResetCause::Abort,
                offsets: (offset, u64::from(length)),
            },
        };
        let mut writer = BatchWriter::default();
        let at = WallTime(NOW.0 - 5 + u64::from(length));
        assert!(writer.push(&TunnelEvent { flow, at, change }));
        self.say(agent, &writer.take());
    }
}

/// What a sink may rely on.
#[derive(Default)]
struct Seen {
    flows: HashMap<u64, Flow>,
    text: usize,
}

struct Flow {
    agent: u64,
    next: [u64; 2],
    finished: [bool; 2],
    ended: bool,
    last: WallTime,
}

impl CopySink for Seen {
    fn copy_event(&mut self, agent: u64, event: FlowEvent<'_>) {
        assert!(event.at.0 <= NOW.0 + AHEAD_NS, "from the future");
        if let FlowChange::Begin(info) = event.change {
            assert_eq!(info.tuple.client.is_ipv4(), info.tuple.server.is_ipv4());
            let names = [
                info.sni.as_ref(),
                info.alpn.as_ref(),
                Some(&info.process.name),
            ];
            assert!(names.into_iter().flatten().all(|name| name.len() <= 255));
            let flow = Flow {
                agent,
                next: [0; 2],
                finished: [false; 2],
                ended: false,
                last: event.at,
            };
            assert!(self.flows.insert(event.flow, flow).is_none(), "begun twice");
            return;
        }
        let flow = self.flows.get_mut(&event.flow).expect("it has begun");
        assert!(!flow.ended, "{event:?} behind its end");
        assert_eq!(flow.agent, agent);
        assert!(event.at >= flow.last, "time goes back");
        flow.last = event.at;
        let (from, offset, bytes) = match event.change {
            FlowChange::Begin(_) => return,
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!((1..=16_384).contains(&bytes.len()));
                self.text += bytes.len();
                (from, offset, bytes.len() as u64)
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert!(bytes > 0);
                (from, offset, bytes)
            }
            FlowChange::Finish { from } => {
                let side = usize::from(from == Side::Server);
                assert!(!std::mem::replace(&mut flow.finished[side], true));
                flow.ended = flow.finished == [true, true];
                return;
            }
            FlowChange::Reset { .. } => {
                flow.ended = true;
                return;
            }
        };
        let side = usize::from(from == Side::Server);
        assert!(!flow.finished[side], "behind a side's end");
        assert_eq!(flow.next[side], offset);
        flow.next[side] = offset.checked_add(bytes).expect("an offset");
    }
}
