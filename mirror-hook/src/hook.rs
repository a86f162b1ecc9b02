//! One TLS connection as the hook sees it: what a library's send and receive calls tell.
//!
//! A wrapper around a TLS library keeps a [`Conn`] beside each connection and calls [`Mirror`]:
//!
//! ```text
//!   handshake()                     when a handshake begins
//!   wants_open() -> open(info)      before each record: announces what has to be announced
//!   sent(bytes), received(bytes)    what the library accepted, or handed to the application
//!   update(info)                    when more is known
//!   end(direction), abort()         close_notify, fatal errors
//!   close()                         the application gives the connection back
//! ```
//!
//! Stream offsets are counted always, also while nothing is mirrored: what is missing is then known
//! to the byte. No call blocks, fails or panics; whatever happens to the mirror stays in here.

use std::fmt;
use std::os::fd::BorrowedFd;

use crate::event::{
    Announcement, CloseReason, Direction, EarlyData, MAX_ALPN, MAX_SNI, META_BYTES, Meta, Transport,
};
use crate::guard::guarded;
use crate::layout::{FLAG_RECEIVED, MAX_PAYLOAD, control, kind};
use crate::process::{self, Ring};
use crate::ring::{ClosedConnection, Record, Refused};
use crate::socket::SocketFacts;

/// What is known of a connection when it is announced.
#[derive(Clone, Copy, Debug)]
pub struct Info<'a> {
    /// What the TLS library knows. The hook fills in `announcement`, `offsets`, `parent`, and from
    /// the socket what isn't there: `addresses`, `cookies`, `clear_prefix_sent`.
    pub meta: Meta<'a>,
    /// The connection's socket, if the library has one. Borrowed for the call.
    pub socket: Option<BorrowedFd<'a>>,
}

