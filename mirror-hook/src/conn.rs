//! The state of one mirrored connection: what it has announced where, and how far its streams are.

use std::mem::offset_of;

use crate::event::{
    Announcement, CloseReason, Direction, EarlyData, MAX_ALPN, MAX_SNI, META_BYTES, Transport,
};
use crate::guard::{guarded, guarded_apart};
use crate::hook::{Info, Mirror};
use crate::layout::control;
use crate::look;
use crate::process::{self, Ring};
use crate::records::{Place, write_close, write_open, write_update};
use crate::ring::ClosedConnection;
use crate::socket::SocketFacts;

mod decide;

/// Mirrors one connection into the process's ring. All zeros before its first use.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// The ring in which it is announced, or excluded; or 0.
    instance: u64,
    /// Its number there; 0: it wasn't announced there.
    connection: u64,
    sent: u64,
    received: u64,
    flags: u64,
    /// What looks at the process's sockets have cost so far, of `LOOKS`.
    looks: u64,
    reserved: [u64; 2],
}

const _: () = assert!(size_of::<Conn>() == 64);

/// An OPEN found no room; the connection wants another.
const OPEN_DEFERRED: u64 = 1;
/// An UPDATE found no room; the connection wants `open` called, which repeats it.
const UPDATE_DEFERRED: u64 = 1 << 1;
const SENT_ENDED: u64 = 1 << 2;
const RECEIVED_ENDED: u64 = 1 << 3;
/// Its CLOSE has been written, or was due while nothing was mirrored.
const ABORTED: u64 = 1 << 4;
/// DTLS or QUIC: announced and closed, without its text.
const WITHOUT_TEXT: u64 = 1 << 5;
/// The policy excludes it, or may: it isn't announced in the ring in which that was found.
const EXCLUDED: u64 = 1 << 6;
/// That, or that it is mirrored, was found before the agent had answered.
const UNANSWERED: u64 = 1 << 7;
/// It is excluded for want of a fact that the end of the handshake brings.
const INCOMPLETE: u64 = 1 << 8;
/// It stands in the counter of excluded sessions.
const COUNTED: u64 = 1 << 9;
/// What looks at the process's sockets may cost for one connection: there are enough calls for them from the end of its handshake
/// to its first response. Behind that, looks from outside do.
const LOOKS: u64 = 6;
/// What one costs …
const LOOK: u64 = 1;
/// … that found one socket alone where the connection stands: two of them say whose it is.
const LONE_LOOK: u64 = 3;
/// What a decision leaves; all of it is about one ring.
const DECISION: u64 = EXCLUDED | UNANSWERED | INCOMPLETE | COUNTED;

impl Conn {
    /// Where the offsets lie, for who counts in C.
    pub(crate) const SENT_AT: usize = offset_of!(Self, sent);
    pub(crate) const RECEIVED_AT: usize = offset_of!(Self, received);

    /// A connection before its first use.
    pub const fn new() -> Self {
        Self {
            instance: 0,
            connection: 0,
            sent: 0,
            received: 0,
            flags: 0,
            looks: 0,
            reserved: [0; 2],
        }
    }

    /// Offsets sent and received so far.
    pub fn offsets(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// The ring in use, if this connection has been announced or excluded there.
    fn known_in(&self) -> Option<&'static Ring> {
        process::ring().filter(|ring| ring.instance == self.instance)
    }

