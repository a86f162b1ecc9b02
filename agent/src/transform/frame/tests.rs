//! Frames in pieces, whole or cut anywhere, and frames that are none.

use proptest::prelude::*;

use super::head::{ACK, END_HEADERS, END_STREAM, PADDED, PRIORITY};
use super::{Frame, FrameError, Reader, Settings, StreamId};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// What was read: pieces of one DATA frame are one, frames that say nothing are none.
fn read(reader: &mut Reader, pieces: &[&[u8]]) -> Result<Vec<String>, FrameError> {
    let mut told: Vec<String> = Vec::new();
    let mut text_of: Option<(StreamId, Vec<u8>)> = None;
    for piece in pieces {
        let mut left = *piece;
        loop {
            let before = left.len();
            let Some(frame) = reader.next(&mut left)? else {
                assert!(left.is_empty());
                break;
            };
            if let Frame::Data {
                stream,
                bytes,
                last,
            } = frame
            {
                let (of, text) = text_of.get_or_insert((stream, Vec::new()));
                assert_eq!(*of, stream);
                text.extend_from_slice(bytes);
                if last {
                    told.push(format!("{stream:?} {text:?}"));
                    text_of = None;
                }
            } else if !matches!(frame, Frame::Other) {
                told.push(format!("{frame:?}"));
            }
            // Nothing stands still.
            assert!(left.len() < before);
        }
    }
    assert_eq!(text_of, None);
    Ok(told)
}

fn client(frames: &[Vec<u8>]) -> Result<Vec<String>, FrameError> {
    let all = [PREFACE, &frames.concat()].concat();
    read(&mut Reader::of_client(), &[&all])
}

fn server(frames: &[Vec<u8>]) -> Result<Vec<String>, FrameError> {
    read(&mut Reader::of_server(), &[&frames.concat()])
}

fn headers(stream: u32, block: &[u8], last: bool) -> String {
    let stream = StreamId::from_bytes(stream.to_be_bytes());
    let frame = Frame::Headers {
        stream,
        block,
        last,
    };
    format!("{frame:?}")
}

#[test]
fn padding_and_priority_are_taken_off() {
    let told = client(&[
        frame(
            1,
            END_HEADERS | PADDED | PRIORITY,
            1,
            b"\x02\0\0\0\0\x10blockxx",
        ),
        frame(0, PADDED, 1, b"\x03textxxx"),
        frame(0, END_STREAM | PADDED, 1, b"\x01x"),
    ]);
    let text = format!("{:?} {:?}", StreamId::from_bytes([0, 0, 0, 1]), b"text");
    assert_eq!(told.unwrap(), [headers(1, b"block", false), text]);
}

#[test]
fn blocks_are_whole() {
    let told = client(&[
        frame(1, END_STREAM, 1, b"one"),
        frame(9, 0, 1, b"two"),
        frame(9, END_HEADERS, 1, b"three"),
        frame(1, END_HEADERS, 3, b"next"),
    ]);
    let meant = [headers(1, b"onetwothree", true), headers(3, b"next", false)];
    assert_eq!(told.unwrap(), meant);
    let promise = |frames: &[Vec<u8>]| server(frames).unwrap().concat();
    let meant = format!(
        "{:?}",
        Frame::PushPromise {
            stream: StreamId::from_bytes([0, 0, 0, 1]),
            promised: StreamId::from_bytes([0, 0, 0, 2]),
            block: b"block",
        }
    );
    assert_eq!(
        promise(&[frame(5, END_HEADERS, 1, b"\0\0\0\x02block")]),
        meant
    );
    let cut = [
        frame(5, PADDED, 1, b"\x01\0\0\0\x02blx"),
        frame(9, END_HEADERS, 1, b"ock"),
    ];
    assert_eq!(promise(&cut), meant);
}

