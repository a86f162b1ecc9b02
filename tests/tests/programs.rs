//! Servers as they are used, on a network of their own: each of their sessions has the addresses of its own connection, whichever
//! way they were found, however many there are at once. See [`mirror_tests::tuples`] for who is asked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;

use mirror_tests::apache::{Model, apache_at};
use mirror_tests::client::PYTHON;
use mirror_tests::dialogue::Text;
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::network::{HOST, HOST_WORDS, Network, PEER};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::{Place, content, free_port};
use mirror_tests::postgres::Postgres;
use mirror_tests::redis::{Session as Cli, redis};
use mirror_tests::service::{Clients, MOSTLY_1_3, Service};
use mirror_tests::stunnel::{Side, stunnel};
use mirror_tests::tuples::{
    AT_ONCE, Kind, SIZES, Session, Witness, hex, of_curl, table, transfers,
};
use rustix::process::Signal;

fn kind(program: &str, bound: &'static str) -> Kind {
    Kind::new(program, "server", bound)
}

/// Who asks, and where.
struct Ends {
    interface: &'static str,
    servers: [IpAddr; 2],
    clients: [IpAddr; 2],
}

/// By the veth pair.
const WIRE: Ends = Ends {
    interface: "wire0",
    servers: HOST,
    clients: PEER,
};

/// Within the host, where the interface shows each packet twice.
const LO: Ends = Ends {
    interface: "lo",
    servers: LOCAL,
    clients: LOCAL,
};

const LOCAL: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Mirrors a service, which curl asks in many ways at once.
fn by_curl(
    (network, ends): (&Network, &Ends),
    place: &Place,
    service: &Service,
    (upload, kind): (&str, Kind),
) {
    let witness = Witness::new(place, ends.interface, ends.interface);
    let mirrored = service.start_with(place, &witness.options());
    let mut sessions = Vec::new();
    for (client, server) in ends.clients.into_iter().zip(ends.servers) {
        let shell = || match client == server {
            true => Command::new("sh"),
            false => network.in_peer("sh"),
        };
        let at = (server, service.port);
        let transfers = transfers(server, upload);
        let clients = Clients::start_by(place, shell, at, &MOSTLY_1_3, transfers);
        sessions.extend(of_curl(clients.truths(), client, at.into(), &kind));
    }
    witness.judge(&mirrored.end(), &sessions);
}

#[test]
fn nginx() {
    let (network, place) = (Network::new(), Place::new(&SIZES));
    let options = Options {
        workers: 2,
        addresses: HOST_WORDS,
        ..Options::default()
    };
    let service = Nginx::with(&place, options).service();
    let kind = kind("nginx", "socket");
    by_curl((&network, &WIRE), &place, &service, ("post", kind));
}

fn apache(model: Model, ends: &Ends, addresses: &[&str]) {
    let (network, place) = (Network::new(), Place::new(&SIZES));
    let service = apache_at(&place, model, addresses);
    let kind = kind("apache2", "wire");
    by_curl((&network, ends), &place, &service, ("echo", kind));
}

#[test]
fn apache_prefork() {
    apache(Model::Prefork, &WIRE, HOST_WORDS);
}

/// One socket for both families: its addresses of IPv4 are mapped ones.
#[test]
fn apache_event() {
    apache(Model::Event, &WIRE, &["[::]"]);
}

#[test]
fn apache_within_the_host() {
    apache(Model::Event, &LO, &["127.0.0.1", "[::1]"]);
}

/// One socket for both families, and here it is the library's.
#[test]
fn stunnel_in_front_of_a_server() {
    let (network, place, behind) = (Network::new(), Place::new(&SIZES), Place::new(&SIZES));
    let options = Options {
        plain: Some(free_port()),
        ..Options::default()
    };
    let backend = Nginx::with(&behind, options);
    backend.start();
    let to = format!("127.0.0.1:{}", options.plain.expect("a port"));
    let service = stunnel(&place, Side::Server, &[("::", &to)]);
    let kind = kind("stunnel4", "socket");
    by_curl((&network, &WIRE), &place, &service, ("post", kind));
    backend.quit();
}

