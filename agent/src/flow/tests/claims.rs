//! What becomes of sessions by what the kernel says of their sockets.

use std::cell::Cell;
use std::rc::Rc;

use super::*;
use crate::event::Proof;
use crate::flow::proof::{Answer, Ends, LiveSocket, Sockets};

/// The cookie that the sessions name.
const COOKIE: u64 = 5;

/// Says the same of all sockets, and counts who asks.
#[derive(Debug)]
struct Fixed {
    answer: Answer,
    /// Whether the process has it.
    held: Option<bool>,
    asked: Rc<Cell<u32>>,
}

impl Sockets for Fixed {
    fn find(&mut self, ends: &Ends, network: u64, _: &ProcessInfo) -> Answer {
        assert_ne!(ends.local, ends.peer);
        assert!([0, 7].contains(&network));
        self.asked.set(self.asked.get() + 1);
        self.answer
    }

    fn holds(&mut self, _: &ProcessInfo, _: u64) -> Option<bool> {
        self.held
    }
}

fn live(cookie: u64, uid: u32) -> Answer {
    Answer::Live(LiveSocket {
        cookie,
        uid,
        inode: 9,
        at_home: true,
    })
}

fn bench(capture: bool, answer: Answer) -> (Bench, Rc<Cell<u32>>) {
    bench_of(capture, answer, Some(false))
}

fn bench_of(capture: bool, answer: Answer, held: Option<bool>) -> (Bench, Rc<Cell<u32>>) {
    let mut bench = match capture {
        true => Bench::capturing(),
        false => Bench::new(MapperConfig::default()),
    };
    let asked = Rc::new(Cell::new(0));
    let sockets = Fixed {
        answer,
        held,
        asked: Rc::clone(&asked),
    };
    let clock = Clock::new(MonotonicTime(0), WallTime(EPOCH));
    let mapper = Mapper::new(bench.mapper.config.clone(), clock);
    bench.mapper = mapper.asking(Box::new(sockets));
    (bench, asked)
}

fn claiming(connection: u8) -> Meta<'static> {
    Meta {
        cookies: Some((COOKIE, 7)),
        ..with_socket(connection, Role::Server)
    }
}

#[test]
fn a_claim_that_is_true_is_proven_and_asked_about_once() {
    let (mut bench, asked) = bench(false, live(COOKIE, 0));
    let before = Meta {
        handshake_done: false,
        ..claiming(0)
    };
    bench.open(1, 0, before);
    assert_eq!(asked.get(), 0, "a handshake may fail");
    bench.update(1, 0, claiming(0));
    bench.update(1, 0, claiming(0));
    bench.say(1, 0, Role::Server, Received, 0, 100);
    let info = &bench.checker.only().info;
    assert_eq!(info.binding, Binding::Socket);
    assert_eq!(info.tuple, tuple(0));
    assert_eq!(info.proof, Some(Proof::Proven));
    // The other end is told already, and its addresses with it.
    let other = Meta {
        cookies: Some((COOKIE + 1, 7)),
        ..with_socket(0, Role::Client)
    };
    bench.open(2, 0, other);
    assert_eq!(asked.get(), 1);
    assert_eq!(bench.mapper.stats().claims_proven, 1);
    assert_eq!(bench.mapper.stats().twins, 1);
}

#[test]
fn who_names_no_socket_is_not_asked_about() {
    let (mut bench, asked) = bench(false, live(COOKIE + 1, 4));
    let told = Meta {
        addresses_told: true,
        ..claiming(0)
    };
    bench.open(1, 0, told);
    let info = &bench.checker.only().info;
    assert_eq!((info.binding, info.proof), (Binding::Told, None));
    assert_eq!(asked.get(), 0);
}

#[test]
fn what_is_gone_is_kept_and_marked() {
    let (mut bench, _) = bench(false, Answer::Gone);
    bench.open(1, 0, claiming(0));
    let info = &bench.checker.only().info;
    assert_eq!(info.tuple, tuple(0));
    assert_eq!(info.proof, Some(Proof::Unproven));
    assert_eq!(bench.mapper.stats().claims_gone, 1);
}

