//! What the forger counts.

/// Counts since the forger was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ForgeStats {
    /// Flows that were begun, the refused ones included.
    pub flows: u64,
    /// Flows that can't be told as TCP: datagrams, addresses of two families, both ends the same.
    pub flows_refused: u64,
    /// Flows that the [`View`](super::View) leaves out.
    pub flows_hidden: u64,
    /// Clear text bytes in them.
    pub hidden_bytes: u64,
    /// Live flows that were reset because another began between the same addresses and ports.
    pub flows_superseded: u64,
    /// Conversations that went on in a new one, behind a hole too large for the window.
    pub restarts: u64,
    /// Packets handed to the sink.
    pub packets: u64,
    /// Bytes of their frames.
    pub frame_bytes: u64,
    /// Clear text bytes in them.
    pub data_bytes: u64,
    /// Holes.
    pub holes: u64,
    /// Bytes in them.
    pub hole_bytes: u64,
    /// Packets with RST.
    pub resets: u64,
    /// Clear text bytes that weren't forged: of refused and superseded flows, or against the contract.
    pub dropped_bytes: u64,
    /// Events that the contract of [`FlowChange`](crate::event::FlowChange) rules out.
    pub violations: u64,
}
