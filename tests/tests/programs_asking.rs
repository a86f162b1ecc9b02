//! Clients and proxies as they are used, on a network of their own: each of their sessions has the addresses of its own connection,
//! whichever way they were found. See [`mirror_tests::tuples`] for who is asked.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use mirror_tests::client::PYTHON;
use mirror_tests::curl::{Tls, Transfer, Truth};
use mirror_tests::haproxy::{Way, haproxy_with};
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::network::{HOST, Network, PEER, PEER_WORDS};
use mirror_tests::nginx::{LogEntry, Nginx, Options};
use mirror_tests::place::{Place, content};
use mirror_tests::postgres::Postgres;
use mirror_tests::process::{Process, run, without_root};
use mirror_tests::redis::{Session as Cli, redis};
use mirror_tests::service::{Agent, Clients, MOSTLY_1_3, Seen, open_to_others};
use mirror_tests::sslcollector::run_to;
use mirror_tests::stunnel::{Side, stunnel};
use mirror_tests::tuples::{
    AT_ONCE, Kind, REQUESTS, SIZES, Session, Text, Witness, hex, of_curl, recorded, table,
    transfers,
};
use rustix::process::Signal;

/// nginx at the peer, by the distribution's library.
struct Away<'a> {
    nginx: Nginx<'a>,
    process: Process,
}

impl<'a> Away<'a> {
    fn start(network: &Network, place: &'a Place) -> Self {
        let options = Options {
            addresses: PEER_WORDS,
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        let process = network.serve_in_peer(&nginx.service());
        Self { nginx, process }
    }

    fn port(&self) -> u16 {
        self.nginx.port
    }

    /// Ends it; its log.
    fn end(mut self) -> Vec<LogEntry> {
        self.process.signal(Signal::QUIT);
        assert!(self.process.wait().success(), "nginx");
        self.nginx.log()
    }
}

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

/// Asks the proxies of both families; what the clients say of it, each with its family's number.
fn ask_proxy(
    place: &Place,
    shell: impl Fn() -> Command,
    proxies: [SocketAddr; 2],
    tls: bool,
) -> Vec<(usize, Transfer, Truth)> {
    let versions = if tls { &MOSTLY_1_3[..] } else { &[] };
    let families = proxies.into_iter().enumerate().flat_map(|(family, proxy)| {
        let (at, asked) = ((proxy.ip(), proxy.port()), transfers(proxy.ip(), "post"));
        let truths = Clients::start_by(place, &shell, at, versions, asked).truths();
        truths
            .into_iter()
            .map(move |(transfer, truth)| (family, transfer, truth))
    });
    families.collect()
}

/// The same sessions between a proxy that changes nothing and its server: who logged their requests knows the port.
fn passed_on(
    truths: Vec<(usize, Transfer, Truth)>,
    log: &[LogEntry],
    port: u16,
    kind: &Kind,
) -> impl Iterator<Item = Session> {
    truths.into_iter().map(move |(family, _, truth)| {
        let url = &truth.transactions[0].url;
        let mut entries = log.iter().filter(|entry| entry.url == *url);
        let entry = entries.next().expect("a request in the server's log");
        assert_eq!(entries.next(), None, "{url} came twice");
        Session {
            client: SocketAddr::new(HOST[family], entry.port),
            server: SocketAddr::new(PEER[family], port),
            text: Text::Whole {
                request: truth.request.expect("a request of known framing"),
                response: truth.response,
            },
            kind: kind.clone(),
        }
    })
}

/// Clients that speak no TLS.
#[test]
fn stunnel_in_front_of_clients() {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let port = away.port();
    let servers = PEER.map(|address| {
        SocketAddr::new(address, port)
            .to_string()
            .replace(['[', ']'], "")
    });
    let ways = [("127.0.0.1", &servers[0][..]), ("::1", &servers[1])];
    let service = stunnel(&place, Side::Client, &ways);
    let witness = Witness::new(&place, "wire0", "wire0");
    let mirrored = service.start_with(&place, &witness.options());
    let proxies = ["127.0.0.1", "::1"].map(|address| {
        let address: IpAddr = address.parse().expect("an address");
        SocketAddr::new(address, service.port)
    });
    let truths = ask_proxy(&place, || Command::new("sh"), proxies, false);
    let seen = mirrored.end();
    let kind = Kind::new("stunnel4", "client", "socket");
    let sessions: Vec<_> = passed_on(truths, &away.end(), port, &kind).collect();
    witness.judge(&seen, &sessions);
}

/// Ends TLS and begins it again, to the same family's server at the peer. The agent watches all interfaces.
fn haproxy(mode: &str) {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let port = away.port();
    let binds = ["10.7.0.1", "fd07::1"];
    let ways: Vec<_> = binds
        .into_iter()
        .zip(PEER)
        .map(|(bind, server)| Way {
            bind,
            server: format!("{} ssl verify none", SocketAddr::new(server, port)),
        })
        .collect();
    let service = haproxy_with(&place, mode, &ways);
    let witness = Witness::new(&place, "wire0", "any");
    let mirrored = service.start_with(&place, &witness.options());
    let proxies = HOST.map(|address| SocketAddr::new(address, service.port));
    let truths = ask_proxy(&place, || network.in_peer("sh"), proxies, true);
    let seen = mirrored.end();
    let log = away.end();
    let of = |role| Kind::new("haproxy", role, "wire");
    let mut sessions = Vec::new();
    for family in 0..2 {
        let mine = truths.iter().filter(|truth| truth.0 == family);
        let mine = mine.map(|(_, transfer, truth)| (transfer.clone(), truth.clone()));
        let (client, server) = (PEER[family], proxies[family]);
        sessions.extend(of_curl(mine.collect(), client, server, &of("server")));
    }
    match mode {
        "tcp" => sessions.extend(passed_on(truths, &log, port, &of("client"))),
        _ => sessions.extend(pooled(log, port, &of("client"))),
    }
    witness.judge(&seen, &sessions);
}

/// The sessions on which a proxy made these requests, of whichever of its clients.
fn pooled(log: Vec<LogEntry>, port: u16, kind: &Kind) -> impl Iterator<Item = Session> {
    let requests = log.len();
    let mut connections: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for entry in log {
        // As `transfers` names them.
        let family = usize::from(entry.url.contains("?v6."));
        connections
            .entry((family, entry.port))
            .or_default()
            .push(entry);
    }
    assert!(connections.len() < requests, "no connection was used again");
    connections
        .into_iter()
        .map(move |((family, from), entries)| Session {
            client: SocketAddr::new(HOST[family], from),
            server: SocketAddr::new(PEER[family], port),
            text: Text::Logged(entries),
            kind: kind.clone(),
        })
}

#[test]
fn haproxy_that_passes_bytes_on() {
    haproxy("tcp");
}

/// It keeps its connections to the server for whoever asks next.
#[test]
fn haproxy_that_reads() {
    haproxy("http");
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
