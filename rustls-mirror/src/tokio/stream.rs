//! What the streams of both roles have in common: tokio-rustls' stream does the work, this looks at what
//! it says it has done.
//!
//! | tokio-rustls | the mirror |
//! |---|---|
//! | `poll_write` is ready with n | the first n bytes are sent |
//! | `poll_write` is pending | nothing: no byte was accepted |
//! | `poll_write` fails in the transport | what rustls had accepted before that is sent |
//! | `poll_read` fills bytes | they are received |
//! | `poll_fill_buf`, then `consume(n)` | n bytes are received, at `consume` |
//! | end of file, with a close_notify or without | received ends |
//! | `poll_shutdown` | sent ends |
//! | dropped | closed; aborted behind an error that was final |

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::tapped::Tapped;
use super::view::ConnectionMut;
use crate::rustls_version::{Side, agreed};
use crate::socket;
use crate::tee::first_bytes;

/// A stream of tokio-rustls.
pub(super) trait Bare {
    type Io;
    type Side: Side;

    fn parts(&mut self) -> (&mut Tapped<Self::Io>, &mut <Self::Side as Side>::Inner);
}

/// A stream of tokio-rustls, and what is watched of it.
#[derive(Debug)]
pub(super) struct Watched<S> {
    pub(super) stream: S,
    /// 0-RTT data that tokio-rustls sends a second time should the server reject it.
    again: Vec<u8>,
    /// It does so.
    resending: bool,
}

/// How rustls stood before a call that was to write.
#[derive(Clone, Copy, Debug)]
enum Before {
    /// No record waited to be written: rustls takes this many bytes of text at once.
    Empty { takes: usize },
    /// What it takes at once isn't known.
    Waiting,
}

impl<S: Bare> Watched<S> {
    /// A stream whose handshake has ended; or begun, if it is to send 0-RTT data.
    pub(super) fn new(stream: S) -> Self {
        let mut watched = Self {
            stream,
            again: Vec::new(),
            resending: false,
        };
        watched.progressed();
        watched
    }

    /// The transport, and the connection as the application may have it.
    pub(super) fn view(&mut self) -> (&mut S::Io, ConnectionMut<'_, S::Side>) {
        self.progressed();
        let (Tapped { io, mirror }, inner) = self.stream.parts();
        (io, ConnectionMut::new(inner, mirror))
    }

    /// To be called between a call that may have brought the handshake on, and what that call has accepted
    /// or handed out.
    fn progressed(&mut self) {
        let (Tapped { io, mirror }, inner) = self.stream.parts();
        if mirror.watch.awaits_handshake() {
            if !inner.is_handshaking() {
                self.handshake_ended();
            }
        } else if mirror.watch.wants_open() {
            mirror.watch.announce(socket::of(io));
        }
    }

    #[cold]
    fn handshake_ended(&mut self) {
        let (Tapped { io, mirror }, inner) = self.stream.parts();
        let watch = &mut mirror.watch;
        if let Some(session) = watch.session_mut() {
            agreed(inner, session.known_mut());
        }
        let accepted = S::Side::early_data_accepted(inner);
        let text = S::Side::take_early_text(inner);
        watch.handshake_ended(accepted, text, socket::of(io));
        let again = std::mem::take(&mut self.again);
        if !accepted && !again.is_empty() {
            self.resending = true;
            watch.sent(&again);
        }
    }

    /// To be called behind all that a call has accepted or handed out.
    fn look_for_end(&mut self) {
        let (tapped, inner) = self.stream.parts();
        ConnectionMut::<S::Side>::new(inner, &mut tapped.mirror).look_for_end();
    }

    fn before_write(&mut self) -> Before {
        let (Tapped { mirror, .. }, inner) = self.stream.parts();
        if inner.is_handshaking() || inner.wants_write() || self.resending {
            return Before::Waiting;
        }
        Before::Empty {
            takes: mirror.takes_at_once,
        }
    }

