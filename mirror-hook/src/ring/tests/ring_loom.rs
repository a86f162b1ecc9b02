//! Every interleaving: `make loom`.

use super::mortal::{Mortal, lives};
use super::*;
use crate::layout::control;
use loom::sync::Arc;
use loom::thread;

/// Room for one record of 40 bytes and most of another: the second wraps, the third is dropped.
const CAPACITY: u64 = 64;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(3));
    builder.check(model);
}

fn memory() -> Arc<HeapMemory> {
    let memory = Arc::new(HeapMemory::with_close_entries(64, 1));
    Consumer::small(&*memory, CAPACITY).grant();
    memory
}

/// Reads until it has to wait, checks each record, and says how many there were.
fn drain(consumer: &mut Consumer<&HeapMemory>, seen: &mut Vec<u64>) {
    let mut buffer = RecordBuffer::new();
    loop {
        match consumer.poll(&mut buffer).expect("a good ring") {
            Next::Record(record) => {
                assert_eq!(record.kind, kind::DATA);
                assert_eq!(record.at_ns, record.connection * 10);
                assert_eq!(record.body, body(record.connection, 3));
                seen.push(record.connection);
            }
            Next::Pending | Next::Empty => return consumer.rest(),
            other => panic!("{other:?} while all live"),
        }
    }
}

/// Two threads, one record each beside one that is already there, so that the ring wraps and
/// may be full; the consumer reads meanwhile. What was accepted is read, once and whole.
#[test]
fn two_producers_wrap_and_drop() {
    check(|| {
        let memory = memory();
        Producer::small(&*memory, CAPACITY)
            .write(data(1), &[&body(1, 3)])
            .expect("an empty ring has room");
        let threads: Vec<_> = [2, 3]
            .into_iter()
            .map(|connection| {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let producer = Producer::small(&*memory, CAPACITY);
                    match producer.write(data(connection), &[&body(connection, 3)]) {
                        Ok(()) => Some(connection),
                        Err(Refused::Full) => None,
                        Err(other) => panic!("{other}"),
                    }
                })
            })
            .collect();
        let mut consumer = Consumer::small(&*memory, CAPACITY);
        let mut seen = Vec::new();
        drain(&mut consumer, &mut seen);
        let mut accepted = vec![1];
        for thread in threads {
            accepted.extend(thread.join().expect("no panic"));
        }
        drain(&mut consumer, &mut seen);
        seen.sort_unstable();
        assert_eq!(seen, accepted);
        let left = (0..CAPACITY).step_by(8).all(|at| {
            let at = crate::layout::CONTROL_BYTES + usize::try_from(at).expect("small");
            memory.load_u64(at, Ordering::Relaxed) == 0
        });
        assert!(left, "everything read is zeroed");
    });
}

/// The ring is drained, so one of two threads goes back to its low end, and the other may come to write
/// where the agent still stands.
#[test]
fn the_low_end_is_used_again() {
    const CAPACITY: u64 = 128;
    check(|| {
        // One producer, as in a process: its threads share what they have seen of the tail.
        let memory = HeapMemory::with_close_entries(128, 1);
        let producer = Arc::new(Producer::small_returning(memory, CAPACITY, 40));
        let memory = producer.memory();
        let mut consumer = Consumer::small(memory, CAPACITY);
        consumer.grant();
        let write = |producer: &Producer<HeapMemory>, connection| match producer
            .write(data(connection), &[&body(connection, 3)])
        {
            Ok(()) => true,
            Err(Refused::Full) => false,
            Err(other) => panic!("{other}"),
        };
        let mut seen = Vec::new();
        assert!(write(&producer, 1));
        drain(&mut consumer, &mut seen);
        let other = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || write(&producer, 2))
        };
        let third = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || write(&producer, 3))
        };
        drain(&mut consumer, &mut seen);
        let mut accepted = vec![1];
        // Who doesn't know of the skip yet sees no room behind it; one of them does.
        for (connection, thread) in [(2, other), (3, third)] {
            let fits = thread.join().expect("no panic");
            accepted.extend(fits.then_some(connection));
        }
        assert!(accepted.len() > 1);
        drain(&mut consumer, &mut seen);
        seen.sort_unstable();
        assert_eq!(seen, accepted);
        let skipped = memory.load_u64(control::SKIPPED, Ordering::Relaxed);
        assert!([40, 80, 168].contains(&skipped), "{skipped}");
        assert_eq!(
            consumer.position(),
            memory.load_u64(control::HEAD, Ordering::Relaxed)
        );
    });
}

/// One thread writes two records through a ring that holds one: its order is kept.
#[test]
fn program_order_is_kept() {
    check(|| {
        let memory = memory();
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let producer = Producer::small(&*memory, CAPACITY);
                [1, 2].map(|connection| {
                    producer
                        .write(data(connection), &[&body(connection, 3)])
                        .is_ok()
                })
            })
        };
        let mut consumer = Consumer::small(&*memory, CAPACITY);
        let mut seen = Vec::new();
        drain(&mut consumer, &mut seen);
        let accepted = writer.join().expect("no panic");
        drain(&mut consumer, &mut seen);
        assert_eq!(accepted[0], true);
        let expected: &[u64] = if accepted[1] { &[1, 2] } else { &[1] };
        assert_eq!(seen, expected);
    });
}

