//! One flow: which bytes of it have been told, in which conversation.

use std::fmt::Write as _;
use std::net::SocketAddr;

use mirror_hook::event::Role;

use super::comment::Metadata;
use super::context::Context;
use super::conversation::{Conversation, Segment, Sides};
use super::live::{LiveFlow, SideNow};
use super::path::{Pair, Path};
use crate::event::{FlowChange, FlowId, FlowInfo, PacketSink, Side, WallTime};
use crate::wire::FramePlace;

/// A flow from its `Begin` to its end.
#[derive(Debug)]
pub(super) struct Flow {
    id: FlowId,
    path: Path,
    mss: u16,
    /// The side of the mirrored process.
    mirrored: Side,
    /// The first packet's comment.
    metadata: String,
    state: State,
    /// How many conversations came before the present one.
    restarts: u64,
    /// Offset behind what each side has said, holes included.
    said: Sides<u64>,
    finished: Sides<bool>,
    /// Time of the last event: no later packet is earlier.
    at: WallTime,
}

#[derive(Debug)]
enum State {
    /// What is said is forged.
    Conversing(Conversation),
    /// A hole too large for one conversation has ended it, or the loss of packets on their way out. The next
    /// data begins another.
    Severed,
    /// Nothing more is forged: another flow has taken its endpoints.
    Muted,
}

/// Why the forger itself ends a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResetReason {
    /// The session did so.
    Session,
    /// What a side said last is missing.
    TailHole,
    /// A hole is larger than the window.
    LargeHole,
    /// Another flow begins between the same endpoints.
    Superseded,
    /// The agent ends.
    AgentEnd,
    /// Packets were lost on their way out.
    OutputLost,
    /// The flow goes on in another file.
    NextFile,
}

impl Flow {
    /// Begins a flow: its handshake is emitted.
    pub(super) fn begin<P: PacketSink>(
        info: &FlowInfo,
        path: Path,
        at: WallTime,
        context: &mut Context<P>,
    ) -> Self {
        let mut flow = Self::new(info, path, at, context);
        let comment = flow.metadata.clone();
        flow.converse(&comment, context);
        flow
    }

    /// Goes on with a flow whose beginning nobody has heard here: what comes next is told in a conversation that
    /// begins with it.
    pub(super) fn take_over<P: PacketSink>(
        now: &LiveFlow,
        path: Path,
        at: WallTime,
        context: &Context<P>,
    ) -> Self {
        let mut flow = Self::new(&now.info, path, at, context);
        let [client, server] = [Side::Client, Side::Server].map(|side| now.side(side));
        (flow.said.client, flow.said.server) = (client.said, server.said);
        (flow.finished.client, flow.finished.server) = (client.finished, server.finished);
        flow
    }

    fn new<P: PacketSink>(info: &FlowInfo, path: Path, at: WallTime, context: &Context<P>) -> Self {
        Self {
            id: info.id,
            path,
            mss: path.mss(context.mtu_bytes()),
            mirrored: match info.role {
                Role::Client => Side::Client,
                Role::Server => Side::Server,
            },
            metadata: Metadata(info).to_string(),
            state: State::Severed,
            restarts: 0,
            said: Sides::default(),
            finished: Sides::default(),
            at,
        }
    }

    /// Events of it were missed, and this is how it stands: what was said meanwhile is a hole.
    pub(super) fn catch_up<P: PacketSink>(
        &mut self,
        now: &LiveFlow,
        at: WallTime,
        context: &mut Context<P>,
    ) {
        self.at = self.at.max(at);
        for side in [Side::Client, Side::Server] {
            let SideNow { said, finished } = now.side(side);
            self.skip(side, said.saturating_sub(self.said[side]), context);
            if finished && !self.finished[side] {
                self.finished[side] = true;
                self.fin(side, context);
            }
        }
    }

    /// Time of its last event.
    pub(super) fn at(&self) -> WallTime {
        self.at
    }

    /// The endpoints that it holds as long as it isn't muted.
    pub(super) fn pair(&self) -> Option<Pair> {
        (!matches!(self.state, State::Muted)).then(|| self.path.pair())
    }

