//! Conversations made by hand: known to be right, so that the tests of the reader and of the checkers
//! can break one thing in them and see it found.

use std::net::{IpAddr, SocketAddr};

use crate::decode::{self, ACK, FIN, PSH, SYN};
use crate::reader::{Capture, Packet};

/// MSS, NOP, window scale 14; IPv4's.
pub const OPTIONS_V4: [u8; 8] = [2, 4, 0x05, 0xb4, 1, 3, 3, 14];
/// IPv6's.
pub const OPTIONS_V6: [u8; 8] = [2, 4, 0x05, 0xa0, 1, 3, 3, 14];

/// One packet; every field can be made wrong.
#[derive(Clone, Debug)]
pub struct Synth {
    /// Nanoseconds since 1970.
    pub at_ns: u64,
    /// Comment.
    pub comment: Option<String>,
    /// Ethernet source.
    pub mac_source: [u8; 6],
    /// Ethernet destination.
    pub mac_destination: [u8; 6],
    /// Sender.
    pub source: SocketAddr,
    /// Receiver.
    pub destination: SocketAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// IPv4's flags and fragment offset; IPv6's flow label.
    pub ip_flags: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgment number.
    pub ack: u32,
    /// TCP flags.
    pub flags: u8,
    /// Window.
    pub window: u16,
    /// TCP options, whole words.
    pub options: Vec<u8>,
    /// Data.
    pub payload: Vec<u8>,
    /// Added to the IPv4 header's checksum.
    pub ip_checksum_error: u16,
    /// Added to TCP's checksum.
    pub tcp_checksum_error: u16,
}

/// A conversation in the making.
#[derive(Clone, Debug)]
pub struct Conversation {
    /// So far.
    pub packets: Vec<Synth>,
    ends: [SocketAddr; 2],
    next: [u32; 2],
    at_ns: u64,
}

impl Conversation {
    /// Between a client and a server, whose first sequence numbers are given; their handshake.
    pub fn begin(ends: [SocketAddr; 2], isn: [u32; 2], at_ns: u64) -> Self {
        let mut this = Self {
            packets: Vec::new(),
            ends,
            next: isn,
            at_ns,
        };
        let options = if ends[0].is_ipv4() {
            OPTIONS_V4
        } else {
            OPTIONS_V6
        };
        this.push(0, SYN, &[]);
        this.push(1, SYN | ACK, &[]);
        for packet in &mut this.packets {
            packet.options = options.to_vec();
        }
        this.packets[0].ack = 0;
        this.packets[0].comment = Some("made by hand".into());
        this.push(0, ACK, &[]);
        this
    }

    /// A record of at most 16 KiB from side `from` (0 is the client), and its acknowledgment.
    pub fn record(&mut self, from: usize, bytes: &[u8]) {
        let mss = if self.ends[0].is_ipv4() { 1460 } else { 1440 };
        let mut segments = bytes.chunks(mss).peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            self.push(from, if last { ACK | PSH } else { ACK }, segment);
        }
        self.push(1 - from, ACK, &[]);
    }

    /// So many bytes of a side were lost.
    pub fn hole(&mut self, from: usize, bytes: u32) {
        self.next[from] = self.next[from].wrapping_add(bytes);
    }

    /// FIN of a side and its acknowledgment.
    pub fn finish(&mut self, from: usize) {
        self.push(from, FIN | ACK, &[]);
        self.push(1 - from, ACK, &[]);
    }

    /// One packet as it comes next.
    pub fn push(&mut self, from: usize, flags: u8, payload: &[u8]) {
        let macs = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
        self.at_ns += 1000;
        self.packets.push(Synth {
            at_ns: self.at_ns,
            comment: None,
            mac_source: macs[from],
            mac_destination: macs[1 - from],
            source: self.ends[from],
            destination: self.ends[1 - from],
            ttl: 64,
            ip_flags: if self.ends[0].is_ipv4() { 0x4000 } else { 0 },
            seq: self.next[from],
            ack: self.next[1 - from],
            flags,
            window: 0xffff,
            options: Vec::new(),
            payload: payload.to_vec(),
            ip_checksum_error: 0,
            tcp_checksum_error: 0,
        });
        let phantom = u32::from(flags & (SYN | FIN) != 0);
        let length = u32::try_from(payload.len()).unwrap_or(0) + phantom;
        self.next[from] = self.next[from].wrapping_add(length);
    }
}

