//! The transport as tokio-rustls gets it: the application's, with a look at the TLS bytes that pass.

use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::rustls_version::BUFFER_LIMIT;
use crate::tee::first_bytes;
use crate::watch::Watch;

/// What is kept beside a connection of tokio-rustls.
#[derive(Debug)]
pub(super) struct Mirror {
    pub(super) watch: Watch,
    /// Bytes of text that rustls takes at once while none of its records wait to be written.
    pub(super) takes_at_once: usize,
}

impl Mirror {
    pub(super) fn of(watch: Watch) -> Self {
        Self {
            watch,
            takes_at_once: BUFFER_LIMIT,
        }
    }
}

/// A transport, and the mirror of the connection on it. It is kept here because this is the one part of
/// tokio-rustls' streams that isn't theirs.
#[derive(Debug)]
pub(super) struct Tapped<IO> {
    pub(super) io: IO,
    pub(super) mirror: Mirror,
}

impl<IO> Tapped<IO> {
    /// A transport whose connection is being made; its mirror follows.
    pub(super) fn new(io: IO) -> Self {
        let mirror = Mirror::of(Watch::of_client(None));
        Self { io, mirror }
    }

    fn seen<T>(&mut self, result: &Poll<io::Result<T>>) {
        if let Poll::Ready(Err(error)) = result
            && matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted
            )
        {
            self.mirror.watch.transport_failed();
        }
    }

    fn wrote(&mut self, result: &Poll<io::Result<usize>>, buffers: &[IoSlice<'_>]) {
        self.seen(result);
        if let Poll::Ready(Ok(written)) = result {
            for part in first_bytes(buffers, *written) {
                self.mirror.watch.wire_written(part);
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Tapped<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.io).poll_read(context, buffer);
        self.seen(&result);
        // tokio-rustls lets rustls process at once what it has read for it.
        self.mirror.watch.set_unprocessed(false);
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        self.mirror.watch.wire_read(bytes);
        result
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Tapped<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(&result, &[IoSlice::new(bytes)]);
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(context, buffers);
        self.wrote(&result, buffers);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(context);
        self.seen(&result);
        result
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}
