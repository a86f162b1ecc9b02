//! Which TCP connection carries the TLS session with these two randoms.
//!
//! ```text
//! SYN          client > server   initial sequence number
//! ClientHello  client > server   client_random, sequence number      clear bytes before it
//! ServerHello  server > client   server_random                       (both randoms) -> tuple
//! ```
//!
//! Both randoms are needed: a peer may replay a ClientHello from elsewhere. The same frame seen
//! twice (the loopback device shows each on its way out and in) changes nothing. A tuple may be two connections' at a time,
//! of two network namespaces, or somebody may speak in another's name: each answer is held against each hello of its tuple,
//! and what doesn't belong together is no session's pair. Memory is bounded; the oldest is forgotten first.

use std::sync::Arc;

use super::bounded::BoundedMap;
use super::hello::ClientHello;
use super::wire::WireFact;
use crate::event::Tuple;

/// ClientHello.random and ServerHello.random of a session.
pub type Randoms = ([u8; 32], [u8; 32]);

/// Connections with one random that are remembered.
pub const MAX_TUPLES: usize = 8;

/// ClientHellos of one tuple that are remembered.
const MAX_OFFERS: usize = 4;
/// More clear bytes before a ClientHello: the SYN was another connection's.
const MAX_PREFIX: u32 = 1 << 20;

/// What the wire told of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireBinding {
    /// Its connection: the first one seen with its randoms.
    pub tuple: Tuple,
    /// The same randoms were seen on other connections as well (address translation).
    pub ambiguous: bool,
    /// Bytes that the client had sent before its ClientHello; `None`: its SYN wasn't seen.
    pub clear_prefix: Option<u64>,
    /// What else stood in its first ClientHello; `None`: not all of that was seen.
    pub hello: Option<Arc<ClientHello>>,
}

/// A ClientHello.
#[derive(Clone, Debug)]
struct Offer {
    random: [u8; 32],
    /// The initial sequence number of its connection.
    isn: Option<u32>,
    clear_prefix: Option<u64>,
    hello: Option<Arc<ClientHello>>,
    /// The latest ServerHello.random behind it.
    answer: Option<[u8; 32]>,
}

/// Finds the connection of a session by its randoms.
#[derive(Debug)]
pub struct Binder {
    /// The two latest ones' numbers.
    syns: BoundedMap<Tuple, [Option<u32>; 2]>,
    offers: BoundedMap<Tuple, Vec<Offer>>,
    bindings: BoundedMap<Randoms, WireBinding>,
    /// Under which addresses a ClientHello.random was seen, the first few.
    tuples: BoundedMap<[u8; 32], Vec<Tuple>>,
}

impl Binder {
    /// Remembers at most `capacity` of each: SYNs, unanswered ClientHellos, bindings.
    pub fn new(capacity: usize) -> Self {
        Self {
            syns: BoundedMap::new(capacity),
            offers: BoundedMap::new(capacity),
            bindings: BoundedMap::new(capacity),
            tuples: BoundedMap::new(capacity),
        }
    }

    /// Takes a fact from the wire; the randoms of sessions whose connection is known by it: one, unless several
    /// ClientHellos waited for this answer.
    pub fn observe(&mut self, fact: WireFact) -> Vec<Randoms> {
        match fact {
            WireFact::Syn { tuple, isn } => self.syn(tuple, isn),
            WireFact::ClientHello {
                tuple,
                sequence,
                random,
            } => self.offer(tuple, sequence, random),
            WireFact::Fingerprint {
                tuple,
                random,
                hello,
            } => {
                let mut offers = self.offers.get_mut(&tuple).into_iter().flatten();
                // The second hello after a HelloRetryRequest leaves some extensions out.
                if let Some(offer) = offers.find(|offer| offer.random == random) {
                    offer.hello.get_or_insert_with(|| Arc::from(hello));
                }
            }
            WireFact::ServerHello { tuple, random } => return self.bind(tuple, random),
        }
        Vec::new()
    }

    /// The connection of a session, if the wire showed it.
    pub fn find(&self, randoms: &Randoms) -> Option<&WireBinding> {
        self.bindings.get(randoms)
    }

    /// The connections that may be a session's, and whether its answer was seen there, too: more than one, where addresses
    /// are translated on the way. None on which the same hello had another answer, for that is somebody else's who says
    /// it again. At most the first [`MAX_TUPLES`] with this hello.
    pub fn candidates(&self, randoms: &Randoms) -> impl Iterator<Item = (Tuple, bool)> {
        let (client, server) = *randoms;
        let tuples = self.tuples.get(&client).into_iter().flatten();
        tuples.filter_map(move |tuple| {
            let mut offers = self.offers.get(tuple)?.iter();
            let offer = offers.find(|offer| offer.random == client)?;
            let is_other = offer.answer.is_some_and(|answer| answer != server);
            (!is_other).then_some((*tuple, offer.answer.is_some()))
        })
    }

    /// Whether the wire has shown anything of a connection.
    pub fn has_seen(&self, tuple: &Tuple) -> bool {
        self.syns.get(tuple).is_some() || self.offers.get(tuple).is_some()
    }

