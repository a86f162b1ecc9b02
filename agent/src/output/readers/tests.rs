//! What readers get who come late, fall behind and leave, at every interleaving that proptest finds.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::streams::{End, flows};
use proptest::prelude::*;

use super::log::{Log, Writer};
use super::reader::{Counters, Reader, Step};
use super::stream::Stream;
use crate::event::{FlowChange, FlowEvent, FlowId, FlowSink, ResetCause, Side, WallTime};
use crate::forge::testing::info;
use crate::forge::{ForgeConfig, Mtu, SequenceKey, View};
use crate::output::CaptureFormat;

/// So little that most readers fall behind.
const LOG_BYTES: usize = 6_000;

#[derive(Clone, Debug)]
enum Act {
    Begin(u16),
    Data(u16, Side, usize),
    Hole(u16, Side, u64),
    Finish(u16, Side),
    Reset(u16, Side),
    Publish,
    /// A reader takes so many steps.
    Read(usize, usize),
    /// A reader leaves, and another comes.
    Anew(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Server)];
    let flow = 0..6_u16;
    let act = prop_oneof![
        4 => flow.clone().prop_map(Act::Begin),
        9 => (flow.clone(), side.clone(), 1..2500_usize).prop_map(|(f, s, n)| Act::Data(f, s, n)),
        1 => (flow.clone(), side.clone(), 1..5000_u64).prop_map(|(f, s, n)| Act::Hole(f, s, n)),
        2 => (flow.clone(), side.clone()).prop_map(|(f, s)| Act::Finish(f, s)),
        1 => (flow, side).prop_map(|(f, s)| Act::Reset(f, s)),
        6 => Just(Act::Publish),
        6 => (0..2_usize, 1..6_usize).prop_map(|(r, n)| Act::Read(r, n)),
        1 => (0..2_usize).prop_map(Act::Anew),
    ];
    prop::collection::vec(act, 1..200)
}

/// The byte at a place of what a side says in a flow.
fn byte(flow: u64, side: Side, offset: u64) -> u8 {
    let side = u64::from(side == Side::Server);
    let mixed = (flow * 2 + side).wrapping_mul(0x9e37_79b9) ^ offset.wrapping_mul(0x85eb_ca6b);
    ((mixed >> 13) ^ mixed).to_le_bytes()[0]
}

/// A flow as the application sees it.
#[derive(Default)]
struct Told {
    said: [u64; 2],
    /// Bytes of text, holes not among them.
    text: [u64; 2],
    finished: [bool; 2],
    over: bool,
}

struct Scene {
    writer: Writer,
    now: u64,
    /// By number; that of a slot is the last one begun there.
    told: HashMap<u64, Told>,
    slots: HashMap<u16, u64>,
}

impl Scene {
    fn event(&mut self, flow: u64, change: FlowChange<'_>) {
        self.now += 1_000;
        self.writer.flow_event(FlowEvent {
            flow,
            at: WallTime(self.now),
            change,
        });
    }

    /// The live flow in a slot, and one side of it that still speaks.
    fn live(&self, slot: u16, side: Side) -> Option<(u64, &Told)> {
        let number = *self.slots.get(&slot)?;
        let told = &self.told[&number];
        (!told.over && !told.finished[side as usize]).then_some((number, told))
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Begin(slot) => {
                if self.live(slot, Side::Client).is_some()
                    || self.live(slot, Side::Server).is_some()
                {
                    return;
                }
                let number = self.told.len() as u64;
                self.told.insert(number, Told::default());
                self.slots.insert(slot, number);
                // Its own port: what is read later is found by it.
                let mut info = info(&format!("10.0.0.1:{}", 1000 + number), "10.0.0.2:443");
                info.id = FlowId([u8::try_from(number).unwrap(); 16]);
                self.event(number, FlowChange::Begin(&info));
            }
            Act::Data(slot, from, length) => {
                let Some((number, told)) = self.live(slot, from) else {
                    return;
                };
                let offset = told.said[from as usize];
                let bytes: Vec<u8> = (offset..offset + length as u64)
                    .map(|at| byte(number, from, at))
                    .collect();
                let told = self.told.get_mut(&number).unwrap();
                told.said[from as usize] += length as u64;
                told.text[from as usize] += length as u64;
                self.event(
                    number,
                    FlowChange::Data {
                        from,
                        offset,
                        bytes: &bytes,
                    },
                );
            }
            Act::Hole(slot, from, bytes) => {
                let Some((number, told)) = self.live(slot, from) else {
                    return;
                };
                let offset = told.said[from as usize];
                self.told.get_mut(&number).unwrap().said[from as usize] += bytes;
                self.event(
                    number,
                    FlowChange::Hole {
                        from,
                        offset,
                        bytes,
                    },
                );
            }
            Act::Finish(slot, from) => {
                let Some((number, _)) = self.live(slot, from) else {
                    return;
                };
                let told = self.told.get_mut(&number).unwrap();
                told.finished[from as usize] = true;
                told.over = told.finished == [true, true];
                self.event(number, FlowChange::Finish { from });
            }
            Act::Reset(slot, by) => {
                let Some((number, _)) = self.live(slot, by) else {
                    return;
                };
                self.told.get_mut(&number).unwrap().over = true;
                let cause = ResetCause::Abort;
                self.event(number, FlowChange::Reset { by, cause });
            }
            Act::Publish => self.writer.publish(WallTime(self.now)),
            Act::Read(..) | Act::Anew(_) => {}
        }
    }
}

