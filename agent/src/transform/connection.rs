//! A session that speaks HTTP/2, as long as all of it is understood.

use std::collections::HashMap;

use super::exchange::{Exchange, Half, Told};
use super::frame::{Frame, Reader, Settings, StreamId};
use super::hpack::{Decoder, FieldList};
use super::lanes::{Context, Lanes};
use super::message::{self, Asked, Framing, Response, Seed};
use super::stats::Stop;
use crate::event::{Side, WallTime};

/// Largest table of header blocks that is kept for one direction, in bytes.
const MAX_TABLE_BYTES: usize = 64 << 10;
/// Streams under way at a time.
const MAX_STREAMS: usize = 256;
/// Streams given up within a second.
const MAX_RESETS: u32 = 256;
/// What a stream is counted as in memory, in bytes.
const STREAM_BYTES: usize = 256;

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
    state: Streams,
}

/// Why it can't go on, and what of the text at hand hasn't been told: of so many bytes that were kept, and the rest of the piece.
#[derive(Debug)]
pub(super) struct Stopped<'t> {
    pub(super) why: Stop,
    kept: usize,
    pub(super) rest: &'t [u8],
}

/// The streams.
#[derive(Debug, Default)]
struct Streams {
    exchanges: HashMap<StreamId, Exchange>,
    /// The newest stream of each side.
    newest: [Option<StreamId>; 2],
    /// In which second streams were given up last, and how many.
    resets: (u64, u32),
}

impl Connection {
    pub(super) fn new() -> Self {
        Self {
            readers: [Reader::of_client(), Reader::of_server()],
            decoders: [(); 2].map(|()| Decoder::new(MAX_TABLE_BYTES)),
            state: Streams::default(),
        }
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
            state,
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
            } => state.data(stream, bytes, last, &mut place)?,
            Frame::Headers {
                stream,
                block,
                last,
            } => {
                decoders[from as usize].decode(block, fields)?;
                state.headers(stream, fields, last, &mut place)?;
            }
            Frame::PushPromise {
                stream,
                promised,
                block,
            } => {
                decoders[from as usize].decode(block, fields)?;
                state.promise(stream, promised, fields, &mut place)?;
            }
            Frame::Reset { stream } => state.reset(stream, &mut place)?,
            Frame::GoAway { last } => state.go_away(last, &mut place),
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
        self.state.hole(stream, bytes, last, &mut place)
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
        let tables = self.decoders.iter().map(Decoder::table_bytes);
        let readers = self.readers.iter().map(Reader::memory_bytes);
        let streams = self.state.exchanges.capacity() * STREAM_BYTES;
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

/// Who said something when, and where it is told.
struct Place<'a, 'c> {
    at: WallTime,
    from: Side,
    lanes: &'a mut Lanes,
    context: &'a mut Context<'c>,
    scratch: &'a mut Vec<u8>,
}

impl<'c> Place<'_, 'c> {
    fn told(&mut self) -> Told<'_, 'c> {
        Told {
            lanes: self.lanes,
            context: self.context,
            scratch: self.scratch,
        }
    }

    /// Tells a head.
    fn tell(&mut self, exchange: &Exchange, from: Side) {
        let sink = &mut *self.context.sink;
        self.lanes
            .data(exchange.lane, self.at, from, self.scratch, sink);
    }
}

impl Streams {
    fn data(
        &mut self,
        stream: StreamId,
        bytes: &[u8],
        last: bool,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let Some(exchange) = self.exchanges.get_mut(&stream) else {
            place.context.stats.late_bytes += bytes.len() as u64;
            return self.was_there(stream);
        };
        let (at, from) = (place.at, place.from);
        exchange.content(at, from, bytes, last, place.told())?;
        if last {
            self.conclude(stream, place);
        }
        Ok(())
    }

    fn hole(
        &mut self,
        stream: StreamId,
        bytes: u64,
        last: bool,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let Some(exchange) = self.exchanges.get_mut(&stream) else {
            return self.was_there(stream);
        };
        let (at, from) = (place.at, place.from);
        exchange.hole(at, from, bytes, last, place.told())?;
        place.context.stats.holes += 1;
        if last {
            self.conclude(stream, place);
        }
        Ok(())
    }

    fn headers(
        &mut self,
        stream: StreamId,
        fields: &FieldList,
        last: bool,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let from = place.from;
        let Some(exchange) = self.exchanges.get_mut(&stream) else {
            let is_new = from == Side::Client
                && stream.is_clients()
                && self.newest[Side::Client as usize].is_none_or(|newest| newest < stream);
            return match is_new {
                true => self.request(stream, fields, last, place),
                false => self.was_there(stream),
            };
        };
        place.scratch.clear();
        match *exchange.half(from) {
            Half::Awaited => {
                let response = message::response(fields, last, &exchange.asked, place.scratch)?;
                place.tell(exchange, from);
                if let Response::Final(framing) = response {
                    *exchange.half(from) = Half::Begun(framing);
                    let request = exchange.half(Side::Client);
                    // What was to be a tunnel isn't one.
                    if *request == Half::Begun(Framing::Tunnel) && framing != Framing::Tunnel {
                        *request = Half::Begun(Framing::Nothing);
                    }
                    if last {
                        exchange.end(place.at, from, place.lanes, place.context);
                    }
                }
            }
            // RFC 9113 section 8.1: fields behind the content are the last.
            Half::Begun(_) if !last => return Err(Stop::Malformed),
            Half::Begun(
                framing @ (Framing::Chunked | Framing::Nothing | Framing::Length { left: 0 }),
            ) => {
                message::trailers(fields, place.scratch)?;
                if framing == Framing::Chunked {
                    place.tell(exchange, from);
                } else {
                    place.context.stats.unshown_trailers += fields.iter().count() as u64;
                }
                exchange.end(place.at, from, place.lanes, place.context);
            }
            Half::Begun(Framing::Length { .. }) => return Err(Stop::Length),
            Half::Begun(Framing::Tunnel) | Half::Over => return Err(Stop::Malformed),
        }
        self.conclude(stream, place);
        Ok(())
    }

