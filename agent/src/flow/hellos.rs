//! Puts together hellos that come in several segments, and reads each ClientHello as a whole.
//!
//! ```text
//! segment 22 3 1 …      random at once, if it is in there      rest of the message awaited
//! segment      … …      random                                 whole: names, fingerprint
//! ```
//!
//! A hello begins at a segment's beginning. Where a piece is said twice, both must say the same: else nobody knows which
//! of them the receiver took, and what was begun is forgotten. Memory is bounded; the oldest is forgotten first.

use std::net::SocketAddr;

use super::bounded::BoundedMap;
use super::hello::ClientHello;
use super::wire::{LinkType, RETRY_RANDOM, Segment, WireFact, parse_segment};

/// A record's header, and what it may hold (RFC 8446 5.1).
const RECORD_HEADER: usize = 5;
/// A handshake message's header.
const MESSAGE_HEADER: usize = 4;
/// Up to where the random goes: header, version, random.
const WITH_RANDOM: usize = MESSAGE_HEADER + 2 + 32;
/// A hello that is longer isn't read as a whole: records of one each would make five times that.
const MAX_BYTES: usize = 18 * 1024;
/// Pieces of one hello that wait for those before them.
const MAX_PIECES: usize = 16;
/// Hellos of which something is missing, at a time: at most 36 MiB.
const CAPACITY: usize = 1024;

/// Reads the frames of one interface, in their order.
#[derive(Debug)]
pub struct Hellos {
    begun: BoundedMap<(SocketAddr, SocketAddr), Begun>,
}

/// A hello of which something is missing.
#[derive(Debug)]
struct Begun {
    sequence: u32,
    /// What follows it without a gap.
    bytes: Vec<u8>,
    /// What came before its time, by its place.
    early: Vec<(usize, Vec<u8>)>,
    /// Its random has been told.
    told: bool,
}

/// What a hello's first bytes are.
enum Reading {
    /// More is needed; what is there of the message.
    Part(Vec<u8>),
    /// The message.
    Whole(Vec<u8>),
    /// No hello.
    Other,
}

impl Default for Hellos {
    fn default() -> Self {
        Self {
            begun: BoundedMap::new(CAPACITY),
        }
    }
}

impl Hellos {
    /// Reads a frame, as [`super::wire::parse_frame`] does, and tells what is known now.
    pub fn frame(&mut self, link: LinkType, frame: &[u8], tell: &mut dyn FnMut(WireFact)) {
        if let Some(segment) = parse_segment(link, frame) {
            self.segment(&segment, tell);
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, tell: &mut dyn FnMut(WireFact)) {
        let way = (segment.source, segment.destination);
        if let Some(fact) = segment.opening() {
            self.begun.remove(&way);
            return tell(fact);
        }
        if segment.payload.is_empty() {
            return;
        }
        if let Some(begun) = self.begun.get_mut(&way) {
            match begun.add(segment) {
                Added::Elsewhere => {}
                Added::Contradicts => {
                    self.begun.remove(&way);
                    return;
                }
                Added::Here => {
                    if begun.advance(segment, tell) {
                        self.begun.remove(&way);
                    }
                    return;
                }
            }
        }
        if !may_begin(segment.payload) {
            return;
        }
        let mut begun = Begun {
            sequence: segment.sequence,
            bytes: segment.payload.iter().take(MAX_BYTES).copied().collect(),
            early: Vec::new(),
            told: false,
        };
        if !begun.advance(segment, tell) {
            self.begun.insert(way, begun);
        }
    }
}

/// What a segment is to a hello that has begun.
enum Added {
    /// A part of it, or one that may be.
    Here,
    /// Something else.
    Elsewhere,
    /// It says something else at the same place.
    Contradicts,
}

impl Begun {
    fn add(&mut self, segment: &Segment<'_>) -> Added {
        let ahead = segment.sequence.wrapping_sub(self.sequence);
        let Some(at) = usize::try_from(ahead).ok().filter(|at| *at < MAX_BYTES) else {
            return Added::Elsewhere;
        };
        let payload = &segment.payload[..segment.payload.len().min(MAX_BYTES - at)];
        let overlap = self.bytes.get(at..).unwrap_or(&[]);
        let common = overlap.len().min(payload.len());
        if overlap[..common] != payload[..common] {
            // A hello again, where the last one's end isn't known: of another connection.
            return Added::Contradicts;
        }
        if at > self.bytes.len() {
            if self.early.len() < MAX_PIECES {
                self.early.push((at, payload.to_vec()));
            }
            return Added::Here;
        }
        self.bytes.extend_from_slice(&payload[common..]);
        self.take_early()
    }

