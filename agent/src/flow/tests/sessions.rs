//! One session: what tells its addresses, how long it waits, and how it ends.

use super::*;

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
