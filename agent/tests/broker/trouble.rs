//! A broker that is full, and one that loses a server.

use async_nats::jetstream;
use mirror_tests::process::until;

use crate::fleet::Fleet;
use crate::truth::{FLOWS, Phase, ROUND_BYTES};

/// More rounds than stream and window have room for.
const MOST_ROUNDS: u64 = 400;

#[test]
fn a_full_stream_costs_exactly_what_is_declared() {
    let mut fleet = Fleet::limited(0, 2 << 20, " max_bytes=4000000");
    let (full, after) = (Phase::new(0), Phase::new(1));
    let mut rounds = 0;
    while fleet.agent.outbox().dropped_bytes == 0 || !fleet.agent.said().contains("is full") {
        assert!(rounds < MOST_ROUNDS, "never full: {}", fleet.agent.said());
        let before = fleet.agent.publisher.stats().failures;
        fleet.agent.talk(full, rounds);
        rounds += 1;
        // Batches that go out one after the other fill the stream; those that wait, the window.
        until("the batches to go out, or to fail", || {
            let failures = fleet.agent.publisher.stats().failures;
            (failures > before || fleet.agent.has_room()).then_some(())
        });
    }
    fleet.add_collector();
    fleet.agent.say_farewell(full);
    fleet.agent.wait_for_words("takes batches again");
    until("an empty window", || fleet.agent.is_drained().then_some(()));
    let dropped = fleet.agent.outbox().dropped_bytes;
    for round in 0..5 {
        fleet.talk(after, round);
    }
    fleet.say_farewell(after);
    // Nothing is missing from here on, and before it what was declared, and nothing else.
    let told = fleet.wait_until_told(|told| {
        let open = told.missing_beyond_holes(full, rounds);
        open.or_else(|| told.missing(after, 5))
    });
    assert!(dropped > 0);
    assert_eq!(told.holes(), dropped);
    // What was put out before a lease was in doubt comes once more, in flows of their own.
    assert!(told.repeated == 0 || fleet.stat(0, "restarts") > 0);
    assert_eq!(fleet.stat(0, "missing_envelopes"), 0);
}

/// A full stream refuses what is too large by a record's own bytes, which some servers don't count: see `size`.
#[test]
fn the_broker_counts_records_as_we_do() {
    let mut fleet = Fleet::limited(0, 2 << 20, " max_bytes=4000123");
    let phase = Phase::new(0);
    for round in 0..3 {
        fleet.talk(phase, round);
    }
    until("all batches to be there", || {
        fleet.agent.is_drained().then_some(())
    });
    let (most, bytes) = fleet.with_broker(async |broker: jetstream::Context| {
        let stream = broker.get_stream("test").await.unwrap();
        let info = stream.get_info().await.unwrap();
        (info.config.max_bytes, info.state.bytes)
    });
    assert!(bytes > 3 * 2 * u64::from(FLOWS) * ROUND_BYTES);
    assert_eq!((most, bytes % 128), (4_000_000, 0));
}

#[test]
fn a_cluster_that_loses_a_server_loses_nothing() {
    let mut fleet = Fleet::clustered(1);
    fleet.wait_for_partitions(&[64]);
    let phase = Phase::new(0);
    for round in 0..60 {
        fleet.talk(phase, round);
        if round == 20 {
            fleet.wait_until_out(0, phase, 10);
            let leader = fleet.with_broker(async |broker: jetstream::Context| {
                let stream = broker.get_stream("test").await.unwrap();
                let info = stream.get_info().await.unwrap();
                assert_eq!(info.config.num_replicas, 3);
                info.cluster.and_then(|cluster| cluster.leader).unwrap()
            });
            fleet.cluster.as_mut().unwrap().kill(&leader);
        }
    }
    fleet.say_farewell(phase);
    fleet.wait_until_complete(&[(phase, 60)]);
}

#[test]
fn marks_that_cannot_be_written_are_said_once_and_counted() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let server = fleet.server();
    server.settle(
        "authorization { users: [ { user: all, password: all, \
         permissions: { publish: { deny: \"$KV.test-marks.>\" } } } ] }\nno_auth_user: all\n",
    );
    server.kill();
    server.start_again();
    let phase = Phase::new(0);
    fleet.talk(phase, 0);
    until("marks that fail in several partitions", || {
        (fleet.stat(0, "failed_marks") > 64).then_some(())
    });
    fleet.server().settle("");
    fleet.server().kill();
    fleet.server().start_again();
    fleet.say_farewell(phase);
    fleet.wait_until_complete(&[(phase, 1)]);
    let status = || fleet.collectors[0].status();
    until("marks to be written", || {
        status().contains("marks are written again").then_some(())
    });
    let said = status();
    assert_eq!(
        said.matches("can't write at the broker how far").count(),
        1,
        "{said}"
    );
    assert!(said.contains("(bucket test-marks, key mark."), "{said}");
}
