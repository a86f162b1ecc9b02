#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The agent's policy, in whole processes: what it excludes never enters the ring.

#[allow(
    dead_code,
    reason = "other tests with an agent need more of it than this one"
)]
mod support;

use mirror_hook::event::{Announcement, Body, CloseReason, Meta, Role};
use mirror_hook::filter::{Action, Flow, NamePattern, Process, Rule, encode};
use mirror_hook::hook::{Conn, Info, Mirror, handshake};
use support::{Agent, Attached, Owned, SCENARIO, pause, reach};

const KIB_64: u64 = 64 * 1024;

/// A connection as a wrapper of a TLS library drives it; its text is its name, again and again.
struct Connection {
    conn: Conn,
    meta: Meta<'static>,
    name: &'static str,
}

impl Connection {
    fn to(name: &'static str) -> Self {
        handshake();
        Self {
            conn: Conn::new(),
            meta: Meta {
                handshake_done: true,
                sni: name.as_bytes(),
                addresses: Some((
                    "127.0.0.1:50000".parse().unwrap(),
                    "127.0.0.2:443".parse().unwrap(),
                )),
                ..Meta::new(Role::Client)
            },
            name,
        }
    }

    fn info(&self) -> Info<'static> {
        Info {
            meta: self.meta,
            socket: None,
        }
    }

    fn say(&mut self) {
        if self.conn.wants_open() {
            self.conn.open(&self.info());
        }
        self.conn.sent(self.name.as_bytes());
    }
}

fn deny_secret() -> Vec<u8> {
    let name = NamePattern::Is("secret.test".to_owned());
    let rule = Rule {
        action: Action::Deny,
        flow: Flow {
            name: Some(name),
            ..Flow::default()
        },
        process: Process::default(),
    };
    encode(&[rule], false, false).unwrap()
}

fn allow_https() -> Vec<u8> {
    let rule = Rule {
        action: Action::Allow,
        flow: Flow {
            ports: Some(443..=443),
            ..Flow::default()
        },
        process: Process::default(),
    };
    encode(&[rule], true, false).unwrap()
}

fn names_in(records: &[Owned]) -> Vec<&[u8]> {
    let text = |record: &Owned| matches!(record.body(), Body::Data { .. });
    let records = records.iter().filter(|record| text(record));
    records.map(|record| record.data().2).collect()
}

fn excluded(ring: &Attached) -> (u64, u64) {
    let counters = ring.consumer.counters();
    (counters.excluded, counters.excluded_unknown)
}

/// The application's side of each test below, which start this binary again with a scenario set.
/// Nothing by itself.
#[test]
fn application() {
    match std::env::var(SCENARIO).as_deref() {
        Err(_) => {}
        Ok("both") => both(),
        Ok("facts") => facts(),
        Ok("next") => next(),
        Ok(other) => panic!("no scenario {other}"),
    }
}

/// A connection that the policy excludes and one that it doesn't, from before the answer on.
fn both() {
    let mut secret = Connection::to("secret.test");
    let mut open = Connection::to("open.test");
    secret.say();
    open.say();
    pause("before the answer");
    let mut late = Connection::to("SECRET.test");
    for connection in [&mut secret, &mut open, &mut late] {
        connection.say();
        connection.conn.received(connection.name.as_bytes());
        connection.say();
    }
    assert!(!secret.conn.wants_open() && !open.conn.wants_open());
    for mut connection in [secret, open, late] {
        connection.conn.close();
    }
    reach("closed");
}

#[test]
fn what_came_before_the_answer_ends_with_it() {
    let agent = Agent::listen();
    let mut application = agent.start("both");
    application.reached("before the answer");
    let mut ring = agent.accept(KIB_64);
    // The hook can't know yet.
    assert_eq!(names_in(&ring.all()), [b"secret.test", &b"open.test"[..]]);
    ring.consumer.set_policy(&deny_secret());
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    let records = ring.all();
    assert_eq!(names_in(&records), [b"open.test"; 3]);
    let closes: Vec<_> = records
        .iter()
        .filter_map(|record| match record.body() {
            Body::Close { sent, reason, .. } => Some((record.connection, sent, reason)),
            _ => None,
        })
        .collect();
    assert_eq!(
        closes,
        [(1, 11, CloseReason::Abort), (2, 27, CloseReason::Free)]
    );
    assert_eq!(excluded(&ring), (2, 0));
    application.end();
}

