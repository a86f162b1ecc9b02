//! A fleet that changes its key, and agents that may tell of their own networks only.

use agent::broker::envelope::{Kind, Sealer};
use agent::broker::key::{AgentKey, Terms};
use agent::filter::network;
use agent::tunnel::frame::Instance;
use async_nats::jetstream;
use mirror_tests::process::until;

use crate::fleet::Fleet;
use crate::talker::batches;
use crate::truth::Phase;

#[test]
fn a_fleet_changes_its_key_and_loses_nothing() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let old_key = fleet
        .keys
        .newest()
        .agent("late", &Terms::default())
        .unwrap();
    let phases = [0, 1, 2, 3, 4].map(Phase::new);
    let say = |fleet: &mut Fleet, number: usize| {
        for round in 0..5 {
            fleet.talk(phases[number], round);
        }
        fleet.say_farewell(phases[number]);
        let all: Vec<_> = phases[..=number].iter().map(|phase| (*phase, 5)).collect();
        let told = fleet.wait_until_complete(&all);
        assert_eq!(told.repeated, 0);
    };
    say(&mut fleet, 0);
    // One collector knows the new key, the other one doesn't; agents have the old one.
    let both = fleet.keys.rotated().unwrap();
    fleet.give_keys(both.clone());
    fleet.add_collector();
    fleet.wait_for_partitions(&[32, 32]);
    say(&mut fleet, 1);
    // The one that doesn't goes on where the other one was, and then the other way round.
    fleet.collectors[1].stop();
    fleet.collectors[1].process.wait();
    fleet.wait_for_partitions(&[64, 0]);
    say(&mut fleet, 2);
    fleet.add_collector();
    fleet.wait_for_partitions(&[32, 0, 32]);
    fleet.collectors[0].stop();
    fleet.collectors[0].process.wait();
    fleet.wait_for_partitions(&[0, 0, 64]);
    // All collectors know it, and an agent has it.
    let new_key = both.newest().agent("web-1", &Terms::default()).unwrap();
    fleet.replace_agent(&new_key);
    say(&mut fleet, 3);
    assert!(fleet.stat(1, "old_key_envelopes") > 0);
    // The old one isn't known any more.
    fleet.give_keys(both.retired());
    fleet.add_collector();
    fleet.wait_for_partitions(&[0, 0, 32, 32]);
    fleet.collectors[2].stop();
    fleet.collectors[2].process.wait();
    fleet.wait_for_partitions(&[0, 0, 0, 64]);
    say(&mut fleet, 4);
    let refused: u64 = (0..4).map(|at| fleet.stat(at, "refused_marks")).sum();
    assert_eq!(refused, 0, "marks that others couldn't read");
    assert_eq!(fleet.stat(3, "broken_seals"), 0);
    fleet.replace_agent(&old_key);
    fleet.talk(Phase::new(5), 0);
    until("what is sealed for the old key to be refused", || {
        (fleet.stat(3, "broken_seals") > 0).then_some(())
    });
    assert_eq!(fleet.out_of_all(Phase::new(5)), 0);
}

/// The mirrored ends of all flows have it.
const OWN_ADDRESS: &str = "10.1.0.1";

fn key_for(fleet: &Fleet, name: &str, net: &str) -> AgentKey {
    let terms = Terms::of(Some(&[network(net).unwrap()])).unwrap();
    fleet.keys.newest().agent(name, &terms).unwrap()
}

#[test]
fn an_agent_tells_of_its_own_networks_only() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let (foreign, own) = (
        key_for(&fleet, "a", "10.2.0.0/16"),
        key_for(&fleet, "b", OWN_ADDRESS),
    );
    fleet.replace_agent(&foreign);
    fleet.talk(Phase::new(0), 0);
    until("all of the foreign flows to be refused", || {
        (fleet.stat(0, "refused_flows") == 80).then_some(())
    });
    fleet.replace_agent(&own);
    fleet.talk(Phase::new(1), 0);
    fleet.say_farewell(Phase::new(1));
    fleet.wait_until_complete(&[(Phase::new(1), 1)]);
    assert_eq!(fleet.out_of_all(Phase::new(0)), 0);
    assert_eq!(fleet.stat(0, "refused_flows"), 80);
}

/// Who has two keys of one name chooses its instance's number itself.
#[test]
fn an_instance_does_not_go_on_under_other_terms() {
    let fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let [wide, narrow] = [Phase::new(0), Phase::new(1)];
    for (phase, net) in [(wide, OWN_ADDRESS), (narrow, "10.2.0.0/16")] {
        let mut sealer = Sealer::new(&key_for(&fleet, "web-2", net), Instance([7; 16]));
        fleet.with_broker(async |broker: jetstream::Context| {
            for batch in batches(phase) {
                let subject = format!("test.events.{:02}", batch.partition);
                let place = (batch.partition, &*subject);
                let made = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                let made = u64::try_from(made.as_millis()).unwrap();
                // Numbers that go on where those of the first key end.
                if phase == narrow {
                    sealer.seal(place, made, Kind::Alive, &[]);
                }
                let sealed = sealer.seal(place, made, Kind::Events, &[&batch.events]);
                let sent = broker.publish(subject, sealed.bytes).await.unwrap();
                sent.await.unwrap();
            }
        });
        if phase == wide {
            fleet.wait_until_out(0, wide, 1);
        }
    }
    until("all flows of the second key to be refused", || {
        (fleet.stat(0, "refused_flows") == 80).then_some(())
    });
    assert_eq!(fleet.out(0, narrow), 0);
}