#[test]
fn asyncio() {
    let (network, place) = (Network::new(), Place::new(&SIZES));
    let script = source("tests/data/asyncio_http.py");
    let service = https(
        &place,
        vec![PYTHON.to_owned(), script.display().to_string()],
    );
    let kind = kind(PYTHON, "wire");
    by_curl((&network, &WIRE), &place, &service, ("echo", kind));
}

#[test]
fn bio_pairs() {
    let (network, place) = (Network::new(), Place::new(&SIZES));
    let program = place.path("pairs");
    compile_gnu(&[source("tests/data/pairs.c")], &program, &PAIRS);
    let mut service = https(&place, vec![program.display().to_string()]);
    // SIGTERM
    service.status = 143;
    let kind = kind(&service.words[0], "wire");
    by_curl((&network, &WIRE), &place, &service, ("echo", kind));
}

const PAIRS: [&str; 3] = ["-D_GNU_SOURCE", "-lssl", "-lcrypto"];

/// A server of these tests' own.
fn https(place: &Place, mut words: Vec<String>) -> Service {
    let port = free_port();
    let path = |name| place.path(name).display().to_string();
    words.extend(["server".to_owned(), port.to_string(), path("cert.pem")]);
    words.extend([path("key.pem"), path("www")]);
    words.extend(HOST.map(|address| address.to_string()));
    Service {
        words,
        port,
        end: Signal::TERM,
        status: 0,
        log: None,
    }
}

/// A process for each connection, each of which begins in clear.
#[test]
fn postgresql() {
    let (network, place) = (Network::new(), Place::new(&[]));
    let postgres = Postgres::at(&place, "10.7.0.1,fd07::1");
    let table = table(&place);
    let kind = Kind::named("postgres", "server", "socket");
    let witness = Witness::new(&place, "wire0", "wire0");
    let mirrored = postgres.service.start_with(&place, &witness.options());
    postgres.wait_until_ready();
    let mut sessions = Vec::new();
    for (round, (client, server)) in PEER.into_iter().zip(HOST).enumerate() {
        let numbers = (0..AT_ONCE).map(|number| round * AT_ONCE + number);
        let started = numbers.map(|number| {
            let psql = network.in_peer("psql");
            postgres.session_by(psql, server, number, "table")
        });
        let started: Vec<_> = started.collect();
        sessions.extend(started.into_iter().map(|session| Session {
            client: SocketAddr::new(client, postgres.port_of(session, &table)),
            server: SocketAddr::new(server, postgres.service.port),
            text: Text::Psql(table.clone()),
            kind: kind.clone(),
        }));
    }
    witness.judge(&mirrored.end(), &sessions);
}

#[test]
fn redis_server() {
    let (network, place) = (Network::new(), Place::new(&[]));
    let service = redis(&place, &["10.7.0.1", "fd07::1"]);
    let kind = kind(&service.words[0], "socket");
    let witness = Witness::new(&place, "wire0", "wire0");
    let mirrored = service.start_with(&place, &witness.options());
    let mut sessions = Vec::new();
    for (client, server) in PEER.into_iter().zip(HOST) {
        let clients = (0..AT_ONCE).map(|number| {
            let (key, value) = (format!("{server}-{number}"), hex(&content(5000 + number)));
            Cli::start(
                network.in_peer("redis-cli"),
                (server, service.port),
                &key,
                &value,
            )
        });
        let clients: Vec<_> = clients.collect();
        let at = SocketAddr::new(server, service.port);
        sessions.extend(
            clients
                .into_iter()
                .map(|cli| cli.end().session(client, at, &kind)),
        );
    }
    witness.judge(&mirrored.end(), &sessions);
}
