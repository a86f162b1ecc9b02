//! The mapper against an oracle: whatever the order of text, losses, handshakes seen and time, every
//! byte comes out at its exact place or in a hole, and the sink's rules hold.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_hook::event::{Announcement, CloseReason, Direction, EarlyData, Meta, Role, Transport};
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
mod mapping;

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

#[test]
fn a_socket_tells_and_both_sides_are_turned_right() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, with_socket(0, Role::Server));
    bench.say(1, 0, Role::Server, Received, 0, 100);
    bench.say(1, 0, Role::Server, Sent, 0, 200);
    bench.close(1, 0, CloseReason::ReceivedEnd);
    bench.close(1, 0, CloseReason::Free);
    bench.at(100);
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Socket);
    assert_eq!(flow.info.tuple, tuple(0));
    assert_eq!(flow.next[&Side::Client], 100);
    assert_eq!(flow.next[&Side::Server], 200);
    assert_eq!(flow.finished, [Side::Client, Side::Server]);
    assert_eq!(flow.began, WallTime(EPOCH));
}

#[test]
fn what_the_application_tells_is_marked() {
    let mut bench = Bench::capturing();
    let mut meta = with_socket(0, Role::Server);
    meta.addresses_told = true;
    bench.open(1, 0, meta);
    bench.say(1, 0, Role::Server, Received, 0, 100);
    bench.at(100);
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Told);
    assert_eq!(flow.info.tuple, tuple(0));
}

/// People set the machine's clock, back and forward, while a session talks and another waits for its addresses: all
/// goes on, in order (the checker looks), and no wait becomes longer.
#[test]
fn a_clock_that_is_set_holds_nothing_up() {
    const HOUR: i64 = 3_600_000;
    let mut bench = Bench::capturing();
    bench.open(1, 0, with_socket(0, Role::Client));
    let (mut offset, mut told) = (0, Vec::new());
    for (number, set_ms) in (0..).zip([0, -HOUR, 0, 2 * HOUR, -3 * HOUR, 0]) {
        bench.at(100 * (number + 1));
        offset += set_ms;
        let wall = EPOCH + bench.now;
        let wall = WallTime(wall.wrapping_add_signed(offset * 1_000_000));
        let step = bench.mapper.adjust_clock(MonotonicTime(bench.now), wall);
        told.extend(step.map(|step| i64::try_from(step.by_ns / 1_000_000).unwrap()));
        bench.say(1, 0, Role::Client, Sent, number * 100, 100);
    }
    assert_eq!(told, [-HOUR, 2 * HOUR, -3 * HOUR], "each is told once");
    assert_eq!(bench.mapper.stats().clock_steps, 3);
    let seen = bench.checker.only();
    assert_eq!(seen.delivered, 600);
    // It has followed the clock forward, and not back.
    let ahead = |wall: WallTime| i64::try_from(wall.0.abs_diff(EPOCH) / MS).unwrap();
    assert!(ahead(seen.last) >= HOUR && ahead(seen.last) < HOUR + 1000);
    // A wait is as long as ever.
    bench.open(1, 1, done(1, Role::Client));
    bench.say(1, 1, Role::Client, Sent, 0, 100);
    bench.at(10_000);
    assert_eq!(bench.checker.order.len(), 2, "told at the bound");
}

