//! One session, from its begin on.

use super::connection::{Connection, Scratch, Stopped};
use super::lanes::{Context, LaneNumber, Lanes};
use super::stats::Stop;
use super::upgrade::{Then, Upgraded, Watch};
use crate::event::{FlowChange, FlowInfo, Side, Tuple, WallTime};
use crate::real::http::may_be_request;

/// What a client says first where it speaks HTTP/2, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SIDES: [Side; 2] = [Side::Client, Side::Server];
/// What a server may say in front of it, and is kept until the client's first word.
const MAX_SETTINGS_BYTES: usize = 1024;

/// A session whose protocol is HTTP/2, or isn't known.
#[derive(Debug)]
pub(super) struct Session {
    lanes: Lanes,
    state: State,
    /// Bytes that each side has said.
    said: [u64; 2],
}

#[derive(Debug)]
enum State {
    /// Nobody knows yet what it speaks. What has been said is kept, with who said it.
    Unknown(Vec<(Side, Vec<u8>)>),
    /// HTTP/1.1 in the session's own flow, which may become HTTP/2.
    Http11(Box<Watch>, LaneNumber),
    Http2(Box<Connection>),
    /// As it is: in the session's own flow from the begin on, or in another from some place on. Nothing: there is no port for it.
    AsIs(Option<LaneNumber>),
}

impl Session {
    /// It begins.
    pub(super) fn begin(
        flow: u64,
        at: WallTime,
        info: &FlowInfo,
        context: &mut Context<'_>,
    ) -> Self {
        let is_http2 = info.alpn.as_deref() == Some("h2");
        let mut lanes = Lanes::begin(flow, at, info, is_http2, context);
        let state = match info.alpn.as_deref() {
            Some("h2") => State::http2(Connection::new(), context),
            Some(_) => State::http11(&mut lanes, at, context),
            None => State::Unknown(Vec::new()),
        };
        Self {
            lanes,
            state,
            said: [0; 2],
        }
    }

    /// Something happens. Says whether the session is over.
    pub(super) fn change(
        &mut self,
        at: WallTime,
        change: FlowChange<'_>,
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) -> bool {
        match change {
            FlowChange::Begin(_) => {}
            FlowChange::Data { from, bytes, .. } => {
                self.data(at, from, bytes, scratch, context);
                self.said[from as usize] += bytes.len() as u64;
            }
            FlowChange::Hole { from, bytes, .. } => {
                self.hole(at, from, bytes, scratch, context);
                self.said[from as usize] = self.said[from as usize].saturating_add(bytes);
            }
            FlowChange::Finish { from } => {
                self.decide(at, context);
                self.cut(at, from, context);
                self.release(at, &[from], context);
                self.lanes.finish(at, from, context);
                return self.lanes.is_finished();
            }
            FlowChange::Reset { by, cause } => {
                self.decide(at, context);
                for from in SIDES {
                    self.cut(at, from, context);
                }
                self.release(at, &SIDES, context);
                self.lanes.reset(at, by, cause, context);
                return true;
            }
        }
        false
    }

    /// A real connection takes the addresses of one of its lanes.
    pub(super) fn yield_to(&mut self, tuple: Tuple, at: WallTime, context: &mut Context<'_>) {
        self.release(at, &SIDES, context);
        if !self.lanes.yield_to(tuple, at, context) {
            let said = (self.said[0], self.said[1]);
            match self.state {
                State::Http2(_) => self.stop(at, Stop::Ports, context),
                State::AsIs(_) => {
                    let lane = self.lanes.claim_raw(at, said, Stop::Ports, context);
                    self.state = State::AsIs(lane);
                }
                State::Unknown(_) | State::Http11(..) => {}
            }
        }
    }

    /// It isn't followed any longer.
    pub(super) fn stop(&mut self, at: WallTime, why: Stop, context: &mut Context<'_>) {
        self.watch_no_more(at, context);
        if let State::Http2(connection) = &self.state {
            let unread = SIDES.map(|from| connection.unread(from).to_vec());
            self.go_on_as_is(at, why, self.said, &unread, context);
        }
    }

