//! Where requests and answers end, and to whom they belong.

use super::*;

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
fn empty_lines_are_no_request() {
    let mut stage = Stage::new(Way::Xff);
    let first = stage.asks("203.0.113.7", "/1");
    stage.says(Server, answer("1").as_bytes());
    stage.says(Client, b"\r");
    stage.says(Client, b"\n\r\n");
    assert_eq!(stage.clients.oldest_held(), None);
    stage.clients.expire(WallTime(u64::MAX), &mut stage.seen);
    let second = stage.asks("203.0.113.8", "/2");
    stage.says(Client, b"\r\n");
    stage.end();
    let all = [
        flow("203.0.113.7:40000", &(first + "\r\n\r\n"), &answer("1")),
        flow("203.0.113.8:40000", &(second + "\r\n"), ""),
    ];
    assert_eq!(stage.seen.all(), all);
    assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
}

/// An answer before the request is over: what is left of it, and the next one, are where they belong.
#[test]
fn an_early_answer_ends_no_request() {
    let mut stage = Stage::new(Way::Xff);
    let post = "POST / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n";
    stage.says(Client, post.as_bytes());
    stage.says(Client, b"ab");
    let refused = "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n";
    stage.says(Server, refused.as_bytes());
    stage.says(Client, b"cd");
    let second = stage.asks("203.0.113.8", "/2");
    stage.says(Server, answer("2").as_bytes());
    stage.end();
    let all = [
        flow("203.0.113.7:40000", &format!("{post}abcd"), refused),
        flow("203.0.113.8:40000", &second, &answer("2")),
    ];
    assert_eq!(stage.seen.all(), all);
    assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
}

/// A proxy may have sent a request already when the server closes.
#[test]
fn a_request_behind_the_servers_end_is_its_clients() {
    let mut stage = Stage::new(Way::Xff);
    let first = stage.asks("203.0.113.7", "/1");
    stage.says(Server, answer("1").as_bytes());
    stage.says(Client, b"GET /2 HTTP/1.1\r\n");
    stage.event(1, FlowChange::Finish { from: Server });
    stage.says(Client, b"X-Forwarded-For: 203.0.113.8\r\n\r\n");
    stage.event(1, FlowChange::Finish { from: Client });
    let second = "GET /2 HTTP/1.1\r\nX-Forwarded-For: 203.0.113.8\r\n\r\n";
    let all = [
        flow("203.0.113.7:40000", &first, &answer("1")),
        flow("203.0.113.8:40000", second, ""),
    ];
    assert_eq!(stage.seen.all(), all);
    assert!(stage.seen.are_over());
    assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
}

#[test]
fn what_switches_stays_where_it_is() {
    let upgrade = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    let mut stage = Stage::new(Way::Xff);
    let mut asked = stage.asks("203.0.113.7", "/");
    stage.says(Server, upgrade.as_bytes());
    asked += &stage.asks("203.0.113.8", "/");
    stage.says(Server, b"the rest");
    stage.end();
    let heard = format!("{upgrade}the rest");
    assert_eq!(
        stage.seen.all(),
        [flow("203.0.113.7:40000", &asked, &heard)]
    );
    assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
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

/// The next request may be another client's.
#[test]
fn behind_a_tunnel_that_is_refused_nobody_is_known() {
    let mut stage = Stage::new(Way::Xff);
    let asked = "CONNECT a:1 HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\n\r\n";
    let refused = "HTTP/1.1 405 No\r\nContent-Length: 2\r\n\r\nno";
    stage.says(Client, asked.as_bytes());
    stage.says(Server, refused.as_bytes());
    let second = stage.asks("203.0.113.8", "/2");
    stage.says(Server, answer("2").as_bytes());
    stage.end();
    let all = [
        flow("203.0.113.7:40000", asked, refused),
        flow("10.0.0.1:40000", &second, &answer("2")),
    ];
    assert_eq!(stage.seen.all(), all);
    assert_eq!(stage.stopped(Stop::Framing), 1);
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
