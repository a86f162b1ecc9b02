//! Reads much at once from a socket, for who asks for a little at a time.
//!
//! ```text
//! socket ──one read of up to 64 KiB──> Gulp ──4 KiB, and again──> rustls ──> a record's text
//! ```
//!
//! rustls asks for 4 KiB, and for as much again until it has a whole record. Each such read of a socket is a system
//! call behind which the kernel may tell the sender of new room, by a packet that the sender has to take in. A copy
//! within the processor's cache costs less.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is read at once of who has much to say: a few TLS records.
const GULP_BYTES: usize = 64 << 10;
/// And of others, as long as they haven't filled that: those of whom nobody knows yet who they are may be many.
const SIP_BYTES: usize = 4 << 10;

/// A socket that is read in gulps. What is written passes as it is.
#[derive(Debug)]
pub(super) struct Gulp<S> {
    socket: S,
    buffer: Vec<u8>,
    /// What of the buffer is still to be handed on.
    begin: usize,
    end: usize,
    /// It has more to say than a sip.
    talkative: bool,
}

impl<S> Gulp<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            socket,
            buffer: Vec::new(),
            begin: 0,
            end: 0,
            talkative: false,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gulp<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.begin == this.end {
            let size = if this.talkative {
                GULP_BYTES
            } else {
                SIP_BYTES
            };
            if this.buffer.len() != size {
                this.buffer = vec![0; size];
            }
            let mut read = ReadBuf::new(&mut this.buffer);
            ready!(Pin::new(&mut this.socket).poll_read(context, &mut read))?;
            (this.begin, this.end) = (0, read.filled().len());
            this.talkative = this.end >= SIP_BYTES;
        }
        let bytes = (this.end - this.begin).min(into.remaining());
        into.put_slice(&this.buffer[this.begin..this.begin + bytes]);
        this.begin += bytes;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gulp<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[test]
    fn what_is_said_comes_whole_however_it_is_asked_for() {
        let said: Vec<u8> = (0..400_000_u32).map(|byte| (byte % 251) as u8).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut speaker, listener) = duplex(100_000);
            let mut gulp = Gulp::new(listener);
            let mut heard = Vec::new();
            let speak = async {
                for piece in [&said[..10], &said[10..300_000], &said[300_000..]] {
                    speaker.write_all(piece).await.unwrap();
                }
                drop(speaker);
            };
            let listen = async {
                let mut asked = (1..).step_by(977);
                let mut some = [0; 5000];
                loop {
                    let most = asked.next().unwrap() % some.len() + 1;
                    let count = gulp.read(&mut some[..most]).await.unwrap();
                    assert!(count <= most);
                    if count == 0 {
                        break;
                    }
                    heard.extend_from_slice(&some[..count]);
                }
            };
            tokio::join!(speak, listen);
            assert!(heard == said, "{} bytes of {}", heard.len(), said.len());
            assert_eq!(gulp.buffer.len(), GULP_BYTES);
        });
    }

    #[test]
    fn who_says_little_takes_little_room() {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(async {
            let (mut speaker, listener) = duplex(100_000);
            let mut gulp = Gulp::new(listener);
            let mut some = [0; 20_000];
            for (said, room) in [
                (100, SIP_BYTES),
                (20_000, GULP_BYTES),
                (100, GULP_BYTES),
                (100, SIP_BYTES),
            ] {
                speaker.write_all(&vec![1; said]).await.unwrap();
                gulp.read_exact(&mut some[..said]).await.unwrap();
                assert_eq!(gulp.buffer.len(), room, "{said} bytes");
            }
        });
    }
}
