//! Sessions that are found by their byte counts, or aren't: how long they wait, and who is believed.

use std::sync::Mutex;

use super::super::counters::{Counts, Look, Looker, Sample};
use super::super::proof::{Answer, Ends, LiveSocket, Sockets};
use super::*;
use crate::event::Proof;
use mirror_hook::event::{CarriedBy, LookWriter};

/// What is seen, and when; nothing where nobody may look.
#[derive(Debug, Default)]
struct Scene {
    now: u64,
    sockets: Option<Vec<(u8, Counts)>>,
    looks: usize,
}

#[derive(Clone, Debug, Default)]
struct Eyes(Arc<Mutex<Scene>>);

impl Looker for Eyes {
    fn look(&mut self, _: &ProcessInfo) -> Option<Look> {
        let mut scene = self.0.lock().unwrap();
        scene.looks += 1;
        let now = MonotonicTime(scene.now);
        let sample = |(number, counts): &(u8, Counts)| Sample {
            socket: u64::from(*number) + 1000,
            ends: Ends::new(tuple(*number).client, tuple(*number).server),
            counts: *counts,
            from: now,
            to: now,
        };
        Some(Look {
            began: now,
            ended: now,
            complete: true,
            told: false,
            samples: scene.sockets.as_ref()?.iter().map(sample).collect(),
        })
    }
}

const AT_FIRST: Counts = Counts {
    sent: 700,
    received: 2000,
};
const LATER: Counts = Counts {
    sent: 700,
    received: 9000,
};

fn carried(counts: Counts) -> Meta<'static> {
    Meta {
        wire_counts: Some((counts.received, counts.sent)),
        ..done(1, Role::Client)
    }
}

/// A session that has said its request, and been looked at.
fn asked(mut bench: Bench, sockets: Option<Vec<(u8, Counts)>>) -> (Bench, Eyes) {
    let eyes = Eyes::default();
    eyes.0.lock().unwrap().sockets = sockets;
    bench.mapper = bench.mapper.looking(Box::new(eyes.clone()), false);
    bench.at(1);
    bench.open(1, 1, carried(AT_FIRST));
    bench.say(1, 1, Role::Client, Sent, 0, 100);
    eyes.0.lock().unwrap().now = 2 * MS;
    bench.at(2);
    (bench, eyes)
}

fn new() -> Bench {
    Bench::new(MapperConfig::default())
}

#[test]
fn the_one_that_has_carried_as_much_is_the_sessions() {
    let (mut bench, _) = asked(new(), Some(vec![(7, AT_FIRST)]));
    // It may be gone already.
    assert!(bench.checker.order.is_empty());
    bench.at(3).update(1, 1, carried(LATER));
    bench.at(4);
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Counters);
    assert_eq!(flow.info.tuple, tuple(7));
    assert_eq!(flow.delivered, 100);
    assert_eq!(bench.mapper.stats().bound_by_counters, 1);
    bench.say(1, 1, Role::Client, Sent, 100, 50);
    bench.close(1, 1, CloseReason::Free);
}

#[test]
fn of_two_alike_it_is_neither() {
    let (mut bench, eyes) = asked(new(), Some(vec![(7, AT_FIRST), (8, AT_FIRST)]));
    bench.at(3).update(1, 1, carried(LATER));
    bench.at(400);
    assert!(bench.checker.order.is_empty());
    assert!(eyes.0.lock().unwrap().looks < 12);
    bench.at(502);
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
}

#[test]
fn the_wire_is_believed_first() {
    let (mut bench, _) = asked(Bench::capturing(), Some(vec![(7, AT_FIRST)]));
    bench.at(3).update(1, 1, carried(LATER));
    bench.at(4);
    assert!(bench.checker.order.is_empty());
    bench.wire(1, tuple(9));
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Wire);
    assert_eq!(flow.info.tuple, tuple(9));
    assert_eq!(bench.mapper.stats().counters_contradicted, 1);
    // And what it doesn't show has been found all the same.
    let (mut bench, _) = asked(Bench::capturing(), Some(vec![(7, AT_FIRST)]));
    bench.at(3).update(1, 1, carried(LATER));
    bench.at(600);
    assert_eq!(bench.checker.only().info.tuple, tuple(7));
    assert_eq!(bench.mapper.stats().counters_contradicted, 0);
}

#[test]
fn nobody_waits_for_what_cannot_be_found() {
    // Nobody may look.
    let (bench, _) = asked(new(), None);
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
    // It is over, and was never seen to have a socket.
    let (mut bench, _) = asked(new(), Some(Vec::new()));
    bench.at(3).close(1, 1, CloseReason::Free);
    bench.at(4);
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
    // It tells no counts.
    let mut bench = new();
    bench.mapper = bench.mapper.looking(Box::new(Eyes::default()), false);
    bench.open(1, 1, done(1, Role::Client));
    assert_eq!(bench.checker.only().info.binding, Binding::Placeholder);
}

/// Which has ended since can still be told by what it said last.
#[test]
fn a_process_that_is_gone_is_believed_to_the_end() {
    let (mut bench, eyes) = asked(new(), Some(vec![(7, AT_FIRST)]));
    eyes.0.lock().unwrap().sockets = None;
    bench.at(20);
    assert!(bench.checker.order.is_empty());
    bench.update(1, 1, carried(LATER));
    bench.close(1, 1, CloseReason::Free);
    bench.at(21);
    assert_eq!(bench.checker.only().info.tuple, tuple(7));
}

