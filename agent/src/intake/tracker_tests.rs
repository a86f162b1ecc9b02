use super::*;
use crate::keep::saved::Identity;
use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{LookPart, LookWriter, Role};
use proptest::prelude::*;

/// Checks what [`SessionChange`] promises.
#[derive(Default)]
struct Checker {
    next: HashMap<u64, [u64; 2]>,
    log: Vec<String>,
    text_bytes: u64,
    lost_bytes: u64,
}

impl Checker {
    fn take(&mut self, event: SessionEvent<'_>) {
        let connection = event.session.connection;
        if let SessionChange::Open { meta, .. } = event.change {
            let before = self
                .next
                .insert(connection, [meta.offsets.0, meta.offsets.1]);
            assert!(before.is_none(), "opened twice");
            self.log.push(format!("open {connection}"));
            return;
        }
        let next = self.next.get_mut(&connection).expect("open");
        match event.change {
            SessionChange::Open { .. } | SessionChange::Resumed { .. } => unreachable!(),
            SessionChange::Update { meta } => {
                if meta.early == EarlyData::Rejected {
                    next[0] = 0;
                }
            }
            SessionChange::Look { part } => {
                self.log.push(format!("look {connection} {}", part.number));
            }
            SessionChange::Data {
                direction,
                offset,
                bytes,
            } => {
                assert_eq!(next[index(direction)], offset);
                assert!((1..=16_384).contains(&bytes.len()));
                next[index(direction)] += bytes.len() as u64;
                self.text_bytes += bytes.len() as u64;
                self.log.push(format!("data {connection} {offset}"));
            }
            SessionChange::Lost {
                direction,
                from,
                to,
            } => {
                assert_eq!(next[index(direction)], from);
                assert!(from < to);
                next[index(direction)] = to;
                self.lost_bytes = self.lost_bytes.saturating_add(to - from);
                self.log.push(format!("lost {connection} {from}..{to}"));
            }
            SessionChange::Close { reason } => {
                if matches!(reason, CloseReason::Free | CloseReason::Abort) {
                    self.next.remove(&connection);
                }
                self.log.push(format!("close {connection} {reason:?}"));
            }
            SessionChange::Died => {
                self.next.remove(&connection);
                self.log.push(format!("died {connection}"));
            }
        }
    }
}

struct Bench {
    tracker: Tracker,
    stats: IntakeStats,
    checker: Checker,
}

impl Bench {
    fn new(max_open: usize) -> Self {
        let process = Arc::new(ProcessInfo {
            pid: 1,
            uid: 0,
            name: String::new(),
            ..ProcessInfo::default()
        });
        Self {
            tracker: Tracker::new(1, process, None, max_open),
            stats: IntakeStats::default(),
            checker: Checker::default(),
        }
    }

    fn record(&mut self, connection: u64, body: &Body<'_>) -> Result<(), Violation> {
        let checker = &mut self.checker;
        self.tracker.record(
            connection,
            MonotonicTime(0),
            body,
            &mut self.stats,
            &mut |event| checker.take(event),
        )
    }

    fn open(&mut self, connection: u64, offsets: (u64, u64)) -> Result<(), Violation> {
        let meta = Meta {
            offsets,
            ..Meta::new(Role::Client)
        };
        self.record(connection, &Body::Open(meta))
    }

    fn data(&mut self, connection: u64, offset: u64, bytes: &[u8]) -> Result<(), Violation> {
        let direction = Direction::Sent;
        self.record(
            connection,
            &Body::Data {
                direction,
                offset,
                bytes,
            },
        )
    }

    fn close(&mut self, connection: u64, sent: u64, reason: CloseReason) {
        let received = 0;
        let body = Body::Close {
            sent,
            received,
            reason,
            forks: 0,
        };
        self.record(connection, &body).unwrap();
    }
}

