//! Proxies as they are used, on a network of their own: each of their sessions with clients and with servers has the addresses of its own
//! connection. See [`mirror_tests::tuples`] for who is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use mirror_tests::away::Away;
use mirror_tests::curl::{Transfer, Truth};
use mirror_tests::dialogue::Text;
use mirror_tests::haproxy::{Way, haproxy_with};
use mirror_tests::network::{HOST, HOST_WORDS, Network, PEER, PEER_WORDS};
use mirror_tests::nginx::{LogEntry, Nginx, Options};
use mirror_tests::place::{Place, free_port};
use mirror_tests::process::find;
use mirror_tests::service::{Clients, MOSTLY_1_3, Service};
use mirror_tests::stunnel::{Side, stunnel};
use mirror_tests::tuples::{Kind, SIZES, Session, Witness, of_curl, transfers};
use rustix::process::Signal;

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

/// A proxy that ends TLS and begins it again, to the same family's server at the peer. The agent watches all interfaces.
fn by_tls_again(
    network: &Network,
    place: &Place,
    (service, away): (&Service, Away<'_>),
    of: impl Fn(&'static str) -> Kind,
    reads: bool,
) {
    let witness = Witness::new(place, "wire0", "any");
    let mirrored = service.start_with(place, &witness.options());
    let proxies = HOST.map(|address| SocketAddr::new(address, service.port));
    let truths = ask_proxy(place, || network.in_peer("sh"), proxies, true);
    let seen = mirrored.end();
    let port = away.port();
    let log = away.end();
    let mut sessions = with_clients(&truths, PEER, proxies, &of("server"));
    match reads {
        true => sessions.extend(pooled(log, port, &of("client"))),
        false => sessions.extend(passed_on(truths, &log, port, &of("client"))),
    }
    witness.judge(&seen, &sessions);
}

/// The sessions of those who asked a proxy.
fn with_clients(
    truths: &[(usize, Transfer, Truth)],
    clients: [IpAddr; 2],
    proxies: [SocketAddr; 2],
    kind: &Kind,
) -> Vec<Session> {
    let families = (0..2).flat_map(|family| {
        let mine = truths.iter().filter(|truth| truth.0 == family);
        let mine = mine.map(|(_, transfer, truth)| (transfer.clone(), truth.clone()));
        of_curl(mine.collect(), clients[family], proxies[family], kind)
    });
    families.collect()
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

fn haproxy(mode: &str) {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let to = |server| {
        let server = SocketAddr::new(server, away.port());
        format!("{server} ssl verify none")
    };
    let ways = [("10.7.0.1", PEER[0]), ("fd07::1", PEER[1])].map(|(bind, server)| Way {
        bind,
        server: to(server),
        rules: "",
    });
    let service = haproxy_with(&place, free_port(), mode, &ways);
    let of = |role| Kind::new("haproxy", role, "wire");
    by_tls_again(&network, &place, (&service, away), of, mode == "http");
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

#[test]
fn nginx() {
    let network = Network::new();
    let (place, there) = (Place::new(&SIZES), Place::new(&SIZES));
    let away = Away::start(&network, &there);
    let service = nginx_proxy(&place, away.port());
    let of = |role| Kind::new("nginx", role, "socket");
    by_tls_again(&network, &place, (&service, away), of, true);
}

/// Its own client: both ends of one connection are in one process, whose library has no socket for either.
#[test]
fn haproxy_in_front_of_itself() {
    let _network = Network::new();
    let (place, behind) = (Place::new(&SIZES), Place::new(&SIZES));
    let options = Options {
        plain: Some(free_port()),
        ..Options::default()
    };
    let backend = Nginx::with(&behind, options);
    backend.start();
    let to = format!("127.0.0.1:{}", options.plain.expect("a port"));
    let port = free_port();
    let of = |bind, server, rules| Way {
        bind,
        server,
        rules,
    };
    // The one behind says who has asked it.
    let tells = "http-response set-header x-from \"%[src] %[src_port]\"";
    let local = ["127.0.0.1", "::1"];
    let ways = [
        of("10.7.0.1", format!("127.0.0.1:{port} ssl verify none"), ""),
        of("fd07::1", format!("[::1]:{port} ssl verify none"), ""),
        of(local[0], to.clone(), tells),
        of(local[1], to, tells),
    ];
    let service = haproxy_with(&place, port, "http", &ways);
    let witness = Witness::new(&place, "lo", "lo");
    let mirrored = service.start_with(&place, &witness.options());
    let proxies = HOST.map(|address| SocketAddr::new(address, port));
    let truths = ask_proxy(&place, || Command::new("sh"), proxies, true);
    let seen = mirrored.end();
    backend.quit();
    let of = |role| Kind::new("haproxy", role, "wire");
    let mut sessions = with_clients(&truths, HOST, proxies, &of("server"));
    let mut between: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (_, _, truth) in &truths {
        let froms = said_from(&truth.response);
        assert_eq!(froms.len(), truth.transactions.len());
        for (from, transaction) in froms.into_iter().zip(&truth.transactions) {
            let asked = (transaction.method, transaction.url.clone());
            between.entry(from).or_default().insert(asked);
        }
    }
    sessions.extend(between.into_iter().map(|(client, requests)| Session {
        client,
        server: SocketAddr::new(client.ip(), port),
        text: Text::Asked {
            requests,
            line: format!("x-from: {} {}", client.ip(), client.port()),
        },
        kind: of("client or server"),
    }));
    witness.judge(&seen, &sessions);
}

/// Who asked the one behind, in each response.
fn said_from(responses: &[u8]) -> Vec<SocketAddr> {
    let text = String::from_utf8_lossy(responses);
    let lines = text
        .split("\r\n")
        .filter_map(|line| line.strip_prefix("x-from: "));
    let ends = lines.map(|line| {
        let (address, port) = line.split_once(' ').expect("an address and a port");
        SocketAddr::new(
            address.parse().expect("an address"),
            port.parse().expect("a port"),
        )
    });
    ends.collect()
}

/// nginx as one: its library has sockets on both sides.
fn nginx_proxy(place: &Place, port: u16) -> Service {
    let (dir, here) = (place.directory().display(), free_port());
    let mut text = format!(
        "pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
worker_processes 2;
events {{ worker_connections 256; }}
http {{
  access_log off;
  ssl_certificate {dir}/cert.pem;
  ssl_certificate_key {dir}/key.pem;
  proxy_http_version 1.1;
  ssl_protocols TLSv1.2 TLSv1.3;
  proxy_ssl_protocols TLSv1.2 TLSv1.3;
  proxy_set_header Connection '';
"
    );
    if rustix::process::geteuid().is_root() {
        text.insert_str(0, "user root;\n");
    }
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {dir}/temp-{kind};");
    }
    for (number, (host, peer)) in HOST_WORDS.iter().zip(PEER_WORDS).enumerate() {
        let _ = writeln!(
            text,
            "  upstream servers{number} {{ server {peer}:{port}; keepalive 8; }}
  server {{
    listen {host}:{here} ssl;
    location / {{ proxy_pass https://servers{number}; }}
  }}"
        );
    }
    let file = place.path("proxy.conf");
    std::fs::write(&file, text + "}\n").expect("proxy.conf");
    let nginx = find("nginx").expect("nginx isn't installed (scripts/install-peers.sh test)");
    let log = place.path("error.log");
    let words = [
        nginx.as_path(),
        "-e".as_ref(),
        &log,
        "-c".as_ref(),
        &file,
        "-g".as_ref(),
        "daemon off;".as_ref(),
    ];
    Service {
        words: words.map(|word| word.display().to_string()).into(),
        port: here,
        end: Signal::QUIT,
        status: 0,
        log: Some(log),
    }
}
