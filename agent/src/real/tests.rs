//! Sessions behind proxies, from their events to the flows that come out.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::event::{
    Binding, FlowChange, FlowEvent, FlowInfo, FlowSink, ResetCause, Side, WallTime,
};
use crate::forge::testing;

use Side::{Client, Server};

/// Keeps what comes out, and refuses what no flow may do.
#[derive(Debug, Default)]
struct Seen {
    flows: BTreeMap<u64, Told>,
    order: Vec<u64>,
}

#[derive(Debug)]
struct Told {
    info: FlowInfo,
    said: [Vec<u8>; 2],
    holes: [u64; 2],
    finished: [bool; 2],
    began: WallTime,
    last: WallTime,
}

impl FlowSink for Seen {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let told = Told {
                info: info.clone(),
                said: [Vec::new(), Vec::new()],
                holes: [0; 2],
                finished: [false; 2],
                began: event.at,
                last: event.at,
            };
            assert!(self.flows.insert(event.flow, told).is_none(), "begun twice");
            self.order.push(event.flow);
            return;
        }
        let told = self.flows.get_mut(&event.flow).expect("begun before");
        assert!(event.at >= told.last, "time goes back");
        assert!(told.finished != [true; 2], "after the end: {event:?}");
        told.last = event.at;
        let place = |told: &Told, from: Side| {
            told.said[from as usize].len() as u64 + told.holes[from as usize]
        };
        match event.change {
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.finished[from as usize]);
                assert!((1..=16_384).contains(&bytes.len()));
                assert_eq!(offset, place(told, from));
                told.said[from as usize].extend_from_slice(bytes);
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert_eq!(offset, place(told, from));
                told.holes[from as usize] += bytes;
            }
            FlowChange::Finish { from } => {
                assert!(!std::mem::replace(&mut told.finished[from as usize], true));
            }
            FlowChange::Reset { .. } => told.finished = [true; 2],
            FlowChange::Begin(_) => {}
        }
    }
}

impl Seen {
    /// Each flow in the order in which they began: client's address, what it and the server said.
    fn all(&self) -> Vec<(String, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let told = self.order.iter().map(|flow| &self.flows[flow]);
        told.map(|told| {
            let client = told.info.tuple.client.to_string();
            (client, text(&told.said[0]), text(&told.said[1]))
        })
        .collect()
    }

    /// The same, with all text of a kind together.
    fn clients(&self) -> Vec<String> {
        self.all().into_iter().map(|(client, ..)| client).collect()
    }
}

/// A stage with one session of a proxy at 10.0.0.1.
struct Stage {
    clients: RealClients,
    seen: Seen,
    at: u64,
    said: [u64; 2],
}

fn policy(way: Way) -> Policy {
    Policy {
        way,
        trusted: vec![crate::filter::network("10.0.0.0/8").unwrap()],
    }
}

fn proxied() -> FlowInfo {
    testing::info("10.0.0.1:40000", "192.0.2.80:443")
}

impl Stage {
    fn new(way: Way) -> Self {
        Self::with(way, &proxied())
    }

    fn with(way: Way, info: &FlowInfo) -> Self {
        let mut stage = Self {
            clients: RealClients::new(policy(way)),
            seen: Seen::default(),
            at: 1_000,
            said: [0; 2],
        };
        stage.event(1, FlowChange::Begin(info));
        stage
    }

    fn event(&mut self, flow: u64, change: FlowChange<'_>) {
        self.at += 1;
        let at = WallTime(self.at);
        let event = FlowEvent { flow, at, change };
        self.clients.flow_event(event, &mut self.seen);
    }

    fn says(&mut self, from: Side, bytes: &[u8]) {
        let offset = self.said[from as usize];
        self.said[from as usize] += bytes.len() as u64;
        self.event(
            1,
            FlowChange::Data {
                from,
                offset,
                bytes,
            },
        );
    }

    fn lacks(&mut self, from: Side, bytes: u64) {
        let offset = self.said[from as usize];
        self.said[from as usize] += bytes;
        self.event(
            1,
            FlowChange::Hole {
                from,
                offset,
                bytes,
            },
        );
    }

    fn asks(&mut self, client: &str, path: &str) -> String {
        let text = ask(client, path);
        self.says(Client, text.as_bytes());
        text
    }

