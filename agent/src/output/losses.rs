//! What has become of packets that were sent, and where conversations broke off.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::wire::{FramePlace, SeqNumber};

/// What has become of packets for an interface, a file, or another destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendStats {
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames lost while nothing could be sent.
    pub lost: u64,
    /// Bytes of clear text in them, where that is counted: of files.
    pub lost_text_bytes: u64,
    /// Times that nothing could.
    pub outages: u64,
    /// Frames lost since they are larger than what is taken now: an MTU was made smaller.
    pub too_large: u64,
    /// Times that a router said that it has dropped one for its size. It was counted as sent; routers don't say so of
    /// each.
    pub dropped_on_way: u64,
}

/// From where on the packets of conversations were lost.
#[derive(Debug, Default)]
pub struct Losses {
    first: HashMap<(SocketAddr, SocketAddr), FramePlace>,
    /// Nothing was seen of any conversation.
    all: bool,
}

/// Directions of which that is noted. Of others a monitor may keep a conversation until its time is over.
const MAX_LOSSES: usize = 1 << 17;

impl Losses {
    /// The first packet that was lost of those from `source` to `destination`.
    pub fn first(&self, source: SocketAddr, destination: SocketAddr) -> Option<FramePlace> {
        if self.all {
            return Some(FramePlace {
                source,
                destination,
                sequence: SeqNumber(0),
                syn: true,
                text_bytes: 0,
            });
        }
        self.first.get(&(source, destination)).copied()
    }

    /// What was lost is all of every conversation, from its first packet on.
    pub(super) fn of_all() -> Self {
        Self {
            all: true,
            ..Self::default()
        }
    }

    /// Notes that this frame was lost. Returns how many bytes of clear text are in it.
    pub(super) fn note(&mut self, frame: &[u8]) -> u64 {
        let Some(place) = FramePlace::of(frame) else {
            return 0;
        };
        if self.first.len() < MAX_LOSSES {
            let ends = (place.source, place.destination);
            self.first.entry(ends).or_insert(place);
        }
        place.text_bytes as u64
    }
}
