//! Outbox and window against a receiver that is cut off, forgets everything, and acknowledges when it likes.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use proptest::prelude::*;

use super::SharedWindow;
use super::batch::tests::info;
use super::batch::{BatchReader, MAX_BATCH_BYTES, TunnelChange, partition};
use super::frame::{Batch, Resume};
use super::outbox::{Outbox, OutboxStats};
use super::shadow::index;
use super::window::{Outgoing, Window};
use crate::event::{FlowChange, FlowEvent, FlowSink, ResetCause, Side, WallTime};

#[derive(Clone, Debug)]
enum Step {
    Begin(u8),
    Data(usize, Side, usize),
    Hole(usize, Side, u64),
    Finish(usize, Side),
    Reset(usize, Side),
    Flush,
    /// So many frames arrive.
    Arrive(usize),
    /// So many are lost, and with them the connection.
    Cut(usize),
    /// All that has arrived is acknowledged.
    Ack,
    /// The receiver that has these flows is gone.
    Forget,
    /// A batch goes to the disk.
    Store,
    /// One comes back.
    Load,
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let data = prop_oneof![5 => 1..200_usize, 1 => 1..16_385_usize];
    let step = prop_oneof![
        3 => (0..=255_u8).prop_map(Step::Begin),
        12 => (any::<usize>(), side(), data).prop_map(|(flow, side, bytes)| Step::Data(flow, side, bytes)),
        1 => (any::<usize>(), side(), 1..5000_u64).prop_map(|(flow, side, bytes)| Step::Hole(flow, side, bytes)),
        2 => (any::<usize>(), side()).prop_map(|(flow, side)| Step::Finish(flow, side)),
        1 => (any::<usize>(), side()).prop_map(|(flow, side)| Step::Reset(flow, side)),
        5 => Just(Step::Flush),
        5 => (0..20_usize).prop_map(Step::Arrive),
        1 => (0..5_usize).prop_map(Step::Cut),
        3 => Just(Step::Ack),
        1 => Just(Step::Forget),
        3 => Just(Step::Store),
        3 => Just(Step::Load),
    ];
    prop::collection::vec(step, 1..300)
}

/// What a side says at an offset: of one flow, side and place only.
fn text(flow: u64, side: Side, offset: u64) -> u8 {
    let at = flow * 31 + index(side) as u64 * 7 + offset * 13 + offset / 251;
    at.to_le_bytes()[0]
}

/// A flow as it is at its source.
#[derive(Debug, Default)]
struct Said {
    offsets: [u64; 2],
    finished: [bool; 2],
    ended: bool,
    /// Pieces of text: first offset, and the one behind the last.
    text: [Vec<(u64, u64)>; 2],
}

/// One life of a receiver.
#[derive(Debug, Default)]
struct Receiver {
    /// Nothing is known of the sender.
    blank: bool,
    in_preamble: bool,
    next: u64,
    flows: HashMap<u64, ([u64; 2], [bool; 2])>,
}

struct Trial {
    window: SharedWindow,
    outbox: Outbox,
    receiver: Receiver,
    said: BTreeMap<u64, Said>,
    /// Text that has come: by flow and side, pieces that don't overlap within one life.
    heard: HashMap<(u64, usize), Vec<(u64, u64)>>,
    now: u64,
    disk: VecDeque<(u16, Bytes)>,
}

impl Trial {
    fn new(limit: u64) -> Self {
        let window = SharedWindow::new(Window::new(limit));
        let mut trial = Self {
            outbox: Outbox::new(vec![window.clone()]),
            window,
            receiver: Receiver {
                blank: true,
                ..Receiver::default()
            },
            said: BTreeMap::new(),
            heard: HashMap::new(),
            now: 0,
            disk: VecDeque::new(),
        };
        trial.connect();
        trial
    }

    fn connect(&mut self) {
        let receiver = &mut self.receiver;
        let resume = match receiver.blank || receiver.in_preamble {
            true => {
                *receiver = Receiver {
                    in_preamble: true,
                    next: self.window.lock().oldest(),
                    ..Receiver::default()
                };
                Resume::Anew
            }
            false => Resume::From(receiver.next),
        };
        self.window.lock().resume(resume).unwrap();
    }

    fn live(&self, at: usize) -> Option<u64> {
        let live: Vec<_> = self.said.iter().filter(|(_, said)| !said.ended).collect();
        (!live.is_empty()).then(|| *live[at % live.len()].0)
    }

