#![allow(
    unsafe_code,
    reason = "calls the C interface, fork(2) and errno as an application does"
)]
#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The hook in whole processes, with an agent beside them.

mod support;

use std::collections::BTreeSet;
use std::ptr;
use std::sync::atomic::Ordering;

use mirror_hook::capi::*;
use mirror_hook::event::{Announcement, Body, CloseReason, Direction, EarlyData};
use mirror_hook::layout::{control, kind};
use mirror_hook::ring::Memory;
use support::{Agent, Application, Attached, Owned, SCENARIO, pattern, pause, reach};

const KIB_64: u64 = 64 * 1024;

static RANDOM: [u8; 32] = [7; 32];

/// A connection as the patched libssl drives it.
struct Connection {
    state: mirror_hook_conn,
    sent: u64,
    received: u64,
}

impl Connection {
    fn new() -> Self {
        Self {
            state: mirror_hook_conn { words: [0; 8] },
            sent: 0,
            received: 0,
        }
    }

    fn info() -> mirror_hook_info {
        mirror_hook_info {
            size: u32::try_from(size_of::<mirror_hook_info>()).unwrap(),
            flags: 0,
            role: MIRROR_HOOK_CLIENT,
            transport: MIRROR_HOOK_TCP,
            early: MIRROR_HOOK_EARLY_NONE,
            family: 4,
            tls_version: 0x0304,
            cipher: 0,
            read_fd: -1,
            write_fd: -1,
            client_random: RANDOM.as_ptr(),
            server_random: ptr::null(),
            sni: c"example.com".as_ptr(),
            sni_length: 11,
            alpn: ptr::null(),
            alpn_length: 0,
            wire_read: u64::MAX,
            wire_written: u64::MAX,
            local_address: [127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            peer_address: [127, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            local_port: 50000,
            peer_port: 443,
        }
    }

    fn wants_open(&self) -> bool {
        // SAFETY: a valid connection.
        unsafe { mirror_hook_wants_open(&raw const self.state) }
    }

    fn open(&mut self) {
        let info = Self::info();
        if self.wants_open() {
            // SAFETY: a valid connection, and an info whose pointers live.
            unsafe { mirror_hook_open(&raw mut self.state, &raw const info) };
        }
    }

    fn send(&mut self, length: usize) {
        self.open();
        let bytes = pattern(self.sent, length);
        // SAFETY: a valid connection, and as many bytes.
        unsafe { mirror_hook_sent(&raw mut self.state, bytes.as_ptr().cast(), length) };
        self.sent += length as u64;
    }

    fn receive(&mut self, length: usize) {
        self.open();
        let bytes = pattern(self.received, length);
        // SAFETY: a valid connection, and as many bytes.
        unsafe { mirror_hook_received(&raw mut self.state, bytes.as_ptr().cast(), length) };
        self.received += length as u64;
    }

    fn close(mut self) {
        // SAFETY: a valid connection.
        unsafe { mirror_hook_close(&raw mut self.state) };
        assert_eq!(self.state.words, [0; 8]);
    }
}

fn descriptors() -> BTreeSet<(String, String)> {
    std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .filter_map(|entry| {
            let path = entry.unwrap().path();
            let target = std::fs::read_link(&path).ok()?;
            let number = path.file_name()?.to_string_lossy().into_owned();
            Some((number, target.to_string_lossy().into_owned()))
        })
        .filter(|(_, target)| !target.starts_with("/proc/"))
        .collect()
}

fn errno() -> *mut i32 {
    // SAFETY: no precondition.
    unsafe { libc::__errno_location() }
}

/// Each call leaves errno and the descriptors as they are.
fn harmless(call: impl FnOnce()) {
    let before = descriptors();
    // SAFETY: this thread's errno.
    unsafe { *errno() = 4321 };
    call();
    // SAFETY: this thread's errno.
    assert_eq!(unsafe { *errno() }, 4321);
    assert_eq!(descriptors(), before);
}

/// The application's side of each test below, which start this binary again with a scenario set.
/// Nothing by itself.
#[test]
fn application() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    mirror_hook_init();
    match scenario.as_str() {
        "transfer" => transfer(),
        "full" => full(),
        "crowd" => crowd(),
        "fork" => fork(),
        "reattach" => reattach(),
        "alone" => alone(),
        "before" => before(),
        "early" => early(),
        "file_size_limit" => file_size_limit(),
        other => panic!("no scenario {other}"),
    }
}

/// The ranges of one direction that `records` hold, in order; each byte has been checked.
fn ranges(records: &[Owned], wanted: Direction) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for record in records.iter().filter(|record| record.kind == kind::DATA) {
        let (direction, offset, bytes) = record.data();
        if direction != wanted {
            continue;
        }
        assert!(
            bytes == pattern(offset, bytes.len()),
            "wrong bytes at {offset}"
        );
        let end = offset + bytes.len() as u64;
        match ranges.last_mut() {
            Some(last) if last.1 == offset => last.1 = end,
            _ => ranges.push((offset, end)),
        }
    }
    ranges
}