#[test]
fn a_session_goes_on_where_the_agent_before_stopped() {
    let mut bench = Bench::new(MapperConfig {
        capture: true,
        first_flow: 7,
        reports_settled: true,
        ..MapperConfig::default()
    });
    let process = &Arc::new(ProcessInfo {
        pid: 0,
        uid: 0,
        name: "test".to_owned(),
        ..ProcessInfo::default()
    });
    let resume = |bench: &mut Bench, ring, role, base, found| {
        let meta = &Meta {
            offsets: (10, 20),
            ..done(0, role)
        };
        let continued = &Continued { base, found };
        let change = SessionChange::Resumed {
            process,
            meta,
            policy: None,
            continued,
        };
        bench.event(ring, 0, change);
    };
    // Its addresses had been found on the wire, where nothing is to be seen any more.
    let found = Some((tuple(0), Binding::Wire));
    resume(&mut bench, 1, Role::Server, (15, 20), found);
    // The other end's copy; what it says isn't told a second time, nor compared to half of it.
    resume(&mut bench, 2, Role::Client, (20, 15), None);
    bench.at(1000); // no longer does it wait for the wire
    bench.say(2, 0, Role::Client, Sent, 20, 5);
    // A child of this process was ahead.
    bench.say(1, 0, Role::Server, Sent, 10, 10);
    bench.say(1, 0, Role::Server, Received, 20, 5);
    for ring in [1, 2] {
        bench.close(ring, 0, CloseReason::Free);
    }
    let flow = bench.checker.only();
    assert_eq!(flow.info.continued, Some((20, 15)));
    assert_eq!(flow.info.binding, Binding::Wire);
    assert_eq!(flow.info.tuple, tuple(0));
    assert_eq!(flow.next[&Side::Server], 5);
    assert_eq!(flow.next[&Side::Client], 5);
    assert_eq!(bench.checker.order, [7]);
    let stats = bench.mapper.stats();
    assert_eq!((stats.twins_different, stats.twins_incomparable), (0, 1));
    let settled = bench.mapper.take_settled();
    assert_eq!(settled[0].1.flow, Some(7));
    assert_eq!(settled[0].1.found, found);
    assert_eq!(settled[1].1, Settled::default());
    assert!(bench.mapper.take_settled().is_empty());
}

#[test]
fn free_finishes_the_local_side_first_and_abort_resets() {
    let mut bench = Bench::new(MapperConfig::default());
    for (connection, role) in [(0, Role::Client), (1, Role::Server)] {
        bench.open(1, connection, with_socket(connection, role));
        bench.close(1, connection, CloseReason::Free);
    }
    bench.open(1, 2, with_socket(2, Role::Client));
    bench.close(1, 2, CloseReason::Abort);
    bench.open(1, 3, with_socket(3, Role::Client));
    bench.event(1, 3, SessionChange::Died);
    let flows: Vec<_> = bench
        .checker
        .order
        .iter()
        .map(|f| &bench.checker.flows[f])
        .collect();
    assert_eq!(flows[0].finished, [Side::Client, Side::Server]);
    assert_eq!(flows[1].finished, [Side::Server, Side::Client]);
    assert_eq!(flows[2].end, End::Reset);
    assert_eq!(flows[3].end, End::Reset);
    assert_eq!(bench.mapper.live_flows(), 0);
}

#[test]
fn the_wire_tells_before_or_after_the_text() {
    for wire_first in [true, false] {
        let mut bench = Bench::capturing();
        if wire_first {
            bench.wire(0, tuple(0));
        }
        bench.at(5).open(1, 0, done(0, Role::Client));
        bench.at(6).say(1, 0, Role::Client, Sent, 0, 100);
        if !wire_first {
            assert_eq!(bench.mapper.oldest_held(), Some(WallTime(EPOCH + 5 * MS)));
            bench.at(8).wire(0, tuple(0));
        }
        assert_eq!(bench.mapper.oldest_held(), None);
        assert_eq!(bench.mapper.held_bytes(), 0);
        let flow = bench.checker.only();
        assert_eq!(flow.info.binding, Binding::Wire);
        assert_eq!(flow.info.tuple, tuple(0));
        assert_eq!(flow.info.clear_prefix, Some(0));
        assert_eq!(flow.began, WallTime(EPOCH + 5 * MS));
        assert_eq!(flow.last, WallTime(EPOCH + 6 * MS));
    }
}

#[test]
fn randoms_on_two_tuples_are_marked() {
    let mut bench = Bench::capturing();
    bench.wire(0, tuple(0));
    bench.wire(0, tuple(9));
    bench.open(1, 0, done(0, Role::Client));
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::WireAmbiguous);
    assert_eq!(flow.info.tuple, tuple(0));
}

#[test]
fn what_nobody_tells_gets_a_placeholder_after_the_bound() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, done(0, Role::Client));
    bench.say(1, 0, Role::Client, Sent, 0, 100);
    bench.at(499);
    assert!(bench.checker.order.is_empty());
    bench.at(500);
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
    assert_eq!(bench.mapper.stats().unbound, 1);
    // Without capture there is nothing to wait for.
    let mut bench = Bench::new(MapperConfig::default());
    bench.open(1, 0, done(0, Role::Client));
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
}

