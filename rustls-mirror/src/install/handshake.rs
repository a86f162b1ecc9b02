//! One handshake as its transcript tells it: who it is, and which keys it is about to make.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError, Weak};

use mirror_hook::event::{Direction, Role};

use super::connection::Connection;
use super::framing::{CERTIFICATE_VERIFY, CLIENT_KEY_EXCHANGE, Framing, SERVER_HELLO};
use crate::hello::{Ech, Hellos, Known};

/// What a half's keys are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// TLS 1.3: 0-RTT data.
    Early,
    /// TLS 1.3: the rest of the handshake.
    Handshake,
    /// TLS 1.3: application data, until a key update.
    Traffic,
    /// TLS 1.2: all there is.
    Whole,
}

/// What a transcript has said. Lives as long as rustls' transcript, whose hash feeds it.
#[derive(Debug, Default)]
pub(super) struct Handshake {
    state: Mutex<State>,
    /// The thread that touched it last.
    thread: AtomicUsize,
    /// It will make no keys any more that [`Handshake::claim`] would have to find.
    done: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    hellos: Hellos,
    messages: Framing,
    updates: usize,
    last_was_empty: bool,
    role: Option<Role>,
    /// rustls has given the transcript up, after reading its hash or without.
    over: bool,
    /// It was the hash of a ClientHello alone, for the keys of 0-RTT data.
    for_early_keys: bool,
    encrypter_made: bool,
    decrypter_made: bool,
    connection: Weak<Connection>,
}

/// A half that was found to be this handshake's.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) connection: Arc<Connection>,
    pub(super) phase: Phase,
    /// Its encrypter is made right behind it, or isn't this handshake's first.
    pub(super) encrypter_next: bool,
    /// By what dropping others directly behind shows that it was a mistake.
    pub(super) evidence: Evidence,
}

/// rustls drops the keys that new ones replace as soon as these are made. Keys found by their handshake
/// are its first, and replace none; but what is dropped may also be of a connection that ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    /// rustls does something else first, or would drop the other direction first: they were replaced.
    Any,
    /// Only keys that stand where they are replaced.
    Ripe,
    /// The same, but for those of the same client's 0-RTT data, which these may replace.
    SameClient,
}

/// The guard of a lock that nobody waits for; what a panic left behind is taken as it is.
pub(super) fn try_lock<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    match mutex.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