    /// Bytes that following it takes in memory, about.
    pub(super) fn memory_bytes(&self) -> usize {
        let state = match &self.state {
            State::Unknown(kept) => kept.iter().map(|(_, text)| text.capacity()).sum(),
            State::Http2(connection) => connection.memory_bytes(),
            // Giving it up would give back only what is kept.
            State::Http11(watch, _) => return watch.memory_bytes(),
            State::AsIs(_) => return 0,
        };
        size_of::<Self>() + self.lanes.memory_bytes() + state
    }

    fn data(
        &mut self,
        at: WallTime,
        from: Side,
        bytes: &[u8],
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) {
        match &mut self.state {
            State::AsIs(lane) => {
                let lane = *lane;
                self.tell_as_is(lane, at, from, bytes, context);
            }
            State::Unknown(kept) => {
                match kept.last_mut() {
                    Some((last, text)) if *last == from => text.extend_from_slice(bytes),
                    _ => kept.push((from, bytes.to_vec())),
                }
                match protocol(kept) {
                    Protocol::Unknown => {}
                    Protocol::Other => self.decide(at, context),
                    Protocol::Http11 => {
                        let state = State::http11(&mut self.lanes, at, context);
                        self.turn_out(state, at, scratch, context);
                    }
                    Protocol::Http2 => {
                        let state = State::http2(Connection::new(), context);
                        self.turn_out(state, at, scratch, context);
                    }
                }
            }
            State::Http11(watch, lane) => {
                let lane = *lane;
                let mut out = |text: &[u8]| self.lanes.data(lane, at, from, text, context.sink);
                match watch.data(from, bytes, &mut out) {
                    Then::GoesOn => {}
                    Then::Ends => self.watch_no_more(at, context),
                    Then::CannotBeFollowed => {
                        context.stats.stopped(Stop::Upgrade);
                        self.watch_no_more(at, context);
                    }
                    Then::Upgraded(upgraded) => {
                        self.upgrade(*upgraded, lane, at, bytes.len(), scratch, context);
                    }
                }
            }
            State::Http2(connection) => {
                let told = connection.data(at, from, bytes, scratch, &mut self.lanes, context);
                if let Err(stopped) = told {
                    let unread = unread(connection, from, &stopped);
                    let mut said = self.said;
                    said[from as usize] += bytes.len() as u64;
                    self.go_on_as_is(at, stopped.why, said, &unread, context);
                }
            }
        }
    }

    fn hole(
        &mut self,
        at: WallTime,
        from: Side,
        bytes: u64,
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) {
        self.decide(at, context);
        if let State::Http2(connection) = &mut self.state {
            let told = connection.hole(at, from, bytes, scratch, &mut self.lanes, context);
            match told {
                Ok(()) => return,
                Err(why) => self.stop(at, why, context),
            }
        }
        if let State::AsIs(Some(lane)) = self.state {
            self.lanes.hole(lane, at, from, bytes, context.sink);
        }
    }

    /// It speaks what its first words show.
    fn turn_out(
        &mut self,
        state: State,
        at: WallTime,
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) {
        let State::Unknown(kept) = std::mem::replace(&mut self.state, state) else {
            return;
        };
        // As if it were said now.
        let said = std::mem::take(&mut self.said);
        for (from, text) in kept {
            self.data(at, from, &text, scratch, context);
            self.said[from as usize] += text.len() as u64;
        }
        self.said = said;
    }

    /// It goes on as HTTP/2, from within the piece at hand, of so many bytes.
    fn upgrade(
        &mut self,
        upgraded: Upgraded,
        lane: LaneNumber,
        at: WallTime,
        bytes: usize,
        scratch: &mut Scratch,
        context: &mut Context<'_>,
    ) {
        let Upgraded {
            asked,
            settings,
            text,
        } = upgraded;
        context.stats.upgraded += 1;
        context.stats.requests += 1;
        let connection = Connection::upgraded(lane, asked, settings);
        self.state = State::http2(connection, context);
        let from = Side::Server;
        let said = self.said[from as usize];
        self.said[from as usize] = said + bytes as u64 - text.len() as u64;
        self.data(at, from, &text, scratch, context);
        self.said[from as usize] = said;
    }

    /// It stays HTTP/1.1.
    fn watch_no_more(&mut self, at: WallTime, context: &mut Context<'_>) {
        if let State::Http11(watch, lane) = &self.state {
            let (lane, held) = (*lane, watch.held());
            let from = Side::Server;
            self.lanes.data(lane, at, from, held, context.sink);
            self.state = State::AsIs(Some(lane));
        }
    }

