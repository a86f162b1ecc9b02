//! Frames that wait to be sent, one behind the other.
//!
//! Where the kernel is to cut them (GSO), what one side says without a break becomes one frame, whatever its size:
//!
//! ```text
//! forged    headers│1460   headers│1460   headers│324, PSH
//! sent      headers│1460 · 1460 · 324, PSH                 and the size of a segment: 1460
//! ```
//!
//! The kernel makes of it what was forged: numbers go on by the size of a segment, only the last has PSH, checksums
//! fit. Over IPv4 it counts the identification up from the first one's, 0, which is of no meaning in packets that
//! are never fragmented (RFC 6864 section 4.1).

use std::ops::Range;

use super::packet_socket::{Cut, Outgoing};
use crate::wire::{Checksum, IPV4_HEADER_BYTES, IPV6_HEADER_BYTES, TCP_HEADER_BYTES};

const TCP: u8 = 6;
const ACK: u8 = 1 << 4;
const PSH: u8 = 1 << 3;
/// An IP packet isn't larger, cut or not.
const MAX_PACKET_BYTES: usize = 65_535;

/// Frames, one behind the other.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    units: Vec<Unit>,
}

/// A frame, or several that the kernel makes of one.
#[derive(Debug)]
struct Unit {
    place: Range<usize>,
    /// Where its headers are; nothing if it can't go on.
    open: Option<Headers>,
    /// Payload of each frame but the last; nothing if there is but one.
    segment: Option<u16>,
    frames: u64,
}

/// Where the headers of a frame begin, and where its payload does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Headers {
    ip: usize,
    tcp: usize,
    payload: usize,
}

impl Headers {
    /// Those of a data segment that may be followed by another, or may follow one.
    fn of_data(frame: &[u8]) -> Option<Self> {
        let ip = match frame.get(12..14)? {
            [0x81, 0x00] => 18,
            _ => 14,
        };
        let (protocol, tcp) = match (frame.get(ip)?, frame.get(ip - 2..ip)?) {
            (0x45, [0x08, 0x00]) => (frame.get(ip + 9)?, ip + IPV4_HEADER_BYTES),
            (_, [0x86, 0xdd]) => (frame.get(ip + 6)?, ip + IPV6_HEADER_BYTES),
            _ => return None,
        };
        let payload = tcp + TCP_HEADER_BYTES;
        let is_data = *protocol == TCP
            && frame.get(tcp + 12)? >> 4 == 5
            && frame.get(tcp + 13)? & !PSH == ACK
            && frame.len() > payload;
        is_data.then_some(Self { ip, tcp, payload })
    }

    fn is_v4(self) -> bool {
        self.tcp - self.ip == IPV4_HEADER_BYTES
    }

    /// All of the headers but what differs from one segment to the next: lengths, numbers, flags, checksums.
    fn constant(self) -> [Range<usize>; 6] {
        let Self { ip, tcp, payload } = self;
        let [before, between] = match self.is_v4() {
            true => [0..ip + 2, ip + 4..ip + 10],
            false => [0..ip + 4, ip + 6..ip + 8],
        };
        let addresses = self.addresses().start..tcp + 4;
        [
            before,
            between,
            addresses,
            tcp + 8..tcp + 13,
            tcp + 14..tcp + 16,
            tcp + 18..payload,
        ]
    }

    fn addresses(self) -> Range<usize> {
        match self.is_v4() {
            true => self.ip + 12..self.tcp,
            false => self.ip + 8..self.tcp,
        }
    }

    /// Makes `frame` one that the kernel is to cut: with the length of all of it, and with that part of the checksum
    /// of which it makes the sum of each segment.
    fn make_uncut(self, frame: &mut [u8]) {
        let length = |begin| u16::try_from(frame.len() - begin).unwrap_or(u16::MAX);
        let (packet, segment) = (length(self.ip), length(self.tcp));
        match self.is_v4() {
            true => {
                frame[self.ip + 2..self.ip + 4].copy_from_slice(&packet.to_be_bytes());
                frame[self.ip + 10..self.ip + 12].fill(0);
                let mut sum = Checksum::default();
                sum.add(&frame[self.ip..self.tcp]);
                frame[self.ip + 10..self.ip + 12].copy_from_slice(&sum.finish().to_be_bytes());
            }
            false => frame[self.ip + 4..self.ip + 6].copy_from_slice(&segment.to_be_bytes()),
        }
        let mut pseudo_header = Checksum::default();
        pseudo_header.add(&frame[self.addresses()]);
        pseudo_header.add_word(TCP.into());
        pseudo_header.add_word(segment);
        let sum = !pseudo_header.finish();
        frame[self.tcp + 16..self.tcp + 18].copy_from_slice(&sum.to_be_bytes());
    }
}

