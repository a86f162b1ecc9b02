//! Puts together hellos that come in several segments. The bytes come from a network: nothing is believed, and nothing
//! can panic.
//!
//! ```text
//! segment 22 3 1 …      random at once, if it is in there      rest of the message awaited
//! segment      … …      random                                 whole: names, fingerprint
//! ```
//!
//! A hello begins at a segment's beginning, or behind a ChangeCipherSpec there: that is what a server says behind its
//! HelloRetryRequest, and a slow carrier may put what comes next into the same segment. Where a piece is said twice, both
//! must say the same: else nobody knows which of them the receiver took, and what was begun is forgotten. Memory is
//! bounded; the oldest is forgotten first.

use std::net::SocketAddr;

use super::bounded::BoundedMap;
use super::reading::{MAX_BYTES, Next, Reading, may_begin};
use super::wire::{LinkType, Segment, WireFact, parse_segment};

/// Pieces of one hello that wait for those before them; all of them together have [`MAX_BYTES`] at most.
const MAX_PIECES: usize = 16;
/// Hellos of which something is missing, at a time: 36 MiB of what they say.
const CAPACITY: usize = 1024;

/// Reads the frames of one interface, in their order.
#[derive(Debug)]
pub struct Hellos {
    begun: BoundedMap<(SocketAddr, SocketAddr), Begun>,
    unfinished: u64,
}

/// A hello of which something is missing.
#[derive(Debug)]
struct Begun {
    reading: Reading,
    /// All that is known without a gap.
    bytes: Vec<u8>,
    /// What came before its time, by its place.
    early: Vec<(usize, Vec<u8>)>,
}

impl Default for Hellos {
    fn default() -> Self {
        Self {
            begun: BoundedMap::new(CAPACITY),
            unfinished: 0,
        }
    }
}

impl Hellos {
    /// Reads a frame, and tells what is known now.
    pub fn frame(&mut self, link: LinkType, frame: &[u8], tell: &mut dyn FnMut(WireFact)) {
        if let Some(segment) = parse_segment(link, frame) {
            self.segment(&segment, tell);
        }
    }

    /// Hellos that were begun and given up so far: they contradicted themselves, were too long, or the rest never came.
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    fn segment(&mut self, segment: &Segment<'_>, tell: &mut dyn FnMut(WireFact)) {
        let way = (segment.source, segment.destination);
        if let Some(fact) = segment.syn() {
            self.give_up(&way);
            return tell(fact);
        }
        if segment.payload.is_empty() {
            return;
        }
        if let Some(begun) = self.begun.get_mut(&way) {
            let next = match begun.add(segment) {
                Added::Elsewhere => None,
                Added::Contradicts => Some(Next::Unfinished),
                Added::Here => Some(begun.reading.advance(&begun.bytes, segment, tell)),
            };
            match next {
                None => {}
                Some(Next::More) => return,
                Some(Next::Done) => {
                    self.begun.remove(&way);
                    return;
                }
                Some(Next::Unfinished) => return self.give_up(&way),
            }
        }
        let segment = &segment.behind_change_cipher_spec();
        if !may_begin(segment.payload) {
            return;
        }
        // Most come in one segment, and are read where they lie.
        let bytes = &segment.payload[..segment.payload.len().min(MAX_BYTES)];
        let mut reading = Reading::new(segment.sequence);
        match reading.advance(bytes, segment, tell) {
            Next::Done => {}
            Next::Unfinished => self.unfinished += 1,
            Next::More => {
                self.give_up(&way);
                let begun = Begun {
                    reading,
                    bytes: bytes.to_vec(),
                    early: Vec::new(),
                };
                self.unfinished += u64::from(self.begun.insert(way, begun));
            }
        }
    }

    fn give_up(&mut self, way: &(SocketAddr, SocketAddr)) {
        self.unfinished += u64::from(self.begun.remove(way).is_some());
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
        let Some((at, payload)) = self.place(segment) else {
            return Added::Elsewhere;
        };
        if at <= self.bytes.len() {
            return match self.append(at, payload) {
                true => self.take_early(),
                false => Added::Contradicts,
            };
        }
        let waiting: usize = self.early.iter().map(|(_, piece)| piece.len()).sum();
        let is_there = |(place, piece): &(usize, Vec<u8>)| *place == at && piece == payload;
        if self.early.len() < MAX_PIECES
            && waiting + payload.len() <= MAX_BYTES
            && !self.early.iter().any(is_there)
        {
            self.early.push((at, payload.to_vec()));
        }
        Added::Here
    }