    fn end(&mut self) {
        self.event(1, FlowChange::Finish { from: Client });
        self.event(1, FlowChange::Finish { from: Server });
        assert!(
            self.seen
                .flows
                .values()
                .all(|told| told.finished == [true; 2])
        );
        assert_eq!(self.clients.oldest_held(), None);
    }

    fn stopped(&self, why: Stop) -> u64 {
        self.clients.stats().stopped[why as usize]
    }
}

fn ask(client: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {client}\r\n\r\n")
}

fn answer(text: &str) -> String {
    let length = text.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{text}")
}

fn flow(client: &str, asked: &str, answered: &str) -> (String, String, String) {
    (client.into(), asked.into(), answered.into())
}

#[test]
fn a_session_has_its_clients_address() {
    let mut stage = Stage::new(Way::Xff);
    assert!(stage.seen.order.is_empty(), "nobody knows yet whose it is");
    let asked = stage.asks("203.0.113.7", "/");
    stage.says(Server, answer("hello").as_bytes());
    stage.end();
    let all = stage.seen.all();
    assert_eq!(all, [flow("203.0.113.7:40000", &asked, &answer("hello"))]);
    let told = &stage.seen.flows[&1];
    assert_eq!(told.info.id, proxied().id);
    assert_eq!(told.began, WallTime(1_001));
    let real = told.info.real_client.unwrap();
    assert_eq!(real.proxy, proxied().tuple.client);
    assert_eq!(stage.clients.stats().by_x_forwarded_for, 1);
}

#[test]
fn each_client_has_a_flow_of_its_own() {
    let mut stage = Stage::new(Way::Xff);
    let mut flows: BTreeMap<&str, (String, String)> = BTreeMap::new();
    for (client, path) in [
        ("203.0.113.7", "/1"),
        ("203.0.113.8", "/2"),
        ("203.0.113.7", "/3"),
    ] {
        let asked = stage.asks(client, path);
        stage.says(Server, answer(path).as_bytes());
        let flow = flows.entry(client).or_default();
        flow.0 += &asked;
        flow.1 += &answer(path);
    }
    stage.end();
    let of = |client: &str| {
        flow(
            &format!("{client}:40000"),
            &flows[client].0,
            &flows[client].1,
        )
    };
    assert_eq!(stage.seen.all(), [of("203.0.113.7"), of("203.0.113.8")]);
    let ids: Vec<_> = stage.seen.flows.values().map(|told| told.info.id).collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn answers_of_a_pipeline_find_their_requests() {
    let mut stage = Stage::new(Way::Xff);
    let (one, two, three) = (
        ask("203.0.113.7", "/1").replace("GET", "HEAD"),
        ask("203.0.113.8", "/2"),
        ask("203.0.113.7", "/3"),
    );
    stage.says(
        Client,
        [one.clone(), two.clone(), three.clone()]
            .concat()
            .as_bytes(),
    );
    let first = "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n";
    let interim = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
    let second = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let third = "HTTP/1.1 304 Not Modified\r\nContent-Length: 900\r\n\r\n";
    stage.says(Server, [first, interim, second, third].concat().as_bytes());
    stage.end();
    let all = stage.seen.all();
    let (a, b) = ([one, three].concat(), [first, third].concat());
    assert_eq!(all[0], flow("203.0.113.7:40000", &a, &b));
    let answered = [interim, second].concat();
    assert_eq!(all[1], flow("203.0.113.8:40000", &two, &answered));
    assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
}

#[test]
fn bodies_are_no_heads() {
    let mut stage = Stage::new(Way::Xff);
    let inner = ask("6.6.6.6", "/spoof");
    let head = |fields: &str| {
        format!("POST / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n{fields}\r\n\r\n")
    };
    let plain = head(&format!("Content-Length: {}", inner.len())) + &inner;
    let chunk = format!(
        "{:x}\r\n{inner}\r\n0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        inner.len()
    );
    let chunked = head("Transfer-Encoding: chunked") + &chunk;
    stage.says(Client, plain.as_bytes());
    stage.says(Client, chunked.as_bytes());
    let next = stage.asks("203.0.113.8", "/");
    stage.end();
    let all = stage.seen.all();
    assert_eq!(all[0], flow("203.0.113.7:40000", &(plain + &chunked), ""));
    assert_eq!(all[1], flow("203.0.113.8:40000", &next, ""));
}

#[test]
fn nobody_else_is_believed() {
    let direct = testing::info("203.0.113.9:40000", "192.0.2.80:443");
    let mut placeholder = proxied();
    placeholder.binding = Binding::Placeholder;
    for info in [direct, placeholder] {
        let mut stage = Stage::with(Way::Xff, &info);
        let asked = stage.asks("6.6.6.6", "/");
        stage.end();
        let all = stage.seen.all();
        assert_eq!(all, [flow(&info.tuple.client.to_string(), &asked, "")]);
        assert_eq!(stage.seen.flows[&1].info, info);
        assert_eq!(stage.clients.stats(), RealStats::default());
    }
}

#[test]
fn what_names_no_client_keeps_the_proxys_address() {
    let mut stage = Stage::new(Way::Xff);
    let own = "GET /health HTTP/1.1\r\n\r\n";
    stage.says(Client, own.as_bytes());
    let asked = stage.asks("203.0.113.7", "/");
    let hidden = stage.asks("203.0.113.7, unknown", "/");
    let conflict = "GET / HTTP/1.1\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=6.6.6.6\r\n\r\n";
    stage.says(Client, conflict.as_bytes());
    stage.end();
    let kept = [own, &hidden, conflict].concat();
    let all = [
        flow("10.0.0.1:40000", &kept, ""),
        flow("203.0.113.7:40000", &asked, ""),
    ];
    assert_eq!(stage.seen.all(), all);
    let stats = stage.clients.stats();
    assert_eq!((stats.silent, stats.unusable, stats.conflicts), (1, 1, 1));
    assert_eq!(stage.seen.flows[&1].info.real_client.unwrap().told, None);
}

#[test]
fn a_hole_ends_the_following() {
    for side in [Client, Server] {
        let mut stage = Stage::new(Way::Xff);
        let mut asked = stage.asks("203.0.113.7", "/1");
        stage.says(Server, b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n");
        stage.lacks(side, 50);
        asked += &stage.asks("203.0.113.8", "/2");
        stage.end();
        let all = stage.seen.all();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].1, asked);
        assert_eq!(stage.seen.flows[&1].holes[side as usize], 50);
        assert_eq!(stage.stopped(Stop::Hole), 1);
    }
}