struct Watcher {
    reader: Reader<Vec<u8>>,
    counters: Arc<Counters>,
    from_the_beginning: bool,
}

impl Watcher {
    fn new(log: &Arc<Log>, from_the_beginning: bool) -> Self {
        let config = ForgeConfig {
            key: SequenceKey::new([1; 16]),
            mtu: Mtu::default(),
            view: View::default(),
        };
        let counters = Arc::new(Counters::default());
        let format = CaptureFormat::Pcapng;
        let reader = Reader::new(log, config, format, Vec::new(), &counters).unwrap();
        Self {
            reader,
            counters,
            from_the_beginning,
        }
    }

    fn read(&mut self, steps: usize) {
        for _ in 0..steps {
            if self.reader.step().unwrap() != Step::More {
                break;
            }
        }
    }

    /// Reads all that is left, and compares every byte with what was said at its place.
    fn check(mut self, told: &HashMap<u64, Told>) {
        while self.reader.step().unwrap() != Step::End {}
        let capture = Capture::parse(self.reader.writer_mut()).unwrap();
        let violations = rules::check(&capture);
        assert!(violations.is_empty(), "{violations:#?}");
        let missed = self
            .counters
            .missed_bytes
            .load(std::sync::atomic::Ordering::Relaxed);
        let mut shown = 0;
        for flow in flows(&capture).unwrap() {
            let number = u64::from(flow.client.port()) - 1000;
            let told = &told[&number];
            for (side, stream) in [
                (Side::Client, &flow.request),
                (Side::Server, &flow.response),
            ] {
                let begin = offset(&flow.comment, side);
                let truth: Vec<u8> = (begin..told.said[side as usize])
                    .map(|at| byte(number, side, at))
                    .collect();
                assert_eq!(
                    stream.difference_at_beginning(&truth),
                    None,
                    "{}",
                    flow.comment
                );
                shown += stream.length() - stream.missing();
            }
            assert_ne!(flow.end, End::Open, "{}", flow.comment);
        }
        if self.from_the_beginning {
            // Not a byte is missing that isn't counted.
            let text: u64 = told.values().flat_map(|told| told.text).sum();
            assert_eq!(shown + missed, text);
        }
    }
}

