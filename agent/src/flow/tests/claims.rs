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
    asked: Rc<Cell<u32>>,
}

impl Sockets for Fixed {
    fn find(&mut self, ends: &Ends, network: u64, _: &ProcessInfo) -> Answer {
        assert_ne!(ends.local, ends.peer);
        assert_eq!(network, 7);
        self.asked.set(self.asked.get() + 1);
        self.answer
    }

    fn holds(&mut self, _: &ProcessInfo, _: u64) -> Option<bool> {
        Some(false)
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
    let mut bench = match capture {
        true => Bench::capturing(),
        false => Bench::new(MapperConfig::default()),
    };
    let asked = Rc::new(Cell::new(0));
    let sockets = Fixed {
        answer,
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
        let (mut bench, _) = bench(true, live(COOKIE + 1, 4));
        bench.open(1, 0, claiming(0));
        assert!(bench.checker.order.is_empty());
        bench.wire(0, tuple(seen));
        let info = &bench.checker.only().info;
        assert_eq!((info.binding, info.proof), (binding, Some(proof)));
        assert_eq!(info.tuple, tuple(seen));
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
