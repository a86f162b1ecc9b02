//! Header blocks: messages begin, and end with fields behind their content.

use super::{MAX_STREAMS, Place, Streams};
use crate::event::{ResetCause, Side};
use crate::transform::exchange::{Exchange, Half};
use crate::transform::frame::StreamId;
use crate::transform::hpack::FieldList;
use crate::transform::message::{self, Asked, Framing, Response, Seed, Shown};
use crate::transform::stats::Stop;

impl Streams {
    /// A whole header block: of a message's head, or of what stands behind its content.
    pub(in super::super) fn headers(
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
                let as_it_came = Shown::AsItCame;
                let asked = &exchange.asked;
                let response = message::response(fields, last, asked, as_it_came, place.scratch)?;
                let decoding = match response {
                    Response::Interim => None,
                    Response::Final(framing) => place.decoding(fields, framing, |head| {
                        message::response(fields, last, asked, Shown::Decoded, head)?;
                        Ok(())
                    })?,
                };
                // The request is in front of its answer; who is told to go on with it is sure to.
                let at = place.at;
                match response {
                    Response::Interim => exchange.commit(at, Side::Client, &mut place.told()),
                    Response::Final(_) => exchange.release(at, Side::Client, &mut place.told()),
                }
                match decoding {
                    Some(decoding) => exchange.wait(from, decoding),
                    None => place.tell(exchange, from),
                }
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
                let at = place.at;
                let Some(framing) = exchange.end_content(at, from, framing, &mut place.told())
                else {
                    self.end_in_the_middle(stream, ResetCause::Undecoded, place);
                    return Ok(());
                };
                place.scratch.clear();
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
        let as_it_came = Shown::AsItCame;
        let request = message::request(fields, last, &seed, as_it_came, place.scratch)?;
        let decoding = place.decoding(fields, request.framing, |head| {
            message::request(fields, last, &seed, Shown::Decoded, head)?;
            Ok(())
        })?;
        let lane = place.lanes.claim(place.at, place.context)?;
        self.newest[Side::Client as usize] = Some(stream);
        let half = Half::Begun(request.framing);
        let mut exchange = Exchange::new(lane, request.asked, half, false);
        match decoding {
            Some(decoding) => exchange.wait(Side::Client, decoding),
            None => place.tell(&exchange, Side::Client),
        }
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
    pub(in super::super) fn promise(
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
        let request = message::request(fields, true, &seed, Shown::AsItCame, place.scratch)?;
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
}
