//! Any sessions, in any order of events.

use super::*;

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