/// Where a conversation begins in what a side says, as its comment tells.
fn offset(comment: &str, side: Side) -> u64 {
    let name = match side {
        Side::Client => "client_offset=",
        Side::Server => "server_offset=",
    };
    let found = comment.split(' ').find_map(|word| word.strip_prefix(name));
    found.map_or(0, |digits| digits.parse().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_byte_is_at_its_place_or_in_a_hole(acts in acts()) {
        let log = Arc::new(Log::new(LOG_BYTES));
        let writer = Writer::new(&log);
        let mut scene = Scene { writer, now: 1_000_000, told: HashMap::new(), slots: HashMap::new() };
        let mut watchers: Vec<_> = (0..2).map(|_| Some(Watcher::new(&log, true))).collect();
        let mut gone = Vec::new();
        for act in &acts {
            scene.act(act);
            match *act {
                Act::Read(which, steps) => watchers[which].as_mut().unwrap().read(steps),
                Act::Anew(which) => {
                    gone.extend(watchers[which].take());
                    watchers[which] = Some(Watcher::new(&log, false));
                    // One that is gone hears the end like the others here; so the log is never without a reader.
                }
                _ => {}
            }
            prop_assert!(log.held_bytes() <= LOG_BYTES);
        }
        scene.writer.end(WallTime(scene.now + 1));
        for watcher in watchers.into_iter().flatten().chain(gone) {
            watcher.check(&scene.told);
        }
        prop_assert_eq!(log.held_bytes(), 0);
    }
}

/// While nobody reads nothing is kept, and who comes then gets what is live.
#[test]
fn nobody_reads() {
    let log = Arc::new(Log::new(1 << 20));
    let mut scene = Scene {
        writer: Writer::new(&log),
        now: 1_000_000,
        told: HashMap::new(),
        slots: HashMap::new(),
    };
    for act in [
        Act::Begin(0),
        Act::Begin(1),
        Act::Data(0, Side::Client, 700),
        Act::Finish(1, Side::Client),
    ] {
        scene.act(&act);
    }
    scene.act(&Act::Publish);
    assert_eq!(log.held_bytes(), 0);
    scene.act(&Act::Data(0, Side::Server, 900));
    // Comes while a chunk without text is filled.
    let mut late = Watcher::new(&log, false);
    late.read(3);
    scene.act(&Act::Publish);
    late.read(3);
    for act in [
        Act::Data(0, Side::Client, 80),
        Act::Finish(1, Side::Server),
        Act::Publish,
    ] {
        scene.act(&act);
    }
    scene.writer.end(WallTime(scene.now + 1));
    while late.reader.step().unwrap() != Step::End {}
    let capture = Capture::parse(late.reader.writer_mut()).unwrap();
    let flows = flows(&capture).unwrap();
    let [flow] = &flows[..] else {
        panic!("{flows:?}")
    };
    assert!(
        flow.comment
            .contains("restarted=1 client_offset=700 server_offset=900"),
        "{}",
        flow.comment
    );
    assert_eq!(flow.request.length(), 80);
    late.check(&scene.told);
}

fn config() -> ForgeConfig {
    ForgeConfig {
        key: SequenceKey::new([7; 16]),
        mtu: Mtu::default(),
        view: View::default(),
    }
}

/// A flow begins, or goes on with 1,000 bytes; handed on at once.
fn tell(writer: &mut Writer, thousand: Option<u64>) {
    let flow = info("10.0.0.1:40000", "10.0.0.2:443");
    let (at, change) = match thousand {
        None => (1, FlowChange::Begin(&flow)),
        Some(number) => {
            let data = FlowChange::Data {
                from: Side::Client,
                offset: number * 1000,
                bytes: &[7; 1000],
            };
            (2 + number, data)
        }
    };
    let at = WallTime(at);
    writer.flow_event(FlowEvent {
        flow: 1,
        at,
        change,
    });
    writer.publish(at);
}

#[test]
fn what_a_reader_misses_is_known_while_it_stands_still() {
    let log = Arc::new(Log::new(LOG_BYTES));
    let mut writer = Writer::new(&log);
    let counters = Arc::new(Counters::default());
    let format = CaptureFormat::Pcapng;
    let mut reader = Reader::new(&log, config(), format, Vec::new(), &counters).unwrap();
    tell(&mut writer, None);
    assert_eq!(reader.step().unwrap(), Step::More);
    assert_eq!(counters.missed(&log), (0, 0));
    (0..20).for_each(|number| tell(&mut writer, Some(number)));
    // It hasn't taken a step, and everybody knows.
    assert_eq!(counters.missed(&log), (1, 20_000));
    assert_eq!(reader.step().unwrap(), Step::More);
    assert_eq!(counters.missed(&log), (1, 20_000));
    assert_eq!(counters.misses(&log), Some(0));
}

#[test]
fn what_a_reader_leaves_behind_is_counted() {
    // What was told before it leaves; missed, waiting.
    for (told, expected) in [(3, (0, 0, 3_000)), (20, (1, 20_000, 0))] {
        let log = Arc::new(Log::new(LOG_BYTES));
        let mut writer = Writer::new(&log);
        let counters = Arc::new(Counters::default());
        let format = CaptureFormat::Pcapng;
        let mut reader = Reader::new(&log, config(), format, Vec::new(), &counters).unwrap();
        tell(&mut writer, None);
        assert_eq!(reader.step().unwrap(), Step::More);
        (0..told).for_each(|number| tell(&mut writer, Some(number)));
        drop(reader);
        let (behind, missed) = counters.missed(&log);
        assert_eq!((behind, missed, counters.unread(&log)), expected);
        // What comes later isn't its loss.
        tell(&mut writer, Some(told));
        assert_eq!(counters.missed(&log), (behind, missed));
        assert_eq!(log.held_bytes(), 0);
    }
}

/// Who stands still and then goes away doesn't read on.
#[test]
fn a_reader_that_is_gone_is_said_to_be() {
    let (theirs, ours) = std::io::pipe().unwrap();
    let ours = std::os::fd::OwnedFd::from(ours).into();
    let mut stream = Stream::new("a pipe", ours, config());
    let flow = info("10.0.0.1:40000", "10.0.0.2:443");
    let event = |change| FlowEvent {
        flow: 1,
        at: WallTime(1),
        change,
    };
    stream.flow_event(event(FlowChange::Begin(&flow)));
    let mut said = Vec::new();
    let mut offset = 0;
    while !said
        .iter()
        .any(|line: &String| line.contains("stands still"))
    {
        let bytes = &[7; 1 << 20];
        stream.flow_event(event(FlowChange::Data {
            from: Side::Client,
            offset,
            bytes,
        }));
        offset += bytes.len() as u64;
        stream.release(WallTime(1)).unwrap();
        said.extend(stream.take_complaints());
    }
    drop(theirs);
    let error = loop {
        if let Err(error) = stream.release(WallTime(1)) {
            break error;
        }
    };
    said.extend(stream.take_complaints());
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].contains("its reader is gone"), "{said:?}");
    let stats = stream.stats();
    assert_eq!(stats.behind, 1);
    assert!(stats.missed_bytes > 32 << 20, "{stats:?}");
}