    /// A client's new stream.
    fn request(
        &mut self,
        stream: StreamId,
        fields: &FieldList,
        last: bool,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        if self.exchanges.len() >= MAX_STREAMS {
            return Err(Stop::Streams);
        }
        place.scratch.clear();
        let seed = Seed(place.lanes.id(), stream);
        let request = message::request(fields, last, &seed, place.scratch)?;
        let lane = place.lanes.claim(place.at, place.context)?;
        self.newest[Side::Client as usize] = Some(stream);
        let half = Half::Begun(request.framing);
        let exchange = Exchange::new(lane, request.asked, half, false);
        place.tell(&exchange, Side::Client);
        place.context.stats.requests += 1;
        let exchange = self
            .exchanges
            .entry(stream)
            .insert_entry(exchange)
            .into_mut();
        if last {
            exchange.end(place.at, Side::Client, place.lanes, place.context);
        }
        Ok(())
    }

    /// RFC 9113 section 8.4.
    fn promise(
        &mut self,
        stream: StreamId,
        promised: StreamId,
        fields: &FieldList,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let newest = &mut self.newest[Side::Server as usize];
        // The client, who is to ask for it here, has said its last.
        let is_over = place.lanes.has_finished(Side::Client);
        if place.from != Side::Server
            || is_over
            || promised.is_clients()
            || newest.is_some_and(|newest| newest >= promised)
        {
            return Err(Stop::Frames);
        }
        *newest = Some(promised);
        if !self.exchanges.contains_key(&stream) {
            self.was_there(stream)?;
        }
        if self.exchanges.len() >= MAX_STREAMS {
            return Err(Stop::Streams);
        }
        place.scratch.clear();
        let seed = Seed(place.lanes.id(), promised);
        let request = message::request(fields, true, &seed, place.scratch)?;
        if matches!(request.asked, Asked::Connect | Asked::Upgrade { .. }) {
            return Err(Stop::Malformed);
        }
        let lane = place.lanes.claim_for_push(place.at, place.context)?;
        let exchange = Exchange::new(lane, request.asked, Half::Over, true);
        place.tell(&exchange, Side::Client);
        place.context.stats.pushed += 1;
        self.exchanges.insert(promised, exchange);
        Ok(())
    }

    fn reset(&mut self, stream: StreamId, place: &mut Place<'_, '_>) -> Result<(), Stop> {
        if let Some(exchange) = self.exchanges.remove(&stream) {
            place.context.stats.aborted += 1;
            let (at, from) = (place.at, place.from);
            place
                .lanes
                .reset_lane(exchange.lane, at, from, place.context);
            let second = at.0 / 1_000_000_000;
            let (of, count) = self.resets;
            let count = if of == second { count + 1 } else { 1 };
            self.resets = (second, count);
            if count > MAX_RESETS {
                return Err(Stop::Resets);
            }
        }
        Ok(())
    }

    /// What the other side asked for behind `last` isn't heard (RFC 9113 section 6.8).
    fn go_away(&mut self, last: StreamId, place: &mut Place<'_, '_>) {
        let is_unheard = |stream: &StreamId| {
            *stream > last && stream.is_clients() == (place.from == Side::Server)
        };
        let mut unheard: Vec<_> = self.exchanges.keys().copied().filter(is_unheard).collect();
        unheard.sort_unstable();
        for stream in unheard {
            if let Some(exchange) = self.exchanges.remove(&stream) {
                place.context.stats.aborted += 1;
                let (at, from) = (place.at, place.from);
                place
                    .lanes
                    .reset_lane(exchange.lane, at, from, place.context);
            }
        }
    }

    /// What comes for a stream that isn't under way: it was, and its end has crossed this, or it never began.
    fn was_there(&self, stream: StreamId) -> Result<(), Stop> {
        let by = match stream.is_clients() {
            true => Side::Client,
            false => Side::Server,
        };
        match self.newest[by as usize] {
            Some(newest) if stream <= newest => Ok(()),
            _ => Err(Stop::Frames),
        }
    }

    /// Where both messages are whole, the lane may take others.
    fn conclude(&mut self, stream: StreamId, place: &mut Place<'_, '_>) {
        let is_over = |exchange: &Exchange| exchange.is_over();
        if !self.exchanges.get(&stream).is_some_and(is_over) {
            return;
        }
        if let Some(exchange) = self.exchanges.remove(&stream) {
            if exchange.keeps_lane() {
                return place.lanes.release(exchange.lane);
            }
            for from in [Side::Client, Side::Server] {
                place
                    .lanes
                    .finish_lane(exchange.lane, place.at, from, place.context);
            }
        }
    }
}
