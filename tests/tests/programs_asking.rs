//! Clients and proxies as they are used, on a network of their own: each of their sessions has the addresses of its own connection,
//! whichever way they were found. See [`mirror_tests::tuples`] for who is asked.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mirror_tests::away::Away;
use mirror_tests::client::PYTHON;
use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::dialogue::Text;
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::network::{HOST, Network, PEER};
use mirror_tests::place::{Place, content};
use mirror_tests::postgres::Postgres;
use mirror_tests::process::{run, without_root};
use mirror_tests::redis::{Session as Cli, redis};
use mirror_tests::service::{Agent, Clients, MOSTLY_1_3, Seen, open_to_others};
use mirror_tests::sslcollector::run_to;
use mirror_tests::tuples::{
    AT_ONCE, Kind, REQUESTS, SIZES, Session, Witness, hex, of_curl, recorded, table, transfers,
};

/// Starts an agent that is watched by a witness.
fn agent<'a>(place: &'a Place) -> (Agent, Witness<'a>) {
    let witness = Witness::new(place, "wire0", "wire0");
    let options = witness.options();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let agent = Agent::start(place, &place.path("capture.pcapng"), &options);
    (agent, witness)
}

/// A process for each connection, all served by one agent; its library has no socket.
#[test]
fn curl() {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let (agent, witness) = agent(&place);
    let kind = Kind::new("curl", "client", "wire");
    let mut sessions = Vec::new();
    for (client, server) in HOST.into_iter().zip(PEER) {
        let shell = || {
            let mut shell = Command::new("sh");
            agent.prepare(&mut shell);
            shell
        };
        let (at, asked) = ((server, away.port()), transfers(server, "post"));
        let clients = Clients::start_by(&place, shell, at, &MOSTLY_1_3, asked);
        sessions.extend(of_curl(clients.truths(), client, at.into(), &kind));
    }
    let seen = Seen::read(&place, agent.end_well());
    witness.judge(&seen, &sessions);
    // The third who knows, by the same ports.
    let mut logged: Vec<_> = away.end().into_iter().map(|entry| entry.port).collect();
    let mut told: Vec<_> = sessions
        .iter()
        .map(|session| session.client.port())
        .collect();
    logged.sort_unstable();
    logged.dedup();
    told.sort_unstable();
    told.dedup();
    assert_eq!(told, logged);
}