#[test]
fn a_session_that_ended_meanwhile_still_gets_its_addresses() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, done(0, Role::Client));
    bench.say(1, 0, Role::Client, Sent, 0, 100);
    bench.close(1, 0, CloseReason::Free);
    bench.at(20).wire(0, tuple(0));
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Wire);
    assert_eq!(flow.end, End::Finished);
    assert_eq!(flow.last, WallTime(EPOCH));
}

#[test]
fn too_much_text_goes_out_unbound_and_whole() {
    let mut bench = Bench::new(MapperConfig {
        capture: true,
        session_bytes: 100_000,
        ..MapperConfig::default()
    });
    bench.open(1, 0, done(0, Role::Client));
    for part in 0..20 {
        bench.say(1, 0, Role::Client, Received, part * 10_000, 10_000);
        assert!(bench.mapper.held_bytes() <= 100_000);
    }
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Placeholder);
    assert_eq!(flow.delivered, 200_000);
    assert_eq!(bench.mapper.stats().unbound_for_space, 1);
}

#[test]
fn early_data_waits_for_its_answer() {
    let pending = Meta {
        handshake_done: false,
        server_random: None,
        early: EarlyData::Pending,
        ..with_socket(0, Role::Client)
    };
    for (early, delivered) in [(EarlyData::Accepted, 150), (EarlyData::Rejected, 50)] {
        let mut bench = Bench::new(MapperConfig::default());
        bench.open(1, 0, pending);
        bench.say(1, 0, Role::Client, Sent, 0, 100);
        assert!(bench.checker.order.is_empty());
        let answered = Meta {
            early,
            ..with_socket(0, Role::Client)
        };
        bench.update(1, 0, answered);
        let offset = if early == EarlyData::Accepted { 100 } else { 0 };
        bench.say(1, 0, Role::Client, Sent, offset, 50);
        let flow = bench.checker.only();
        assert_eq!(flow.delivered, delivered);
        assert_eq!(flow.info.early, early);
        assert_eq!(bench.mapper.stats().early_rejected_bytes, 150 - delivered);
    }
    // Never answered: nobody knows whether it was read.
    let mut bench = Bench::new(MapperConfig::default());
    bench.open(1, 0, pending);
    bench.say(1, 0, Role::Client, Sent, 0, 100);
    bench.at(10_000).close(1, 0, CloseReason::Abort);
    assert!(bench.checker.order.is_empty());
    assert_eq!(bench.mapper.stats().early_unanswered_bytes, 100);
    assert_eq!(bench.mapper.held_bytes(), 0);
}

#[test]
fn a_failed_handshake_is_no_flow() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, Meta::new(Role::Client));
    bench.at(5_000).close(1, 0, CloseReason::Free);
    assert!(bench.checker.order.is_empty());
    assert_eq!(bench.mapper.stats().handshakes_failed, 1);
    assert_eq!(bench.mapper.oldest_held(), None);
}

#[test]
fn other_transports_are_counted_and_never_forged() {
    let mut bench = Bench::new(MapperConfig::default());
    for (connection, transport) in [(0, Transport::Dtls), (1, Transport::Quic)] {
        let meta = Meta {
            transport,
            ..with_socket(connection, Role::Client)
        };
        bench.open(1, connection, meta);
        bench.say(1, connection, Role::Client, Sent, 0, 10);
        bench.close(1, connection, CloseReason::Free);
    }
    assert!(bench.checker.order.is_empty());
    let stats = bench.mapper.stats();
    assert_eq!((stats.dtls, stats.quic, stats.not_forged_bytes), (1, 1, 20));
}

#[test]
fn both_ends_come_out_once_and_are_compared() {
    for other_text in [false, true] {
        let mut bench = Bench::new(MapperConfig::default());
        bench.open(1, 0, with_socket(0, Role::Client));
        bench.open(2, 0, with_socket(0, Role::Server));
        bench.say(1, 0, Role::Client, Sent, 0, 1000);
        let connection = if other_text { 7 } else { 0 };
        let bytes = text(connection, Side::Client, 0, 1000);
        let (direction, offset) = (Received, 0);
        let change = SessionChange::Data {
            direction,
            offset,
            bytes: &bytes,
        };
        bench.event(2, 0, change);
        bench.close(2, 0, CloseReason::Free);
        bench.close(1, 0, CloseReason::Free);
        assert_eq!(bench.checker.only().delivered, 1000);
        let stats = bench.mapper.stats();
        assert_eq!((stats.twins, stats.twin_bytes), (1, 1000));
        assert_eq!(stats.twins_equal, u64::from(!other_text));
        assert_eq!(stats.twins_different, u64::from(other_text));
    }
}

