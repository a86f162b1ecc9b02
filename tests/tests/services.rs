//! Real services with the patched library, as they run in production: several processes and threads, other
//! users, another root, reloads. The truth is what their clients, with the distribution's library, sent
//! and received.

use mirror_tests::apache::{Model, apache};
use mirror_tests::client::server_words;
use mirror_tests::curl::Transfer;
use mirror_tests::haproxy::haproxy;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::{Place, content, free_port};
use mirror_tests::postgres::{Postgres, difference};
use mirror_tests::service::{Clients, How, Service};
use rustix::process::Signal;

const SIZES: [usize; 5] = [0, 1, 16_385, 20_000, 300_000];
/// Holds all that a process of the scenarios says.
const RING: &str = "16M";
/// Times each transfer is made.
const ROUNDS: usize = 3;

fn transfers(upload: &str) -> Vec<Transfer> {
    let post = |size| Transfer {
        url: format!("/{upload}/{size}"),
        ..Transfer::post(size)
    };
    vec![
        Transfer::get("get", 0),
        Transfer::get("get", 300_000),
        post(16_385),
        Transfer::get("get", 1),
        Transfer::many(20_000, 5),
        Transfer::get("get", 16_385),
        post(300_000),
    ]
}

/// Both ways of mirroring; `words` are in each flow's comment.
fn both_ways(prepare: impl Fn(&Place) -> Service, upload: &str, words: &[&str]) {
    for how in [How::Run(RING), How::Serve] {
        let place = Place::new(&SIZES);
        let service = prepare(&place);
        let mirrored = service.start(&place, how);
        let clients = Clients::start(&place, service.port, &transfers(upload), ROUNDS);
        let truths = clients.truths();
        let seen = mirrored.end();
        match how {
            How::Run(_) => seen.assert_exact(&truths, words),
            How::Serve => seen.assert_exact_or_declared(&truths, words),
        }
    }
}

/// Several workers, which change while connections are open.
#[test]
fn nginx_with_reloads() {
    for how in [How::Run(RING), How::Serve] {
        let place = Place::new(&SIZES);
        let options = Options {
            user: "www-data",
            workers: 3,
            ..Options::default()
        };
        let nginx = Nginx::with(&place, options);
        let mut service = nginx.service();
        service.end = Signal::QUIT;
        let mirrored = service.start(&place, how);
        let mut transfers = transfers("echo");
        // A worker that is to go closes connections that wait for another request.
        transfers.retain(|transfer| transfer.repeat == 1 && transfer.method() == "GET");
        let rounds = 8;
        let clients = Clients::start(&place, nginx.port, &transfers, rounds);
        for done in (4..transfers.len() * rounds).step_by(8) {
            clients.wait_for(done);
            nginx.reload();
        }
        let truths = clients.truths();
        let seen = mirrored.end();
        let words = ["process=nginx", "role=server", "bound=socket"];
        match how {
            How::Run(_) => seen.assert_exact(&truths, &words),
            How::Serve => seen.assert_exact_or_declared(&truths, &words),
        }
    }
}

/// A process for each connection, which ends after some; its library gets no socket.
#[test]
fn apache_prefork() {
    let words = ["process=apache2", "role=server", "bound=wire"];
    both_ways(|place| apache(place, Model::Prefork), "echo", &words);
}

/// A connection may begin in one thread and end in another.
#[test]
fn apache_event() {
    let words = ["process=apache2", "role=server", "bound=wire"];
    both_ways(|place| apache(place, Model::Event), "echo", &words);
}

/// Threads, another root, and a library that gets no socket.
#[test]
fn haproxy_with_threads() {
    let backend_place = Place::new(&SIZES);
    let options = Options {
        plain: Some(free_port()),
        ..Options::default()
    };
    let backend = Nginx::with(&backend_place, options);
    backend.start();
    let port = options.plain.expect("a port");
    let words = ["process=haproxy", "role=server", "bound=wire"];
    both_ways(|place| haproxy(place, port), "post", &words);
    backend.quit();
}

#[test]
fn python_with_threads() {
    let words = ["role=server", "bound=socket"];
    let server = |place: &Place| {
        let port = free_port();
        let words = server_words(place, "threads", port);
        Service {
            words,
            port,
            end: Signal::TERM,
            status: 0,
            log: None,
        }
    };
    both_ways(server, "echo", &words);
}

/// A process for each connection, each of which begins in clear.
#[test]
fn postgresql() {
    const SESSIONS: usize = 12;
    const AT_A_TIME: usize = 6;
    for how in [How::Run("4M"), How::Serve] {
        let place = Place::new(&[]);
        let table = table();
        std::fs::write(place.path("table"), &table).expect("a file");
        let postgres = Postgres::new(&place);
        let mirrored = postgres.service.start(&place, how);
        postgres.wait_until_ready();
        let mut ports = Vec::new();
        for first in (0..SESSIONS).step_by(AT_A_TIME) {
            let numbers = first..first + AT_A_TIME;
            let sessions: Vec<_> = numbers
                .map(|number| postgres.session(number, "table"))
                .collect();
            let ended = sessions
                .into_iter()
                .map(|session| postgres.port_of(session, &table));
            ports.extend(ended);
        }
        let seen = mirrored.end();
        for port in ports {
            let flow = seen.flows.iter().find(|flow| flow.client.port() == port);
            let flow = flow.unwrap_or_else(|| panic!("no flow from {port}: {}", seen.said));
            for word in ["process=postgres", "role=server", "bound=socket"] {
                assert!(flow.comment.contains(word), "{word}: {}", flow.comment);
            }
            let missing = flow.request.missing() + flow.response.missing();
            if how != How::Serve || missing == 0 && flow.end_comment.is_empty() {
                assert_eq!(difference(flow, &table), None, "{}", seen.said);
            }
        }
        assert_eq!(seen.flows.len(), SESSIONS, "{}", seen.said);
    }
}

/// Lines of text, each of which comes once.
fn table() -> Vec<u8> {
    let bytes = content(60_000);
    let lines = bytes.chunks(40).map(|line| {
        let digits: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        digits.concat() + "\n"
    });
    lines.collect::<String>().into_bytes()
}