    fn say(&mut self, flow: u64, change: FlowChange<'_>) {
        self.now += 1;
        let at = WallTime(self.now);
        self.outbox.flow_event(FlowEvent { flow, at, change });
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Begin(number) => {
                let flow = self.said.len() as u64 + 1;
                self.said.insert(flow, Said::default());
                self.say(flow, FlowChange::Begin(&info(number)));
            }
            Step::Data(flow, from, length) => {
                let Some(flow) = self.live(flow) else { return };
                let said = self.said.get_mut(&flow).unwrap();
                if said.finished[index(from)] {
                    return;
                }
                let offset = said.offsets[index(from)];
                let end = offset + length as u64;
                said.offsets[index(from)] = end;
                said.text[index(from)].push((offset, end));
                let bytes: Vec<u8> = (offset..end).map(|at| text(flow, from, at)).collect();
                let bytes = &bytes;
                self.say(
                    flow,
                    FlowChange::Data {
                        from,
                        offset,
                        bytes,
                    },
                );
            }
            Step::Hole(flow, from, bytes) => {
                let Some(flow) = self.live(flow) else { return };
                let said = self.said.get_mut(&flow).unwrap();
                if said.finished[index(from)] {
                    return;
                }
                let offset = said.offsets[index(from)];
                said.offsets[index(from)] += bytes;
                self.say(
                    flow,
                    FlowChange::Hole {
                        from,
                        offset,
                        bytes,
                    },
                );
            }
            Step::Finish(flow, from) => {
                let Some(flow) = self.live(flow) else { return };
                let said = self.said.get_mut(&flow).unwrap();
                if std::mem::replace(&mut said.finished[index(from)], true) {
                    return;
                }
                said.ended = said.finished == [true; 2];
                self.say(flow, FlowChange::Finish { from });
            }
            Step::Reset(flow, by) => {
                let Some(flow) = self.live(flow) else { return };
                self.said.get_mut(&flow).unwrap().ended = true;
                let cause = ResetCause::Abort;
                self.say(flow, FlowChange::Reset { by, cause });
            }
            Step::Flush => self.outbox.flush(),
            Step::Arrive(frames) => {
                for _ in 0..frames {
                    if !self.arrive() {
                        break;
                    }
                }
            }
            Step::Cut(lost) => {
                for _ in 0..lost {
                    let _ = self.window.lock().outgoing();
                }
                self.connect();
            }
            Step::Ack => {
                if !self.receiver.in_preamble {
                    let through = self.receiver.next - 1;
                    self.window.lock().ack(through).unwrap();
                }
            }
            Step::Forget => {
                self.receiver.blank = true;
                self.connect();
            }
            Step::Store => {
                let mut window = self.window.lock();
                if let Some(batch) = window.to_store() {
                    assert!(window.stored(batch.seq));
                    self.disk.push_back((batch.partition, batch.events));
                }
            }
            Step::Load => {
                let mut window = self.window.lock();
                if window.wants_load() {
                    let (partition, events) = self.disk.pop_front().unwrap();
                    window.loaded(partition, Some(events));
                }
            }
        }
    }

    fn arrive(&mut self) -> bool {
        let outgoing = self.window.lock().outgoing();
        match outgoing {
            None => return false,
            Some(Outgoing::PreambleEnd) => {
                assert!(
                    std::mem::take(&mut self.receiver.in_preamble),
                    "a preamble ends twice"
                );
            }
            Some(Outgoing::Batch(batch)) => {
                let expected = match self.receiver.in_preamble {
                    true => 0,
                    false => self.receiver.next,
                };
                assert_eq!(batch.seq, expected);
                self.receiver.next += u64::from(batch.seq > 0);
                self.hear(&batch);
            }
        }
        true
    }

    fn hear(&mut self, batch: &Batch) {
        for event in BatchReader::new(&batch.events) {
            let event = event.unwrap();
            let flow = event.flow;
            if let TunnelChange::Begin(begin) = event.change {
                assert_eq!(partition(&begin.info.id), batch.partition);
                let known = (
                    [begin.base.0, begin.base.1],
                    [begin.finished.0, begin.finished.1],
                );
                let before = self.receiver.flows.insert(flow, known);
                assert!(before.is_none(), "flow {flow} begins twice");
                continue;
            }
            let known = self
                .receiver
                .flows
                .get_mut(&flow)
                .expect("a flow that has begun");
            match event.change {
                TunnelChange::Begin(_) => unreachable!(),
                TunnelChange::Data {
                    from,
                    offset,
                    bytes,
                } => {
                    let side = index(from);
                    assert!(!known.1[side], "flow {flow} has finished");
                    assert!(
                        offset >= known.0[side],
                        "flow {flow} says something twice at {offset}"
                    );
                    let end = offset + bytes.len() as u64;
                    let right = (offset..end)
                        .zip(bytes)
                        .all(|(at, byte)| text(flow, from, at) == *byte);
                    assert!(right, "flow {flow}: other text at {offset}");
                    known.0[side] = end;
                    self.heard
                        .entry((flow, side))
                        .or_default()
                        .push((offset, end));
                }
                TunnelChange::Hole {
                    from,
                    offset,
                    bytes,
                } => {
                    assert!(offset >= known.0[index(from)]);
                    known.0[index(from)] = offset + bytes;
                }
                TunnelChange::Finish { from, offset } => {
                    assert!(offset >= known.0[index(from)]);
                    assert_eq!(offset, self.said[&flow].offsets[index(from)]);
                    known.0[index(from)] = offset;
                    known.1[index(from)] = true;
                    if known.1 == [true; 2] {
                        self.receiver.flows.remove(&flow);
                    }
                }
                TunnelChange::Reset { offsets, .. } => {
                    assert_eq!([offsets.0, offsets.1], self.said[&flow].offsets);
                    self.receiver.flows.remove(&flow);
                }
            }
        }
    }

    fn check_bound(&self, limit: u64) {
        let stats = self.window.lock().stats();
        assert!(
            stats.waiting_bytes <= limit,
            "{} bytes wait",
            stats.waiting_bytes
        );
    }

    /// Lets everything arrive, and compares.
    fn settle(mut self) -> OutboxStats {
        self.outbox.flush();
        for round in 0.. {
            while self.arrive() {}
            self.step(&Step::Ack);
            self.step(&Step::Load);
            if self.window.lock().is_empty() {
                break;
            }
            assert!(round < 10_000, "it never ends");
        }
        let stats = self.outbox.stats();
        let mut missing = 0;
        for (flow, said) in &self.said {
            for side in 0..2 {
                let empty = Vec::new();
                let heard = self.heard.get(&(*flow, side)).unwrap_or(&empty);
                let missed = |piece: &&(u64, u64)| !heard.contains(piece);
                let missed: u64 = said.text[side]
                    .iter()
                    .filter(missed)
                    .map(|(from, to)| to - from)
                    .sum();
                missing += missed;
            }
        }
        assert_eq!(missing, stats.dropped_bytes, "{stats:?}");
        let live = self.said.values().filter(|said| !said.ended).count();
        assert_eq!(stats.live_flows, live);
        if stats.dropped_flows == 0 {
            assert_eq!(self.receiver.flows.len(), live);
            assert_eq!(self.window.lock().stats().live_flows, live);
        }
        assert!(
            stats.dropped_holes == 0 || stats.dropped_bytes > 0,
            "{stats:?}"
        );
        stats
    }
}

