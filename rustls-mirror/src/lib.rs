//! Mirrors the clear text of rustls 0.23's connections: a Rust service that uses rustls is mirrored by
//! changing one line. Both ways feed [`mirror_hook`], as the patched libssl does.
//!
//! # By name
//!
//! ```
//! // before: use rustls;
//! use rustls_mirror as rustls;
//! ```
//!
//! or, for a whole crate, in its Cargo.toml:
//!
//! ```toml
//! # before: rustls = "0.23"
//! rustls = { package = "rustls-mirror", features = ["tls12", "logging", "ring"], … }
//! ```
//!
//! The rest stays as it was. Connections, their streams and the acceptor have rustls' names and do what
//! rustls' do; all else *is* rustls', configurations among it:
//!
//! ```no_run
//! use rustls_mirror as rustls;
//! use std::io::{Read, Write};
//! use std::sync::Arc;
//!
//! # fn fetch(config: rustls::ClientConfig) -> Result<(), Box<dyn std::error::Error>> {
//! let conn = rustls::ClientConnection::new(Arc::new(config), "example.test".try_into()?)?;
//! let sock = std::net::TcpStream::connect("example.test:443")?;
//! let mut tls = rustls::StreamOwned::new(conn, sock);
//! tls.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
//! let mut answer = Vec::new();
//! tls.read_to_end(&mut answer)?;
//! # Ok(())
//! # }
//! ```
//!
//! For tokio-rustls there is the module `tokio`, with the feature of this name.
//!
//! # By the provider
//!
//! [`install()`], or [`mirrored`] for one configuration, mirrors what other crates make with rustls
//! itself: hyper, reqwest, tonic. A connection that has both is mirrored once, by its provider.
//!
//! # What is mirrored
//!
//! ```text
//!   application ── Writer, Reader, Stream, early data ── rustls ── TeeIo ── transport
//!                               │                                    │
//!                  clear text, once, exactly                hellos; bytes counted
//! ```
//!
//! - Sent is what rustls has accepted, and received is what the application has read; of a buffer that is
//!   shown, what is consumed. Early data that was rejected is told to be so. What a server's application
//!   hasn't read of accepted early data when the handshake ends is mirrored then: the stream has one
//!   order, in whichever the application reads.
//! - Text that is written before the handshake has ended is mirrored when it ends, up to 64 KiB of it; more
//!   is a declared hole. If the handshake fails it was never sent.
//! - What follows a close_notify isn't mirrored: the peer has to ignore it.
//! - The connection's addresses are those of its socket, where the transport is a `TcpStream` or what
//!   borrows or boxes one. Who moves the records himself (`read_tls`, `write_tls`), or has a transport of
//!   his own, can tell them: [`ConnectionCommon::mirror_addresses`]. Else the agent finds the connection on
//!   the wire, by both hellos' randoms.
//!
//! # What isn't
//!
//! - What passes by secrets that were taken out (`dangerous_extract_secrets`, kTLS): for the agent the
//!   connection ends there. `unbuffered` and `quic` are rustls' own, and nothing of them is mirrored.
//! - Names of rustls 0.24: see the notes in `src/rustls_version.rs`.
//!
//! # What it costs, and what it leaves alone
//!
//! Nothing here chooses a crypto provider, starts a thread, blocks, fails a call of its own accord, or
//! touches the panic hook. Without an agent, or where the operator hasn't enabled the process
//! (`SSLCOLLECTOR_ENABLE=1`), a call costs a few checks. No secret is read: the randoms are those that pass
//! on the wire.

mod acceptor;
pub mod client;
mod connection;
mod either;
mod hello;
mod install;
mod rustls_version;
pub mod server;
mod session;
mod socket;
mod stream;
mod tee;
mod text;
#[cfg(feature = "tokio")]
pub mod tokio;
mod watch;

pub use client::ClientConnection;
pub use connection::ConnectionCommon;
pub use either::Connection;
pub use install::{InstallError, install, mirrored, unpaired};
pub use rustls::*;
pub use rustls_version::SideData;
pub use server::ServerConnection;
pub use stream::{Stream, StreamOwned};
pub use text::{Reader, Writer};

use mirror_hook::event::Role;
use rustls::crypto::CryptoProvider;
use session::Session;

/// The session of a new connection with this provider; `None`: the provider mirrors it.
fn session_for(provider: &CryptoProvider, role: Role) -> Option<Session> {
    (!install::is_mirrored(provider)).then(|| Session::new(role))
}
