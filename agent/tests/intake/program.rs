//! The programs that are mirrored.

use std::io::Read;
use std::os::fd::AsFd;

use agent::event::Side;
use mirror_hook::event::{Direction, Meta, Role};
use mirror_hook::hook::{Conn, Info, Mirror, handshake};

/// The variable that makes this binary such a program.
pub(crate) const SCRIPT: &str = "SSLCOLLECTOR_TEST_SCRIPT";
/// Connections of a talk.
pub(crate) const TALKS: usize = 5;
/// What the client says in each; the server says twice as much.
pub(crate) const TALK_BYTES: u64 = 40_000;
/// What an agent prints that listens.
pub(crate) const LISTENING: &str = "the agent listens";
/// What is said in a flood.
pub(crate) const FLOOD_BYTES: u64 = 4_000_000;

/// The bytes that a side says, whoever does.
pub(crate) fn text(from: Side, offset: u64, length: u64) -> Vec<u8> {
    let side = u64::from(from == Side::Server) << 40;
    (offset..offset + length)
        .map(|offset| {
            let mixed = (offset + side).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed >> 56).to_le_bytes()[0]
        })
        .collect()
}

#[test]
fn runs_the_script() {
    match std::env::var(SCRIPT).as_deref() {
        Ok("talk") => {
            handshake();
            wait();
            (0..TALKS).for_each(talk);
        }
        Ok("hasty") => (0..TALKS).for_each(talk),
        Ok("flood") => flood(),
        Ok("killed") => killed(),
        Ok("agent") => agent(),
        Ok(script) if script.starts_with("claim ") => claim(script),
        Ok(script) if script.starts_with("connected ") => connected(script),
        _ => {} // an ordinary run of the tests
    }
}

fn opened(number: usize, role: Role) -> Conn {
    handshake();
    let mut conn = Conn::new();
    let meta = said(number, role);
    conn.open(&Info { meta, socket: None });
    conn
}

fn said(number: usize, role: Role) -> Meta<'static> {
    // Different in each process, or two of them would be the two ends of one connection.
    let mut random = [u8::try_from(number).unwrap(); 32];
    random[..4].copy_from_slice(&std::process::id().to_le_bytes());
    Meta {
        handshake_done: true,
        client_random: Some(random),
        server_random: Some([1; 32]),
        sni: b"example.com",
        ..Meta::new(role)
    }
}

/// Names addresses and cookies as its socket's: `claim LOCAL PEER COOKIE NETWORK`; no cookie where that is 0.
fn claim(script: &str) {
    let words: Vec<&str> = script.split(' ').skip(1).collect();
    let [local, peer, cookie, network] = words[..] else {
        panic!("{script}");
    };
    let cookies = (cookie.parse().unwrap(), network.parse().unwrap());
    let meta = Meta {
        addresses: Some((local.parse().unwrap(), peer.parse().unwrap())),
        cookies: Some(cookies).filter(|(cookie, _)| *cookie != 0),
        ..said(0, Role::Server)
    };
    let info = Info { meta, socket: None };
    say_a_little(&info);
}

/// The same of a connection that it has: `connected ADDRESS`.
fn connected(script: &str) {
    let address = script.split(' ').nth(1).unwrap();
    let stream = std::net::TcpStream::connect(address).unwrap();
    let info = Info {
        meta: said(0, Role::Client),
        socket: Some(stream.as_fd()),
    };
    say_a_little(&info);
}

fn say_a_little(info: &Info<'_>) {
    handshake();
    let mut conn = Conn::new();
    conn.open(info);
    conn.sent(&text(Side::speaker(info.meta.role, Direction::Sent), 0, 5));
    wait();
    conn.close();
}

/// Until the test says so.
fn wait() {
    let _ = std::io::stdin().read(&mut [0]);
}

fn talk(number: usize) {
    let role = if number.is_multiple_of(2) {
        Role::Client
    } else {
        Role::Server
    };
    let mut conn = opened(number, role);
    let (mut client, mut server) = (0, 0);
    while client < TALK_BYTES {
        let length = (TALK_BYTES - client).min(1 + client / 3);
        let (asked, answered) = (
            text(Side::Client, client, length),
            text(Side::Server, server, 2 * length),
        );
        match role {
            Role::Client => {
                conn.sent(&asked);
                conn.received(&answered);
            }
            Role::Server => {
                conn.received(&asked);
                conn.sent(&answered);
            }
        }
        client += length;
        server += 2 * length;
    }
    conn.end(Direction::Sent);
    conn.close();
}

fn flood() {
    let mut conn = opened(0, Role::Client);
    wait();
    let mut offset = 0;
    while offset < FLOOD_BYTES {
        let length = 10_000.min(FLOOD_BYTES - offset);
        conn.received(&text(Side::Server, offset, length));
        offset += length;
    }
    conn.close();
}

fn killed() {
    let mut conn = opened(0, Role::Client);
    conn.sent(&text(Side::Client, 0, TALK_BYTES));
    let me = rustix::process::getpid();
    rustix::process::kill_process(me, rustix::process::Signal::KILL).unwrap();
}

/// An agent, until it is killed.
fn agent() {
    let path = std::env::var_os("SSLCOLLECTOR_SOCKET").unwrap();
    let config = agent::intake::IntakeConfig::private(path.into());
    let mut intake = agent::intake::Intake::new(config).unwrap();
    println!("\n{LISTENING}");
    loop {
        intake.poll(&mut |_| {});
        intake.wait(std::time::Duration::from_millis(100));
    }
}