const CALLS: [usize; 7] = [1, 16_384, 16_385, 0, 100_000, 7, 40_961];
const ROUNDS: usize = 60;

fn transfer() {
    let mut connection = Connection::new();
    harmless(|| mirror_hook_handshake());
    harmless(|| connection.open());
    assert!(!connection.wants_open());
    harmless(|| connection.send(1000));
    harmless(|| connection.receive(2000));
    pause("bootstrap");
    for _ in 0..ROUNDS {
        for length in CALLS {
            connection.send(length);
            connection.receive(length / 2);
        }
    }
    // SAFETY: a valid connection.
    harmless(|| unsafe { mirror_hook_end(&raw mut connection.state, MIRROR_HOOK_SENT) });
    // SAFETY: a valid connection. The second is ignored.
    harmless(|| unsafe { mirror_hook_end(&raw mut connection.state, MIRROR_HOOK_SENT) });
    harmless(|| connection.close());
    reach("closed");
}

#[test]
fn a_transfer_is_exact_from_the_first_byte() {
    let agent = Agent::listen();
    let mut application = agent.start("transfer");
    application.reached("bootstrap");
    let mut ring = agent.accept(16 * 1024 * 1024);
    assert_eq!(ring.message.parent_instance, None);
    // Before the grant: the first bytes are there already.
    let mut records = ring.all();
    assert_eq!(records.len(), 3);
    let meta = records[0].open();
    assert_eq!(meta.announcement, Announcement::New);
    assert_eq!(meta.sni, b"example.com");
    assert_eq!(meta.client_random, Some([7; 32]));
    assert_eq!(meta.addresses.unwrap().1, "127.0.0.2:443".parse().unwrap());
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    records.extend(ring.all());

    let total: usize = CALLS.iter().sum::<usize>() * ROUNDS;
    let half: usize = CALLS.iter().map(|length| length / 2).sum::<usize>() * ROUNDS;
    let (sent, received) = (1000 + total as u64, 2000 + half as u64);
    assert_eq!(ranges(&records, Direction::Sent), [(0, sent)]);
    assert_eq!(ranges(&records, Direction::Received), [(0, received)]);
    let ends: Vec<_> = records
        .iter()
        .filter(|record| record.kind == kind::CLOSE)
        .map(|record| record.body())
        .collect();
    let end = |reason| Body::Close {
        sent,
        received,
        reason,
        forks: 0,
    };
    assert_eq!(ends, [end(CloseReason::SentEnd), end(CloseReason::Free)]);
    assert_eq!(ring.consumer.counters().dropped_records, 0);
    application.end();
}

fn full() {
    mirror_hook_handshake();
    let mut first = Connection::new();
    first.open();
    pause("attached");
    for _ in 0..10 {
        harmless(|| first.send(10_000));
    }
    pause("full");
    // The agent has made room: the hole lies between.
    first.send(10_000);
    for _ in 0..6 {
        first.send(10_000);
    }
    // A smaller record might still fit, an announcement doesn't.
    while first.sent < 200_000 {
        first.send(100);
    }
    let mut second = Connection::new();
    assert!(second.wants_open());
    harmless(|| second.open());
    assert!(!second.wants_open());
    harmless(|| second.send(50));
    harmless(|| first.close());
    pause("closed");
    assert!(second.wants_open());
    second.send(60);
    harmless(|| second.close());
    // Never announced: not even its end is written.
    Connection::new().close();
    reach("end");
}