#[test]
fn a_gap_is_declared_before_the_text_behind_it_and_at_the_tail() {
    let mut bench = Bench::new(10);
    bench.open(1, (5, 0)).unwrap();
    bench.data(1, 5, b"abc").unwrap();
    bench.data(1, 10, b"k").unwrap();
    bench.close(1, 20, CloseReason::SentEnd);
    bench.close(1, 20, CloseReason::Free);
    assert_eq!(
        bench.checker.log,
        [
            "open 1",
            "data 1 5",
            "lost 1 8..10",
            "data 1 10",
            "lost 1 11..20",
            "close 1 SentEnd",
            "close 1 Free"
        ]
    );
    assert_eq!(bench.stats.lost_bytes, 11);
}

#[test]
fn going_back_is_a_violation() {
    let mut bench = Bench::new(10);
    bench.open(1, (0, 0)).unwrap();
    bench.data(1, 0, b"abc").unwrap();
    let back = bench.data(1, 2, b"cd");
    assert!(matches!(
        back,
        Err(Violation::Backwards {
            expected: 3,
            offset: 2,
            ..
        })
    ));
    let lost = Body::Lost {
        direction: Direction::Sent,
        from: 1,
        to: 9,
    };
    assert!(bench.record(1, &lost).is_err());
    assert_eq!(bench.open(1, (0, 0)), Err(Violation::OpenedTwice(1)));
    assert_eq!(bench.data(2, 0, b"x"), Err(Violation::NeverOpened(2)));
}

#[test]
fn looks_belong_to_connections_that_are_open() {
    let mut bench = Bench::new(10);
    let mut writer = LookWriter::new(1);
    let look = writer.part(true).to_vec();
    let look = Body::Look(LookPart::parse(&look).unwrap());
    bench.record(1, &look).unwrap();
    assert_eq!(bench.stats.stray_records, 1);
    bench.open(1, (0, 0)).unwrap();
    bench.record(1, &look).unwrap();
    assert_eq!(bench.checker.log, ["open 1", "look 1 0"]);
    assert_eq!(bench.stats.stray_records, 1);
}

#[test]
fn rejected_early_data_begins_again_once() {
    let mut bench = Bench::new(10);
    let pending = Meta {
        early: EarlyData::Pending,
        ..Meta::new(Role::Client)
    };
    let rejected = Meta {
        early: EarlyData::Rejected,
        ..pending
    };
    bench.record(1, &Body::Open(pending)).unwrap();
    bench.data(1, 0, b"early").unwrap();
    bench.record(1, &Body::Update(rejected)).unwrap();
    bench.data(1, 0, b"again").unwrap();
    bench.checker.next.insert(1, [5, 0]); // the checker resets on each
    bench
        .tracker
        .record(
            1,
            MonotonicTime(0),
            &Body::Update(rejected),
            &mut bench.stats,
            &mut |_| {},
        )
        .unwrap();
    assert!(bench.data(1, 0, b"once more").is_err());
}

#[test]
fn late_and_surplus_records_are_left_out_and_counted() {
    let mut bench = Bench::new(1);
    bench.open(1, (0, 0)).unwrap();
    bench.open(2, (0, 0)).unwrap(); // one too many
    bench.data(2, 0, b"two").unwrap();
    bench.close(2, 3, CloseReason::Free);
    bench.close(1, 0, CloseReason::Free);
    bench.data(1, 0, b"late").unwrap();
    assert_eq!(bench.checker.log, ["open 1", "close 1 Free"]);
    assert_eq!(bench.stats.refused_connections, 1);
    assert_eq!(bench.stats.stray_bytes, 7);
    assert_eq!(bench.stats.stray_records, 1);
}

fn any_record() -> impl Strategy<Value = (u64, u8, u64, u64, u8)> {
    let offset = prop_oneof![4 => 0u64..200, 1 => any::<u64>()];
    (1u64..4, 0u8..14, offset.clone(), offset, any::<u8>())
}

