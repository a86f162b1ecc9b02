//! Generated sessions: whatever happens in them, the packets say exactly that.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use agent::event::{
    Binding, FlowEvent, FlowId, FlowInfo, FlowSink, ProcessInfo, Side, Tuple, WallTime,
};
use agent::forge::{ForgeConfig, ForgeStats, Forger, Mtu, SequenceKey, View};
use mirror_hook::event::{Announcement, EarlyData, Role, Transport};
use proptest::prelude::*;

use crate::model::{Change, Model};
use crate::reader::{self, Recorder};

pub(crate) const KEY: [u8; 16] = *b"0123456789abcdef";

/// What a flow does, in the order of its own.
#[derive(Clone, Debug)]
struct Plan {
    v6: bool,
    /// Few, so that flows meet on them.
    port: u16,
    /// The addresses the other way: the same pair for a reader.
    swapped: bool,
    server_mirrored: bool,
    wraps: bool,
    steps: Vec<Step>,
    ending: Ending,
}

#[derive(Clone, Debug)]
enum Step {
    Write(Side, usize),
    Hole(Side, u64),
}

#[derive(Clone, Debug)]
enum Ending {
    /// The first side finishes, then the other goes on, then finishes.
    Finish(Side, Vec<Step>),
    Reset(Side),
    /// Lives until the agent ends.
    None,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn step(side: impl Strategy<Value = Side>) -> impl Strategy<Value = Step> {
    let length = prop_oneof![
        4 => 1..=40usize,
        4 => 1400..=1500usize,
        2 => 16_380..=16_390usize,
        1 => 0..=102_400usize,
    ];
    let hole = prop_oneof![
        4 => 1..=200_000u64,
        1 => (512 << 20) - 2..=(512 << 20) + 2u64,
        1 => 1..=u64::from(u32::MAX) * 4,
    ];
    (
        side,
        prop_oneof![4 => length.prop_map(Ok), 1 => hole.prop_map(Err)],
    )
        .prop_map(|(side, what)| match what {
            Ok(length) => Step::Write(side, length),
            Err(bytes) => Step::Hole(side, bytes),
        })
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        4 => (side(), prop::collection::vec(step(Just(Side::Client)), 0..4)).prop_map(|(first, mut rest)| {
            for step in &mut rest {
                match step {
                    Step::Write(side, _) | Step::Hole(side, _) => *side = first.peer(),
                }
            }
            Ending::Finish(first, rest)
        }),
        1 => side().prop_map(Ending::Reset),
        1 => Just(Ending::None),
    ]
}

fn plan() -> impl Strategy<Value = Plan> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (
        flags,
        0..2u16,
        prop::collection::vec(step(side()), 0..10),
        ending(),
    )
        .prop_map(
            |((v6, swapped, server_mirrored, wraps), port, steps, ending)| Plan {
                v6,
                port: 50_000 + port,
                swapped,
                server_mirrored,
                wraps,
                steps,
                ending,
            },
        )
}

/// Ids whose initial sequence number of the client, or the server, is within 32 KiB of the wrap.
static NEAR_WRAP: LazyLock<Vec<FlowId>> = LazyLock::new(|| {
    let key = SequenceKey::new(KEY);
    let near = |id: &FlowId| {
        [Side::Client, Side::Server]
            .into_iter()
            .any(|side| key.initial_sequence(*id, side, 0).0 > u32::MAX - 32_768)
    };
    (1u128 << 64..)
        .map(|number| FlowId(number.to_be_bytes()))
        .filter(near)
        .take(8)
        .collect()
});

pub(crate) fn info(id: FlowId, client: SocketAddr, server: SocketAddr, role: Role) -> FlowInfo {
    FlowInfo {
        id,
        tuple: Tuple { client, server },
        binding: Binding::Socket,
        proof: None,
        process: Arc::new(ProcessInfo {
            pid: 1,
            uid: 2,
            name: "peer".into(),
            ..ProcessInfo::default()
        }),
        role,
        announcement: Announcement::New,
        transport: Transport::Tcp,
        sni: Some("example.com".into()),
        alpn: None,
        tls_version: Some(0x0304),
        cipher: Some(0x1301),
        resumed: false,
        early: EarlyData::None,
        clear_prefix: None,
        continued: None,
        ja4: None,
        agent: None,
        real_client: None,
        left_out: None,
        http1: None,
    }
}

/// A byte that tells its place: no two flows, sides or near offsets look alike.
fn byte(flow: u64, side: Side, offset: u64) -> u8 {
    let side = u64::from(side == Side::Server);
    let mixed = (offset + 1 + side * 7_919 + flow * 104_729).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed.to_be_bytes()[0]
}