#[test]
fn the_second_end_may_come_when_the_first_is_over() {
    let mut bench = Bench::new(MapperConfig::default());
    for (ring, role) in [(1, Role::Client), (2, Role::Server)] {
        bench.open(ring, 0, with_socket(0, role));
        bench.close(ring, 0, CloseReason::Free);
    }
    assert_eq!(bench.checker.order.len(), 1);
    assert_eq!(bench.mapper.stats().twins_equal, 1);
    // Much later the same randoms would be somebody else's.
    bench.at(70_000).open(3, 0, with_socket(0, Role::Server));
    assert_eq!(bench.checker.order.len(), 2);
}

#[test]
fn the_same_end_again_is_a_flow_with_another_id() {
    let mut bench = Bench::new(MapperConfig::default());
    for ring in [1, 2] {
        bench.open(ring, 0, with_socket(0, Role::Client));
        bench.close(ring, 0, CloseReason::Free);
    }
    let ids: Vec<_> = bench
        .checker
        .flows
        .values()
        .map(|flow| flow.info.id)
        .collect();
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn ids_are_the_same_on_every_host() {
    let ids = [Role::Client, Role::Server].map(|role| {
        let mut bench = Bench::new(MapperConfig {
            seed: [u8::from(role == Role::Client); 16],
            ..MapperConfig::default()
        });
        bench.open(5, 0, done(0, role));
        bench.checker.only().info.id
    });
    assert_eq!(ids[0], ids[1]);
}

#[test]
fn a_child_goes_on_in_its_parents_flow() {
    let mut bench = Bench::new(MapperConfig::default());
    bench.open(1, 0, with_socket(0, Role::Server));
    bench.say(1, 0, Role::Server, Received, 0, 10);
    let child = Meta {
        announcement: Announcement::Inherited,
        offsets: (0, 10),
        ..with_socket(0, Role::Server)
    };
    bench.open(2, 0, child);
    bench.close(1, 0, CloseReason::Free);
    bench.say(2, 0, Role::Server, Sent, 0, 20);
    assert_eq!(bench.checker.only().end, End::Open);
    bench.close(2, 0, CloseReason::Free);
    let flow = bench.checker.only();
    assert_eq!((flow.end, flow.delivered), (End::Finished, 30));
}

/// As a child announces its parent's connection.
fn inherited(connection: u8, role: Role, offsets: (u64, u64)) -> Meta<'static> {
    Meta {
        announcement: Announcement::Inherited,
        offsets,
        ..done(connection, role)
    }
}

#[test]
fn a_child_joins_while_its_parent_waits_for_the_wire() {
    // The parent's end is told before either has addresses: the child's text is no second flow.
    for timeout in [false, true] {
        let mut bench = Bench::capturing();
        bench.open(1, 0, done(0, Role::Server));
        bench.say(1, 0, Role::Server, Received, 0, 10);
        bench.at(1).open(2, 0, inherited(0, Role::Server, (0, 10)));
        bench.close(1, 0, CloseReason::Free);
        bench.open(3, 0, inherited(0, Role::Server, (0, 10)));
        bench.event(3, 0, SessionChange::Died);
        bench.at(2).say(2, 0, Role::Server, Sent, 0, 20);
        match timeout {
            false => bench.wire(0, tuple(0)),
            true => drop(bench.at(600)),
        }
        assert_eq!(bench.checker.only().end, End::Open);
        bench.say(2, 0, Role::Server, Sent, 20, 5);
        bench.close(2, 0, CloseReason::Free);
        let flow = bench.checker.only();
        assert_eq!((flow.end, flow.delivered), (End::Finished, 35));
        assert_eq!(bench.mapper.stats().joined, 2);
        assert_eq!(bench.mapper.live_flows(), 0);
    }
}