    /// Entries of all kinds.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.syns.len() + self.offers.len() + self.bindings.len() + self.tuples.len()
    }

    fn syn(&mut self, tuple: Tuple, isn: u32) {
        let [latest, before] = self.syns.get(&tuple).copied().unwrap_or_default();
        if ![latest, before].contains(&Some(isn)) {
            self.syns.insert(tuple, [Some(isn), latest]);
        }
    }

    fn offer(&mut self, tuple: Tuple, sequence: u32, random: [u8; 32]) {
        let syns = self.syns.get(&tuple).copied().unwrap_or_default();
        let prefix = |isn: u32| sequence.wrapping_sub(isn).wrapping_sub(1);
        let nearest = syns.into_iter().flatten().min_by_key(|isn| prefix(*isn));
        let isn = nearest.filter(|isn| prefix(*isn) <= MAX_PREFIX);
        // After a HelloRetryRequest, and when a segment comes twice, the random is the same: what
        // the first one told of the bytes before it stays.
        let is_known =
            |offer: &Offer| offer.random == random && (isn.is_none() || offer.isn == isn);
        let offers = self.offers.get(&tuple);
        if offers.is_some_and(|offers| offers.iter().any(is_known)) {
            return;
        }
        let mut offers = self.offers.remove(&tuple).unwrap_or_default();
        offers.retain(|offer| offer.answer.is_none() && offer.random != random);
        if offers.len() >= MAX_OFFERS {
            offers.remove(0);
        }
        offers.reserve_exact(1); // most have one
        offers.push(Offer {
            random,
            isn,
            clear_prefix: isn.map(|isn| prefix(isn).into()),
            hello: None,
            answer: None,
        });
        self.offers.insert(tuple, offers);
        match self.tuples.get_mut(&random) {
            None => {
                self.tuples.insert(random, vec![tuple]);
            }
            Some(tuples) if tuples.len() < MAX_TUPLES && !tuples.contains(&tuple) => {
                tuples.push(tuple);
            }
            Some(_) => {}
        }
    }

    fn bind(&mut self, tuple: Tuple, server_random: [u8; 32]) -> Vec<Randoms> {
        let mut bound = Vec::new();
        for offer in self.offers.get_mut(&tuple).into_iter().flatten() {
            offer.answer = Some(server_random);
            let randoms = (offer.random, server_random);
            bound.push(randoms);
            if let Some(known) = self.bindings.get_mut(&randoms) {
                known.ambiguous |= known.tuple != tuple;
                continue;
            }
            let binding = WireBinding {
                tuple,
                ambiguous: false,
                clear_prefix: offer.clear_prefix,
                hello: offer.hello.clone(),
            };
            self.bindings.insert(randoms, binding);
        }
        bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(client_port: u16) -> Tuple {
        Tuple {
            client: ([192, 0, 2, 1], client_port).into(),
            server: ([198, 51, 100, 1], 443).into(),
        }
    }

    fn client_hello(tuple: Tuple, sequence: u32, random: u8) -> WireFact {
        WireFact::ClientHello {
            tuple,
            sequence,
            random: [random; 32],
        }
    }

    fn server_hello(tuple: Tuple, random: u8) -> WireFact {
        WireFact::ServerHello {
            tuple,
            random: [random; 32],
        }
    }

    const RANDOMS: Randoms = ([1; 32], [2; 32]);

    #[test]
    fn a_handshake_binds_and_tells_its_prefix() {
        let mut binder = Binder::new(10);
        binder.observe(WireFact::Syn {
            tuple: tuple(5000),
            isn: u32::MAX - 3,
        });
        binder.observe(client_hello(tuple(5000), 5, 1)); // 8 bytes behind u32::MAX - 2
        assert_eq!(binder.find(&RANDOMS), None);
        let bound = binder.observe(server_hello(tuple(5000), 2));
        assert_eq!(bound, [RANDOMS]);
        let expected = WireBinding {
            tuple: tuple(5000),
            ambiguous: false,
            clear_prefix: Some(8),
            hello: None,
        };
        assert_eq!(binder.find(&RANDOMS), Some(&expected));
    }

    #[test]
    fn frames_seen_twice_fold() {
        let mut binder = Binder::new(10);
        for _ in 0..2 {
            let isn = 99;
            binder.observe(WireFact::Syn {
                tuple: tuple(1),
                isn,
            });
        }
        for _ in 0..2 {
            binder.observe(client_hello(tuple(1), 100, 1));
        }
        // The second hello after a HelloRetryRequest stands further behind.
        binder.observe(client_hello(tuple(1), 600, 1));
        for _ in 0..2 {
            binder.observe(server_hello(tuple(1), 2));
        }
        let found = binder.find(&RANDOMS).unwrap();
        assert!(!found.ambiguous);
        assert_eq!(found.clear_prefix, Some(0));
    }

    #[test]
    fn two_tuples_are_ambiguous_and_the_first_is_kept() {
        let mut binder = Binder::new(10);
        for port in [1, 2] {
            binder.observe(client_hello(tuple(port), 100, 1));
        }
        for port in [1, 2] {
            binder.observe(server_hello(tuple(port), 2));
        }
        let found = binder.find(&RANDOMS).unwrap();
        assert!(found.ambiguous);
        assert_eq!(found.tuple, tuple(1));
    }

    #[test]
    fn a_replayed_client_hello_binds_to_its_own_answer_only() {
        let mut binder = Binder::new(10);
        binder.observe(client_hello(tuple(1), 100, 1));
        binder.observe(client_hello(tuple(2), 100, 1)); // the replay
        binder.observe(server_hello(tuple(2), 9));
        binder.observe(server_hello(tuple(1), 2));
        assert_eq!(binder.find(&RANDOMS).unwrap().tuple, tuple(1));
        assert_eq!(binder.find(&([1; 32], [9; 32])).unwrap().tuple, tuple(2));
    }

    /// Of two network namespaces, seen on one capture, however their frames mix.
    #[test]
    fn two_connections_with_the_same_addresses_are_both_found() {
        let syn = |isn: u32| WireFact::Syn {
            tuple: tuple(1),
            isn,
        };
        let one = [
            syn(1000),
            client_hello(tuple(1), 1011, 1),
            server_hello(tuple(1), 2),
        ];
        let other = [
            syn(1 << 30),
            client_hello(tuple(1), (1 << 30) + 1, 3),
            server_hello(tuple(1), 4),
        ];
        for order in ["ooonnn", "onnoon", "nonoon", "nnoono", "onnono"] {
            let (mut one, mut other) = (one.iter(), other.iter());
            let mut binder = Binder::new(10);
            for which in order.chars() {
                let next = if which == 'o' {
                    one.next()
                } else {
                    other.next()
                };
                binder.observe(next.unwrap().clone());
            }
            for (randoms, prefix) in [(([1; 32], [2; 32]), 10), (([3; 32], [4; 32]), 0)] {
                let found = binder.find(&randoms).expect(order);
                assert_eq!(found.tuple, tuple(1));
                assert!(!found.ambiguous);
                assert_eq!(found.clear_prefix, Some(prefix), "{order}");
            }
        }
    }

    /// A client that says its hello once more, on another connection from the same port.
    #[test]
    fn another_connection_with_the_same_hello_tells_its_own_prefix_and_fingerprint() {
        let mut binder = Binder::new(10);
        let whole = |ja4: &str| WireFact::Fingerprint {
            tuple: tuple(1),
            random: [1; 32],
            hello: Box::new(ClientHello {
                sni: None,
                ja4: ja4.to_owned(),
            }),
        };
        for (isn, prefix, answer, ja4) in [(1000, 0, 2, "first"), (1 << 30, 7, 3, "second")] {
            let tuple = tuple(1);
            binder.observe(WireFact::Syn { tuple, isn });
            binder.observe(client_hello(tuple, isn + 1 + prefix, 1));
            binder.observe(whole(ja4));
            binder.observe(server_hello(tuple, answer));
            let found = binder.find(&([1; 32], [answer; 32])).unwrap();
            assert_eq!(found.clear_prefix, Some(prefix.into()));
            assert_eq!(found.hello.as_ref().unwrap().ja4, ja4);
        }
    }

    #[test]
    fn a_syn_of_another_connection_tells_no_prefix() {
        let mut binder = Binder::new(10);
        let (tuple, isn) = (tuple(1), 77);
        binder.observe(WireFact::Syn { tuple, isn });
        binder.observe(client_hello(tuple, 0x8000_0000, 1));
        binder.observe(server_hello(tuple, 2));
        assert_eq!(binder.find(&RANDOMS).unwrap().clear_prefix, None);
    }

    /// Somebody who can send in a client's name can't keep its session from being found, but by much.
    #[test]
    fn a_hello_in_anothers_name_does_not_hide_its_own() {
        let mut binder = Binder::new(10);
        binder.observe(client_hello(tuple(1), 100, 1));
        binder.observe(client_hello(tuple(1), 100, 9));
        binder.observe(server_hello(tuple(1), 2));
        assert_eq!(binder.find(&RANDOMS).unwrap().tuple, tuple(1));
        for random in 10..100 {
            binder.observe(client_hello(tuple(1), 100, random));
        }
        assert_eq!(binder.offers.get(&tuple(1)).unwrap().len(), MAX_OFFERS);
    }

    #[test]
    fn an_answer_in_the_wrong_direction_binds_nothing() {
        let mut binder = Binder::new(10);
        binder.observe(client_hello(tuple(1), 100, 1));
        let turned = Tuple {
            client: tuple(1).server,
            server: tuple(1).client,
        };
        assert_eq!(binder.observe(server_hello(turned, 2)), []);
    }

    #[test]
    fn memory_is_bounded() {
        let mut binder = Binder::new(4);
        for port in 0..100u16 {
            let random = u8::try_from(port).unwrap();
            binder.observe(client_hello(tuple(port), 1, random));
            binder.observe(server_hello(tuple(port), 2));
        }
        assert_eq!(binder.remembered(), 3 * 4);
        assert!(binder.find(&([99; 32], [2; 32])).is_some());
        assert!(binder.find(&([1; 32], [2; 32])).is_none());
    }
}
