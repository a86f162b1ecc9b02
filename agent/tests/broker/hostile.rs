//! A broker that says what no broker says: what speaks to it goes on, and says so in few words.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use agent::broker::key::{FleetKey, Terms};
use mirror_tests::process::until;

use crate::collector::{FATAL, config_of};
use crate::fleet::Fleet;
use crate::talker::Talker;
use crate::truth::Phase;

/// async-nats 0.51 panics on it.
const FATAL_ERROR: &[u8] = b"-ERR\r\n";
/// So many connections hear it before anything else, and as many right after the handshake.
const SPOILT: usize = 2;

/// A way to a server by which the first connections hear what a client doesn't understand.
fn spoilt_way(port: u16) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, client) in listener.incoming().flatten().enumerate() {
            thread::spawn(move || pass(client, port, number));
        }
    });
    url
}

/// Ends with the connection.
fn pass(mut client: TcpStream, port: u16, number: usize) {
    if number < SPOILT {
        // The client may have gone already.
        let _ = client.write_all(FATAL_ERROR);
        return;
    }
    let mut server = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Both);
    });
    if number < 2 * SPOILT {
        let mut said = Vec::new();
        let mut byte = [0];
        // The answer to the first PING ends the handshake.
        while !said.ends_with(b"PONG\r\n") && server.read_exact(&mut byte).is_ok() {
            said.extend(byte);
            let _ = client.write_all(&byte);
        }
        let _ = client.write_all(FATAL_ERROR);
    }
    let _ = std::io::copy(&mut server, &mut client);
    let _ = client.shutdown(Shutdown::Both);
}

#[test]
fn an_agent_goes_on_whatever_the_broker_says() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let key = fleet.keys.newest().agent("web-1", &Terms::default());
    let way = spoilt_way(fleet.server().port());
    fleet.replace_agent_at(&way, &key.unwrap());
    let phase = Phase::new(0);
    for round in 0..20 {
        fleet.talk(phase, round);
    }
    fleet.say_farewell(phase);
    let told = fleet.wait_until_complete(&[(phase, 20)]);
    assert_eq!((told.repeated, told.continued), (0, 0));
    assert_eq!(fleet.agent.publisher.stats().begun_anew, SPOILT as u64);
    let said = fleet.agent.said();
    assert!(said.contains("says what nobody could mean"), "{said}");
    assert!(said.contains("has ended by what the broker said"), "{said}");
}

#[test]
fn a_collector_goes_on_whatever_the_broker_says() {
    let mut fleet = Fleet::start(0);
    let way = spoilt_way(fleet.server().port());
    fleet.add_collector_at(way);
    fleet.wait_for_partitions(&[64]);
    let phase = Phase::new(0);
    for round in 0..20 {
        fleet.talk(phase, round);
    }
    fleet.say_farewell(phase);
    fleet.wait_until_complete(&[(phase, 20)]);
    assert_eq!(fleet.stat(0, "begun_anew"), SPOILT as u64);
    let said = fleet.collectors[0].status();
    assert!(said.contains("has ended by what the broker said"), "{said}");
}

/// A way to a server on which each word of its takes this long.
fn slow_way(port: u16, delay: Duration) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            thread::spawn(move || pass_late(server, client, delay));
        }
    });
    url
}

/// Ends with the connection. Nothing waits for what comes behind it.
fn pass_late(mut server: TcpStream, mut client: TcpStream, delay: Duration) {
    let (heard, late) = mpsc::channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        for (at, bytes) in late {
            thread::sleep(delay.saturating_sub(at.elapsed()));
            if client.write_all(&bytes).is_err() {
                break;
            }
        }
        let _ = client.shutdown(Shutdown::Both);
    });
    let mut bytes = vec![0; 64 << 10];
    while let Ok(length @ 1..) = server.read(&mut bytes) {
        if heard
            .send((Instant::now(), bytes[..length].to_vec()))
            .is_err()
        {
            break;
        }
    }
}

/// To take all partitions one after the other takes longer there than a lease lasts.
#[test]
fn leases_hold_while_a_slow_broker_gives_more() {
    let mut fleet = Fleet::start(0);
    let phase = Phase::new(0);
    for round in 0..20 {
        fleet.talk(phase, round);
    }
    fleet.say_farewell(phase);
    let way = slow_way(fleet.server().port(), Duration::from_millis(150));
    fleet.add_collector_at(way);
    let told = fleet.wait_until_complete(&[(phase, 20)]);
    let counts = ["restarts", "fenced"].map(|name| fleet.stat(0, name));
    assert_eq!((counts, told.repeated), ([0, 0], 0));
}

#[test]
fn a_partition_whose_reader_fails_is_read_by_another_one() {
    let mut fleet = Fleet::start(1);
    fleet.wait_for_partitions(&[64]);
    let key = fleet.keys.newest().agent(FATAL, &Terms::default());
    fleet.replace_agent(&key.unwrap());
    let phase = Phase::new(0);
    for round in 0..5 {
        fleet.talk(phase, round);
    }
    fleet.say_farewell(phase);
    fleet.wait_until_complete(&[(phase, 5)]);
    fleet.wait_for_partitions(&[64]);
    assert_eq!(fleet.stat(0, "begun_anew"), 1);
    assert!(
        fleet.collectors[0]
            .status()
            .contains("has failed (once it is too much at")
    );
}

#[test]
fn what_the_broker_says_does_not_fill_a_log() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&connections);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::Relaxed);
            // Who goes while we talk is no fault.
            let _ = talk_much(client);
        }
    });
    let key = FleetKey::generate().agent("web-1", &Terms::default());
    let mut talker = Talker::new(config_of(&url), &key.unwrap(), 8 << 20);
    // The first ones have been heard to their end.
    until("several connections", || {
        (connections.load(Ordering::Relaxed) > 3).then_some(())
    });
    let said = talker.said();
    assert!(said.contains("the broker says: nats: \\u{1b}[2J"), "{said}");
    assert!(said.lines().count() <= 20, "{said}");
    for line in said.lines() {
        assert!(line.len() < 1100, "{} bytes: {line}", line.len());
        assert!(
            line.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "{line}"
        );
    }
}

/// A handshake, and then more than anybody wants to know.
fn talk_much(mut client: TcpStream) -> std::io::Result<()> {
    client.write_all(
        b"INFO {\"server_id\":\"\\u001b[2J\",\"version\":\"2.9.0\",\"max_payload\":1048576}\r\n",
    )?;
    let mut lines = BufReader::new(client.try_clone()?).lines();
    while lines
        .next()
        .is_some_and(|line| line.is_ok_and(|line| line != "PING"))
    {}
    client.write_all(b"PONG\r\n")?;
    for number in 0..500 {
        let words = format!("\u{1b}[2J{number} {}", "\u{202e}".repeat(3000));
        client.write_all(format!("-ERR '{words}'\r\n").as_bytes())?;
    }
    client.shutdown(Shutdown::Write)
}