#[test]
fn a_child_that_has_much_to_say_takes_its_parent_along() {
    let mut bench = Bench::new(MapperConfig {
        capture: true,
        session_bytes: 10_000,
        ..MapperConfig::default()
    });
    bench.open(1, 0, done(0, Role::Server));
    bench.say(1, 0, Role::Server, Received, 0, 10);
    bench.open(2, 0, inherited(0, Role::Server, (0, 10)));
    bench.say(2, 0, Role::Server, Sent, 0, 9_000);
    bench.say(2, 0, Role::Server, Sent, 9_000, 9_000);
    bench.say(1, 0, Role::Server, Received, 10, 5);
    bench.close(2, 0, CloseReason::Free);
    assert_eq!(bench.checker.only().end, End::Open);
    bench.close(1, 0, CloseReason::Free);
    let flow = bench.checker.only();
    assert_eq!((flow.end, flow.delivered), (End::Finished, 18_015));
}

#[test]
fn a_child_of_a_flow_that_goes_on_needs_no_addresses() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, with_socket(0, Role::Server));
    bench.at(100);
    bench.open(2, 0, inherited(0, Role::Server, (0, 0)));
    bench.close(1, 0, CloseReason::Free);
    bench.say(2, 0, Role::Server, Sent, 0, 20);
    assert_eq!(bench.checker.only().delivered, 20);
    assert_eq!(bench.checker.only().end, End::Open);
}

#[test]
fn close_notify_ends_it_for_all_and_the_last_death_is_no_reset_then() {
    let mut bench = Bench::new(MapperConfig::default());
    for connection in [0, 1, 2] {
        bench.open(1, connection, with_socket(connection, Role::Server));
        bench.open(2, connection, inherited(connection, Role::Server, (0, 0)));
    }
    bench.close(2, 0, CloseReason::SentEnd);
    bench.close(2, 0, CloseReason::Free);
    // Given back by one, and held by the other until its end.
    bench.at(3).close(2, 1, CloseReason::Free);
    bench.at(4).event(1, 1, SessionChange::Died);
    bench.event(1, 2, SessionChange::Died);
    bench.event(2, 2, SessionChange::Died);
    let ends: Vec<_> = (0..3)
        .map(|flow| &bench.checker.flows[&bench.checker.order[flow]])
        .map(|flow| (flow.end, flow.last))
        .collect();
    assert_eq!(ends[0], (End::Finished, WallTime(EPOCH)));
    assert_eq!(ends[1], (End::Finished, WallTime(EPOCH + 4 * MS)));
    assert_eq!(ends[2].0, End::Reset);
}

#[test]
fn nobody_speaks_in_another_users_name() {
    for (parent, child, joins) in [
        (0, 33, true),
        (33, 33, true),
        (33, 34, false),
        (33, 0, false),
    ] {
        let mut bench = Bench::new(MapperConfig::default());
        bench.open_as(1, 0, with_socket(0, Role::Server), parent);
        bench.open_as(2, 0, inherited(0, Role::Server, (0, 0)), child);
        assert_eq!(bench.checker.order.len(), if joins { 1 } else { 2 });
    }
}

#[test]
fn the_end_of_the_agent_lets_everything_go() {
    let mut bench = Bench::capturing();
    bench.open(1, 0, done(0, Role::Client));
    bench.say(1, 0, Role::Client, Sent, 0, 10);
    let Bench {
        mapper, checker, ..
    } = &mut bench;
    mapper.finish(MonotonicTime(MS), checker);
    assert_eq!(checker.only().delivered, 10);
    assert_eq!(checker.only().end, End::Open);
    assert_eq!(mapper.held_bytes(), 0);
}

