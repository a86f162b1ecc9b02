//! Behind what is missing, and what can't be read.

use super::*;

/// Which client the rest belongs to isn't known: least of all that it is whoever spoke before.
#[test]
fn behind_a_hole_of_the_clients_nobody_is_known() {
    let mut stage = Stage::new(Way::Xff);
    let first = stage.asks("203.0.113.7", "/1");
    stage.says(Server, answer("1").as_bytes());
    stage.lacks(Client, 50);
    let second = stage.asks("203.0.113.8", "/2");
    stage.says(Server, answer("2").as_bytes());
    stage.end();
    let all = [
        flow("203.0.113.7:40000", &first, &answer("1")),
        flow("10.0.0.1:40000", &second, &answer("2")),
    ];
    assert_eq!(stage.seen.all(), all);
    let holes = stage.seen.flows.values().map(|told| told.holes);
    assert_eq!(holes.collect::<Vec<_>>(), [[0, 0], [50, 0]]);
    assert_eq!(stage.stopped(Stop::Hole), 1);
}

#[test]
fn a_hole_within_a_body_of_known_length_changes_nothing() {
    for side in [Client, Server] {
        let mut stage = Stage::new(Way::Xff);
        let (mut asked, mut answered) = match side {
            Client => (
                ask("203.0.113.7", "/1").replace("Host: a", "Content-Length: 9"),
                answer(""),
            ),
            Server => (
                ask("203.0.113.7", "/1"),
                answer("123456789").replace("123456789", ""),
            ),
        };
        stage.says(Client, asked.as_bytes());
        if side == Server {
            stage.says(Server, answered.as_bytes());
        }
        stage.says(side, b"ab");
        stage.lacks(side, 5);
        stage.says(side, b"hi");
        if side == Client {
            stage.says(Server, answered.as_bytes());
        }
        let second = stage.asks("203.0.113.8", "/2");
        stage.says(Server, answer("2").as_bytes());
        stage.end();
        let body = match side {
            Client => &mut asked,
            Server => &mut answered,
        };
        body.push_str("abhi");
        let all = [
            flow("203.0.113.7:40000", &asked, &answered),
            flow("203.0.113.8:40000", &second, &answer("2")),
        ];
        assert_eq!(stage.seen.all(), all);
        assert_eq!(stage.seen.flows[&1].holes[side as usize], 5);
        assert_eq!(stage.clients.stats().stopped, [0; Stop::ALL.len()]);
    }
}

#[test]
fn a_hole_is_of_a_body_as_far_as_that_goes() {
    let mut stage = Stage::new(Way::Xff);
    stage.says(
        Client,
        b"POST / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nContent-Length: 9\r\n\r\n",
    );
    stage.lacks(Client, 30);
    stage.says(Client, b"the rest");
    stage.end();
    assert_eq!(
        stage.seen.clients(),
        ["203.0.113.7:40000", "10.0.0.1:40000"]
    );
    let holes = stage.seen.flows.values().map(|told| told.holes);
    assert_eq!(holes.collect::<Vec<_>>(), [[9, 0], [21, 0]]);
    assert_eq!(stage.seen.all()[1].1, "the rest");
}

/// Where a body of chunks ends that isn't understood isn't known, nor who asks next.
#[test]
fn chunks_that_break_off_are_their_clients_and_what_follows_is_nobodys() {
    let head = "POST / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.7\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe";
    for missing in [0, 30] {
        let mut stage = Stage::new(Way::Xff);
        stage.says(Client, head.as_bytes());
        let broken = match missing {
            0 => "lloXX",
            _ => "",
        };
        stage.says(Client, broken.as_bytes());
        if missing > 0 {
            stage.lacks(Client, missing);
        }
        let second = stage.asks("203.0.113.8", "/2");
        stage.end();
        let all = stage.seen.all();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0], flow("203.0.113.7:40000", head, ""));
        let kept = format!("{broken}{second}");
        assert_eq!(all[1], flow("10.0.0.1:40000", &kept, ""));
        assert_eq!(stage.seen.flows[&1].holes, [missing, 0]);
    }
}