    /// The ring in which this connection is announced, if that is the one in use.
    fn announced(&self) -> Option<&'static Ring> {
        self.known_in().filter(|_| !self.has(EXCLUDED))
    }

    /// Counts `length` bytes. `true`: something is mirrored in this process, and this connection isn't
    /// excluded, so `copy_now` has to follow. Else this is all that a call costs: no panic, no call, a
    /// few instructions.
    #[inline]
    pub(crate) fn advance(&mut self, direction: Direction, length: u64) -> bool {
        let offset = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        *offset = offset.wrapping_add(length);
        process::ring().is_some() && !self.has(EXCLUDED)
    }

    /// Where the `length` bytes that were counted last are to be copied, if they are.
    fn place(&self, direction: Direction, length: u64) -> Option<Place> {
        let ring = self.known_in()?;
        let offset = match direction {
            Direction::Sent => self.sent,
            Direction::Received => self.received,
        };
        let wanted = length != 0 && !self.has(ABORTED | WITHOUT_TEXT | EXCLUDED);
        wanted.then_some(Place {
            ring,
            connection: self.connection,
            direction,
            from: offset.wrapping_sub(length),
        })
    }

    /// The copying part of `sent` and `received`, behind `advance`.
    pub(crate) fn copy_now(&self, direction: Direction, bytes: &[u8]) {
        if let Some(place) = self.place(direction, bytes.len() as u64) {
            place.copy(bytes);
        }
    }

    pub(crate) fn declare_lost_now(&self, direction: Direction, bytes: u64) {
        if let Some(place) = self.place(direction, bytes) {
            place.declare_lost(bytes);
        }
    }

    /// Whether [`Conn::wants_open_now`] has to be asked: not where nothing is mirrored.
    #[inline]
    pub(crate) fn may_want_open(&self) -> bool {
        match process::ring() {
            Some(ring) => {
                ring.instance != self.instance
                    || self.has(UPDATE_DEFERRED | UNANSWERED | INCOMPLETE)
            }
            None => process::is_child(),
        }
    }

    pub(crate) fn wants_open_now(&self) -> bool {
        if self.has(ABORTED) {
            return false;
        }
        let Some(ring) = process::ring() else {
            return process::is_unnoticed_child();
        };
        if ring.producer.detached() {
            return false;
        }
        if ring.instance == self.instance && !self.has(UPDATE_DEFERRED) {
            return self.is_undecided(ring);
        }
        // What found no room is tried again when there is some.
        let deferred = self.has(OPEN_DEFERRED | UPDATE_DEFERRED);
        !deferred || ring.producer.fits_open(META_BYTES + MAX_SNI + MAX_ALPN)
    }

    pub(crate) fn open_now(&mut self, info: &mut Info<'_>) {
        process::attach_child();
        let Some(ring) = process::ring() else {
            return;
        };
        if self.has(ABORTED) || ring.producer.detached() {
            return;
        }
        if self.instance == ring.instance && !self.is_undecided(ring) {
            if self.has(UPDATE_DEFERRED) {
                self.update_now(info);
            }
            return;
        }
        if self.instance == ring.instance && !self.has(EXCLUDED) {
            return self.announced_unanswered(ring, info);
        }
        // Before the socket is asked: a ring that nobody reads costs no system call.
        let length = META_BYTES + info.meta.sni.len() + info.meta.alpn.len();
        if !ring.producer.fits_open(length) && !ring.patience.may_wait() {
            self.defer_open(ring);
            return;
        }
        self.fill(info);
        let before = (self.instance, self.connection);
        if !self.decide(ring, &info.meta) {
            return;
        }
        let never_announced = before.1 == 0;
        let announcement = if !never_announced && !ring.same_process(before.0) {
            Announcement::Inherited
        } else if never_announced && self.offsets() == (0, 0) {
            Announcement::New
        } else {
            Announcement::Midstream
        };
        let inherited = announcement == Announcement::Inherited;
        let meta = &mut info.meta;
        meta.announcement = announcement;
        meta.parent = inherited.then_some(before);
        let connection = ring.new_connection();
        if !write_open(ring, connection, meta) {
            self.defer_open(ring);
            if self.instance == ring.instance {
                // It was excluded here, and isn't announced yet.
                self.instance = 0;
            }
            return;
        }
        self.instance = ring.instance;
        self.connection = connection;
        self.flags &= !(OPEN_DEFERRED | UPDATE_DEFERRED);
        if meta.transport != Transport::Tcp {
            self.flags |= WITHOUT_TEXT;
            ring.count(control::NOT_MIRRORED, 1);
        }
        // What this ring doesn't know yet.
        for (flag, reason) in [
            (SENT_ENDED, CloseReason::SentEnd),
            (RECEIVED_ENDED, CloseReason::ReceivedEnd),
        ] {
            if self.has(flag) {
                self.write_end(ring, reason);
            }
        }
        self.look(ring, info);
    }

    /// Where its library has no socket: tells an agent that asks for it what those of the process have carried. Behind the
    /// connection's own word.
    fn look(&mut self, ring: &Ring, info: &Info<'_>) {
        let meta = &info.meta;
        let has_socket = info.socket.is_some() || meta.addresses.is_some();
        if has_socket || self.looks >= LOOKS || !process::tells_sockets() {
            return;
        }
        if let Some(own) = meta.wire_counts
            && meta.transport == Transport::Tcp
        {
            self.looks += match look::tell(ring, self.connection, own) {
                true => LONE_LOOK,
                false => LOOK,
            };
        }
    }

    fn defer_open(&mut self, ring: &Ring) {
        if !self.has(OPEN_DEFERRED) {
            ring.count(control::OPENS_DEFERRED, 1);
        }
        self.flags |= OPEN_DEFERRED;
    }

    pub(crate) fn update_now(&mut self, info: &mut Info<'_>) {
        if self.has(EXCLUDED) && self.known_in().is_some() {
            // What is known now may be what a decision lacked.
            self.flags |= INCOMPLETE;
            return self.open_now(info);
        }
        let Some(ring) = self.announced().filter(|_| !self.has(ABORTED)) else {
            return;
        };
        self.fill(info);
        if write_update(ring, self.connection, &info.meta) {
            self.flags &= !UPDATE_DEFERRED;
            self.look(ring, info);
        } else {
            self.flags |= UPDATE_DEFERRED;
        }
    }

    pub(crate) fn early_rejected_now(&mut self, info: &mut Info<'_>) {
        self.sent = 0;
        let Some(ring) = self.announced().filter(|_| !self.has(ABORTED)) else {
            return;
        };
        self.fill(info);
        info.meta.early = EarlyData::Rejected;
        if !write_update(ring, self.connection, &info.meta) {
            // Offsets that begin again unannounced would be wrong data: end this announcement, and
            // begin another, which needs nothing of this one.
            write_close(ring, &self.closed(CloseReason::Abort));
            self.instance = 0;
            self.connection = 0;
            self.flags |= OPEN_DEFERRED;
        }
    }

    pub(crate) fn end_now(&mut self, direction: Direction) {
        let (flag, reason) = match direction {
            Direction::Sent => (SENT_ENDED, CloseReason::SentEnd),
            Direction::Received => (RECEIVED_ENDED, CloseReason::ReceivedEnd),
        };
        if self.has(flag) {
            return;
        }
        self.flags |= flag;
        if let Some(ring) = self
            .announced()
            .filter(|_| !self.has(ABORTED | WITHOUT_TEXT))
        {
            self.write_end(ring, reason);
        }
    }

    pub(crate) fn finish(&mut self, reason: CloseReason) {
        if self.has(ABORTED) {
            // It has been told.
        } else if let Some(ring) = self.announced() {
            write_close(ring, &self.closed(reason));
        } else if self.has(EXCLUDED) {
            if let Some(ring) = self.known_in().filter(|_| !self.has(COUNTED)) {
                // It ended before that could be found out for good.
                self.count_excluded(ring, true);
            }
        } else if let Some(ring) = process::ring() {
            self.count_untold(ring);
        }
        match reason {
            CloseReason::Abort => self.flags |= ABORTED,
            _ => *self = Self::new(),
        }
    }

    /// It ends, and no record has told of it: there was no room, or the ring came when it had said its last. (Another thread
    /// attached meanwhile, or the agent is younger than it.)
    fn count_untold(&self, ring: &Ring) {
        let bytes = self.sent.wrapping_add(self.received);
        if self.has(OPEN_DEFERRED) {
            ring.count(control::OPENS_LOST, 1);
            ring.count(control::UNTOLD_BYTES, bytes);
        } else if self.connection == 0 && bytes != 0 && !ring.producer.detached() {
            ring.count(control::MISSED, 1);
            ring.count(control::MISSED_BYTES, bytes);
        }
    }

    /// The end of one direction. Where it finds no room it is dropped: the connection's end tells.
    fn write_end(&self, ring: &Ring, reason: CloseReason) {
        if !write_close(ring, &self.closed(reason)) {
            ring.count(control::DROPPED_RECORDS, 1);
        }
    }

    fn closed(&self, reason: CloseReason) -> ClosedConnection {
        ClosedConnection {
            connection: self.connection,
            reason,
            sent: self.sent,
            received: self.received,
            at_ns: process::now_ns(),
        }
    }

    /// Adds to what the caller knows what the socket and this connection know. In place: a `Meta` is
    /// large for a stack that isn't ours.
    fn fill(&self, info: &mut Info<'_>) {
        let meta = &mut info.meta;
        if let Some(socket) = info.socket {
            let wire_written = meta.wire_counts.map(|counts| counts.1);
            let facts = SocketFacts::ask(socket, wire_written);
            meta.addresses = meta.addresses.or(facts.addresses);
            meta.cookies = meta.cookies.or(facts.cookies);
            meta.clear_prefix_sent = meta.clear_prefix_sent.or(facts.clear_prefix_sent);
        }
        meta.offsets = self.offsets();
        meta.parent = None;
        meta.forks = process::forks();
        meta.announcement = Announcement::New;
        meta.sni = meta.sni.get(..MAX_SNI).unwrap_or(meta.sni);
        meta.alpn = meta.alpn.get(..MAX_ALPN).unwrap_or(meta.alpn);
    }
}