#[test]
fn a_hole_within_a_head_is_where_it_was() {
    let mut stage = Stage::new(Way::Xff);
    stage.says(Client, b"GET / HTTP/1.1\r\nX-Forw");
    stage.lacks(Client, 7);
    stage.says(Client, b"203.0.113.7\r\n\r\n");
    stage.end();
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
    assert_eq!(stage.seen.flows[&1].holes, [7, 0]);
}

#[test]
fn what_has_no_clear_end_stays_where_it_is() {
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    for (answered, stops) in [
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", 0),
        (upgrade, 0),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 1),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            1,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", 1),
        ("nonsense\r\n\r\n", 1),
        ("HTTP/1.1 204 No Content\r\n\r\nand more", 1),
    ] {
        let mut stage = Stage::new(Way::Xff);
        let mut asked = stage.asks("203.0.113.7", "/");
        stage.says(Server, answered.as_bytes());
        asked += &stage.asks("203.0.113.8", "/");
        stage.says(Server, b"the rest");
        stage.end();
        let all = stage.seen.all();
        let heard = format!("{answered}the rest");
        assert_eq!(
            all,
            [flow("203.0.113.7:40000", &asked, &heard)],
            "{answered}"
        );
        assert_eq!(stage.stopped(Stop::Answer), stops, "{answered}");
    }
}

#[test]
fn a_tunnel_is_no_http() {
    let mut stage = Stage::new(Way::Xff);
    let asked = "CONNECT a:1 HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    stage.says(Client, asked.as_bytes());
    stage.says(Server, b"HTTP/1.1 200 OK\r\n\r\n");
    let inner = stage.asks("6.6.6.6", "/");
    stage.says(Server, b"SSH-2.0-x\r\n");
    stage.end();
    assert_eq!(stage.seen.clients(), ["203.0.113.7:40000"]);
    assert_eq!(stage.seen.all()[0].1, [asked, &inner].concat());
}

