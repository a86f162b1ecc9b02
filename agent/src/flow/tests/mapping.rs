//! Sessions and what the wire shows of them: fingerprints, several addresses of one connection, storms.

use super::super::Networks;
use super::super::hello::ClientHello;
use super::super::waiting::MAX_AWAITING;
use super::*;
use mirror_hook::event::Direction::Sent;

fn fingerprinted(connection: u8, tuple: Tuple) -> WireFact {
    WireFact::Fingerprint {
        tuple,
        random: randoms(connection).0,
        hello: Box::new(ClientHello {
            sni: Some("wire.example".to_owned()),
            ja4: "t13d".to_owned(),
        }),
    }
}

fn hellos(connection: u8, tuple: Tuple) -> [WireFact; 3] {
    let (client, server) = randoms(connection);
    let (sequence, random) = (1, client);
    [
        WireFact::ClientHello {
            tuple,
            sequence,
            random,
        },
        fingerprinted(connection, tuple),
        WireFact::ServerHello {
            tuple,
            random: server,
        },
    ]
}

impl Bench {
    fn shows(&mut self, fact: WireFact) {
        let now = MonotonicTime(self.now);
        self.mapper.wire_fact(fact, now, &mut self.checker);
    }
}

#[test]
fn a_session_with_a_socket_gets_its_fingerprint_and_waits_no_longer() {
    // Before it is announced, behind it, and never.
    for shown in [Some(0), Some(40), None] {
        let mut bench = Bench::capturing();
        let show = |bench: &mut Bench| {
            let facts = hellos(1, tuple(1));
            facts.into_iter().for_each(|fact| bench.shows(fact));
        };
        bench.shows(WireFact::Syn {
            tuple: tuple(1),
            isn: 0,
        });
        if shown == Some(0) {
            show(&mut bench);
        }
        bench.open(1, 1, with_socket(1, Role::Client));
        bench.say(1, 1, Role::Client, Sent, 0, 100);
        bench.at(40);
        assert_eq!(bench.checker.order.len(), usize::from(shown == Some(0)));
        if shown == Some(40) {
            show(&mut bench);
            assert_eq!(bench.checker.order.len(), 1);
        }
        bench.at(100);
        let flow = bench.checker.only();
        assert_eq!(flow.info.binding, Binding::Socket);
        assert_eq!(flow.info.ja4.as_deref(), shown.map(|_| "t13d"));
        assert_eq!(flow.info.sni.as_deref(), shown.map(|_| "wire.example"));
        assert_eq!(flow.delivered, 100);
    }
}

/// An interface that isn't watched.
#[test]
fn a_session_of_which_the_wire_shows_nothing_hardly_waits() {
    let mut bench = Bench::capturing();
    bench.shows(WireFact::Syn {
        tuple: tuple(2),
        isn: 0,
    });
    bench.open(1, 1, with_socket(1, Role::Client));
    bench.at(29);
    assert!(bench.checker.order.is_empty());
    bench.at(30);
    assert_eq!(bench.checker.only().info.binding, Binding::Socket);
}

#[test]
fn of_two_hellos_of_one_client_the_first_is_its_fingerprint() {
    let mut bench = Bench::capturing();
    let [hello, whole, answer] = hellos(1, tuple(1));
    bench.shows(hello.clone());
    bench.shows(whole);
    bench.shows(hello); // the second one, behind a HelloRetryRequest
    let WireFact::Fingerprint {
        tuple,
        random,
        mut hello,
    } = fingerprinted(1, tuple(1))
    else {
        unreachable!()
    };
    hello.ja4 = "t13i".to_owned();
    bench.shows(WireFact::Fingerprint {
        tuple,
        random,
        hello,
    });
    bench.shows(answer);
    bench.open(1, 1, done(1, Role::Client));
    assert_eq!(bench.checker.only().info.ja4.as_deref(), Some("t13d"));
}

/// A network as a test says: which connections' ends are in there, and which of them live.
#[derive(Clone, Debug, Default)]
struct Told {
    local: Option<Vec<Tuple>>,
    connected: Vec<Tuple>,
}

impl Told {
    fn local(local: &[Tuple]) -> Self {
        Self {
            local: Some(local.to_vec()),
            connected: Vec::new(),
        }
    }
}

impl Networks for Told {
    fn local(&self, _: &ProcessInfo, _: Role, tuples: &[Tuple]) -> Option<Vec<Tuple>> {
        let mut own = self.local.clone()?;
        own.retain(|tuple| tuples.contains(tuple));
        Some(own)
    }

