//! What passes on a connection, without TLS around it.

use std::time::Duration;

use agent::event::{FlowId, Side};
use agent::tunnel::frame::{HEADER_BYTES, Message, Reason, Resume};
use mirror_hook::event::Role;

use crate::agent_side::{SmallAgent, batch, begin, data, finish, hello};
use crate::world::{World, wait};

const LONG: Duration = Duration::from_secs(3600);

fn count(world: &World, reason: Reason) -> u64 {
    world.fleet.refusals().get(&reason).copied().unwrap_or(0)
}

#[test]
fn both_ends_of_a_connection_are_one_flow() {
    let world = World::new(None, LONG);
    for (instance, role) in [(1, Role::Client), (2, Role::Server)] {
        let (mut agent, resume) = SmallAgent::welcomed(world.address, hello(instance, 1));
        assert_eq!(resume, Resume::Anew);
        for id in 1..=3 {
            let talk = [
                begin(id, role),
                data(Side::Client, 0, b"GET /"),
                data(Side::Server, 0, b"200 OK"),
            ];
            agent.send(batch(id.into(), id, talk.into_iter().chain(finish(5, 6))));
        }
        agent.acknowledged(3);
        agent.say(Message::Goodbye);
    }
    let flows = world.seen.flows();
    assert_eq!(flows.len(), 3, "{flows:?}");
    for (told, id) in flows.iter().zip(1..) {
        assert_eq!(told.id, Some(FlowId([id; 16])));
        assert_eq!(told.text, [b"GET /".to_vec(), b"200 OK".to_vec()]);
        assert!(told.finished && !told.reset && told.missing == 0);
    }
}