#[test]
fn what_is_no_http_passes_at_once() {
    for (from, text, why) in [
        (Client, &b"\x16\x03\x01\x02"[..], Stop::NotHttp),
        (Server, b"220 smtp.example\r\n", Stop::NotHttp),
        (Client, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Stop::Http2),
        (
            Client,
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            Stop::Framing,
        ),
    ] {
        let mut stage = Stage::new(Way::Xff);
        stage.says(from, text);
        let told = &stage.seen.flows[&1];
        assert_eq!(told.said[from as usize], text);
        assert_eq!(told.info.tuple, proxied().tuple);
        assert_eq!(stage.stopped(why), 1, "{why:?}");
        stage.asks("6.6.6.6", "/");
        stage.end();
        assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
    }
    let mut info = proxied();
    info.alpn = Some("h2".into());
    let stage = Stage::with(Way::Xff, &info);
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
    assert_eq!(stage.stopped(Stop::Http2), 1);
    let mut info = proxied();
    info.continued = Some((1, 2));
    assert_eq!(Stage::with(Way::Xff, &info).stopped(Stop::Late), 1);
}

#[test]
fn a_head_waits_within_bounds() {
    let second = 1_000_000_000;
    let mut stage = Stage::new(Way::Xff);
    stage.says(Client, b"GET / HTTP/1.1\r\n");
    assert_eq!(stage.clients.oldest_held(), Some(WallTime(1_001)));
    stage
        .clients
        .expire(WallTime(second + 1_000), &mut stage.seen);
    assert!(stage.seen.order.is_empty());
    stage
        .clients
        .expire(WallTime(second + 1_001), &mut stage.seen);
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
    assert_eq!(
        (stage.clients.oldest_held(), stage.stopped(Stop::Time)),
        (None, 1)
    );
    stage.says(Client, b"X-Forwarded-For: 203.0.113.7\r\n\r\n");
    stage.end();
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);

    let mut stage = Stage::new(Way::Xff);
    let long = [&b"GET / HTTP/1.1\r\nA: "[..], &[b'x'; 16_000]].concat();
    stage.says(Client, &long);
    for _ in 0..5 {
        stage.says(Client, &[b'x'; 16_000]);
    }
    assert_eq!(stage.stopped(Stop::Size), 1);
    assert_eq!(stage.seen.flows[&1].said[0].len(), long.len() + 80_000);
    stage.end();
}

/// Nobody waits for a connection that a proxy opens beforehand, and its first request is its client's all the same.
#[test]
fn an_idle_session_holds_nobody_up() {
    let mut stage = Stage::new(Way::Xff);
    assert!(stage.clients.oldest_held().is_some());
    stage.clients.expire(WallTime(u64::MAX), &mut stage.seen);
    assert_eq!(stage.clients.oldest_held(), None);
    stage.at = 5_000;
    stage.asks("203.0.113.7", "/");
    assert_eq!(stage.seen.clients(), ["203.0.113.7:40000"]);
    assert_eq!(stage.seen.flows[&1].began, WallTime(5_001));
    let mut silent = Stage::new(Way::Xff);
    silent.clients.expire(WallTime(u64::MAX), &mut silent.seen);
    silent.at = 5_000;
    silent.end();
    assert_eq!(silent.seen.flows[&1].began, WallTime(5_001));
    let mut greeted = Stage::new(Way::Xff);
    greeted
        .clients
        .expire(WallTime(u64::MAX), &mut greeted.seen);
    greeted.at = 5_000;
    greeted.says(Server, b"220 hello\r\n");
    assert_eq!(greeted.seen.flows[&1].began, WallTime(5_001));
}

#[test]
fn flows_of_one_session_are_bounded() {
    let mut stage = Stage::new(Way::Xff);
    for number in 0..200 {
        stage.asks(&format!("203.0.113.{number}"), "/");
        stage.says(Server, answer("x").as_bytes());
        let live = stage.seen.flows.values();
        let live = live.filter(|told| told.finished == [false; 2]).count();
        assert!(live <= 64, "{live}");
    }
    // Who comes again after that is somebody new.
    stage.asks("203.0.113.0", "/");
    stage.end();
    assert_eq!(stage.seen.order.len(), 201);
    assert_eq!(stage.stopped(Stop::Crowd), 0);

    let mut stage = Stage::new(Way::Xff);
    for number in 0..70 {
        stage.asks(&format!("203.0.113.{number}"), "/");
    }
    stage.end();
    assert_eq!(
        (stage.seen.order.len(), stage.stopped(Stop::Crowd)),
        (64, 1)
    );
}

