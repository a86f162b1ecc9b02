//! Two copies of one connection against what was really said.

use mirror_hook::event::{Announcement, Role};
use proptest::prelude::*;

use super::*;
use crate::collector::testing::{Checker, End, flow, text};
use crate::event::{ResetCause, Side};

const ID: FlowId = FlowId([3; 16]);
const MS: u64 = 1_000_000;

fn reset(by: Side) -> FlowChange<'static> {
    let cause = ResetCause::Abort;
    FlowChange::Reset { by, cause }
}

struct Bench {
    merge: Merge,
    seen: Checker,
    now: u64,
}

impl Bench {
    fn new() -> Self {
        Self {
            merge: Merge::new(MergeConfig::default()),
            seen: Checker::default(),
            now: 1_000_000_000_000,
        }
    }

    fn say(&mut self, copy: u64, change: FlowChange<'_>) {
        self.merge.batch(self.now, WallTime(self.now));
        let event = FlowEvent {
            flow: copy,
            at: WallTime(self.now),
            change,
        };
        self.merge.copy_event(copy, event, &mut self.seen);
    }

    fn data(&mut self, copy: u64, from: Side, offset: u64, bytes: u64) {
        let bytes = &text(ID, from, offset, bytes);
        self.say(
            copy,
            FlowChange::Data {
                from,
                offset,
                bytes,
            },
        );
    }

    fn hole(&mut self, copy: u64, from: Side, offset: u64, bytes: u64) {
        self.say(
            copy,
            FlowChange::Hole {
                from,
                offset,
                bytes,
            },
        );
    }

