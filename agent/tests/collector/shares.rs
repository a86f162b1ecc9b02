//! What each agent gets of the collector, whatever the others send.

use std::time::Duration;

use agent::event::Side;
use agent::identity::{Address, Administration, CollectorIdentity};
use agent::tunnel::frame::Message;
use mirror_hook::event::Role;

use crate::agent_side::{SmallAgent, batch, begin, data, hello};
use crate::tls::host;
use crate::world::{World, wait};

const LONG: Duration = Duration::from_secs(3600);
/// Clear text of one batch.
const BATCH_BYTES: usize = 64 << 10;
/// What the collector reads of one agent before it looks at the next one: at most so much.
const TURN_BYTES: usize = 256 << 10;

/// Says so many batches of one flow, and waits until the collector has taken them in.
fn talk(agent: &mut SmallAgent, id: u8, batches: u64) {
    let piece = vec![id; BATCH_BYTES / 4];
    agent.send(batch(1, id, [begin(id, Role::Client)]));
    for number in 0..batches {
        let base = number * BATCH_BYTES as u64;
        let pieces = (0..4).map(|part| base + part * piece.len() as u64);
        let pieces = pieces.map(|offset| data(Side::Client, offset, &piece));
        agent.send(batch(2 + number, id, pieces));
    }
    // Frames are taken in their order: once this is answered all before it is with the worker.
    agent.say(Message::Ping { sent_ns: 7 });
    loop {
        match agent.hear() {
            Some(Message::Pong { sent_ns: 7, .. }) => return,
            Some(Message::Ack { .. }) => {}
            other => panic!("{other:?} instead of an answer to the ping"),
        }
    }
}

#[test]
fn who_floods_does_not_keep_others_waiting() {
    let world = World::new(None, LONG);
    let (mut loud, _) = SmallAgent::welcomed(world.address, hello(1, 1));
    let (mut quiet, _) = SmallAgent::welcomed(world.address, hello(2, 1));
    world.seen.close();
    // Just below what one agent may have waiting.
    talk(&mut loud, 1, 56);
    talk(&mut quiet, 2, 8);
    world.seen.open();
    quiet.acknowledged(9);
    loud.acknowledged(57);
    let pieces = world.seen.pieces();
    let of = |id: u8| move |piece: &&(u8, usize)| piece.0 == id;
    let bytes = |pieces: &[(u8, usize)], id: u8| -> usize {
        pieces.iter().filter(of(id)).map(|(_, bytes)| bytes).sum()
    };
    assert_eq!(
        (bytes(&pieces, 1), bytes(&pieces, 2)),
        (56 * BATCH_BYTES, 8 * BATCH_BYTES)
    );
    let last = pieces.iter().rposition(|piece| piece.0 == 2).unwrap();
    let meanwhile = bytes(&pieces[..last], 1);
    // Turn by turn, and the one in which the worker was.
    let fair = 8 * BATCH_BYTES + 3 * TURN_BYTES;
    assert!(
        meanwhile <= fair,
        "{meanwhile} bytes of the loud one came before the quiet one's last"
    );
    // Each by its own counters.
    let counted: Vec<_> = world
        .fleet
        .agents()
        .iter()
        .map(|report| {
            report
                .agent
                .counts
                .clear_bytes
                .load(std::sync::atomic::Ordering::Relaxed)
        })
        .collect();
    // Without TLS they are one agent, by their address, with two instances.
    assert_eq!(counted, [64 * BATCH_BYTES as u64]);
}

#[test]
fn a_quota_holds_back_its_agent_alone_until_it_is_changed() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path();
    CollectorIdentity::init(state, &[Address::new("127.0.0.1", None)]).unwrap();
    let identity = CollectorIdentity::load(state).unwrap();
    let world = World::new(Some(identity), LONG);
    let mut slow = host(&world, state, "slow", "10.0.0.1");
    let mut other = host(&world, state, "other", "10.0.0.2");
    slow.tell(1, Role::Client, true);
    slow.acknowledged();
    // A bit a second: what comes next is paid for in a day.
    let administration = Administration::open(state).unwrap();
    administration.limit("slow", Some(1)).unwrap();
    world.fleet.reload().unwrap();
    slow.tell(2, Role::Client, true);
    slow.acknowledged();
    slow.tell(3, Role::Client, true);
    for id in 4..=8 {
        other.tell(id, Role::Server, true);
        other.acknowledged();
    }
    assert!(
        !slow.window.lock().is_empty(),
        "it waits in the agent's window"
    );
    let told = || world.seen.flows().len();
    assert_eq!(told(), 7);
    // SIGHUP does this.
    administration.limit("slow", None).unwrap();
    world.fleet.reload().unwrap();
    slow.acknowledged();
    wait("the flow that was held back", || told() == 8);
    let flows = world.seen.flows();
    assert!(flows.iter().all(|flow| flow.finished && flow.missing == 0));
    for report in world.fleet.agents() {
        let load = |counter: &std::sync::atomic::AtomicU64| {
            counter.load(std::sync::atomic::Ordering::Relaxed)
        };
        let counts = &report.agent.counts;
        let (flows, held_back) = match report.agent.name() {
            "slow" => (3, true),
            _ => (5, false),
        };
        assert_eq!(load(&counts.flows), flows);
        assert_eq!(load(&counts.clear_bytes), flows * 10_000);
        assert_eq!(load(&counts.missing_bytes), 0);
        assert_eq!(load(&counts.held_back_us) > 0, held_back);
    }
}
