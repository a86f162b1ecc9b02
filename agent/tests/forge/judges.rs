//! Whole captures of HTTP sessions, judged by tshark, capinfos and Suricata, and by the rule checker of the
//! end-to-end tests.
//!
//! Without these programs the tests say so and pass; `make test` installs them first.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;

use agent::event::{FlowEvent, FlowId, FlowSink, Side, WallTime};
use agent::forge::Forger;
use agent::output::{PcapngWriter, Reorder};
use mirror_hook::event::Role;
use mirror_tests::judges::{self, Profile, Suricata};

use mirror_tests::{reader::Capture, rules};

use crate::model::Change;
use crate::sessions::{config, info};

const START_NS: u64 = 1_760_000_000_000_000_000;
const STEP_NS: u64 = 100_000;

/// A request and its response.
#[derive(Clone, Copy)]
struct Transaction {
    method: &'static str,
    url: &'static str,
    upload: usize,
    download: usize,
    chunked: bool,
}

const fn get(url: &'static str, download: usize) -> Transaction {
    Transaction {
        method: "GET",
        url,
        upload: 0,
        download,
        chunked: false,
    }
}

const fn post(url: &'static str, upload: usize) -> Transaction {
    Transaction {
        method: "POST",
        url,
        upload,
        download: 5,
        chunked: false,
    }
}

/// A flow in the making.
struct Session {
    changes: Vec<Change>,
    said: [u64; 2],
}

impl Session {
    fn new(number: u8, client: &str, server: &str) -> Self {
        let (client, server): (SocketAddr, SocketAddr) =
            (client.parse().unwrap(), server.parse().unwrap());
        let begin = Change::Begin(Box::new(info(
            FlowId([number; 16]),
            client,
            server,
            Role::Client,
        )));
        Self {
            changes: vec![begin],
            said: [0; 2],
        }
    }

    /// Says `text` in records as TLS would.
    fn say(&mut self, from: Side, text: &[u8]) {
        let said = &mut self.said[usize::from(from == Side::Server)];
        for record in text.chunks(16_384) {
            self.changes.push(Change::Data {
                from,
                offset: *said,
                bytes: record.to_vec(),
            });
            *said += record.len() as u64;
        }
    }

    fn lose(&mut self, from: Side, bytes: u64) {
        let said = &mut self.said[usize::from(from == Side::Server)];
        self.changes.push(Change::Hole {
            from,
            offset: *said,
            bytes,
        });
        *said += bytes;
    }

    fn transact(&mut self, it: Transaction) {
        let Transaction {
            method,
            url,
            upload,
            download,
            chunked,
        } = it;
        let mut request = format!("{method} {url} HTTP/1.1\r\nHost: example.com\r\n");
        if method == "POST" {
            request += &format!("Content-Length: {upload}\r\n");
        }
        request += "\r\n";
        self.say(Side::Client, request.as_bytes());
        self.say(Side::Client, &body(url, upload));
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n";
        let body = body(url, download);
        if !chunked {
            self.say(
                Side::Server,
                format!("{head}Content-Length: {download}\r\n\r\n").as_bytes(),
            );
            self.say(Side::Server, &body);
            return;
        }
        self.say(
            Side::Server,
            format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(),
        );
        for chunk in body.chunks(5_000) {
            let line = format!("{:x}\r\n", chunk.len());
            self.say(Side::Server, &[line.as_bytes(), chunk, b"\r\n"].concat());
        }
        self.say(Side::Server, b"0\r\n\r\n");
    }

    fn close(&mut self, first: Side) {
        self.changes.push(Change::Finish { from: first });
        self.changes.push(Change::Finish { from: first.peer() });
    }
}

fn body(url: &str, length: usize) -> Vec<u8> {
    let seed: usize = url.bytes().map(usize::from).sum();
    (0..length)
        .map(|at| b"0123456789abcdefghijklmnopqrstuvwxyz\n"[(at / 3 + at / 251 + seed) % 37])
        .collect()
}

/// Writes a capture of sessions that went on at the same time; the events are read in bursts, one session
/// after the other, as rings are.
fn write_capture(sessions: Vec<Session>, path: &Path) {
    let writer = PcapngWriter::new(File::create(path).unwrap()).unwrap();
    let mut forger = Forger::new(config(), Reorder::new(writer));
    let count = sessions.len() as u64;
    let mut queues: Vec<_> = (0..count)
        .zip(sessions)
        .map(|(number, it)| (number, 0, it.changes.into_iter()))
        .collect();
    while !queues.is_empty() {
        queues.retain_mut(|(number, step, changes)| {
            for change in changes.by_ref().take(7) {
                let at = WallTime(START_NS + *step * STEP_NS + *number * 1_000);
                *step += 1;
                forger.flow_event(FlowEvent {
                    flow: *number,
                    at,
                    change: change.borrowed(),
                });
            }
            changes.len() > 0
        });
    }
    assert_eq!(forger.live_flows(), 0, "each session ends by itself");
    assert_eq!(forger.stats().violations, 0);
    assert!(forger.take_error().is_none());
    forger.sink_mut().finish().unwrap();
    assert_eq!(forger.sink_mut().stats().clamped, 0);
}