    /// Takes a change. Returns true at the flow's end.
    pub(super) fn change<P: PacketSink>(
        &mut self,
        change: FlowChange<'_>,
        at: WallTime,
        context: &mut Context<P>,
    ) -> bool {
        self.at = self.at.max(at);
        match change {
            FlowChange::Begin(_) => context.stats.violations += 1,
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => self.data(from, offset, bytes, context),
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => self.hole(from, offset, bytes, context),
            FlowChange::Finish { from } => return self.finish(from, context),
            FlowChange::Reset { by, .. } => {
                self.reset(by, ResetReason::Session, context);
                return true;
            }
        }
        false
    }

    /// Ends the conversation for a reason of the forger's own; what comes yet is dropped.
    pub(super) fn abandon<P: PacketSink>(
        &mut self,
        reason: ResetReason,
        at: WallTime,
        context: &mut Context<P>,
    ) {
        self.at = self.at.max(at);
        self.reset(self.mirrored, reason, context);
        self.state = State::Muted;
    }

    /// Ends the conversation, of which these packets were the first to be lost; what comes yet is told in another
    /// one. Who watches is told so at the place up to which everything was seen: from any other, an end is
    /// ignored.
    pub(super) fn sever<P: PacketSink>(
        &mut self,
        first_lost: impl Fn(SocketAddr, SocketAddr) -> Option<FramePlace>,
        at: WallTime,
        context: &mut Context<P>,
    ) {
        let State::Conversing(conversation) = &mut self.state else {
            return;
        };
        let (client, server) = (Side::Client, Side::Server);
        let ends = [client, server].map(|side| self.path.endpoint(side).socket());
        let lost = [first_lost(ends[0], ends[1]), first_lost(ends[1], ends[0])];
        let mut begun = true;
        for (side, lost) in [client, server].into_iter().zip(lost) {
            if let Some(place) = lost {
                conversation.rewind(side, place.sequence);
                begun &= !place.syn;
            }
        }
        self.at = self.at.max(at);
        if begun {
            self.reset(self.mirrored, ResetReason::OutputLost, context);
        } else {
            self.state = State::Severed;
        }
    }

    /// Ends the conversation where a file ends; what comes yet is told in another one.
    pub(super) fn turn_over<P: PacketSink>(&mut self, at: WallTime, context: &mut Context<P>) {
        self.at = self.at.max(at);
        self.reset(self.mirrored, ResetReason::NextFile, context);
    }

    fn data<P: PacketSink>(
        &mut self,
        from: Side,
        offset: u64,
        bytes: &[u8],
        context: &mut Context<P>,
    ) {
        let Some(repeated) = self.reconcile(from, offset, bytes.len() as u64, context) else {
            context.stats.dropped_bytes += bytes.len() as u64;
            return;
        };
        // What was told already isn't told twice.
        let repeated = usize::try_from(repeated)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        context.stats.dropped_bytes += repeated as u64;
        let bytes = &bytes[repeated..];
        if bytes.is_empty() {
            return;
        }
        if matches!(self.state, State::Severed) {
            self.restart(context);
        }
        self.said[from] += bytes.len() as u64;
        let Self {
            path,
            mss,
            at,
            state,
            ..
        } = self;
        let State::Conversing(conversation) = state else {
            context.stats.dropped_bytes += bytes.len() as u64;
            return;
        };
        context.stats.data_bytes += bytes.len() as u64;
        conversation.data(from, bytes, &mut |segment| {
            context.emit(path, *mss, *at, &segment, None)
        });
    }

    fn hole<P: PacketSink>(
        &mut self,
        from: Side,
        offset: u64,
        bytes: u64,
        context: &mut Context<P>,
    ) {
        if let Some(repeated) = self.reconcile(from, offset, bytes, context) {
            self.skip(from, bytes.saturating_sub(repeated), context);
        }
    }

    /// Compares where something begins with where `from` left off. Events follow one another without gap and
    /// overlap; if they don't, a gap is a hole and the overlap is dropped, so that each byte stays at its place.
    ///
    /// Returns how many of the `bytes` are repeated, or nothing if the side has finished.
    fn reconcile<P: PacketSink>(
        &mut self,
        from: Side,
        offset: u64,
        bytes: u64,
        context: &mut Context<P>,
    ) -> Option<u64> {
        if self.finished[from] || bytes == 0 {
            context.stats.violations += 1;
            return None;
        }
        let said = self.said[from];
        if offset != said {
            context.stats.violations += 1;
        }
        if offset > said {
            self.skip(from, offset - said, context);
        }
        Some(said.saturating_sub(offset))
    }

