//! Sessions whose beginning nobody saw: their connections are older than the agent, or had to be announced late.
//!
//! ```text
//!                                                forge: from a message of the client's on
//! FlowEvent ──> LateSessions ── others ──────────────────────────────> packets and log
//!                    └───────── of which nothing is shown, at their end ──> log alone
//! ```
//!
//! What is seen of them first may be the middle of a message, and who reads packets takes it for a beginning: an answer
//! without its request, or half a request. So the forged flow begins with the first message of the client that
//! follows one of the server; at once, where the first thing that is seen is the head of an HTTP/1 request. What came before
//! it is counted, and told with the flow ([`LeftOut`]). From there on each byte is at its place.
//!
//! A flow that another agent has begun, and that goes on here, isn't one of them: its own comment says where it goes on.
//!
//! It stands where packets are made, in front of [`crate::real`]: what goes to a collector or a broker isn't touched. Pure.

mod request;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use mirror_hook::event::Announcement;

use self::request::begins_request;
use crate::event::{FlowChange, FlowEvent, FlowInfo, LeftOut, Side, WallTime};

/// What becomes of sessions whose beginning nobody saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Midstream {
    /// They are forged from a message of the client's on.
    #[default]
    Forge,
    /// They aren't.
    Skip,
}

/// Who is told of something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// All outputs.
    All,
    /// The log of sessions: there is nothing of it in any packet.
    Log,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LateStats {
    /// Sessions whose beginning nobody saw.
    pub sessions: u64,
    /// … that are shown from some place on.
    pub shown: u64,
    /// Bytes of clear text that aren't shown: all of those that aren't, and what is in front of the places.
    pub left_out_bytes: u64,
}

impl LateStats {
    /// Adds another worker's.
    pub fn add(&mut self, other: &Self) {
        let Self {
            sessions,
            shown,
            left_out_bytes,
        } = other;
        self.sessions += sessions;
        self.shown += shown;
        self.left_out_bytes += left_out_bytes;
    }
}

/// Takes the beginnings of such sessions away, or all of them. See the [module](self).
#[derive(Debug, Default)]
pub struct LateSessions {
    choice: Midstream,
    late: HashMap<u64, Late>,
    stats: LateStats,
}

#[derive(Debug)]
enum Late {
    /// Nothing of it is shown so far.
    Hidden(Box<Hidden>),
    /// It is, from these offsets on, by who speaks.
    Shown { from: [u64; 2], finished: [bool; 2] },
}

#[derive(Debug)]
struct Hidden {
    info: FlowInfo,
    began: WallTime,
    left_out: LeftOut,
    /// The server was the last that spoke: what the client says next is a message's beginning.
    answered: bool,
    /// Which sides say no more.
    finished: [bool; 2],
}

impl LateSessions {
    /// Without flows.
    pub fn new(choice: Midstream) -> Self {
        Self {
            choice,
            ..Self::default()
        }
    }

