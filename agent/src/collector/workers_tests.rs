//! Workers: what passes through, what is acknowledged, what is refused.

use mirror_hook::event::Role;

use super::*;
use crate::clock;
use crate::collector::feed::{Acknowledge, Receipt, UnreadableBatch};
use crate::collector::testing::{Checker, End, flow, text};
use crate::event::{FlowEvent, FlowId, Side};
use crate::tunnel::batch::{BatchWriter, Begin, TunnelChange, TunnelEvent, partition};
use crate::tunnel::frame::Batch;

/// The checker, for the test to look into.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Checker>>);

impl FlowSink for Seen {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.0.lock().unwrap().flow_event(event);
    }
}

impl Outlet for Seen {
    fn release(&mut self, _: WallTime) -> bool {
        true
    }
    fn turn_over(&mut self, _: WallTime) {}
    fn finish(&mut self, _: WallTime) -> bool {
        true
    }
    fn report(&mut self) {}
}

#[derive(Debug)]
struct Answers(Mutex<mpsc::Sender<Result<u64, UnreadableBatch>>>);

impl Acknowledge for Answers {
    fn done(&self, seq: u64) {
        self.0.lock().unwrap().send(Ok(seq)).unwrap();
    }
    fn refused(&self, _: u64, error: &UnreadableBatch) {
        self.0.lock().unwrap().send(Err(*error)).unwrap();
    }
}

fn batch(id: FlowId, role: Role, pieces: u64, compressed: bool) -> Batch {
    let mut writer = BatchWriter::default();
    let said = text(id, Side::Client, 0, pieces * 1000);
    let mut push = |change| {
        let at = clock::wall_now();
        assert!(writer.push(&TunnelEvent {
            flow: 1,
            at,
            change
        }));
    };
    push(TunnelChange::Begin(Box::new(Begin {
        info: flow(id.0[0], role),
        base: (0, 0),
        finished: (false, false),
    })));
    for (piece, bytes) in said.chunks(1000).enumerate() {
        push(TunnelChange::Data {
            from: Side::Client,
            offset: piece as u64 * 1000,
            bytes,
        });
    }
    for (from, offset) in [(Side::Client, pieces * 1000), (Side::Server, 0)] {
        push(TunnelChange::Finish { from, offset });
    }
    let events = writer.take();
    let event_bytes = u32::try_from(events.len()).unwrap();
    let packed = || zstd::bulk::compress(&events, 1).unwrap().into();
    Batch {
        seq: 1,
        partition: partition(&id),
        event_bytes,
        compressed,
        events: if compressed { packed() } else { events.clone() },
    }
}

fn push(feed: &Feed, batch: Batch, to: &Arc<Answers>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let room = runtime.block_on(feed.room(batch.event_bytes)).unwrap();
    let (to, seq) = (Arc::clone(to) as Arc<dyn Acknowledge>, batch.seq);
    feed.push(batch, room, Receipt { to, seq });
}

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn both_ends_on_two_hosts_are_one_flow_and_each_batch_is_acknowledged() {
    let seen: [Seen; 2] = Default::default();
    let outlets = seen.clone();
    let open = move |number: usize| Ok::<_, String>(outlets[number].clone());
    let config = WorkersConfig {
        workers: 2,
        ..WorkersConfig::default()
    };
    let workers = Workers::start(&config, open).unwrap();
    let (answer, answers) = mpsc::channel();
    let to = Arc::new(Answers(Mutex::new(answer)));
    for (number, role) in [(1, Role::Client), (2, Role::Server)] {
        let feed = workers.feed(Arc::new(Agent::new(number, "host", None)));
        for id in 0..10 {
            let compressed = id % 2 == 0;
            push(&feed, batch(FlowId([id; 16]), role, 50, compressed), &to);
        }
    }
    for _ in 0..20 {
        assert_eq!(
            answers.recv_timeout(PATIENCE),
            Ok(Ok(1)),
            "an acknowledgement"
        );
    }
    let reports = workers.finish(PATIENCE);
    assert_eq!(reports.len(), 2);
    let flows: Vec<_> = seen
        .iter()
        .flat_map(|seen| std::mem::take(&mut seen.0.lock().unwrap().flows).into_values())
        .collect();
    assert_eq!(flows.len(), 10);
    let whole = |seen: &crate::collector::testing::Seen| {
        seen.delivered == 50_000 && seen.end == End::Finished
    };
    assert!(flows.iter().all(whole), "{flows:?}");
}