#[test]
fn the_rest_is_told_or_passed_over() {
    let settings = frame(
        4,
        0,
        0,
        b"\0\x01\0\0\x20\0\0\x05\0\0\x50\0\0\x03\0\0\0\x01\0\x01\0\0\0\0",
    );
    let told = server(&[
        settings,
        frame(4, ACK, 0, b""),
        frame(6, 0, 0, b"12345678"),
        frame(8, 0, 0, b"1234"),
        frame(0xbe, 0xff, 5, b"grease"),
        frame(3, 0, 5, b"\0\0\0\x08"),
        frame(7, 0, 0, b"\x80\0\0\x03\0\0\0\0because"),
    ]);
    let meant = [
        Frame::Settings(Settings {
            header_table_bytes: Some(8192),
            max_frame_bytes: Some(20480),
        }),
        Frame::Settings(Settings::default()),
        Frame::Reset {
            stream: StreamId::from_bytes([0, 0, 0, 5]),
        },
        Frame::GoAway {
            last: StreamId::from_bytes([0, 0, 0, 3]),
        },
    ];
    assert_eq!(told.unwrap(), meant.map(|frame| format!("{frame:?}")));
}

#[test]
fn frames_that_are_none() {
    for (frames, error) in [
        (vec![frame(0, 0, 0, b"x")], FrameError::Stream),
        (vec![frame(1, END_HEADERS, 0, b"x")], FrameError::Stream),
        (vec![frame(4, 0, 1, b"")], FrameError::Stream),
        (vec![frame(7, 0, 1, b"12345678")], FrameError::Stream),
        (vec![frame(4, 0, 0, b"12345")], FrameError::Length),
        (vec![frame(4, ACK, 0, b"123456")], FrameError::Length),
        (vec![frame(3, 0, 1, b"123")], FrameError::Length),
        (vec![frame(7, 0, 0, b"1234567")], FrameError::Length),
        (vec![frame(0, PADDED, 1, b"")], FrameError::Length),
        (vec![frame(0, PADDED, 1, b"\x03xx")], FrameError::Padding),
        (
            vec![frame(1, END_HEADERS | PADDED, 1, b"\x03xx")],
            FrameError::Padding,
        ),
        (
            vec![frame(1, END_HEADERS | PRIORITY, 1, b"1234")],
            FrameError::Length,
        ),
        (vec![frame(5, END_HEADERS, 1, b"123")], FrameError::Length),
        (
            vec![frame(9, END_HEADERS, 1, b"x")],
            FrameError::Continuation,
        ),
        (
            vec![frame(1, 0, 1, b"x"), frame(9, END_HEADERS, 3, b"x")],
            FrameError::Continuation,
        ),
        (
            vec![frame(1, 0, 1, b"x"), frame(6, 0, 0, b"12345678")],
            FrameError::Continuation,
        ),
        (
            vec![frame(0, 0, 1, &[0; 16_385])],
            FrameError::TooLarge(16_385),
        ),
    ] {
        assert_eq!(server(&frames).unwrap_err(), error, "{frames:?}");
    }
    let other = read(&mut Reader::of_client(), &[b"GET / HTTP/1.1\r\n"]);
    assert_eq!(other.unwrap_err(), FrameError::Preface);
}

#[test]
fn what_is_kept_is_bounded() {
    let flood = |pieces| {
        let more = std::iter::repeat_n(frame(9, 0, 1, b"x"), pieces);
        let all: Vec<_> = std::iter::once(frame(1, 0, 1, b"x")).chain(more).collect();
        server(&all)
    };
    assert!(flood(15).is_ok());
    assert_eq!(flood(16).unwrap_err(), FrameError::Continuations(16));
    let mut large = vec![frame(1, 0, 1, &[0; 16_384])];
    large.extend(std::iter::repeat_n(frame(9, 0, 1, &[0; 16_384]), 3));
    assert!(matches!(server(&large), Err(FrameError::TooLarge(_))));
    let mut reader = Reader::of_server();
    reader.permit(1 << 20);
    let huge = frame(1, END_HEADERS, 1, &[0; 70_000]);
    let refused = read(&mut reader, &[&huge[..1000], &huge[1000..]]);
    assert!(matches!(refused, Err(FrameError::TooLarge(_))));
    assert!(reader.memory_bytes() <= 64 << 10);
    // One that says nothing is passed over.
    let mut reader = Reader::of_server();
    reader.permit(1 << 20);
    let huge = frame(0xbe, 0, 1, &[0; 70_000]);
    let told = read(
        &mut reader,
        &[&huge[..1000], &huge[1000..], &frame(4, 0, 0, b"")],
    );
    assert_eq!(told.unwrap().len(), 1);
    assert!(reader.memory_bytes() <= 64 << 10);
}

