//! Decoders against what made the text, in any pieces; and what isn't what it says.

use std::io::Write;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use proptest::prelude::*;

use super::budget::Budget;
use super::coding::{Coding, Codings};
use super::stages::Stages;
use super::{Decoding, Piece};
use crate::transform::hpack::FieldList;
use crate::transform::stats::Undecoded;

/// A stream of brotli whose metablocks are stored (RFC 7932 section 9.2).
pub(in super::super) fn brotli(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for piece in text.chunks(1 << 16) {
        // ISLAST 0, MNIBBLES 0, MLEN - 1, ISUNCOMPRESSED 1; in front of the first WBITS 0, a window of 64 KiB.
        let length = u32::try_from(piece.len() - 1).unwrap();
        let bits = (length << 3 | 1 << 19) << u32::from(out.is_empty());
        out.extend_from_slice(&bits.to_le_bytes()[..3]);
        out.extend_from_slice(piece);
    }
    // ISLAST, ISLASTEMPTY.
    out.push(0b11 << u8::from(out.is_empty()));
    out
}

pub(in super::super) fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn encoded(coding: Coding, text: &[u8]) -> Vec<u8> {
    match coding {
        Coding::Gzip => gzip(text),
        Coding::Deflate => {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(text).unwrap();
            encoder.finish().unwrap()
        }
        Coding::Brotli => brotli(text),
        Coding::Zstandard => zstd::bulk::compress(text, 3).unwrap(),
    }
}

const ALL: [Coding; 4] = [
    Coding::Gzip,
    Coding::Deflate,
    Coding::Brotli,
    Coding::Zstandard,
];

/// What comes out of text in such pieces, as far as it does, and whether it may end there.
fn decoded(codings: &[Coding], text: &[u8], cut: usize) -> (Vec<u8>, Result<bool, Undecoded>) {
    let mut stages = Stages::new(&Codings(codings.to_vec())).unwrap();
    let mut all = Vec::new();
    for piece in text.chunks(cut) {
        if let Err(why) = stages.push(piece, &mut |piece| all.extend_from_slice(piece)) {
            return (all, Err(why));
        }
    }
    let is_whole = stages.are_whole();
    (all, Ok(is_whole))
}

/// Hardly compressible.
pub(in super::super) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

fn fields(lines: &[(&str, &str)]) -> FieldList {
    let mut fields = FieldList::new(64 << 10);
    for (name, value) in lines {
        fields.add(name.as_bytes(), value.as_bytes());
    }
    fields
}

#[test]
fn what_a_head_says() {
    use Coding::{Brotli, Deflate, Gzip, Zstandard};
    let of = |lines: &[(&str, &str)]| Codings::of(&fields(lines));
    let coded = |value: &str| of(&[(":status", "200"), ("content-encoding", value)]);
    assert_eq!(of(&[("x", "gzip")]), Ok(None));
    for (value, codings) in [
        ("gzip", &[Gzip][..]),
        ("X-GZip", &[Gzip]),
        (" deflate ", &[Deflate]),
        ("br", &[Brotli]),
        ("zstd", &[Zstandard]),
        ("gzip, br,,identity", &[Gzip, Brotli]),
    ] {
        assert_eq!(coded(value), Ok(Some(Codings(codings.to_vec()))), "{value}");
    }
    assert_eq!(coded("identity"), Ok(None));
    for value in [
        "compress",
        "gzip;q=1",
        "gzip, aes128gcm",
        "gzip, gzip, gzip, gzip",
        "gz ip",
    ] {
        assert_eq!(coded(value), Err(Undecoded::Coding), "{value}");
    }
    let twice = of(&[("content-encoding", "gzip"), ("Content-Encoding", "br")]);
    assert_eq!(twice, Ok(Some(Codings(vec![Gzip, Brotli]))));
    for (name, value, why) in [
        (":status", "206", Undecoded::Part),
        ("content-range", "bytes 0-1/2", Undecoded::Part),
        ("x-decoded-content-encoding", "br", Undecoded::Coding),
        ("x-decoded-content-length", "1", Undecoded::Coding),
    ] {
        let told = of(&[(name, value), ("content-encoding", "gzip")]);
        assert_eq!(told, Err(why), "{name}");
    }
}

