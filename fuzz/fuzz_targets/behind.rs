//! What is said by the way of a proxy: read without failing, told within the rules of flows, no byte lost. The fuzz targets call it with
//! inputs that they make up, and a test in `agent/src/real/corpus_tests.rs` with those of the corpus.
#![allow(dead_code, reason = "each target uses one of the functions")]

use std::collections::HashMap;

use agent::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side, WallTime};
use agent::filter::network;
use agent::real::{Policy, RealClients, Way};

/// A flow as far as it has been told: what each side said, and whether it says more.
#[derive(Default)]
struct Told {
    said: [u64; 2],
    finished: [bool; 2],
    last: WallTime,
}

#[derive(Default)]
struct Rules {
    flows: HashMap<u64, Told>,
    bytes: [u64; 2],
    missing: [u64; 2],
}

impl FlowSink for Rules {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let tuple = info.tuple;
            assert_eq!(tuple.client.is_ipv4(), tuple.server.is_ipv4());
            let told = Told {
                last: event.at,
                ..Told::default()
            };
            assert!(self.flows.insert(event.flow, told).is_none());
            return;
        }
        let told = self.flows.get_mut(&event.flow).expect("it has begun");
        assert!(event.at >= told.last && told.finished != [true; 2]);
        told.last = event.at;
        match event.change {
            FlowChange::Begin(_) => {}
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.finished[from as usize] && (1..=16_384).contains(&bytes.len()));
                assert_eq!(offset, told.said[from as usize]);
                told.said[from as usize] += bytes.len() as u64;
                self.bytes[from as usize] += bytes.len() as u64;
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert_eq!(offset, told.said[from as usize]);
                told.said[from as usize] += bytes;
                self.missing[from as usize] += bytes;
            }
            FlowChange::Finish { from } => {
                assert!(!std::mem::replace(&mut told.finished[from as usize], true));
            }
            FlowChange::Reset { .. } => told.finished = [true; 2],
        }
    }
}

/// A session from a trusted proxy, by `X-Forwarded-For` or `Forwarded`: steps as in [`proxied`].
pub(crate) fn xff(bytes: &[u8], info: &FlowInfo) {
    proxied(bytes, info, Way::Xff);
}

/// The same by a PROXY header.
pub(crate) fn proxy_protocol(bytes: &[u8], info: &FlowInfo) {
    proxied(bytes, info, Way::ProxyProtocol);
}

/// Steps, each a byte: its low two bits say what (0, 1: the client, the server says as many bytes as the others tell,
/// which follow; 2, 3: so many of the client's, of the server's are missing, but for 3 with 63: time passes, and with 62: the server
/// ends, and says no more).
fn proxied(mut steps: &[u8], info: &FlowInfo, way: Way) {
    let trusted = vec![network("0.0.0.0/1").expect("a network")];
    let mut clients = RealClients::new(Policy { way, trusted });
    let mut rules = Rules::default();
    let mut at = 0;
    let mut event = |clients: &mut RealClients, rules: &mut Rules, change: FlowChange<'_>| {
        at += 1;
        let event = FlowEvent {
            flow: 1,
            at: WallTime(at),
            change,
        };
        clients.flow_event(event, rules);
    };
    event(&mut clients, &mut rules, FlowChange::Begin(info));
    let (mut said, mut missing, mut offsets) = ([0, 0], [0, 0], [0, 0]);
    let mut ended = false;
    while let Some((step, rest)) = steps.split_first() {
        let length = usize::from(step >> 2);
        let from = match step & 3 {
            0 | 2 => Side::Client,
            _ => Side::Server,
        };
        steps = rest;
        let offset: u64 = offsets[from as usize];
        let over = ended && from == Side::Server;
        match step & 3 {
            0 | 1 => {
                let (bytes, rest) = steps.split_at(length.min(steps.len()));
                steps = rest;
                if bytes.is_empty() || over {
                    continue;
                }
                said[from as usize] += bytes.len() as u64;
                offsets[from as usize] += bytes.len() as u64;
                let change = FlowChange::Data {
                    from,
                    offset,
                    bytes,
                };
                event(&mut clients, &mut rules, change);
            }
            3 if length == 63 => clients.expire(WallTime(u64::MAX), &mut rules),
            3 if length == 62 && !ended => {
                ended = true;
                event(&mut clients, &mut rules, FlowChange::Finish { from });
            }
            _ if length > 0 && !over => {
                missing[from as usize] += length as u64;
                offsets[from as usize] += length as u64;
                let change = FlowChange::Hole {
                    from,
                    offset,
                    bytes: length as u64,
                };
                event(&mut clients, &mut rules, change);
            }
            _ => {}
        }
    }
    let sides = [Side::Client, Side::Server];
    for from in sides
        .into_iter()
        .filter(|side| !ended || *side == Side::Client)
    {
        event(&mut clients, &mut rules, FlowChange::Finish { from });
    }
    assert_eq!(clients.oldest_held(), None);
    assert!(rules.flows.values().all(|told| told.finished == [true; 2]));
    let taken_out = clients.stats().header_bytes;
    assert_eq!(rules.bytes, [said[0] - taken_out, said[1]]);
    assert_eq!(rules.missing, missing);
}
