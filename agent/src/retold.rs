//! Flows that are made of a session's text, where packets are made: of who is behind a proxy ([`crate::real`]), of HTTP/2
//! ([`crate::transform`]).

use sha2::{Digest, Sha256};

use crate::event::{FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, Side, WallTime};

/// A flow event has at most so many bytes.
pub(crate) const MAX_PIECE_BYTES: usize = 16_384;

/// A session, of which several flows are made.
#[derive(Debug)]
pub(crate) struct RetoldSession {
    pub(crate) info: Box<FlowInfo>,
    /// The number of the session's own flow.
    pub(crate) flow: u64,
    /// How many flows have begun.
    pub(crate) begun: u64,
    /// Which sides say no more: in no flow, also those that begin later.
    pub(crate) finished: [bool; 2],
}

impl RetoldSession {
    /// No flow of it has begun.
    pub(crate) fn new(flow: u64, info: &FlowInfo) -> Self {
        Self {
            info: Box::new(info.clone()),
            flow,
            begun: 0,
            finished: [false; 2],
        }
    }

    /// Neither side says more.
    pub(crate) fn is_finished(&self) -> bool {
        self.finished == [true; 2]
    }
}

/// A flow, and how far it has been told.
#[derive(Debug)]
pub(crate) struct RetoldFlow {
    number: u64,
    said: [u64; 2],
    last: WallTime,
}

impl RetoldFlow {
    /// Nothing has been told of it.
    pub(crate) fn new(number: u64, at: WallTime) -> Self {
        Self {
            number,
            said: [0; 2],
            last: at,
        }
    }

    /// Its number among all flows.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// When something was told of it last.
    pub(crate) fn last(&self) -> WallTime {
        self.last
    }

    /// Neither side has said anything.
    pub(crate) fn is_silent(&self) -> bool {
        self.said == [0; 2]
    }

    /// A side says something; any length.
    pub(crate) fn data(&mut self, at: WallTime, from: Side, bytes: &[u8], sink: &mut dyn FlowSink) {
        for bytes in bytes.chunks(MAX_PIECE_BYTES) {
            let offset = self.said[from as usize];
            self.said[from as usize] += bytes.len() as u64;
            let change = FlowChange::Data {
                from,
                offset,
                bytes,
            };
            self.emit(at, change, sink);
        }
    }

    /// So much of what a side says is missing.
    pub(crate) fn hole(&mut self, at: WallTime, from: Side, bytes: u64, sink: &mut dyn FlowSink) {
        let offset = self.said[from as usize];
        self.said[from as usize] = offset.saturating_add(bytes);
        let change = FlowChange::Hole {
            from,
            offset,
            bytes,
        };
        self.emit(at, change, sink);
    }

    /// What waited comes out later than what didn't: time never goes back within a flow.
    pub(crate) fn emit(&mut self, at: WallTime, change: FlowChange<'_>, sink: &mut dyn FlowSink) {
        self.last = self.last.max(at);
        sink.flow_event(FlowEvent {
            flow: self.number,
            at: self.last,
            change,
        });
    }
}

/// The id of a session's further flow, by who makes it (`maker`) and its number there.
pub(crate) fn further_id(maker: &str, session: FlowId, number: u64) -> FlowId {
    let hash = Sha256::new()
        .chain_update(b"tls-mirror ")
        .chain_update(maker)
        .chain_update(b"\0")
        .chain_update(session.0)
        .chain_update(number.to_be_bytes());
    let hash: [u8; 32] = hash.finalize().into();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    FlowId(id)
}