#[test]
fn all_sizes_in_all_pieces() {
    for bytes in [0, 1, 1000, 70_000, 300_000] {
        let text = noise(bytes);
        for coding in ALL {
            for cut in [1, 7, 16_384, usize::MAX] {
                let told = decoded(&[coding], &encoded(coding, &text), cut);
                assert!(
                    told == (text.clone(), Ok(true)),
                    "{coding:?} {bytes} {cut} {:?}",
                    told.1
                );
            }
        }
    }
}

#[test]
fn deflate_as_browsers_take_it() {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(b"a text, a text").unwrap();
    let text = encoder.finish().unwrap();
    let told = decoded(&[Coding::Deflate], &text, 1);
    assert_eq!(told, (b"a text, a text".to_vec(), Ok(true)));
}

#[test]
fn members_and_frames_behind_one_another() {
    // All that a head may have (RFC 1952 section 2.3.1).
    let mut head = vec![0x1f, 0x8b, 8, 0x1e, 0, 0, 0, 0, 0, 3];
    head.extend_from_slice(b"\x03\0abcname\0comment\0\x12\x34");
    let full = [head, gzip(b"one")[10..].to_vec()].concat();
    for cut in 1..full.len() {
        let text = [&full[..], &gzip(b""), &gzip(b"two")].concat();
        let told = decoded(&[Coding::Gzip], &text, cut);
        assert_eq!(told, (b"onetwo".to_vec(), Ok(true)));
        let frame = |text| encoded(Coding::Zstandard, text);
        // One that is to be skipped (RFC 8878 section 3.1.2).
        let skipped = b"\x50\x2a\x4d\x18\x03\0\0\0xyz".to_vec();
        let text = [frame(b"one"), skipped, frame(b"two")].concat();
        let told = decoded(&[Coding::Zstandard], &text, cut);
        assert_eq!(told, (b"onetwo".to_vec(), Ok(true)), "{cut}");
    }
}

#[test]
fn what_is_broken() {
    for coding in ALL {
        let text = noise(1000);
        let whole = encoded(coding, &text);
        // Its end is missing.
        for end in 0..whole.len() {
            let (told, outcome) = decoded(&[coding], &whole[..end], usize::MAX);
            assert_eq!(outcome, Ok(false), "{coding:?} {end}");
            assert!(text.starts_with(&told));
        }
        // Something is behind it.
        let more = [&whole[..], b"x"].concat();
        assert_ne!(decoded(&[coding], &more, 10).1, Ok(true), "{coding:?}");
    }
    for at in [0, 1, 2, 3, 500, 1_010] {
        let mut text = gzip(&noise(1000));
        text[at] ^= 0xe1;
        assert_eq!(
            decoded(&[Coding::Gzip], &text, 10).1,
            Err(Undecoded::Broken),
            "{at}"
        );
    }
}

#[test]
fn far_more_than_went_in() {
    let zeros = vec![0; 4 << 20];
    for codings in [
        &[Coding::Gzip][..],
        &[Coding::Zstandard],
        &[Coding::Gzip, Coding::Gzip],
    ] {
        let text = codings
            .iter()
            .fold(zeros.clone(), |text, coding| encoded(*coding, &text));
        for cut in [1, usize::MAX] {
            let (told, outcome) = decoded(codings, &text, cut);
            assert_eq!(outcome, Err(Undecoded::Ratio));
            assert!(told.len() as u64 <= (64 << 10) + 100 * text.len() as u64);
        }
    }
    // What is small at the end was large in between.
    let inner = gzip(&[gzip(b"x"), gzip(b"").repeat(1 << 18)].concat());
    let (_, outcome) = decoded(&[Coding::Gzip, Coding::Gzip], &inner, usize::MAX);
    assert_eq!(outcome, Err(Undecoded::Ratio));
    // A text that is small may be as it likes.
    let small = gzip(&zeros[..60_000]);
    assert_eq!(decoded(&[Coding::Gzip], &small, 10).1, Ok(true));
}