/// Whoever has the addresses that a process tells.
#[derive(Clone, Copy, Debug)]
struct Holder(Answer);

impl Sockets for Holder {
    fn find(&mut self, _: &Ends, network: u64, _: &ProcessInfo) -> Answer {
        assert_eq!(network, 0, "where the process runs");
        self.0
    }

    fn holds(&mut self, _: &ProcessInfo, _: u64) -> Option<bool> {
        Some(false)
    }
}

/// Looks at this process, and at no other.
#[derive(Debug)]
struct EyesOn(u32, Eyes);

impl Looker for EyesOn {
    fn look(&mut self, process: &ProcessInfo) -> Option<Look> {
        let is_seen = process.pid == self.0;
        is_seen.then(|| self.1.look(process)).flatten()
    }
}

/// A session whose process has looked itself, and that has gone on, where the kernel answers so; nobody else may look.
fn told(answer: Answer) -> Bench {
    told_beside(answer, Box::new(Eyes::default()))
}

/// The same where others may look so.
fn told_beside(answer: Answer, looker: Box<dyn Looker>) -> Bench {
    let clock = Clock::new(MonotonicTime(0), WallTime(EPOCH));
    let mapper = Mapper::new(MapperConfig::default(), clock);
    let mut bench = new();
    bench.mapper = mapper
        .asking(Box::new(Holder(answer)))
        .looking(looker, true);
    // It may be gone when its ring is looked at first.
    let process = Arc::new(ProcessInfo {
        pid: 1,
        ..ProcessInfo::default()
    });
    bench.mapper.expect(&process, MonotonicTime(0));
    bench.at(1);
    bench.open(1, 1, carried(AT_FIRST));
    let mut writer = LookWriter::new(MS + 1);
    writer.push(&CarriedBy {
        cookie: COOKIE,
        sent: AT_FIRST.sent,
        received: AT_FIRST.received,
        addresses: Some((tuple(7).client, tuple(7).server)),
    });
    bench.now += 1;
    bench.look(1, 1, writer.part(true));
    bench.say(1, 1, Role::Client, Sent, 0, 100);
    bench.at(2);
    assert!(bench.checker.order.is_empty(), "it is sought");
    bench.update(1, 1, carried(LATER));
    bench
}

const COOKIE: u64 = 1007;

fn somebodys(cookie: u64) -> Answer {
    Answer::Live(LiveSocket {
        cookie,
        uid: 0,
        inode: 9,
        at_home: true,
    })
}

#[test]
fn what_a_process_sees_of_itself_is_believed_as_a_claim() {
    for (answer, proof) in [
        (somebodys(COOKIE), Proof::Proven),
        (Answer::Gone, Proof::Unproven),
        (Answer::Unanswered, Proof::Unproven),
    ] {
        let mut bench = told(answer);
        bench.at(3);
        let flow = bench.checker.only();
        assert_eq!(flow.info.binding, Binding::Counters);
        assert_eq!(flow.info.tuple, tuple(7));
        assert_eq!(flow.info.proof, Some(proof));
        assert_eq!(flow.delivered, 100);
    }
}

#[test]
fn a_process_that_names_anothers_connection_gets_none() {
    let mut bench = told(somebodys(COOKIE + 1));
    bench.at(3);
    assert!(bench.checker.order.is_empty(), "it may be over");
    bench.at(600);
    let flow = bench.checker.only();
    assert_eq!(flow.info.binding, Binding::Placeholder);
    assert_eq!(flow.info.proof, Some(Proof::Contradicted));
    assert_eq!(bench.mapper.stats().claims_contradicted, 1);
    // Of one that is over somebody else has the addresses by now.
    let mut bench = told(somebodys(COOKIE + 1));
    bench.close(1, 1, CloseReason::Free);
    bench.at(3);
    let flow = bench.checker.only();
    assert_eq!(flow.info.tuple, tuple(7));
    assert_eq!(flow.info.proof, Some(Proof::Unproven));
}

#[test]
fn what_came_last_is_decided_at_the_end_of_the_agent() {
    let mut bench = told(Answer::Gone);
    bench.close(1, 1, CloseReason::Free);
    let now = MonotonicTime(bench.now);
    bench.mapper.finish(now, &mut bench.checker);
    assert_eq!(bench.checker.only().info.tuple, tuple(7));
}

/// Whoever tells another process's socket as its own.
#[test]
fn what_a_process_tells_keeps_no_other_one_from_its_socket() {
    let eyes = Eyes::default();
    eyes.0.lock().unwrap().sockets = Some(vec![(7, AT_FIRST)]);
    let mut bench = told_beside(Answer::Gone, Box::new(EyesOn(2, eyes.clone())));
    bench.at(3);
    assert_eq!(bench.checker.only().info.tuple, tuple(7));
    let of_two = |counts| Meta {
        client_random: done(2, Role::Client).client_random,
        ..carried(counts)
    };
    bench.open(2, 2, of_two(AT_FIRST));
    bench.say(2, 2, Role::Client, Sent, 0, 100);
    eyes.0.lock().unwrap().now = 4 * MS;
    bench.at(4);
    bench.at(5).update(2, 2, of_two(LATER));
    bench.at(6);
    let second = &bench.checker.flows[&bench.checker.order[1]];
    assert_eq!(second.info.binding, Binding::Counters);
    assert_eq!(second.info.proof, None);
}
