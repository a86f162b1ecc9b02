//! One thing after the other, and threads as they come.

use super::*;
use crate::event::CloseReason;
use crate::layout::{
    BOOTSTRAP_BYTES, CONTROL_BYTES, HEADER_BYTES, MAX_PAYLOAD, OWNER_DIED, OWNER_LEFT, RecordWord,
    control, padded, stamp,
};
use proptest::prelude::*;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;

const CAPACITY: u64 = 1024;

fn pair(memory: &HeapMemory) -> (Producer<&HeapMemory>, Consumer<&HeapMemory>) {
    let consumer = Consumer::small(memory, CAPACITY);
    consumer.grant();
    (Producer::small(memory, CAPACITY), consumer)
}

#[test]
fn positions_are_usable_as_pages_come() {
    let memory = HeapMemory::new(usize::try_from(4 * BOOTSTRAP_BYTES).unwrap());
    let capacity = 2 * BOOTSTRAP_BYTES;
    let mut consumer = Consumer::new(&memory, capacity).unwrap();
    let producer = Producer::new(&memory, 4 * BOOTSTRAP_BYTES).unwrap();
    let record = Record {
        kind: kind::DATA,
        flags: 0,
        connection: 1,
        at_ns: 1,
    };
    let body = [7; 8 + 8000];
    let fill = || {
        (0..)
            .take_while(|_| producer.write(record, &[&body]).is_ok())
            .count()
    };
    assert_eq!(fill(), 8, "the bootstrap region");
    consumer.grant_up_to(BOOTSTRAP_BYTES + 8192);
    assert_eq!(fill(), 1);
    let mut buffer = RecordBuffer::new();
    let mut drain = |consumer: &mut Consumer<_>| {
        (0..)
            .take_while(|_| matches!(consumer.poll(&mut buffer), Ok(Next::Record(_))))
            .count()
    };
    assert_eq!(drain(&mut consumer), 9);
    assert_eq!(fill(), 0, "room, but no pages");
    consumer.extend(u64::MAX);
    assert_eq!(fill(), 16, "a whole lap");
    assert_eq!(drain(&mut consumer), 16);
}

/// A drained ring goes back to its low end, all of it may be used from there on, and what lies where the
/// skip began is another record.
#[test]
fn the_low_end_is_used_again() {
    let memory = HeapMemory::new(usize::try_from(CAPACITY).unwrap());
    let low_end = CAPACITY / 2;
    let producer = Producer::small_returning(&memory, CAPACITY, low_end);
    let mut consumer = Consumer::small(&memory, CAPACITY);
    consumer.grant();
    let mut buffer = RecordBuffer::new();
    let length = usize::try_from(CAPACITY / 4).unwrap() - HEADER_BYTES - 8;
    let write = |connection| producer.write(data(connection), &[&body(connection, length)]);
    let mut next = |consumer: &mut Consumer<_>| {
        let connection = match consumer.poll(&mut buffer).unwrap() {
            Next::Record(record) => Some(record.connection),
            _ => None,
        };
        consumer.rest();
        connection
    };
    for connection in 1..4 {
        write(connection).unwrap();
        assert_eq!(next(&mut consumer), Some(connection));
    }
    // The third was the first of which half a lap was behind.
    assert_eq!(consumer.position(), CAPACITY + CAPACITY / 4);
    for lap in 1..3 {
        write(1).unwrap();
        assert_eq!(next(&mut consumer), Some(1));
        for connection in 2..6 {
            write(connection).unwrap();
        }
        assert_eq!(write(6), Err(Refused::Full));
        let read: Vec<_> = std::iter::from_fn(|| next(&mut consumer)).collect();
        assert_eq!(read, [2, 3, 4, 5], "lap {lap}");
        assert!(all_zero(&memory));
    }
}

fn all_zero(memory: &HeapMemory) -> bool {
    let data = (CONTROL_BYTES..memory.length_bytes()).step_by(8);
    data.into_iter()
        .all(|at| memory.load_u64(at, Ordering::Relaxed) == 0)
}

#[derive(Clone, Debug)]
enum Step {
    Write(usize),
    WriteInParts(usize, usize),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..300_usize).prop_map(Step::Write),
        (1..200_usize, 0..200_usize).prop_map(|(a, b)| Step::WriteInParts(a, b)),
        Just(Step::Read),
        Just(Step::Read),
    ]
}