#[test]
fn holes_in_text_and_elsewhere() {
    let all = frame(0, END_STREAM | PADDED, 1, b"\x01text that is longx");
    let stream = StreamId::from_bytes([0, 0, 0, 1]);
    let mut reader = Reader::of_server();
    let mut text = &all[..14];
    while reader.next(&mut text).unwrap().is_some() {}
    assert_eq!(reader.hole(5), Some((stream, false)));
    assert_eq!(reader.hole(9), None);
    assert_eq!(reader.hole(8), Some((stream, true)));
    // Behind the padding another frame begins.
    let told = read(&mut reader, &[b"x", &frame(4, ACK, 0, b"")]).unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(reader.hole(1), None);
}

#[test]
fn what_is_unread_is_all_that_came_of_a_frame() {
    let mut reader = Reader::of_server();
    let all = [frame(1, 0, 1, b"abc"), frame(9, END_HEADERS, 1, b"def")].concat();
    for end in 0..all.len() {
        let mut reader = Reader::of_server();
        let mut text = &all[..end];
        while reader.next(&mut text).unwrap().is_some() {}
        assert_eq!(reader.unread(), &all[..end]);
    }
    assert_eq!(read(&mut reader, &[&all]).unwrap().len(), 1);
    assert_eq!(reader.unread(), b"");
    let data = frame(0, 0, 1, b"abc");
    for (end, unread) in [(8, 8), (9, 9), (10, 0), (12, 0)] {
        let mut reader = Reader::of_server();
        let mut text = &data[..end];
        while reader.next(&mut text).unwrap().is_some() {}
        assert_eq!(reader.unread(), &data[..unread]);
    }
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop::collection::vec(any::<u8>(), 0..40);
    let stream = 0..6_u32;
    prop_oneof![
        (payload.clone(), stream.clone(), any::<bool>())
            .prop_map(|(payload, stream, last)| { frame(0, u8::from(last), stream + 1, &payload) }),
        (payload.clone(), payload.clone(), stream.clone()).prop_map(|(one, two, stream)| {
            [
                frame(1, 0, stream + 1, &one),
                frame(9, END_HEADERS, stream + 1, &two),
            ]
            .concat()
        }),
        (payload.clone(), stream.clone()).prop_map(|(payload, stream)| {
            frame(1, END_HEADERS | END_STREAM, stream + 1, &payload)
        }),
        (0..10_u8, any::<u8>(), stream, payload)
            .prop_map(|(kind, flags, stream, payload)| frame(kind, flags, stream, &payload)),
    ]
}

/// All that a reader tells; pieces of text are told byte by byte.
fn told(pieces: &[&[u8]]) -> Vec<String> {
    let mut reader = Reader::of_server();
    let mut told = Vec::new();
    for piece in pieces {
        let mut left = *piece;
        loop {
            match reader.next(&mut left) {
                Ok(Some(Frame::Data {
                    stream,
                    bytes,
                    last,
                })) => {
                    let bytes = bytes.iter().map(|byte| format!("{stream:?} {byte}"));
                    told.extend(bytes);
                    told.extend(last.then(|| format!("{stream:?} ends")));
                }
                Ok(Some(Frame::Other)) => {}
                Ok(Some(frame)) => told.push(format!("{frame:?}")),
                Ok(None) => break,
                Err(error) => {
                    told.push(error.to_string());
                    return told;
                }
            }
        }
    }
    told
}

proptest! {
    #[test]
    fn the_same_however_it_is_cut(
        frames in prop::collection::vec(any_frame(), 0..12),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let all = frames.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
        cuts.extend([0, all.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &all[cut[0]..cut[1]]).collect();
        let bytes: Vec<&[u8]> = all.chunks(1).collect();
        prop_assert_eq!(told(&pieces), told(&[&all]));
        prop_assert_eq!(told(&bytes), told(&[&all]));
    }
}