/// Takes what passes through one TLS connection.
///
/// The defaults do nothing: see [`NoMirror`].
pub trait Mirror: fmt::Debug + Send {
    /// Whether [`Mirror::open`] has to be called before the connection's next record. Collecting
    /// what `open` needs is expensive; this isn't.
    fn wants_open(&self) -> bool {
        false
    }
    /// Announces the connection, if that is due.
    fn open(&mut self, _info: &Info<'_>) {}
    /// More is known.
    fn update(&mut self, _info: &Info<'_>) {}
    /// Clear text that the TLS library has accepted from the application.
    fn sent(&mut self, _bytes: &[u8]) {}
    /// Clear text that the TLS library has handed to the application.
    fn received(&mut self, _bytes: &[u8]) {}
    /// This many bytes passed that the caller has no copy of.
    fn lost(&mut self, _direction: Direction, _bytes: u64) {}
    /// 0-RTT data was rejected: what was sent so far was never read. Offsets begin again at 0.
    fn early_rejected(&mut self, _info: &Info<'_>) {}
    /// Nothing more comes in this direction. Repeats are ignored.
    fn end(&mut self, _direction: Direction) {}
    /// A fatal error ended the connection.
    fn abort(&mut self) {}
    /// The connection is given back; `self` is as it was before its first use.
    fn close(&mut self) {}
}

/// A connection that nobody watches.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoMirror;

impl Mirror for NoMirror {}

/// A handshake begins: asks for an agent if there is none. The only function that makes system
/// calls on other things than the socket that is given to [`Mirror::open`] and [`Mirror::update`].
pub fn handshake() {
    guarded(process::handshake);
}

/// Mirrors one connection into the process's ring. All zeros before its first use.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Conn {
    /// The ring in which it is announced, or 0.
    instance: u64,
    /// Its number there.
    connection: u64,
    sent: u64,
    received: u64,
    flags: u64,
    reserved: [u64; 3],
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

impl Conn {
    /// A connection before its first use.
    pub const fn new() -> Self {
        Self {
            instance: 0,
            connection: 0,
            sent: 0,
            received: 0,
            flags: 0,
            reserved: [0; 3],
        }
    }

    /// Offsets sent and received so far.
    pub fn offsets(&self) -> (u64, u64) {
        (self.sent, self.received)
    }

    fn has(&self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// The ring in which this connection is announced, if that is the one in use.
    #[inline]
    fn announced(&self) -> Option<&'static Ring> {
        process::ring().filter(|ring| ring.instance == self.instance)
    }

    /// Counts `length` bytes; where they are to be copied, if they are. The fast path: nothing in
    /// here panics or touches errno.
    #[inline]
    pub(crate) fn advance(&mut self, direction: Direction, length: u64) -> Option<Place> {
        let offset = match direction {
            Direction::Sent => &mut self.sent,
            Direction::Received => &mut self.received,
        };
        let from = *offset;
        *offset = from.wrapping_add(length);
        let ring = self.announced()?;
        let wanted = length != 0 && !self.has(ABORTED | WITHOUT_TEXT);
        wanted.then_some(Place {
            ring,
            connection: self.connection,
            direction,
            from,
        })
    }

    /// [`Mirror::wants_open`] up to where it gets more expensive: `None` is "perhaps".
    #[inline]
    pub(crate) fn surely_wants_open(&self) -> Option<bool> {
        match process::ring() {
            Some(ring) if ring.instance == self.instance && !self.has(UPDATE_DEFERRED) => {
                Some(false)
            }
            Some(_) => None,
            None if process::is_unnoticed_child() => None,
            None => Some(false),
        }
    }

    pub(crate) fn perhaps_wants_open(&self) -> bool {
        if self.has(ABORTED) {
            return false;
        }
        let Some(ring) = process::ring() else {
            return process::is_unnoticed_child();
        };
        if ring.producer.detached() {
            return false;
        }
        // What found no room is tried again when there is some.
        let deferred = self.has(OPEN_DEFERRED | UPDATE_DEFERRED);
        !deferred || ring.producer.fits(META_BYTES + MAX_SNI + MAX_ALPN)
    }

    pub(crate) fn open_now(&mut self, info: &mut Info<'_>) {
        process::attach_child();
        let Some(ring) = process::ring() else {
            return;
        };
        if self.has(ABORTED) || ring.producer.detached() {
            return;
        }
        if self.instance == ring.instance {
            if self.has(UPDATE_DEFERRED) {
                self.update_now(info);
            }
            return;
        }
        let never_announced = self.instance == 0;
        let announcement = if !never_announced && !ring.same_process(self.instance) {
            Announcement::Inherited
        } else if never_announced && self.offsets() == (0, 0) {
            Announcement::New
        } else {
            Announcement::Midstream
        };
        let inherited = announcement == Announcement::Inherited;
        self.fill(info);
        let meta = &mut info.meta;
        meta.announcement = announcement;
        meta.parent = inherited.then_some((self.instance, self.connection));
        let connection = ring.new_connection();
        if !write_meta(ring, kind::OPEN, connection, meta) {
            if !self.has(OPEN_DEFERRED) {
                ring.count(control::OPENS_DEFERRED, 1);
            }
            self.flags |= OPEN_DEFERRED;
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
    }

    pub(crate) fn update_now(&mut self, info: &mut Info<'_>) {
        let Some(ring) = self.announced().filter(|_| !self.has(ABORTED)) else {
            return;
        };
        self.fill(info);
        if write_meta(ring, kind::UPDATE, self.connection, &info.meta) {
            self.flags &= !UPDATE_DEFERRED;
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
        if !write_meta(ring, kind::UPDATE, self.connection, &info.meta) {
            // Offsets that begin again unannounced would be wrong data: end this announcement, and
            // begin another, which needs nothing of this one.
            ring.producer.table_close(&self.closed(CloseReason::Abort));
            self.instance = 0;
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
        if let Some(ring) = self.announced().filter(|_| !self.has(ABORTED)) {
            let closed = self.closed(reason);
            if matches!(write_close(ring, &closed), Err(Refused::Full)) {
                ring.producer.table_close(&closed);
            }
        }
        match reason {
            CloseReason::Abort => self.flags |= ABORTED,
            _ => *self = Self::new(),
        }
    }

    /// The end of one direction. Where it finds no room it is dropped: the connection's end tells.
    fn write_end(&self, ring: &Ring, reason: CloseReason) {
        if matches!(write_close(ring, &self.closed(reason)), Err(Refused::Full)) {
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
        meta.announcement = Announcement::New;
        meta.sni = meta.sni.get(..MAX_SNI).unwrap_or(meta.sni);
        meta.alpn = meta.alpn.get(..MAX_ALPN).unwrap_or(meta.alpn);
    }
}

impl Mirror for Conn {
    fn wants_open(&self) -> bool {
        self.surely_wants_open()
            .unwrap_or_else(|| guarded(|| self.perhaps_wants_open()))
    }

    fn open(&mut self, info: &Info<'_>) {
        guarded(|| self.open_now(&mut info.clone()));
    }

    fn update(&mut self, info: &Info<'_>) {
        guarded(|| self.update_now(&mut info.clone()));
    }

    fn sent(&mut self, bytes: &[u8]) {
        if let Some(place) = self.advance(Direction::Sent, bytes.len() as u64) {
            guarded(|| place.copy(bytes));
        }
    }

    fn received(&mut self, bytes: &[u8]) {
        if let Some(place) = self.advance(Direction::Received, bytes.len() as u64) {
            guarded(|| place.copy(bytes));
        }
    }

    fn lost(&mut self, direction: Direction, bytes: u64) {
        if let Some(place) = self.advance(direction, bytes) {
            guarded(|| place.declare_lost(bytes));
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

/// Where the next clear text of a connection belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    ring: &'static Ring,
    connection: u64,
    direction: Direction,
    from: u64,
}

impl Place {
    /// Copies the clear text of one call, in records of at most [`MAX_PAYLOAD`] bytes. What finds no
    /// room is counted; the offset of what comes next shows the hole.
    pub(crate) fn copy(&self, bytes: &[u8]) {
        let record = self.record(kind::DATA);
        let mut offset = self.from;
        for chunk in bytes.chunks(MAX_PAYLOAD) {
            let parts = [&offset.to_ne_bytes()[..], chunk];
            match write(self.ring, record, &parts) {
                Ok(()) => {}
                Err(Refused::Full) => {
                    self.ring.count(control::DROPPED_RECORDS, 1);
                    self.ring.count(control::DROPPED_BYTES, chunk.len() as u64);
                }
                Err(Refused::Detached | Refused::Hostile) => return,
            }
            offset = offset.wrapping_add(chunk.len() as u64);
        }
    }

    /// Tells the agent of a hole. If that finds no room, the offset of what comes next does.
    pub(crate) fn declare_lost(&self, bytes: u64) {
        let to = self.from.saturating_add(bytes);
        let parts = [&self.from.to_ne_bytes()[..], &to.to_ne_bytes()];
        let _ = write(self.ring, self.record(kind::LOST), &parts);
    }

    fn record(&self, kind: u8) -> Record {
        Record {
            kind,
            flags: match self.direction {
                Direction::Sent => 0,
                Direction::Received => FLAG_RECEIVED,
            },
            connection: self.connection,
            at_ns: process::now_ns(),
        }
    }
}

/// Writes an OPEN or UPDATE; `false`: there is no room, try again later.
fn write_meta(ring: &Ring, kind: u8, connection: u64, meta: &Meta<'_>) -> bool {
    let record = Record {
        kind,
        flags: 0,
        connection,
        at_ns: process::now_ns(),
    };
    write(ring, record, &[&meta.encode_fixed(), meta.sni, meta.alpn]).is_ok()
}

fn write_close(ring: &Ring, closed: &ClosedConnection) -> Result<(), Refused> {
    let record = Record {
        kind: kind::CLOSE,
        flags: 0,
        connection: closed.connection,
        at_ns: closed.at_ns,
    };
    let reason = closed.reason as u64;
    let parts = [
        &closed.sent.to_ne_bytes()[..],
        &closed.received.to_ne_bytes(),
        &reason.to_ne_bytes(),
    ];
    write(ring, record, &parts)
}

fn write(ring: &Ring, record: Record, parts: &[&[u8]]) -> Result<(), Refused> {
    let result = ring.producer.write(record, parts);
    if matches!(result, Err(Refused::Hostile)) {
        process::turn_off();
    }
    result
}
