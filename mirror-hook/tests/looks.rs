#![allow(unsafe_code, reason = "errno is set and read as an application does")]
#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Where the agent asks for it, a process tells what its connections have carried; in whole processes, with an agent beside
//! them.

#[allow(
    dead_code,
    reason = "other tests with an agent need more of it than this one"
)]
mod support;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use mirror_hook::capi::mirror_hook_init;
use mirror_hook::event::{Body, CarriedBy, Direction, Meta, Role};
use mirror_hook::hook::{Conn, Info, Mirror, handshake};
use support::{Agent, Owned, SCENARIO, reach};

/// What asks for it.
const TELL: (&str, &str) = ("SSLCOLLECTOR_TELL_SOCKETS", "1");
const KIB_64: u64 = 64 * 1024;
/// So often one connection looks at most.
const MOST_LOOKS: usize = 6;
/// The same where it finds one socket alone where it stands.
const LONE_LOOKS: usize = 2;

/// The application's side of each test below. Nothing by itself.
#[test]
fn application() {
    let Ok(scenario) = std::env::var(SCENARIO) else {
        return;
    };
    mirror_hook_init();
    handshake();
    match scenario.as_str() {
        "speaks" => speaks(),
        "has a socket" => has_a_socket(),
        "holds back" => holds_back(),
        "many connections" => many_connections(),
        "many descriptors" => many_descriptors(),
        "never connected" => never_connected(),
        "fills the ring" => fills_the_ring(),
        other => panic!("no scenario {other}"),
    }
    reach("end");
}

fn connect(listener: &TcpListener) -> TcpStream {
    TcpStream::connect(listener.local_addr().unwrap()).unwrap()
}

fn listen() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn info(sent: u64) -> Info<'static> {
    Info {
        meta: Meta {
            wire_counts: Some((0, sent)),
            ..Meta::new(Role::Client)
        },
        socket: None,
    }
}

fn descriptors() -> BTreeSet<String> {
    let links = std::fs::read_dir("/proc/self/fd").unwrap();
    let links = links.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let names = links.map(|name| name.to_string_lossy().into_owned());
    names.filter(|name| !name.starts_with("/proc/")).collect()
}

/// A call leaves errno and the descriptors as they are.
fn harmless(call: impl FnOnce()) {
    let before = descriptors();
    // SAFETY: no precondition; the address is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    unsafe { *errno = 4321 };
    call();
    // SAFETY: as above.
    assert_eq!(unsafe { *errno }, 4321);
    assert_eq!(descriptors(), before);
}

/// Ten words of a connection that says no socket, over one that has carried as much.
fn speaks() {
    let listener = listen();
    let mut socket = connect(&listener);
    reach(&socket.local_addr().unwrap().to_string());
    let mut conn = Conn::new();
    harmless(|| conn.open(&info(0)));
    for sent in 1..10 {
        socket.write_all(b"x").unwrap();
        harmless(|| conn.update(&info(sent)));
    }
    conn.close();
}

/// Those that are whole.
fn looks(records: &[Owned]) -> Vec<Vec<CarriedBy>> {
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    let mut next = 0;
    for record in records {
        let Body::Look(part) = record.body() else {
            continue;
        };
        if part.number == 0 {
            parts.clear();
            next = 0;
        }
        assert_eq!(part.number, next);
        next += 1;
        parts.extend(part.connections());
        if part.last {
            all.push(std::mem::take(&mut parts));
        }
    }
    all
}

fn told(scenario: &str, variables: &[(&str, &str)]) -> Vec<Vec<CarriedBy>> {
    let agent = Agent::listen();
    let mut application = agent.start_told(scenario, variables);
    while application.said() != "end" {}
    let told = looks(&agent.accept(KIB_64).all());
    application.end();
    told
}

#[test]
fn the_first_words_of_a_connection_are_each_followed_by_a_look() {
    let agent = Agent::listen();
    let mut application = agent.start_told("speaks", &[TELL]);
    let local: SocketAddr = application.said().parse().unwrap();
    application.reached("end");
    let records = agent.accept(KIB_64).all();
    application.end();
    let told = looks(&records);
    assert_eq!(told.len(), LONE_LOOKS);
    for (sent, look) in (0..).zip(&told) {
        let [connection] = look[..] else {
            panic!("{look:?}");
        };
        assert_eq!((connection.sent, connection.received), (sent, 0));
        assert_eq!(connection.cookie, told[0][0].cookie);
        assert_eq!(connection.addresses.unwrap().0, local);
    }
    // Each behind its word.
    let kinds = records.iter().take(2 * LONE_LOOKS);
    let is_look: Vec<_> = kinds
        .map(|record| matches!(record.body(), Body::Look(_)))
        .collect();
    assert_eq!(is_look, [false, true].repeat(LONE_LOOKS));
}