/// A window of more than 8 MiB, and one of brotli's that isn't the RFC's.
#[test]
fn windows_are_bounded() {
    // RFC 8878 section 3.1.1.1.2: 2^(10 + exponent); a block of one byte.
    for (exponent, outcome) in [(13_u8, Ok(true)), (14, Err(Undecoded::Broken))] {
        let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3];
        frame.extend_from_slice(&[0x09, 0, 0, b'x']);
        assert_eq!(
            decoded(&[Coding::Zstandard], &frame, 3).1,
            outcome,
            "{exponent}"
        );
    }
    let large = [0x11, 0x1e, 0x03];
    assert_eq!(
        decoded(&[Coding::Brotli], &large, 3).1,
        Err(Undecoded::Broken)
    );
}

#[test]
fn all_decoders_together_are_bounded() {
    let budget = Budget::default();
    let codings = Codings(vec![Coding::Gzip]);
    let decoding = || Decoding::new(&codings, vec![0; 1 << 20], Vec::new(), &budget);
    let mut live = Vec::new();
    let why = loop {
        match decoding() {
            Ok(decoding) => live.push(decoding),
            Err(why) => break why,
        }
    };
    assert_eq!(why, Undecoded::Memory);
    assert!((50..64).contains(&live.len()), "{}", live.len());
    live.pop();
    live.push(decoding().unwrap());
    drop(live);
    assert_eq!(budget.bytes(), 0);
}

/// Nothing is told before something is decoded, nor of what is broken within its first piece.
#[test]
fn the_head_waits() {
    let codings = Codings(vec![Coding::Gzip]);
    let new = || {
        Decoding::new(
            &codings,
            b"came".to_vec(),
            b"decoded".to_vec(),
            &Budget::default(),
        )
    };
    let whole = gzip(b"text");
    let mut told = Vec::new();
    let mut out = |piece: Piece<'_>| told.push(format!("{piece:?}"));
    let mut decoding = new().unwrap();
    decoding.push(&whole[..10], false, &mut out).unwrap();
    assert!(decoding.is_waiting());
    decoding.push(&whole[10..], true, &mut out).unwrap();
    assert!(!decoding.is_waiting());
    let mut decoding = new().unwrap();
    let broken = [&whole[..], b"broken text"].concat();
    decoding.push(&broken[..5], false, &mut out).unwrap();
    let failed = decoding.push(&broken[5..], false, &mut out);
    assert_eq!(failed, Err(Undecoded::Broken));
    let waiting = decoding.give_back().unwrap();
    assert_eq!(
        (&waiting.as_it_came[..], waiting.text),
        (&b"came"[..], broken)
    );
    let piece = |piece: Piece<'_>| format!("{piece:?}");
    assert_eq!(
        told,
        [
            piece(Piece::Head(b"decoded")),
            piece(Piece::Content(b"text"))
        ]
    );
}

proptest! {
    /// Whatever comes: pieces make no difference, and what is told is what another decoder reads, as far as it goes.
    #[test]
    fn another_decoder_reads_the_same(
        text in prop::collection::vec(prop_oneof![Just(b'a'), any::<u8>()], 0..400),
        codings in prop::collection::vec(prop::sample::select(&ALL[..]), 1..4),
        broken in prop::option::of((any::<prop::sample::Index>(), 1..=255_u8)),
        cut in 1..50_usize,
    ) {
        let mut coded = codings.iter().fold(text.clone(), |text, coding| encoded(*coding, &text));
        if let Some((at, by)) = broken {
            let at = at.index(coded.len());
            coded[at] ^= by;
        }
        let whole = decoded(&codings, &coded, usize::MAX);
        let pieces = decoded(&codings, &coded, cut);
        let is_too_much = |told: &(Vec<u8>, _)| told.1 == Err(Undecoded::Ratio);
        // How much may come out depends on what has come by then.
        prop_assume!(!is_too_much(&whole) && !is_too_much(&pieces));
        prop_assert_eq!(&whole.1, &pieces.1);
        if whole.1.is_ok() {
            prop_assert_eq!(&whole.0, &pieces.0);
        }
        if broken.is_none() {
            prop_assert_eq!(whole, (text, Ok(true)));
        } else if let ([Coding::Gzip], Ok(true)) = (&codings[..], whole.1) {
            let mut read = Vec::new();
            let mut reader = flate2::read::MultiGzDecoder::new(&coded[..]);
            std::io::Read::read_to_end(&mut reader, &mut read).unwrap();
            prop_assert_eq!(read, whole.0);
        }
    }
}