/// A step of the property test below.
#[derive(Clone, Debug)]
enum Step {
    Say(u8, bool, bool, u64),
    Lose(u8, bool, bool, u64),
    Complete(u8, bool),
    Wire(u8),
    Close(u8, bool, u8),
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let connection = 0u8..3;
    let flag = any::<bool>;
    let step = prop_oneof![
        8 => (connection.clone(), flag(), flag(), 1u64..3000).prop_map(|(c, e, d, n)| Step::Say(c, e, d, n)),
        2 => (connection.clone(), flag(), flag(), 1u64..3000).prop_map(|(c, e, d, n)| Step::Lose(c, e, d, n)),
        2 => (connection.clone(), flag()).prop_map(|(c, e)| Step::Complete(c, e)),
        1 => connection.clone().prop_map(Step::Wire),
        2 => (connection, flag(), 0u8..5).prop_map(|(c, e, reason)| Step::Close(c, e, reason)),
        2 => (1u64..700).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

/// One end of a connection as the test drives it.
#[derive(Default)]
struct EndState {
    next: [u64; 2],
    ended: [bool; 2],
    over: bool,
    said: u64,
    lost: u64,
}

proptest! {
    #[test]
    fn every_byte_is_in_its_place_or_in_a_hole(
        steps in steps(),
        capture in any::<bool>(),
        session_bytes in prop::sample::select(vec![2_000usize, 20_000, 1 << 22]),
        sockets in any::<[bool; 6]>(),
    ) {
        let mut bench = Bench::new(MapperConfig {
            capture,
            session_bytes,
            total_bytes: 3 * session_bytes,
            ..MapperConfig::default()
        });
        let mut ends: Vec<EndState> = (0..6).map(|_| EndState::default()).collect();
        let role = |end: bool| if end { Role::Server } else { Role::Client };
        let ring = |end: bool| 1 + u64::from(end);
        for connection in 0..3 {
            for end in [false, true] {
                let mut meta = Meta::new(role(end));
                if sockets[usize::from(connection * 2 + u8::from(end))] {
                    meta.addresses = with_socket(connection, role(end)).addresses;
                }
                bench.open(ring(end), connection, meta);
            }
        }
        let mut ms = 0;
        for step in steps {
            match step {
                Step::Say(c, e, d, n) | Step::Lose(c, e, d, n) => {
                    let state = &mut ends[usize::from(c * 2 + u8::from(e))];
                    let d = if d { Sent } else { Received };
                    if state.over || state.ended[d as usize] {
                        continue;
                    }
                    let from = state.next[d as usize];
                    state.next[d as usize] += n;
                    if matches!(step, Step::Say(..)) {
                        state.said += n;
                        bench.say(ring(e), c, role(e), d, from, n);
                    } else {
                        state.lost += n;
                        let change = SessionChange::Lost { direction: d, from, to: from + n };
                        bench.event(ring(e), c, change);
                    }
                }
                Step::Complete(c, e) => bench.update(ring(e), c, done(c, role(e))),
                Step::Wire(c) => bench.wire(c, tuple(c)),
                Step::Close(c, e, reason) => {
                    let state = &mut ends[usize::from(c * 2 + u8::from(e))];
                    if state.over {
                        continue;
                    }
                    match reason {
                        0 => state.ended[0] = true,
                        1 => state.ended[1] = true,
                        _ => state.over = true,
                    }
                    match reason {
                        0 => bench.close(ring(e), c, CloseReason::SentEnd),
                        1 => bench.close(ring(e), c, CloseReason::ReceivedEnd),
                        2 => bench.close(ring(e), c, CloseReason::Free),
                        3 => bench.close(ring(e), c, CloseReason::Abort),
                        _ => bench.event(ring(e), c, SessionChange::Died),
                    }
                }
                Step::Wait(more) => {
                    ms += more;
                    bench.at(ms);
                }
            }
            let charged: usize = bench.mapper.held_bytes();
            // Holes are taken beyond the bound: a few entries a session.
            prop_assert!(charged <= 3 * session_bytes + 6 * 8 * 56, "{charged}");
        }
        let Bench {
            mapper,
            checker,
            now,
            ..
        } = &mut bench;
        mapper.finish(MonotonicTime(*now + 1), checker);
        prop_assert_eq!(mapper.held_bytes(), 0);
        prop_assert_eq!(mapper.oldest_held(), None);
        // Everything that was said is text or counted; everything that was lost is a hole.
        let stats = *mapper.stats();
        let said: u64 = ends.iter().map(|end| end.said).sum();
        let elsewhere = stats.twin_bytes + stats.unknown_bytes + stats.after_end_bytes
            + stats.overlapping_bytes;
        prop_assert_eq!(stats.bytes + elsewhere, said);
        let delivered: u64 = checker.flows.values().map(|flow| flow.delivered).sum();
        prop_assert_eq!(delivered, stats.bytes);
        prop_assert_eq!(stats.twins_different, 0);
        let lost: u64 = ends.iter().map(|end| end.lost).sum();
        prop_assert!(stats.hole_bytes <= lost);
        for flow in checker.flows.values() {
            let end = flow.info.role == Role::Server;
            let state = &ends[usize::from(flow.connection * 2 + u8::from(end))];
            for direction in [Sent, Received] {
                let side = Side::speaker(flow.info.role, direction);
                prop_assert_eq!(flow.next[&side], state.next[direction as usize]);
            }
            prop_assert_eq!(flow.end != End::Open, state.over || state.ended == [true; 2]);
        }
    }
}

fn policy(rules: &[(Action, &str)], unknown_flow: UnknownFlow) -> Option<Arc<Policy>> {
    let rules = rules
        .iter()
        .map(|(action, rule)| (*action, Condition::parse(rule).unwrap()));
    let filters = Filters::new(rules.collect(), unknown_flow).unwrap();
    Some(filters.for_process(0, None).unwrap().policy)
}

/// Flows and excluded sessions, after a session with text that the wire binds late, if at all.
fn filtered(policy: Option<Arc<Policy>>, meta: Meta<'_>, bound: bool) -> (usize, FlowStats) {
    let mut bench = Bench::capturing();
    bench.policy = policy;
    let role = meta.role;
    bench.open(1, 0, meta);
    bench.say(1, 0, role, Sent, 0, 100);
    if bound {
        bench.wire(0, tuple(0));
    }
    bench.at(3000).say(1, 0, role, Sent, 100, 11);
    bench.close(1, 0, CloseReason::Free);
    assert_eq!(bench.mapper.held_bytes(), 0);
    assert_eq!(bench.mapper.live_flows(), 0);
    assert_eq!(bench.mapper.oldest_held(), None);
    (bench.checker.order.len(), *bench.mapper.stats())
}

#[test]
fn filters_are_asked_when_the_wire_has_told() {
    let client = || done(0, Role::Client);
    let mirror = |rule| policy(&[rule], UnknownFlow::Mirror);
    let (flows, stats) = filtered(mirror((Action::Allow, "port=443")), client(), true);
    assert_eq!((flows, stats.excluded, stats.bytes), (1, 0, 111));
    let (flows, stats) = filtered(mirror((Action::Deny, "net=10.0.1.0/24")), client(), true);
    assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 0));
    assert_eq!((stats.excluded_bytes, stats.bytes), (111, 0));
    // Who never gets addresses is excluded by any rule that asks for them, and by no other.
    for rule in [(Action::Allow, "port=443"), (Action::Deny, "port=80")] {
        let (flows, stats) = filtered(mirror(rule), client(), false);
        assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 1));
    }
    let (flows, stats) = filtered(mirror((Action::Allow, "role=client")), client(), false);
    assert_eq!((flows, stats.excluded), (1, 0));
}