    fn connected(&self, _process: &ProcessInfo, _role: Role, tuples: &[Tuple]) -> Vec<Tuple> {
        let mut own = self.connected.clone();
        own.retain(|tuple| tuples.contains(tuple));
        own
    }
}

/// A container behind a bridge with masquerade, seen on both of its sides.
#[test]
fn of_several_addresses_those_of_the_processes_own_network_win() {
    let (own, translated) = (tuple(1), tuple(2));
    let connected = |tuple| Told {
        connected: vec![tuple],
        ..Told::default()
    };
    for (told, expected) in [
        (Told::local(&[own]), (own, Binding::Wire)),
        (Told::local(&[translated]), (translated, Binding::Wire)),
        (Told::default(), (translated, Binding::WireAmbiguous)),
        (Told::local(&[]), (translated, Binding::WireAmbiguous)),
        (
            Told::local(&[own, translated]),
            (translated, Binding::WireAmbiguous),
        ),
        // More likely than the others, but those may have ended.
        (connected(own), (own, Binding::WireAmbiguous)),
        (connected(translated), (translated, Binding::WireAmbiguous)),
    ] {
        let mut bench = Bench::capturing();
        bench.mapper.ask_networks(Box::new(told));
        let (inner, outer) = (hellos(1, own), hellos(1, translated));
        for fact in inner[..2].iter().chain(&outer).chain(&inner[2..]) {
            bench.shows(fact.clone());
        }
        bench.open(1, 1, done(1, Role::Client));
        let info = &bench.checker.only().info;
        assert_eq!((info.tuple, info.binding), expected);
    }
}

/// What is watched is on the other side of a translation.
#[test]
fn addresses_that_no_process_of_its_network_has_are_marked() {
    for (told, binding) in [
        (Told::local(&[tuple(1)]), Binding::Wire),
        (Told::local(&[]), Binding::WireAmbiguous),
        (Told::default(), Binding::Wire),
    ] {
        let mut bench = Bench::capturing();
        bench.mapper.ask_networks(Box::new(told));
        bench.wire(1, tuple(1));
        bench.open(1, 1, done(1, Role::Client));
        let info = &bench.checker.only().info;
        assert_eq!((info.tuple, info.binding), (tuple(1), binding));
    }
}

/// It is seen elsewhere first, be it outside of an address translation, or because somebody says it, too, and is faster.
#[test]
fn the_first_answer_does_not_hide_the_own_address() {
    let (own, other) = (tuple(1), tuple(2));
    let ambiguous = (other, Binding::WireAmbiguous);
    for (local, is_answered, expected) in [
        (&[own][..], true, (own, Binding::Wire)),
        (&[own, other], true, ambiguous),
        (&[], true, ambiguous), // both outside
        (&[own], false, ambiguous),
        // Who isn't answered has no session.
        (&[own, other], false, (other, Binding::Wire)),
    ] {
        for role in [Role::Client, Role::Server] {
            let mut bench = Bench::capturing();
            bench.mapper.ask_networks(Box::new(Told::local(local)));
            bench.open(1, 1, done(1, role));
            let (hello, first) = (hellos(1, own), hellos(1, other));
            for fact in hello[..2].iter().chain(&first) {
                bench.shows(fact.clone());
            }
            bench.at(499);
            assert!(bench.checker.order.is_empty());
            if is_answered {
                bench.shows(hello[2].clone());
            } else {
                bench.at(500);
            }
            let info = &bench.checker.only().info;
            assert_eq!((info.tuple, info.binding), expected);
        }
    }
}

/// Somebody sends a ClientHello again from elsewhere, and ahead of the first one: it gets another answer.
#[test]
fn a_replayed_hello_never_binds_another_session() {
    let (own, other) = (tuple(1), tuple(2));
    let replayed = WireFact::ServerHello {
        tuple: other,
        random: [9; 32],
    };
    let (hello, again) = (hellos(1, own), hellos(1, other));
    let facts = [
        &again[0], &again[1], &hello[0], &hello[1], &replayed, &hello[2],
    ];
    // In every order in which each connection's own order holds.
    for swapped in [None, Some((0, 2)), Some((4, 5))] {
        for knows in [true, false] {
            let mut facts = facts.map(Clone::clone);
            if let Some((one, other)) = swapped {
                facts.swap(one, other);
            }
            let mut bench = Bench::capturing();
            if knows {
                bench.mapper.ask_networks(Box::new(Told::local(&[own])));
            }
            bench.open(1, 1, done(1, Role::Client));
            facts.into_iter().for_each(|fact| bench.shows(fact));
            bench.at(500);
            let info = &bench.checker.only().info;
            assert_eq!((info.tuple, info.binding), (own, Binding::Wire));
        }
    }
}

