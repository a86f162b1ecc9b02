//! A request and its answer: one stream.

use super::lanes::{Context, LaneNumber, Lanes};
use super::message::{Asked, Framing};
use super::stats::Stop;
use crate::event::{Side, WallTime};
use crate::retold::MAX_PIECE_BYTES;

/// Content that goes into one piece with the chunk's head and end around it.
const MAX_CHUNK_BYTES: usize = MAX_PIECE_BYTES - 16;

/// One stream, and where it is told.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) lane: LaneNumber,
    pub(super) asked: Asked,
    /// What the client says, and the server.
    halves: [Half; 2],
    /// Its lane ends with it.
    pub(super) is_pushed: bool,
}

/// One message of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Its head is to come.
    Awaited,
    /// Its head has been told.
    Begun(Framing),
    /// All of it has.
    Over,
}

/// A piece of a message's content.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content<'a> {
    Text(&'a [u8]),
    /// So many bytes are missing.
    Missing(u64),
}

impl Content<'_> {
    fn bytes(self) -> u64 {
        match self {
            Self::Text(bytes) => bytes.len() as u64,
            Self::Missing(bytes) => bytes,
        }
    }
}

impl Exchange {
    /// The request's head has been told.
    pub(super) fn new(lane: LaneNumber, asked: Asked, request: Half, is_pushed: bool) -> Self {
        Self {
            lane,
            asked,
            halves: [request, Half::Awaited],
            is_pushed,
        }
    }

    pub(super) fn half(&mut self, from: Side) -> &mut Half {
        &mut self.halves[from as usize]
    }

    pub(super) fn is_over(&self) -> bool {
        self.halves == [Half::Over; 2]
    }

    /// What comes behind it can't be HTTP: its lane ends with it.
    fn is_tunnel(&self) -> bool {
        matches!(self.asked, Asked::Connect | Asked::Upgrade { .. })
    }

    /// Whether its lane may take another exchange.
    pub(super) fn keeps_lane(&self) -> bool {
        !self.is_pushed && !self.is_tunnel()
    }

    /// Content of a message, the last or not.
    pub(super) fn content(
        &mut self,
        at: WallTime,
        from: Side,
        content: Content<'_>,
        last: bool,
        told: Told<'_, '_>,
    ) -> Result<(), Stop> {
        self.check_tunnel(from, content.bytes())?;
        let Half::Begun(framing) = self.half(from) else {
            return Err(Stop::Malformed);
        };
        let taken = framing.take(content.bytes(), last);
        taken.map_err(|_| Stop::Length)?;
        let framing = *framing;
        let Told {
            lanes,
            context,
            scratch,
        } = told;
        let lane = self.lane;
        scratch.clear();
        match (framing, content) {
            (Framing::Nothing, Content::Text(_)) => {}
            (Framing::Length { .. } | Framing::Tunnel, Content::Text(bytes)) => {
                lanes.data(lane, at, from, bytes, context.sink);
            }
            (Framing::Chunked, Content::Missing(bytes)) => {
                write_chunk_head(bytes, scratch);
                lanes.data(lane, at, from, scratch, context.sink);
                scratch.clear();
                lanes.hole(lane, at, from, bytes, context.sink);
                scratch.extend_from_slice(b"\r\n");
                if last {
                    scratch.extend_from_slice(b"0\r\n\r\n");
                }
                lanes.data(lane, at, from, scratch, context.sink);
            }
            (_, Content::Missing(bytes)) => lanes.hole(lane, at, from, bytes, context.sink),
            (Framing::Chunked, Content::Text(bytes)) => {
                let mut chunks = bytes.chunks(MAX_CHUNK_BYTES).peekable();
                while let Some(chunk) = chunks.next() {
                    write_chunk_head(chunk.len() as u64, scratch);
                    scratch.extend_from_slice(chunk);
                    scratch.extend_from_slice(b"\r\n");
                    if chunks.peek().is_some() {
                        lanes.data(lane, at, from, scratch, context.sink);
                        scratch.clear();
                    }
                }
                if last {
                    scratch.extend_from_slice(b"0\r\n\r\n");
                }
                lanes.data(lane, at, from, scratch, context.sink);
            }
        }
        if last {
            self.end(at, from, lanes, context);
        }
        Ok(())
    }

    /// Until a tunnel is granted, what the client says there would be read as its next request (RFC 9110 section 9.3.6).
    fn check_tunnel(&self, from: Side, bytes: u64) -> Result<(), Stop> {
        let waits = self.halves == [Half::Begun(Framing::Tunnel), Half::Awaited];
        match from == Side::Client && waits && bytes > 0 {
            true => Err(Stop::Malformed),
            false => Ok(()),
        }
    }

    /// A message is whole.
    pub(super) fn end(
        &mut self,
        at: WallTime,
        from: Side,
        lanes: &mut Lanes,
        context: &mut Context<'_>,
    ) {
        *self.half(from) = Half::Over;
        if self.is_tunnel() {
            lanes.finish_lane(self.lane, at, from, context);
        }
    }
}

/// Where an exchange is told.
pub(super) struct Told<'a, 'c> {
    pub(super) lanes: &'a mut Lanes,
    pub(super) context: &'a mut Context<'c>,
    pub(super) scratch: &'a mut Vec<u8>,
}

/// RFC 9112 section 7.1.
fn write_chunk_head(bytes: u64, out: &mut Vec<u8>) {
    let digits = (64 - bytes.leading_zeros()).div_ceil(4).max(1);
    let digit = |at: u32| b"0123456789abcdef"[(bytes >> (4 * at) & 0xf) as usize];
    out.extend((0..digits).rev().map(digit));
    out.extend_from_slice(b"\r\n");
}