impl Mirror for Conn {
    fn wants_open(&self) -> bool {
        self.may_want_open() && guarded_apart(|| self.wants_open_now())
    }

    fn open(&mut self, info: &Info<'_>) {
        guarded(|| self.open_now(&mut info.clone()));
    }

    fn update(&mut self, info: &Info<'_>) {
        guarded(|| self.update_now(&mut info.clone()));
    }

    fn sent(&mut self, bytes: &[u8]) {
        if self.advance(Direction::Sent, bytes.len() as u64) {
            guarded_apart(|| self.copy_now(Direction::Sent, bytes));
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        if self.advance(Direction::Received, bytes.len() as u64) {
            guarded_apart(|| self.copy_now(Direction::Received, bytes));
        }
    }

    fn lost(&mut self, direction: Direction, bytes: u64) {
        if self.advance(direction, bytes) {
            guarded_apart(|| self.declare_lost_now(direction, bytes));
        }
    }

    fn early_rejected(&mut self, info: &Info<'_>) {
        guarded(|| self.early_rejected_now(&mut info.clone()));
    }

    fn end(&mut self, direction: Direction) {
        guarded(|| self.end_now(direction));
    }

    fn abort(&mut self) {
        guarded(|| self.finish(CloseReason::Abort));
    }

    fn close(&mut self) {
        guarded(|| self.finish(CloseReason::Free));
    }
}