/// A request, a response of several records that passes the sequence numbers' wrap, a close.
pub fn conversation() -> Vec<Synth> {
    let ends = [
        SocketAddr::from(([192, 0, 2, 1], 50000)),
        SocketAddr::from(([192, 0, 2, 2], 80)),
    ];
    let mut talk = Conversation::begin(ends, [7000, u32::MAX - 20_000], 1_800_000_000_000_000_000);
    talk.record(0, b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n");
    talk.record(
        1,
        b"HTTP/1.1 200 OK\r\nContent-Length: 40000\r\nConnection: close\r\n\r\n",
    );
    let body: Vec<u8> = (0..40_000u32).map(|i| i.to_le_bytes()[1]).collect();
    body.chunks(16_384)
        .for_each(|record| talk.record(1, record));
    talk.finish(1);
    talk.finish(0);
    talk.packets
}

/// Packets as a capture.
pub fn capture(packets: &[Synth]) -> Capture {
    // The easiest way to an interface is the one that the reader makes from a block.
    let mut capture = Capture::parse(&pcapng(&Capture::default())).unwrap_or_default();
    capture.packets = packets
        .iter()
        .map(|packet| Packet {
            at_ns: packet.at_ns,
            comment: packet.comment.clone(),
            frame: frame(packet),
        })
        .collect();
    capture
}

fn frame(packet: &Synth) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(packet.source.port().to_be_bytes());
    tcp.extend(packet.destination.port().to_be_bytes());
    tcp.extend(packet.seq.to_be_bytes());
    tcp.extend(packet.ack.to_be_bytes());
    let words = u8::try_from(5 + packet.options.len() / 4).unwrap_or(15);
    tcp.extend([words << 4, packet.flags]);
    tcp.extend(packet.window.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend(&packet.options);
    tcp.extend(&packet.payload);
    let (source, destination) = (packet.source.ip(), packet.destination.ip());
    let checksum = decode::tcp_checksum(source, destination, &tcp)
        .wrapping_add(packet.tcp_checksum_error)
        .to_be_bytes();
    tcp[16..18].copy_from_slice(&checksum);

    let mut out = [packet.mac_destination, packet.mac_source].concat();
    let length = u16::try_from(tcp.len()).unwrap_or(u16::MAX);
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x08, 0x00]);
            let mut ip = vec![0x45, 0];
            ip.extend((length + 20).to_be_bytes());
            ip.extend([0, 0]);
            ip.extend(packet.ip_flags.to_be_bytes());
            ip.extend([packet.ttl, 6, 0, 0]);
            ip.extend(source.octets());
            ip.extend(destination.octets());
            let checksum = decode::ip_checksum(&ip)
                .wrapping_add(packet.ip_checksum_error)
                .to_be_bytes();
            ip[10..12].copy_from_slice(&checksum);
            out.extend(ip);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out.extend([0x86, 0xdd, 0x60, 0]);
            out.extend(packet.ip_flags.to_be_bytes());
            out.extend(length.to_be_bytes());
            out.extend([6, packet.ttl]);
            out.extend(source.octets());
            out.extend(destination.octets());
        }
        _ => {}
    }
    out.extend(tcp);
    out
}

/// A capture as a file: nanoseconds, Ethernet, no snap length.
pub fn pcapng(capture: &Capture) -> Vec<u8> {
    let mut file = Vec::new();
    let mut block = |kind: u32, body: &[u8]| {
        let length = u32::try_from(body.len() + 12).unwrap_or(u32::MAX);
        file.extend(kind.to_le_bytes());
        file.extend(length.to_le_bytes());
        file.extend(body);
        file.extend(length.to_le_bytes());
    };
    let mut section = 0x1a2b_3c4du32.to_le_bytes().to_vec();
    section.extend([1u16.to_le_bytes(), 0u16.to_ne_bytes()].concat());
    section.extend([0xff; 8]);
    block(0x0a0d_0d0a, &section);
    let mut interface = vec![];
    interface.extend(1u16.to_le_bytes());
    interface.extend([0; 6]);
    option(&mut interface, 9, &[9]);
    interface.extend([0; 4]);
    block(1, &interface);
    for packet in &capture.packets {
        let mut body = 0u32.to_le_bytes().to_vec();
        let high = u32::try_from(packet.at_ns >> 32).unwrap_or(0);
        let low = u32::try_from(packet.at_ns & 0xffff_ffff).unwrap_or(0);
        let length = u32::try_from(packet.frame.len()).unwrap_or(0);
        for word in [high, low, length, length] {
            body.extend(word.to_le_bytes());
        }
        body.extend(&packet.frame);
        body.resize(body.len().next_multiple_of(4), 0);
        if let Some(comment) = &packet.comment {
            option(&mut body, 1, comment.as_bytes());
            body.extend([0; 4]);
        }
        block(6, &body);
    }
    file
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend(u16::try_from(value.len()).unwrap_or(0).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}
