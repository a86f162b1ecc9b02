//! Both ends of a connection, and processes that share one.

use super::*;

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

/// Both know their socket, and the parent waits for its fingerprint.
#[test]
fn a_child_joins_while_its_parent_waits_for_its_fingerprint() {
    for timeout in [false, true] {
        let mut bench = Bench::capturing();
        bench.open(1, 0, with_socket(0, Role::Server));
        bench.say(1, 0, Role::Server, Received, 0, 10);
        let child = Meta {
            addresses: with_socket(0, Role::Server).addresses,
            ..inherited(0, Role::Server, (0, 10))
        };
        bench.at(1).open(2, 0, child);
        bench.say(2, 0, Role::Server, Sent, 0, 20);
        bench.close(1, 0, CloseReason::Free);
        assert!(bench.checker.order.is_empty());
        match timeout {
            true => drop(bench.at(200)),
            false => bench.wire(0, tuple(0)),
        }
        let flow = bench.checker.only();
        assert_eq!(flow.info.announcement, Announcement::New);
        assert_eq!((flow.info.tuple, flow.end), (tuple(0), End::Open));
        bench.close(2, 0, CloseReason::Free);
        let flow = bench.checker.only();
        assert_eq!((flow.end, flow.delivered), (End::Finished, 30));
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