    /// What became of a call that was to write `buffers`.
    fn wrote(&mut self, before: Before, result: &Poll<io::Result<usize>>, buffers: &[IoSlice<'_>]) {
        self.progressed();
        if let Poll::Ready(Ok(0)) | Poll::Pending = result {
            return;
        }
        let (Tapped { mirror, .. }, inner) = self.stream.parts();
        let watch = &mut mirror.watch;
        match (result, before) {
            // 0-RTT data is taken without a look at the transport: the handshake isn't over behind it.
            (Poll::Ready(Ok(written)), _) if inner.is_handshaking() => {
                for part in first_bytes(buffers, *written) {
                    watch.early_sent(part);
                    if watch.awaits_handshake() {
                        self.again.extend_from_slice(part);
                    }
                }
            }
            (Poll::Ready(Ok(written)), _) => {
                self.resending = false;
                for part in first_bytes(buffers, *written) {
                    watch.sent(part);
                }
            }
            // Behind an error of its own rustls takes nothing. If it is the transport's, it has taken text
            // before, and sends it should the transport recover.
            _ if inner.is_handshaking() || inner.writer().flush().is_err() => {}
            (_, Before::Empty { takes }) => {
                for part in first_bytes(buffers, takes) {
                    watch.sent(part);
                }
            }
            (_, Before::Waiting) => watch.lost_count(),
        }
        if matches!(result, Poll::Ready(Err(_))) {
            self.look_for_end();
        }
    }
}

impl<S: Bare + AsyncRead + AsyncBufRead + Unpin> Watched<S> {
    pub(super) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.progressed();
        let (tapped, _) = self.stream.parts();
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        tapped.mirror.watch.received(bytes);
        if bytes.is_empty() && result.is_ready() {
            self.look_for_end();
        }
        result
    }

    pub(super) fn poll_fill_buf(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let result = Pin::new(&mut self.stream).poll_fill_buf(context);
        match result.map_ok(|bytes| bytes.is_empty()) {
            // The same bytes once more, without a look at the transport.
            Poll::Ready(Ok(false)) => {
                let (_, inner) = self.stream.parts();
                Poll::Ready(inner.reader().into_first_chunk())
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(ended) => {
                self.look_for_end();
                Poll::Ready(ended.map(|_| &[][..]))
            }
        }
    }

    pub(super) fn consume(&mut self, amount: usize) {
        self.progressed();
        let (tapped, inner) = self.stream.parts();
        // More than there is makes rustls panic, as it does without us.
        if let Ok(chunk) = inner.reader().into_first_chunk() {
            let bytes = chunk.get(..amount).unwrap_or_default();
            tapped.mirror.watch.received(bytes);
        }
        Pin::new(&mut self.stream).consume(amount);
    }
}

impl<S: Bare + AsyncWrite + Unpin> Watched<S> {
    /// As tokio-rustls, it writes until the transport takes no more. In parts that rustls takes at once, so
    /// that it is known what that has taken when the transport fails.
    pub(super) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = 0;
        loop {
            let before = self.before_write();
            let rest = bytes.get(written..).unwrap_or_default();
            let part = match before {
                Before::Empty { takes } => rest.get(..takes.max(1)).unwrap_or(rest),
                Before::Waiting => rest,
            };
            let result = Pin::new(&mut self.stream).poll_write(context, part);
            self.wrote(before, &result, &[IoSlice::new(part)]);
            match result {
                Poll::Ready(Ok(now)) => written += now,
                Poll::Pending if written > 0 => return Poll::Ready(Ok(written)),
                other => return other,
            }
            let (_, inner) = self.stream.parts();
            if written >= bytes.len() || inner.wants_write() {
                return Poll::Ready(Ok(written));
            }
        }
    }

    pub(super) fn poll_write_vectored(
        &mut self,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let before = self.before_write();
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        self.wrote(before, &result, buffers);
        result
    }

