//! What all flows of a forger share: how packets are forged, where they go, what is counted.

use std::io;

use super::conversation::{Segment, Sides};
use super::path::Path;
use super::sequence::{RecentSequences, SequenceKey};
use super::stats::ForgeStats;
use super::view::View;
use crate::event::{FlowId, Packet, PacketSink, Side, WallTime};
use crate::wire::{FrameBuffer, SeqNumber};

/// The largest IP packet that is forged, in bytes: 1,280 (which IPv6 asks for, RFC 8200 section 5) to 65,535.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mtu(u16);

/// No MTU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an MTU of {0} bytes is too small; the smallest is 1280")]
pub struct MtuError(u16);

impl Mtu {
    /// Checks a number of bytes.
    ///
    /// # Errors
    /// Fewer than 1,280.
    pub fn new(bytes: u16) -> Result<Self, MtuError> {
        if bytes < 1280 {
            Err(MtuError(bytes))
        } else {
            Ok(Self(bytes))
        }
    }

    /// In bytes.
    pub fn bytes(self) -> u16 {
        self.0
    }
}

impl Default for Mtu {
    /// Ethernet's 1,500.
    fn default() -> Self {
        Self(1500)
    }
}

/// How packets are forged.
#[derive(Clone, Debug)]
pub struct ForgeConfig {
    /// Behind the initial sequence numbers.
    pub key: SequenceKey,
    /// The largest packet.
    pub mtu: Mtu,
    /// How flows look on the output.
    pub view: View,
}

/// What all flows share.
#[derive(Debug)]
pub(super) struct Context<P> {
    pub(super) stats: ForgeStats,
    pub(super) config: ForgeConfig,
    recent: RecentSequences,
    frame: FrameBuffer,
    pub(super) sink: P,
    failure: Failure,
}

#[derive(Debug)]
enum Failure {
    None,
    Kept(io::Error),
    Taken,
}

impl<P: PacketSink> Context<P> {
    pub(super) fn new(config: ForgeConfig, sink: P) -> Self {
        Self {
            stats: ForgeStats::default(),
            config,
            recent: RecentSequences::default(),
            frame: FrameBuffer::default(),
            sink,
            failure: Failure::None,
        }
    }

    /// The sink has refused a packet: nothing is forged any more.
    pub(super) fn has_failed(&self) -> bool {
        !matches!(self.failure, Failure::None)
    }

    /// The first error of the sink, once.
    pub(super) fn take_error(&mut self) -> Option<io::Error> {
        match std::mem::replace(&mut self.failure, Failure::Taken) {
            Failure::Kept(error) => Some(error),
            other => {
                self.failure = other;
                None
            }
        }
    }

    pub(super) fn mtu_bytes(&self) -> u16 {
        self.config.mtu.bytes()
    }

    pub(super) fn initial_sequences(&mut self, id: FlowId, path: &Path) -> Sides<SeqNumber> {
        let mut choose = |side: Side| {
            let (from, to) = (path.endpoint(side), path.endpoint(side.peer()));
            self.recent.choose(&self.config.key, id, side, from, to)
        };
        Sides {
            client: choose(Side::Client),
            server: choose(Side::Server),
        }
    }

    /// Makes a segment's frame and hands it on.
    pub(super) fn emit(
        &mut self,
        path: &Path,
        mss: u16,
        at: WallTime,
        segment: &Segment<'_>,
        comment: Option<&str>,
    ) {
        if self.has_failed() {
            return;
        }
        let frame = path.frame(segment, mss, &mut self.frame);
        self.stats.packets += 1;
        self.stats.frame_bytes += frame.len() as u64;
        if let Err(error) = self.sink.packet(Packet { at, frame, comment }) {
            self.failure = Failure::Kept(error);
        }
    }
}