/// With another cookie; and with the right one, of another user's socket that the process doesn't have.
#[test]
fn anothers_connection_is_refused() {
    for (answer, capture) in [
        (live(COOKIE + 1, 0), false),
        (live(COOKIE, 4), false),
        (live(COOKIE + 1, 0), true),
    ] {
        let (mut bench, asked) = bench(capture, answer);
        bench.open(1, 0, claiming(0));
        bench.say(1, 0, Role::Server, Received, 0, 100);
        bench.at(499);
        assert!(bench.checker.order.is_empty(), "in doubt");
        bench.at(500);
        bench.say(1, 0, Role::Server, Sent, 0, 100);
        let flow = bench.checker.only();
        assert_eq!(flow.info.binding, Binding::Placeholder);
        assert_ne!(flow.info.tuple, tuple(0));
        assert_eq!(flow.info.proof, Some(Proof::Contradicted));
        assert_eq!(flow.delivered, 200);
        assert_eq!(asked.get(), 1);
        assert_eq!(bench.mapper.stats().claims_contradicted, 1);
    }
}

/// The process was late, not wrong: somebody else has had its addresses since.
#[test]
fn a_session_that_is_over_is_not_accused() {
    for reason in [Some(CloseReason::Free), Some(CloseReason::Abort), None] {
        let (mut bench, _) = bench(false, live(COOKIE + 1, 4));
        bench.open(1, 0, claiming(0));
        bench.say(1, 0, Role::Server, Received, 0, 100);
        assert!(bench.checker.order.is_empty());
        match reason {
            Some(reason) => bench.close(1, 0, reason),
            None => bench.event(1, 0, SessionChange::Died),
        }
        let flow = bench.checker.only();
        assert_eq!(flow.info.tuple, tuple(0));
        assert_eq!(flow.info.proof, Some(Proof::Unproven));
        assert_eq!(flow.delivered, 100);
        assert_eq!(bench.mapper.stats().claims_contradicted, 0);
        assert_eq!(bench.mapper.stats().claims_gone, 1);
    }
}

#[test]
fn the_wire_settles_a_doubt() {
    for (seen, binding, proof) in [
        (0, Binding::Socket, Proof::Unproven),
        (1, Binding::Wire, Proof::Contradicted),
    ] {
        let (mut bench, _) = bench(true, live(COOKIE + 1, 0));
        bench.open(1, 0, claiming(0));
        assert!(bench.checker.order.is_empty());
        bench.wire(0, tuple(seen));
        let info = &bench.checker.only().info;
        assert_eq!((info.binding, info.proof), (binding, Some(proof)));
        assert_eq!(info.tuple, tuple(seen));
    }
}

/// Both randoms are public: who names another's is shown neither under the addresses that the wire has for them nor by the
/// other's id.
#[test]
fn who_names_anothers_randoms_does_not_get_its_addresses() {
    let doubts = |meta: Meta<'static>, first: bool| {
        let (mut bench, _) = bench(true, live(COOKIE, 4));
        if first {
            bench.wire(0, tuple(0));
        }
        bench.open(1, 0, meta);
        if !first {
            bench.wire(0, tuple(0));
        }
        bench.say(1, 0, Role::Server, Received, 0, 100);
        bench.at(499);
        assert!(bench.checker.order.is_empty(), "in doubt");
        bench
    };
    let id = {
        let mut bench = Bench::capturing();
        bench.wire(0, tuple(0));
        bench.open(1, 0, done(0, Role::Server));
        bench.checker.only().info.id
    };
    for first in [true, false] {
        // Without a socket, and with the wrong one.
        for meta in [done(0, Role::Server), claiming(0)] {
            let mut bench = doubts(meta, first);
            bench.at(500);
            let flow = bench.checker.only();
            assert_eq!(flow.info.binding, Binding::Placeholder);
            assert_eq!(flow.info.proof, Some(Proof::Contradicted));
            assert_ne!(flow.info.id, id);
            assert_eq!(flow.delivered, 100);
            assert_eq!(bench.mapper.stats().claims_contradicted, 1);
            // One that is over may have had these addresses before.
            let mut bench = doubts(meta, first);
            bench.close(1, 0, CloseReason::Free);
            assert_eq!(bench.checker.only().info.tuple, tuple(0));
            assert_eq!(bench.mapper.stats().claims_contradicted, 0);
        }
    }
}

