//! Death at every single access to the memory: of the application, with two threads in the middle of
//! something, and of the agent. What is found afterwards is compared with what was seen to be stored.

use std::cell::RefCell;

use super::mortal::{Mortal, Reservation, Stage, lives};
use super::*;
use crate::event::CloseReason;
use crate::layout::{CONTROL_BYTES, HEADER_BYTES, control, padded};

const CAPACITY: u64 = 256;
/// From where in a lap on a drained ring goes back to its low end: never, or at once.
const LOW_ENDS: [u64; 2] = [u64::MAX, 64];
/// Close entries, and so the accesses that a look at the table takes.
const CLOSE_ENTRIES: usize = 2;

/// A ring whose next positions are shortly before its end.
fn before_the_end() -> HeapMemory {
    let memory = HeapMemory::with_close_entries(usize::try_from(CAPACITY).unwrap(), CLOSE_ENTRIES);
    let mut consumer = Consumer::small(&memory, CAPACITY);
    consumer.grant();
    let mut buffer = RecordBuffer::new();
    for length in [100, 40] {
        write(&Producer::small(&memory, CAPACITY), 9, length).unwrap();
        assert!(matches!(consumer.poll(&mut buffer), Ok(Next::Record(_))));
    }
    consumer.rest();
    memory
}

/// A record in which everything follows from its connection and length.
fn write<M: Memory>(producer: &Producer<M>, connection: u64, length: usize) -> Result<(), Refused> {
    producer.write(data(connection), &[&body(connection, length)])
}

fn is_genuine(record: &RawRecord<'_>) -> bool {
    record.at_ns == record.connection * 10
        && record.body == body(record.connection, record.body.len() - 8)
}

fn closed(connection: u64) -> ClosedConnection {
    ClosedConnection {
        connection,
        reason: CloseReason::Abort,
        sent: connection + 1,
        received: connection + 2,
        at_ns: connection + 3,
    }
}

