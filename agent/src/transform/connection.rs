//! A session that speaks HTTP/2, as long as all of it is understood.

use super::exchange::Content;
use super::frame::{Frame, Reader, Settings};
use super::hpack::{Decoder, FieldList};
use super::lanes::{Context, LaneNumber, Lanes};
use super::message::Asked;
use super::stats::Stop;
use super::streams::{Place, Streams};
use crate::event::{Side, WallTime};

/// Largest table of header blocks that is kept for one direction, in bytes.
const MAX_TABLE_BYTES: usize = 64 << 10;

/// What all sessions use, one after another.
#[derive(Debug)]
pub(super) struct Scratch {
    fields: FieldList,
    text: Vec<u8>,
}

impl Scratch {
    /// For header lists of so many bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
    pub(super) fn new(max_list_bytes: usize) -> Self {
        Self {
            fields: FieldList::new(max_list_bytes),
            text: Vec::new(),
        }
    }
}

/// Both directions.
#[derive(Debug)]
pub(super) struct Connection {
    readers: [Reader; 2],
    decoders: [Decoder; 2],
    streams: Streams,
}

/// Why it can't go on, and what of the text at hand hasn't been told: of so many bytes that were kept, and the rest of the piece.
#[derive(Debug)]
pub(super) struct Stopped<'t> {
    pub(super) why: Stop,
    kept: usize,
    pub(super) rest: &'t [u8],
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            readers: [Reader::of_client(), Reader::of_server()],
            decoders: [(); 2].map(|()| Decoder::new(MAX_TABLE_BYTES)),
            streams: Streams::default(),
        }
    }

    /// Behind an upgrade of HTTP/1.1: what was asked there is stream 1, told on that lane already (RFC 7540 section 3.2).
    pub(super) fn upgraded(lane: LaneNumber, asked: Asked, clients: Settings) -> Self {
        let mut connection = Self::new();
        let server = Side::Server as usize;
        permit(
            clients,
            &mut connection.readers[server],
            &mut connection.decoders[server],
        );
        connection.streams.upgraded(lane, asked);
        connection
    }

    /// Text of one side.
    pub(super) fn data<'t>(
        &mut self,
        at: WallTime,
        from: Side,
        mut text: &'t [u8],
        scratch: &mut Scratch,
        lanes: &mut Lanes,
        context: &mut Context<'_>,
    ) -> Result<(), Stopped<'t>> {
        loop {
            let rest = text;
            let kept = self.readers[from as usize].unread().len();
            let step = self.step(at, from, &mut text, scratch, lanes, context);
            match step {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(why) => return Err(Stopped { why, kept, rest }),
            }
        }
    }

    /// Reads and tells a frame, or a piece of one. `false`: there is none.
    fn step(
        &mut self,
        at: WallTime,
        from: Side,
        text: &mut &[u8],
        scratch: &mut Scratch,
        lanes: &mut Lanes,
        context: &mut Context<'_>,
    ) -> Result<bool, Stop> {
        let Self {
            readers,
            decoders,
            streams,
        } = self;
        let mut place = Place {
            at,
            from,
            lanes,
            context,
            scratch: &mut scratch.text,
        };
        let fields = &mut scratch.fields;
        let Some(frame) = readers[from as usize].next(text)? else {
            return Ok(false);
        };
        match frame {
            Frame::Data {
                stream,
                bytes,
                last,
            } => streams.content(stream, Content::Text(bytes), last, &mut place)?,
            Frame::Headers {
                stream,
                block,
                last,
            } => {
                decoders[from as usize].decode(block, fields)?;
                streams.headers(stream, fields, last, &mut place)?;
            }
            Frame::PushPromise {
                stream,
                promised,
                block,
            } => {
                decoders[from as usize].decode(block, fields)?;
                streams.promise(stream, promised, fields, &mut place)?;
            }
            Frame::Reset { stream } => streams.reset(stream, &mut place)?,
            Frame::GoAway { last } => streams.go_away(last, &mut place)?,
            Frame::Settings(settings) => {
                let other = from.peer() as usize;
                permit(settings, &mut readers[other], &mut decoders[other]);
            }
            Frame::Other => {}
        }
        Ok(true)
    }

    /// So much of what a side said is missing.
    pub(super) fn hole(
        &mut self,
        at: WallTime,
        from: Side,
        bytes: u64,
        scratch: &mut Scratch,
        lanes: &mut Lanes,
        context: &mut Context<'_>,
    ) -> Result<(), Stop> {
        let hole = self.readers[from as usize].hole(bytes);
        let (stream, last) = hole.ok_or(Stop::Hole)?;
        let mut place = Place {
            at,
            from,
            lanes,
            context,
            scratch: &mut scratch.text,
        };
        let content = Content::Missing(bytes);
        self.streams.content(stream, content, last, &mut place)
    }

    /// What waits of messages of these sides is told as it came: nothing of theirs is waited for any more.
    pub(super) fn release(
        &mut self,
        at: WallTime,
        sides: &[Side],
        lanes: &mut Lanes,
        context: &mut Context<'_>,
    ) {
        for from in sides {
            self.streams.release(&mut Place {
                at,
                from: *from,
                lanes,
                context,
                scratch: &mut Vec::new(),
            });
        }
    }

    /// All that one side said and that wasn't told, in front of the piece that is at hand.
    pub(super) fn unread(&self, from: Side) -> &[u8] {
        self.readers[from as usize].unread()
    }

    /// The same of the side at whose text it stopped.
    pub(super) fn unread_before(&self, from: Side, stopped: &Stopped<'_>) -> &[u8] {
        self.readers[from as usize].kept(stopped.kept)
    }

    /// Bytes that it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let tables = self.decoders.iter().map(Decoder::memory_bytes);
        let readers = self.readers.iter().map(Reader::memory_bytes);
        let streams = self.streams.memory_bytes();
        size_of::<Self>() + tables.sum::<usize>() + readers.sum::<usize>() + streams
    }
}

/// One end's settings are for what the other writes.
fn permit(settings: Settings, reader: &mut Reader, decoder: &mut Decoder) {
    if let Some(bytes) = settings.header_table_bytes {
        decoder.permit(bytes);
    }
    if let Some(bytes) = settings.max_frame_bytes {
        reader.permit(bytes);
    }
}
