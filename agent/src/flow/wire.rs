//! Reads TCP segments from captured frames. The bytes come from a network: nothing is believed, and nothing can panic.
//! [`super::hellos`] finds handshakes in what the segments carry.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::hello::ClientHello;
use crate::event::Tuple;
use crate::wire::MacAddr;

/// The protocol's number, in IPv4 and IPv6.
const TCP: u8 = 6;
/// Headers of IPv6 that may stand before it: hop-by-hop options, routing, destination options.
pub(super) const EXTENSIONS: [u8; 3] = [0, 43, 60];
/// So many of them at most.
pub(super) const EXTENSION_HEADERS: usize = 3;

/// What a frame begins with; the numbers of pcap-linktype(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header (1).
    Ethernet,
    /// An IP header (12, 14 and 101).
    Raw,
    /// The header of the `any` device, version 1 (113).
    LinuxSll,
    /// Version 2 (276).
    LinuxSll2,
}

impl LinkType {
    /// By the number that libpcap gives.
    pub fn from_number(number: i32) -> Option<Self> {
        match number {
            1 => Some(Self::Ethernet),
            12 | 14 | 101 => Some(Self::Raw),
            113 => Some(Self::LinuxSll),
            276 => Some(Self::LinuxSll2),
            _ => None,
        }
    }
}

/// Something that a frame shows of a handshake. The tuple's client is who sent the SYN or the
/// ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireFact {
    /// A connection is asked for.
    Syn {
        /// Between whom.
        tuple: Tuple,
        /// The client's initial sequence number.
        isn: u32,
    },
    /// A TLS handshake begins.
    ClientHello {
        /// Between whom.
        tuple: Tuple,
        /// Sequence number of its first byte.
        sequence: u32,
        /// ClientHello.random.
        random: [u8; 32],
    },
    /// The whole of a ClientHello that was told before.
    Fingerprint {
        /// Between whom.
        tuple: Tuple,
        /// ClientHello.random.
        random: [u8; 32],
        /// What else stands in it.
        hello: Box<ClientHello>,
    },
    /// It is answered (not by a HelloRetryRequest).
    ServerHello {
        /// Between whom.
        tuple: Tuple,
        /// ServerHello.random.
        random: [u8; 32],
    },
}

/// A TCP segment of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment<'a> {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) sequence: u32,
    flags: u8,
    /// It may have been cut.
    pub(super) payload: &'a [u8],
}

/// The segment of a frame, which may have been cut anywhere. Forged ones, which some agent sends on this interface, tell
/// nothing: a handshake inside of clear text would be bound to addresses that aren't its own. A machine that takes such
/// an Ethernet address hides no text, only its addresses: placeholders, marked.
pub(super) fn parse_segment(link: LinkType, frame: &[u8]) -> Option<Segment<'_>> {
    let packet = strip_link(link, frame)?;
    let forged = || {
        source_mac(link, frame)?
            .is_forged(source_address(packet)?)
            .then_some(())
    };
    if forged().is_some() {
        return None;
    }
    parse_ip(packet)
}

/// Who sent the frame, where its header tells that by an Ethernet address.
fn source_mac(link: LinkType, frame: &[u8]) -> Option<MacAddr> {
    let at = match link {
        LinkType::Raw => return None,
        LinkType::Ethernet => 6,
        LinkType::LinuxSll => 6,
        LinkType::LinuxSll2 => 12,
    };
    array(frame, at).map(MacAddr)
}

fn source_address(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => array::<4>(packet, 12).map(IpAddr::from),
        6 => array::<16>(packet, 8).map(IpAddr::from),
        _ => None,
    }
}

/// The IP packet in a frame.
fn strip_link(link: LinkType, frame: &[u8]) -> Option<&[u8]> {
    let (protocol, packet) = match link {
        LinkType::Raw => return Some(frame),
        LinkType::Ethernet => (be16(frame, 12)?, frame.get(14..)?),
        LinkType::LinuxSll => (be16(frame, 14)?, frame.get(16..)?),
        LinkType::LinuxSll2 => (be16(frame, 0)?, frame.get(20..)?),
    };
    strip_vlan(protocol, packet)
}

/// Skips up to two VLAN tags (IEEE 802.1Q, 802.1ad) in front of IPv4 or IPv6.
fn strip_vlan(mut protocol: u16, mut packet: &[u8]) -> Option<&[u8]> {
    for _ in 0..3 {
        match protocol {
            0x0800 | 0x86dd => return Some(packet),
            0x8100 | 0x88a8 | 0x9100 => {
                protocol = be16(packet, 2)?;
                packet = packet.get(4..)?;
            }
            _ => return None,
        }
    }
    None
}

