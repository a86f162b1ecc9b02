//! Random histories of producer, consumer and close table, step by step against a model of them.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::event::CloseReason;
use crate::layout::{CONTROL_BYTES, HEADER_BYTES, control, padded};

const CAPACITY: u64 = 512;
const CLOSE_ENTRIES: usize = 3;

#[derive(Clone, Copy, Debug)]
enum Step {
    /// DATA of so many bytes.
    Write(usize),
    /// OPEN with so many bytes beside its CLOSE's.
    Open(usize),
    /// CLOSE of the connection that was opened first.
    Close,
    /// CLOSE into the table.
    TableClose,
    Read,
    /// The agent says how far it has come.
    Rest,
    ReadClosed,
    /// The agent ends, and another takes over.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1..200_usize).prop_map(Step::Write),
        3 => (1..100_usize).prop_map(Step::Open),
        2 => Just(Step::Close),
        2 => Just(Step::TableClose),
        3 => Just(Step::Read),
        2 => Just(Step::Rest),
        2 => Just(Step::ReadClosed),
        1 => Just(Step::Restart),
    ]
}

/// What the ring and the table hold, as plainly as it can be said.
#[derive(Debug, Default)]
struct Model {
    records: VecDeque<(Record, Vec<u8>)>,
    head: u64,
    tail: u64,
    resting: u64,
    /// From which part of a lap on a drained ring goes back to its low end.
    low_end: u64,
    /// Where the agent goes on once it looks.
    skip_to: Option<u64>,
    table: [Option<(ClosedConnection, u64)>; CLOSE_ENTRIES],
    tabled: u64,
    lost: u64,
    /// Connections that are open.
    open: VecDeque<u64>,
}

/// Header, two offsets, reason.
const CLOSE_BYTES: u64 = 24 + 24;

impl Model {
    fn kept(&self) -> u64 {
        self.open.len() as u64 * CLOSE_BYTES
    }

    fn fits(&self, body_bytes: usize) -> bool {
        let bytes = padded((HEADER_BYTES + body_bytes) as u64);
        self.head - self.skip_to.unwrap_or(self.tail) + bytes + self.kept() <= CAPACITY
    }

    fn fits_open(&self, body_bytes: usize) -> bool {
        let close_bytes = usize::try_from(CLOSE_BYTES).unwrap();
        self.fits(body_bytes.next_multiple_of(8) + close_bytes)
            && self.kept() + CLOSE_BYTES <= CAPACITY / 2
    }

    fn open(&mut self, record: Record, body: &[u8]) -> bool {
        let fits = self.fits_open(body.len());
        if fits {
            self.open.push_back(record.connection);
            assert!(self.write(record, body));
        }
        fits
    }

    fn write(&mut self, record: Record, body: &[u8]) -> bool {
        self.write_beside(self.kept(), record, body)
    }

    /// The end of the connection that was opened first, which goes into the room that is kept for it. That
    /// room counts as kept still where a skip is thought of.
    fn close(&mut self) -> Option<(Record, Vec<u8>)> {
        let kept = self.kept();
        let (record, body) = close_record(&closed(self.open.pop_front()?));
        assert!(self.write_beside(kept, record, &body), "room is kept");
        Some((record, body))
    }

    fn write_beside(&mut self, kept: u64, record: Record, body: &[u8]) -> bool {
        let bytes = padded((HEADER_BYTES + body.len()) as u64);
        let fits = self.fits(body.len());
        let behind = self.head % CAPACITY;
        let needed = bytes + kept;
        if fits && self.head == self.resting && behind >= self.low_end && behind >= needed {
            self.head += CAPACITY - behind;
            assert_eq!(self.resting, self.tail);
            self.skip_to = Some(self.head);
        }
        if fits {
            self.head += bytes;
            self.records.push_back((record, body.to_vec()));
        }
        fits
    }

    fn read(&mut self) -> Option<(Record, Vec<u8>)> {
        self.looked();
        let (record, body) = self.records.pop_front()?;
        self.tail += padded((HEADER_BYTES + body.len()) as u64);
        Some((record, body))
    }

    /// The agent has looked at the ring.
    fn looked(&mut self) {
        self.tail = self.skip_to.take().unwrap_or(self.tail);
    }

    fn table_close(&mut self, closed: ClosedConnection) -> bool {
        let Some(entry) = self.table.iter_mut().find(|entry| entry.is_none()) else {
            self.lost += 1;
            return false;
        };
        *entry = Some((closed, self.head));
        self.tabled += 1;
        true
    }