/// An outlet that holds back what is from then on.
#[derive(Clone, Default)]
struct Holding(Arc<Mutex<Option<WallTime>>>);

impl FlowSink for Holding {
    fn flow_event(&mut self, _: FlowEvent<'_>) {}
}

impl Outlet for Holding {
    fn release(&mut self, _: WallTime) -> bool {
        true
    }
    fn oldest_held(&self) -> Option<WallTime> {
        *self.0.lock().unwrap()
    }
    fn turn_over(&mut self, _: WallTime) {}
    fn finish(&mut self, _: WallTime) -> bool {
        true
    }
    fn report(&mut self) {}
}

#[test]
fn what_an_outlet_holds_back_is_not_acknowledged() {
    for reorder_ns in [0, 1] {
        let outlet = Holding::default();
        *outlet.0.lock().unwrap() = Some(WallTime(1));
        let held = Arc::clone(&outlet.0);
        let config = WorkersConfig {
            reorder_ns,
            ..WorkersConfig::default()
        };
        let workers = Workers::start(&config, move |_| Ok::<_, String>(outlet.clone())).unwrap();
        let (answer, answers) = mpsc::channel();
        let to = Arc::new(Answers(Mutex::new(answer)));
        let feed = workers.feed(Arc::new(Agent::new(1, "host", None)));
        push(&feed, batch(FlowId([1; 16]), Role::Client, 1, false), &to);
        // A report comes behind what was pushed before it, the second one behind a whole turn.
        for _ in 0..2 {
            assert_eq!(workers.report(PATIENCE).len(), 1);
        }
        assert!(answers.try_recv().is_err());
        *held.lock().unwrap() = None;
        assert_eq!(answers.recv_timeout(PATIENCE), Ok(Ok(1)));
        workers.finish(PATIENCE);
    }
}

#[test]
fn what_cannot_be_read_is_refused_and_ends_its_source_only() {
    let seen = Seen::default();
    let outlet = seen.clone();
    let open = move |_| Ok::<_, String>(outlet.clone());
    let workers = Workers::start(&WorkersConfig::default(), open).unwrap();
    let (answer, answers) = mpsc::channel();
    let to = Arc::new(Answers(Mutex::new(answer)));
    let feeds = [1, 2].map(|number| workers.feed(Arc::new(Agent::new(number, "host", None))));
    let mut lie = batch(FlowId([1; 16]), Role::Client, 1, true);
    lie.event_bytes += 1;
    push(&feeds[0], lie, &to);
    let mut cut = batch(FlowId([2; 16]), Role::Client, 1, false);
    cut.events.truncate(cut.events.len() - 1);
    push(&feeds[0], cut.clone(), &to);
    push(&feeds[1], cut, &to);
    let good = batch(FlowId([3; 16]), Role::Client, 1, false);
    push(&feeds[0], good.clone(), &to);
    let feed = workers.feed(Arc::new(Agent::new(3, "host", None)));
    push(&feed, good, &to);
    let mut answers: Vec<_> = (0..3)
        .map(|_| answers.recv_timeout(PATIENCE).unwrap())
        .collect();
    answers.sort_by_key(|answer| format!("{answer:?}"));
    let truncated = crate::tunnel::batch::BatchError::Truncated;
    let expected = [
        Err(UnreadableBatch::Compressed),
        Err(UnreadableBatch::Events(truncated)),
        Ok(1),
    ];
    answers.sort_by_key(Result::is_ok);
    assert_eq!(answers, expected);
    workers.finish(PATIENCE);
    let flows = &seen.0.lock().unwrap().flows;
    // One began before the fault, and is reset.
    assert_eq!(flows.len(), 2);
    assert!(flows.values().all(|seen| seen.end != End::Open));
}

#[test]
fn an_outlet_that_cannot_be_opened_says_why() {
    let open = |number| match number {
        0 => Ok(Seen::default()),
        _ => Err("no room".to_owned()),
    };
    let config = WorkersConfig {
        workers: 2,
        ..WorkersConfig::default()
    };
    let error = Workers::start(&config, open).err();
    assert_eq!(error.as_deref(), Some("no room"));
}
