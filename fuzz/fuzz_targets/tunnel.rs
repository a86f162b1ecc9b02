//! What must hold of any bytes that come through a tunnel. The fuzz targets call it with inputs that they make up,
//! and a test in `agent/src/tunnel/corpus_tests.rs` with those of the corpus.
#![allow(dead_code, reason = "each target uses one of the functions")]

use agent::tunnel::batch::{BatchReader, BatchWriter};
use agent::tunnel::frame::{Frame, MAX_MESSAGE_BYTES, Resume};
use agent::tunnel::window::{Outgoing, Window};
use bytes::{Bytes, BytesMut};

/// What can be read as frames is the same when it is written and read again. Nothing is read where all of it hasn't
/// come.
pub(crate) fn frame(bytes: &[u8]) {
    let mut rest = BytesMut::from(bytes);
    loop {
        let before = rest.len();
        match Frame::decode(&mut rest) {
            Ok(Some(frame)) => {
                assert!(rest.len() < before);
                // Numbers have longer forms than the one that is written.
                let mut again = BytesMut::new();
                frame.encode(&mut again);
                assert!(again.len() <= before - rest.len());
                assert_eq!(Frame::decode(&mut again), Ok(Some(frame)));
                assert!(again.is_empty());
            }
            Ok(None) => {
                assert_eq!(rest.len(), before);
                return;
            }
            Err(error) => {
                // Whoever sends it is told so in a message, which must have room.
                assert!(error.to_string().len() < MAX_MESSAGE_BYTES);
                return;
            }
        }
    }
}

/// What can be read as events is the same when it is written and read again. There is nothing behind an error.
pub(crate) fn batch(bytes: &[u8]) {
    let mut reader = BatchReader::new(bytes);
    let mut failed = false;
    for event in reader.by_ref() {
        assert!(!failed);
        let Ok(event) = event else {
            failed = true;
            continue;
        };
        let mut writer = BatchWriter::default();
        assert!(writer.push(&event));
        let written = writer.take();
        let mut again = BatchReader::new(&written);
        assert_eq!(again.next(), Some(Ok(event)));
        assert_eq!(again.next(), None);
    }
    assert_eq!(reader.next(), None);
}

/// A window whose receiver says what it likes. What it hasn't been sent stays, numbers go on without gaps, and what
/// can't be is an error that changes nothing.
///
/// A step is a byte, and 8 more where it has a number:
///
/// ```text
///   0 a batch │ 1 the next one goes out │ 2 connect anew │ 3 n connect from n │ 4 n all up to n have come │ 5 n n has come
/// ```
///
/// From 128 on numbers are close to the window's own.
pub(crate) fn answers(bytes: &[u8]) {
    const LIMIT: u64 = 1 << 14;
    let mut window = Window::new(LIMIT);
    let mut rest = bytes;
    // Numbers of the last batch that was pushed, and of the first that has never gone out.
    let (mut pushed, mut unsent, mut expected) = (0, 1, None);
    while let [what, more @ ..] = rest {
        rest = more;
        let step = what % 8;
        let mut number = 0;
        if step > 2 {
            let Some((eight, more)) = rest.split_first_chunk() else {
                return;
            };
            number = u64::from_le_bytes(*eight);
            rest = more;
            if *what >= 128 {
                number = (window.oldest() + number % 16).saturating_sub(4);
            }
        }
        let oldest = window.oldest();
        match step {
            0 if window.free() >= 1000 => {
                pushed += 1;
                let events = Bytes::from_static(&[0; 100]);
                assert_eq!(window.push(number_of_partition(pushed), events), pushed);
            }
            1 if expected.is_some() => match window.outgoing() {
                Some(Outgoing::Batch(batch)) if batch.seq > 0 => {
                    assert_eq!(Some(batch.seq), expected);
                    expected = Some(batch.seq + 1);
                    unsent = unsent.max(batch.seq + 1);
                }
                Some(_) => {}
                None => assert_eq!(expected, Some(pushed + 1)),
            },
            2 => {
                assert!(window.resume(Resume::Anew).is_ok());
                expected = Some(oldest);
            }
            3 => {
                let known = (oldest..=unsent).contains(&number);
                assert_eq!(window.resume(Resume::From(number)).is_ok(), known);
                // A connection that can't be is ended.
                expected = known.then_some(number);
            }
            4 | 5 => {
                let Some(next) = expected else {
                    continue;
                };
                let result = match step {
                    4 => window.ack(number),
                    _ => window.ack_one(number),
                };
                assert_eq!(result.is_ok(), number < next);
                // Those behind it may have been acknowledged one by one, on a connection before this one.
                assert!(window.oldest() == oldest || number < next);
                expected = Some(next.max(window.oldest()));
                if step == 4 && number < next {
                    assert_eq!(window.oldest(), oldest.max(number + 1));
                }
            }
            _ => {}
        }
        let stats = window.stats();
        assert!(stats.waiting_bytes <= LIMIT);
        assert_eq!(stats.waiting_batches, pushed + 1 - window.oldest());
        assert!(window.oldest() >= oldest && window.oldest() <= unsent);
    }
}

fn number_of_partition(number: u64) -> u16 {
    u16::try_from(number % 64).expect("few")
}