/// The events of a plan.
fn changes(number: u64, plan: &Plan) -> VecDeque<Change> {
    let addresses: [IpAddr; 2] = if plan.v6 {
        [
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
            Ipv6Addr::LOCALHOST.into(),
        ]
    } else {
        [[192, 0, 2, 1].into(), [198, 51, 100, 7].into()]
    };
    let mut ends = [
        SocketAddr::new(addresses[0], plan.port),
        SocketAddr::new(addresses[1], 443),
    ];
    if plan.swapped {
        ends.reverse();
    }
    let role = if plan.server_mirrored {
        Role::Server
    } else {
        Role::Client
    };
    let id = match NEAR_WRAP.get(usize::try_from(number).unwrap()) {
        Some(id) if plan.wraps => *id,
        _ => FlowId(u128::from(number).to_be_bytes()),
    };
    let mut out = VecDeque::from([Change::Begin(Box::new(info(id, ends[0], ends[1], role)))]);
    let mut said = [0u64; 2];
    let mut run = |steps: &[Step], out: &mut VecDeque<Change>| {
        for step in steps {
            match *step {
                Step::Write(from, length) => {
                    let said = &mut said[usize::from(from == Side::Server)];
                    let bytes: Vec<u8> = (0..length as u64)
                        .map(|at| byte(number, from, *said + at))
                        .collect();
                    for bytes in bytes.chunks(16_384) {
                        out.push_back(Change::Data {
                            from,
                            offset: *said,
                            bytes: bytes.to_vec(),
                        });
                        *said += bytes.len() as u64;
                    }
                }
                Step::Hole(from, bytes) => {
                    let said = &mut said[usize::from(from == Side::Server)];
                    out.push_back(Change::Hole {
                        from,
                        offset: *said,
                        bytes,
                    });
                    *said += bytes;
                }
            }
        }
    };
    run(&plan.steps, &mut out);
    match &plan.ending {
        Ending::Finish(first, rest) => {
            out.push_back(Change::Finish { from: *first });
            run(rest, &mut out);
            out.push_back(Change::Finish { from: first.peer() });
        }
        Ending::Reset(by) => out.push_back(Change::Reset { by: *by }),
        Ending::None => {}
    }
    out
}

pub(crate) fn config() -> ForgeConfig {
    ForgeConfig {
        key: SequenceKey::new(KEY),
        mtu: Mtu::default(),
        view: View::default(),
    }
}

/// Forges events of (flow, time, change); the agent ends a second after the last.
pub(crate) fn forge(events: &[(u64, u64, Change)]) -> (Recorder, ForgeStats) {
    let mut forger = Forger::new(config(), Recorder::default());
    for (flow, at, change) in events {
        let (at, change) = (WallTime(*at), change.borrowed());
        forger.flow_event(FlowEvent {
            flow: *flow,
            at,
            change,
        });
    }
    let last = events.last().map_or(0, |(_, at, _)| *at);
    forger.finish(WallTime(last + 1_000_000_000));
    assert_eq!(forger.live_flows(), 0);
    let stats = forger.stats();
    assert!(forger.take_error().is_none());
    (forger.into_sink(), stats)
}

fn check(plans: &[Plan], order: &[prop::sample::Index]) {
    let mut queues: Vec<(u64, VecDeque<Change>)> = (0..)
        .zip(plans)
        .map(|(number, plan)| (number, changes(number, plan)))
        .collect();
    let mut events = Vec::new();
    let mut order = order.iter().cycle();
    while !queues.is_empty() {
        let chosen = order.next().unwrap().index(queues.len());
        let (number, queue) = &mut queues[chosen];
        match queue.pop_front() {
            // Several events share a time.
            Some(change) => events.push((*number, 1_000 + events.len() as u64 / 3, change)),
            None => drop(queues.remove(chosen)),
        }
    }
    let mut model = Model::default();
    events
        .iter()
        .for_each(|(flow, at, change)| model.apply(*flow, *at, change));
    let (recorder, stats) = forge(&events);
    let read = reader::read(&recorder.0, 1500);
    let expected = model.finish();
    assert_eq!(read.len(), expected.len(), "flows");
    for (id, dialogues) in expected {
        // Not assert_eq: the difference of two streams would fill the screen.
        for (number, (wanted, found)) in dialogues.iter().zip(&read[&id]).enumerate() {
            assert_eq!(
                (&wanted.fins, wanted.reset),
                (&found.fins, found.reset),
                "end of {id} {number}"
            );
            for (wanted, found) in [
                (&wanted.client, &found.client),
                (&wanted.server, &found.server),
            ] {
                assert_eq!(wanted.base, found.base, "base of {id} {number}");
                assert_eq!(wanted.pushes, found.pushes, "pushes of {id} {number}");
                let shape = |stream: &reader::Stream| -> Vec<(u64, usize)> {
                    stream
                        .runs
                        .iter()
                        .map(|(at, run)| (*at, run.len()))
                        .collect()
                };
                assert_eq!(shape(wanted), shape(found), "holes of {id} {number}");
                assert!(wanted.runs == found.runs, "bytes of {id} {number}");
            }
        }
        assert_eq!(dialogues.len(), read[&id].len(), "conversations of {id}");
    }
    assert_eq!(stats.violations, 0);
    assert_eq!(stats.packets, recorder.0.len() as u64);
    let frame_bytes: usize = recorder.0.iter().map(|packet| packet.frame.len()).sum();
    assert_eq!(stats.frame_bytes, frame_bytes as u64);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn packets_say_what_happened(
        plans in prop::collection::vec(plan(), 1..6),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..64),
    ) {
        check(&plans, &order);
    }
}