    /// For another worker.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self::new(self.choice)
    }

    /// Takes an event, and tells on what is to be told now.
    pub fn flow_event(
        &mut self,
        event: FlowEvent<'_>,
        tell: &mut dyn FnMut(Audience, FlowEvent<'_>),
    ) {
        let FlowEvent { flow, at, change } = event;
        if let FlowChange::Begin(info) = change {
            return match self.is_late(info) {
                true => self.begin(flow, at, info),
                false => tell(Audience::All, event),
            };
        }
        let over = match self.late.get_mut(&flow) {
            None => return tell(Audience::All, event),
            Some(Late::Shown { from, finished }) => {
                tell(Audience::All, moved(event, from));
                ends(change, finished)
            }
            Some(Late::Hidden(hidden)) => {
                if self.choice == Midstream::Forge && hidden.is_begun_by(change) {
                    self.stats.shown += 1;
                    let mut shown = hidden.show(flow, at, tell);
                    if let Late::Shown { from, .. } = &mut shown {
                        tell(Audience::All, moved(event, from));
                    }
                    self.late.insert(flow, shown);
                    return;
                }
                self.stats.left_out_bytes += hidden.leave_out(change);
                let over = ends(change, &mut hidden.finished);
                if over {
                    hidden.log(event, tell);
                }
                over
            }
        };
        if over {
            self.late.remove(&flow);
        }
    }

    /// Nothing more comes: the log hears of what is open and wasn't shown.
    pub fn finish(&mut self, tell: &mut dyn FnMut(Audience, FlowEvent<'_>)) {
        let mut open: Vec<_> = self.late.drain().collect();
        open.sort_unstable_by_key(|(flow, _)| *flow);
        for (flow, late) in open {
            if let Late::Hidden(hidden) = late {
                hidden.log_beginning(flow, tell);
            }
        }
    }

    /// Counts so far.
    pub fn stats(&self) -> LateStats {
        self.stats
    }

    fn is_late(&self, info: &FlowInfo) -> bool {
        // What another agent has begun to show goes on; what it hasn't, doesn't.
        let is_shown = info.continued.is_some() && self.choice == Midstream::Forge;
        info.announcement == Announcement::Midstream && !is_shown
    }

    fn begin(&mut self, flow: u64, began: WallTime, info: &FlowInfo) {
        self.stats.sessions += 1;
        let hidden = Hidden {
            info: info.clone(),
            began,
            left_out: LeftOut::default(),
            answered: false,
            finished: [false; 2],
        };
        self.late.insert(flow, Late::Hidden(Box::new(hidden)));
    }
}

impl Hidden {
    /// Whether it can be shown from this change on.
    fn is_begun_by(&self, change: FlowChange<'_>) -> bool {
        let FlowChange::Data {
            from: Side::Client,
            bytes,
            ..
        } = change
        else {
            return false;
        };
        self.answered || self.left_out == LeftOut::default() && begins_request(bytes)
    }

    /// Notes what isn't shown; returns how many bytes of clear text these are.
    fn leave_out(&mut self, change: FlowChange<'_>) -> u64 {
        let (from, seen) = match change {
            FlowChange::Data { from, bytes, .. } => {
                let seen = bytes.len() as u64;
                self.left_out.bytes[from as usize] += seen;
                (from, seen)
            }
            FlowChange::Hole { from, bytes, .. } => {
                self.left_out.holes[from as usize] += 1;
                let missing = &mut self.left_out.missing[from as usize];
                *missing = missing.saturating_add(bytes);
                (from, 0)
            }
            FlowChange::Begin(_) | FlowChange::Finish { .. } | FlowChange::Reset { .. } => {
                return 0;
            }
        };
        // Behind a hole of the client's there is the rest of something.
        self.answered = from == Side::Server;
        seen
    }

    /// Its flow begins here.
    fn show(&self, flow: u64, at: WallTime, tell: &mut dyn FnMut(Audience, FlowEvent<'_>)) -> Late {
        self.tell_beginning(Audience::All, (flow, at), true, tell);
        for from in [Side::Client, Side::Server] {
            if self.finished[from as usize] {
                let change = FlowChange::Finish { from };
                tell(Audience::All, FlowEvent { flow, at, change });
            }
        }
        Late::Shown {
            from: [0, 1].map(|side| self.left_out.offset(side)),
            finished: self.finished,
        }
    }

    /// It ends by this event, and nothing of it was shown.
    fn log(&self, event: FlowEvent<'_>, tell: &mut dyn FnMut(Audience, FlowEvent<'_>)) {
        self.log_beginning(event.flow, tell);
        if let FlowChange::Finish { from } = event.change {
            let change = FlowChange::Finish { from: from.peer() };
            tell(Audience::Log, FlowEvent { change, ..event });
        }
        tell(Audience::Log, event);
    }

    fn log_beginning(&self, flow: u64, tell: &mut dyn FnMut(Audience, FlowEvent<'_>)) {
        self.tell_beginning(Audience::Log, (flow, self.began), false, tell);
    }

    fn tell_beginning(
        &self,
        audience: Audience,
        (flow, at): (u64, WallTime),
        shown: bool,
        tell: &mut dyn FnMut(Audience, FlowEvent<'_>),
    ) {
        let mut info = self.info.clone();
        info.left_out = Some(LeftOut {
            shown,
            ..self.left_out
        });
        let change = FlowChange::Begin(&info);
        tell(audience, FlowEvent { flow, at, change });
    }
}

/// The same by the offsets of a flow that begins at these.
fn moved<'e>(event: FlowEvent<'e>, begin: &[u64; 2]) -> FlowEvent<'e> {
    let mut event = event;
    if let FlowChange::Data { from, offset, .. } | FlowChange::Hole { from, offset, .. } =
        &mut event.change
    {
        *offset = offset.saturating_sub(begin[*from as usize]);
    }
    event
}

/// Whether the flow ends by it.
fn ends(change: FlowChange<'_>, finished: &mut [bool; 2]) -> bool {
    match change {
        FlowChange::Finish { from } => finished[from as usize] = true,
        FlowChange::Reset { .. } => *finished = [true; 2],
        FlowChange::Begin(_) | FlowChange::Data { .. } | FlowChange::Hole { .. } => {}
    }
    *finished == [true; 2]
}
