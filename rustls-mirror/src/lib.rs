//! The rustls side of the mirror: a Rust service that uses rustls is mirrored by wrappers with rustls'
//! own names, or by one line at start. Both feed [`mirror_hook`], as the patched libssl does.
//!
//! Being built: the wrappers and [`install()`] are there.
#![allow(dead_code, reason = "what uses the rest of these modules comes next")]

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
