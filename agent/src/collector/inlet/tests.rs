//! The inlet against hostile agents.

use mirror_hook::event::Role;
use proptest::prelude::*;

use super::*;
use crate::collector::agent::Agent;
use crate::collector::testing::{Checker, End, flow, text};
use crate::event::{FlowId, FlowInfo, ResetCause};
use crate::tunnel::batch::BatchWriter;

const NOW: WallTime = WallTime(1_700_000_000_000_000_000);

fn source(number: u64, networks: Option<&[&str]>) -> Arc<SourceInfo> {
    let networks = networks.map(|texts| {
        let parsed = texts
            .iter()
            .map(|text| crate::filter::network(text).unwrap());
        parsed.collect()
    });
    let agent = Arc::new(Agent::new(number, "web1", networks));
    Arc::new(SourceInfo::new(SourceId(number), agent))
}

fn begin(info: FlowInfo) -> TunnelChange<'static> {
    TunnelChange::Begin(Box::new(Begin {
        info,
        base: (0, 0),
        finished: (false, false),
    }))
}

fn data(from: Side, offset: u64, bytes: &[u8]) -> TunnelChange<'_> {
    TunnelChange::Data {
        from,
        offset,
        bytes,
    }
}

struct Bench {
    inlet: Inlet,
    source: Arc<SourceInfo>,
    seen: Checker,
}

impl Bench {
    fn new() -> Self {
        Self {
            inlet: Inlet::default(),
            source: source(1, None),
            seen: Checker::default(),
        }
    }

    fn say(&mut self, flow: u64, changes: Vec<TunnelChange<'_>>) {
        let mut writer = BatchWriter::default();
        for change in changes {
            assert!(writer.push(&TunnelEvent {
                flow,
                at: NOW,
                change
            }));
        }
        let batch = writer.take();
        let read = self.inlet.batch(&self.source, &batch, NOW, &mut self.seen);
        assert_eq!(read, Ok(()));
    }
}

const ID: FlowId = FlowId([3; 16]);

#[test]
fn gaps_are_holes_and_what_is_told_again_is_dropped() {
    let mut bench = Bench::new();
    let client = |offset, bytes| text(ID, Side::Client, offset, bytes);
    bench.say(
        7,
        vec![
            begin(flow(3, Role::Server)),
            data(Side::Client, 0, &client(0, 10)),
            data(Side::Client, 25, &client(25, 10)),
            data(Side::Client, 20, &client(20, 20)),
            begin(flow(3, Role::Server)),
            TunnelChange::Finish {
                from: Side::Client,
                offset: 45,
            },
            data(Side::Client, 45, &client(45, 1)),
            TunnelChange::Finish {
                from: Side::Server,
                offset: 0,
            },
            data(Side::Server, 0, b"nobody"),
        ],
    );
    let seen = bench.seen.only();
    assert_eq!((seen.next, seen.holes, seen.delivered), ([45, 0], 20, 25));
    assert_eq!(seen.end, End::Finished);
    let stats = bench.inlet.stats();
    assert_eq!((stats.repeated_bytes, stats.told_again), (16, 1));
    assert_eq!((stats.unknown_events, stats.unknown_bytes), (1, 6));
    assert_eq!(bench.inlet.live_flows(), 0);
}

#[test]
fn a_flow_told_of_late_begins_where_it_is() {
    let mut bench = Bench::new();
    let begin = Begin {
        info: flow(3, Role::Server),
        base: (1000, 5),
        finished: (true, false),
    };
    let server = text(ID, Side::Server, 5, 10);
    bench.say(
        7,
        vec![
            TunnelChange::Begin(Box::new(begin)),
            data(Side::Server, 5, &server),
            TunnelChange::Reset {
                by: Side::Server,
                cause: ResetCause::Abort,
                offsets: (1000, 20),
            },
        ],
    );
    let seen = bench.seen.only();
    assert_eq!(seen.info.continued, Some((1000, 5)));
    assert_eq!(seen.info.agent.as_deref(), Some("web1"));
    assert_eq!((seen.next, seen.holes), ([0, 15], 5));
    assert_eq!((seen.finished, seen.end), ([true, false], End::Reset));
}

#[test]
fn an_agent_tells_of_its_own_addresses_only() {
    let mut bench = Bench::new();
    bench.source = source(2, Some(&["10.0.0.2"]));
    bench.say(1, vec![begin(flow(3, Role::Server))]);
    bench.say(
        2,
        vec![begin(flow(4, Role::Client)), data(Side::Client, 0, b"GET")],
    );
    assert_eq!(bench.seen.only().info.id, ID);
    let stats = bench.inlet.stats();
    assert_eq!(
        (stats.flows, stats.foreign_flows, stats.refused_bytes),
        (1, 1, 3)
    );
    let said = bench.inlet.take_complaints();
    assert!(
        said[0].contains("web1 claims foreign addresses"),
        "{said:?}"
    );
    assert_eq!(bench.inlet.take_complaints(), [""; 0]);
    bench.source.agent.set_networks(Some(Vec::new()));
    bench.say(3, vec![begin(flow(5, Role::Server))]);
    assert_eq!(bench.inlet.stats().foreign_flows, 2);
}

