//! A server that sees the ClientHello before it chooses its configuration.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::ServerConfig;
use rustls::server::{ClientHello, ServerConnectionData};
use tokio::io::{AsyncRead, AsyncWrite};

use super::ConnectionMut;
use super::server::Accept;
use super::tapped::{Mirror, Tapped};
use crate::server::{Accepted, Acceptor};

/// Reads a ClientHello, as a future of [`StartHandshake`]: `tokio_rustls::LazyConfigAcceptor`, mirrored.
pub struct LazyConfigAcceptor<IO>(tokio_rustls::LazyConfigAcceptor<Tapped<IO>>);

impl<IO> LazyConfigAcceptor<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// Reads the ClientHello from `io`. The acceptor may be rustls' own. There is no time limit.
    pub fn new(acceptor: impl Into<Acceptor>, io: IO) -> Self {
        let (acceptor, watch) = acceptor.into().into_parts();
        let mirror = Mirror::of(watch);
        let tapped = Tapped { io, mirror };
        Self(tokio_rustls::LazyConfigAcceptor::new(acceptor, tapped))
    }

    /// The transport, to answer in the clear behind an error, say. None when it has been taken, or the
    /// ClientHello was read.
    pub fn take_io(&mut self) -> Option<IO> {
        self.0.take_io().map(|tapped| tapped.io)
    }
}

impl<IO> Future for LazyConfigAcceptor<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = io::Result<StartHandshake<IO>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let start = ready!(Pin::new(&mut self.0).poll(context))?;
        let Tapped { io, mirror } = start.io;
        let accepted = Accepted::from_parts(start.accepted, mirror.watch);
        Poll::Ready(Ok(StartHandshake { accepted, io }))
    }
}

/// A connection whose ClientHello was read.
#[non_exhaustive]
#[derive(Debug)]
pub struct StartHandshake<IO> {
    /// What rustls has read so far, mirrored.
    pub accepted: Accepted,
    /// The transport.
    pub io: IO,
}

impl<IO> StartHandshake<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// A connection whose ClientHello was read elsewhere. `accepted` may be rustls' own; then the mirror
    /// doesn't know the hello, and the agent has to find the connection by its socket.
    pub fn from_parts(accepted: impl Into<Accepted>, transport: IO) -> Self {
        Self {
            accepted: accepted.into(),
            io: transport,
        }
    }

    /// What the client wants.
    pub fn client_hello(&self) -> ClientHello<'_> {
        self.accepted.client_hello()
    }

    /// The rest of the handshake with this configuration, as a future. There is no time limit.
    pub fn into_stream(self, config: Arc<ServerConfig>) -> Accept<IO> {
        self.into_stream_with(config, |_| ())
    }

    /// The same; `f` gets the connection before its handshake goes on.
    pub fn into_stream_with<F>(self, config: Arc<ServerConfig>, f: F) -> Accept<IO>
    where
        F: FnOnce(&mut ConnectionMut<'_, ServerConnectionData>),
    {
        let (accepted, mut watch) = self.accepted.into_parts();
        watch.begin_server(&config);
        let mut mirror = Mirror::of(watch);
        let bare = tokio_rustls::StartHandshake::from_parts(accepted, Tapped::new(self.io));
        let accept = bare.into_stream_with(config, |connection| {
            f(&mut ConnectionMut::new(connection, &mut mirror));
        });
        Accept::new(accept, mirror)
    }
}

super::opaque! { LazyConfigAcceptor<IO> }