impl Handshake {
    /// For the thread that has the connection: one that had it before may still look whether it has.
    /// Without the lock the handshake is given up, rather than known by half.
    fn lock(&self) -> Option<MutexGuard<'_, State>> {
        const TRIES: usize = 1000;
        for _ in 0..TRIES {
            if let Some(guard) = try_lock(&self.state) {
                return Some(guard);
            }
            std::thread::yield_now();
        }
        self.done.store(true, Ordering::Relaxed);
        None
    }

    /// The thread of this number has it now.
    pub(super) fn moved_to(&self, thread: usize) {
        // Who reads it has nothing to do with what is written around it; the lock orders the rest.
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// Whether it may make keys on the thread of this number.
    pub(super) fn is_alive_on(&self, thread: usize) -> bool {
        self.thread.load(Ordering::Relaxed) == thread && !self.done.load(Ordering::Relaxed)
    }

    /// Bytes of the transcript.
    pub(super) fn update(&self, bytes: &[u8]) {
        let Some(mut guard) = self.lock() else {
            return;
        };
        let state = &mut *guard;
        state.hellos.feed(bytes);
        state.messages.feed(bytes);
        if state.role.is_none() && state.hellos.known.client_random.is_some() {
            // A client keeps its hellos until it knows the hash, and hashes them all at once; a server
            // starts with what was before the ClientHello, be it nothing.
            state.role = Some(if state.updates == 0 {
                Role::Client
            } else {
                Role::Server
            });
        }
        state.updates += 1;
        state.last_was_empty = bytes.is_empty();
    }

    /// This thread touched `before` last, and now this one: if they are the two of a client that offers an
    /// Encrypted Client Hello, the inner one learns which random is on the wire.
    pub(super) fn follows(&self, before: &Self) {
        let (Some(mut inner), Some(outer)) = (try_lock(&self.state), try_lock(&before.state))
        else {
            return;
        };
        let are_clients = [inner.role, outer.role] == [Some(Role::Client); 2];
        let (inner, outer) = (&mut inner.hellos.known, &outer.hellos.known);
        let are_two = (inner.ech, outer.ech) == (Ech::Inner, Ech::Outer);
        let is_answered = inner.server_random.is_some();
        if are_clients && are_two && is_answered && inner.server_random == outer.server_random {
            inner.outer_random = outer.client_random;
        }
    }

    /// The hash is read for good.
    pub(super) fn finish(&self) {
        if let Some(mut state) = self.lock() {
            // Of all that rustls hashes, only this begins with a whole ClientHello and ends with nothing.
            let known = &state.hellos.known;
            state.for_early_keys = state.updates == 2
                && state.last_was_empty
                && known.early_offered
                && known.server_random.is_none()
                && state.role == Some(Role::Client);
        }
    }

    /// rustls has dropped the transcript.
    pub(super) fn end(&self) {
        if let Some(mut state) = self.lock() {
            state.over = true;
            if !state.for_early_keys {
                self.done.store(true, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn known(&self) -> Option<Known> {
        self.lock().map(|state| state.hellos.known.clone())
    }

    /// Whether this handshake stands where rustls makes its first keys of this direction; they are then
    /// made, and won't be found a second time. `next`: its decrypter was made right before.
    pub(super) fn claim(
        self: &Arc<Self>,
        direction: Direction,
        tls13: bool,
        next: bool,
    ) -> Option<Claim> {
        let mut guard = try_lock(&self.state)?;
        let state = &mut *guard;
        let role = state.role?;
        let sent = direction == Direction::Sent;
        let phase = state.due(sent, tls13)?;
        // All but a TLS 1.3 server make both at once. Where a client doesn't, its encrypter takes the
        // place of the one for 0-RTT data later, and is known by that.
        let both_at_once = role == Role::Client || !tls13;
        if sent && both_at_once && !next && phase != Phase::Early {
            return None;
        }
        if sent {
            state.encrypter_made = true;
        } else {
            state.decrypter_made = true;
        }
        let last = both_at_once || state.encrypter_made && state.decrypter_made;
        if last {
            self.done.store(true, Ordering::Relaxed);
        }
        let connection = match state.connection.upgrade() {
            Some(connection) => connection,
            None => {
                let connection = Arc::new(Connection::new(role, self, &state.hellos.known, phase));
                state.connection = Arc::downgrade(&connection);
                connection
            }
        };
        Some(Claim {
            connection,
            phase,
            encrypter_next: !sent && both_at_once,
            evidence: match (role, phase) {
                _ if !sent => Evidence::Any,
                (Role::Server, _) => Evidence::Any,
                (Role::Client, Phase::Handshake) => Evidence::SameClient,
                (Role::Client, _) => Evidence::Ripe,
            },
        })
    }

    /// Takes a claim back that was a mistake: what was made replaces keys of another connection.
    pub(super) fn unclaim(&self, direction: Direction) {
        if let Some(mut state) = self.lock() {
            match direction {
                Direction::Sent => state.encrypter_made = false,
                Direction::Received => state.decrypter_made = false,
            }
            self.done
                .store(state.over && !state.for_early_keys, Ordering::Relaxed);
        }
    }
}

impl State {
    /// Which keys are due now: the table in the module above.
    fn due(&self, sent: bool, tls13: bool) -> Option<Phase> {
        let made = if sent {
            self.encrypter_made
        } else {
            self.decrypter_made
        };
        if made {
            return None;
        }
        if self.for_early_keys {
            return (sent && tls13).then_some(Phase::Early);
        }
        let known = &self.hellos.known;
        let version = if tls13 { 0x0304 } else { 0x0303 };
        if self.over || !self.hellos.both() || known.tls_version != Some(version) {
            return None;
        }
        if tls13 {
            let early = !sent && self.role == Some(Role::Server) && !self.encrypter_made;
            return Some(if early {
                Phase::Early
            } else {
                Phase::Handshake
            });
        }
        match self.messages.last()? {
            CLIENT_KEY_EXCHANGE | CERTIFICATE_VERIFY => Some(Phase::Whole),
            SERVER_HELLO if known.resumed => Some(Phase::Whole),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::desk::touched;
    use super::*;
    use crate::hello::tests::{client_hello_message, server_hello_message};

    const OUTER: &[u8] = &[0xfe, 0x0d, 0, 2, 0, 7];
    const INNER: &[u8] = &[0xfe, 0x0d, 0, 1, 1];
    const ANSWER: [u8; 32] = [9; 32];

    /// What rustls hashes at once.
    fn hash(handshake: &Arc<Handshake>, bytes: &[u8]) {
        handshake.update(bytes);
        touched(handshake);
    }

    fn begun(random: u8, extension: &[u8]) -> Arc<Handshake> {
        let handshake = Arc::default();
        hash(&handshake, &client_hello_message([random; 32], extension));
        handshake
    }

    fn answer(handshake: &Arc<Handshake>, random: [u8; 32]) {
        hash(handshake, &server_hello_message(random, &[]));
    }

    fn outer_random(handshake: &Handshake) -> Option<[u8; 32]> {
        handshake.known().unwrap().outer_random
    }

    #[test]
    fn an_inner_hello_learns_the_outer_ones_random() {
        let other = begun(5, &[]);
        let outer = begun(1, OUTER);
        answer(&outer, ANSWER);
        let inner = begun(2, INNER);
        // It is forked.
        touched(&inner);
        assert_eq!(outer_random(&inner), None);
        answer(&inner, ANSWER);
        assert_eq!(outer_random(&inner), Some([1; 32]));
        outer.end();
        touched(&inner);
        // Whatever comes behind it.
        answer(&other, ANSWER);
        touched(&inner);
        assert_eq!(outer_random(&inner), Some([1; 32]));
        assert_eq!(outer_random(&outer), None);
        assert_eq!(outer_random(&other), None);
    }

    #[test]
    fn it_learns_nothing_of_another() {
        let learns = |outer: Arc<Handshake>, answer_to_outer, between: &dyn Fn(&Handshake)| {
            answer(&outer, answer_to_outer);
            let inner = begun(2, INNER);
            between(&outer);
            answer(&inner, ANSWER);
            outer_random(&inner).is_some()
        };
        assert!(learns(begun(1, OUTER), ANSWER, &|_| ()));
        assert!(!learns(begun(1, &[]), ANSWER, &|_| ()));
        assert!(!learns(begun(1, INNER), ANSWER, &|_| ()));
        assert!(!learns(begun(1, OUTER), [8; 32], &|_| ()));
        assert!(!learns(begun(1, OUTER), ANSWER, &Handshake::end));
        let other = begun(3, OUTER);
        assert!(!learns(begun(1, OUTER), ANSWER, &|_| touched(&other)));
        let server = Arc::default();
        hash(&server, &[]);
        hash(&server, &client_hello_message([1; 32], OUTER));
        assert!(!learns(server, ANSWER, &|_| ()));
    }
}