proptest! {
    #[test]
    fn like_a_bounded_queue(steps in prop::collection::vec(step(), 1..200)) {
        let memory = HeapMemory::new(usize::try_from(CAPACITY).unwrap());
        let (producer, mut consumer) = pair(&memory);
        let mut buffer = RecordBuffer::new();
        let mut oracle = VecDeque::new();
        let mut used = 0;
        let mut count = 0;
        for step in steps {
            let (parts, length) = match step {
                Step::Write(length) => (vec![length], length),
                Step::WriteInParts(a, b) => (vec![a, b], a + b),
                Step::Read => {
                    let next = consumer.poll(&mut buffer).unwrap();
                    match oracle.pop_front() {
                        None => prop_assert_eq!(next, Next::Empty),
                        Some((record, body)) => {
                            let Record { kind, flags, connection, at_ns } = record;
                            let body: Vec<u8> = body;
                            used -= padded((HEADER_BYTES + body.len()) as u64);
                            let expected = RawRecord { kind, flags, connection, at_ns, body: &body };
                            prop_assert_eq!(next, Next::Record(expected));
                        }
                    }
                    continue;
                }
            };
            count += 1;
            let whole = body(count, length);
            let needed = padded((HEADER_BYTES + whole.len()) as u64);
            let (first, second) = whole.split_at(8 + parts[0]);
            let fits = used + needed <= CAPACITY;
            prop_assert_eq!(producer.fits(whole.len()), fits);
            let result = producer.write(data(count), &[&first[..8], &first[8..], second]);
            prop_assert_eq!(result, if fits { Ok(()) } else { Err(Refused::Full) });
            if fits {
                used += needed;
                oracle.push_back((data(count), whole));
            }
        }
        while let Next::Record(_) = consumer.poll(&mut buffer).unwrap() {
            oracle.pop_front();
        }
        prop_assert!(oracle.is_empty());
        prop_assert!(all_zero(&memory));
    }

    /// Whatever stands in the memory: no panic, and an end.
    #[test]
    fn hostile_words_end_in_an_error(
        words in prop::collection::vec((0..128_usize, any::<u64>()), 0..40),
        lengths in prop::collection::vec(0..400_u32, 0..8),
        head in prop_oneof![any::<u64>(), (0..2 * CAPACITY)],
        died in any::<bool>(),
    ) {
        let memory = HeapMemory::new(usize::try_from(CAPACITY).unwrap());
        let (_, mut consumer) = pair(&memory);
        for (index, value) in words {
            memory.store_u64(CONTROL_BYTES + index * 8, value, Ordering::Relaxed);
        }
        // Some that are nearly right.
        let mut position = 0;
        for length in lengths {
            let word = RecordWord {
                busy: length % 5 == 0,
                stamp: stamp(position),
                flags: 0,
                kind: kind::DATA,
                length,
            };
            let at = CONTROL_BYTES + usize::try_from(position % CAPACITY).unwrap();
            memory.store_u64(at, word.pack(), Ordering::Relaxed);
            position += padded(length.into());
        }
        memory.store_u64(control::HEAD, head, Ordering::Relaxed);
        if died {
            consumer.producer_died();
        }
        let mut buffer = RecordBuffer::new();
        let mut steps = 0;
        while let Ok(Next::Record(_) | Next::Skipped { .. } | Next::TailUnknown { .. }) =
            consumer.poll(&mut buffer)
        {
            steps += 1;
            prop_assert!(steps < 200);
        }
        let first = consumer.poll(&mut buffer).err();
        prop_assert_eq!(consumer.poll(&mut buffer).err(), first);
    }
}

#[test]
fn bootstrap_then_the_whole_capacity() {
    let bytes = 4 * BOOTSTRAP_BYTES;
    let memory = HeapMemory::new(usize::try_from(bytes).unwrap());
    let producer = Producer::new(&memory, bytes).unwrap();
    let mut consumer = Consumer::new(&memory, 2 * BOOTSTRAP_BYTES).unwrap();
    let mut buffer = RecordBuffer::new();
    let whole = body(0, MAX_PAYLOAD);
    let write = || producer.write(data(1), &[&whole]);
    for _ in 0..3 {
        write().unwrap();
    }
    assert_eq!(write(), Err(Refused::Full));
    // What has been read makes no room before the grant: positions don't wrap yet.
    assert!(matches!(consumer.poll(&mut buffer), Ok(Next::Record(_))));
    assert_eq!(write(), Err(Refused::Full));
    consumer.grant();
    for _ in 0..5 {
        write().unwrap();
    }
    assert_eq!(write(), Err(Refused::Full));
    for _ in 0..7 {
        let Ok(Next::Record(record)) = consumer.poll(&mut buffer) else {
            panic!("a record is missing");
        };
        assert_eq!(record.body, whole);
    }
    assert_eq!(consumer.poll(&mut buffer), Ok(Next::Empty));
    assert!(all_zero(&memory));
}

