//! A stream of either role.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::CommonState;
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::{client, server};

/// A stream of either role: `tokio_rustls::TlsStream`, mirrored.
#[allow(clippy::large_enum_variant, reason = "as in tokio-rustls")]
#[derive(Debug)]
pub enum TlsStream<T> {
    /// A client's.
    Client(client::TlsStream<T>),
    /// A server's.
    Server(server::TlsStream<T>),
}

/// `$run` with the role's stream.
macro_rules! either {
    ($stream:expr, $inner:ident => $run:expr) => {
        match $stream {
            TlsStream::Client($inner) => $run,
            TlsStream::Server($inner) => $run,
        }
    };
}

impl<T> TlsStream<T> {
    /// The transport, and what rustls' connections of both roles have in common.
    pub fn get_ref(&self) -> (&T, &CommonState) {
        match self {
            Self::Client(stream) => {
                let (io, connection) = stream.get_ref();
                (io, connection)
            }
            Self::Server(stream) => {
                let (io, connection) = stream.get_ref();
                (io, connection)
            }
        }
    }

    /// The same, to be changed. No text passes by it. That a close_notify was sent by it is mirrored when
    /// the stream is dropped.
    pub fn get_mut(&mut self) -> (&mut T, &mut CommonState) {
        either!(self, stream => stream.common())
    }
}

impl<T> From<client::TlsStream<T>> for TlsStream<T> {
    fn from(stream: client::TlsStream<T>) -> Self {
        Self::Client(stream)
    }
}

impl<T> From<server::TlsStream<T>> for TlsStream<T> {
    fn from(stream: server::TlsStream<T>) -> Self {
        Self::Server(stream)
    }
}

impl<T: AsRawFd> AsRawFd for TlsStream<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.get_ref().0.as_raw_fd()
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(Pin::into_inner(self), stream => Pin::new(stream).poll_read(context, buffer))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for TlsStream<T> {
    fn poll_fill_buf(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        either!(Pin::into_inner(self), stream => Pin::new(stream).poll_fill_buf(context))
    }

    fn consume(self: Pin<&mut Self>, amount: usize) {
        either!(Pin::into_inner(self), stream => Pin::new(stream).consume(amount));
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(Pin::into_inner(self), stream => Pin::new(stream).poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let stream = Pin::into_inner(self);
        either!(stream, stream => Pin::new(stream).poll_write_vectored(context, buffers))
    }

    fn is_write_vectored(&self) -> bool {
        either!(self, stream => stream.is_write_vectored())
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(Pin::into_inner(self), stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(Pin::into_inner(self), stream => Pin::new(stream).poll_shutdown(context))
    }
}