/// What a process tells of its own comes before what the wire shows, also where that was looked at already.
#[test]
fn who_tells_addresses_after_all_has_these() {
    let (mut bench, _) = bench(true, live(COOKIE, 4));
    bench.open(1, 0, done(0, Role::Server));
    bench.wire(0, tuple(0));
    assert!(bench.checker.order.is_empty(), "in doubt");
    bench.update(1, 0, telling(0, 1));
    let info = &bench.checker.only().info;
    assert_eq!((info.tuple, info.binding), (tuple(1), Binding::Told));
    let mut other = Bench::capturing();
    other.open(1, 0, done(0, Role::Server));
    other.wire(0, tuple(0));
    assert_eq!(info.id, other.checker.only().info.id);
}

#[test]
fn what_the_wire_shows_is_anothers_only_where_that_is_certain() {
    for (answer, held) in [
        (live(COOKIE, 0), Some(false)), // of its own user
        (live(COOKIE, 4), Some(true)),  // passed on to it
        (live(COOKIE, 4), None),
        (Answer::Gone, Some(false)),
        (Answer::Unanswered, Some(false)),
    ] {
        let (mut bench, _) = bench_of(true, answer, held);
        bench.open(1, 0, done(0, Role::Server));
        bench.wire(0, tuple(0));
        let info = &bench.checker.only().info;
        assert_eq!((info.tuple, info.binding), (tuple(0), Binding::Wire));
        assert_eq!(info.proof, None);
    }
}

/// Somebody else says that he had inherited root's connection.
#[test]
fn who_has_nothing_of_a_connection_does_not_go_on_with_it() {
    let inherited = |connection| Meta {
        announcement: Announcement::Inherited,
        ..done(connection, Role::Server)
    };
    for (held, joins) in [(Some(false), false), (Some(true), true), (None, true)] {
        for capture in [false, true] {
            let (mut bench, _) = bench_of(capture, live(COOKIE, 0), held);
            bench.open_as(1, 0, claiming(0), 0);
            bench.open_as(2, 0, inherited(0), 33);
            bench.at(500);
            assert_eq!(bench.checker.order.len(), if joins { 1 } else { 2 });
        }
    }
}

/// A session that goes on keeps the addresses that it was told with.
#[test]
fn a_flow_that_goes_on_keeps_its_addresses() {
    for (found, proof) in [
        ((tuple(0), Binding::Socket), Proof::Unproven),
        ((tuple(1), Binding::Wire), Proof::Contradicted),
    ] {
        let (mut bench, _) = bench(false, live(COOKIE + 1, 4));
        let process = Arc::new(ProcessInfo::default());
        let continued = Continued {
            base: (0, 0),
            found: Some(found),
        };
        let meta = claiming(0);
        let change = SessionChange::Resumed {
            process: &process,
            meta: &meta,
            policy: None,
            continued: &continued,
        };
        bench.event(1, 0, change);
        let info = &bench.checker.only().info;
        assert_eq!((info.tuple, info.binding), found);
        assert_eq!(info.proof, Some(proof));
    }
}

/// An application's word for the addresses of another connection.
fn telling(connection: u8, of: u8) -> Meta<'static> {
    Meta {
        addresses_told: true,
        addresses: with_socket(of, Role::Server).addresses,
        ..done(connection, Role::Server)
    }
}

