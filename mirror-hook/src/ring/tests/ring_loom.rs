//! Every interleaving: `make loom`.

use super::*;
use loom::sync::Arc;
use loom::thread;

/// Room for one record of 40 bytes and most of another: the second wraps, the third is dropped.
const CAPACITY: u64 = 64;

fn check(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(builder.preemption_bound.unwrap_or(2));
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
            Next::Pending | Next::Empty => return,
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
