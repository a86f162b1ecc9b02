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

pub use crate::conn::Conn;
use crate::event::{Direction, Meta};
use crate::guard::guarded;
use crate::process;

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
/// calls on other things than the socket that is given to [`Mirror::open`] and [`Mirror::update`]; but for looks at the
/// process's sockets, where these two know none and an agent asks for that (see [`config`](crate::config)).
pub fn handshake() {
    guarded(process::handshake);
}