#[test]
fn http_sessions_are_read_as_if_never_encrypted() {
    let sessions: [(&str, &str, Option<Side>, &[Transaction]); 5] = [
        (
            "192.0.2.1:50000",
            "198.51.100.1:80",
            Some(Side::Client),
            &[
                get("/empty", 0),
                get("/one", 1),
                get("/record", 16_384),
                get("/more", 16_385),
            ],
        ),
        (
            "[2001:db8::1]:50000",
            "[2001:db8::2]:80",
            Some(Side::Server),
            &[post("/up", 16_385), get("/mib", 1 << 20), post("/up1", 1)],
        ),
        (
            "192.0.2.1:50001",
            "198.51.100.1:8080",
            Some(Side::Server),
            &[
                Transaction {
                    chunked: true,
                    ..get("/chunked", 60_000)
                },
                get("/after", 100),
            ],
        ),
        (
            "127.0.0.1:50002",
            "127.0.0.1:80",
            None,
            &[get("/reset", 3000)],
        ),
        (
            "[::1]:50003",
            "[::1]:8000",
            Some(Side::Client),
            &[post("/big", 300_000)],
        ),
    ];
    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("http.pcapng");
    let mut forged = Vec::new();
    for (number, (client, server, first, transactions)) in (1..).zip(sessions) {
        let mut session = Session::new(number, client, server);
        transactions.iter().for_each(|it| session.transact(*it));
        match first {
            Some(first) => session.close(first),
            None => session.changes.push(Change::Reset { by: Side::Client }),
        }
        forged.push(session);
    }
    write_capture(forged, &capture);

    rules::assert_good(&Capture::read(&capture).unwrap(), "rules");
    assert_eq!(judges::complaints(&capture), [""; 0]);
    assert!(judges::in_time_order(&capture));
    let comments = judges::follow(&capture, "frame.comment", &["frame.comment"]);
    assert_eq!(comments.len(), sessions.len());
    assert!(
        comments
            .iter()
            .all(|comment| comment.contains("sni=example.com")),
        "{comments:?}"
    );

    let mut wanted = BTreeMap::new();
    let mut events = Vec::new();
    for it in sessions.iter().flat_map(|(.., transactions)| *transactions) {
        // Suricata's length counts the lines of a chunked body: of 12 chunks, and of the last one.
        let length = it.download as u64 + if it.chunked { 12 * 8 + 3 } else { 0 };
        events.push((it.method.to_owned(), it.url.to_owned(), 200, length));
        let name = it.url[1..].to_owned();
        if it.upload > 0 {
            wanted.insert(name.clone(), body(it.url, it.upload));
        }
        if it.download > 0 {
            // tshark numbers a second object of one name.
            let name = if it.upload > 0 {
                format!("{name}(1)")
            } else {
                name
            };
            wanted.insert(name, body(it.url, it.download));
        }
    }
    let objects = judges::exported_objects(&capture, &directory.path().join("objects"));
    assert_eq!(
        wanted.keys().collect::<Vec<_>>(),
        objects.keys().collect::<Vec<_>>()
    );
    assert!(wanted == objects, "bodies differ");

    let verdict = Suricata.read(&capture, Profile::Sslcollector, directory.path());
    assert_eq!(verdict.complaints(), [""; 0]);
    assert_eq!(verdict.flow_states, ["closed"; 5]);
    let mut seen: Vec<_> = verdict
        .http
        .into_iter()
        .map(|event| (event.method, event.url, event.status, event.length))
        .collect();
    seen.sort();
    events.sort();
    assert_eq!(seen, events);
}

#[test]
fn a_hole_in_a_body_costs_nothing_behind_it() {
    let mut session = Session::new(1, "192.0.2.1:50000", "198.51.100.1:80");
    session.transact(get("/whole", 1000));
    session.say(
        Side::Client,
        b"GET /holed HTTP/1.1\r\nHost: example.com\r\n\r\n",
    );
    session.say(
        Side::Server,
        b"HTTP/1.1 200 OK\r\nContent-Length: 150000\r\n\r\n",
    );
    session.say(Side::Server, &[b'x'; 30_000]);
    session.lose(Side::Server, 100_000);
    session.say(Side::Server, &[b'y'; 20_000]);
    session.transact(get("/behind", 2000));
    session.close(Side::Client);
    let mut cut = Session::new(2, "192.0.2.1:50001", "198.51.100.1:80");
    cut.transact(get("/cut", 1000));
    cut.lose(Side::Server, 5_000);
    cut.close(Side::Server);

    let directory = tempfile::tempdir().unwrap();
    let capture = directory.path().join("holes.pcapng");
    write_capture(vec![session, cut], &capture);
    rules::assert_good(&Capture::read(&capture).unwrap(), "rules");
    let comments = judges::follow(
        &capture,
        "frame.comment && tcp.flags.reset == 1",
        &["frame.comment"],
    );
    assert_eq!(comments.len(), 1);
    assert!(
        comments[0].ends_with(" reset=tail-hole server_missing=5000"),
        "{comments:?}"
    );

    let verdict = Suricata.read(&capture, Profile::Stock, directory.path());
    assert_eq!(verdict.tcp("reassembly_gap"), 1);
    assert_eq!(
        (
            verdict.tcp("invalid_checksum"),
            verdict.tcp("ack_unseen_data")
        ),
        (0, 0)
    );
    assert_eq!(verdict.flow_states, ["closed"; 2]);
    let mut seen: Vec<_> = verdict
        .http
        .iter()
        .map(|event| (event.url.as_str(), event.status))
        .collect();
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            ("/behind", 200),
            ("/cut", 200),
            ("/holed", 200),
            ("/whole", 200)
        ]
    );
}
