//! Forges the packets of each flow: what a TCP connection carrying the clear text would have looked like.
//!
//! ```text
//! FlowEvent ──> Forger ──> Flow ──> Conversation ──Segment──> wire::FrameBuffer ──Packet──> PacketSink
//!               all flows  offsets,  sequence numbers,        headers, checksums
//!               of a worker holes    acknowledgments
//! ```
//!
//! The rules are those that intrusion detection systems hold real connections to:
//! - A three-way handshake comes first, at the time of `Begin`, with MSS and the largest window scale; the
//!   window never shrinks. The client sends the SYN, also when the server speaks first.
//! - No payload passes the MSS. The last segment of each piece of clear text has PSH, and after it the
//!   receiver acknowledges everything: never are more than 16 KiB unacknowledged.
//! - A hole is a gap of its exact size in the sequence numbers, acknowledged right after the next data.
//!   A hole that the window has no room for ([`MAX_GAP_BYTES`]) ends the conversation by RST; the flow goes on,
//!   once there is something to show, in a new one with a new handshake, whose first packet's comment tells the
//!   offsets at which it begins. A hole at the end of what a side said is followed by RST, never by FIN.
//! - FIN, ACK, FIN, ACK begin with the side that finished first, and the other may go on speaking between. An
//!   abrupt end is RST with the exact sequence number. Nothing follows an end.
//! - Initial sequence numbers are a keyed hash of the flow's id, the same wherever the flow is forged with
//!   the same key. Ethernet addresses are locally administered.
//! - Within a flow time never goes back.
//! - Who comes late, or was too slow, goes on with the live flows as they stand: see [`Forger::catch_up`].
//! - An output may show flows under other addresses and ports, on a VLAN, or not at all: see [`View`].
//!
//! Nothing here reads a clock, blocks, or allocates per packet.

mod comment;
mod context;
mod conversation;
mod flow;
mod forger;
mod live;
mod path;
mod recent;
mod sequence;
mod stats;
#[cfg(test)]
pub(crate) mod testing;
mod view;

pub use context::{ForgeConfig, Mtu, MtuError};
pub use conversation::MAX_GAP_BYTES;
pub use forger::Forger;
pub use live::LiveFlow;
pub use sequence::SequenceKey;
pub use stats::ForgeStats;
pub use view::{MapError, NetworkMap, PortMap, View};
