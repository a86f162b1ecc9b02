//! Frames in and out of a connection.
//!
//! A batch is read into a buffer in which it stays until a worker is done with it. A connection uses the same few
//! buffers again and again: memory that is new has to be zeroed by the kernel first, page by page.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::connection::End;
use crate::tunnel::batch::MAX_BATCH_BYTES;
use crate::tunnel::frame::{
    BATCH_HEADER_BYTES, Frame, HEADER_BYTES, Message, Reason, SILENCE_SECONDS,
};

const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);
/// A buffer has room for any frame.
const BUFFER_BYTES: usize = HEADER_BYTES + BATCH_HEADER_BYTES + MAX_BATCH_BYTES;
/// Buffers that are kept: of about what one source may have waiting.
const MAX_SPENT: usize = 16;

/// Where an agent's frames come from.
pub(super) struct Reader<S> {
    half: ReadHalf<S>,
    incoming: BytesMut,
    /// Full ones, the oldest first. Workers may have some of them yet.
    spent: VecDeque<BytesMut>,
}

/// Where what we say goes.
pub(super) struct Writer<S> {
    half: WriteHalf<S>,
}

impl<S: AsyncRead> Reader<S> {
    pub(super) fn new(half: ReadHalf<S>) -> Self {
        Self {
            half,
            incoming: BytesMut::new(),
            spent: VecDeque::new(),
        }
    }

    /// The next frame. Gives up when nothing comes for too long.
    pub(super) async fn frame(&mut self) -> Result<Frame, End> {
        loop {
            let decoded = Frame::decode(&mut self.incoming);
            let decoded =
                decoded.map_err(|error| End::Refused(error.reason(), error.to_string()))?;
            if let Some(frame) = decoded {
                if matches!(frame, Frame::Message(_)) {
                    // Such as a ping every few seconds: who is idle keeps nothing.
                    self.spent.clear();
                    if self.incoming.is_empty() {
                        self.incoming = BytesMut::new();
                    }
                }
                return Ok(frame);
            }
            // No more than this frame: the next one may go into another buffer.
            let missing = Frame::missing(&self.incoming);
            self.make_room(missing);
            let mut into = (&mut self.incoming).limit(missing);
            let read = timeout(SILENCE, self.half.read_buf(&mut into)).await;
            if read.map_err(|_| Reason::Silent)?? == 0 {
                return Err(End::Gone);
            }
        }
    }

    /// Sees that so many bytes more fit, and that a frame is in one piece.
    fn make_room(&mut self, bytes: usize) {
        if self.incoming.capacity() - self.incoming.len() >= bytes {
            return;
        }
        let free = self
            .spent
            .front_mut()
            .is_some_and(|oldest| oldest.try_reclaim(BUFFER_BYTES));
        let next = match free {
            true => self.spent.pop_front().unwrap_or_default(),
            false => BytesMut::with_capacity(BUFFER_BYTES),
        };
        let mut full = std::mem::replace(&mut self.incoming, next);
        // A header at most, unless the frame began in another one's last bytes.
        self.incoming.extend_from_slice(&full);
        full.clear();
        if self.spent.len() < MAX_SPENT && full.capacity() > 0 {
            self.spent.push_back(full);
        }
    }

    /// Reads and forgets, until nothing more comes.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        let mut rest = vec![0; 16 << 10];
        while self.half.read(&mut rest).await? > 0 {}
        Ok(())
    }
}

impl<S: AsyncWrite> Writer<S> {
    pub(super) fn new(half: WriteHalf<S>) -> Self {
        Self { half }
    }

    pub(super) async fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let mut bytes = BytesMut::new();
        messages
            .iter()
            .for_each(|message| message.encode(&mut bytes));
        let written = timeout(SILENCE, async {
            self.half.write_all(&bytes).await?;
            self.half.flush().await
        });
        written
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Says that nothing more comes.
    pub(super) async fn close(&mut self) -> io::Result<()> {
        self.half.shutdown().await
    }
}
