//! The streams of a session that are under way.

mod heads;

use std::collections::HashMap;

use super::decoding::{Codings, Decoding};
use super::exchange::{Content, Exchange, Goes, Half, Told};
use super::frame::StreamId;
use super::hpack::FieldList;
use super::lanes::{Context, LaneNumber, Lanes};
use super::message::{Asked, Framing};
use super::stats::Stop;
use crate::event::{ResetCause, Side, WallTime};

/// Streams under way at a time.
const MAX_STREAMS: usize = 256;
/// Streams given up within a second.
const MAX_RESETS: u32 = 256;
/// What a stream is counted as in memory, in bytes.
const STREAM_BYTES: usize = 256;

/// The streams of a session.
#[derive(Debug, Default)]
pub(super) struct Streams {
    exchanges: HashMap<StreamId, Exchange>,
    /// The newest stream of each side.
    newest: [Option<StreamId>; 2],
    /// In which second streams were given up last, and how many.
    resets: (u64, u32),
}

/// Who said something when, and where it is told.
pub(super) struct Place<'a, 'c> {
    pub(super) at: WallTime,
    pub(super) from: Side,
    pub(super) lanes: &'a mut Lanes,
    pub(super) context: &'a mut Context<'c>,
    pub(super) scratch: &'a mut Vec<u8>,
}

impl<'c> Place<'_, 'c> {
    fn told(&mut self) -> Told<'_, 'c> {
        Told {
            lanes: self.lanes,
            context: self.context,
            scratch: self.scratch,
        }
    }

    /// What decodes a message's content, if it can be shown decoded; its head, as it came, is at hand, and for decoded content it is
    /// written by `write`.
    fn decoding(
        &mut self,
        fields: &FieldList,
        framing: Framing,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), Stop>,
    ) -> Result<Option<Decoding>, Stop> {
        let budget = self.context.decoding;
        let (Some(budget), Framing::Chunked | Framing::Length { left: 1.. }) = (budget, framing)
        else {
            return Ok(None);
        };
        let codings = match Codings::of(fields) {
            Ok(None) => return Ok(None),
            Ok(Some(codings)) => codings,
            Err(why) => {
                self.context.stats.undecoded(why);
                return Ok(None);
            }
        };
        let mut decoded = Vec::new();
        write(&mut decoded)?;
        let decoding = Decoding::new(&codings, self.scratch.clone(), decoded, budget);
        Ok(decoding
            .inspect_err(|why| self.context.stats.undecoded(*why))
            .ok())
    }

    /// Tells a head.
    fn tell(&mut self, exchange: &Exchange, from: Side) {
        let sink = &mut *self.context.sink;
        self.lanes
            .data(exchange.lane, self.at, from, self.scratch, sink);
    }
}

impl Streams {
    /// The first request was told on that lane, all of it, before it was a stream.
    pub(super) fn upgraded(&mut self, lane: LaneNumber, asked: Asked) {
        let exchange = Exchange::new(lane, asked, Half::Over, false);
        self.newest[Side::Client as usize] = Some(StreamId::FIRST);
        self.exchanges.insert(StreamId::FIRST, exchange);
    }

    /// Content of a stream, or so much of it that is missing.
    pub(super) fn content(
        &mut self,
        stream: StreamId,
        content: Content<'_>,
        last: bool,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let Some(exchange) = self.exchanges.get_mut(&stream) else {
            if let Content::Text(bytes) = content {
                place.context.stats.late_bytes += bytes.len() as u64;
            }
            return self.was_there(stream);
        };
        let (at, from) = (place.at, place.from);
        let goes = exchange.content(at, from, content, last, &mut place.told())?;
        if matches!(content, Content::Missing(_)) {
            place.context.stats.holes += 1;
        }
        match goes {
            Goes::On if last => self.conclude(stream, place),
            Goes::On => {}
            Goes::BreaksOff => self.end_in_the_middle(stream, ResetCause::Undecoded, place),
        }
        Ok(())
    }

    /// A stream is given up.
    pub(super) fn reset(
        &mut self,
        stream: StreamId,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        self.give_up(&[stream], place)
    }

    /// What the other side asked for behind `last` isn't heard (RFC 9113 section 6.8).
    pub(super) fn go_away(
        &mut self,
        last: StreamId,
        place: &mut Place<'_, '_>,
    ) -> Result<(), Stop> {
        let is_unheard = |stream: &StreamId| {
            *stream > last && stream.is_clients() == (place.from == Side::Server)
        };
        let mut unheard: Vec<_> = self.exchanges.keys().copied().filter(is_unheard).collect();
        unheard.sort_unstable();
        self.give_up(&unheard, place)
    }

    /// Bytes that they take in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        self.exchanges.capacity() * STREAM_BYTES
    }

    /// What they were telling ends by resets, those that are under way; too many at once end all.
    fn give_up(&mut self, streams: &[StreamId], place: &mut Place<'_, '_>) -> Result<(), Stop> {
        let second = place.at.0 / 1_000_000_000;
        for stream in streams {
            if !self.exchanges.contains_key(stream) {
                continue;
            }
            place.context.stats.aborted += 1;
            self.end_in_the_middle(*stream, ResetCause::Abort, place);
            let (of, count) = self.resets;
            let count = if of == second { count + 1 } else { 1 };
            self.resets = (second, count);
        }
        match self.resets {
            (of, count) if of == second && count > MAX_RESETS => Err(Stop::Resets),
            _ => Ok(()),
        }
    }

    fn end_in_the_middle(
        &mut self,
        stream: StreamId,
        cause: ResetCause,
        place: &mut Place<'_, '_>,
    ) {
        if let Some(mut exchange) = self.exchanges.remove(&stream) {
            let (at, by) = (place.at, place.from);
            for from in [Side::Client, Side::Server] {
                exchange.release(at, from, &mut place.told());
            }
            let (lane, context) = (exchange.lane, &mut *place.context);
            place.lanes.reset_lane(lane, at, by, cause, context);
        }
    }

    /// What waits of messages of the place's side is told as it came.
    pub(super) fn release(&mut self, place: &mut Place<'_, '_>) {
        let mut streams: Vec<_> = self.exchanges.keys().copied().collect();
        streams.sort_unstable();
        for stream in streams {
            if let Some(exchange) = self.exchanges.get_mut(&stream) {
                exchange.release(place.at, place.from, &mut place.told());
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
