//! What a wrapper keeps beside a rustls connection: its [`Session`], and what has to be known of the
//! connection's way for text to be told exactly.
//!
//! ```text
//!   wire_read(), wire_written()     bytes of TLS, by the tee
//!   handshake_ended(), announce()   between a call of rustls and what it accepted or handed out
//!   sent(), received(), early_…()   what it accepted or handed out
//!   sending_ended(), received_end() close_notify, the transport's end
//!   failed -> abort()               once everything that came before the failure has been read; a reset
//!                                   of the transport: when the connection is dropped
//! ```
//!
//! Text that rustls accepts before the handshake has ended waits in rustls, and so it does here: if the
//! handshake fails it was never sent.

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use mirror_hook::event::{Direction, EarlyData, Role};
use rustls::ServerConfig;

use crate::hello::Ech;
use crate::session::Session;
use crate::session_for;
use crate::tee::Tee;

/// Most text that is kept until the handshake ends: rustls' own limit, if it isn't changed. More is
/// declared lost.
const MAX_HELD: usize = 64 * 1024;

/// One connection that is watched, or isn't.
#[derive(Debug)]
pub(crate) struct Watch {
    /// `None`: somebody else mirrors it.
    session: Option<Session>,
    /// A server that sends text ahead of the client's Finished.
    half_rtt: bool,
    /// Until both hellos are known.
    tee: Option<Box<Tee>>,
    wire_read: u64,
    wire_written: u64,
    held: Vec<u8>,
    /// What came after that, and wasn't kept.
    held_lost: u64,
    /// Early data that this server has got and the application hasn't read yet, told already.
    early_text: Vec<u8>,
    early_taken: usize,
    /// Records that the application moved itself wait in rustls to be processed.
    unprocessed: bool,
    sending_ended: bool,
    receiving_ended: bool,
    failed: bool,
    reset: bool,
    aborted: bool,
}

impl Watch {
    pub(crate) fn of_client(session: Option<Session>) -> Self {
        let mut watch = Self::new(Role::Client);
        watch.begin(session);
        watch
    }

    pub(crate) fn of_server(config: &ServerConfig) -> Self {
        let mut watch = Self::new(Role::Server);
        watch.begin_server(config);
        watch
    }

    /// A connection before there is a session for it.
    pub(crate) fn new(role: Role) -> Self {
        Self {
            session: None,
            half_rtt: false,
            tee: Some(Box::new(Tee::new(role))),
            wire_read: 0,
            wire_written: 0,
            held: Vec::new(),
            held_lost: 0,
            early_text: Vec::new(),
            early_taken: 0,
            unprocessed: false,
            sending_ended: false,
            receiving_ended: false,
            failed: false,
            reset: false,
            aborted: false,
        }
    }

    /// The configuration has been chosen.
    pub(crate) fn begin_server(&mut self, config: &ServerConfig) {
        self.half_rtt = config.send_half_rtt_data;
        self.begin(session_for(config.crypto_provider(), Role::Server));
    }

    /// Goes on with a session, or quietly without one.
    fn begin(&mut self, session: Option<Session>) {
        self.session = session;
        match self.session {
            Some(_) => self.look(|_| {}),
            None => self.tee = None,
        }
    }

    pub(crate) fn session_mut(&mut self) -> Option<&mut Session> {
        self.session.as_mut()
    }

    /// Whether records wait to be processed: while they do, the transport's end isn't the text's.
    pub(crate) fn unprocessed(&self) -> bool {
        self.unprocessed
    }

    pub(crate) fn set_unprocessed(&mut self, unprocessed: bool) {
        self.unprocessed = unprocessed;
    }

    /// Bytes of TLS that came from the transport.
    pub(crate) fn wire_read(&mut self, bytes: &[u8]) {
        self.wire_read += bytes.len() as u64;
        if self.tee.is_some() {
            self.look(|tee| tee.read(bytes));
        }
    }