#[test]
fn what_is_told_of_a_live_flow_is_refused() {
    let (mut bench, asked) = bench(false, live(COOKIE, 0));
    bench.open(1, 0, claiming(0));
    bench.say(1, 0, Role::Server, Received, 0, 100);
    bench.open(2, 1, telling(1, 0));
    bench.say(2, 1, Role::Server, Sent, 0, 100);
    // Over at once: nobody says that the kernel was asked too late.
    bench.open(2, 2, telling(2, 0));
    bench.close(2, 2, CloseReason::Free);
    bench.say(1, 0, Role::Server, Sent, 0, 100);
    assert_eq!(asked.get(), 1);
    let flows = &bench.checker.flows;
    let [first, second, third] = [0, 1, 2].map(|at| &flows[&bench.checker.order[at]]);
    assert_eq!((first.info.tuple, first.end), (tuple(0), End::Open));
    for told in [second, third] {
        assert_eq!(told.info.binding, Binding::Placeholder);
        assert_eq!(told.info.proof, Some(Proof::Contradicted));
        assert_ne!(told.info.tuple, tuple(0));
    }
    assert_eq!((first.delivered, second.delivered), (200, 100));
    assert_eq!(bench.mapper.stats().claims_contradicted, 2);
    // A placeholder is a live flow's, too.
    let taken = second.info.tuple;
    let meta = Meta {
        addresses: Some((taken.server, taken.client)),
        ..telling(3, 0)
    };
    bench.open(2, 3, meta);
    assert_eq!(bench.mapper.stats().claims_contradicted, 3);
    // Nobody has them any more.
    bench.close(1, 0, CloseReason::Free);
    bench.open(2, 4, telling(4, 0));
    assert_eq!(bench.mapper.stats().claims_contradicted, 3);
    let last = &bench.checker.flows[bench.checker.order.last().unwrap()];
    assert_eq!((last.info.tuple, last.info.proof), (tuple(0), None));
    assert_eq!(last.info.binding, Binding::Told);
}

/// What was told before loses its addresses, and no byte.
#[test]
fn what_is_told_makes_way_for_what_is_known() {
    for capture in [false, true] {
        let (mut bench, _) = bench(capture, live(COOKIE, 0));
        bench.open(2, 1, telling(1, 0));
        bench.at(150); // its fingerprint isn't seen
        bench.say(2, 1, Role::Server, Sent, 0, 100);
        bench.say(2, 1, Role::Server, Received, 0, 70);
        bench.event(
            2,
            1,
            SessionChange::Close {
                reason: CloseReason::ReceivedEnd,
            },
        );
        assert_eq!(bench.checker.only().info.binding, Binding::Told);
        match capture {
            // The wire shows it.
            true => {
                bench.open(1, 0, done(0, Role::Server));
                bench.wire(0, tuple(0));
            }
            false => bench.open(1, 0, claiming(0)),
        }
        bench.say(1, 0, Role::Server, Sent, 0, 100);
        bench.say(2, 1, Role::Server, Sent, 100, 50);
        let flows = &bench.checker.flows;
        let mut order = bench.checker.order.iter().map(|number| &flows[number]);
        let told = order.next().unwrap();
        assert_eq!((told.end, told.delivered), (End::Reset, 170));
        let rest: Vec<_> = order.collect();
        assert_eq!(rest.len(), 2);
        let [goes_on, known] = [1, 0].map(|connection| {
            let mut rest = rest.iter();
            rest.find(|flow| flow.connection == connection).unwrap()
        });
        assert_eq!(known.info.tuple, tuple(0));
        assert_eq!((known.end, known.delivered), (End::Open, 100));
        assert_eq!(goes_on.info.binding, Binding::Placeholder);
        assert_eq!(goes_on.info.proof, Some(Proof::Contradicted));
        assert_eq!(goes_on.info.continued, Some((70, 100)));
        assert_eq!((goes_on.end, goes_on.delivered), (End::Open, 50));
        assert_eq!(goes_on.finished, [Side::Client]);
        assert_ne!(goes_on.info.id, told.info.id);
        assert_eq!(bench.mapper.stats().claims_contradicted, 1);
        bench.close(2, 1, CloseReason::Free);
        assert_eq!(bench.mapper.live_flows(), 1);
    }
}

/// Who only says so itself is no better than who said it first; nor is a claim that nobody could prove.
#[test]
fn what_is_told_makes_way_for_no_other_word() {
    let (mut bench, _) = bench(false, Answer::Gone);
    bench.open(2, 1, telling(1, 0));
    bench.open(1, 0, claiming(0));
    bench.open(3, 2, telling(2, 0));
    let flows = &bench.checker.flows;
    let order = bench.checker.order.iter();
    let proofs: Vec<_> = order.map(|it| flows[it].info.proof).collect();
    assert_eq!(
        proofs,
        [None, Some(Proof::Unproven), Some(Proof::Contradicted)]
    );
    assert_eq!(flows[&bench.checker.order[0]].end, End::Open);
}
