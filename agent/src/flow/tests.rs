//! The mapper against an oracle: whatever the order of text, losses, handshakes seen and time, every
//! byte comes out at its exact place or in a hole, and the sink's rules hold.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_hook::event::{
    Announcement, CloseReason, Direction, EarlyData, LookPart, Meta, Role, Transport,
};
use proptest::prelude::*;

use super::wire::WireFact;
use super::{FlowStats, Mapper, MapperConfig};
use crate::clock::Clock;
use crate::event::{
    Binding, Continued, FlowChange, FlowEvent, FlowInfo, FlowSink, MonotonicTime, ProcessInfo,
    SessionChange, SessionEvent, SessionKey, Settled, Side, Tuple, WallTime,
};
use crate::filter::{Condition, Filters, Policy, UnknownFlow};
use mirror_hook::filter::Action;

mod claims;
mod counters;
mod families;
mod filters;
mod mapping;
mod oracle;
mod others;
mod sessions;

const EPOCH: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

/// The byte that a side of a connection says at an offset.
fn byte(connection: u8, from: Side, offset: u64) -> u8 {
    let stream = u64::from(connection) * 2 + u64::from(from == Side::Server);
    let mixed = (offset + (stream << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56).to_le_bytes()[0]
}

fn text(connection: u8, from: Side, offset: u64, length: u64) -> Vec<u8> {
    (offset..offset + length)
        .map(|offset| byte(connection, from, offset))
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Finished,
    Reset,
}

#[derive(Debug)]
struct Seen {
    info: FlowInfo,
    connection: u8,
    began: WallTime,
    last: WallTime,
    next: HashMap<Side, u64>,
    /// Bytes that came as text.
    delivered: u64,
    finished: Vec<Side>,
    end: End,
}

/// Checks the rules of [`FlowSink`] and every byte.
#[derive(Debug, Default)]
struct Checker {
    flows: HashMap<u64, Seen>,
    order: Vec<u64>,
}

impl FlowSink for Checker {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let seen = Seen {
                info: info.clone(),
                connection: u8::try_from(info.process.pid).unwrap(),
                began: event.at,
                last: event.at,
                next: HashMap::from([(Side::Client, 0), (Side::Server, 0)]),
                delivered: 0,
                finished: Vec::new(),
                end: End::Open,
            };
            assert!(self.flows.insert(event.flow, seen).is_none(), "begun twice");
            self.order.push(event.flow);
            return;
        }
        let flow = self.flows.get_mut(&event.flow).expect("begun");
        assert!(event.at >= flow.last, "time goes back");
        flow.last = event.at;
        assert_eq!(flow.end, End::Open, "{:?} after the end", event.change);
        match event.change {
            FlowChange::Begin(_) => unreachable!(),
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!(!flow.finished.contains(&from));
                assert_eq!(flow.next[&from], offset);
                assert!((1..=16_384).contains(&bytes.len()));
                let (client, server) = flow.info.continued.unwrap_or_default();
                let base = if from == Side::Client { client } else { server };
                let expected = text(flow.connection, from, base + offset, bytes.len() as u64);
                assert_eq!(bytes, expected, "wrong bytes at {offset} of {from:?}");
                flow.delivered += bytes.len() as u64;
                flow.next.insert(from, offset + bytes.len() as u64);
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert!(!flow.finished.contains(&from));
                assert_eq!(flow.next[&from], offset);
                assert!(bytes > 0);
                flow.next.insert(from, offset + bytes);
            }
            FlowChange::Finish { from } => {
                assert!(!flow.finished.contains(&from));
                flow.finished.push(from);
                if flow.finished.len() == 2 {
                    flow.end = End::Finished;
                }
            }
            FlowChange::Reset { .. } => flow.end = End::Reset,
        }
    }
}

impl Checker {
    fn only(&self) -> &Seen {
        assert_eq!(self.order.len(), 1);
        &self.flows[&self.order[0]]
    }
}

fn tuple(connection: u8) -> Tuple {
    Tuple {
        client: ([10, 0, 0, connection], 40_000).into(),
        server: ([10, 0, 1, 1], 443).into(),
    }
}

