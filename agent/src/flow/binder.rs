//! Which TCP connection carries the TLS session with these two randoms.
//!
//! ```text
//! SYN          client > server   initial sequence number
//! ClientHello  client > server   client_random, sequence number      clear bytes before it
//! ServerHello  server > client   server_random                       (both randoms) -> tuple
//! ```
//!
//! Both randoms are needed: a peer may replay a ClientHello from elsewhere. The same frame seen
//! twice (the loopback device shows each on its way out and in) changes nothing. Memory is bounded;
//! the oldest is forgotten first.

use std::sync::Arc;

use super::bounded::BoundedMap;
use super::hello::ClientHello;
use super::wire::WireFact;
use crate::event::Tuple;

/// ClientHello.random and ServerHello.random of a session.
pub type Randoms = ([u8; 32], [u8; 32]);

/// Connections with one random that are remembered.
pub const MAX_TUPLES: usize = 8;

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

/// A ClientHello that waits for its answer.
#[derive(Clone, Debug)]
struct Offer {
    random: [u8; 32],
    clear_prefix: Option<u64>,
    hello: Option<Arc<ClientHello>>,
}

/// Finds the connection of a session by its randoms.
#[derive(Debug)]
pub struct Binder {
    syns: BoundedMap<Tuple, u32>,
    offers: BoundedMap<Tuple, Offer>,
    bindings: BoundedMap<Randoms, WireBinding>,
    /// Under which addresses a ClientHello.random was seen, the first few.
    tuples: BoundedMap<[u8; 32], Vec<Tuple>>,
    forgotten: u64,
}

impl Binder {
    /// Remembers at most `capacity` of each: SYNs, unanswered ClientHellos, bindings.
    pub fn new(capacity: usize) -> Self {
        Self {
            syns: BoundedMap::new(capacity),
            offers: BoundedMap::new(capacity),
            bindings: BoundedMap::new(capacity),
            tuples: BoundedMap::new(capacity),
            forgotten: 0,
        }
    }

    /// Takes a fact from the wire; the randoms of a session whose connection is known by it.
    pub fn observe(&mut self, fact: WireFact) -> Option<Randoms> {
        match fact {
            WireFact::Syn { tuple, isn } => {
                self.syns.insert(tuple, isn);
                None
            }
            WireFact::ClientHello {
                tuple,
                sequence,
                random,
            } => {
                self.offer(tuple, sequence, random);
                None
            }
            WireFact::Fingerprint {
                tuple,
                random,
                hello,
            } => {
                // The second hello after a HelloRetryRequest leaves some extensions out.
                if let Some(offer) = self.offers.get_mut(&tuple)
                    && offer.random == random
                {
                    offer.hello.get_or_insert_with(|| Arc::from(hello));
                }
                None
            }
            WireFact::ServerHello { tuple, random } => self.bind(tuple, random),
        }
    }

    /// The connection of a session, if the wire showed it.
    pub fn find(&self, randoms: &Randoms) -> Option<&WireBinding> {
        self.bindings.get(randoms)
    }

    /// The connections on which a ClientHello.random was seen: more than one, where addresses are translated on the
    /// way, or somebody says a hello again that isn't its own. At most the first [`MAX_TUPLES`].
    pub fn tuples(&self, client_random: &[u8; 32]) -> Vec<Tuple> {
        self.tuples.get(client_random).cloned().unwrap_or_default()
    }

    /// Bindings pushed out by younger ones so far.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Entries of all kinds.
    #[cfg(test)]
    pub(super) fn remembered(&self) -> usize {
        self.syns.len() + self.offers.len() + self.bindings.len() + self.tuples.len()
    }

    fn offer(&mut self, tuple: Tuple, sequence: u32, random: [u8; 32]) {
        // After a HelloRetryRequest, and when a segment comes twice, the random is the same: what
        // the first one told of the bytes before it stays.
        if self
            .offers
            .get(&tuple)
            .is_some_and(|offer| offer.random == random)
        {
            return;
        }
        let clear_prefix = self
            .syns
            .remove(&tuple)
            .map(|isn| u64::from(sequence.wrapping_sub(isn).wrapping_sub(1)));
        let offer = Offer {
            random,
            clear_prefix,
            hello: None,
        };
        self.offers.insert(tuple, offer);
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

    fn bind(&mut self, tuple: Tuple, server_random: [u8; 32]) -> Option<Randoms> {
        let offer = self.offers.get(&tuple)?;
        let randoms = (offer.random, server_random);
        if let Some(known) = self.bindings.get_mut(&randoms) {
            known.ambiguous |= known.tuple != tuple;
        } else {
            let binding = WireBinding {
                tuple,
                ambiguous: false,
                clear_prefix: offer.clear_prefix,
                hello: offer.hello.clone(),
            };
            self.forgotten += u64::from(self.bindings.insert(randoms, binding));
        }
        Some(randoms)
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
        assert_eq!(bound, Some(RANDOMS));
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

    #[test]
    fn an_answer_in_the_wrong_direction_binds_nothing() {
        let mut binder = Binder::new(10);
        binder.observe(client_hello(tuple(1), 100, 1));
        let turned = Tuple {
            client: tuple(1).server,
            server: tuple(1).client,
        };
        assert_eq!(binder.observe(server_hello(turned, 2)), None);
    }

    #[test]
    fn memory_is_bounded() {
        let mut binder = Binder::new(4);
        for port in 0..100u16 {
            let random = u8::try_from(port).unwrap();
            binder.observe(client_hello(tuple(port), 1, random));
            binder.observe(server_hello(tuple(port), 2));
        }
        assert_eq!(binder.forgotten(), 96);
        assert!(binder.find(&([99; 32], [2; 32])).is_some());
        assert!(binder.find(&([1; 32], [2; 32])).is_none());
    }
}
