//! Which connection a half belongs to: what this thread has seen rustls do last.
//!
//! The rules, and why they hold, are in the module above.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};

use mirror_hook::event::Direction;

use super::connection::Connection;
use super::handshake::{Evidence, Handshake, Phase, try_lock};

/// Handshakes that may be in the middle of a call on one thread: one inside another, by callbacks.
const MAX_NESTED: usize = 8;

thread_local! {
    static DESK: RefCell<Desk> = const { RefCell::new(Desk::new()) };
}

#[derive(Debug)]
struct Desk {
    /// Touched on this thread and not done with, the last one last.
    handshakes: Vec<Arc<Handshake>>,
    /// Whose decrypter was made last, if its encrypter may follow.
    opening: Option<Arc<Handshake>>,
    /// Made last, if what is dropped next can be what it replaces.
    heir: Option<Heir>,
    /// The connection whose decrypter was replaced last, until something else happens than its
    /// encrypter being replaced, too.
    rekeyed: Weak<Connection>,
}

#[derive(Debug)]
struct Heir {
    seat: Weak<Seat>,
    /// Whose first keys it was found to be.
    claim: Option<(Arc<Handshake>, Evidence)>,
}

/// Whose a half is. Known when it is first used, not when it is made.
#[derive(Debug)]
pub(super) struct Seat {
    direction: Direction,
    taken: AtomicBool,
    place: Mutex<Place>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) phase: Option<Phase>,
}

/// A half that rustls gives up.
#[derive(Debug)]
pub(super) struct Leaving {
    pub(super) direction: Direction,
    pub(super) place: Place,
    /// It stands where rustls replaces such keys.
    pub(super) ripe: bool,
    /// It has encrypted or decrypted nothing.
    pub(super) unused: bool,
}

impl Seat {
    /// What it is now, and will be: the half is about to be used.
    pub(super) fn take(&self) -> Place {
        self.taken.store(true, Ordering::Relaxed);
        self.look()
    }

    /// What it is so far.
    pub(super) fn look(&self) -> Place {
        try_lock(&self.place).map_or_else(Place::default, |place| place.clone())
    }

    fn put(&self, place: Place) {
        if let Some(mut now) = try_lock(&self.place) {
            *now = place;
        }
    }
}

/// rustls has done something with a handshake's transcript on this thread.
pub(super) fn touched(handshake: &Arc<Handshake>) {
    with_desk(|desk| {
        let thread = desk.number();
        handshake.moved_to(thread);
        desk.opening = None;
        desk.heir = None;
        desk.rekeyed = Weak::new();
        desk.handshakes
            .retain(|known| !Arc::ptr_eq(known, handshake) && known.is_alive_on(thread));
        if let Some(before) = desk.handshakes.last() {
            handshake.follows(before);
        }
        if desk.handshakes.len() == MAX_NESTED {
            desk.handshakes.remove(0);
        }
        if handshake.is_alive_on(thread) {
            desk.handshakes.push(Arc::clone(handshake));
        }
    });
}

/// rustls makes a half on this thread.
pub(super) fn created(direction: Direction, tls13: bool) -> Arc<Seat> {
    let found = with_desk(|desk| {
        let opening = desk.opening.take();
        desk.heir = None;
        if direction == Direction::Received {
            desk.rekeyed = Weak::new();
        }
        if let Some(opening) = opening.filter(|_| direction == Direction::Sent) {
            let claim = opening.claim(direction, tls13, true)?;
            return Some((claim, opening));
        }
        let thread = desk.number();
        let recent = desk.handshakes.iter().rev();
        let mut here = recent.filter(|handshake| handshake.is_alive_on(thread));
        here.find_map(|handshake| {
            let claim = handshake.claim(direction, tls13, false)?;
            Some((claim, Arc::clone(handshake)))
        })
    });
    let (claim, handshake) = found.flatten().unzip();
    let encrypter_next = claim.as_ref().is_some_and(|claim| claim.encrypter_next);
    let opening = handshake.clone().filter(|_| encrypter_next);
    let claimed = handshake.zip(claim.as_ref().map(|claim| claim.evidence));
    let place = claim.map_or_else(Place::default, |claim| Place {
        connection: Some(claim.connection),
        phase: Some(claim.phase),
    });
    let seat = Arc::new(Seat {
        direction,
        taken: AtomicBool::new(false),
        place: Mutex::new(place),
    });
    let heir = tls13.then(|| Heir {
        seat: Arc::downgrade(&seat),
        claim: claimed,
    });
    with_desk(|desk| {
        desk.opening = opening;
        desk.heir = heir;
    });
    seat
}