/// The accesses that `work` makes in a fresh ring.
fn accesses(work: impl FnOnce(&Mortal<'_>)) -> u64 {
    let memory = before_the_end();
    let mortal = Mortal::new(&memory, CAPACITY, u64::MAX);
    work(&mortal);
    u64::MAX - mortal.left()
}

const FIRST_LENGTHS: [usize; 2] = [13, 30];

/// What the first thread does: two records, of which the second meets the ring's end.
fn first_thread(memory: &Mortal<'_>, low_end: u64) {
    let producer = Producer::small_returning(memory, CAPACITY, low_end);
    for (connection, length) in (1..).zip(FIRST_LENGTHS) {
        write(&producer, connection, length).unwrap();
    }
}

/// What the second does: a record, and an entry of the close table.
fn second_thread(memory: &Mortal<'_>, low_end: u64) {
    let producer = Producer::small_returning(memory, CAPACITY, low_end);
    write(&producer, 3, 5).unwrap();
    assert!(producer.table_close(&closed(3)));
}

#[test]
fn an_application_that_dies_anywhere_leaves_what_it_had_committed() {
    LOW_ENDS.into_iter().for_each(an_application_dies);
}

fn an_application_dies(low_end: u64) {
    let mut endings = [0; 3];
    let mut named = 0;
    for first in 0..=accesses(|memory| first_thread(memory, low_end)) {
        for second in 0..=accesses(|memory| second_thread(memory, low_end)) {
            let memory = before_the_end();
            let threads = [first, second].map(|steps| Mortal::new(&memory, CAPACITY, steps));
            lives(|| first_thread(&threads[0], low_end));
            let second_is_done = lives(|| second_thread(&threads[1], low_end));
            let mut reserved: Vec<_> = threads
                .iter()
                .flat_map(|thread| thread.reserved())
                .collect();
            reserved.sort_by_key(|reservation| reservation.from);
            let head = reserved.last().map(|last| last.to);

            let mut consumer = Consumer::small(&memory, CAPACITY).at_tail().unwrap();
            let mut buffer = RecordBuffer::new();
            let mut live = true;
            let skipped = memory.load_u64(control::SKIPPED, Ordering::Relaxed);
            for Reservation { from, to, stage } in reserved {
                // A skip is followed when it is looked for.
                assert!(consumer.position() == from || consumer.position() == skipped);
                if stage != Stage::Committed && live {
                    assert_eq!(consumer.poll(&mut buffer), Ok(Next::Pending));
                    consumer.producer_died();
                    live = false;
                }
                let next = consumer.poll(&mut buffer).unwrap();
                match (stage, next) {
                    (Stage::Committed, Next::Record(record)) => {
                        endings[0] += 1;
                        assert!(is_genuine(&record), "{record:?}");
                    }
                    (Stage::Marked, Next::Skipped { bytes, text }) => {
                        endings[1] += 1;
                        assert_eq!(bytes, to - from);
                        let text = text.unwrap();
                        let whole = (HEADER_BYTES + 8) as u64 + text.length;
                        assert_eq!(padded(whole), bytes);
                        // Each word is there, or not yet.
                        let begun = [text.connection, text.offset];
                        named += u32::from(begun[0] == begun[1] && begun[0] != 0);
                        assert!([0, 1, 2, 3].contains(&text.connection), "{text:?}");
                        assert!([0, text.connection].contains(&text.offset), "{text:?}");
                    }
                    (Stage::Reserved, Next::TailUnknown { bytes }) => {
                        endings[2] += 1;
                        assert_eq!(Some(from + bytes), head);
                        break;
                    }
                    (stage, next) => panic!("{stage:?}, but found was {next:?}"),
                }
            }
            assert_eq!(consumer.poll(&mut buffer), Ok(Next::Empty));
            // Only whole entries of the close table count, and they come however the ring ended.
            let from_table = consumer.next_closed();
            if second_is_done {
                assert_eq!(from_table, Some(closed(3)));
            } else {
                assert!(from_table.is_none_or(|found| found == closed(3)));
            }
            assert_eq!(consumer.next_closed(), None);
        }
    }
    assert!(endings.iter().all(|count| *count > 50), "{endings:?}");
    assert!(named > 50, "{named}");
}

/// Reads all that there is; what has been read is noted before the next access.
fn read_all<M: Memory>(consumer: &mut Consumer<M>, seen: &RefCell<Vec<u64>>) {
    let mut buffer = RecordBuffer::new();
    while let Next::Record(record) = consumer.poll(&mut buffer).unwrap() {
        assert!(is_genuine(&record), "{record:?}");
        seen.borrow_mut().push(record.connection);
    }
}

/// One life of an agent: it takes the ring over, and reads.
fn agent<M: Memory>(memory: M, seen: &RefCell<Vec<u64>>) {
    let mut consumer = Consumer::small(memory, CAPACITY).at_tail().unwrap();
    read_all(&mut consumer, seen);
    consumer.rest();
}

#[test]
fn an_agent_that_dies_anywhere_invents_nothing_and_loses_one_record_at_most() {
    LOW_ENDS.into_iter().for_each(agents_die);
}

fn agents_die(low_end: u64) {
    let prepare = |memory: &HeapMemory| {
        let producer = Producer::small_returning(memory, CAPACITY, low_end);
        for (connection, length) in (1..).zip([13, 30, 1]) {
            write(&producer, connection, length).unwrap();
        }
    };
    let one_life = accesses(|memory| {
        prepare(memory.memory());
        agent(memory, &RefCell::default());
    });
    let mut lost = [0; 2];
    for first in 0..=one_life {
        for second in 0..=one_life {
            let memory = before_the_end();
            prepare(&memory);
            let producer = Producer::small_returning(&memory, CAPACITY, low_end);
            let seen = RefCell::default();
            let mut deaths = 0;
            let mut written = 3;
            for steps in [first, second, u64::MAX] {
                let mortal = Mortal::new(&memory, CAPACITY, steps);
                // A word of the ring is never stored by an agent: `zero` takes it away.
                if !lives(|| agent(&mortal, &seen)) {
                    deaths += 1;
                }
                // Meanwhile the application goes on, as far as there is room.
                if write(&producer, written + 1, 60).is_ok() {
                    written += 1;
                }
            }
            agent(&memory, &seen);
            let seen = seen.into_inner();
            assert!(seen.is_sorted_by(|a, b| a < b), "nothing twice: {seen:?}");
            let missing = usize::try_from(written).unwrap() - seen.len();
            assert!(missing <= deaths, "{missing} missing after {deaths} deaths");
            lost[missing.min(1)] += 1;
            assert_eq!(memory.load_u64(control::TAIL, Ordering::Relaxed), {
                memory.load_u64(control::HEAD, Ordering::Relaxed)
            });
            let data = (CONTROL_BYTES..memory.length_bytes()).step_by(8);
            assert!(
                data.into_iter()
                    .all(|at| memory.load_u64(at, Ordering::Relaxed) == 0)
            );
        }
    }
    assert!(lost.iter().all(|count| *count > 50), "{lost:?}");
}

#[test]
fn no_agent_takes_over_at_a_position_that_no_ring_has() {
    let memory = before_the_end();
    let head = memory.load_u64(control::HEAD, Ordering::Relaxed);
    for tail in [
        head + 8,
        head - 4,
        u64::MAX,
        head.wrapping_sub(CAPACITY + 8),
    ] {
        memory.store_u64(control::TAIL, tail, Ordering::Relaxed);
        let result = Consumer::small(&memory, CAPACITY).at_tail();
        assert!(matches!(result, Err(RingError::BadHead { .. })), "{tail}");
    }
    // The mark of what is being zeroed counts only where it can be one.
    let producer = Producer::small(&memory, CAPACITY);
    memory.store_u64(control::TAIL, head, Ordering::Relaxed);
    write(&producer, 1, 5).unwrap();
    for releasing in [head - 8, head + 4, head + 1000, u64::MAX] {
        memory.store_u64(control::RELEASING, releasing, Ordering::Relaxed);
        let consumer = Consumer::small(&memory, CAPACITY).at_tail().unwrap();
        assert_eq!(consumer.position(), head, "{releasing}");
    }
}
