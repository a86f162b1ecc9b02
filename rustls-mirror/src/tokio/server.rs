//! The server's side: counterparts of `tokio_rustls::server`.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::server::ServerConnectionData;
use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream as BareStream;

use super::ConnectionMut;
pub use super::lazy::{LazyConfigAcceptor, StartHandshake};
use super::stream::{Bare, Watched};
use super::tapped::{Mirror, Tapped};
use crate::watch::Watch;

/// Takes connections with a [`ServerConfig`]: `tokio_rustls::TlsAcceptor`, mirrored.
#[derive(Clone)]
pub struct TlsAcceptor(tokio_rustls::TlsAcceptor);

impl TlsAcceptor {
    /// The handshake with the client on `stream`, as a future. It has no time limit of its own.
    pub fn accept<IO>(&self, stream: IO) -> Accept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.accept_with(stream, |_| ())
    }

    /// The same; `f` gets the connection before its handshake begins.
    pub fn accept_with<IO, F>(&self, stream: IO, f: F) -> Accept<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
        F: FnOnce(&mut ConnectionMut<'_, ServerConnectionData>),
    {
        let mut mirror = Mirror::of(Watch::of_server(self.config()));
        let accept = self.0.accept_with(Tapped::new(stream), |connection| {
            f(&mut ConnectionMut::new(connection, &mut mirror));
        });
        Accept::new(accept, mirror)
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<ServerConfig> {
        self.0.config()
    }
}

impl From<Arc<ServerConfig>> for TlsAcceptor {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self(config.into())
    }
}

/// A handshake of a server, as a future of its stream.
pub struct Accept<IO>(tokio_rustls::Accept<Tapped<IO>>);

impl<IO> Accept<IO> {
    /// `accept`, which has no mirror yet, with `mirror`.
    pub(super) fn new(mut accept: tokio_rustls::Accept<Tapped<IO>>, mirror: Mirror) -> Self {
        if let Some(tapped) = accept.get_mut() {
            tapped.mirror = mirror;
        }
        Self(accept)
    }

    /// The same, as a future which gives the transport back when it fails.
    pub fn into_fallible(self) -> FallibleAccept<IO> {
        FallibleAccept(self.0.into_fallible())
    }

    /// The transport; None when the handshake has ended.
    pub fn get_ref(&self) -> Option<&IO> {
        self.0.get_ref().map(|tapped| &tapped.io)
    }

    /// The transport; None when the handshake has ended.
    pub fn get_mut(&mut self) -> Option<&mut IO> {
        self.0.get_mut().map(|tapped| &mut tapped.io)
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Accept<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = Pin::new(&mut self.0).poll(context);
        stream.map_ok(|stream| TlsStream(Watched::new(stream)))
    }
}

/// As [`Accept`]; gives the transport back when it fails.
pub struct FallibleAccept<IO>(tokio_rustls::FallibleAccept<Tapped<IO>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for FallibleAccept<IO> {
    type Output = Result<TlsStream<IO>, (io::Error, IO)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = Pin::new(&mut self.0).poll(context);
        stream
            .map_ok(|stream| TlsStream(Watched::new(stream)))
            .map_err(|(error, tapped)| (error, tapped.io))
    }
}

super::stream::stream_type! {
    /// A server's TLS stream: `tokio_rustls::server::TlsStream`, mirrored.
    BareStream, ServerConnection, ServerConnectionData
}

impl<IO> Bare for BareStream<Tapped<IO>> {
    type Io = IO;
    type Side = ServerConnectionData;

    fn parts(&mut self) -> (&mut Tapped<IO>, &mut ServerConnection) {
        self.get_mut()
    }
}

super::opaque! { TlsAcceptor; Accept<IO>; FallibleAccept<IO> }