#[test]
fn no_two_live_flows_have_one_port() {
    let mut stage = Stage::new(Way::Xff);
    stage.asks("203.0.113.7", "/");
    // Another proxy by the same port; and the client itself.
    let other = testing::info("10.0.0.2:40000", "192.0.2.80:443");
    let direct = testing::info("203.0.113.7:40001", "192.0.2.80:443");
    stage.event(3, FlowChange::Begin(&direct));
    stage.event(2, FlowChange::Begin(&other));
    let asked = ask("203.0.113.7", "/");
    let data = FlowChange::Data {
        from: Client,
        offset: 0,
        bytes: asked.as_bytes(),
    };
    stage.event(2, data);
    let ports = [
        "203.0.113.7:40000",
        "203.0.113.7:40001",
        "203.0.113.7:40002",
    ];
    assert_eq!(stage.seen.clients(), ports);
    for flow in [2, 3] {
        let cause = ResetCause::Died;
        stage.event(flow, FlowChange::Reset { by: Client, cause });
    }
    stage.event(4, FlowChange::Begin(&other));
    stage.event(4, data);
    assert_eq!(stage.seen.clients()[3], "203.0.113.7:40001");
}

#[test]
fn a_proxy_header_is_taken_out() {
    let v4 = [203, 0, 113, 7, 10, 0, 0, 2, 0xdc, 4, 1, 0xbb];
    let v2 = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &v4].concat();
    let v1 = b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n".to_vec();
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec();
    let unknown = b"PROXY UNKNOWN\r\n".to_vec();
    for (header, client) in [
        (v2, "203.0.113.7:56324"),
        (v1, "203.0.113.7:56324"),
        (local, "10.0.0.1:40000"),
        (unknown, "10.0.0.1:40000"),
    ] {
        let text = [&header[..], b"EHLO x\r\n"].concat();
        for piece in [1, 5, text.len()] {
            let mut stage = Stage::new(Way::ProxyProtocol);
            text.chunks(piece)
                .for_each(|piece| stage.says(Client, piece));
            stage.says(Server, b"250 x\r\n");
            // Later ones are text.
            stage.says(Client, &header);
            stage.end();
            let again = String::from_utf8_lossy(&header).into_owned();
            let said = format!("EHLO x\r\n{again}");
            assert_eq!(stage.seen.all(), [flow(client, &said, "250 x\r\n")]);
            let real = stage.seen.flows[&1].info.real_client.unwrap();
            assert_eq!(real.header_bytes as usize, header.len());
            assert_eq!(stage.clients.stats().header_bytes, header.len() as u64);
        }
    }
}

#[test]
fn without_a_proxy_header_nothing_is_taken_out() {
    for text in ["GET / HTTP/1.1\r\n\r\n", "PROXY TCP9 a\r\n", "PROX"] {
        let mut stage = Stage::new(Way::ProxyProtocol);
        stage.says(Client, text.as_bytes());
        stage.end();
        assert_eq!(stage.seen.all(), [flow("10.0.0.1:40000", text, "")]);
        assert_eq!(stage.clients.stats().headerless, 1);
    }
    let mut stage = Stage::new(Way::ProxyProtocol);
    stage.says(Server, b"220 x\r\n");
    stage.says(Client, b"PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n");
    assert_eq!(stage.seen.clients(), ["10.0.0.1:40000"]);
}

#[test]
fn an_abort_ends_all_flows() {
    let mut stage = Stage::new(Way::Xff);
    stage.asks("203.0.113.7", "/");
    stage.asks("203.0.113.8", "/");
    stage.says(Client, b"GET /unfin");
    let cause = ResetCause::Abort;
    stage.event(1, FlowChange::Reset { by: Server, cause });
    assert_eq!(stage.seen.order.len(), 2);
    assert!(
        stage
            .seen
            .flows
            .values()
            .all(|told| told.finished == [true; 2])
    );
    let second = stage.seen.order[1];
    assert!(stage.seen.flows[&second].said[0].ends_with(b"GET /unfin"));
}