#[test]
fn who_is_to_wait_says_nothing_before_the_answer() {
    let agent = Agent::listen();
    let mut application = agent.start_told("both", &[("SSLCOLLECTOR_POLICY", "wait")]);
    application.reached("before the answer");
    let mut ring = agent.accept(KIB_64);
    assert_eq!(ring.all(), []);
    ring.consumer.set_policy(&deny_secret());
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    let records = ring.all();
    let meta = records[0].open();
    assert_eq!(meta.sni, b"open.test");
    // What is missing is known.
    assert_eq!(meta.announcement, Announcement::Midstream);
    assert_eq!(meta.offsets, (9, 0));
    assert_eq!(names_in(&records), [b"open.test"; 3]);
    assert_eq!(excluded(&ring), (2, 0));
    application.end();
}

#[test]
fn who_was_told_knows_from_the_first_byte() {
    let agent = Agent::listen();
    let policy: String = deny_secret()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let mut application = agent.start_told("both", &[("SSLCOLLECTOR_POLICY", &policy)]);
    application.reached("before the answer");
    let mut ring = agent.accept(KIB_64);
    let records = ring.all();
    assert_eq!(records[0].open().announcement, Announcement::New);
    assert_eq!(names_in(&records), [b"open.test"]);
    ring.consumer.set_policy(&deny_secret());
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    assert_eq!(names_in(&ring.all()), [b"open.test"; 3]);
    assert_eq!(excluded(&ring), (2, 0));
    application.end();
}

/// Facts that come late, or never.
fn facts() {
    // A server before it has read all of the handshake.
    let mut early = Connection::to("");
    early.meta.handshake_done = false;
    early.name = "early";
    pause("attached");
    early.say();
    early.meta.handshake_done = true;
    early.meta.sni = b"open.test";
    early.say();
    assert!(!early.conn.wants_open());
    // Without addresses, which the application tells in the end.
    let mut unseen = Connection::to("unseen");
    let addresses = unseen.meta.addresses.take();
    unseen.say();
    unseen.say();
    assert!(!unseen.conn.wants_open());
    unseen.meta.addresses = addresses;
    unseen.conn.update(&unseen.info());
    unseen.say();
    // One that ends before it is known.
    let mut short = Connection::to("");
    short.meta.handshake_done = false;
    short.name = "short";
    short.say();
    for mut connection in [early, unseen, short] {
        connection.conn.close();
    }
    reach("closed");
}

#[test]
fn text_waits_for_the_facts_that_a_rule_asks_for() {
    for (policy, names, counts) in [
        (
            deny_secret(),
            vec!["early", "unseen", "unseen", "unseen"],
            (1, 1),
        ),
        (
            allow_https(),
            vec!["early", "early", "unseen", "short"],
            (1, 1),
        ),
    ] {
        let agent = Agent::listen();
        let mut application = agent.start("facts");
        application.reached("attached");
        let mut ring = agent.accept(KIB_64);
        ring.consumer.set_policy(&policy);
        ring.consumer.grant();
        application.go();
        application.reached("closed");
        let records = ring.all();
        let found = names_in(&records);
        let found: Vec<_> = found
            .iter()
            .map(|name| name.escape_ascii().to_string())
            .collect();
        assert_eq!(found, names);
        assert_eq!(excluded(&ring), counts);
        application.end();
    }
}

/// An agent with filters leaves, the next one takes its time.
fn next() {
    let mut open = Connection::to("open.test");
    pause("first");
    open.say();
    pause("mirrored");
    handshake();
    open.say();
    pause("second");
    open.say();
    reach("closed");
}

#[test]
fn after_an_agent_with_filters_the_next_ones_answer_is_waited_for() {
    let agent = Agent::listen();
    let mut application = agent.start("next");
    application.reached("first");
    let mut ring = agent.accept(KIB_64);
    ring.consumer.set_policy(&deny_secret());
    ring.consumer.grant();
    application.go();
    application.reached("mirrored");
    assert_eq!(names_in(&ring.all()), [b"open.test"]);
    ring.consumer.detach();
    application.go();
    application.reached("second");
    let mut ring = agent.accept(KIB_64);
    assert_eq!(ring.all(), []);
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    let records = ring.all();
    assert_eq!(records[0].open().offsets, (18, 0));
    assert_eq!(names_in(&records), [b"open.test"]);
    application.end();
}

#[test]
fn who_is_excluded_as_a_whole_is_silent_from_then_on() {
    let agent = Agent::listen();
    let mut application = agent.start("next");
    application.reached("first");
    let mut ring = agent.accept(KIB_64);
    ring.consumer.exclude();
    application.go();
    application.reached("mirrored");
    assert_eq!(ring.all(), []);
    application.go();
    application.reached("second");
    application.go();
    application.reached("closed");
    application.end();
}
