//! A whole frame.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::ethernet::{EtherType, Link, VLAN_TAG_BYTES};
use super::ipv4::{IPV4_HEADER_BYTES, Ipv4Repr};
use super::ipv6::{IPV6_HEADER_BYTES, Ipv6Repr};
use super::tcp::{SeqNumber, TcpRepr};

/// IP addresses of one frame. One family for both by construction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4.
    V4 {
        /// Who sends.
        source: Ipv4Addr,
        /// Who receives.
        destination: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Who sends.
        source: Ipv6Addr,
        /// Who receives.
        destination: Ipv6Addr,
    },
}

impl Addresses {
    /// The same two, the other way.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::V4 {
                source,
                destination,
            } => Self::V4 {
                source: destination,
                destination: source,
            },
            Self::V6 {
                source,
                destination,
            } => Self::V6 {
                source: destination,
                destination: source,
            },
        }
    }
}

/// Where frames are made, one after the other; grows to the largest frame and stays.
#[derive(Debug, Default)]
pub struct FrameBuffer(Vec<u8>);

impl FrameBuffer {
    /// Makes one frame, with all checksums. It is valid until the next one.
    ///
    /// # Panics
    /// If header and payload pass the 65,535 bytes of an IP packet; a payload within the MSS never does.
    pub fn emit(
        &mut self,
        link: Link,
        addresses: Addresses,
        tcp: &TcpRepr,
        payload: &[u8],
    ) -> &[u8] {
        let (ether_type, ip_bytes) = match addresses {
            Addresses::V4 { .. } => (EtherType::Ipv4, IPV4_HEADER_BYTES),
            Addresses::V6 { .. } => (EtherType::Ipv6, IPV6_HEADER_BYTES),
        };
        let segment_bytes = tcp.header_bytes() + payload.len();
        self.0.clear();
        self.0
            .resize(link.header_bytes() + ip_bytes + tcp.header_bytes(), 0);
        self.0.extend_from_slice(payload);

        let (ethernet, packet) = self.0.split_at_mut(link.header_bytes());
        link.emit(ether_type, ethernet);
        let pseudo_header = match addresses {
            Addresses::V4 {
                source,
                destination,
            } => {
                let total_bytes = ip_length(ip_bytes + segment_bytes);
                let repr = Ipv4Repr {
                    source,
                    destination,
                    total_bytes,
                };
                repr.emit(packet.first_chunk_mut().expect("resized above"));
                repr.pseudo_header(ip_length(segment_bytes))
            }
            Addresses::V6 {
                source,
                destination,
            } => {
                let payload_bytes = ip_length(segment_bytes);
                let repr = Ipv6Repr {
                    source,
                    destination,
                    payload_bytes,
                };
                repr.emit(packet.first_chunk_mut().expect("resized above"));
                repr.pseudo_header()
            }
        };
        tcp.emit(&mut packet[ip_bytes..], pseudo_header);
        &self.0
    }
}

/// What a forged frame says of its place in a conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FramePlace {
    /// Who sends.
    pub source: SocketAddr,
    /// Who receives.
    pub destination: SocketAddr,
    /// Its sequence number.
    pub sequence: SeqNumber,
    /// It is a SYN, or the answer to one.
    pub syn: bool,
    /// Bytes of clear text in it.
    pub text_bytes: usize,
}

impl FramePlace {
    /// Reads a frame that a [`FrameBuffer`] has made.
    pub fn of(frame: &[u8]) -> Option<Self> {
        fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
            bytes.get(at..)?.first_chunk().copied()
        }
        let (vlan, ip) = match array(frame, 12)? {
            [0x81, 0x00] => (VLAN_TAG_BYTES, frame.get(18..)?),
            _ => (0, frame.get(14..)?),
        };
        let (source, destination, tcp): (IpAddr, IpAddr, _) = match array(frame, 12 + vlan)? {
            [0x08, 0x00] => (
                array::<4>(ip, 12)?.into(),
                array::<4>(ip, 16)?.into(),
                ip.get(IPV4_HEADER_BYTES..)?,
            ),
            _ => (
                array::<16>(ip, 8)?.into(),
                array::<16>(ip, 24)?.into(),
                ip.get(IPV6_HEADER_BYTES..)?,
            ),
        };
        let port = |at| array(tcp, at).map(u16::from_be_bytes);
        Some(Self {
            source: SocketAddr::new(source, port(0)?),
            destination: SocketAddr::new(destination, port(2)?),
            sequence: SeqNumber(u32::from_be_bytes(array(tcp, 4)?)),
            syn: tcp.get(13)? & 2 != 0,
            text_bytes: tcp.len().saturating_sub(usize::from(tcp.get(12)? >> 4) * 4),
        })
    }
}