#[test]
fn a_full_ring_makes_holes_of_the_exact_size() {
    let agent = Agent::listen();
    let mut application = agent.start("full");
    application.reached("attached");
    let mut ring = agent.accept(KIB_64);
    ring.consumer.grant();
    application.go();
    application.reached("full");
    let records = ring.all();
    assert_eq!(records[0].open().offsets, (0, 0));
    assert_eq!(ranges(&records, Direction::Sent), [(0, 60_000)]);
    let counters = ring.consumer.counters();
    assert_eq!(counters.dropped_records, 4);
    assert_eq!(counters.dropped_bytes, 40_000);
    application.go();
    application.reached("closed");
    let records = ring.all();
    let seen = ranges(&records, Direction::Sent);
    let last = seen[1].1;
    assert_eq!(seen, [(100_000, 160_000), (170_000, last)]);
    let counters = ring.consumer.counters();
    assert_eq!(counters.dropped_bytes, 40_000 + 10_000 + 200_000 - last);
    let closed = records.last().unwrap();
    assert_eq!(closed.connection, 1);
    assert_eq!(
        closed.body(),
        Body::Close {
            sent: 200_000,
            received: 0,
            reason: CloseReason::Free,
            forks: 0,
        }
    );
    assert_eq!(counters.opens_deferred, 1);
    application.go();
    application.reached("end");
    let records = ring.all();
    assert_eq!(records.len(), 3, "{records:?}");
    assert_eq!(records[0].open().announcement, Announcement::Midstream);
    assert_eq!(records[0].open().offsets, (50, 0));
    assert_eq!(ranges(&records, Direction::Sent), [(50, 110)]);
    assert_eq!(records[2].kind, kind::CLOSE);
    application.end();
}

/// More connections than the close table has entries.
const CROWD: u64 = 3000;
const LATE: u64 = 100;

fn crowd() {
    mirror_hook_handshake();
    pause("attached");
    let mut crowd: Vec<_> = (0..CROWD).map(|_| Connection::new()).collect();
    for connection in &mut crowd {
        connection.send(1);
    }
    // Nothing fits any more.
    for _ in 0..100 {
        crowd[0].send(16_384);
    }
    while !full_for_one_byte(&mut crowd[0]) {}
    for connection in (0..LATE).map(|_| Connection::new()) {
        let mut connection = connection;
        harmless(|| connection.open());
        connection.send(10);
        connection.receive(20);
        harmless(|| connection.close());
    }
    for connection in crowd {
        connection.close();
    }
    reach("closed");
}

/// Sends a hundred bytes one by one: each takes the room of a record, as long as there is some.
fn full_for_one_byte(connection: &mut Connection) -> bool {
    for _ in 0..100 {
        connection.send(1);
    }
    connection.sent > 1_700_000
}

/// However many are open when the ring is full, the end of each is heard, and where it was. Those that
/// came and went meanwhile are counted.
#[test]
fn every_connection_of_a_crowd_is_heard_to_end() {
    let agent = Agent::listen();
    let mut application = agent.start("crowd");
    application.reached("attached");
    let mut ring = agent.accept(1 << 20);
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    let records = ring.all();
    let counters = ring.consumer.counters();
    assert_eq!((counters.closes_tabled, counters.closes_lost), (0, 0));
    assert_eq!(counters.opens_deferred, LATE);
    assert_eq!(
        (counters.opens_lost, counters.untold_bytes),
        (LATE, 30 * LATE)
    );
    let opened = records.iter().filter(|record| record.kind == kind::OPEN);
    assert_eq!(opened.count() as u64, CROWD);
    let mut closed = BTreeSet::new();
    for record in &records {
        if let Body::Close { sent, reason, .. } = record.body() {
            assert_eq!(reason, CloseReason::Free);
            assert!(closed.insert(record.connection));
            assert!(sent == 1 || record.connection == 1 && sent > 1_700_000);
        }
    }
    assert_eq!(closed, (1..=CROWD).collect());
    application.end();
}

fn fork() {
    mirror_hook_handshake();
    let mut connection = Connection::new();
    connection.send(5);
    // SAFETY: the child only goes on with this thread, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let result = std::panic::catch_unwind(move || {
            assert!(connection.wants_open());
            harmless(|| connection.send(6));
            harmless(|| connection.close());
        });
        // SAFETY: ends the child without the parent's handlers.
        unsafe { libc::_exit(i32::from(result.is_err())) };
    }
    let mut status = 0;
    // SAFETY: waits for the child from above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    assert!(!connection.wants_open());
    // The next child says nothing, its own child does.
    // SAFETY: as above.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: as above.
        let grandchild = unsafe { libc::fork() };
        let mut status = 0;
        if grandchild == 0 {
            let result = std::panic::catch_unwind(move || connection.send(9));
            status = i32::from(result.is_err());
        } else {
            // SAFETY: waits for the child from above.
            unsafe { libc::waitpid(grandchild, &raw mut status, 0) };
        }
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(status != 0)) };
    }
    // SAFETY: as above.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    assert_eq!(status, 0);
    connection.send(7);
    connection.close();
    reach("end");
}