/// Two threads fill the ring while a connection opens and ends: its CLOSE finds the room that its OPEN
/// has kept.
#[test]
fn a_close_has_its_room() {
    check(|| {
        let memory = HeapMemory::with_close_entries(128, 1);
        Consumer::small(&memory, 128).grant();
        let producer = Arc::new(Producer::small(memory, 128));
        let writer = {
            let producer = Arc::clone(&producer);
            thread::spawn(move || {
                for connection in [2, 3] {
                    let _ = producer.write(data(connection), &[&body(connection, 3)]);
                }
            })
        };
        let opened = producer.open(data(1), &[&body(1, 3)]);
        if opened.is_ok() {
            let close = Record {
                kind: kind::CLOSE,
                flags: 0,
                connection: 1,
                at_ns: 1,
            };
            assert_eq!(producer.close(close, &[&[0; 24]]), Ok(()));
        }
        writer.join().expect("no panic");
    });
}

/// The table hands a CLOSE over whole, and a freed entry is used again.
#[test]
fn close_table() {
    use crate::event::CloseReason;
    check(|| {
        let memory = memory();
        let closed = |connection: u64| ClosedConnection {
            connection,
            reason: CloseReason::Free,
            sent: connection,
            received: connection,
            at_ns: connection,
        };
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let producer = Producer::small(&*memory, CAPACITY);
                [1, 2].map(|connection| producer.table_close(&closed(connection)))
            })
        };
        let mut consumer = Consumer::small(&*memory, CAPACITY);
        let mut seen = Vec::new();
        seen.extend(consumer.next_closed());
        let accepted = writer.join().expect("no panic");
        while let Some(closed) = consumer.next_closed() {
            seen.push(closed);
        }
        assert!(accepted[0]);
        let count = accepted.iter().filter(|accepted| **accepted).count();
        let expected: Vec<_> = [closed(1), closed(2)].into_iter().take(count).collect();
        assert_eq!(seen, expected);
    });
}

/// A producer that passes the mark while the agent goes to sleep: either the agent sees the record
/// and stays awake, or the producer sees it sleep and wakes it.
#[test]
fn no_sleep_over_a_record() {
    check(|| {
        let memory = memory();
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                Producer::small(&*memory, CAPACITY)
                    .write(data(1), &[&body(1, 3)])
                    .expect("an empty ring has room");
            })
        };
        let mut consumer = Consumer::small(&*memory, CAPACITY);
        let sleeps = consumer.prepare_sleep();
        writer.join().expect("no panic");
        // As the kernel finds it: FUTEX_WAIT for the value 1.
        let asleep = sleeps && memory.load_u32(control::SLEEPING, Ordering::SeqCst) == 1;
        assert!(!asleep, "nobody wakes it");
        let mut seen = Vec::new();
        drain(&mut consumer, &mut seen);
        assert_eq!(seen, [1]);
    });
}

/// An agent that dies at each of its accesses while a producer writes, and the next that takes over:
/// what was accepted is read, but for the record that the first was giving back.
#[test]
fn a_consumer_is_replaced() {
    for accesses in 0..24 {
        check(move || {
            let memory = memory();
            Producer::small(&*memory, CAPACITY)
                .write(data(1), &[&body(1, 3)])
                .expect("an empty ring has room");
            let writer = {
                let memory = Arc::clone(&memory);
                thread::spawn(move || {
                    let producer = Producer::small(&*memory, CAPACITY);
                    producer.write(data(2), &[&body(2, 3)]).is_ok()
                })
            };
            let mut seen = Vec::new();
            let mortal = Mortal::new(&memory, CAPACITY, accesses);
            let died = !lives(|| {
                let mut buffer = RecordBuffer::new();
                let mut consumer = Consumer::small(&mortal, CAPACITY);
                if let Ok(Next::Record(record)) = consumer.poll(&mut buffer) {
                    assert_eq!(record.body, body(record.connection, 3));
                    seen.push(record.connection);
                }
            });
            let mut consumer = Consumer::small(&*memory, CAPACITY)
                .at_tail()
                .expect("a good ring");
            drain(&mut consumer, &mut seen);
            let accepted = writer.join().expect("no panic");
            drain(&mut consumer, &mut seen);
            let expected: &[u64] = if accepted { &[1, 2] } else { &[1] };
            let missing_first = died && seen == expected[1..];
            assert!(seen == expected || missing_first, "{seen:?}");
            let head = memory.load_u64(control::HEAD, Ordering::Relaxed);
            assert_eq!(consumer.position(), head, "stuck");
        });
    }
}

/// The agent answers and goes on allocating while a producer writes: no position beyond what it has
/// told, and nothing is lost where the ring ends at another place from then on.
#[test]
fn a_grant_races_with_a_producer() {
    const GRANTED: u64 = 64;
    check(|| {
        let memory = Arc::new(HeapMemory::with_close_entries(128, 1));
        let writer = {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let producer = Producer::small_from(&*memory, 128, 40);
                [1, 2].map(|connection| {
                    let result = producer.write(data(connection), &[&body(connection, 3)]);
                    assert!(matches!(result, Ok(()) | Err(Refused::Full)));
                    result.is_ok()
                })
            })
        };
        let mut consumer = Consumer::small(&*memory, GRANTED);
        let mut seen = Vec::new();
        consumer.grant_up_to(40);
        drain(&mut consumer, &mut seen);
        let before = memory.load_u64(control::HEAD, Ordering::Relaxed);
        assert!(before <= 40, "used before it was allocated");
        consumer.extend(u64::MAX);
        drain(&mut consumer, &mut seen);
        let accepted = writer.join().expect("no panic");
        drain(&mut consumer, &mut seen);
        assert!(accepted[0]);
        let expected: &[u64] = if accepted[1] { &[1, 2] } else { &[1] };
        assert_eq!(seen, expected);
    });
}
