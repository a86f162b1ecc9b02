//! What must hold for any bytes. The fuzz targets call it with inputs that they make up, and
//! `mirror-hook/tests/corpus.rs` with those of the corpus, in an ordinary test.
#![allow(dead_code, reason = "each target uses one of the functions")]

use std::sync::atomic::Ordering;

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{Body, LookPart, LookWriter, Role};
use mirror_hook::filter::{Facts, Verdict, decide};
use mirror_hook::layout::{BOOTSTRAP_BYTES, CONTROL_BYTES, MAX_PAYLOAD, control, padded};
use mirror_hook::ring::{Consumer, HeapMemory, Memory, Next, RecordBuffer, RingError};

/// A ring as an application may leave it: the consumer ends, at an error or at the end, without
/// having moved more than was reserved, and has zeroed what it read.
///
/// ```text
///   0 u8 flags: 1 the application is dead, 2 take over at tail    1..8 not used
///   8 u64 head    16 u64 tail    24 u64 releasing    32.. the ring from tail on
/// ```
pub(crate) fn ring(bytes: &[u8]) {
    const LAPS: usize = 3;
    let Some((fixed, data)) = bytes.split_first_chunk::<32>() else {
        return;
    };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&fixed[at..at + 8]);
        u64::from_ne_bytes(word)
    };
    let (dead, resume) = (fixed[0] & 1 != 0, fixed[0] & 2 != 0);
    let capacity = usize::try_from(BOOTSTRAP_BYTES).expect("64 KiB");
    let memory = HeapMemory::new(capacity);
    let tail = if resume { word(16) } else { 0 };
    for (at, value) in [
        (control::HEAD, word(8)),
        (control::TAIL, tail),
        (control::RELEASING, word(24)),
    ] {
        memory.store_u64(at, value, Ordering::Relaxed);
    }
    let begin = usize::try_from(tail % BOOTSTRAP_BYTES).expect("64 KiB");
    for (index, byte) in data.iter().take(capacity).enumerate() {
        memory.write(CONTROL_BYTES + (begin + index) % capacity, &[*byte]);
    }

    let made = if resume {
        Consumer::resume(&memory, BOOTSTRAP_BYTES)
    } else {
        Consumer::new(&memory, BOOTSTRAP_BYTES)
    };
    let mut consumer = match made {
        Ok(consumer) => consumer,
        Err(error) => return assert!(matches!(error, RingError::BadHead { .. }), "{error}"),
    };
    if dead {
        consumer.producer_died();
    }
    let mut buffer = RecordBuffer::new();
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps <= LAPS * capacity / 24, "no end");
        let before = consumer.position();
        match consumer.poll(&mut buffer) {
            Ok(Next::Record(record)) => {
                assert!(record.body.len() <= 8 + MAX_PAYLOAD);
                body_of(record.kind, record.flags, record.body);
                let length = padded(24 + record.body.len() as u64);
                assert_eq!(consumer.position(), before + length);
                is_zero(&memory, before, length);
            }
            Ok(Next::Skipped { bytes, .. }) => {
                assert!(dead);
                assert_eq!(consumer.position(), before + bytes);
                is_zero(&memory, before, bytes);
            }
            Ok(Next::TailUnknown { bytes }) => {
                assert!(dead && bytes <= BOOTSTRAP_BYTES);
                assert_eq!(consumer.position(), before + bytes);
            }
            Ok(Next::Empty) => break,
            Ok(Next::Pending) => {
                assert!(!dead);
                break;
            }
            Err(error) => {
                assert_eq!(consumer.poll(&mut buffer), Err(error));
                break;
            }
        }
        assert!(consumer.position() <= word(8), "beyond what was reserved");
    }
    assert!(consumer.next_closed().is_none());
}

fn is_zero(memory: &HeapMemory, position: u64, length: u64) {
    for position in (position..position + length).step_by(8) {
        let within = usize::try_from(position % BOOTSTRAP_BYTES).expect("64 KiB");
        let word = memory.load_u64(CONTROL_BYTES + within, Ordering::Relaxed);
        assert_eq!(word, 0, "left at {position}");
    }
}

/// An attach message: what is understood says what was sent, and nothing that a ring can't have.
pub(crate) fn attach(bytes: &[u8]) {
    let Ok(message) = AttachMessage::parse(bytes) else {
        return;
    };
    assert!(message.data_bytes.is_power_of_two() && message.data_bytes >= BOOTSTRAP_BYTES);
    assert_ne!(message.instance, 0);
    assert_eq!(message.encode(), bytes);
}

/// A record's body: the first byte is its kind, the second its flags.
pub(crate) fn body(bytes: &[u8]) {
    if let [kind, flags, rest @ ..] = bytes {
        body_of(*kind, *flags, rest);
    }
}

/// What is parsed lies inside of the bytes, and where it can be written again it is the same.
fn body_of(kind: u8, flags: u8, bytes: &[u8]) {
    match Body::parse(kind, flags, bytes) {
        Ok(Body::Open(meta) | Body::Update(meta)) => {
            let mut again = meta.encode_fixed().to_vec();
            again.extend_from_slice(meta.sni);
            again.extend_from_slice(meta.alpn);
            assert!(again.len() <= bytes.len());
            // Fields without their flag aren't carried over; what was understood is.
            let second = Body::parse(kind, flags, &again);
            match (kind, second) {
                (1, Ok(Body::Open(second))) | (2, Ok(Body::Update(second))) => {
                    assert_eq!(second, meta);
                }
                (kind, other) => panic!("kind {kind} became {other:?}"),
            }
        }
        Ok(Body::Data {
            offset,
            bytes: text,
            ..
        }) => {
            assert!(!text.is_empty() && text.len() <= MAX_PAYLOAD);
            assert!(offset.checked_add(text.len() as u64).is_some());
            assert_eq!(text, &bytes[8..]);
        }
        Ok(Body::Lost { from, to, .. }) => assert!(from < to),
        Ok(Body::Look(part)) => {
            let mut writer = LookWriter::new(part.began_ns);
            for connection in part.connections() {
                assert!(!writer.is_full());
                writer.push(&connection);
            }
            let again = writer.part(part.last);
            let again = LookPart::parse(again).expect("what was written");
            assert!(again.connections().eq(part.connections()));
        }
        Ok(Body::Close { .. }) | Err(_) => {}
    }
}

/// A policy as anybody may leave it in the pages: it gives a verdict for every connection, and more
/// knowledge never turns a firm verdict round.
pub(crate) fn policy(bytes: &[u8]) {
    let ends = (
        ([192, 0, 2, 1], 50_000).into(),
        ([198, 51, 100, 1], 443).into(),
    );
    for role in [Role::Client, Role::Server] {
        let mut facts = Facts {
            role,
            ends: None,
            name: None,
            uid: None,
        };
        let mut before = decide(bytes, &facts);
        for fact in 0..3 {
            match fact {
                0 => facts.name = Some(b"www.example.com"),
                1 => facts.ends = Some(ends),
                _ => facts.uid = Some(0),
            }
            let now = decide(bytes, &facts);
            // MIRROR_UNKNOWN calls what lacks addresses only mirrored: see the flags at 8.
            let hasty = bytes.get(8).is_some_and(|flags| flags & 2 != 0);
            match before {
                Verdict::Mirror if !hasty => assert_eq!(now, Verdict::Mirror),
                // A rule that can't be one is seen once a fact leads to it.
                Verdict::Exclude => assert_eq!(now, Verdict::Exclude),
                Verdict::Mirror | Verdict::Unknown(_) => {}
            }
            before = now;
        }
    }
}