#[test]
fn a_connection_goes_on_where_the_one_before_it_stopped() {
    let world = World::new(None, LONG);
    let (mut first, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    first.send(batch(
        1,
        1,
        [begin(1, Role::Client), data(Side::Client, 0, b"GET ")],
    ));
    first.acknowledged(1);
    // Its number isn't newer: somebody has recorded this, or it was left behind.
    for number in [1, 0] {
        let mut replay = SmallAgent::connect(world.address);
        replay.say(Message::Hello(hello(1, number)));
        assert_eq!(replay.refused(), Reason::Replayed);
    }
    assert_eq!(count(&world, Reason::Replayed), 2);
    let (mut second, resume) = SmallAgent::welcomed(world.address, hello(1, 2));
    assert_eq!(resume, Resume::From(2));
    assert_eq!(first.hear(), None, "the older one is closed");
    second.send(batch(
        2,
        1,
        [data(Side::Client, 4, b"/")]
            .into_iter()
            .chain(finish(5, 0)),
    ));
    second.acknowledged(2);
    let flows = world.seen.flows();
    assert_eq!((flows.len(), &flows[0].text[0][..]), (1, &b"GET /"[..]));
    assert!(flows[0].finished);
    // A batch that came before, or one that leaves some out, is a lie.
    for wrong in [2, 4] {
        let (mut agent, _) = SmallAgent::welcomed(world.address, hello(3 + wrong, 1));
        agent.send(batch(1, 5, []));
        agent.acknowledged(1);
        agent.send(batch(if wrong == 2 { 1 } else { 3 }, 5, []));
        assert_eq!(agent.refused(), Reason::Malformed);
    }
}

/// An agent that is killed again and again is let in all the same: who isn't there any more isn't waited for then.
#[test]
fn lives_that_are_over_leave_room_for_another() {
    let world = World::new(None, LONG);
    for instance in 1..=40 {
        let (mut agent, _) = SmallAgent::welcomed(world.address, hello(instance, 1));
        agent.send(batch(1, instance, [begin(instance, Role::Client)]));
        agent.acknowledged(1);
        drop(agent);
        wait("its end", || world.fleet.connections() == 0);
    }
    wait("the end of the flows of who was pushed out", || {
        world.seen.flows().iter().filter(|flow| flow.reset).count() == 40 - 16
    });
    // Those that are there, stay.
    let connect = |instance| SmallAgent::welcomed(world.address, hello(instance, 1));
    let _there: Vec<_> = (101..=116).map(connect).collect();
    let mut surplus = SmallAgent::connect(world.address);
    surplus.say(Message::Hello(hello(200, 1)));
    assert_eq!(surplus.refused(), Reason::TooMany);
    assert_eq!(count(&world, Reason::TooMany), 1);
}

#[test]
fn who_has_another_collectors_epoch_tells_its_flows_again() {
    let world = World::new(None, LONG);
    let (mut first, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    first.send(batch(
        1,
        1,
        [begin(1, Role::Client), data(Side::Client, 0, b"GET ")],
    ));
    first.send(batch(2, 2, [begin(2, Role::Client)]));
    first.acknowledged(2);
    drop(first);
    // Meanwhile another collector has heard of batch 3, which was about the flow that goes on, and ended the other.
    let mut greeting = hello(1, 2);
    greeting.epoch = Some(agent::tunnel::frame::Instance([8; 16]));
    greeting.oldest = 4;
    let mut second = SmallAgent::connect(world.address);
    second.say(Message::Hello(greeting));
    let Some(Message::Welcome(welcome)) = second.hear() else {
        panic!("no welcome");
    };
    assert_eq!(welcome.resume, Resume::Anew);
    second.send(batch(0, 1, [begin(1, Role::Client)]));
    second.say(Message::PreambleEnd);
    second.send(batch(
        4,
        1,
        [data(Side::Client, 9, b"/")]
            .into_iter()
            .chain(finish(10, 0)),
    ));
    second.acknowledged(4);
    let flows = world.seen.flows();
    assert_eq!((flows.len(), &flows[0].text[0][..]), (2, &b"GET /"[..]));
    assert_eq!((flows[0].missing, flows[0].finished), (5, true));
    assert!(flows[1].reset);
}

#[test]
fn what_no_agent_says_is_refused_by_its_name() {
    let world = World::new(None, LONG);
    let header = |length: u32, kind: u8| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([kind, 0]);
        assert_eq!(bytes.len(), HEADER_BYTES);
        bytes
    };
    let before_hello: [(Vec<u8>, Reason); 4] = [
        (header(u32::MAX, 1), Reason::Oversized),
        (header(1 << 20, 2), Reason::Oversized),
        (header(0, 77), Reason::Malformed),
        ([header(3, 2), vec![0xff; 3]].concat(), Reason::Malformed),
    ];
    for (bytes, reason) in &before_hello {
        let mut agent = SmallAgent::connect(world.address);
        agent.raw(bytes);
        assert_eq!(agent.refused(), *reason);
        let (mut agent, _) =
            SmallAgent::welcomed(world.address, hello(1, 1 + count(&world, *reason)));
        agent.raw(bytes);
        assert_eq!(agent.refused(), *reason);
        drop(agent);
        // Whoever comes next under this name is taken for new.
        wait("the connection to be forgotten", || {
            world.fleet.connections() == 0
        });
    }
    let mut early = SmallAgent::connect(world.address);
    early.send(batch(1, 1, []));
    assert_eq!(early.refused(), Reason::Malformed);
    let mut other = SmallAgent::connect(world.address);
    let mut greeting = hello(2, 1);
    greeting.version += 1;
    other.say(Message::Hello(greeting));
    assert_eq!(other.refused(), Reason::Version);
    assert_eq!(
        (
            count(&world, Reason::Oversized),
            count(&world, Reason::Version)
        ),
        (4, 1)
    );
    assert!(world.seen.flows().is_empty());
}

#[test]
fn a_batch_that_cannot_be_read_ends_its_agents_flows_and_no_others() {
    let world = World::new(None, LONG);
    let (mut good, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    good.send(batch(
        1,
        1,
        [begin(1, Role::Client), data(Side::Client, 0, b"GET ")],
    ));
    good.acknowledged(1);
    let (mut bad, _) = SmallAgent::welcomed(world.address, hello(2, 1));
    bad.send(batch(1, 2, [begin(2, Role::Client)]));
    bad.acknowledged(1);
    let mut broken = batch(2, 2, [data(Side::Client, 0, b"GET ")]);
    broken.event_bytes -= 1;
    broken.events.truncate(broken.events.len() - 1);
    bad.send(broken);
    assert_eq!(bad.refused(), Reason::Malformed);
    let mut bomb = batch(1, 3, []);
    (bomb.compressed, bomb.events) = (true, b"\x28\xb5\x2f\xfdnonsense"[..].into());
    let (mut worse, _) = SmallAgent::welcomed(world.address, hello(3, 1));
    worse.send(bomb);
    assert_eq!(worse.refused(), Reason::Malformed);
    good.send(batch(2, 1, finish(4, 0)));
    good.acknowledged(2);
    let flows = world.seen.flows();
    assert_eq!(flows.len(), 2);
    assert!(flows[0].finished && !flows[0].reset && flows[1].reset);
}

#[test]
fn connections_that_say_nothing_do_not_keep_agents_out() {
    let world = World::new(None, LONG);
    let silent: Vec<_> = (0..400)
        .map(|_| SmallAgent::connect(world.address))
        .collect();
    wait("the oldest silent connections to be dropped", || {
        count(&world, Reason::Unfinished) > 0
    });
    let (mut agent, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    agent.send(batch(1, 1, [begin(1, Role::Client)]));
    agent.acknowledged(1);
    assert_eq!(world.fleet.connections(), 1);
    drop(silent);
}

/// Its host has lost its network: nothing more comes, and nobody says so.
#[test]
fn an_agent_that_is_not_heard_of_any_more_is_missed() {
    let world = World::new(None, LONG);
    let (mut agent, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    agent.send(batch(1, 1, [begin(1, Role::Client)]));
    agent.acknowledged(1);
    assert_eq!(agent.refused(), Reason::Silent);
    assert_eq!(count(&world, Reason::Silent), 1);
    wait("the connection to be forgotten", || {
        world.fleet.connections() == 0
    });
    // Its flow waits for it.
    assert!(world.seen.flows().iter().all(|told| !told.reset));
}

#[test]
fn an_agent_has_so_many_instances_and_no_more() {
    let world = World::new(None, LONG);
    let agents: Vec<_> = (0..16)
        .map(|number| SmallAgent::welcomed(world.address, hello(number, 1)))
        .collect();
    let mut surplus = SmallAgent::connect(world.address);
    surplus.say(Message::Hello(hello(99, 1)));
    assert_eq!(surplus.refused(), Reason::TooMany);
    drop(agents);
}

#[test]
fn who_is_gone_for_too_long_or_says_goodbye_takes_its_flows_along() {
    let world = World::new(None, Duration::ZERO);
    for instance in [1, 2] {
        let (mut agent, _) = SmallAgent::welcomed(world.address, hello(instance, 1));
        agent.send(batch(1, instance, [begin(instance, Role::Client)]));
        agent.acknowledged(1);
        if instance == 2 {
            agent.say(Message::Goodbye);
        }
    }
    wait("both flows to be reset", || {
        world.fleet.sweep();
        let flows = world.seen.flows();
        flows.len() == 2 && flows.iter().all(|told| told.reset)
    });
}

#[test]
fn a_collector_that_ends_acknowledges_what_it_has_read_and_says_so() {
    let world = World::new(None, LONG);
    let (mut agent, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    agent.send(batch(1, 1, [begin(1, Role::Client)]));
    agent.acknowledged(1);
    agent.send(batch(2, 1, [data(Side::Client, 0, b"GET ")]));
    wait("the text to be told", || {
        world.seen.flows()[0].text[0] == b"GET "
    });
    drop(world);
    let mut last = None;
    loop {
        match agent.hear() {
            Some(Message::Ack { through }) => last = Some(through),
            Some(Message::Leaving) => break,
            other => panic!("{other:?}"),
        }
    }
    // It may have been heard before.
    assert!(matches!(last, None | Some(2)));
}