#[test]
fn a_producer_believes_no_control_page() {
    let memory = HeapMemory::new(usize::try_from(BOOTSTRAP_BYTES).unwrap());
    let producer = Producer::new(&memory, BOOTSTRAP_BYTES).unwrap();
    let result = |at: usize, value: u64| {
        let before = memory.load_u64(at, Ordering::Relaxed);
        memory.store_u64(at, value, Ordering::Relaxed);
        let result = producer.write(data(1), &[&body(0, 1)]);
        memory.store_u64(at, before, Ordering::Relaxed);
        result
    };
    // Where there is room by the tail that was seen last, no other is looked at.
    memory.store_u64(control::HEAD, BOOTSTRAP_BYTES, Ordering::Relaxed);
    let beyond = BOOTSTRAP_BYTES + 8;
    assert_eq!(result(control::TAIL, beyond), Err(Refused::Hostile));
    assert_eq!(result(control::TAIL, 12), Err(Refused::Hostile));
    memory.store_u64(control::HEAD, 0, Ordering::Relaxed);
    assert_eq!(result(control::HEAD, u64::MAX), Err(Refused::Hostile));
    assert_eq!(result(control::HEAD, 12), Err(Refused::Hostile));
    assert_eq!(result(control::STATE, 9), Err(Refused::Hostile));
    // READY with no capacity.
    assert_eq!(result(control::STATE, 1), Err(Refused::Hostile));
    assert_eq!(result(control::STATE, 2), Err(Refused::Detached));
    let died = u64::from(OWNER_DIED | 1234);
    assert_eq!(result(control::OWNER, died), Err(Refused::Detached));
    assert_eq!(
        result(control::OWNER, OWNER_LEFT.into()),
        Err(Refused::Detached)
    );
    assert_eq!(result(control::OWNER, 1234), Ok(()));
    memory.store_u32(control::STATE, 1, Ordering::Relaxed);
    for granted in [
        2 * BOOTSTRAP_BYTES,
        BOOTSTRAP_BYTES - 8,
        BOOTSTRAP_BYTES / 2,
    ] {
        assert_eq!(
            result(control::GRANTED_BYTES, granted),
            Err(Refused::Hostile)
        );
    }
    assert!(Producer::new(&memory, 2 * BOOTSTRAP_BYTES).is_none());
    assert!(Consumer::new(&memory, 2 * BOOTSTRAP_BYTES).is_err());
}

#[test]
fn a_kept_ring_is_written_until_it_is_left_and_one_agent_gets_it() {
    let memory = HeapMemory::new(usize::try_from(BOOTSTRAP_BYTES).unwrap());
    let producer = Producer::new(&memory, BOOTSTRAP_BYTES).unwrap();
    let consumer = Consumer::new(&memory, BOOTSTRAP_BYTES).unwrap();
    assert!(consumer.own(1234));
    assert!(!consumer.own(1235), "it has an owner");
    consumer.grant();
    consumer.keep();
    assert!(!producer.orphaned() && !producer.leave());
    memory.store_u32(control::OWNER, OWNER_DIED, Ordering::Relaxed);
    assert!(producer.orphaned());
    assert_eq!(producer.write(data(1), &[&body(0, 1)]), Ok(()));
    // The next one.
    let heir = Consumer::resume(&memory, BOOTSTRAP_BYTES).unwrap();
    assert!(heir.own(1236));
    assert!(!heir.own(1237));
    assert!(!producer.orphaned() && !producer.leave());
    // Nobody comes.
    memory.store_u32(control::OWNER, OWNER_DIED, Ordering::Relaxed);
    assert!(producer.leave());
    assert!(producer.detached());
    assert!(!heir.own(1238));
    // Without a keeper it is over at once.
    memory.store_u32(control::OWNER, OWNER_DIED, Ordering::Relaxed);
    memory.store_u32(control::KEPT, 0, Ordering::Relaxed);
    assert!(producer.detached() && !producer.orphaned());
}

#[test]
fn after_death_what_stays_busy_is_skipped_and_the_unknown_tail_counted() {
    let memory = HeapMemory::new(usize::try_from(CAPACITY).unwrap());
    let (producer, mut consumer) = pair(&memory);
    let mut buffer = RecordBuffer::new();
    producer.write(data(1), &[&body(0, 1)]).unwrap();
    let second = memory.load_u64(control::HEAD, Ordering::Relaxed);
    producer.write(data(2), &[&body(1, 50)]).unwrap();
    producer.write(data(3), &[&body(51, 1)]).unwrap();
    // The writer of the second died in its copy, another between reservation and word.
    let at = CONTROL_BYTES + usize::try_from(second).unwrap();
    let mut word = RecordWord::unpack(memory.load_u64(at, Ordering::Relaxed));
    word.busy = true;
    memory.store_u64(at, word.pack(), Ordering::Relaxed);
    let head = memory.load_u64(control::HEAD, Ordering::Relaxed);
    memory.store_u64(control::HEAD, head + 64, Ordering::Relaxed);

    assert!(
        matches!(consumer.poll(&mut buffer), Ok(Next::Record(record)) if record.connection == 1)
    );
    assert_eq!(consumer.poll(&mut buffer), Ok(Next::Pending));
    consumer.producer_died();
    let bytes = padded((HEADER_BYTES + 8 + 50) as u64);
    let text = Some(UnfinishedText {
        connection: 2,
        flags: FLAG_RECEIVED,
        offset: 1,
        length: 50,
    });
    assert_eq!(
        consumer.poll(&mut buffer),
        Ok(Next::Skipped { bytes, text })
    );
    assert!(
        matches!(consumer.poll(&mut buffer), Ok(Next::Record(record)) if record.connection == 3)
    );
    assert_eq!(
        consumer.poll(&mut buffer),
        Ok(Next::TailUnknown { bytes: 64 })
    );
    assert_eq!(consumer.poll(&mut buffer), Ok(Next::Empty));
}

