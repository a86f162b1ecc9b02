//! The client's side: counterparts of `tokio_rustls::client`.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::client::ClientConnectionData;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream as BareStream;

use super::ConnectionMut;
use super::stream::{Bare, Watched};
use super::tapped::{Mirror, Tapped};
use crate::client::watch;

/// Makes connections of a [`ClientConfig`]: `tokio_rustls::TlsConnector`, mirrored.
#[derive(Clone)]
pub struct TlsConnector(tokio_rustls::TlsConnector);

impl TlsConnector {
    /// Whether what is written first is sent as 0-RTT data, where the server allows it. The configuration's
    /// `enable_early_data` has to be set as well.
    #[cfg(feature = "early-data")]
    pub fn early_data(self, flag: bool) -> Self {
        Self(self.0.early_data(flag))
    }

    /// The handshake with the server `domain` on `stream`, as a future. It has no time limit of its own.
    pub fn connect<IO>(&self, domain: ServerName<'static>, stream: IO) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_with(domain, stream, |_| ())
    }

    /// The same; `f` gets the connection before its handshake begins.
    pub fn connect_with<IO, F>(&self, domain: ServerName<'static>, stream: IO, f: F) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
        F: FnOnce(&mut ConnectionMut<'_, ClientConnectionData>),
    {
        let mut mirror = Mirror::of(watch(self.config(), &domain));
        let f = with(f, &mut mirror);
        let connect = self.0.connect_with(domain, Tapped::new(stream), f);
        Connect::new(connect, mirror)
    }

    /// A connector that offers these application protocols in place of the configuration's.
    pub fn with_alpn(&self, alpn_protocols: Vec<Vec<u8>>) -> TlsConnectorWithAlpn<'_> {
        TlsConnectorWithAlpn {
            connector: self,
            alpn_protocols,
        }
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<ClientConfig> {
        self.0.config()
    }
}

impl From<Arc<ClientConfig>> for TlsConnector {
    fn from(config: Arc<ClientConfig>) -> Self {
        Self(config.into())
    }
}

/// A [`TlsConnector`] with application protocols of its own.
#[derive(Debug)]
pub struct TlsConnectorWithAlpn<'c> {
    connector: &'c TlsConnector,
    alpn_protocols: Vec<Vec<u8>>,
}

impl TlsConnectorWithAlpn<'_> {
    /// See [`TlsConnector::connect`].
    pub fn connect<IO>(self, domain: ServerName<'static>, stream: IO) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        self.connect_with(domain, stream, |_| ())
    }

    /// See [`TlsConnector::connect_with`].
    pub fn connect_with<IO, F>(self, domain: ServerName<'static>, stream: IO, f: F) -> Connect<IO>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
        F: FnOnce(&mut ConnectionMut<'_, ClientConnectionData>),
    {
        let mut mirror = Mirror::of(watch(self.connector.config(), &domain));
        let f = with(f, &mut mirror);
        let bare = self.connector.0.with_alpn(self.alpn_protocols);
        let connect = bare.connect_with(domain, Tapped::new(stream), f);
        Connect::new(connect, mirror)
    }
}

/// `f` on a connection that has no stream yet.
fn with(
    f: impl FnOnce(&mut ConnectionMut<'_, ClientConnectionData>),
    mirror: &mut Mirror,
) -> impl FnOnce(&mut ClientConnection) {
    move |connection| f(&mut ConnectionMut::new(connection, mirror))
}

/// A handshake of a client, as a future of its stream.
pub struct Connect<IO>(tokio_rustls::Connect<Tapped<IO>>);

impl<IO> Connect<IO> {
    fn new(mut connect: tokio_rustls::Connect<Tapped<IO>>, mirror: Mirror) -> Self {
        if let Some(tapped) = connect.get_mut() {
            tapped.mirror = mirror;
        }
        Self(connect)
    }

    /// The same, as a future which gives the transport back when it fails.
    pub fn into_fallible(self) -> FallibleConnect<IO> {
        FallibleConnect(self.0.into_fallible())
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

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for Connect<IO> {
    type Output = io::Result<TlsStream<IO>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = Pin::new(&mut self.0).poll(context);
        stream.map_ok(|stream| TlsStream(Watched::new(stream)))
    }
}

/// As [`Connect`]; gives the transport back when it fails.
pub struct FallibleConnect<IO>(tokio_rustls::FallibleConnect<Tapped<IO>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> Future for FallibleConnect<IO> {
    type Output = Result<TlsStream<IO>, (io::Error, IO)>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = Pin::new(&mut self.0).poll(context);
        stream
            .map_ok(|stream| TlsStream(Watched::new(stream)))
            .map_err(|(error, tapped)| (error, tapped.io))
    }
}

super::stream::stream_type! {
    /// A client's TLS stream: `tokio_rustls::client::TlsStream`, mirrored.
    BareStream, ClientConnection, ClientConnectionData
}

impl<IO> Bare for BareStream<Tapped<IO>> {
    type Io = IO;
    type Side = ClientConnectionData;

    fn parts(&mut self) -> (&mut Tapped<IO>, &mut ClientConnection) {
        self.get_mut()
    }
}

super::opaque! { TlsConnector; Connect<IO>; FallibleConnect<IO> }