    /// If nobody knows what it speaks, it isn't HTTP/2, nor will it be.
    fn decide(&mut self, at: WallTime, context: &mut Context<'_>) {
        self.watch_no_more(at, context);
        if let State::Unknown(kept) = &mut self.state {
            let kept = std::mem::take(kept);
            let lane = self.lanes.claim(at, context).ok();
            self.state = State::AsIs(lane);
            for (from, text) in kept {
                self.tell_as_is(lane, at, from, &text, context);
            }
        }
    }

    /// No message of these sides waits for what it can be shown as.
    fn release(&mut self, at: WallTime, sides: &[Side], context: &mut Context<'_>) {
        if let State::Http2(connection) = &mut self.state {
            connection.release(at, sides, &mut self.lanes, context);
        }
    }

    /// A side has said its last: what wasn't whole is told as it is.
    fn cut(&mut self, at: WallTime, from: Side, context: &mut Context<'_>) {
        let is_cut = |connection: &Connection| !connection.unread(from).is_empty();
        if matches!(&self.state, State::Http2(connection) if is_cut(connection)) {
            self.stop(at, Stop::Cut, context);
        }
    }

    /// From what wasn't told of each side on, frames as they are.
    fn go_on_as_is(
        &mut self,
        at: WallTime,
        why: Stop,
        said: [u64; 2],
        unread: &[Vec<u8>; 2],
        context: &mut Context<'_>,
    ) {
        context.stats.stopped(why);
        self.release(at, &SIDES, context);
        let begin = |from: Side| said[from as usize] - unread[from as usize].len() as u64;
        let begins = (begin(Side::Client), begin(Side::Server));
        let lane = self.lanes.claim_raw(at, begins, why, context);
        self.state = State::AsIs(lane);
        for from in SIDES {
            self.tell_as_is(lane, at, from, &unread[from as usize], context);
        }
    }

    fn tell_as_is(
        &mut self,
        lane: Option<LaneNumber>,
        at: WallTime,
        from: Side,
        text: &[u8],
        context: &mut Context<'_>,
    ) {
        match lane {
            Some(lane) => self.lanes.data(lane, at, from, text, context.sink),
            None => context.stats.unshown_bytes += text.len() as u64,
        }
    }
}

impl State {
    fn http2(connection: Connection, context: &mut Context<'_>) -> Self {
        context.stats.sessions += 1;
        Self::Http2(Box::new(connection))
    }

    fn http11(lanes: &mut Lanes, at: WallTime, context: &mut Context<'_>) -> Self {
        match lanes.claim(at, context) {
            Ok(lane) => Self::Http11(Box::default(), lane),
            Err(_) => Self::AsIs(None),
        }
    }
}

/// What the two sides have said and wasn't told.
fn unread(connection: &Connection, from: Side, stopped: &Stopped<'_>) -> [Vec<u8>; 2] {
    SIDES.map(|side| match side == from {
        true => [connection.unread_before(side, stopped), stopped.rest].concat(),
        false => connection.unread(side).to_vec(),
    })
}

/// What a session speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Unknown,
    Http11,
    Http2,
    Other,
}

/// By the first words.
fn protocol(kept: &[(Side, Vec<u8>)]) -> Protocol {
    let mut of_server = 0;
    for (from, text) in kept {
        match from {
            Side::Client if text.starts_with(PREFACE) => return Protocol::Http2,
            Side::Client if PREFACE.starts_with(text) => {}
            Side::Client if may_be_request(text) => return Protocol::Http11,
            Side::Client => return Protocol::Other,
            Side::Server => {
                of_server += text.len();
                if !may_be_settings(text) || of_server > MAX_SETTINGS_BYTES {
                    return Protocol::Other;
                }
            }
        }
    }
    Protocol::Unknown
}

/// The head of SETTINGS, or its begin: what a server says first (RFC 9113 section 3.4).
fn may_be_settings(text: &[u8]) -> bool {
    // Less than 256 bytes of them, no flag, on the connection.
    let head = [
        Some(0),
        Some(0),
        None,
        Some(4),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
        Some(0),
    ];
    let mut pairs = text.iter().zip(head);
    pairs.all(|(byte, meant)| meant.is_none_or(|meant| meant == *byte))
}