#[test]
fn closes_in_the_table_come_behind_their_records() {
    let memory = HeapMemory::with_close_entries(usize::try_from(CAPACITY).unwrap(), 2);
    let (producer, mut consumer) = pair(&memory);
    let mut buffer = RecordBuffer::new();
    let closed = |connection| ClosedConnection {
        connection,
        reason: CloseReason::Free,
        sent: 5,
        received: 6,
        at_ns: 7,
    };
    producer.write(data(1), &[&body(0, 1)]).unwrap();
    assert!(producer.table_close(&closed(1)));
    assert_eq!(consumer.next_closed(), None);
    consumer.poll(&mut buffer).unwrap();
    assert_eq!(consumer.next_closed(), Some(closed(1)));
    assert_eq!(consumer.next_closed(), None);
    assert!(producer.table_close(&closed(2)));
    assert!(producer.table_close(&closed(3)));
    assert!(!producer.table_close(&closed(4)));
    assert_eq!(consumer.next_closed(), Some(closed(2)));
    assert!(producer.table_close(&closed(5)));
    assert_eq!(consumer.next_closed(), Some(closed(5)));
    assert_eq!(consumer.next_closed(), Some(closed(3)));
    assert_eq!(consumer.next_closed(), None);
    let counters = consumer.counters();
    assert_eq!((counters.closes_tabled, counters.closes_lost), (4, 1));
}

#[test]
fn one_wake_for_one_sleep() {
    let memory = HeapMemory::new(usize::try_from(2 * BOOTSTRAP_BYTES).unwrap());
    let producer = Producer::new(&memory, 2 * BOOTSTRAP_BYTES).unwrap();
    let consumer = Consumer::new(&memory, 2 * BOOTSTRAP_BYTES).unwrap();
    consumer.grant();
    assert!(consumer.prepare_sleep());
    let sleeping = || memory.load_u32(control::SLEEPING, Ordering::Relaxed);
    for _ in 0..3 {
        producer.write(data(1), &[&body(0, MAX_PAYLOAD)]).unwrap();
        assert_eq!(sleeping(), 1);
    }
    producer.write(data(1), &[&body(0, MAX_PAYLOAD)]).unwrap();
    assert_eq!(sleeping(), 0);
    assert!(!consumer.prepare_sleep());
    assert_eq!(sleeping(), 0);
}

/// Lets the other threads end where this one can't go on.
struct FailedOnPanic<'a>(&'a AtomicBool);

impl Drop for FailedOnPanic<'_> {
    fn drop(&mut self) {
        self.0.store(std::thread::panicking(), Ordering::Relaxed);
    }
}

#[test]
fn many_threads_lose_nothing_that_was_accepted() {
    const THREADS: u64 = 4;
    const EACH: u64 = 2000;
    let memory = HeapMemory::new(usize::try_from(CAPACITY).unwrap());
    let (producer, mut consumer) = pair(&memory);
    let mut next = vec![0; usize::try_from(THREADS).unwrap()];
    let failed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _guard = FailedOnPanic(&failed);
        for thread in 0..THREADS {
            let (producer, failed) = (&producer, &failed);
            scope.spawn(move || {
                for offset in 0..EACH {
                    let length = usize::try_from(1 + offset % 97).unwrap();
                    while producer
                        .write(data(thread), &[&body(offset, length)])
                        .is_err()
                    {
                        if failed.load(Ordering::Relaxed) {
                            return;
                        }
                        std::thread::yield_now();
                    }
                }
            });
        }
        let mut buffer = RecordBuffer::new();
        let mut left = THREADS * EACH;
        while left > 0 {
            let Next::Record(record) = consumer.poll(&mut buffer).unwrap() else {
                std::thread::yield_now();
                continue;
            };
            let expected = &mut next[usize::try_from(record.connection).unwrap()];
            let length = usize::try_from(1 + *expected % 97).unwrap();
            assert_eq!(record.body, body(*expected, length));
            *expected += 1;
            left -= 1;
        }
    });
    assert!(all_zero(&memory));
}
