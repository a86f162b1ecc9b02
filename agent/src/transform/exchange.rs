//! A request and its answer: one stream.

use super::decoding::{Decoding, Piece, Waiting};
use super::lanes::{Context, LaneNumber, Lanes};
use super::message::{Asked, Framing};
use super::stats::{Stop, Undecoded};
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
    /// Of content that is to be shown decoded.
    decodings: [Option<Box<Decoding>>; 2],
    /// Its lane ends with it.
    pub(super) is_pushed: bool,
}

/// Whether an exchange goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goes {
    On,
    /// What has been told of it can't be gone on with.
    BreaksOff,
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
            decodings: [None, None],
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
        told: &mut Told<'_, '_>,
    ) -> Result<Goes, Stop> {
        self.check_tunnel(from, content.bytes())?;
        let Half::Begun(framing) = self.half(from) else {
            return Err(Stop::Malformed);
        };
        let taken = framing.take(content.bytes(), last);
        taken.map_err(|_| Stop::Length)?;
        let framing = *framing;
        let goes = match self.decodings[from as usize].is_some() {
            true => self.decode(at, from, content, last, told),
            false => {
                told.content(self.lane, at, from, framing, content, last);
                Goes::On
            }
        };
        if last && goes == Goes::On {
            if self.decodings[from as usize].take().is_some() {
                told.context.stats.decoded += 1;
                told.end_chunks(self.lane, at, from);
            }
            self.end(at, from, told.lanes, told.context);
        }
        Ok(goes)
    }

    /// Its head waits for what its content can be shown as.
    pub(super) fn wait(&mut self, from: Side, decoding: Decoding) {
        self.decodings[from as usize] = Some(Box::new(decoding));
    }

    /// No content comes any more, but fields behind it. Says how it was framed; nothing: it couldn't be decoded to its end.
    pub(super) fn end_content(
        &mut self,
        at: WallTime,
        from: Side,
        framing: Framing,
        told: &mut Told<'_, '_>,
    ) -> Option<Framing> {
        if self.decodings[from as usize].is_none() {
            return Some(framing);
        }
        match self.decode(at, from, Content::Text(&[]), true, told) {
            Goes::BreaksOff => None,
            Goes::On => Some(match self.decodings[from as usize].take() {
                None => framing,
                Some(_) => {
                    told.context.stats.decoded += 1;
                    Framing::Chunked
                }
            }),
        }
    }

    /// What waits of a message is told as it came.
    pub(super) fn release(&mut self, at: WallTime, from: Side, told: &mut Told<'_, '_>) {
        let waits = |decoding: &mut Box<Decoding>| decoding.is_waiting();
        let decoding = self.decodings[from as usize].take_if(waits);
        if let Some(waiting) = decoding.and_then(|decoding| decoding.give_back()) {
            told.context.stats.undecoded(Undecoded::Cut);
            self.tell_as_it_came(at, from, &waiting, false, told);
        }
    }

    /// The head that waits is told, for content that is to be shown decoded.
    pub(super) fn commit(&mut self, at: WallTime, from: Side, told: &mut Told<'_, '_>) {
        if let Some(decoding) = &mut self.decodings[from as usize] {
            decoding.commit(&mut |piece| told.piece(self.lane, at, from, piece));
        }
    }

    fn decode(
        &mut self,
        at: WallTime,
        from: Side,
        content: Content<'_>,
        last: bool,
        told: &mut Told<'_, '_>,
    ) -> Goes {
        let lane = self.lane;
        let slot = &mut self.decodings[from as usize];
        let Some(decoding) = slot else {
            return Goes::On;
        };
        let decoded = match content {
            Content::Missing(_) => Err(Undecoded::Hole),
            Content::Text(bytes) => decoding.push(bytes, last, &mut |piece| {
                told.piece(lane, at, from, piece);
            }),
        };
        let Err(why) = decoded else {
            return Goes::On;
        };
        let Some(waiting) = slot.take().and_then(|decoding| decoding.give_back()) else {
            told.context.stats.broken_off(why);
            return Goes::BreaksOff;
        };
        told.context.stats.undecoded(why);
        let is_missing = matches!(content, Content::Missing(_));
        self.tell_as_it_came(at, from, &waiting, last && !is_missing, told);
        if is_missing && let Half::Begun(framing) = *self.half(from) {
            told.content(lane, at, from, framing, content, last);
        }
        Goes::On
    }

    fn tell_as_it_came(
        &mut self,
        at: WallTime,
        from: Side,
        waiting: &Waiting,
        last: bool,
        told: &mut Told<'_, '_>,
    ) {
        let sink = &mut *told.context.sink;
        told.lanes
            .data(self.lane, at, from, &waiting.as_it_came, sink);
        if let Half::Begun(framing) = *self.half(from) {
            let content = Content::Text(&waiting.text);
            told.content(self.lane, at, from, framing, content, last);
        }
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

impl Told<'_, '_> {
    /// Content in its framing, the last or not.
    fn content(
        &mut self,
        lane: LaneNumber,
        at: WallTime,
        from: Side,
        framing: Framing,
        content: Content<'_>,
        last: bool,
    ) {
        let Self {
            lanes,
            context,
            scratch,
        } = self;
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
    }

    /// What a decoder makes of a message.
    fn piece(&mut self, lane: LaneNumber, at: WallTime, from: Side, piece: Piece<'_>) {
        match piece {
            Piece::Head(head) => self.lanes.data(lane, at, from, head, self.context.sink),
            Piece::Content(bytes) => {
                let content = Content::Text(bytes);
                self.content(lane, at, from, Framing::Chunked, content, false);
            }
        }
    }

    fn end_chunks(&mut self, lane: LaneNumber, at: WallTime, from: Side) {
        self.content(lane, at, from, Framing::Chunked, Content::Text(&[]), true);
    }
}

/// RFC 9112 section 7.1.
fn write_chunk_head(bytes: u64, out: &mut Vec<u8>) {
    let digits = (64 - bytes.leading_zeros()).div_ceil(4).max(1);
    let digit = |at: u32| b"0123456789abcdef"[(bytes >> (4 * at) & 0xf) as usize];
    out.extend((0..digits).rev().map(digit));
    out.extend_from_slice(b"\r\n");
}