/// rustls gives a half up on this thread.
pub(super) fn dropped(leaving: Leaving) {
    let noted = with_desk(|desk| {
        let rekeyed = std::mem::take(&mut desk.rekeyed);
        desk.opening = None;
        desk.heir.take().map(|heir| (heir, rekeyed.upgrade()))
    });
    let Some((heir, rekeyed)) = noted.flatten() else {
        return;
    };
    let (Some(seat), Some(connection)) = (heir.seat.upgrade(), leaving.place.connection.clone())
    else {
        return;
    };
    if seat.direction == leaving.direction && !seat.taken.load(Ordering::Relaxed) {
        succeed(&seat, heir.claim, &leaving, connection, rekeyed);
    }
}

/// The half in `seat` was made right before `leaving` was given up, which was of `connection`.
fn succeed(
    seat: &Seat,
    claim: Option<(Arc<Handshake>, Evidence)>,
    leaving: &Leaving,
    connection: Arc<Connection>,
    rekeyed: Option<Arc<Connection>>,
) {
    let sent = leaving.direction == Direction::Sent;
    let quic = leaving.unused && connection.may_be_quic();
    let next = match leaving.place.phase {
        Some(Phase::Early) => Phase::Handshake,
        Some(Phase::Handshake) if leaving.ripe || quic => Phase::Traffic,
        // rustls makes them twice where a HelloRetryRequest came upon 0-RTT data.
        Some(Phase::Handshake) if sent && leaving.unused && connection.had_early() => {
            Phase::Handshake
        }
        Some(Phase::Traffic) if leaving.ripe => Phase::Traffic,
        _ => return,
    };
    let early_ends = sent && leaving.place.phase == Some(Phase::Early);
    if let Some((handshake, evidence)) = claim {
        match evidence {
            Evidence::SameClient if early_ends => {
                if let Some(own) = seat.look().connection
                    && own.take_over(&connection)
                {
                    own.early_ended(leaving.ripe);
                }
                return;
            }
            Evidence::Ripe if early_ends && !leaving.ripe => {
                // Either of two: whose it is can't be known.
                seat.put(Place::default());
                return;
            }
            Evidence::Ripe | Evidence::SameClient if !leaving.ripe => return,
            _ => handshake.unclaim(leaving.direction),
        }
    }
    if early_ends {
        connection.early_ended(leaving.ripe);
    }
    if quic && sent && next == Phase::Traffic {
        connection.is_quic();
        // No record will come either way, and a server may keep its decrypter for 0-RTT data until now.
        connection.keyed(Direction::Received);
    }
    let connection = match rekeyed {
        // The decrypter's is the one that has seen the whole handshake.
        Some(other)
            if sent && !Arc::ptr_eq(&other, &connection) && other.take_over(&connection) =>
        {
            other
        }
        _ => connection,
    };
    seat.put(Place {
        connection: Some(Arc::clone(&connection)),
        phase: Some(next),
    });
    if next == Phase::Traffic {
        connection.keyed(leaving.direction);
    }
    if !sent {
        with_desk(|desk| desk.rekeyed = Arc::downgrade(&connection));
    }
}

/// Does nothing where the thread's locals are gone already.
fn with_desk<T>(work: impl FnOnce(&mut Desk) -> T) -> Option<T> {
    let done = DESK.try_with(|desk| desk.try_borrow_mut().ok().map(|mut desk| work(&mut desk)));
    done.ok().flatten()
}

impl Desk {
    const fn new() -> Self {
        Self {
            handshakes: Vec::new(),
            opening: None,
            heir: None,
            rekeyed: Weak::new(),
        }
    }

    /// A number that no other thread has at this time.
    fn number(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }
}