    fn next_closed(&mut self) -> Option<ClosedConnection> {
        let due = |entry: &&mut Option<(_, u64)>| entry.is_some_and(|(_, head)| head <= self.tail);
        let entry = self.table.iter_mut().find(due)?;
        entry.take().map(|(closed, _)| closed)
    }
}

fn closed(connection: u64) -> ClosedConnection {
    ClosedConnection {
        connection,
        reason: CloseReason::Free,
        sent: connection * 2,
        received: connection * 3,
        at_ns: connection * 4,
    }
}

fn close_record(closed: &ClosedConnection) -> (Record, Vec<u8>) {
    let record = Record {
        kind: kind::CLOSE,
        flags: 0,
        connection: closed.connection,
        at_ns: closed.at_ns,
    };
    let words = [closed.sent, closed.received, closed.reason as u64];
    (record, words.map(u64::to_ne_bytes).concat())
}

proptest! {
    #[test]
    fn producer_consumer_and_close_table(
        steps in prop::collection::vec(step(), 1..150),
        low_end in prop_oneof![Just(u64::MAX), 0..CAPACITY],
    ) {
        let bytes = usize::try_from(CAPACITY).unwrap();
        let memory = HeapMemory::with_close_entries(bytes, CLOSE_ENTRIES);
        let producer = Producer::small_returning(&memory, CAPACITY, low_end);
        let mut consumer = Consumer::small(&memory, CAPACITY);
        consumer.grant();
        let mut buffer = RecordBuffer::new();
        let mut model = Model { low_end, ..Model::default() };
        // At the end all is read, by another agent.
        let ending = std::iter::once(Step::Restart)
            .chain(std::iter::repeat_n([Step::Read, Step::ReadClosed], steps.len() + 1).flatten());
        for (connection, step) in (1..).zip(steps.clone().into_iter().chain(ending)) {
            match step {
                Step::Write(length) => {
                    let body = body(connection, length);
                    prop_assert_eq!(producer.fits(body.len()), model.fits(body.len()));
                    prop_assert_eq!(producer.fits_open(length), model.fits_open(length));
                    let fits = model.write(data(connection), &body);
                    prop_assert_eq!(producer.write(data(connection), &[&body]).is_ok(), fits);
                }
                Step::Open(length) => {
                    // An OPEN in all but its kind, which would need a larger ring.
                    let record = data(connection);
                    let body = body(connection, length);
                    let fits = model.open(record, &body);
                    prop_assert_eq!(producer.open(record, &[&body]).is_ok(), fits);
                }
                Step::Close => {
                    let Some((record, body)) = model.close() else {
                        continue;
                    };
                    prop_assert_eq!(producer.close(record, &[&body]), Ok(()));
                }
                Step::TableClose => {
                    let closed = closed(connection);
                    prop_assert_eq!(producer.table_close(&closed), model.table_close(closed));
                }
                Step::Read => match (consumer.poll(&mut buffer).unwrap(), model.read()) {
                    (Next::Empty, None) => {}
                    (Next::Record(found), Some((record, body))) => {
                        let Record { kind, flags, connection, at_ns } = record;
                        let expected = RawRecord { kind, flags, connection, at_ns, body: &body };
                        prop_assert_eq!(found, expected);
                    }
                    (found, expected) => prop_assert!(false, "{:?}, not {:?}", found, expected),
                },
                Step::Rest => {
                    consumer.rest();
                    model.resting = model.tail;
                }
                Step::ReadClosed => {
                    prop_assert_eq!(consumer.next_closed(), model.next_closed());
                }
                Step::Restart => {
                    model.looked();
                    consumer = Consumer::small(&memory, CAPACITY).at_tail().unwrap();
                }
            }
            prop_assert_eq!(memory.load_u64(control::HEAD, Ordering::Relaxed), model.head);
            prop_assert_eq!(memory.load_u64(control::TAIL, Ordering::Relaxed), model.tail);
            prop_assert_eq!(consumer.counters().closes_tabled, model.tabled);
            prop_assert_eq!(consumer.counters().closes_lost, model.lost);
        }
        prop_assert!(model.records.is_empty());
        prop_assert!(model.table.iter().all(Option::is_none));
        for at in (CONTROL_BYTES..memory.length_bytes()).step_by(8) {
            prop_assert_eq!(memory.load_u64(at, Ordering::Relaxed), 0);
        }
    }
}