/// A client that has many connections at once, on which it makes several requests, and then such with one.
fn many_at_once(words: &[String]) {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let witness = Witness::new(&place, "wire0", "wire0");
    let options = witness.options();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let out = place.path("out");
    let mut script = "set -e\n".to_owned();
    let mut runs = Vec::new();
    for (client, server) in HOST.into_iter().zip(PEER) {
        for (connections, requests) in [(AT_ONCE, REQUESTS), (AT_ONCE * REQUESTS, 1)] {
            let name = format!("{}-{requests}", if server.is_ipv4() { "v4" } else { "v6" });
            let (words, port, out) = (words.join(" "), away.port(), out.display());
            script +=
                &format!("{words} client {server} {port} {out} {name} {connections} {requests}\n");
            runs.push((name, connections, client, SocketAddr::new(server, port)));
        }
    }
    let mut mirrored = run_to(&place.path("capture.pcapng"), &options);
    let output = run(mirrored.args(["sh", "-c", &script]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{output:?}");
    let kind = Kind::new(&words[0], "client", "wire");
    let sessions = runs.iter().flat_map(|(name, connections, client, server)| {
        recorded(&place, (name, *connections), *client, *server, &kind)
    });
    let sessions: Vec<_> = sessions.collect();
    witness.judge(&Seen::read(&place, said), &sessions);
    assert_eq!(away.end().len(), 4 * AT_ONCE * REQUESTS);
}

#[test]
fn asyncio() {
    let script = source("tests/data/asyncio_http.py");
    many_at_once(&[PYTHON.to_owned(), script.display().to_string()]);
}

#[test]
fn bio_pairs() {
    let place = Place::new(&[]);
    let program = place.path("pairs");
    let options = ["-D_GNU_SOURCE", "-lssl", "-lcrypto"];
    compile_gnu(&[source("tests/data/pairs.c")], &program, &options);
    many_at_once(&[program.display().to_string()]);
}

/// Begins in clear.
#[test]
fn psql() {
    let network = Network::new();
    let (place, there) = (Place::new(&[]), Place::new(&[]));
    let postgres = Postgres::at(&there, "10.7.0.2,fd07::2");
    let mut process = network.serve_in_peer(&postgres.service);
    postgres.wait_until_ready();
    let table = table(&there);
    let (agent, witness) = agent(&place);
    let kind = Kind::named("psql", "client", "socket");
    let mut sessions = Vec::new();
    for (round, (client, server)) in HOST.into_iter().zip(PEER).enumerate() {
        let started = (0..AT_ONCE).map(|number| {
            let mut psql = Command::new("psql");
            agent.prepare(&mut psql);
            postgres.session_by(psql, server, round * AT_ONCE + number, "table")
        });
        let started: Vec<_> = started.collect();
        sessions.extend(started.into_iter().map(|session| Session {
            client: SocketAddr::new(client, postgres.port_of(session, &table)),
            server: SocketAddr::new(server, postgres.service.port),
            text: Text::Psql(table.clone()),
            kind: kind.clone(),
        }));
    }
    let seen = Seen::read(&place, agent.end_well());
    witness.judge(&seen, &sessions);
    process.signal(postgres.service.end);
    assert!(process.wait().success());
}

#[test]
fn redis_cli() {
    let network = Network::new();
    let (place, there) = (Place::new(&[]), Place::new(&[]));
    let service = redis(&there, &["10.7.0.2", "fd07::2"]);
    let mut process = network.serve_in_peer(&service);
    let (agent, witness) = agent(&place);
    let kind = Kind::new("redis-cli", "client", "socket");
    let mut sessions = Vec::new();
    for (client, server) in HOST.into_iter().zip(PEER) {
        let clients = (0..AT_ONCE).map(|number| {
            let mut cli = Command::new("redis-cli");
            agent.prepare(&mut cli);
            let (key, value) = (format!("{server}-{number}"), hex(&content(5000 + number)));
            Cli::start(cli, (server, service.port), &key, &value)
        });
        let clients: Vec<_> = clients.collect();
        let at = SocketAddr::new(server, service.port);
        sessions.extend(
            clients
                .into_iter()
                .map(|cli| cli.end().session(client, at, &kind)),
        );
    }
    let seen = Seen::read(&place, agent.end_well());
    witness.judge(&seen, &sessions);
    process.signal(service.end);
    assert!(process.wait().success());
}

/// Processes of another user that are over, and reaped, before sslcollector looks at them are its own all the same.
#[test]
fn short_lived_children_of_another_user() {
    if without_root("nobody else becomes another user") {
        return;
    }
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let witness = Witness::new(&place, "wire0", "wire0");
    open_to_others(&place);
    let everybody = Permissions::from_mode(0o777);
    std::fs::set_permissions(place.path("out"), everybody).expect("whose it is");
    let transfer = Transfer::get("get", 10_000);
    let at = (PEER[0], away.port());
    let log = place.path("sessions.jsonl");
    // What it was started by is still there, as a server's first process is.
    let script = format!(
        "as_nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'
$as_nobody sleep 60 & first=$!
kill -STOP $PPID
$as_nobody sh -c '{}'; status=$?
kill -CONT $PPID
[ $status = 0 ] || exit $status
for _ in $(seq 200); do [ ! -s {} ] || break; sleep 0.05; done
kill $first",
        transfer
            .script(&place, at, Tls::V1_3)
            .replace('\'', r"'\''"),
        log.display()
    );
    let options = witness.options();
    let options: Vec<_> = options.iter().map(String::as_str).collect();
    let mut mirrored = run_to(&place.path("capture.pcapng"), &options);
    let output = run(mirrored.args(["sh", "-c", &script]));
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let truth = transfer.truth(&place);
    let kind = Kind::new("curl", "client", "wire");
    let sessions = of_curl(vec![(transfer, truth)], HOST[0], at.into(), &kind);
    witness.judge(&Seen::read(&place, said), &sessions.collect::<Vec<_>>());
    assert_eq!(away.end().len(), 1);
}