    /// Where in the hello a segment stands, and what of it is in there.
    fn place<'a>(&self, segment: &Segment<'a>) -> Option<(usize, &'a [u8])> {
        let ahead = segment.sequence.wrapping_sub(self.reading.sequence());
        if let Some(at) = usize::try_from(ahead).ok().filter(|at| *at < MAX_BYTES) {
            let length = segment.payload.len().min(MAX_BYTES - at);
            return Some((at, &segment.payload[..length]));
        }
        // One that begins before it and reaches into it: sent again, together with what was said before.
        let before = usize::try_from(ahead.wrapping_neg()).ok()?;
        let inside = segment.payload.get(before..)?;
        (!inside.is_empty()).then(|| (0, &inside[..inside.len().min(MAX_BYTES)]))
    }

    /// Puts in a piece that leaves no gap; false: it contradicts what is known.
    fn append(&mut self, at: usize, piece: &[u8]) -> bool {
        let known = &self.bytes[at..];
        let common = known.len().min(piece.len());
        if known[..common] != piece[..common] {
            // Or it is a hello again, of another connection, where the last one's end isn't known.
            return false;
        }
        self.bytes.extend_from_slice(&piece[common..]);
        true
    }

    /// Appends what came before its time and fits now.
    fn take_early(&mut self) -> Added {
        let fits = |begun: &Self| {
            let mut early = begun.early.iter();
            early.position(|(at, _)| *at <= begun.bytes.len())
        };
        while let Some(place) = fits(self) {
            let (at, piece) = self.early.swap_remove(place);
            if !self.append(at, &piece) {
                return Added::Contradicts;
            }
        }
        Added::Here
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::frames::{hello, ipv4, records, tcp};
    use super::super::hello::ClientHello;
    use super::super::hello::tests::browser;
    use super::super::reading::RETRY_RANDOM;
    use super::*;
    use crate::event::Tuple;
    use proptest::prelude::*;

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
            for size in [1, 7, 1400] {
                let pieces: Vec<_> = bytes.chunks(size).enumerate().collect();
                let pieces: Vec<_> = pieces.iter().map(|(n, piece)| (n * size, *piece)).collect();
                let facts = told(&pieces);
                assert_eq!(facts, whole(), "records of {most}, pieces of {size}");
            }
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

    /// Sent again together with what was said before it.
    #[test]
    fn a_piece_may_begin_before_the_hello() {
        let bytes = records(&browser(1500), 16_384);
        let again = [&[b'.'; 50][..], &bytes[..1400]].concat();
        let facts = told(&[(50, &bytes[..400]), (0, &again), (1450, &bytes[1400..])]);
        assert_eq!(facts[1..], whole()[1..]);
        let other = [&[b'.'; 50][..], &bytes[1..400]].concat();
        let facts = told(&[(50, &bytes[..400]), (0, &other), (450, &bytes[400..])]);
        assert_eq!(facts.len(), 1, "{facts:?}");
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

    /// The server's, whose HelloRetryRequest was a segment of its own.
    #[test]
    fn a_hello_behind_a_change_cipher_spec() {
        let change = [20, 3, 3, 0, 1, 1];
        let told = |bytes: &[u8]| {
            let cut = |at: usize| told(&[(0, &bytes[..at]), (at, &bytes[at..])]);
            [20, bytes.len()].map(cut)
        };
        let [cut, whole] = told(&[&change[..], &hello(2, [8; 32])].concat());
        assert_eq!((cut.len(), &cut), (1, &whole));
        let behind = [&change[..], &records(&browser(1500), 16_384)].concat();
        let [cut, whole] = told(&behind);
        assert_eq!((cut.len(), &cut), (2, &whole));
        let WireFact::ClientHello { sequence, .. } = whole[0] else {
            panic!("{whole:?}");
        };
        assert_eq!(sequence, (u32::MAX - 20).wrapping_add(6));
        // No such record.
        for (at, value) in [(1, 2), (3, 1), (4, 2), (5, 0)] {
            let mut other = [&change[..], &hello(2, [8; 32])].concat();
            other[at] = value;
            assert_eq!(told(&other), [[], []], "byte {at}");
        }
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
        assert_eq!(hellos.unfinished(), 20_000 - CAPACITY as u64);
        let mut facts = 0;
        let packet = ipv4(&tcp(19_999, 443, 1401, 0x18, &bytes[1400..]));
        hellos.frame(LinkType::Raw, &packet, &mut |_| facts += 1);
        assert_eq!(facts, 1);
    }

    #[test]
    fn pieces_that_wait_take_bounded_memory() {
        let bytes = records(&browser(16_000), 16_384);
        let mut hellos = Hellos::default();
        let mut show = |at: usize| {
            let piece = &bytes[at..bytes.len().min(at + 4000)];
            let sequence = u32::try_from(at).unwrap();
            let packet = ipv4(&tcp(5000, 443, sequence, 0x18, piece));
            hellos.frame(LinkType::Raw, &packet, &mut |_| {});
        };
        show(0);
        // All but the second one, so often that no two are the same.
        (8000..8100).for_each(&mut show);
        let way = (tuple().client, tuple().server);
        let begun = hellos.begun.get(&way).unwrap();
        let waiting: usize = begun.early.iter().map(|(_, piece)| piece.len()).sum();
        assert!(waiting > 0 && waiting <= MAX_BYTES, "{waiting}");
    }

    #[test]
    fn what_is_given_up_is_counted() {
        let bytes = records(&browser(1500), 16_384);
        let mut hellos = Hellos::default();
        let mut show = |sequence: u32, flags: u8, payload: &[u8]| {
            let packet = ipv4(&tcp(5000, 443, sequence, flags, payload));
            hellos.frame(LinkType::Raw, &packet, &mut |_| {});
            hellos.unfinished()
        };
        assert_eq!(show(0, 0x18, &bytes[..1400]), 0);
        assert_eq!(show(1400, 0x18, &bytes[1400..]), 0, "this one is whole");
        show(0, 0x18, &bytes[..1400]);
        assert_eq!(show(0, 2, &[]), 1, "another connection begins");
        show(0, 0x18, &bytes[..1400]);
        assert_eq!(show(100, 0x18, &bytes[..1400]), 2, "it contradicts itself");
        show(0, 0x18, &bytes[..1400]);
        assert_eq!(show(1 << 20, 0x18, &bytes[..1400]), 3, "another one begins");
        let long = records(&browser(20_000), 16_384);
        let pieces = (1u32 << 24..).step_by(4000).zip(long.chunks(4000));
        let counts = pieces.map(|(sequence, piece)| show(sequence, 0x18, piece));
        assert_eq!(counts.last(), Some(5), "this one is too long");
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