fn parse_ip(packet: &[u8]) -> Option<Segment<'_>> {
    match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let fragment = be16(packet, 6)? & 0x3fff; // more fragments, or not the first
            if header < 20 || *packet.get(9)? != TCP || fragment != 0 {
                return None;
            }
            let total = usize::from(be16(packet, 2)?);
            let source = Ipv4Addr::from(array::<4>(packet, 12)?);
            let destination = Ipv4Addr::from(array::<4>(packet, 16)?);
            // Segmentation offload leaves 0 here for what is larger than 64 KiB.
            let end = if total == 0 { packet.len() } else { total };
            let segment = packet.get(header..end.min(packet.len()))?;
            parse_tcp(source.into(), destination.into(), segment)
        }
        6 => {
            let length = usize::from(be16(packet, 4)?);
            let source = Ipv6Addr::from(array::<16>(packet, 8)?);
            let destination = Ipv6Addr::from(array::<16>(packet, 24)?);
            let end = if length == 0 {
                packet.len()
            } else {
                40 + length
            };
            let rest = packet.get(40..end.min(packet.len()))?;
            let segment = skip_extensions(*packet.get(6)?, rest)?;
            parse_tcp(source.into(), destination.into(), segment)
        }
        _ => None,
    }
}

/// Skips the headers that may stand before TCP's in an IPv6 packet (RFC 8200 4), as many as the kernel's filter
/// does. Each begins with the kind of the next one and its own length, in units of 8 bytes behind the first.
fn skip_extensions(mut kind: u8, mut rest: &[u8]) -> Option<&[u8]> {
    for _ in 0..EXTENSION_HEADERS {
        if !EXTENSIONS.contains(&kind) {
            break;
        }
        kind = *rest.first()?;
        let length = 8 + 8 * usize::from(*rest.get(1)?);
        rest = rest.get(length..)?;
    }
    (kind == TCP).then_some(rest)
}

fn parse_tcp(source: IpAddr, destination: IpAddr, segment: &[u8]) -> Option<Segment<'_>> {
    let header = usize::from(segment.get(12)? >> 4) * 4;
    if header < 20 {
        return None;
    }
    let flags = *segment.get(13)?;
    // What stands behind a SYN's sequence number isn't needed.
    let payload = segment.get(header..);
    Some(Segment {
        source: SocketAddr::new(source, be16(segment, 0)?),
        destination: SocketAddr::new(destination, be16(segment, 2)?),
        sequence: u32::from_be_bytes(array(segment, 4)?),
        flags,
        payload: match flags & SYN {
            0 => payload?,
            _ => &[],
        },
    })
}

const SYN: u8 = 2;
const ACK: u8 = 16;