proptest! {
    /// Whatever a hostile process writes, the events keep their promise.
    #[test]
    fn hostile_records_never_break_the_order(records in prop::collection::vec(any_record(), 1..200)) {
        let mut bench = Bench::new(2);
        for (connection, kind, one, other, small) in records {
            let direction = if small % 2 == 0 { Direction::Sent } else { Direction::Received };
            let bytes = vec![small; usize::from(small % 40) + 1];
            let early = [EarlyData::None, EarlyData::Pending, EarlyData::Accepted][usize::from(small % 3)];
            let meta = Meta { offsets: (one, other), early, ..Meta::new(Role::Client) };
            let reasons = [CloseReason::SentEnd, CloseReason::ReceivedEnd, CloseReason::Free, CloseReason::Abort];
            let body = match kind {
                0 => Body::Open(meta),
                1 => Body::Update(meta),
                2 => Body::Close { sent: one, received: other, reason: reasons[usize::from(small % 4)], forks: 0 },
                3 if one < other => Body::Lost { direction, from: one, to: other },
                _ => Body::Data {
                    direction,
                    offset: one.min(u64::MAX - bytes.len() as u64),
                    bytes: &bytes,
                },
            };
            // The tracker is asked to go on, as the ring's reader never would: still no disorder.
            let _ = bench.record(connection, &body);
        }
        prop_assert_eq!(bench.checker.text_bytes, bench.stats.text_bytes);
        let checker = &mut bench.checker;
        bench.tracker.died(MonotonicTime(0), Some(0), &mut |_| panic!("told before its children are heard"));
        for leaving in bench.tracker.take_leaving() {
            leaving.tell(MonotonicTime(0), &mut |event| checker.take(event));
        }
        prop_assert!(checker.next.is_empty());
    }
}

#[test]
fn text_that_its_process_was_killed_over_is_a_hole() {
    let mut bench = Bench::new(10);
    bench.open(1, (0, 0)).unwrap();
    bench.data(1, 0, b"abc").unwrap();
    let unfinished = |connection, offset| UnfinishedText {
        connection,
        flags: 0,
        offset,
        length: 10,
    };
    // Behind what found no room; with its offset not written yet; of nobody.
    for text in [unfinished(1, 5), unfinished(1, 0), unfinished(0, 0)] {
        let checker = &mut bench.checker;
        bench
            .tracker
            .unfinished(&text, MonotonicTime(0), &mut bench.stats, &mut |event| {
                checker.take(event);
            });
    }
    assert_eq!(
        bench.checker.log,
        ["open 1", "data 1 0", "lost 1 3..15", "lost 1 15..25"]
    );
    assert_eq!(bench.stats.lost_bytes, bench.checker.lost_bytes);
}

#[test]
fn a_connection_whose_open_was_lost_with_its_reader_is_counted() {
    let process = Arc::new(ProcessInfo {
        pid: 1,
        uid: 0,
        name: String::new(),
        ..ProcessInfo::default()
    });
    let bytes = &Body::Data {
        direction: Direction::Sent,
        offset: 5,
        bytes: b"abc",
    };
    let mut stats = IntakeStats::default();
    let sink: &mut Sink<'_> = &mut |event| panic!("{event:?}");
    let mut take =
        |tracker: &mut Tracker| tracker.record(9, MonotonicTime(0), bytes, &mut stats, sink);
    let fresh = || Tracker::new(1, Arc::clone(&process), None, 10);
    assert_eq!(take(&mut fresh()), Err(Violation::NeverOpened(9)));
    let saved = Saved {
        identity: Identity {
            message: AttachMessage {
                data_bytes: 1 << 16,
                instance: 1,
                parent_instance: None,
                parent_fork: 0,
                silent_forks: 0,
                name: [0; 16],
            },
            granted_bytes: 0,
            number: 1,
            process: ProcessInfo::clone(&process),
        },
        sessions: Vec::new(),
        highest: 8,
        last_ns: 0,
    };
    assert_eq!(take(&mut fresh().resume(&saved)), Ok(()));
    assert_eq!(stats.stray_bytes, 3);
}