fn run(limit: u64, spools: bool, steps: &[Step]) -> OutboxStats {
    let mut trial = Trial::new(limit);
    if spools {
        trial.window.lock().begin_to_spool();
    }
    for step in steps {
        trial.step(step);
        trial.check_bound(limit + if spools { MAX_BATCH_BYTES as u64 } else { 0 });
    }
    trial.settle()
}

proptest! {
    #[test]
    fn what_fits_arrives_once_and_in_its_place(steps in steps()) {
        let stats = run(64 << 20, false, &steps);
        prop_assert_eq!((stats.dropped_bytes, stats.dropped_flows, stats.dropped_holes), (0, 0, 0));
    }

    #[test]
    fn what_does_not_fit_is_a_gap_and_counted(steps in steps(), limit in 0..60_000_u64, spools: bool) {
        run(limit, spools, &steps);
    }
}

#[test]
fn text_leaves_room_for_beginnings_and_ends() {
    let limit = 64 * 1024;
    let mut trial = Trial::new(limit);
    for number in 0..8 {
        trial.step(&Step::Begin(number));
        for _ in 0..10 {
            trial.step(&Step::Data(usize::from(number), Side::Client, 16_384));
        }
        trial.step(&Step::Flush);
    }
    for _ in 0..8 {
        trial.step(&Step::Finish(0, Side::Client));
        trial.step(&Step::Finish(0, Side::Server));
        trial.check_bound(limit);
    }
    let stats = trial.settle();
    assert_eq!((stats.flows, stats.dropped_flows), (8, 0));
    assert_eq!(stats.dropped_bytes, 80 * 16_384 - 3 * 16_384);
    assert_eq!(stats.dropped_holes, 8);
}

#[test]
fn nothing_that_was_never_sent_is_acknowledged_or_wanted() {
    let mut trial = Trial::new(1 << 20);
    trial.step(&Step::Begin(1));
    trial.step(&Step::Flush);
    let mut window = trial.window.lock();
    assert!(window.ack(1).is_err());
    assert!(window.ack_one(1).is_err());
    assert!(window.resume(Resume::From(2)).is_err());
    assert!(window.resume(Resume::From(0)).is_err());
    window.resume(Resume::From(1)).unwrap();
    assert!(matches!(window.outgoing(), Some(Outgoing::Batch(_))));
    window.ack(1).unwrap();
    // Twice is nothing new.
    window.ack(1).unwrap();
    assert!(window.is_empty());
}

#[test]
fn batches_may_be_acknowledged_in_any_order() {
    let mut trial = Trial::new(1 << 20);
    for number in 0..4 {
        trial.step(&Step::Begin(number));
        trial.step(&Step::Flush);
    }
    let mut window = trial.window.lock();
    while window.outgoing().is_some() {}
    for (number, oldest) in [(3, 1), (2, 1), (1, 4), (4, 5)] {
        window.ack_one(number).unwrap();
        assert_eq!(window.oldest(), oldest);
    }
    assert_eq!(window.stats().live_flows, 4);
}