/// As BIOs in memory do: nothing is sent before the call is over.
fn holds_back() {
    let listener = listen();
    let mut socket = connect(&listener);
    let mut conn = Conn::new();
    conn.open(&info(1));
    for sent in 2..10 {
        socket.write_all(b"x").unwrap();
        conn.update(&info(sent));
    }
    conn.close();
}

#[test]
fn who_is_not_found_is_looked_for_again_but_not_for_ever() {
    let told = told("holds back", &[TELL]);
    assert_eq!(told.len(), MOST_LOOKS);
    assert!(told.iter().flatten().all(|one| one.addresses.is_none()));
}

fn has_a_socket() {
    let listener = listen();
    let socket = connect(&listener);
    let mut conn = Conn::new();
    let with_socket = Info {
        socket: Some(socket.as_fd()),
        ..info(0)
    };
    conn.open(&with_socket);
    conn.close();
    // Nor one that doesn't know what it has carried.
    conn.open(&Info {
        meta: Meta::new(Role::Client),
        socket: None,
    });
    conn.close();
}

#[test]
fn nobody_looks_who_is_not_asked_to_or_knows_the_socket() {
    assert!(told("speaks", &[]).is_empty());
    assert!(told("speaks", &[("SSLCOLLECTOR_TELL_SOCKETS", "0")]).is_empty());
    assert!(told("has a socket", &[TELL]).is_empty());
}

fn many_connections() {
    let listener = listen();
    let mut sockets: Vec<_> = (0..20).map(|_| connect(&listener)).collect();
    for (sent, socket) in (0..).zip(&mut sockets) {
        socket.write_all(&vec![0; sent]).unwrap();
    }
    let mut conn = Conn::new();
    conn.open(&info(7));
    // More than anybody is to be shown.
    sockets.extend((0..50).map(|_| connect(&listener)));
    conn.update(&info(8));
    conn.close();
}

#[test]
fn a_look_shows_all_connections_or_is_none() {
    let told = told("many connections", &[TELL]);
    let [look] = &told[..] else {
        panic!("{told:?}");
    };
    let sent: Vec<_> = look.iter().map(|connection| connection.sent).collect();
    assert_eq!(sent, (0..20).collect::<Vec<_>>());
    let cookies: BTreeSet<_> = look.iter().map(|connection| connection.cookie).collect();
    assert_eq!(cookies.len(), 20);
    let named: Vec<_> = look.iter().filter(|one| one.addresses.is_some()).collect();
    assert_eq!(named.len(), 1);
    assert_eq!(named[0].sent, 7);
}

fn many_descriptors() {
    let listener = listen();
    let _socket = connect(&listener);
    let _files: Vec<_> = (0..300).map(|_| File::open("/").unwrap()).collect();
    let mut conn = Conn::new();
    conn.open(&info(0));
    conn.close();
}

/// Its connection is lost, or another call is in the middle of making it.
fn never_connected() {
    use rustix::net::{AddressFamily, SocketType, socket};
    let listener = listen();
    let _socket = connect(&listener);
    let _other = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    let mut conn = Conn::new();
    conn.open(&info(0));
    conn.close();
}

#[test]
fn what_cannot_be_seen_whole_is_not_shown() {
    assert!(told("many descriptors", &[TELL]).is_empty());
    assert!(told("never connected", &[TELL]).is_empty());
}

fn fills_the_ring() {
    let listener = listen();
    let _socket = connect(&listener);
    let mut conn = Conn::new();
    conn.open(&info(0));
    conn.sent(&[0; 40_000]);
    for sent in 0..4 {
        conn.update(&info(sent));
    }
    conn.close();
}

#[test]
fn clear_text_goes_before_looks() {
    let agent = Agent::listen();
    let mut application = agent.start_told("fills the ring", &[TELL]);
    application.reached("end");
    let records = agent.accept(KIB_64).all();
    application.end();
    assert_eq!(looks(&records).len(), 1);
    let is_text = |record: &&Owned| {
        matches!(
            record.body(),
            Body::Data {
                direction: Direction::Sent,
                ..
            }
        )
    };
    assert_eq!(records.iter().filter(is_text).count(), 3);
}