fn randoms(connection: u8) -> ([u8; 32], [u8; 32]) {
    ([connection.wrapping_add(1); 32], [200; 32])
}

fn done(connection: u8, role: Role) -> Meta<'static> {
    let (client_random, server_random) = randoms(connection);
    Meta {
        handshake_done: true,
        client_random: Some(client_random),
        server_random: Some(server_random),
        ..Meta::new(role)
    }
}

fn with_socket(connection: u8, role: Role) -> Meta<'static> {
    let tuple = tuple(connection);
    Meta {
        addresses: Some(match role {
            Role::Client => (tuple.client, tuple.server),
            Role::Server => (tuple.server, tuple.client),
        }),
        ..done(connection, role)
    }
}

/// A mapper with a clock of its own and a checker behind it.
struct Bench {
    mapper: Mapper,
    checker: Checker,
    now: u64,
    /// Of the sessions that are opened from now on.
    policy: Option<Arc<Policy>>,
}

impl Bench {
    fn new(config: MapperConfig) -> Self {
        let clock = Clock::new(MonotonicTime(0), WallTime(EPOCH));
        Self {
            mapper: Mapper::new(config, clock),
            checker: Checker::default(),
            now: 0,
            policy: None,
        }
    }

    fn capturing() -> Self {
        Self::new(MapperConfig {
            capture: true,
            ..MapperConfig::default()
        })
    }

    fn at(&mut self, ms: u64) -> &mut Self {
        self.now = ms * MS;
        self.mapper
            .expire(MonotonicTime(self.now), &mut self.checker);
        self
    }

    fn event(&mut self, ring: u64, connection: u8, change: SessionChange<'_>) {
        let event = SessionEvent {
            session: SessionKey {
                ring,
                connection: u64::from(connection) + 1,
            },
            at: MonotonicTime(self.now),
            change,
        };
        self.mapper
            .session_event(event, MonotonicTime(self.now), &mut self.checker);
    }

    fn open(&mut self, ring: u64, connection: u8, meta: Meta<'_>) {
        self.open_as(ring, connection, meta, 0);
    }

    fn open_as(&mut self, ring: u64, connection: u8, meta: Meta<'_>, uid: u32) {
        let process = Arc::new(ProcessInfo {
            pid: connection.into(),
            uid,
            name: "test".to_owned(),
            ..ProcessInfo::default()
        });
        let policy = self.policy.clone();
        let change = SessionChange::Open {
            process: &process,
            meta: &meta,
            policy: policy.as_ref(),
        };
        self.event(ring, connection, change);
    }

    fn update(&mut self, ring: u64, connection: u8, meta: Meta<'_>) {
        self.event(ring, connection, SessionChange::Update { meta: &meta });
    }

    fn look(&mut self, ring: u64, connection: u8, part: &[u8]) {
        let part = LookPart::parse(part).unwrap();
        self.event(ring, connection, SessionChange::Look { part: &part });
    }

    fn say(&mut self, ring: u64, connection: u8, role: Role, d: Direction, offset: u64, n: u64) {
        let bytes = text(connection, Side::speaker(role, d), offset, n);
        let change = SessionChange::Data {
            direction: d,
            offset,
            bytes: &bytes,
        };
        self.event(ring, connection, change);
    }

    fn close(&mut self, ring: u64, connection: u8, reason: CloseReason) {
        self.event(ring, connection, SessionChange::Close { reason });
    }

    fn wire(&mut self, connection: u8, tuple: Tuple) {
        let (client, server) = randoms(connection);
        let facts = [
            WireFact::Syn { tuple, isn: 100 },
            WireFact::ClientHello {
                tuple,
                sequence: 101,
                random: client,
            },
            WireFact::ServerHello {
                tuple,
                random: server,
            },
        ];
        for fact in facts {
            self.mapper
                .wire_fact(fact, MonotonicTime(self.now), &mut self.checker);
        }
    }
}

use Direction::{Received, Sent};
