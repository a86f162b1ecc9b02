//! Streams of tokio-rustls 0.26, mirrored. Feature `tokio`; one line changes in a program:
//!
//! ```
//! // before: use tokio_rustls::{TlsAcceptor, TlsConnector};
//! use rustls_mirror::tokio as tokio_rustls;
//! use tokio_rustls::{TlsAcceptor, TlsConnector};
//! ```
//!
//! The rest stays as it was:
//!
//! ```no_run
//! # use rustls_mirror::tokio as tokio_rustls;
//! use std::sync::Arc;
//!
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//! use tokio::net::{TcpListener, TcpStream};
//! use tokio_rustls::rustls::pki_types::ServerName;
//! use tokio_rustls::rustls::{ClientConfig, ServerConfig};
//! use tokio_rustls::{TlsAcceptor, TlsConnector};
//!
//! async fn client(config: Arc<ClientConfig>) -> std::io::Result<()> {
//!     let name = ServerName::try_from("example.test").expect("a name");
//!     let tcp = TcpStream::connect("example.test:443").await?;
//!     let mut tls = TlsConnector::from(config).connect(name, tcp).await?;
//!     tls.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
//!     tls.flush().await?;
//!     let mut answer = Vec::new();
//!     tls.read_to_end(&mut answer).await?;
//!     tls.shutdown().await
//! }
//!
//! async fn server(config: Arc<ServerConfig>, listener: TcpListener) -> std::io::Result<()> {
//!     let acceptor = TlsAcceptor::from(config);
//!     loop {
//!         let (tcp, _) = listener.accept().await?;
//!         let mut tls = acceptor.accept(tcp).await?;
//!         tls.write_all(b"HTTP/1.0 204 No Content\r\n\r\n").await?;
//!         tls.shutdown().await?;
//!     }
//! }
//! ```
//!
//! tokio-rustls does the work, below; what it takes as text from the application, and what it hands out, is
//! mirrored in this order:
//!
//! ```text
//!   application ── TlsStream ── tokio_rustls::…::TlsStream ── Tapped ── transport
//!                     │                                          │
//!                clear text                             hellos, bytes counted
//! ```
//!
//! # What differs
//!
//! - [`rustls`] is rustls itself: configurations are its own, and so are the connections that `get_ref`
//!   shows.
//! - `get_mut` of a stream, and the functions given to `connect_with`, `accept_with` and
//!   `into_stream_with`, get a [`ConnectionMut`] in place of rustls' connection, by which text would pass
//!   unseen.
//! - `into_inner` gives this crate's [`ClientConnection`](crate::ClientConnection) or
//!   [`ServerConnection`](crate::ServerConnection): the mirror goes on with it.
//! - Where the `IO` isn't a socket of tokio or of the standard library (or a reference to one, or a box),
//!   its addresses aren't known: `mirror_addresses` tells them.
//!
//! Connections made with a configuration whose provider mirrors by itself are left to it.

/// Debug for types that tokio-rustls doesn't show.
macro_rules! opaque {
    ($($name:ident $(<$io:ident>)?);*) => {$(
        impl $(<$io>)? std::fmt::Debug for $name $(<$io>)? {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}
use opaque;

mod lazy;
mod stream;
mod tapped;
mod unified;
mod view;

pub mod client;
pub mod server;

pub use ::rustls;

pub use client::{Connect, FallibleConnect, TlsConnector, TlsConnectorWithAlpn};
pub use server::{Accept, FallibleAccept, LazyConfigAcceptor, StartHandshake, TlsAcceptor};
pub use unified::TlsStream;
pub use view::ConnectionMut;
