#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The tests' recorder keeps what the hook is told, and finds fault with what isn't exact.

mod common;

use common::recorder;
use common::tls::full_name;
use mirror_hook::event::{CloseReason, Direction, EarlyData, Meta, Role};
use mirror_hook::hook::{Conn, Info, Mirror};

fn opened(name: &str) -> Conn {
    let mut conn = Conn::new();
    let name = full_name(name);
    let meta = Meta {
        sni: name.as_bytes(),
        ..Meta::new(Role::Client)
    };
    conn.open(&Info { meta, socket: None });
    conn
}

#[test]
fn what_is_said_is_recorded() {
    let recorder = recorder::start();
    let mut conn = opened("said");
    // More than the ring holds.
    let text: Vec<u8> = (0..=255).cycle().take(10_000_000).collect();
    for part in text.chunks(40_000) {
        conn.sent(part);
    }
    conn.received(b"an answer");
    conn.end(Direction::Received);
    conn.close();
    let recorded = recorder.session("said", Role::Client);
    assert!(recorded.sent() == text);
    assert_eq!(recorded.received(), b"an answer");
    assert!(recorded.is_closed() && recorded.ended_by(CloseReason::ReceivedEnd));
    assert!(recorder.sessions("said", Role::Server).is_empty());
}

#[test]
fn rejected_early_data_is_apart() {
    let recorder = recorder::start();
    let mut conn = opened("early");
    conn.sent(b"too early");
    let name = full_name("early");
    let meta = Meta {
        sni: name.as_bytes(),
        early: EarlyData::Rejected,
        ..Meta::new(Role::Client)
    };
    conn.early_rejected(&Info { meta, socket: None });
    conn.sent(b"in time");
    let recorded = recorder.session("early", Role::Client);
    assert_eq!(recorded.rejected, b"too early");
    assert_eq!(recorded.sent(), b"in time");
}

#[test]
#[should_panic(expected = "Sent: 9 follows 4")]
fn a_hole_is_a_fault() {
    let recorder = recorder::start();
    let mut conn = opened("hole");
    conn.sent(b"four");
    conn.lost(Direction::Sent, 5);
    conn.sent(b"behind");
    recorder.session("hole", Role::Client).sent();
}