#[test]
fn a_forked_child_has_a_ring_of_its_own() {
    let agent = Agent::listen();
    let mut application = agent.start("fork");
    application.reached("end");
    let mut parent = agent.accept(KIB_64);
    let mut child = agent.accept(KIB_64);
    let mut grandchild = agent.accept(KIB_64);
    assert_ne!(parent.message.instance, child.message.instance);
    for (number, forked) in [(1, &child), (2, &grandchild)] {
        let parent = Some(parent.message.instance);
        assert_eq!(forked.message.parent_instance, parent);
        assert_eq!(forked.message.parent_fork, number);
        assert_eq!(forked.message.silent_forks, number - 1);
        // The hook starts in the test's thread, which has a name of its own.
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().as_encoded_bytes();
        assert_eq!(forked.message.name[..15], program[..15]);
    }
    assert_eq!(parent.message.parent_fork, 0);
    let forks = parent
        .consumer
        .memory()
        .load_u32(control::FORKS, Ordering::Relaxed);
    assert_eq!(forks, 2);

    let records = parent.all();
    assert_eq!(records.len(), 4);
    assert_eq!(records[0].open().forks, 0);
    assert_eq!(
        records[3].body(),
        Body::Close {
            sent: 12,
            received: 0,
            reason: CloseReason::Free,
            forks: 2
        }
    );
    assert_eq!(ranges(&records, Direction::Sent), [(0, 12)]);
    let records_of_child = child.all();
    assert_eq!(records_of_child.len(), 3);
    let meta = records_of_child[0].open();
    assert_eq!(meta.announcement, Announcement::Inherited);
    let announced = (parent.message.instance, records[0].connection);
    assert_eq!(meta.parent, Some(announced));
    assert_eq!(meta.offsets, (5, 0));
    assert_eq!(ranges(&records_of_child, Direction::Sent), [(5, 11)]);
    let records = grandchild.all();
    assert_eq!(records[0].open().parent, Some(announced));
    assert_eq!(ranges(&records, Direction::Sent), [(5, 14)]);
    application.end();
}

fn reattach() {
    mirror_hook_handshake();
    let mut connection = Connection::new();
    connection.send(10);
    pause("first");
    assert!(!connection.wants_open());
    harmless(|| connection.send(20));
    harmless(|| mirror_hook_handshake());
    pause("second");
    assert!(connection.wants_open());
    harmless(|| connection.send(30));
    connection.close();
    reach("end");
}

#[test]
fn after_the_agent_has_left_a_later_handshake_finds_the_next() {
    let agent = Agent::listen();
    let mut application = agent.start("reattach");
    application.reached("first");
    let mut first: Attached = agent.accept(KIB_64);
    first.consumer.grant();
    assert_eq!(ranges(&first.all(), Direction::Sent), [(0, 10)]);
    first.consumer.detach();
    application.go();
    application.reached("second");
    let mut second = agent.accept(KIB_64);
    second.consumer.grant();
    assert_ne!(first.message.instance, second.message.instance);
    assert_eq!(second.message.parent_instance, None);
    application.go();
    application.reached("end");
    assert_eq!(first.all(), []);
    let records = second.all();
    assert_eq!(records[0].open().announcement, Announcement::Midstream);
    assert_eq!(records[0].open().offsets, (30, 0));
    assert_eq!(records[0].open().parent, None);
    assert_eq!(ranges(&records, Direction::Sent), [(30, 60)]);
    application.end();
}

fn before() {
    let mut silent = Connection::new();
    harmless(|| silent.send(30));
    let mut talks_on = Connection::new();
    harmless(|| talks_on.send(7));
    // Has said nothing: nothing of it is missing.
    let mute = Connection::new();
    mirror_hook_handshake();
    pause("attached");
    harmless(|| talks_on.receive(5));
    for connection in [silent, talks_on, mute] {
        harmless(|| connection.close());
    }
    reach("closed");
}

