//! Families against an oracle that knows who holds what: no end is told while somebody does, and each is
//! told in the end.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const SECOND_NS: u64 = 1_000_000_000;

fn owner(instance: u64) -> Owner {
    Owner {
        pid: u32::try_from(instance).unwrap(),
        started: 1,
        inode: instance,
    }
}

fn child_of(parent: u64, fork: u32) -> Option<Descent> {
    let alone = true;
    Some(Descent {
        parent,
        fork,
        alone,
    })
}

fn answers(answers: Vec<(u64, Answer)>) -> Answers {
    Answers {
        answers,
        took: Duration::ZERO,
    }
}

fn leaving(ring: u64, end: End, forks: (u32, u32)) -> Leaving {
    Leaving {
        session: SessionKey {
            ring,
            connection: 1,
        },
        at: MonotonicTime(5),
        end,
        forks,
    }
}

/// What was told, as text.
fn settle(families: &mut Families, now: u64) -> Vec<String> {
    let mut told = Vec::new();
    families.settle(MonotonicTime(now), &mut |event| {
        told.push(format!(
            "{} {:?} {}",
            event.session.ring, event.change, event.at.0
        ));
    });
    told
}

/// A parent whose only child has not been heard of when it frees its connection.
fn left() -> Families {
    let mut families = Families::default();
    families.attached(1, None, 0, owner(1));
    families.withhold(1, leaving(1, End::Free, (3, 4)), MonotonicTime(10));
    assert!(settle(&mut families, 10).is_empty());
    families
}

#[test]
fn a_child_that_goes_on_with_it_stands_for_the_rest() {
    let mut families = left();
    families.attached(2, child_of(1, 4), 0, owner(2));
    assert!(settle(&mut families, 20).is_empty());
    families.adopted(2, (1, 1));
    assert_eq!(settle(&mut families, 30), ["1 Close { reason: Free } 30"]);
    assert_eq!((families.waiting(), families.told_early), (0, 0));
}

#[test]
fn nobody_there_is_looked_for_twice() {
    let mut families = left();
    assert!(families.questions(MonotonicTime(10)).is_empty());
    let mut now = SECOND_NS;
    for (found, told) in [
        (Answer::Shared, 0),
        (Answer::NotShared, 0),
        (Answer::Shared, 0),
        (Answer::NotShared, 0),
        (Answer::NotShared, 1),
    ] {
        let asked = families.questions(MonotonicTime(now));
        assert_eq!(asked, [(1, owner(1), Question::Shared)]);
        families.answered(&answers(vec![(1, found)]), MonotonicTime(now));
        assert!(families.questions(MonotonicTime(now)).is_empty());
        assert_eq!(settle(&mut families, now).len(), told);
        now += LAST_PAUSE_NS;
    }
    assert_eq!(families.told_early, 0);
}

#[test]
fn patience_has_an_end_where_nothing_can_be_known() {
    // Who may not be looked at.
    let mut families = left();
    families.answered(
        &answers(vec![(1, Answer::Unknown)]),
        MonotonicTime(SECOND_NS),
    );
    assert!(settle(&mut families, SECOND_NS).is_empty());
    assert_eq!(settle(&mut families, 11 * SECOND_NS).len(), 1);
    assert_eq!(families.told_early, 1);
    // Who is mirrored, and says nothing of it.
    let mut families = left();
    families.attached(2, child_of(1, 4), 0, owner(2));
    assert!(settle(&mut families, 59 * SECOND_NS).is_empty());
    assert_eq!(settle(&mut families, 61 * SECOND_NS).len(), 1);
    assert_eq!(families.told_early, 1);
}

#[test]
fn strangers_are_no_relatives() {
    for (parents, childs, related) in [(0, 1000, true), (1000, 1000, true), (1000, 1001, false)] {
        let mut families = Families::default();
        families.attached(1, None, parents, owner(1));
        families.withhold(1, leaving(1, End::Died, (0, 1)), MonotonicTime(10));
        families.attached(2, child_of(1, 1), childs, owner(2));
        families.adopted(2, (1, 1));
        assert_eq!(settle(&mut families, 20).len(), usize::from(related));
    }
    // Nor is one that calls itself like another, or its own child.
    let mut families = left();
    families.attached(1, child_of(1, 4), 0, owner(7));
    families.attached(3, child_of(3, 1), 0, owner(3));
    families.withhold(3, leaving(3, End::Free, (0, u32::MAX)), MonotonicTime(10));
    assert!(settle(&mut families, 20).is_empty());
    assert_eq!(families.all_questions().len(), 2);
}

#[test]
fn what_is_remembered_and_withheld_is_bounded() {
    let mut families = Families::default();
    families.attached(1, None, 0, owner(1));
    for child in 0..2 * u64::try_from(MAX_ENDED).unwrap() {
        let fork = u32::try_from(child + 1).unwrap();
        families.attached(child + 2, child_of(1, fork), 0, owner(child + 2));
        families.ended(child + 2, 0);
    }
    assert_eq!(families.relatives.len(), 1 + MAX_ENDED);
    assert_eq!(families.relatives[&1].children.len(), MAX_ENDED);
    let mut told = 0;
    for _ in 0..MAX_WITHHELD + 5 {
        // One of these children is forgotten, so somebody is to be looked for.
        families.withhold(1, leaving(1, End::Free, (0, 5000)), MonotonicTime(10));
        if families.waiting() > MAX_WITHHELD {
            told += settle(&mut families, 10).len();
        }
    }
    assert_eq!((families.waiting(), told), (MAX_WITHHELD, 5));
    assert_eq!(families.told_early, 5);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Fork(usize),
    /// It begins something of its own, which makes it known.
    Attach(usize),
    /// It speaks on the connection.
    Speak(usize),
    Free(usize),
    Die(usize),
    Look,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0usize..8;
    let step = prop_oneof![
        3 => who.clone().prop_map(Step::Fork),
        1 => who.clone().prop_map(Step::Attach),
        3 => who.clone().prop_map(Step::Speak),
        2 => who.clone().prop_map(Step::Free),
        2 => who.prop_map(Step::Die),
        3 => Just(Step::Look),
    ];
    prop::collection::vec(step, 1..60)
}

