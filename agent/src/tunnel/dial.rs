//! A connection to a collector, up to where frames can pass.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::frame::SILENCE_SECONDS;
use crate::identity::{self, Address, Membership};

/// How long a name, an address or a handshake may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Clear text that rustls takes at a time, in bytes; each system call carries as much.
const TLS_BUFFER_BYTES: usize = 512 * 1024;

/// Where a collector is, and how it is talked to.
#[derive(Clone, Debug)]
pub struct Collector {
    /// Where.
    pub address: Address,
    /// How.
    pub security: Security,
}

/// How a connection is protected.
#[derive(Clone, Debug)]
pub enum Security {
    /// By TLS 1.3, both sides authenticated.
    Tls(Arc<Membership>),
    /// Not at all: whoever is on the way reads it. The operator has asked for it.
    Plaintext,
}

/// There is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("{0} has no address: {1}")]
    Name(String, io::Error),
    #[error("can't reach {0}: {1}")]
    Unreachable(SocketAddr, io::Error),
    /// In words for people.
    #[error("{0}: {1}")]
    Refused(SocketAddr, String),
    #[error("the handshake with {0} failed: {1}")]
    Handshake(SocketAddr, io::Error),
}

/// Bytes both ways.
pub(super) enum Stream {
    Tls(Box<TlsStream<TcpStream>>),
    Plaintext(TcpStream),
}

/// Connects to the first of the collector's addresses that can be reached.
pub(super) async fn dial(collector: &Collector) -> Result<(Stream, SocketAddr), DialError> {
    let (stream, peer) = connect(&collector.address).await?;
    let membership = match &collector.security {
        Security::Plaintext => return Ok((Stream::Plaintext(stream), peer)),
        Security::Tls(membership) => membership,
    };
    let connector = TlsConnector::from(membership.client_config());
    let handshake = connector.connect_with(membership.server_name(), stream, |connection| {
        connection.set_buffer_limit(Some(TLS_BUFFER_BYTES));
    });
    match timeout(PATIENCE, handshake).await {
        Ok(Ok(stream)) => Ok((Stream::Tls(Box::new(stream)), peer)),
        Ok(Err(error)) => Err(explained(peer, error)),
        Err(_) => Err(DialError::Handshake(peer, silent())),
    }
}

fn explained(peer: SocketAddr, error: io::Error) -> DialError {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match tls.and_then(identity::explain) {
        Some(text) => DialError::Refused(peer, text),
        None => DialError::Handshake(peer, error),
    }
}

async fn connect(address: &Address) -> Result<(TcpStream, SocketAddr), DialError> {
    let nameless = |error| DialError::Name(address.host.clone(), error);
    let looked_up = lookup_host((address.host.as_str(), address.port));
    let addresses = timeout(PATIENCE, looked_up)
        .await
        .unwrap_or_else(|_| Err(silent()))
        .map_err(nameless)?;
    let mut last = nameless(io::ErrorKind::NotFound.into());
    for peer in addresses {
        let connected = timeout(PATIENCE, TcpStream::connect(peer)).await;
        match connected
            .unwrap_or_else(|_| Err(silent()))
            .and_then(prepare)
        {
            Ok(stream) => return Ok((stream, peer)),
            Err(error) => last = DialError::Unreachable(peer, error),
        }
    }
    Err(last)
}

fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    // What isn't acknowledged by then never will be: the other end, or the way there, is gone.
    let silence_ms = u32::try_from(SILENCE_SECONDS * 1000).unwrap_or(u32::MAX);
    rustix::net::sockopt::set_tcp_user_timeout(stream.as_fd(), silence_ms)?;
    Ok(stream)
}

fn silent() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time")
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Plaintext(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Plaintext(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::Plaintext(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Plaintext(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Plaintext(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