    fn finish(&mut self, copy: u64) {
        for from in [Side::Client, Side::Server] {
            self.say(copy, FlowChange::Finish { from });
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms * MS;
        self.merge.expire(WallTime(self.now), &mut self.seen);
    }

    fn begin_of(&mut self, agent: u64, copy: u64, info: &FlowInfo) {
        let event = FlowEvent {
            flow: copy,
            at: WallTime(self.now),
            change: FlowChange::Begin(info),
        };
        self.merge.copy_event(agent, event, &mut self.seen);
    }

    fn begin_both(&mut self) {
        self.say(1, FlowChange::Begin(&flow(3, Role::Client)));
        self.say(2, FlowChange::Begin(&flow(3, Role::Server)));
    }

    fn is_empty(&self) -> bool {
        let merge = &self.merge;
        let rest = merge.copies.len() + merge.flows.len() + merge.by_id.len() + merge.stalled.len();
        rest + merge.held_bytes == 0
    }
}

use Side::{Client, Server};

#[test]
fn two_copies_are_one_flow() {
    let mut bench = Bench::new();
    bench.begin_both();
    bench.data(2, Client, 0, 10);
    bench.data(1, Client, 0, 10);
    bench.data(2, Server, 0, 100_000 % 16_384);
    bench.data(1, Server, 0, 5);
    bench.data(1, Server, 5, 100_000 % 16_384 - 5);
    bench.finish(1);
    assert_eq!(bench.seen.only().end, End::Open, "the server knows better");
    bench.finish(2);
    let seen = bench.seen.only();
    assert_eq!((seen.end, seen.holes), (End::Finished, 0));
    let stats = bench.merge.stats();
    assert_eq!(
        (stats.flows, stats.twins, stats.equal, stats.different),
        (1, 1, 2, 0)
    );
    assert!(bench.is_empty());
}

#[test]
fn what_one_lacks_the_other_fills() {
    let mut bench = Bench::new();
    bench.say(1, FlowChange::Begin(&flow(3, Role::Client)));
    bench.data(1, Client, 0, 10);
    bench.hole(1, Server, 0, 50);
    bench.data(1, Server, 50, 10);
    assert!(bench.merge.holds());
    assert_eq!(bench.merge.oldest_held_batch(), Some(bench.now));
    bench.pass(500);
    bench.say(2, FlowChange::Begin(&flow(3, Role::Server)));
    bench.hole(2, Client, 0, 10);
    bench.data(2, Server, 0, 30);
    bench.data(2, Server, 30, 30);
    assert!(!bench.merge.holds());
    bench.finish(1);
    bench.finish(2);
    let seen = bench.seen.only();
    assert_eq!(
        (seen.next, seen.holes, seen.end),
        ([10, 60], 0, End::Finished)
    );
    assert_eq!(bench.merge.stats().filled, 1);
    assert!(bench.is_empty());
}

#[test]
fn nobody_waits_for_ever() {
    let mut bench = Bench::new();
    bench.begin_both();
    bench.hole(1, Client, 0, 50);
    bench.data(1, Client, 50, 10);
    bench.pass(999);
    assert_eq!(bench.seen.only().next, [0, 0]);
    bench.pass(1);
    assert_eq!(
        (bench.seen.only().next, bench.seen.only().holes),
        ([60, 0], 50)
    );
    // Too much to be kept.
    bench.hole(1, Server, 0, 10);
    for at in 0..20 {
        bench.data(1, Server, 10 + at * 16_384, 16_384);
    }
    assert!(bench.seen.only().next[1] > 200_000);
    // Whom nobody expects isn't waited for.
    bench.merge.expect_twins(false);
    bench.say(2, reset(Server));
    bench.hole(1, Client, 60, 10);
    assert_eq!(bench.seen.only().next[0], 70);
}

#[test]
fn a_copy_whose_host_is_gone_leaves_the_rest_to_the_other() {
    let mut bench = Bench::new();
    bench.begin_both();
    bench.data(1, Client, 0, 10);
    bench.say(1, reset(Client));
    bench.data(2, Client, 0, 20);
    bench.data(2, Server, 0, 20);
    assert_eq!(bench.seen.only().end, End::Open);
    bench.finish(2);
    assert_eq!(
        (bench.seen.only().next, bench.seen.only().end),
        ([20, 20], End::Finished)
    );
    assert!(bench.is_empty());
}

#[test]
fn who_comes_behind_the_end_is_compared_and_not_told() {
    let mut bench = Bench::new();
    bench.say(1, FlowChange::Begin(&flow(3, Role::Client)));
    bench.data(1, Client, 0, 20);
    bench.finish(1);
    bench.say(2, FlowChange::Begin(&flow(3, Role::Server)));
    bench.data(2, Client, 0, 20);
    bench.finish(2);
    assert_eq!(bench.seen.only().end, End::Finished);
    let stats = bench.merge.stats();
    assert_eq!(
        (stats.late_copies, stats.equal, stats.late_bytes),
        (1, 1, 0)
    );
    assert!(bench.is_empty());
    // Long behind it, nobody remembers.
    bench.pass(61_000);
    bench.say(3, FlowChange::Begin(&flow(3, Role::Server)));
    bench.finish(3);
    assert_eq!(bench.seen.flows.len(), 2);
}

#[test]
fn who_knows_more_than_was_told_goes_on_with_it() {
    let mut bench = Bench::new();
    bench.say(1, FlowChange::Begin(&flow(3, Role::Client)));
    bench.data(1, Client, 0, 20);
    bench.say(1, reset(Client));
    bench.say(2, FlowChange::Begin(&flow(3, Role::Server)));
    bench.data(2, Client, 0, 20);
    assert_eq!(bench.seen.flows.len(), 1);
    bench.data(2, Client, 20, 5);
    bench.finish(2);
    let second = &bench.seen.flows[&2];
    assert_eq!(second.info.continued, Some((20, 0)));
    assert_eq!((second.next, second.end), ([5, 0], End::Finished));
    assert!(bench.is_empty());
}

#[test]
fn different_copies_are_counted() {
    for bytes in [20, 70_000_u64] {
        let mut bench = Bench::new();
        bench.begin_both();
        for offset in (0..bytes).step_by(10_000) {
            bench.data(1, Client, offset, (bytes - offset).min(10_000));
        }
        for offset in (0..bytes).step_by(10_000) {
            let mut wrong = text(ID, Client, offset, (bytes - offset).min(10_000));
            wrong[7] ^= 1;
            let change = FlowChange::Data {
                from: Client,
                offset,
                bytes: &wrong,
            };
            bench.say(2, change);
        }
        bench.finish(1);
        bench.finish(2);
        assert_eq!(bench.seen.only().delivered, bytes);
        assert_eq!(bench.merge.stats().different, 1);
    }
}

#[test]
fn a_newer_copy_of_an_agent_goes_on_in_the_flow() {
    let mut bench = Bench::new();
    bench.say(1, FlowChange::Begin(&flow(3, Role::Client)));
    bench.data(1, Client, 0, 20);
    bench.merge.expect_twins(false);
    let mut info = flow(3, Role::Client);
    info.continued = Some((30, 0));
    bench.begin_of(1, 5, &info);
    assert_eq!(
        (bench.seen.only().next, bench.seen.only().holes),
        ([30, 0], 10)
    );
    bench.data(1, Client, 20, 7); // the old one is heard no more
    bench.finish(5);
    assert_eq!(bench.seen.only().end, End::Finished);
    assert!(bench.is_empty());
    // Where the place isn't known, it is another flow; and so is another agent's.
    bench.begin_of(1, 8, &flow(4, Role::Client));
    info = flow(4, Role::Client);
    info.announcement = Announcement::Midstream;
    bench.begin_of(1, 6, &info);
    bench.begin_of(9, 7, &info);
    assert_eq!(bench.seen.flows.len(), 4);
    assert_eq!(bench.seen.flows[&8].end, End::Reset);
    assert_eq!(bench.merge.stats().clashes, 1);
}

#[test]
fn a_copy_without_a_place_is_not_laid_beside_another() {
    let mut bench = Bench::new();
    let mut info = flow(3, Role::Client);
    info.announcement = Announcement::Midstream;
    bench.say(1, FlowChange::Begin(&info));
    bench.say(2, FlowChange::Begin(&flow(3, Role::Server)));
    bench.data(2, Client, 0, 100);
    bench.data(1, Client, 0, 20);
    assert_eq!(bench.seen.only().next, [20, 0]);
    bench.finish(1);
    assert_eq!(bench.seen.only().end, End::Finished);
    bench.data(2, Client, 100, 1);
    bench.finish(2);
    assert_eq!(bench.merge.stats().late_bytes, 1);
    assert!(bench.is_empty());
}

/// What was said: turns of a side and a number of bytes.
fn conversation() -> impl Strategy<Value = Vec<(Side, u64)>> {
    let side = prop_oneof![Just(Client), Just(Server)];
    prop::collection::vec((side, 1_u64..300), 1..12)
}

/// How a copy hears it: the lengths of pieces, each heard or not.
fn hearing() -> impl Strategy<Value = Vec<(u64, bool)>> {
    prop::collection::vec((1_u64..200, prop::bool::weighted(0.8)), 1..30)
}

#[derive(Clone, Debug)]
enum Step {
    Data(Side, u64, u64),
    Hole(Side, u64, u64),
    Finish(Side),
    Reset(Side),
}

/// The events of a copy, and which bytes it has.
fn copy(said: &[(Side, u64)], hearing: &[(u64, bool)], cut: usize) -> (Vec<Step>, [Vec<bool>; 2]) {
    let (mut steps, mut has, mut next) = (Vec::new(), [Vec::new(), Vec::new()], [0, 0]);
    let mut pieces = hearing.iter().cycle();
    for (from, bytes) in said {
        let side = crate::collector::inlet::index(*from);
        let mut left = *bytes;
        while left > 0 {
            let (piece, heard) = pieces.next().unwrap();
            let piece = left.min(*piece);
            steps.push(match heard {
                true => Step::Data(*from, next[side], piece),
                false => Step::Hole(*from, next[side], piece),
            });
            if steps.len() <= cut {
                has[side].extend((0..piece).map(|_| *heard));
            }
            next[side] += piece;
            left -= piece;
        }
    }
    steps.extend([Step::Finish(Client), Step::Finish(Server)]);
    if cut < steps.len() {
        steps.truncate(cut);
        steps.push(Step::Reset(Client));
    }
    (steps, has)
}

proptest! {
    /// What is told is what either copy has, at its place, once; with time to wait, nothing is missing that
    /// either has, unless both miss something at the same time.
    #[test]
    fn the_union_is_told(
        said in conversation(),
        hearings in [hearing(), hearing()],
        order in prop::collection::vec((0_usize..2, 0_u64..30), 1..80),
        cuts in [prop_oneof![3 => Just(usize::MAX), 1 => 0_usize..20], prop_oneof![3 => Just(usize::MAX), 1 => 0_usize..20]],
        slow in any::<bool>(),
    ) {
        let mut bench = Bench::new();
        bench.begin_both();
        let copies = [0, 1].map(|which| copy(&said, &hearings[which], cuts[which]));
        let mut left = copies.clone().map(|(steps, _)| steps.into_iter());
        let mut order = order.into_iter().cycle();
        while left.iter().any(|steps| steps.len() > 0) {
            let (which, ms) = order.next().unwrap();
            // Whoever has nothing left lets the other one speak.
            let which = if left[which].len() > 0 { which } else { 1 - which };
            let number = which as u64 + 1;
            let Some(step) = left[which].next() else {
                continue;
            };
            match step {
                Step::Data(from, offset, bytes) => bench.data(number, from, offset, bytes),
                Step::Hole(from, offset, bytes) => bench.hole(number, from, offset, bytes),
                Step::Finish(from) => bench.say(number, FlowChange::Finish { from }),
                Step::Reset(by) => bench.say(number, reset(by)),
            }
            if slow {
                bench.pass(ms * 20);
            }
        }
        bench.pass(2000);
        let seen = bench.seen.only();
        prop_assert!(seen.end != End::Open);
        prop_assert!(bench.is_empty(), "{:?}", bench.merge);
        prop_assert_eq!(bench.merge.stats().different, 0);
        let have = |side: usize, at: usize| {
            copies.iter().any(|(_, has)| has[side].get(at).copied().unwrap_or(false))
        };
        let most: usize = (0..2).map(|side| {
            let length = copies.iter().map(|(_, has)| has[side].len()).max().unwrap_or(0);
            (0..length).filter(|at| have(side, *at)).count()
        }).sum();
        prop_assert!(seen.delivered <= most as u64);
        let whole = |which: usize| cuts[which] == usize::MAX && hearings[which].iter().all(|(_, heard)| *heard);
        // Time passes for who waits at a hole, and queues are read only as far as the next one.
        if (whole(0) || whole(1)) && !slow {
            prop_assert_eq!((seen.holes, seen.end), (0, End::Finished));
            prop_assert_eq!(seen.delivered, most as u64);
        }
    }
}
