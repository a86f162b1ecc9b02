//! Agents and collectors around a real NATS server. Collectors are this test binary itself, started again, so that
//! they can be killed and stopped; what they have put out is checked byte by byte.

#![allow(
    clippy::unwrap_used,
    reason = "a test that meets an unexpected error should stop there"
)]

mod access;
mod accounts;
mod collector;
mod fleet;
mod hostile;
mod keys;
mod talker;
mod trouble;
mod truth;

use async_nats::jetstream;
use mirror_tests::process::until;
use rustix::process::Signal;

use fleet::Fleet;
use truth::Phase;

#[test]
fn a_killed_collector_loses_nothing() {
    let mut fleet = Fleet::start(2);
    fleet.wait_for_partitions(&[32, 32]);
    let phase = Phase::new(0);
    let marks_before = fleet.stat(0, "marks");
    for round in 0..120 {
        fleet.talk(phase, round);
        if round == 40 {
            fleet.wait_until_out(0, phase, 20);
            fleet.wait_until_out(1, phase, 20);
            assert_eq!(
                fleet.clear_text_in_store(),
                0,
                "the broker's disk shows clear text"
            );
            // The search would have found it.
            fleet.store_in_clear();
            assert!(fleet.clear_text_in_store() > 0);
        }
        if round == 80 {
            // Else its successor would begin with the flows themselves.
            until("a mark of the one that is killed", || {
                (fleet.stat(0, "marks") > marks_before).then_some(())
            });
            fleet.collectors[0].process.signal(Signal::KILL);
        }
    }
    fleet.say_farewell(phase);
    let told = fleet.wait_until_complete(&[(phase, 120)]);
    assert_eq!(fleet.stat(1, "partitions"), 64);
    assert!(fleet.stat(1, "takeovers") > 0);
    // Each flow that lived through it was begun anew; what was repeated lies in such flows only.
    assert!(told.continued > 0);
    let most = fleet.stat(1, "may_repeat_bytes");
    assert!(
        told.repeated <= most,
        "{} repeated, {most} announced",
        told.repeated
    );
}

#[test]
fn a_broker_that_is_killed_comes_back() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let phase = Phase::new(0);
    for round in 0..60 {
        fleet.talk(phase, round);
        if round == 20 {
            fleet.wait_until_out(0, phase, 10);
            fleet.server().kill();
        }
        if round == 40 {
            until("the agent to notice", || {
                (fleet.agent.publisher.stats().failures > 0).then_some(())
            });
            fleet.server().start_again();
        }
    }
    fleet.say_farewell(phase);
    fleet.wait_until_complete(&[(phase, 60)]);
}

#[test]
fn a_collector_that_was_stopped_puts_nothing_more_out() {
    let mut fleet = Fleet::start(2);
    fleet.wait_for_partitions(&[32, 32]);
    let (before, meanwhile) = (Phase::new(0), Phase::new(1));
    for round in 0..20 {
        fleet.talk(before, round);
    }
    fleet.say_farewell(before);
    fleet.wait_until_complete(&[(before, 20)]);
    // What it has got waits in front of its workers, or in its socket, when it is stopped.
    fleet.collectors[0].hold();
    let envelopes = fleet.stat(0, "envelopes");
    for round in 0..20 {
        fleet.talk(meanwhile, round);
    }
    fleet.say_farewell(meanwhile);
    until("something to wait for the workers", || {
        (fleet.stat(0, "envelopes") > envelopes).then_some(())
    });
    fleet.collectors[0].process.signal(Signal::STOP);
    fleet.wait_until_complete(&[(before, 20), (meanwhile, 20)]);
    assert_eq!(fleet.out(1, meanwhile), fleet.out_of_all(meanwhile));
    fleet.collectors[0].release();
    fleet.collectors[0].process.signal(Signal::CONT);
    until("the stopped collector to notice", || {
        (fleet.stat(0, "fenced") == 1).then_some(())
    });
    fleet.wait_for_partitions(&[32, 32]);
    assert_eq!(
        fleet.out(0, meanwhile),
        0,
        "it put out what another one had"
    );
    let last = Phase::new(2);
    fleet.talk(last, 0);
    fleet.say_farewell(last);
    fleet.wait_until_complete(&[(before, 20), (meanwhile, 20), (last, 1)]);
}

#[test]
fn a_partition_that_is_handed_over_repeats_nothing() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let phase = Phase::new(0);
    for round in 0..60 {
        fleet.talk(phase, round);
        if round == 20 {
            fleet.wait_until_out(0, phase, 10);
            fleet.add_collector();
            fleet.wait_for_partitions(&[32, 32]);
        }
        if round == 40 {
            fleet.collectors[0].stop();
            fleet.collectors[0].process.wait();
            fleet.wait_for_partitions(&[0, 64]);
        }
    }
    fleet.say_farewell(phase);
    let told = fleet.wait_until_complete(&[(phase, 60)]);
    assert!(told.continued > 0);
    assert_eq!(told.repeated, 0);
    assert_eq!(fleet.stat(0, "handed_over"), 64);
}

#[test]
fn what_the_broker_changes_or_repeats_is_refused() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let phase = Phase::new(0);
    fleet.talk(phase, 0);
    fleet.wait_until_out(0, phase, 1);
    let (before, after) = fleet.with_broker(async |broker: jetstream::Context| {
        let stream = broker.get_stream("test").await.unwrap();
        let message = stream.get_raw_message(3).await.unwrap();
        let own = message.subject.to_string();
        let other = match own.ends_with("07") {
            true => "test.events.08",
            false => "test.events.07",
        };
        let mut changed = message.payload.to_vec();
        *changed.last_mut().unwrap() ^= 1;
        let before = stream.get_info().await.unwrap().state.last_sequence;
        for (subject, payload) in [
            (own.clone(), message.payload.clone()),
            (other.to_owned(), message.payload.clone()),
            (own.clone(), changed.into()),
            (own.clone(), "anything else".into()),
        ] {
            let sent = broker.publish(subject, payload).await.unwrap();
            sent.await.unwrap();
        }
        let after = stream.get_info().await.unwrap().state.last_sequence;
        (before, after)
    });
    assert_eq!(after, before + 4);
    until("the refusals", || {
        let counts = ["repeated", "broken_seals", "malformed"].map(|name| fleet.stat(0, name));
        (counts == [1, 2, 1]).then_some(())
    });
    fleet.talk(phase, 1);
    fleet.say_farewell(phase);
    let told = fleet.wait_until_complete(&[(phase, 2)]);
    assert_eq!((told.repeated, told.continued), (0, 0));
}
