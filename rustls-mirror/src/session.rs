//! One TLS connection of this crate as the hook sees it: what is known of it, and its passage to
//! [`mirror_hook`]. The wrappers and the wrapped provider each keep one beside a connection.
//!
//! ```text
//!   Session::new(role)             a connection is made
//!   known_mut()                    what its hellos say
//!   handshake_ended(socket)        randoms, version and cipher are final
//!   sent(), received()             what rustls accepted, or handed to the application
//!   end(direction), abort()        close_notify, fatal errors
//!   drop                           the connection is given back
//! ```
//!
//! Nothing here blocks, fails or panics.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use mirror_hook::event::{Direction, EarlyData, Meta, Role, Transport};
use mirror_hook::hook::{self, Conn, Info, Mirror};

use crate::hello::Known;

/// A mirrored connection. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Session {
    conn: Conn,
    role: Role,
    known: Known,
    facts: Facts,
    handshake_done: bool,
}

/// What the hellos don't tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) transport: Transport,
    pub(crate) early: EarlyData,
    /// Bytes read from and written to the transport.
    pub(crate) wire_counts: Option<(u64, u64)>,
    /// Local and peer address, as the application told.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Session {
    /// A connection whose handshake is about to begin: asks for an agent, if there is none.
    pub(crate) fn new(role: Role) -> Self {
        hook::handshake();
        Self {
            conn: Conn::new(),
            role,
            known: Known::default(),
            facts: Facts {
                transport: Transport::Tcp,
                early: EarlyData::None,
                wire_counts: None,
                addresses: None,
            },
            handshake_done: false,
        }
    }

    pub(crate) fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    pub(crate) fn facts_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }

    pub(crate) fn handshake_done(&self) -> bool {
        self.handshake_done
    }

    /// Everything is known that will be. Announces the connection, or completes what was announced
    /// with its early data. `socket` is borrowed for the call.
    pub(crate) fn handshake_ended(&mut self, socket: Option<BorrowedFd<'_>>) {
        self.handshake_done = true;
        // Where 0-RTT data was rejected, it has been announced, and its offsets are 0 again.
        if self.begun() || self.facts.early != EarlyData::None {
            self.conn
                .update(&info(self.role, &self.known, self.facts, true, socket));
        }
        self.announce(socket);
    }

    /// As [`Session::handshake_ended`], where the server never read the 0-RTT data.
    pub(crate) fn handshake_ended_without_early(&mut self, socket: Option<BorrowedFd<'_>>) {
        self.handshake_done = true;
        self.early_rejected(socket);
        self.announce(socket);
    }

    /// Facts have changed since the connection was announced.
    pub(crate) fn more_is_known(&mut self) {
        let done = self.handshake_done;
        self.conn
            .update(&info(self.role, &self.known, self.facts, done, None));
    }

    /// Whether text has passed.
    pub(crate) fn begun(&self) -> bool {
        self.conn.offsets() != (0, 0)
    }

    /// Whether [`Session::announce`] would do anything. Cheap.
    pub(crate) fn wants_open(&self) -> bool {
        self.conn.wants_open()
    }

    /// Announces the connection, if that is due. A caller that has a socket calls it before what it
    /// does with the connection, so that the addresses are known from the beginning.
    pub(crate) fn announce(&mut self, socket: Option<BorrowedFd<'_>>) {
        if self.conn.wants_open() {
            let done = self.handshake_done;
            self.conn
                .open(&info(self.role, &self.known, self.facts, done, socket));
        }
    }

    /// Clear text that rustls has accepted from the application.
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        self.announce(None);
        self.conn.sent(bytes);
    }

    /// Clear text that rustls has handed to the application.
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        self.announce(None);
        self.conn.received(bytes);
    }

    /// This many bytes passed of which there is no copy.
    pub(crate) fn lost(&mut self, direction: Direction, bytes: u64) {
        self.announce(None);
        self.conn.lost(direction, bytes);
    }

    /// The server never read the 0-RTT data: the stream of this side begins again.
    pub(crate) fn early_rejected(&mut self, socket: Option<BorrowedFd<'_>>) {
        self.facts.early = EarlyData::Rejected;
        let done = self.handshake_done;
        self.conn
            .early_rejected(&info(self.role, &self.known, self.facts, done, socket));
    }

    /// Nothing more comes in this direction. Repeats are ignored.
    pub(crate) fn end(&mut self, direction: Direction) {
        self.conn.end(direction);
    }

    /// A fatal error ended the connection.
    pub(crate) fn abort(&mut self) {
        self.conn.abort();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.conn.close();
    }
}

fn info<'a>(
    role: Role,
    known: &'a Known,
    facts: Facts,
    handshake_done: bool,
    socket: Option<BorrowedFd<'a>>,
) -> Info<'a> {
    let meta = Meta {
        transport: facts.transport,
        early: facts.early,
        handshake_done,
        resumed: known.resumed,
        tls_version: known.tls_version,
        cipher: known.cipher,
        addresses: facts.addresses,
        addresses_told: facts.addresses.is_some(),
        client_random: known.client_random,
        server_random: known.server_random,
        wire_counts: facts.wire_counts,
        sni: &known.sni,
        alpn: &known.alpn,
        ..Meta::new(role)
    };
    Info { meta, socket }
}
