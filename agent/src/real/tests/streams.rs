//! Made-up sessions: each byte comes out, in its client's flow.

use proptest::prelude::*;

use super::*;

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
        server_ends_at in 0_usize..120,
    ) {
        const PIECES: [&str; 12] = [
            "GET / HTTP/1.1\r\n", "X-Forwarded-For: 203.0.113.7\r\n", "Forwarded: for=\"[2001:db8::1]:7\"\r\n", "\r\n",
            "HTTP/1.1 200 OK\r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n",
            "PROXY TCP4 203.0.113.7 10.0.0.2 56324 443\r\n", "\r\n\r\n\0\r\nQUIT\n", "HTTP/1.1 101 x\r\n", "\0\u{7f}",
        ];
        let mut stage = Stage::new(way);
        let mut said = [0, 0];
        let mut missing = [0, 0];
        let mut ended = false;
        for (step, (client, piece, length)) in steps.into_iter().enumerate() {
            if step == server_ends_at {
                stage.event(1, FlowChange::Finish { from: Server });
                ended = true;
            }
            let from = if client || ended { Client } else { Server };
            if length == 59 {
                stage.lacks(from, 3);
                missing[from as usize] += 3;
                continue;
            }
            let text = &PIECES[piece][..length.min(PIECES[piece].len())];
            stage.says(from, text.as_bytes());
            said[from as usize] += text.len() as u64;
        }
        stage.event(1, FlowChange::Finish { from: Client });
        if !ended {
            stage.event(1, FlowChange::Finish { from: Server });
        }
        prop_assert!(stage.seen.are_over());
        prop_assert_eq!(stage.clients.oldest_held(), None);
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