/// What had said all before the process had a ring is counted there; what goes on is announced, with what it said before.
#[test]
fn sessions_that_were_over_before_the_ring_came_are_counted() {
    let agent = Agent::listen();
    let mut application = agent.start("before");
    application.reached("attached");
    let mut ring = agent.accept(1 << 20);
    ring.consumer.grant();
    application.go();
    application.reached("closed");
    let records = ring.all();
    let opened: Vec<_> = records
        .iter()
        .filter(|record| record.kind == kind::OPEN)
        .collect();
    let [talks_on] = opened[..] else {
        panic!("{} announced", opened.len());
    };
    assert_eq!(talks_on.open().announcement, Announcement::Midstream);
    assert_eq!(talks_on.open().offsets, (7, 0));
    let counters = ring.consumer.counters();
    assert_eq!((counters.missed, counters.missed_bytes), (1, 30));
    application.end();
}

fn alone() {
    let mut connection = Connection::new();
    for _ in 0..3 {
        harmless(|| mirror_hook_handshake());
        assert!(!connection.wants_open());
        harmless(|| connection.send(100_000));
        harmless(|| connection.receive(1));
    }
    assert_eq!(connection.state.words[2..4], [300_000, 3]);
    harmless(|| connection.close());
}

#[test]
fn without_an_agent_nothing_happens() {
    let nowhere = tempfile::tempdir().unwrap();
    Application::start("alone", &nowhere.path().join("agent")).end();
}

#[test]
fn an_agent_that_hangs_with_a_full_backlog_stops_nobody() {
    let agent = Agent::listen();
    let held = agent.fill_backlog();
    assert!(!held.is_empty());
    agent.start("alone").end();
}

#[test]
fn a_process_that_nobody_enabled_asks_nobody() {
    let agent = Agent::listen();
    // An empty path is none.
    Application::start("alone", std::path::Path::new("")).end();
    assert!(agent.is_idle());
}

fn early() {
    mirror_hook_handshake();
    let mut connection = Connection::new();
    connection.send(40);
    let info = Connection::info();
    // SAFETY: a valid connection, and an info whose pointers live.
    harmless(|| unsafe {
        mirror_hook_early_rejected(&raw mut connection.state, &raw const info);
    });
    connection.sent = 0;
    connection.send(50);
    // SAFETY: a valid connection.
    harmless(|| unsafe { mirror_hook_lost(&raw mut connection.state, MIRROR_HOOK_SENT, 8) });
    connection.sent += 8;
    connection.send(1);
    // SAFETY: a valid connection.
    harmless(|| unsafe { mirror_hook_abort(&raw mut connection.state) });
    assert!(!connection.wants_open());
    connection.send(1000);
    connection.close();
    reach("end");
}

#[test]
fn rejected_early_data_lost_bytes_and_an_abort_are_told() {
    let agent = Agent::listen();
    let mut application = agent.start("early");
    application.reached("end");
    let mut ring = agent.accept(KIB_64);
    let records = ring.all();
    assert_eq!(records.len(), 7, "{records:?}");
    assert!(matches!(records[2].body(), Body::Update(meta)
        if meta.early == EarlyData::Rejected && meta.offsets == (0, 0)));
    assert_eq!(records[3].data().1, 0);
    assert_eq!(
        records[4].body(),
        Body::Lost {
            direction: Direction::Sent,
            from: 50,
            to: 58
        }
    );
    assert_eq!(records[5].data().1, 58);
    assert_eq!(
        records[6].body(),
        Body::Close {
            sent: 59,
            received: 0,
            reason: CloseReason::Abort,
            forks: 0,
        }
    );
    application.end();
}

fn file_size_limit() {
    let limit = rustix::process::Rlimit {
        current: Some(300 * 1024),
        maximum: Some(300 * 1024),
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, limit).unwrap();
    harmless(|| mirror_hook_handshake());
    let mut connection = Connection::new();
    connection.send(10);
    reach("end");
}

#[test]
fn a_file_size_limit_makes_the_ring_smaller() {
    let agent = Agent::listen();
    let mut application = agent.start("file_size_limit");
    application.reached("end");
    let mut ring = agent.accept(KIB_64);
    assert_eq!(ring.message.data_bytes, 128 * 1024);
    assert_eq!(ranges(&ring.all(), Direction::Sent), [(0, 10)]);
    application.end();
}