/// A request or an answer, for made-up sessions.
fn exchange() -> impl Strategy<Value = (String, String)> {
    let client = prop::sample::select(vec!["203.0.113.7", "203.0.113.8", "2001:db8::1", "unknown"]);
    let length = 0_usize..40;
    (client, length.clone(), length, 0..4).prop_map(|(client, asked, answered, kind)| {
        let body = |text: &str, length: usize, kind: u8| match kind {
            0 if length > 0 => {
                format!(
                    "Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n\r\n",
                    text.repeat(length)
                )
            }
            _ => format!("Content-Length: {length}\r\n\r\n{}", text.repeat(length)),
        };
        let interim = if kind == 1 {
            "HTTP/1.1 100 Continue\r\n\r\n"
        } else {
            ""
        };
        let kind = u8::try_from(kind).unwrap();
        (
            format!(
                "POST / HTTP/1.1\r\nX-Forwarded-For: {client}\r\n{}",
                body("q", asked, kind)
            ),
            format!(
                "{interim}HTTP/1.1 200 OK\r\n{}",
                body("a", answered, kind / 2)
            ),
        )
    })
}

proptest! {
    /// However the streams are cut, the same flows come out, with all bytes.
    #[test]
    fn cuts_do_not_matter(
        exchanges in prop::collection::vec(exchange(), 1..8),
        cuts in prop::collection::vec(1_usize..40, 1..20),
        pipelined: bool,
    ) {
        let play = |cuts: &[usize]| {
            let mut stage = Stage::new(Way::Xff);
            let mut cuts = cuts.iter().copied().cycle();
            let mut say = |stage: &mut Stage, from, text: &str| {
                let mut rest = text.as_bytes();
                while !rest.is_empty() {
                    let (piece, behind) = rest.split_at(cuts.next().unwrap_or(1).min(rest.len()));
                    stage.says(from, piece);
                    rest = behind;
                }
            };
            if pipelined {
                let asked: String = exchanges.iter().map(|(asked, _)| &**asked).collect();
                let answered: String = exchanges.iter().map(|(_, answered)| &**answered).collect();
                say(&mut stage, Client, &asked);
                say(&mut stage, Server, &answered);
            } else {
                for (asked, answered) in &exchanges {
                    say(&mut stage, Client, asked);
                    say(&mut stage, Server, answered);
                }
            }
            stage.end();
            assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
            stage.seen.all()
        };
        let whole = play(&[usize::MAX]);
        prop_assert_eq!(&whole, &play(&cuts));
        for (client, asked, answered) in &whole {
            let told = client.rsplit_once(':').unwrap().0.trim_matches(['[', ']']);
            let told = if told == "10.0.0.1" { "unknown" } else { told };
            // One family: the server's is IPv4.
            let own = exchanges.iter().filter(|(asked, _)| asked.contains(&format!(": {told}\r\n")));
            let (mut q, mut a) = (String::new(), String::new());
            own.for_each(|(one, other)| {
                q += one;
                a += other;
            });
            prop_assert_eq!((asked, answered), (&q, &a));
        }
    }

    /// Whatever is said, no rule of flows is broken, and all bytes come out.
    #[test]
    fn no_byte_is_lost(
        steps in prop::collection::vec((any::<bool>(), 0_usize..12, 1_usize..60), 1..60),
        way in prop::sample::select(vec![Way::Xff, Way::ProxyProtocol]),
    ) {
        const PIECES: [&str; 12] = [
            "GET / HTTP/1.1\r\n", "X-Forwarded-For: 203.0.113.7\r\n", "Forwarded: for=\"[2001:db8::1]:7\"\r\n", "\r\n",
            "HTTP/1.1 200 OK\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n",
            "PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n", "\r\n\r\n\0\r\nQUIT\n", "HTTP/1.1 101 x\r\n", "\0\u{7f}",
        ];
        let mut stage = Stage::new(way);
        let mut said = [0, 0];
        let mut missing = [0, 0];
        for (client, piece, length) in steps {
            let from = if client { Client } else { Server };
            if length == 59 {
                stage.lacks(from, 3);
                missing[from as usize] += 3;
                continue;
            }
            let text = &PIECES[piece][..length.min(PIECES[piece].len())];
            stage.says(from, text.as_bytes());
            said[from as usize] += text.len() as u64;
        }
        stage.end();
        let sum = |side: Side| -> (u64, u64) {
            let flows = stage.seen.flows.values();
            flows.fold((0, 0), |(bytes, holes), told| {
                (bytes + told.said[side as usize].len() as u64, holes + told.holes[side as usize])
            })
        };
        let taken_out = stage.clients.stats().header_bytes;
        prop_assert_eq!(sum(Client), (said[0] - taken_out, missing[0]));
        prop_assert_eq!(sum(Server), (said[1], missing[1]));
    }
}