/// A library that goes on with the hello inside an Encrypted Client Hello (RFC 9849), and tells of that, or of none: the
/// answer is anybody's who has seen it, so alone it shows nothing.
#[test]
fn by_the_answer_alone_nothing_is_bound() {
    for client_random in [Some([99; 32]), None] {
        for is_first in [true, false] {
            let mut bench = Bench::capturing();
            let own = Told::local(&[tuple(1)]);
            bench.mapper.ask_networks(Box::new(own));
            let shown = hellos(1, tuple(1));
            if is_first {
                shown.iter().for_each(|fact| bench.shows(fact.clone()));
            }
            let inner = Meta {
                client_random,
                ..done(1, Role::Server)
            };
            bench.open(1, 1, inner);
            shown.into_iter().for_each(|fact| bench.shows(fact));
            bench.at(500);
            let info = &bench.checker.only().info;
            assert_eq!(info.binding, Binding::Placeholder);
            assert_eq!((&info.sni, &info.ja4), (&None, &None));
        }
    }
}

/// Somebody makes a server answer another's hello, says what it says under that one's eyes, and is gone before anybody
/// looks: the other connection, which is alive, isn't the one.
#[test]
fn who_says_anothers_hello_again_does_not_speak_in_its_name() {
    let (own, victim) = (tuple(1), tuple(2));
    for is_answered in [true, false] {
        let mut bench = Bench::capturing();
        bench.mapper.ask_networks(Box::new(Told {
            local: Some(vec![own, victim]),
            connected: vec![victim],
        }));
        let (again, hello) = (hellos(1, own), hellos(1, victim));
        hello[..2].iter().for_each(|fact| bench.shows(fact.clone()));
        if is_answered {
            bench.shows(WireFact::ServerHello {
                tuple: victim,
                random: [9; 32],
            });
        }
        again.into_iter().for_each(|fact| bench.shows(fact));
        bench.open(1, 1, done(1, Role::Server));
        bench.at(500);
        let info = &bench.checker.only().info;
        assert_eq!((info.tuple, info.binding), (own, Binding::Wire));
    }
}

#[test]
fn after_a_storm_of_hellos_that_nobody_answers_sessions_are_bound() {
    let mut bench = Bench::new(MapperConfig {
        capture: true,
        wire_capacity: 1024,
        ..MapperConfig::default()
    });
    for number in 0..100_000u32 {
        let [a, b, c, d] = number.to_be_bytes();
        let mut random = [0; 32];
        random[..4].copy_from_slice(&[a, b, c, d]);
        let tuple = Tuple {
            client: ([198, b, c, d], 40_000).into(),
            server: ([10, 0, 1, 1], 443).into(),
        };
        bench.shows(WireFact::Syn { tuple, isn: 0 });
        bench.shows(WireFact::ClientHello {
            tuple,
            sequence: 1,
            random,
        });
    }
    assert!(bench.mapper.binder.remembered() <= 4 * 1024);
    bench.open(1, 1, done(1, Role::Client));
    hellos(1, tuple(1))
        .into_iter()
        .for_each(|fact| bench.shows(fact));
    assert_eq!(bench.checker.only().info.binding, Binding::Wire);
}

/// Whoever knows randoms may name them as often as he likes: nobody has to look through all of these.
#[test]
fn sessions_without_number_that_name_the_same_are_let_go_one_by_one() {
    const SESSIONS: u64 = 1000;
    let mut bench = Bench::capturing();
    let process = Arc::new(ProcessInfo::default());
    let meta = done(1, Role::Client);
    for connection in 0..SESSIONS {
        let event = SessionEvent {
            session: SessionKey {
                ring: 1,
                connection,
            },
            at: MonotonicTime(0),
            change: SessionChange::Open {
                process: &process,
                meta: &meta,
                policy: None,
            },
        };
        bench
            .mapper
            .session_event(event, MonotonicTime(0), &mut bench.checker);
    }
    let awaiting = &bench.mapper.awaited[&randoms(1)];
    assert_eq!(awaiting.len(), MAX_AWAITING);
    let facts = hellos(1, tuple(1));
    facts.into_iter().for_each(|fact| bench.shows(fact));
    assert_eq!(bench.checker.order.len(), MAX_AWAITING);
    assert!(bench.mapper.awaited.is_empty());
    bench.at(500);
    let flows = bench.checker.flows.values();
    let bound = flows.filter(|flow| flow.info.tuple == tuple(1));
    assert_eq!(bound.count() as u64, SESSIONS);
}