/// A process as it is.
#[derive(Clone, Debug)]
struct Real {
    alive: bool,
    holds: bool,
    /// Its ring, if it has one.
    instance: Option<u64>,
    /// Whose memory it was made from, by which fork of that one.
    lineage: Option<Descent>,
    /// As what it knows the connection.
    connection: (u64, u64),
    /// It has announced it, and not ended since: forks before that.
    announced: Option<u32>,
    forks: u32,
}

struct World {
    processes: Vec<Real>,
    families: Families,
    now: u64,
    /// Sessions that the agent takes for open.
    open: Vec<u64>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            processes: vec![Real {
                alive: true,
                holds: true,
                instance: Some(1),
                lineage: None,
                connection: (1, 1),
                announced: Some(2),
                forks: 2, // by others, before
            }],
            families: Families::default(),
            now: 1,
            open: vec![1],
        };
        world.families.attached(1, None, 0, owner(1));
        world
    }

    fn attach(&mut self, who: usize) {
        let process = &mut self.processes[who];
        if process.instance.is_none() {
            let instance = 1 + u64::try_from(who).unwrap();
            process.instance = Some(instance);
            process.forks = 0;
            self.families
                .attached(instance, process.lineage, 0, owner(instance));
        }
    }

    fn end(&mut self, who: usize, end: End) {
        let process = &mut self.processes[who];
        process.holds = false;
        let Some((instance, before)) = process.instance.zip(process.announced.take()) else {
            return;
        };
        if process.forks > before {
            let leaving = leaving(instance, end, (before, process.forks));
            self.families
                .withhold(instance, leaving, MonotonicTime(self.now));
        } else {
            self.open.retain(|open| *open != instance);
        }
    }

    fn step(&mut self, step: Step) {
        self.now += SECOND_NS / 100;
        let who = match step {
            Step::Fork(who)
            | Step::Attach(who)
            | Step::Speak(who)
            | Step::Free(who)
            | Step::Die(who) => who,
            Step::Look => return self.look(),
        };
        if !self.processes.get(who).is_some_and(|process| process.alive) {
            return;
        }
        match step {
            Step::Fork(_) if self.processes.len() < 8 => {
                let parent = &mut self.processes[who];
                let mut child = parent.clone();
                if let Some(instance) = parent.instance {
                    parent.forks += 1;
                    child.lineage = child_of(instance, parent.forks);
                } else if let Some(lineage) = &mut parent.lineage {
                    lineage.alone = false;
                    child.lineage = parent.lineage;
                }
                // The memory says under which name it was announced last.
                child.instance = None;
                child.announced = None;
                self.processes.push(child);
            }
            Step::Attach(_) => self.attach(who),
            Step::Speak(_) if self.processes[who].holds => {
                self.attach(who);
                let process = &mut self.processes[who];
                if process.announced.is_none()
                    && let Some(instance) = process.instance
                {
                    self.families.adopted(instance, process.connection);
                    process.connection = (instance, 1);
                    process.announced = Some(0);
                    self.open.push(instance);
                }
            }
            Step::Free(_) => self.end(who, End::Free),
            Step::Die(_) => {
                self.end(who, End::Died);
                let process = &mut self.processes[who];
                process.alive = false;
                if let Some(instance) = process.instance {
                    let forks = process.forks;
                    self.families.ended(instance, forks);
                }
            }
            Step::Fork(_) | Step::Speak(_) | Step::Look => {}
        }
        self.settle();
    }

    /// What /proc shows.
    fn look(&mut self) {
        self.now += SECOND_NS * 6;
        let found = self.families.questions(MonotonicTime(self.now));
        let found = found.into_iter().map(|(instance, ..)| {
            let shares = |process: &Real| {
                let of_it = process
                    .lineage
                    .is_some_and(|lineage| lineage.parent == instance);
                process.alive && process.instance.is_none() && of_it
            };
            match self.processes.iter().any(shares) {
                true => (instance, Answer::Shared),
                false => (instance, Answer::NotShared),
            }
        });
        let found = answers(found.collect());
        self.families.answered(&found, MonotonicTime(self.now));
        self.settle();
    }

    fn settle(&mut self) {
        let open = &mut self.open;
        self.families.settle(MonotonicTime(self.now), &mut |event| {
            let before = open.len();
            open.retain(|open| *open != event.session.ring);
            assert_eq!(open.len(), before - 1, "told twice");
        });
    }
}

proptest! {
    #[test]
    fn ends_are_told_when_nobody_holds_the_connection_and_not_before(steps in steps()) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
            let patient = world.families.told_early == 0;
            if world.open.is_empty() && patient {
                let holder = world.processes.iter().position(|process| process.holds);
                prop_assert_eq!(holder, None, "{:?}", &world.processes);
            }
        }
        for who in 0..world.processes.len() {
            world.step(Step::Die(who));
        }
        for _ in 0..LOOKS {
            world.step(Step::Look);
        }
        prop_assert!(world.open.is_empty(), "{:?} {:?}", world.open, world.families);
        prop_assert_eq!(world.families.waiting(), 0);
    }
}