#[test]
fn flows_end_with_their_source_and_with_what_a_preamble_does_not_tell_of() {
    let mut bench = Bench::new();
    for number in [1, 2, 3] {
        bench.say(number.into(), vec![begin(flow(number, Role::Server))]);
    }
    let id = bench.source.id;
    bench.inlet.preamble_begins(id);
    bench.say(2, vec![begin(flow(2, Role::Server))]);
    bench.inlet.preamble_ends(id, NOW, &mut bench.seen);
    let open = |bench: &Bench| {
        let open = bench
            .seen
            .flows
            .values()
            .filter(|seen| seen.end == End::Open);
        open.map(|seen| seen.info.id.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(open(&bench), [2]);
    bench.inlet.end(SourceId(99), NOW, &mut bench.seen);
    assert_eq!(open(&bench), [2]);
    bench.inlet.end(id, NOW, &mut bench.seen);
    assert_eq!(open(&bench), [0; 0]);
    assert_eq!(bench.inlet.stats().abandoned, 3);
    assert_eq!(
        bench.source.agent.counts.live_flows.load(Ordering::Relaxed),
        0
    );
}

#[test]
fn clocks_are_corrected_and_never_far_ahead() {
    #[derive(Default)]
    struct Times(Vec<u64>);
    impl CopySink for Times {
        fn copy_event(&mut self, _: u64, event: FlowEvent<'_>) {
            self.0.push(event.at.0);
        }
    }
    let (mut inlet, mut times) = (Inlet::default(), Times::default());
    let source = source(1, None);
    let mut say = |flow: u64, at: u64| {
        let mut writer = BatchWriter::default();
        let change = begin(super::tests::flow(3, Role::Server));
        assert!(writer.push(&TunnelEvent {
            flow,
            at: WallTime(at),
            change
        }));
        inlet
            .batch(&source, &writer.take(), NOW, &mut times)
            .unwrap();
    };
    const HOUR: u64 = 3_600_000_000_000;
    say(1, u64::MAX);
    say(2, NOW.0 - HOUR);
    assert!(!source.set_clock_difference(1000));
    say(3, NOW.0 - 5);
    assert!(source.set_clock_difference(-(HOUR as i64)));
    say(4, NOW.0 - HOUR - 5);
    let expected = [NOW.0 + MAX_AHEAD_NS, NOW.0 - HOUR, NOW.0 - 5, NOW.0 - 5];
    assert_eq!(times.0, expected);
}

#[test]
fn a_source_has_a_largest_number_of_flows() {
    let mut bench = Bench::new();
    bench.inlet = Inlet::new(InletLimits { flows: 2 });
    for number in 1..=4 {
        bench.say(number.into(), vec![begin(flow(number, Role::Server))]);
    }
    assert_eq!(bench.inlet.live_flows(), 2);
    assert_eq!(bench.inlet.stats().surplus_flows, 2);
}

/// Events that an agent may send if it likes, with the right bytes: all else the checker would find.
fn hostile() -> impl Strategy<Value = (u64, u8, Side, u64, u64, i64)> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Server)];
    let number = prop_oneof![0_u64..100, Just(u64::MAX), Just(1 << 62)];
    (1_u64..4, 0_u8..8, side, number, 1_u64..60, -1000_i64..1000)
}

proptest! {
    /// Whatever an agent says, the sink's rules hold.
    #[test]
    fn whatever_comes_the_rules_hold(events in prop::collection::vec(hostile(), 1..60)) {
        let mut bench = Bench::new();
        for (number, kind, from, offset, bytes, time) in events {
            let small = u8::try_from(number).unwrap();
            let id = FlowId([small; 16]);
            let fits = offset.checked_add(bytes).is_some();
            let said = if fits { text(id, from, offset, bytes) } else { Vec::new() };
            let change = match kind {
                0 | 1 => TunnelChange::Begin(Box::new(Begin {
                    info: flow(small, Role::Server),
                    base: (offset.min(1 << 32), bytes),
                    finished: (time % 5 == 0, time % 7 == 0),
                })),
                2 => TunnelChange::Hole { from, offset: offset.min(1 << 62), bytes },
                3 => TunnelChange::Finish { from, offset },
                4 if time % 3 == 0 => TunnelChange::Reset { by: from, cause: ResetCause::Died, offsets: (offset, bytes) },
                5 if time % 9 == 0 => {
                    bench.inlet.preamble_begins(bench.source.id);
                    continue;
                }
                6 if time % 9 == 0 => {
                    bench.inlet.preamble_ends(bench.source.id, NOW, &mut bench.seen);
                    continue;
                }
                _ if fits => data(from, offset, &said),
                _ => continue,
            };
            let mut writer = BatchWriter::default();
            let at = WallTime(NOW.0.saturating_add_signed(time));
            let event = TunnelEvent { flow: number, at, change };
            prop_assert!(writer.push(&event));
            // A flow may come again under its number, as another.
            bench.inlet.batch(&bench.source, &writer.take(), NOW, &mut bench.seen).unwrap();
        }
        bench.inlet.end(bench.source.id, NOW, &mut bench.seen);
        prop_assert!(bench.seen.flows.values().all(|seen| seen.end != End::Open));
        prop_assert_eq!(bench.source.agent.counts.live_flows.load(Ordering::Relaxed), 0);
    }
}