    /// Bytes of TLS that the transport has taken.
    pub(crate) fn wire_written(&mut self, bytes: &[u8]) {
        self.wire_written += bytes.len() as u64;
        if self.tee.is_some() {
            self.look(|tee| tee.written(bytes));
        }
    }

    #[cold]
    fn look(&mut self, feed: impl FnOnce(&mut Tee)) {
        let Some(tee) = &mut self.tee else {
            return;
        };
        feed(tee);
        let Some(session) = &mut self.session else {
            return;
        };
        let mut known = tee.known();
        if known.client_random.is_some() {
            if tee.is_client() && known.ech == Ech::Outer {
                // That hello names who stands in front of the server, if the inner one counts; else the handshake
                // fails, or the extension meant nothing, and the names are one.
                known.sni = std::mem::take(&mut session.known_mut().sni);
            }
            *session.known_mut() = known;
        }
        if tee.is_done() {
            self.tee = None;
        }
    }

    /// The transport was reset. What rustls has got before may still be read.
    pub(crate) fn transport_failed(&mut self) {
        self.reset = true;
    }

    /// Whether the handshake's end is still to be told.
    pub(crate) fn awaits_handshake(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| !session.handshake_done())
    }

    /// The handshake has ended, and the session's facts are final, but for these.
    pub(crate) fn handshake_ended(
        &mut self,
        early_accepted: bool,
        early_text: Option<Vec<u8>>,
        socket: Option<BorrowedFd<'_>>,
    ) {
        let Some(session) = &mut self.session else {
            return;
        };
        self.tee = None;
        let facts = session.facts_mut();
        facts.wire_counts = Some((self.wire_read, self.wire_written));
        let rejected = facts.early == EarlyData::Pending && !early_accepted;
        if early_text.is_some() || (facts.early == EarlyData::Pending && early_accepted) {
            facts.early = EarlyData::Accepted;
        }
        if rejected {
            session.handshake_ended_without_early(socket);
        } else {
            session.handshake_ended(socket);
        }
        if let Some(text) = early_text {
            session.received(&text);
            self.early_text = text;
        }
        self.send_held();
    }

    fn send_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        let lost = std::mem::take(&mut self.held_lost);
        if let Some(session) = self.session.as_mut().filter(|_| !self.sending_ended) {
            session.sent(&held);
            session.lost(Direction::Sent, lost);
        }
    }

    /// Whether [`Watch::announce`] has anything to do. Cheap.
    #[cfg(feature = "tokio")]
    pub(crate) fn wants_open(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.handshake_done() && session.wants_open())
    }

    /// Announces the connection where an agent doesn't know it yet that has come since.
    pub(crate) fn announce(&mut self, socket: Option<BorrowedFd<'_>>) {
        if let Some(session) = &mut self.session
            && session.handshake_done()
            && session.wants_open()
        {
            session.facts_mut().wire_counts = Some((self.wire_read, self.wire_written));
            session.announce(socket);
        }
    }

    /// The application says what this connection's addresses are, local and peer's.
    pub(crate) fn addresses_told(&mut self, local: SocketAddr, peer: SocketAddr) {
        if let Some(session) = &mut self.session {
            session.facts_mut().addresses = Some((local, peer));
            session.more_is_known();
        }
    }

    /// Text that rustls has accepted.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: &[u8]) {
        // What follows a close_notify the peer has to ignore (RFC 8446 6.1).
        let Some(session) = self.session.as_mut().filter(|_| !self.sending_ended) else {
            return;
        };
        if session.handshake_done() {
            session.sent(bytes);
        } else {
            self.sent_early(bytes);
        }
    }

    #[cold]
    fn sent_early(&mut self, bytes: &[u8]) {
        match &mut self.session {
            // In answer to early data it goes out at once.
            Some(session) if self.half_rtt && session.begun() => session.sent(bytes),
            _ if self.held.len() + bytes.len() <= MAX_HELD && self.held_lost == 0 => {
                self.held.extend_from_slice(bytes);
            }
            _ => self.held_lost += bytes.len() as u64,
        }
    }

    /// 0-RTT data that rustls has accepted.
    pub(crate) fn early_sent(&mut self, bytes: &[u8]) {
        if let Some(session) = self.session.as_mut().filter(|_| !bytes.is_empty()) {
            session.facts_mut().early = EarlyData::Pending;
            session.sent(bytes);
        }
    }

    /// 0-RTT data that rustls has handed out.
    pub(crate) fn early_received(&mut self, bytes: &[u8]) {
        if let Some(session) = self.session.as_mut().filter(|_| !bytes.is_empty()) {
            session.facts_mut().early = EarlyData::Accepted;
            session.received(bytes);
        }
    }

    /// 0-RTT data that was taken out of rustls when the handshake ended, into `buf`.
    pub(crate) fn take_early_text(&mut self, buf: &mut [u8]) -> usize {
        let left = self.early_text.get(self.early_taken..).unwrap_or_default();
        let count = left.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(left) {
            *to = *from;
        }
        self.early_taken += count;
        if self.early_taken == self.early_text.len() {
            self.early_text = Vec::new();
            self.early_taken = 0;
        }
        count
    }

    /// Text that rustls has handed out.
    #[inline]
    pub(crate) fn received(&mut self, bytes: &[u8]) {
        if let Some(session) = self.session.as_mut().filter(|_| !bytes.is_empty()) {
            session.received(bytes);
        }
    }

    /// A close_notify is on its way to the peer.
    pub(crate) fn sending_ended(&mut self) {
        self.sending_ended = true;
        if let Some(session) = &mut self.session {
            session.end(Direction::Sent);
        }
    }

    /// rustls has met a fatal error.
    pub(crate) fn rustls_failed(&mut self) {
        self.failed = true;
    }

    /// Whether a failure has been noted.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }

    /// Whether an end may still be told.
    #[inline]
    pub(crate) fn awaits_end(&self) -> bool {
        self.session.is_some() && !self.aborted && (!self.receiving_ended || self.failed)
    }

    /// All text that rustls had has been read. `over`: no more will come.
    #[inline]
    pub(crate) fn drained(&mut self, over: bool) {
        if over && !self.receiving_ended {
            self.receiving_ended = true;
            if let Some(session) = &mut self.session {
                session.end(Direction::Received);
            }
        }
        if self.failed {
            self.abort();
        }
    }

    /// How much text rustls has accepted isn't known: nothing more can be said of this connection.
    #[cfg(feature = "tokio")]
    pub(crate) fn lost_count(&mut self) {
        self.abort();
    }

    fn abort(&mut self) {
        let Some(session) = self.session.as_mut().filter(|_| !self.aborted) else {
            return;
        };
        self.aborted = true;
        // What a server says before the client's Finished may be on its way already.
        if self.half_rtt && !self.held.is_empty() {
            let held = self.held.len() as u64 + self.held_lost;
            session.lost(Direction::Sent, held);
        }
        session.abort();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.failed || self.reset {
            self.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hello::tests::client_hello_message;

    /// What a client's session is called that was asked for `inner` and says this hello.
    fn name_by(extensions: &[u8]) -> Vec<u8> {
        let mut session = Session::new(Role::Client);
        session.known_mut().sni = b"inner".to_vec();
        let mut watch = Watch::of_client(Some(session));
        let hello = client_hello_message([1; 32], extensions);
        let length = u8::try_from(hello.len()).unwrap();
        // Twice: a HelloRetryRequest may have come.
        for _ in 0..2 {
            watch.wire_written(&[22, 3, 1, 0, length]);
            watch.wire_written(&hello);
        }
        let known = watch.session_mut().unwrap().known_mut();
        assert_eq!(known.client_random, Some([1; 32]));
        known.sni.clone()
    }

    #[test]
    fn a_session_is_called_as_its_inner_hello_says() {
        let front = [
            &[0, 0, 0, 10, 0, 8, 0, 0, 5][..],
            b"front",
            &[0xfe, 0x0d, 0, 2, 0, 7],
        ]
        .concat();
        assert_eq!(name_by(&front), b"inner");
        assert_eq!(name_by(&front[..14]), b"front");
    }
}
