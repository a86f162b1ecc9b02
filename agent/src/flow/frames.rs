//! Frames, for tests.

use std::net::Ipv6Addr;

use super::hellos::Hellos;
use super::wire::{LinkType, WireFact};

/// All that is told of one frame.
pub(super) fn told(link: LinkType, frame: &[u8]) -> Vec<WireFact> {
    let mut facts = Vec::new();
    Hellos::default().frame(link, frame, &mut |fact| facts.push(fact));
    facts
}

/// A hello's first bytes, followed by some more.
pub(super) fn hello(kind: u8, random: [u8; 32]) -> Vec<u8> {
    let mut bytes = vec![22, 3, 1, 0, 200, kind, 0, 0, 196, 3, 3];
    bytes.extend_from_slice(&random);
    bytes.extend_from_slice(&[0; 162]);
    bytes
}

/// A message in records of at most so many bytes.
pub(super) fn records(message: &[u8], most: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1][..], &length, part].concat()
    };
    message.chunks(most).flat_map(record).collect()
}

pub(super) fn tcp(
    source: u16,
    destination: u16,
    sequence: u32,
    flags: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&source.to_be_bytes());
    bytes.extend_from_slice(&destination.to_be_bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0, 0, 8 << 4, flags, 1, 0, 0, 0, 0, 0]);
    bytes.extend_from_slice(&[1; 12]); // options
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn ipv4(segment: &[u8]) -> Vec<u8> {
    let total = u16::try_from(20 + segment.len()).unwrap();
    let mut bytes = vec![0x45, 0];
    bytes.extend_from_slice(&total.to_be_bytes());
    bytes.extend_from_slice(&[0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 2]);
    bytes.extend_from_slice(segment);
    bytes
}

pub(super) fn ipv6(segment: &[u8]) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap();
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&[6, 64]);
    bytes.extend_from_slice(&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend_from_slice(&"2001:db8::2".parse::<Ipv6Addr>().unwrap().octets());
    bytes.extend_from_slice(segment);
    bytes
}

pub(super) fn ethernet(protocol: u16, packet: &[u8]) -> Vec<u8> {
    let mut bytes = vec![2; 12];
    bytes.extend_from_slice(&protocol.to_be_bytes());
    bytes.extend_from_slice(packet);
    bytes
}

/// For the corpus: each with its link type before it.
pub(super) fn frames() -> [(&'static str, Vec<u8>); 4] {
    let client = tcp(5000, 443, 1000, 0x18, &hello(1, [7; 32]));
    let server = tcp(443, 5000, 78, 0x18, &hello(2, [8; 32]));
    [
        (
            "syn",
            [
                &[0][..],
                &ethernet(0x0800, &ipv4(&tcp(5000, 443, 77, 2, &[]))),
            ]
            .concat(),
        ),
        ("client-hello", [&[1][..], &ipv6(&client)].concat()),
        (
            "server-hello",
            [&[0][..], &ethernet(0x0800, &ipv4(&server))].concat(),
        ),
        (
            "any-device",
            [&[3, 8, 0][..], &[0; 18], &ipv4(&client)].concat(),
        ),
    ]
}

/// With these extension headers, of 8 bytes and more, before the segment.
pub(super) fn ipv6_extended(extensions: &[u8], segment: &[u8]) -> Vec<u8> {
    let mut packet = ipv6(segment);
    let kinds: Vec<_> = extensions.iter().copied().chain([6]).collect();
    packet[6] = kinds[0];
    let mut headers = Vec::new();
    for (next, more) in kinds[1..].iter().zip(0u8..) {
        headers.extend([*next, more]);
        headers.extend(vec![0; 6 + 8 * usize::from(more)]);
    }
    let length = u16::try_from(headers.len() + segment.len()).unwrap();
    packet[4..6].copy_from_slice(&length.to_be_bytes());
    packet.splice(40..40, headers);
    packet
}