    fn skip<P: PacketSink>(&mut self, from: Side, bytes: u64, context: &mut Context<P>) {
        if bytes == 0 {
            return;
        }
        self.said[from] = self.said[from].saturating_add(bytes);
        context.stats.holes += 1;
        context.stats.hole_bytes = context.stats.hole_bytes.saturating_add(bytes);
        let State::Conversing(conversation) = &mut self.state else {
            return;
        };
        if !conversation.skip(from, bytes) {
            self.reset(from, ResetReason::LargeHole, context);
            self.state = State::Severed;
        }
    }

    /// `from` says no more. A FIN behind a hole would hide it, so such a side ends by RST, and not before
    /// the other side has said all that it has to say.
    fn finish<P: PacketSink>(&mut self, from: Side, context: &mut Context<P>) -> bool {
        if self.finished[from] {
            context.stats.violations += 1;
            return false;
        }
        self.finished[from] = true;
        self.fin(from, context);
        if !self.finished[from.peer()] {
            return false;
        }
        if let State::Conversing(conversation) = &self.state
            && let Some(by) = [from, from.peer()]
                .into_iter()
                .find(|side| conversation.missing(*side) > 0)
        {
            self.reset(by, ResetReason::TailHole, context);
        }
        true
    }

    /// Emits a FIN unless a hole is before it.
    fn fin<P: PacketSink>(&mut self, from: Side, context: &mut Context<P>) {
        let Self {
            path,
            mss,
            at,
            state,
            ..
        } = self;
        if let State::Conversing(conversation) = state
            && conversation.missing(from) == 0
        {
            conversation.fin(from, &mut |segment| {
                context.emit(path, *mss, *at, &segment, None)
            });
        }
    }

    /// Ends the conversation if there is one. The comment tells what the packets don't.
    fn reset<P: PacketSink>(&mut self, by: Side, reason: ResetReason, context: &mut Context<P>) {
        let conversation = match std::mem::replace(&mut self.state, State::Severed) {
            State::Conversing(conversation) => conversation,
            other => {
                self.state = other;
                return;
            }
        };
        context.stats.resets += 1;
        let missing = Sides {
            client: conversation.missing(Side::Client),
            server: conversation.missing(Side::Server),
        };
        let comment = reset_comment(self.id, reason, missing);
        let Self { path, mss, at, .. } = self;
        conversation.rst(by, &mut |segment| {
            context.emit(path, *mss, *at, &segment, comment.as_deref());
        });
    }

    /// Goes on in a new conversation.
    fn restart<P: PacketSink>(&mut self, context: &mut Context<P>) {
        context.stats.restarts += 1;
        self.restarts += 1;
        let comment = format!(
            "{} restarted={} client_offset={} server_offset={}",
            self.metadata, self.restarts, self.said.client, self.said.server
        );
        self.converse(&comment, context);
        for side in [Side::Client, Side::Server] {
            if self.finished[side] {
                self.fin(side, context);
            }
        }
    }

    fn converse<P: PacketSink>(&mut self, comment: &str, context: &mut Context<P>) {
        let initial = context.initial_sequences(self.id, &self.path);
        let mut comment = Some(comment);
        let emit = &mut |segment: Segment<'_>| {
            context.emit(&self.path, self.mss, self.at, &segment, comment.take());
        };
        self.state = State::Conversing(Conversation::open(initial, self.mss, emit));
    }
}

fn reset_comment(id: FlowId, reason: ResetReason, missing: Sides<u64>) -> Option<String> {
    let word = match reason {
        ResetReason::Session => "session",
        ResetReason::TailHole => "tail-hole",
        ResetReason::LargeHole => "large-hole",
        ResetReason::Superseded => "superseded",
        ResetReason::AgentEnd => "agent-end",
        ResetReason::OutputLost => "output-lost",
        ResetReason::NextFile => "next-file",
    };
    if reason == ResetReason::Session && missing.client == 0 && missing.server == 0 {
        return None;
    }
    let mut comment = format!("flow={id} reset={word}");
    for (name, bytes) in [("client", missing.client), ("server", missing.server)] {
        if bytes > 0 {
            // Writing to a String can't fail.
            let _ = write!(comment, " {name}_missing={bytes}");
        }
    }
    Some(comment)
}