    pub(super) fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.progressed();
        if let Poll::Ready(result) = &result {
            self.resending &= result.is_err();
        }
        if matches!(result, Poll::Ready(Err(_))) {
            self.look_for_end();
        }
        result
    }

    pub(super) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_shutdown(context);
        self.progressed();
        let (tapped, inner) = self.stream.parts();
        // The first call has rustls send its close_notify, unless 0-RTT data has to be sent again before.
        let ended = match &result {
            Poll::Ready(result) => result.is_ok(),
            Poll::Pending => !inner.is_handshaking() && !self.resending,
        };
        if ended {
            tapped.mirror.watch.sending_ended();
        }
        if matches!(result, Poll::Ready(Err(_))) {
            self.look_for_end();
        }
        result
    }
}

/// The stream of a role: what an application sees of a [`Watched`].
macro_rules! stream_type {
    ($(#[$docs:meta])* $bare:ident, $connection:ident, $side:ident) => {
        $(#[$docs])*
        #[derive(Debug)]
        pub struct TlsStream<IO>(Watched<$bare<Tapped<IO>>>);

        impl<IO> TlsStream<IO> {
            /// The transport, and rustls' connection.
            pub fn get_ref(&self) -> (&IO, &$connection) {
                let (tapped, connection) = self.0.stream.get_ref();
                (&tapped.io, connection)
            }

            /// The same, to be changed.
            pub fn get_mut(&mut self) -> (&mut IO, ConnectionMut<'_, $side>) {
                self.0.view()
            }

            /// The same as a unified stream has them.
            pub(super) fn common(&mut self) -> (&mut IO, &mut rustls::CommonState) {
                let (tapped, connection) = self.0.stream.get_mut();
                (&mut tapped.io, connection)
            }

            /// Gives back the transport, and the connection, which stays mirrored.
            pub fn into_inner(self) -> (IO, crate::$connection) {
                let (tapped, inner) = self.0.stream.into_inner();
                let watch = tapped.mirror.watch;
                (tapped.io, crate::$connection::from_inner(inner, watch))
            }

            /// Tells the agent which addresses this connection has, where they can't be known from the
            /// transport; see [`ConnectionCommon::mirror_addresses`](crate::ConnectionCommon::mirror_addresses).
            pub fn mirror_addresses(&mut self, local: SocketAddr, peer: SocketAddr) {
                let (tapped, _) = self.0.stream.get_mut();
                tapped.mirror.watch.addresses_told(local, peer);
            }
        }

        impl<IO: AsRawFd> AsRawFd for TlsStream<IO> {
            fn as_raw_fd(&self) -> RawFd {
                self.get_ref().0.as_raw_fd()
            }
        }

        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
            fn poll_read(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffer: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::into_inner(self).0.poll_read(context, buffer)
            }
        }

        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncBufRead for TlsStream<IO> {
            fn poll_fill_buf(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<&[u8]>> {
                Pin::into_inner(self).0.poll_fill_buf(context)
            }

            fn consume(self: Pin<&mut Self>, amount: usize) {
                Pin::into_inner(self).0.consume(amount);
            }
        }

        /// As tokio-rustls': what was written may wait in rustls until it is flushed.
        impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
            fn poll_write(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                bytes: &[u8],
            ) -> Poll<io::Result<usize>> {
                Pin::into_inner(self).0.poll_write(context, bytes)
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
                buffers: &[IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                Pin::into_inner(self).0.poll_write_vectored(context, buffers)
            }

            fn is_write_vectored(&self) -> bool {
                self.0.stream.is_write_vectored()
            }

            fn poll_flush(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::into_inner(self).0.poll_flush(context)
            }

            fn poll_shutdown(
                self: Pin<&mut Self>,
                context: &mut Context<'_>,
            ) -> Poll<io::Result<()>> {
                Pin::into_inner(self).0.poll_shutdown(context)
            }
        }
    };
}
pub(super) use stream_type;