    /// Appends what came before its time and fits now.
    fn take_early(&mut self) -> Added {
        while let Some(place) = self
            .early
            .iter()
            .position(|(at, _)| *at <= self.bytes.len())
        {
            let (at, piece) = self.early.swap_remove(place);
            let overlap = &self.bytes[at..];
            let common = overlap.len().min(piece.len());
            if overlap[..common] != piece[..common] {
                return Added::Contradicts;
            }
            self.bytes.extend_from_slice(&piece[common..]);
        }
        Added::Here
    }

    /// Tells what is known now; true: nothing more is awaited.
    fn advance(&mut self, segment: &Segment<'_>, tell: &mut dyn FnMut(WireFact)) -> bool {
        let (message, is_whole) = match read(&self.bytes) {
            Reading::Part(message) => (message, false),
            Reading::Whole(message) => (message, true),
            Reading::Other => return true,
        };
        let Some(random) = message.get(..WITH_RANDOM).and_then(<[u8]>::last_chunk) else {
            return false;
        };
        let random: [u8; 32] = *random;
        if message[0] == SERVER_HELLO {
            if random != RETRY_RANDOM {
                let tuple = segment.tuple_if_server();
                tell(WireFact::ServerHello { tuple, random });
            }
            return true;
        }
        let tuple = segment.tuple_if_client();
        if !std::mem::replace(&mut self.told, true) {
            tell(WireFact::ClientHello {
                tuple,
                sequence: self.sequence,
                random,
            });
        }
        if is_whole && let Some(hello) = ClientHello::parse(&message) {
            let hello = Box::new(hello);
            tell(WireFact::Fingerprint {
                tuple,
                random,
                hello,
            });
        }
        is_whole || self.bytes.len() >= MAX_BYTES
    }
}

const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;

/// Whether a segment with this payload may be a hello's first.
fn may_begin(payload: &[u8]) -> bool {
    let is = |at: usize, values: &[u8]| payload.get(at).is_none_or(|byte| values.contains(byte));
    is(0, &[22]) && is(1, &[3]) && is(5, &[CLIENT_HELLO, SERVER_HELLO])
}

/// Takes the message out of its records.
fn read(mut bytes: &[u8]) -> Reading {
    let mut message = Vec::new();
    loop {
        let is = |at: usize, value: u8| bytes.get(at).is_none_or(|byte| *byte == value);
        if !is(0, 22) || !is(1, 3) {
            return Reading::Other;
        }
        let Some((header, rest)) = bytes.split_at_checked(RECORD_HEADER) else {
            return Reading::Part(message);
        };
        let length = usize::from(header[3]) << 8 | usize::from(header[4]);
        if length == 0 || length > MAX_BYTES {
            return Reading::Other; // RFC 8446 5.1: no empty fragments of handshake messages
        }
        let fragment = &rest[..length.min(rest.len())];
        message.extend_from_slice(fragment);
        match wanted(&message) {
            Wanted::Nothing => return Reading::Other,
            Wanted::More => {}
            Wanted::Bytes(wanted) if message.len() >= wanted => {
                message.truncate(wanted);
                return Reading::Whole(message);
            }
            Wanted::Bytes(_) => {}
        }
        if fragment.len() < length || rest.len() == length {
            return Reading::Part(message);
        }
        bytes = &rest[length..];
    }
}

/// How long a message is that begins so.
enum Wanted {
    Bytes(usize),
    More,
    /// It is no hello.
    Nothing,
}

fn wanted(message: &[u8]) -> Wanted {
    let is = |at: usize, values: &[u8]| message.get(at).is_none_or(|byte| values.contains(byte));
    if !is(0, &[CLIENT_HELLO, SERVER_HELLO]) || !is(4, &[3]) {
        return Wanted::Nothing;
    }
    let Some(header) = message.first_chunk::<MESSAGE_HEADER>() else {
        return Wanted::More;
    };
    let length = u32::from_be_bytes([0, header[1], header[2], header[3]]);
    match usize::try_from(length) {
        // Version, random, and the lengths of what follows (RFC 8446 4.1.2, 4.1.3).
        Ok(length) if length >= 38 => Wanted::Bytes(MESSAGE_HEADER + length),
        _ => Wanted::Nothing,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::hello::tests::browser;
    use super::super::wire::tests::{hello, ipv4, tcp};
    use super::*;
    use crate::event::Tuple;
    use proptest::prelude::*;

    /// A message in records of at most so many bytes.
    fn records(message: &[u8], most: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            let length = u16::try_from(part.len()).unwrap().to_be_bytes();
            [&[22, 3, 1][..], &length, part].concat()
        };
        message.chunks(most).flat_map(record).collect()
    }

    /// For the corpus: raw packets, each with its length before it.
    pub(in super::super) fn conversations() -> [(&'static str, Vec<u8>); 4] {
        let client = |at: usize, payload: &[u8]| {
            let sequence = 1 + u32::try_from(at).unwrap();
            ipv4(&tcp(5000, 443, sequence, 0x18, payload))
        };
        let server = |payload: &[u8]| {
            let mut packet = ipv4(&tcp(443, 5000, 1, 0x18, payload));
            let (source, destination) = packet[12..20].split_at_mut(4);
            source.swap_with_slice(destination);
            packet
        };
        let whole = |packets: &[Vec<u8>]| {
            let with_length = |packet: &Vec<u8>| {
                let length = u16::try_from(packet.len()).unwrap().to_be_bytes();
                [&length[..], packet].concat()
            };
            let packets: Vec<_> = packets.iter().flat_map(with_length).collect();
            [&[1][..], &packets].concat()
        };
        let syn = ipv4(&tcp(5000, 443, 0, 2, &[]));
        let (asked, answer) = (records(&browser(0), 16_384), hello(2, [8; 32]));
        let (one, two, three) = (&asked[..4], &asked[4..60], &asked[60..]);
        let in_records = records(&browser(0), 60);
        [
            (
                "one-segment",
                whole(&[syn.clone(), client(0, &asked), server(&answer)]),
            ),
            (
                "segments",
                whole(&[
                    syn,
                    client(0, one),
                    client(60, three),
                    client(4, two),
                    server(&answer),
                ]),
            ),
            (
                "records",
                whole(&[client(0, &in_records), server(&answer[..20])]),
            ),
            (
                "retry",
                whole(&[
                    client(0, &asked),
                    server(&hello(2, RETRY_RANDOM)),
                    client(asked.len(), &asked),
                    server(&answer),
                ]),
            ),
        ]
    }

    /// What is told of segments with these places in the stream.
    fn told(segments: &[(usize, &[u8])]) -> Vec<WireFact> {
        let mut hellos = Hellos::default();
        let mut facts = Vec::new();
        for (at, payload) in segments {
            let sequence = (u32::MAX - 20).wrapping_add(u32::try_from(*at).unwrap());
            let packet = ipv4(&tcp(5000, 443, sequence, 0x18, payload));
            hellos.frame(LinkType::Raw, &packet, &mut |fact| facts.push(fact));
        }
        facts
    }

    fn tuple() -> Tuple {
        Tuple {
            client: "192.0.2.1:5000".parse().unwrap(),
            server: "198.51.100.2:443".parse().unwrap(),
        }
    }

    fn whole() -> [WireFact; 2] {
        let message = browser(1500);
        [
            WireFact::ClientHello {
                tuple: tuple(),
                sequence: u32::MAX - 20,
                random: [7; 32],
            },
            WireFact::Fingerprint {
                tuple: tuple(),
                random: [7; 32],
                hello: Box::new(ClientHello::parse(&message).unwrap()),
            },
        ]
    }

    #[test]
    fn pieces_of_any_size_are_put_together() {
        let bytes = records(&browser(1500), 16_384);
        for size in [1, 2, 4, 5, 6, 9, 42, 43, 44, 100, 1400, 3000] {
            let pieces: Vec<_> = bytes.chunks(size).enumerate().collect();
            let pieces: Vec<_> = pieces.iter().map(|(n, piece)| (n * size, *piece)).collect();
            assert_eq!(told(&pieces), whole(), "pieces of {size}");
        }
    }

    #[test]
    fn a_message_in_several_records_is_put_together() {
        let message = browser(1500);
        for most in [1, 3, 20, 37, 500] {
            let bytes = records(&message, most);
            let bytes: Vec<_> = bytes.chunks(1400).enumerate().collect();
            let pieces: Vec<_> = bytes.iter().map(|(n, piece)| (n * 1400, *piece)).collect();
            assert_eq!(told(&pieces), whole(), "records of {most}");
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter_behind_the_first() {
        let bytes = records(&browser(1500), 16_384);
        let [a, b, c, d] = [0..400, 400..800, 800..1200, 1200..bytes.len()];
        let order = [&a, &d, &a, &c, &c, &b, &a, &d];
        let pieces: Vec<_> = order
            .map(|piece| (piece.start, &bytes[piece.clone()]))
            .to_vec();
        // What is said again when all is known is another beginning: the same one.
        let mut facts = told(&pieces);
        facts.dedup();
        assert_eq!(facts[..2], whole());
        let again: Vec<_> = facts
            .iter()
            .filter(|fact| !whole().contains(fact))
            .collect();
        assert!(again.is_empty(), "{again:?}");
    }

    #[test]
    fn the_random_is_told_before_the_rest_has_come() {
        let bytes = records(&browser(1500), 16_384);
        assert_eq!(told(&[(0, &bytes[..1400])]), whole()[..1]);
        // A second one, after a HelloRetryRequest, behind one whose end never came.
        let facts = told(&[(0, &bytes[..1400]), (20_000, &bytes)]);
        assert_eq!(facts.len(), 3);
        assert_eq!(facts[2], whole()[1]);
    }

    #[test]
    fn what_contradicts_itself_tells_nothing_more() {
        let bytes = records(&browser(1500), 16_384);
        let mut other = bytes[30..1400].to_vec();
        other[100] ^= 1;
        let pieces = [(0, &bytes[..200]), (30, &other[..]), (1400, &bytes[1400..])];
        assert_eq!(told(&pieces), whole()[..1]);
        let mut other = bytes[30..50].to_vec();
        other[0] ^= 1;
        let pieces = [(0, &bytes[..40]), (30, &other[..]), (40, &bytes[40..])];
        assert_eq!(told(&pieces), []);
    }

    #[test]
    fn early_data_behind_a_hello_is_no_part_of_it() {
        let bytes = [records(&browser(0), 16_384), vec![23, 3, 3, 0, 9]].concat();
        let facts = told(&[(0, &bytes), (bytes.len(), &[22; 300])]);
        assert_eq!(facts.len(), 2);
        let WireFact::Fingerprint { hello, .. } = &facts[1] else {
            panic!("{facts:?}");
        };
        assert_eq!(hello.ja4, "t13d1516h2_8daaf6152771_e5627efa2ab1");
    }

    #[test]
    fn a_servers_hello_in_pieces() {
        let bytes = hello(2, [8; 32]);
        let facts = told(&[(0, &bytes[..3]), (3, &bytes[3..30]), (30, &bytes[30..])]);
        let expected = WireFact::ServerHello {
            tuple: Tuple {
                client: tuple().server,
                server: tuple().client,
            },
            random: [8; 32],
        };
        assert_eq!(facts, [expected]);
        let bytes = hello(2, RETRY_RANDOM);
        assert_eq!(told(&[(0, &bytes[..3]), (3, &bytes[3..])]), []);
    }

    #[test]
    fn a_storm_of_beginnings_takes_bounded_memory() {
        let mut hellos = Hellos::default();
        let bytes = records(&browser(1500), 16_384);
        let mut tell = |_| {};
        for port in 0..20_000u16 {
            let packet = ipv4(&tcp(port, 443, 1, 0x18, &bytes[..1400]));
            hellos.frame(LinkType::Raw, &packet, &mut tell);
        }
        assert_eq!(hellos.begun.len(), CAPACITY);
        let mut facts = 0;
        let packet = ipv4(&tcp(19_999, 443, 1401, 0x18, &bytes[1400..]));
        hellos.frame(LinkType::Raw, &packet, &mut |_| facts += 1);
        assert_eq!(facts, 1);
    }

    proptest! {
        /// However its bytes are cut, said again and mixed, a hello is told as it is, or not.
        #[test]
        fn nothing_else_is_told(
            cuts in prop::collection::vec((0usize..1900, 1usize..1900), 1..20),
        ) {
            let bytes = records(&browser(1500), 16_384);
            let mut pieces = vec![(0, &bytes[..1])];
            for (from, length) in cuts {
                let from = from.min(bytes.len() - 1);
                pieces.push((from, &bytes[from..(from + length).min(bytes.len())]));
            }
            for fact in told(&pieces) {
                prop_assert!(whole().contains(&fact), "{:?}", fact);
            }
        }
    }
}
