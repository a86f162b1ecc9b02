//! What is said by the way of a proxy, or in HTTP/2, and is shown in another way than it was said: read without failing, told within the
//! rules of flows, no byte lost. The fuzz targets call it with inputs that they make up, and tests in `agent/src/real` and
//! `agent/src/transform` with those of the corpus.
#![allow(dead_code, reason = "each target uses one of the functions")]

use std::collections::HashMap;

use agent::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, Side, WallTime};
use agent::filter::network;
use agent::real::{Policy, RealClients, Way};
use agent::transform::{Http1, PartKind};

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
    /// The flow that tells frames as they are, where in the session it begins, and what it tells; holes are 0.
    raw: Option<(u64, [u64; 2], [Vec<u8>; 2])>,
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
            if let Some(PartKind::Raw { client, server, .. }) = info.http1.map(|part| part.kind) {
                assert!(self.raw.is_none());
                self.raw = Some((event.flow, [client, server], <[Vec<u8>; 2]>::default()));
            }
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
                if let Some((flow, _, said)) = &mut self.raw
                    && *flow == event.flow
                {
                    said[from as usize].extend_from_slice(bytes);
                }
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert_eq!(offset, told.said[from as usize]);
                told.said[from as usize] += bytes;
                self.missing[from as usize] += bytes;
                if let Some((flow, _, said)) = &mut self.raw
                    && *flow == event.flow
                {
                    let hole = usize::try_from(bytes).expect("a hole of the input");
                    said[from as usize].extend(std::iter::repeat_n(0, hole));
                }
            }
            FlowChange::Finish { from } => {
                assert!(!std::mem::replace(&mut told.finished[from as usize], true));
            }
            FlowChange::Reset { .. } => told.finished = [true; 2],
        }
    }
}

/// A session from a trusted proxy, by `X-Forwarded-For` or `Forwarded`: steps as in [`talk`].
pub(crate) fn xff(bytes: &[u8], info: &FlowInfo) {
    proxied(bytes, info, Way::Xff);
}

/// The same by a PROXY header.
pub(crate) fn proxy_protocol(bytes: &[u8], info: &FlowInfo) {
    proxied(bytes, info, Way::ProxyProtocol);
}

fn proxied(bytes: &[u8], info: &FlowInfo, way: Way) {
    let trusted = vec![network("0.0.0.0/1").expect("a network")];
    let mut clients = RealClients::new(Policy { way, trusted });
    let said = talk(bytes, info, |happens, rules| match happens {
        Happens::Event(event) => clients.flow_event(event, rules),
        Happens::Later => clients.expire(WallTime(u64::MAX), rules),
    });
    assert_eq!(clients.oldest_held(), None);
    let taken_out = clients.stats().header_bytes;
    assert_eq!(said.rules.bytes, [said.bytes[0] - taken_out, said.bytes[1]]);
    assert_eq!(said.rules.missing, said.missing);
}

/// A session of HTTP/2, told as HTTP/1.1.
pub(crate) fn http2(bytes: &[u8], info: &FlowInfo) {
    let mut info = info.clone();
    for alpn in [Some("h2"), None] {
        info.alpn = alpn.map(Into::into);
        for mut http1 in [Http1::new(), Http1::new().with_decoding()] {
            http2_by(&mut http1, bytes, &info);
        }
    }
}

fn http2_by(http1: &mut Http1, bytes: &[u8], info: &FlowInfo) {
    let said = talk(bytes, info, |happens, rules| {
        if let Happens::Event(event) = happens {
            http1.flow_event(event, rules);
        }
    });
    if let Some((_, begins, raw)) = said.rules.raw {
        for (side, raw) in raw.iter().enumerate() {
            let begin = usize::try_from(begins[side]).expect("a place in the input");
            assert_eq!(raw[..], said.text[side][begin..]);
        }
    }
}

enum Happens<'a> {
    Event(FlowEvent<'a>),
    /// What waits has waited long enough.
    Later,
}

/// What was said, and what came out.
struct Said {
    rules: Rules,
    bytes: [u64; 2],
    missing: [u64; 2],
    /// With holes as 0.
    text: [Vec<u8>; 2],
}

/// Steps, each a byte: its low two bits say what (0, 1: the client, the server says as many bytes as the others tell,
/// which follow; 2, 3: so many of the client's, of the server's are missing, but for 3 with 63: time passes, and with 62: the server
/// ends, and says no more).
fn talk(
    mut steps: &[u8],
    info: &FlowInfo,
    mut happens: impl FnMut(Happens<'_>, &mut Rules),
) -> Said {
    let mut rules = Rules::default();
    let mut at = 0;
    let mut event = |rules: &mut Rules, change: Option<FlowChange<'_>>| {
        at += 1;
        let event = change.map(|change| FlowEvent {
            flow: 1,
            at: WallTime(at),
            change,
        });
        happens(event.map_or(Happens::Later, Happens::Event), rules);
    };
    event(&mut rules, Some(FlowChange::Begin(info)));
    let (mut said, mut missing, mut offsets) = ([0, 0], [0, 0], [0, 0]);
    let mut text = <[Vec<u8>; 2]>::default();
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
                text[from as usize].extend_from_slice(bytes);
                let change = FlowChange::Data {
                    from,
                    offset,
                    bytes,
                };
                event(&mut rules, Some(change));
            }
            3 if length == 63 => event(&mut rules, None),
            3 if length == 62 && !ended => {
                ended = true;
                event(&mut rules, Some(FlowChange::Finish { from }));
            }
            _ if length > 0 && !over => {
                missing[from as usize] += length as u64;
                offsets[from as usize] += length as u64;
                text[from as usize].extend(std::iter::repeat_n(0, length));
                let change = FlowChange::Hole {
                    from,
                    offset,
                    bytes: length as u64,
                };
                event(&mut rules, Some(change));
            }
            _ => {}
        }
    }
    let sides = [Side::Client, Side::Server];
    for from in sides
        .into_iter()
        .filter(|side| !ended || *side == Side::Client)
    {
        event(&mut rules, Some(FlowChange::Finish { from }));
    }
    assert!(rules.flows.values().all(|told| told.finished == [true; 2]));
    Said {
        rules,
        bytes: said,
        missing,
        text,
    }
}
