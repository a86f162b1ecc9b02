//! One connection: the session that both its halves feed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use mirror_hook::event::{Direction, EarlyData, Role, Transport};

use super::handshake::{Handshake, Phase, try_lock};
use crate::hello::{Ech, Known};
use crate::session::Session;

/// Shared by the two halves. rustls uses them one after the other, so the lock is free; where it isn't,
/// nobody waits, and what passed meanwhile is declared lost.
#[derive(Debug)]
pub(super) struct Connection {
    role: Role,
    client_random: Option<[u8; 32]>,
    /// Made for a client's 0-RTT data: the rest of the handshake makes another, which takes this one's
    /// session over.
    early: bool,
    inner: Mutex<Inner>,
    lost_sent: AtomicU64,
    lost_received: AtomicU64,
}

#[derive(Debug)]
struct Inner {
    session: Session,
    role: Role,
    /// Until it has ended.
    handshake: Option<Arc<Handshake>>,
    /// It has taken such a session over.
    had_early: bool,
    encrypter_keyed: bool,
    decrypter_keyed: bool,
    /// close_notify has passed: what follows it the peer has to ignore (RFC 8446 6.1).
    sent_ended: bool,
    received_ended: bool,
    /// What it was taken for has proved wrong.
    refuted: bool,
}

impl Connection {
    pub(super) fn new(role: Role, handshake: &Arc<Handshake>, known: &Known, phase: Phase) -> Self {
        let mut session = Session::new(role);
        let early = role == Role::Client && phase == Phase::Early;
        if early {
            session.facts_mut().early = EarlyData::Pending;
        }
        let mut inner = Inner {
            session,
            role,
            handshake: Some(Arc::clone(handshake)),
            had_early: false,
            encrypter_keyed: false,
            decrypter_keyed: false,
            sent_ended: false,
            received_ended: false,
            refuted: false,
        };
        inner.learn(known.clone());
        Self {
            role,
            client_random: known.client_random,
            early,
            inner: Mutex::new(inner),
            lost_sent: AtomicU64::new(0),
            lost_received: AtomicU64::new(0),
        }
    }

