//! Frames, byte by byte: Ethernet, IPv4 or IPv6, TCP.
//!
//! Each header is a `Repr` with an `emit` into bytes of exactly its length; [`FrameBuffer`] puts them
//! together and is the only way from here to a frame, so none leaves without its checksums. Nothing
//! here knows of conversations (that is [`crate::forge`]), allocates per packet, or reads a clock.
//!
//! ```text
//!   0          14               34 or 54             54, 62, 74 or 82
//!   +----------+----------------+--------------------+------------------+
//!   | Ethernet | IPv4 or IPv6   | TCP                | clear text       |
//!   |          | no options     | options on SYN only|                  |
//!   +----------+----------------+--------------------+------------------+
//! ```
//! With a VLAN tag, all behind the Ethernet addresses is 4 bytes further on.

mod checksum;
mod ethernet;
mod frame;
mod ipv4;
mod ipv6;
mod tcp;

pub use checksum::Checksum;
pub use ethernet::{
    ETHERNET_HEADER_BYTES, EtherType, Link, MacAddr, MacError, VLAN_TAG_BYTES, VlanError, VlanId,
};
pub use frame::{Addresses, FrameBuffer, FramePlace};
pub use ipv4::{IPV4_HEADER_BYTES, Ipv4Repr};
pub use ipv6::{IPV6_HEADER_BYTES, Ipv6Repr};
pub use tcp::{SeqNumber, TCP_HEADER_BYTES, TCP_SYN_HEADER_BYTES, TcpFlags, TcpRepr};
