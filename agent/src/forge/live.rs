//! A live flow as it stands, for a forger that hasn't heard all of it.

use std::sync::Arc;

use crate::event::{FlowInfo, Side, WallTime};

/// What has to be known of a live flow to go on with it.
#[derive(Clone, Debug)]
pub struct LiveFlow {
    /// What it is.
    pub info: Arc<FlowInfo>,
    /// Time of its last event.
    pub at: WallTime,
    /// What each side has said so far, holes included, and whether it says more.
    client: SideNow,
    server: SideNow,
}

/// How far a side has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SideNow {
    /// Offset behind what it has said.
    pub(super) said: u64,
    /// It says no more.
    pub(super) finished: bool,
}

impl LiveFlow {
    /// One that begins.
    pub fn begin(info: Arc<FlowInfo>, at: WallTime) -> Self {
        Self {
            info,
            at,
            client: SideNow::default(),
            server: SideNow::default(),
        }
    }

    /// A side has said so much, or so much of what it said is missing. Never its end.
    pub fn said(&mut self, at: WallTime, from: Side, offset: u64, bytes: u64) -> bool {
        self.at = self.at.max(at);
        let side = self.side_mut(from);
        side.said = side.said.max(offset.saturating_add(bytes));
        false
    }

    /// A side says no more. Returns true at the flow's end.
    pub fn finish(&mut self, at: WallTime, from: Side) -> bool {
        self.at = self.at.max(at);
        self.side_mut(from).finished = true;
        self.client.finished && self.server.finished
    }

    pub(super) fn side(&self, side: Side) -> SideNow {
        match side {
            Side::Client => self.client,
            Side::Server => self.server,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut SideNow {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }
}