    /// Clear text of one record, in pieces. `false`: it isn't mirrored, see [`Connection::is`].
    pub(super) fn text<'a>(
        &self,
        direction: Direction,
        pieces: impl Iterator<Item = &'a [u8]> + Clone,
    ) -> bool {
        let lost = match direction {
            Direction::Sent => &self.lost_sent,
            Direction::Received => &self.lost_received,
        };
        let Some(mut inner) = try_lock(&self.inner) else {
            let length = pieces.map(|piece| piece.len() as u64).sum();
            // Pairs with the swap below: the next who gets in declares it.
            lost.fetch_add(length, Ordering::Relaxed);
            return true;
        };
        if inner.refuted {
            return false;
        }
        let ended = match direction {
            Direction::Sent => inner.sent_ended,
            Direction::Received => inner.received_ended,
        };
        if ended {
            return true;
        }
        inner.refresh();
        let before = lost.load(Ordering::Relaxed);
        if before != 0 {
            // Pairs with the addition above.
            let before = lost.swap(0, Ordering::Relaxed);
            inner.session.lost(direction, before);
        }
        for piece in pieces {
            match direction {
                Direction::Sent => inner.session.sent(piece),
                Direction::Received => inner.session.received(piece),
            }
        }
        true
    }

    /// These keys are the last that the handshake makes for this direction.
    pub(super) fn keyed(&self, direction: Direction) {
        if let Some(mut inner) = try_lock(&self.inner) {
            match direction {
                Direction::Sent => inner.encrypter_keyed = true,
                Direction::Received => inner.decrypter_keyed = true,
            }
            if inner.encrypter_keyed && inner.decrypter_keyed && inner.handshake.is_some() {
                inner.refresh();
                inner.handshake = None;
                if !inner.refuted {
                    inner.session.handshake_ended(None);
                }
            }
        }
    }

    /// A Finished of TLS 1.2 has passed, behind which nothing of the handshake comes in this direction.
    /// The client's is the first, or the server's where a session is resumed (RFC 5246 7.3).
    pub(super) fn finished(&self, direction: Direction) {
        let first = try_lock(&self.inner).and_then(|mut inner| {
            let first = !inner.encrypter_keyed && !inner.decrypter_keyed;
            inner.refresh();
            first.then(|| inner.session.known_mut().resumed)
        });
        if let Some(resumed) = first {
            let sent = direction == Direction::Sent;
            self.is(if sent != resumed {
                Role::Client
            } else {
                Role::Server
            });
        }
        self.keyed(direction);
    }

    /// The handshake has shown which end this is. Were it another than was thought, directions would be
    /// swapped: nothing is mirrored then.
    pub(super) fn is(&self, role: Role) {
        if let Some(mut inner) = try_lock(&self.inner)
            && inner.role != role
        {
            inner.refuted = true;
        }
    }

    /// No record was ever made with the handshake's keys, and its hello says QUIC.
    pub(super) fn is_quic(&self) {
        if let Some(mut inner) = try_lock(&self.inner) {
            inner.session.facts_mut().transport = Transport::Quic;
        }
    }

    /// Whether its hello says QUIC.
    pub(super) fn may_be_quic(&self) -> bool {
        try_lock(&self.inner).is_some_and(|mut inner| inner.session.known_mut().quic)
    }

    /// Whether it began with a client's 0-RTT data, which other keys have followed.
    pub(super) fn had_early(&self) -> bool {
        try_lock(&self.inner).is_some_and(|inner| inner.had_early)
    }

    /// What became of the 0-RTT data that a client has sent.
    pub(super) fn early_ended(&self, accepted: bool) {
        if let Some(mut inner) = try_lock(&self.inner) {
            inner.refresh();
            if accepted {
                inner.session.facts_mut().early = EarlyData::Accepted;
            } else {
                inner.session.early_rejected(None);
            }
        }
    }

    pub(super) fn end(&self, direction: Direction) {
        if let Some(mut inner) = try_lock(&self.inner) {
            match direction {
                Direction::Sent => inner.sent_ended = true,
                Direction::Received => inner.received_ended = true,
            }
            inner.session.end(direction);
        }
    }

    pub(super) fn abort(&self) {
        if let Some(mut inner) = try_lock(&self.inner) {
            inner.session.abort();
        }
    }

    /// Takes over the session of `early`, which began with the 0-RTT data of this connection; if it is
    /// this one's.
    pub(super) fn take_over(&self, early: &Self) -> bool {
        // First what needs no lock: this one may be any, and in use elsewhere.
        let same = self.client_random.is_some() && self.client_random == early.client_random;
        let clients = self.role == Role::Client && early.role == Role::Client;
        if !same || !clients || self.early || !early.early {
            return false;
        }
        let (Some(mut to), Some(mut from)) = (try_lock(&self.inner), try_lock(&early.inner)) else {
            return false;
        };
        let facts = *from.session.facts_mut();
        std::mem::swap(&mut to.session, &mut from.session);
        *to.session.facts_mut() = facts;
        to.had_early = true;
        for lost in [
            (&self.lost_sent, &early.lost_sent),
            (&self.lost_received, &early.lost_received),
        ] {
            // As the addition in `text`.
            lost.0
                .fetch_add(lost.1.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        }
        to.encrypter_keyed |= from.encrypter_keyed;
        true
    }
}

impl Inner {
    fn refresh(&mut self) {
        if let Some(known) = self.handshake.as_ref().and_then(|from| from.known()) {
            self.learn(known);
        }
    }

    fn learn(&mut self, mut known: Known) {
        if known.ech == Ech::Inner {
            // By the one on the wire its addresses are found, and the other end knows it.
            known.client_random = known.outer_random;
        }
        if self.role == Role::Server && known.early_accepted == Some(true) {
            self.session.facts_mut().early = EarlyData::Accepted;
        }
        *self.session.known_mut() = known;
    }
}