#[test]
fn what_the_hook_would_have_excluded_is_dropped_though_the_wire_tells() {
    let exclude = policy(&[(Action::Allow, "port=443")], UnknownFlow::Exclude);
    let (flows, stats) = filtered(exclude.clone(), done(0, Role::Client), true);
    assert_eq!((flows, stats.excluded, stats.excluded_unknown), (0, 1, 1));
    let (flows, stats) = filtered(exclude, with_socket(0, Role::Server), false);
    assert_eq!((flows, stats.excluded), (1, 0));
}

#[test]
fn a_name_that_comes_late_is_waited_for() {
    let policy = policy(&[(Action::Deny, "sni=secret.test")], UnknownFlow::Exclude);
    for (name, flows) in [(&b"Secret.Test"[..], 0), (b"open.test", 1), (b"", 1)] {
        let mut bench = Bench::new(MapperConfig::default());
        bench.policy = policy.clone();
        bench.open(1, 0, Meta::new(Role::Server));
        bench.say(1, 0, Role::Server, Sent, 0, 100);
        assert!(bench.checker.order.is_empty());
        let meta = Meta {
            sni: name,
            ..with_socket(0, Role::Server)
        };
        bench.update(1, 0, meta);
        assert_eq!(bench.checker.order.len(), flows, "{name:?}");
    }
}