impl Batch {
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.units.clear();
    }

    /// What is sent one by one.
    pub(super) fn len(&self) -> usize {
        self.units.len()
    }

    /// Bytes of all of it.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Appends a frame; joined with those before if the kernel `cuts`.
    pub(super) fn push(&mut self, frame: &[u8], cuts: bool) {
        let open = Headers::of_data(frame).filter(|_| cuts);
        if let Some(headers) = open
            && self.join(frame, headers)
        {
            return;
        }
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(frame);
        self.units.push(Unit {
            place: begin..self.bytes.len(),
            open: open.filter(|headers| frame[headers.tcp + 13] == ACK),
            segment: None,
            frames: 1,
        });
    }

    /// Appends what `frame` says to the last one, if it goes on there.
    fn join(&mut self, frame: &[u8], headers: Headers) -> bool {
        let Some(unit) = self.units.last_mut() else {
            return false;
        };
        let before = &self.bytes[unit.place.clone()];
        let (said, says) = (
            before.len() - headers.payload.min(before.len()),
            frame.len() - headers.payload,
        );
        let segment = unit.segment.map_or(said, usize::from);
        let number = |frame: &[u8]| {
            let number = frame[headers.tcp + 4..].first_chunk().copied();
            number.map(u32::from_be_bytes)
        };
        let follows = || {
            let expected = u32::try_from(said).ok().zip(number(before));
            let expected = expected.map(|(said, number)| number.wrapping_add(said));
            expected == number(frame)
        };
        let fits = unit.open == Some(headers)
            && said.is_multiple_of(segment)
            && says <= segment
            && before.len() + says - headers.ip <= MAX_PACKET_BYTES
            && headers
                .constant()
                .into_iter()
                .all(|part| before[part.clone()] == frame[part])
            && follows();
        let Some(segment) = u16::try_from(segment).ok().filter(|_| fits) else {
            return false;
        };
        self.bytes.extend_from_slice(&frame[headers.payload..]);
        unit.place.end = self.bytes.len();
        unit.segment = Some(segment);
        unit.frames += 1;
        let flags = frame[headers.tcp + 13];
        let whole = &mut self.bytes[unit.place.clone()];
        whole[headers.tcp + 13] = flags;
        headers.make_uncut(whole);
        unit.open = Some(headers).filter(|_| flags == ACK);
        true
    }

    /// As it is sent.
    pub(super) fn outgoing(&self, number: usize) -> Outgoing<'_> {
        let unit = &self.units[number];
        let frame = &self.bytes[unit.place.clone()];
        let cut = unit.segment.and_then(|segment| {
            let headers = Headers::of_data(frame)?;
            Some(Cut {
                is_v4: headers.is_v4(),
                segment_bytes: segment,
                header_bytes: u16::try_from(headers.payload).ok()?,
                tcp_at: u16::try_from(headers.tcp).ok()?,
            })
        });
        Outgoing { frame, cut }
    }

    /// How many frames it is on the wire.
    pub(super) fn frames(&self, number: usize) -> u64 {
        self.units[number].frames
    }

    /// Bytes of these frames.
    pub(super) fn wire_bytes(&self, number: usize) -> usize {
        let Outgoing { frame, cut } = self.outgoing(number);
        let again = usize::try_from(self.frames(number) - 1).unwrap_or(0);
        frame.len() + cut.map_or(0, |cut| usize::from(cut.header_bytes) * again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{FlowChange, FlowEvent, FlowSink, Packet, PacketSink, Side, WallTime};
    use crate::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};
    use crate::wire::VlanId;

    #[derive(Default)]
    struct Frames(Vec<Vec<u8>>);

    impl PacketSink for Frames {
        fn packet(&mut self, packet: Packet<'_>) -> std::io::Result<()> {
            self.0.push(packet.frame.to_vec());
            Ok(())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn forged(v6: bool, vlan: Option<VlanId>) -> Vec<Vec<u8>> {
        let view = View {
            vlan,
            ..View::default()
        };
        let config = ForgeConfig {
            key: SequenceKey::new([1; 16]),
            mtu: Mtu::default(),
            view,
        };
        let mut forger = Forger::new(config, Frames::default());
        let mut info = crate::tunnel::batch::tests::info(3);
        if v6 {
            info.tuple.client = "[2001:db8::1]:40000".parse().unwrap();
            info.tuple.server = "[2001:db8::2]:443".parse().unwrap();
        }
        let text: Vec<u8> = (0..=255).cycle().take(40_000).collect();
        let data = |from, offset, bytes| FlowChange::Data {
            from,
            offset,
            bytes,
        };
        let changes = [
            FlowChange::Begin(&info),
            data(Side::Client, 0, &text[..1461]),
            data(Side::Client, 1461, &text[..100]),
            data(Side::Client, 1561, &text[..100]),
            data(Side::Server, 0, &text),
            FlowChange::Hole {
                from: Side::Server,
                offset: 40_000,
                bytes: 10,
            },
            data(Side::Server, 40_010, &text[..2920]),
            FlowChange::Finish { from: Side::Server },
        ];
        for change in changes {
            let at = WallTime(1);
            forger.flow_event(FlowEvent {
                flow: 1,
                at,
                change,
            });
        }
        forger.into_sink().0
    }

    /// What the kernel does.
    fn cut(outgoing: &Outgoing<'_>) -> Vec<Vec<u8>> {
        let Some(cut) = outgoing.cut else {
            return vec![outgoing.frame.to_vec()];
        };
        let (headers, text) = outgoing.frame.split_at(cut.header_bytes.into());
        let place = Headers::of_data(outgoing.frame).unwrap();
        assert_eq!(usize::from(cut.tcp_at), place.tcp);
        let segments = text.chunks(cut.segment_bytes.into());
        let last = segments.len() - 1;
        let frames = segments.enumerate().map(|(number, segment)| {
            let mut frame = [headers, segment].concat();
            let begin = number * usize::from(cut.segment_bytes);
            let sequence = &mut frame[place.tcp + 4..place.tcp + 8];
            let first = u32::from_be_bytes(*sequence.first_chunk().unwrap());
            let own = first.wrapping_add(u32::try_from(begin).unwrap());
            sequence.copy_from_slice(&own.to_be_bytes());
            if number < last {
                frame[place.tcp + 13] &= !PSH;
            }
            // Length, part of the checksum; then its other part.
            place.make_uncut(&mut frame);
            let mut sum = Checksum::default();
            sum.add(&frame[place.tcp..]);
            frame[place.tcp + 16..place.tcp + 18].copy_from_slice(&sum.finish().to_be_bytes());
            frame
        });
        frames.collect()
    }

    #[test]
    fn what_is_joined_is_cut_into_what_was_forged() {
        for (v6, vlan) in [
            (false, None),
            (true, None),
            (false, "7".parse::<VlanId>().ok()),
        ] {
            let frames = forged(v6, vlan);
            for cuts in [true, false] {
                let mut batch = Batch::default();
                frames.iter().for_each(|frame| batch.push(frame, cuts));
                let numbers = 0..batch.len();
                let back: Vec<_> = numbers
                    .clone()
                    .flat_map(|n| cut(&batch.outgoing(n)))
                    .collect();
                assert!(back == frames, "IPv6: {v6}, VLAN {vlan:?}, cuts: {cuts}");
                let counted: u64 = numbers.clone().map(|n| batch.frames(n)).sum();
                assert_eq!(counted, frames.len() as u64);
                let bytes: usize = numbers.clone().map(|n| batch.wire_bytes(n)).sum();
                assert_eq!(bytes, frames.iter().map(Vec::len).sum::<usize>());
                let joined = numbers.filter(|n| batch.frames(*n) > 1).count();
                // One of two frames, three of 16,384 bytes at most, and one of two behind the hole.
                assert_eq!(joined, if cuts { 5 } else { 0 });
            }
        }
    }
}