/// What is asked is its client's, whatever became of the answers; these go where the latest request has gone.
#[test]
fn requests_are_told_apart_behind_an_answer_that_is_not_followed() {
    let mut stage = Stage::new(Way::Xff);
    let first = stage.asks("203.0.113.7", "/1");
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    stage.says(Server, chunked.as_bytes());
    stage.lacks(Server, 50);
    stage.says(Server, b"of the first");
    let second = stage.asks("203.0.113.8", "/2");
    stage.says(Server, answer("2").as_bytes());
    stage.end();
    let all = [
        flow(
            "203.0.113.7:40000",
            &first,
            &format!("{chunked}of the first"),
        ),
        flow("203.0.113.8:40000", &second, &answer("2")),
    ];
    assert_eq!(stage.seen.all(), all);
    assert_eq!(stage.seen.flows[&1].holes, [0, 50]);
    assert_eq!(stage.stopped(Stop::Hole), 1);
}

/// Who sends what can't be read isn't shown under the address of who came before.
#[test]
fn what_cannot_be_read_is_nobodys() {
    let broken = "GET / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.8\r\nno field\r\n\r\n";
    let ambiguous =
        "POST / HTTP/1.1\r\nX-Forwarded-For: 203.0.113.8\r\nContent-Length: 1, 1\r\n\r\n";
    let long = format!("GET / HTTP/1.1\r\nA: {}\r\n\r\n", "x".repeat(70_000));
    for (text, why) in [
        (broken, Stop::NotHttp),
        (ambiguous, Stop::Framing),
        (&long, Stop::Size),
        ("\0 no HTTP", Stop::NotHttp),
        ("GET / HTTP/1.1\r\nunfinished", Stop::Time),
    ] {
        let mut stage = Stage::new(Way::Xff);
        let first = stage.asks("203.0.113.7", "/1");
        stage.says(Server, answer("1").as_bytes());
        text.as_bytes()
            .chunks(16_000)
            .for_each(|piece| stage.says(Client, piece));
        stage.clients.expire(WallTime(u64::MAX), &mut stage.seen);
        stage.says(Server, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let third = stage.asks("203.0.113.9", "/3");
        stage.end();
        let all = [
            flow("203.0.113.7:40000", &first, &answer("1")),
            flow(
                "10.0.0.1:40000",
                &format!("{text}{third}"),
                "HTTP/1.1 400 Bad Request\r\n\r\n",
            ),
        ];
        assert_eq!(stage.seen.all(), all, "{why:?}");
        assert_eq!(stage.stopped(why), 1, "{why:?}");
        assert_eq!(stage.clients.stats().stopped.iter().sum::<u64>(), 1);
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
fn an_answer_without_a_clear_end_is_the_last_that_is_followed() {
    for (answered, stops) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", 1),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            1,
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx", 1),
        ("nonsense\r\n\r\n", 1),
        ("HTTP/1.1 204 No Content\r\n\r\nand more", 1),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the end", 0),
    ] {
        let mut stage = Stage::new(Way::Xff);
        let first = stage.asks("203.0.113.7", "/1");
        stage.says(Server, answered.as_bytes());
        let second = stage.asks("203.0.113.8", "/2");
        stage.says(Server, b"the rest");
        stage.end();
        // All that comes until the end is one answer's.
        let (one, other) = match stops {
            0 => (format!("{answered}the rest"), ""),
            _ => (answered.to_owned(), "the rest"),
        };
        let all = [
            flow("203.0.113.7:40000", &first, &one),
            flow("203.0.113.8:40000", &second, other),
        ];
        assert_eq!(stage.seen.all(), all, "{answered}");
        assert_eq!(stage.stopped(Stop::Answer), stops, "{answered}");
    }
}