/// A length as IP headers have it.
fn ip_length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a segment within the MSS fits an IP packet")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{MacAddr, TcpFlags};
    use etherparse::{NetSlice, SlicedPacket, TcpOptionElement, TransportSlice};

    const V4: Addresses = Addresses::V4 {
        source: Ipv4Addr::new(192, 0, 2, 1),
        destination: Ipv4Addr::new(198, 51, 100, 2),
    };
    const V6: Addresses = Addresses::V6 {
        source: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
        destination: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0xffff, 2),
    };
    const ALL_FLAGS: [TcpFlags; 6] = [
        TcpFlags::Syn,
        TcpFlags::SynAck,
        TcpFlags::Ack,
        TcpFlags::PshAck,
        TcpFlags::FinAck,
        TcpFlags::RstAck,
    ];

    fn check(
        vlan: Option<u16>,
        addresses: Addresses,
        flags: TcpFlags,
        payload: &[u8],
        buffer: &mut FrameBuffer,
    ) {
        let tcp = TcpRepr {
            source_port: 50_000,
            destination_port: 443,
            sequence: SeqNumber(0xffff_fff0),
            acknowledgment: SeqNumber(0x1234_5678),
            flags,
            mss: 1460,
        };
        let (source, destination) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        let link = Link {
            source,
            destination,
            vlan: vlan.map(|id| id.to_string().parse().unwrap()),
        };
        let frame = buffer.emit(link, addresses, &tcp, payload);

        let sliced = SlicedPacket::from_ethernet(frame).unwrap();
        let ethernet = sliced
            .link
            .as_ref()
            .unwrap()
            .to_header()
            .unwrap()
            .ethernet2()
            .unwrap();
        assert_eq!(ethernet.source, source.0);
        assert_eq!(ethernet.destination, destination.0);
        assert_eq!(sliced.vlan_ids().first().map(|id| id.value()), vlan);
        let Some(TransportSlice::Tcp(parsed)) = sliced.transport else {
            panic!("no TCP in {frame:?}");
        };
        assert_eq!(parsed.payload(), payload);
        assert_eq!(
            (parsed.source_port(), parsed.destination_port()),
            (50_000, 443)
        );
        assert_eq!(parsed.sequence_number(), 0xffff_fff0);
        let place = FramePlace::of(frame).unwrap();
        let (ip, swapped) = match addresses {
            Addresses::V4 {
                source,
                destination,
            } => (IpAddr::from(source), IpAddr::from(destination)),
            Addresses::V6 {
                source,
                destination,
            } => (IpAddr::from(source), IpAddr::from(destination)),
        };
        assert_eq!(place.source, SocketAddr::new(ip, 50_000));
        assert_eq!(place.destination, SocketAddr::new(swapped, 443));
        assert_eq!((place.sequence, place.syn), (tcp.sequence, flags.is_syn()));
        assert_eq!(place.text_bytes, payload.len());
        assert_eq!(parsed.window_size(), 65_535);
        let wanted = if flags == TcpFlags::Syn {
            0
        } else {
            0x1234_5678
        };
        assert_eq!(parsed.acknowledgment_number(), wanted);
        assert_eq!(parsed.syn(), flags.is_syn());
        assert_eq!(parsed.ack(), flags != TcpFlags::Syn);
        assert_eq!(parsed.psh(), flags == TcpFlags::PshAck);
        assert_eq!(parsed.fin(), flags == TcpFlags::FinAck);
        assert_eq!(parsed.rst(), flags == TcpFlags::RstAck);
        assert!(!parsed.urg() && !parsed.ece() && !parsed.cwr() && !parsed.ns());
        let options: Vec<_> = parsed.options_iterator().map(Result::unwrap).collect();
        if flags.is_syn() {
            use TcpOptionElement::{MaximumSegmentSize, Noop, WindowScale};
            assert_eq!(options, [MaximumSegmentSize(1460), Noop, WindowScale(14)]);
        } else {
            assert_eq!(options, []);
        }
        match sliced.net.unwrap() {
            NetSlice::Ipv4(ip) => {
                let header = ip.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert!(header.dont_fragment && !header.more_fragments);
                assert_eq!((header.time_to_live, header.identification), (64, 0));
                let sum = parsed.calc_checksum_ipv4(header.source, header.destination);
                assert_eq!(sum.unwrap(), parsed.checksum());
                assert!(matches!(addresses, Addresses::V4 { source, destination }
                    if source.octets() == header.source && destination.octets() == header.destination));
            }
            NetSlice::Ipv6(ip) => {
                let header = ip.header().to_header();
                assert_eq!((header.hop_limit, header.flow_label.value()), (64, 0));
                let sum = parsed.calc_checksum_ipv6(header.source, header.destination);
                assert_eq!(sum.unwrap(), parsed.checksum());
                assert!(matches!(addresses, Addresses::V6 { source, destination }
                    if source.octets() == header.source && destination.octets() == header.destination));
            }
            NetSlice::Arp(_) => panic!("not IP"),
        }
    }

    #[test]
    fn etherparse_reads_what_was_emitted() {
        let mut buffer = FrameBuffer::default();
        let text: Vec<u8> = (0..=255).cycle().take(1460).collect();
        for addresses in [V4, V6, V4.swapped(), V6.swapped()] {
            for flags in ALL_FLAGS {
                for length in [0, 1, 2, 3, 4, 5, 999, 1440] {
                    check(None, addresses, flags, &text[..length], &mut buffer);
                    check(Some(4094), addresses, flags, &text[..length], &mut buffer);
                }
            }
        }
    }
}