/// What one of a family does: who, and what.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// It forks another, which announces the connection.
    Fork,
    /// It says something, after all that was said.
    Say(bool, u64),
    /// It says what another has said, and more: no two of them should, but they may.
    Repeat(bool, u64, u64),
    /// Something passed that nobody saw.
    Lose(bool, u64),
    Free,
    Die,
}

fn acts() -> impl Strategy<Value = Vec<(usize, Act)>> {
    let flag = any::<bool>;
    let act = prop_oneof![
        2 => Just(Act::Fork),
        6 => (flag(), 1u64..3000).prop_map(|(d, n)| Act::Say(d, n)),
        1 => (flag(), 0u64..500, 1u64..1000).prop_map(|(d, back, n)| Act::Repeat(d, back, n)),
        1 => (flag(), 1u64..500).prop_map(|(d, n)| Act::Lose(d, n)),
        1 => Just(Act::Free),
        1 => Just(Act::Die),
    ];
    prop::collection::vec((0usize..6, act), 1..60)
}

proptest! {
    /// However many hold a connection, it is one flow: each byte once and at its place, and an end when
    /// the last of them has ended.
    #[test]
    fn a_family_is_one_flow(acts in acts(), wire in 0usize..60) {
        let mut bench = Bench::capturing();
        bench.open(1, 0, done(0, Role::Server));
        // Where each holder's own streams stand; none: it has ended.
        let mut holders = vec![Some([0u64; 2])];
        let mut next = [0u64; 2];
        let mut freed = false;
        let mut said = 0;
        for (at, (who, act)) in acts.into_iter().enumerate() {
            if at == wire {
                bench.wire(0, tuple(0));
            }
            let ring = 1 + who as u64;
            let Some(Some(own)) = holders.get(who).copied() else {
                continue;
            };
            let direction = |d| if d { Sent } else { Received };
            match act {
                Act::Fork if holders.len() < 6 => {
                    holders.push(Some(next));
                    let child = holders.len() as u64;
                    bench.open(child, 0, inherited(0, Role::Server, (next[0], next[1])));
                }
                Act::Fork => {}
                Act::Say(d, n) => {
                    let (d, from) = (direction(d), next[usize::from(!d)]);
                    bench.say(ring, 0, Role::Server, d, from, n);
                    said += n;
                    next[d as usize] = from + n;
                    holders[who].as_mut().unwrap()[d as usize] = from + n;
                }
                Act::Repeat(d, back, n) => {
                    let (d, at) = (direction(d), usize::from(!d));
                    let from = next[at].saturating_sub(back).max(own[at]);
                    bench.say(ring, 0, Role::Server, d, from, n);
                    said += n;
                    next[at] = next[at].max(from + n);
                    holders[who].as_mut().unwrap()[at] = from + n;
                }
                Act::Lose(d, n) => {
                    let (d, from) = (direction(d), next[usize::from(!d)]);
                    let change = SessionChange::Lost { direction: d, from, to: from + n };
                    bench.event(ring, 0, change);
                    next[d as usize] = from + n;
                    holders[who].as_mut().unwrap()[d as usize] = from + n;
                }
                Act::Free => {
                    freed = true;
                    holders[who] = None;
                    bench.close(ring, 0, CloseReason::Free);
                }
                Act::Die => {
                    holders[who] = None;
                    bench.event(ring, 0, SessionChange::Died);
                }
            }
            if bench.checker.order.is_empty() {
                continue;
            }
            let expected = match (holders.iter().all(Option::is_none), freed) {
                (false, _) => End::Open,
                (true, true) => End::Finished,
                (true, false) => End::Reset,
            };
            prop_assert_eq!(bench.checker.only().end, expected);
        }
        let Bench { mapper, checker, now, .. } = &mut bench;
        mapper.finish(MonotonicTime(*now), checker);
        prop_assert_eq!(mapper.held_bytes(), 0);
        let (stats, flow) = (*mapper.stats(), checker.only());
        prop_assert_eq!((flow.next[&Side::Server], flow.next[&Side::Client]), (next[0], next[1]));
        prop_assert_eq!(flow.delivered + stats.overlapping_bytes, said);
        prop_assert_eq!(flow.delivered + stats.hole_bytes, next[0] + next[1]);
        prop_assert_eq!((flow.delivered, stats.after_end_bytes), (stats.bytes, 0));
    }
}