impl Segment<'_> {
    pub(super) fn tuple_if_client(&self) -> Tuple {
        Tuple {
            client: self.source,
            server: self.destination,
        }
    }

    pub(super) fn tuple_if_server(&self) -> Tuple {
        Tuple {
            client: self.destination,
            server: self.source,
        }
    }

    /// What follows a ChangeCipherSpec (a record of one byte, RFC 8446 5), if it begins with one; else all of it.
    pub(super) fn behind_change_cipher_spec(&self) -> Self {
        match self.payload {
            [20, 3, _, 0, 1, 1, rest @ ..] => Self {
                sequence: self.sequence.wrapping_add(6),
                payload: rest,
                ..*self
            },
            _ => *self,
        }
    }

    /// The beginning of a connection.
    pub(super) fn syn(&self) -> Option<WireFact> {
        (self.flags & (SYN | ACK) == SYN).then(|| WireFact::Syn {
            tuple: self.tuple_if_client(),
            isn: self.sequence,
        })
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(array(bytes, at)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::frames::{ethernet, hello, ipv4, ipv6, ipv6_extended, tcp, told};
    use proptest::prelude::*;

    /// The first that is told of a frame.
    fn parse_frame(link: LinkType, frame: &[u8]) -> Option<WireFact> {
        told(link, frame).into_iter().next()
    }

    fn v4_tuple(client_port: u16, server_port: u16) -> Tuple {
        Tuple {
            client: SocketAddr::new("192.0.2.1".parse().unwrap(), client_port),
            server: SocketAddr::new("198.51.100.2".parse().unwrap(), server_port),
        }
    }

    #[test]
    fn a_syn_tells_its_number_and_the_answer_nothing() {
        let frame = ethernet(0x0800, &ipv4(&tcp(5000, 443, 77, 2, &[])));
        assert_eq!(
            parse_frame(LinkType::Ethernet, &frame),
            Some(WireFact::Syn {
                tuple: v4_tuple(5000, 443),
                isn: 77
            })
        );
        let frame = ethernet(0x0800, &ipv4(&tcp(443, 5000, 78, 0x12, &[])));
        assert_eq!(parse_frame(LinkType::Ethernet, &frame), None);
    }

    #[test]
    fn forged_frames_tell_nothing() {
        for (protocol, packet) in [
            (0x0800, ipv4(&tcp(5000, 443, 77, 2, &[]))),
            (0x86dd, ipv6(&tcp(5000, 443, 77, 2, &[]))),
        ] {
            let source = source_address(&packet).unwrap();
            let mut frame = ethernet(protocol, &packet);
            assert!(parse_frame(LinkType::Ethernet, &frame).is_some());
            frame[6..12].copy_from_slice(&MacAddr::of_client(source).0);
            assert_eq!(parse_frame(LinkType::Ethernet, &frame), None);
            let cooked = [
                &[0, 4, 0, 1, 0, 6][..],
                &MacAddr::of_server(source).0,
                &[0, 0],
                &frame[12..],
            ];
            assert_eq!(parse_frame(LinkType::LinuxSll, &cooked.concat()), None);
        }
    }

    #[test]
    fn hellos_under_every_link_type() {
        let client = tcp(5000, 443, 1000, 0x18, &hello(1, [7; 32]));
        let v4 = ipv4(&client);
        let expected = Some(WireFact::ClientHello {
            tuple: v4_tuple(5000, 443),
            sequence: 1000,
            random: [7; 32],
        });
        assert_eq!(parse_frame(LinkType::Raw, &v4), expected);
        assert_eq!(
            parse_frame(LinkType::Ethernet, &ethernet(0x0800, &v4)),
            expected
        );
        let tagged = [&[0, 5, 0x08, 0][..], &v4].concat();
        assert_eq!(
            parse_frame(LinkType::Ethernet, &ethernet(0x8100, &tagged)),
            expected
        );
        let sll = [&[0; 14][..], &[8, 0], &v4].concat();
        assert_eq!(parse_frame(LinkType::LinuxSll, &sll), expected);
        let sll2 = [&[8, 0][..], &[0; 18], &v4].concat();
        assert_eq!(parse_frame(LinkType::LinuxSll2, &sll2), expected);
    }

    #[test]
    fn three_headers_of_ipv6_are_skipped_and_no_others() {
        let segment = tcp(5000, 443, 1000, 0x18, &hello(1, [7; 32]));
        let expected = parse_frame(LinkType::Raw, &ipv6(&segment));
        assert!(expected.is_some());
        for extensions in [&[0][..], &[43], &[60], &[0, 43, 60], &[60, 43, 60]] {
            let packet = ipv6_extended(extensions, &segment);
            assert_eq!(parse_frame(LinkType::Raw, &packet), expected);
        }
        for extensions in [&[44][..], &[0, 44], &[50], &[51], &[0, 60, 43, 60]] {
            let packet = ipv6_extended(extensions, &segment);
            assert_eq!(parse_frame(LinkType::Raw, &packet), None, "{extensions:?}");
        }
    }

    #[test]
    fn server_hello_over_ipv6_has_its_tuple_turned() {
        let frame = ethernet(0x86dd, &ipv6(&tcp(443, 5000, 1, 0x18, &hello(2, [9; 32]))));
        assert_eq!(
            parse_frame(LinkType::Ethernet, &frame),
            Some(WireFact::ServerHello {
                tuple: Tuple {
                    client: "[2001:db8::2]:5000".parse().unwrap(),
                    server: "[2001:db8::1]:443".parse().unwrap(),
                },
                random: [9; 32],
            })
        );
    }

    #[test]
    fn a_frame_cut_anywhere_says_less_never_something_else() {
        let whole = ethernet(0x0800, &ipv4(&tcp(5000, 443, 9, 0x18, &hello(1, [7; 32]))));
        let fact = parse_frame(LinkType::Ethernet, &whole);
        for end in 0..whole.len() {
            let cut = parse_frame(LinkType::Ethernet, &whole[..end]);
            assert!(cut.is_none() || cut == fact);
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic(
            number in prop::sample::select(vec![1, 12, 101, 113, 276]),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let link = LinkType::from_number(number).unwrap();
            let _ = told(link, &bytes);
        }

        #[test]
        fn a_damaged_hello_never_panics(
            v6 in any::<bool>(),
            damage in prop::collection::vec((0usize..250, any::<u8>()), 1..6),
            end in 0usize..300,
        ) {
            let segment = tcp(5000, 443, 9, 0x18, &hello(1, [7; 32]));
            let mut frame = if v6 {
                ethernet(0x86dd, &ipv6(&segment))
            } else {
                ethernet(0x0800, &ipv4(&segment))
            };
            for (at, byte) in damage {
                frame[at] = byte;
            }
            frame.truncate(end);
            let _ = told(LinkType::Ethernet, &frame);
        }
    }
}
