//! The intake as the main loop sees it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use mirror_hook::ring::RecordBuffer;

use super::admit::Budget;
use super::doorbell::Doorbell;
use super::family::{Families, Leaving};
use super::kept::Resumed;
use super::kin::{self, Relations};
use super::listener::{ListenConfig, ListenError, Listener};
use super::owner::Owners;
use super::pace::Pace;
use super::process::{Ring, Sweep};
use super::stats::IntakeStats;
use super::tracker::Sink;
use crate::clock::monotonic_now;
use crate::event::{MonotonicTime, ProcessInfo, SessionChange, SessionEvent};
use crate::filter::Filters;
use crate::helper::Helper;
use crate::keep::{Inherited, Manager};

/// Doorbell numbers: rings have their own numbers, these can't be one.
pub(super) const LISTENER: u64 = u64::MAX - 1;
/// Read from one ring before the next one's turn.
const SWEEP_BYTES: u64 = 1 << 20;
/// Most futexes that futex_waitv(2) takes.
const MAX_WAITERS: usize = 128;
/// How long to sleep shortly after work: more may come.
pub(super) const HOT: Duration = Duration::from_millis(1);
/// How long a ring may be left alone that wakes nobody, since little is in it.
const IDLE: Duration = Duration::from_millis(20);
/// Sweeps without work until rings are idle.
const IDLE_SWEEPS: u32 = 20;

/// Which processes may attach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// Everybody's.
    All,
    /// Those of these users, by their ids.
    Users(Vec<u32>),
    /// This user's and root's, who could look into each other anyway; and what this process has
    /// started, directly or not, as whatever user, or what is gone and was of such a user. It has to be the reaper of its descendants
    /// (PR_SET_CHILD_SUBREAPER), else those whose parents end first are strangers.
    OwnAndDescendants,
}

/// How to run the intake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntakeConfig {
    /// Where to listen.
    pub listen: ListenConfig,
    /// Who may attach.
    pub admission: Admission,
    /// Largest ring that is granted, in bytes.
    pub ring_bytes: u64,
    /// Memory for all rings, in bytes.
    pub budget_bytes: u64,
    /// The processes were told that they will get `ring_bytes` (`SSLCOLLECTOR_RING_BYTES`), and use it at
    /// once: nothing is allocated for them, and the budget doesn't bind them.
    pub promised: bool,
    /// How long a call of theirs may wait where the ring is full, in milliseconds: 0 but for debugging.
    /// A process obeys only if it was started to (`SSLCOLLECTOR_WAIT_MS`).
    pub wait_ms: u32,
    /// Which processes and connections are mirrored.
    pub filters: Filters,
    /// Most rings at a time.
    pub max_rings: usize,
    /// Most open connections of one ring.
    pub max_connections: usize,
}

impl IntakeConfig {
    /// The defaults for a socket of this user's at `path`.
    pub fn private(path: std::path::PathBuf) -> Self {
        Self {
            listen: ListenConfig {
                path,
                mode: 0o600,
                abstract_name: None,
                max_pending: 64,
            },
            admission: Admission::Users(vec![rustix::process::geteuid().as_raw()]),
            ring_bytes: 16 << 20,
            budget_bytes: 256 << 20,
            promised: false,
            wait_ms: 0,
            filters: Filters::default(),
            max_rings: 4096,
            max_connections: 64 * 1024,
        }
    }
}

/// The intake can't begin.
#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// No socket.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// No thread or no descriptor.
    #[error("cannot watch descriptors: {0}")]
    Watch(#[from] std::io::Error),
}

/// What a call of [`Intake::poll`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PollOutcome {
    /// Something was read.
    pub worked: bool,
    /// There is more to do: poll again before waiting.
    pub more: bool,
    /// Rings that came.
    pub attached: usize,
    /// Rings that ended.
    pub ended: usize,
}

/// Reads all rings.
#[derive(Debug)]
pub struct Intake {
    pub(super) config: IntakeConfig,
    pub(super) listener: Listener,
    pub(super) doorbell: Doorbell,
    pub(super) rings: BTreeMap<u64, Ring>,
    pub(super) owners: Owners,
    pub(super) families: Families,
    /// Ends of processes that have died, until all that had attached by then have been heard.
    over: Vec<Leaving>,
    pub(super) relations: Relations,
    pub(super) next_ring: u64,
    pub(super) budget: Budget,
    buffer: RecordBuffer,
    idle_sweeps: u32,
    pace: Pace,
    /// Of the rings that something was read from in the last sweep.
    smallest_bytes: u64,
    pub(super) stats: IntakeStats,
    /// Keeps the rings for the next agent.
    pub(super) manager: Option<Manager>,
    /// Sessions that go on here, to be told first of all.
    pub(super) resumed: Vec<Resumed>,
    pub(super) complaints: Vec<String>,
    /// Sees more of processes than this one may.
    pub(super) helper: Option<Helper>,
}

impl Intake {
    /// Begins to listen.
    ///
    /// # Errors
    /// See [`IntakeError`].
    pub fn new(config: IntakeConfig) -> Result<Self, IntakeError> {
        let listener = Listener::new(&config.listen, &mut Vec::new())?;
        Self::listening(config, listener, None, Vec::new(), None)
    }

    /// Listens where that was begun already, goes on with what the service manager has given back, and lets it keep
    /// all for the next agent. A `helper` looks at programs that this process may not look at.
    ///
    /// # Errors
    /// See [`IntakeError`].
    pub fn listening(
        config: IntakeConfig,
        mut listener: Listener,
        manager: Option<Manager>,
        kept: Vec<Inherited>,
        helper: Option<Helper>,
    ) -> Result<Self, IntakeError> {
        if let Some(manager) = &manager {
            manager.took_back(kept.len() + listener.came_from_manager());
            listener.keep(manager);
        }
        if let Some(helper) = &helper {
            listener.remove_by(helper.clone());
        }
        let doorbell = Doorbell::new()?;
        for socket in listener.sockets() {
            doorbell.add(socket, LISTENER)?;
        }
        let mut intake = Self {
            budget: Budget {
                ring_bytes: config.ring_bytes,
                total_bytes: config.budget_bytes,
                used_bytes: 0,
                promised: config.promised,
                wait_ms: config.wait_ms,
            },
            config,
            listener,
            doorbell,
            rings: BTreeMap::new(),
            owners: Owners::default(),
            families: Families::default(),
            over: Vec::new(),
            relations: Relations::new(helper.clone()),
            next_ring: 1,
            buffer: RecordBuffer::new(),
            idle_sweeps: 0,
            pace: Pace::default(),
            smallest_bytes: u64::MAX,
            stats: IntakeStats::default(),
            manager,
            resumed: Vec::new(),
            complaints: Vec::new(),
            helper,
        };
        intake.take_over(kept);
        Ok(intake)
    }

    /// Takes new rings, and reads each a bounded amount; never waits. Hand each event to the mapper
    /// with a time taken after this returns or in the sink.
    pub fn poll(&mut self, sink: &mut dyn FnMut(SessionEvent<'_>)) -> PollOutcome {
        let mut outcome = PollOutcome::default();
        let before = self.stats.attached;
        self.tell_resumed(sink);
        let over = std::mem::take(&mut self.over);
        if !over.is_empty() {
            // A child that attached before its parent's death is heard before that.
            self.accept();
        }
        let read_before = self.stats.ring_bytes;
        for number in self.doorbell.take() {
            match number {
                LISTENER => self.accept(),
                number => {
                    if let Some(ring) = self.rings.get_mut(&number) {
                        ring.process_died();
                    }
                }
            }
        }
        self.look(monotonic_now());
        outcome.attached = usize::try_from(self.stats.attached - before).unwrap_or(usize::MAX);
        self.sweep(&mut outcome, sink);
        outcome.worked |= !over.is_empty();
        tell_all(&over, sink);
        if outcome.worked && !self.config.filters.is_empty() {
            // What was read last may be what isn't to be kept.
            self.buffer.wipe();
        }
        outcome.worked |= outcome.attached > 0;
        let read = self.stats.ring_bytes - read_before;
        let much = self.pace.found(read, self.smallest_bytes);
        // What isn't reading (arrivals, ends, pages) goes on at once.
        outcome.more = much || (outcome.worked && read == 0);
        self.idle_sweeps = match outcome.worked {
            true => 0,
            false => self.idle_sweeps.saturating_add(1),
        };
        outcome
    }

    /// Sleeps until there may be something to do, and never longer than `timeout`. Call it after a
    /// poll behind which there isn't more to do.
    pub fn wait(&mut self, timeout: Duration) {
        if self.rings.is_empty() {
            self.doorbell.wait(timeout);
        } else if self.idle_sweeps == 0 {
            let pause = self.pace.pause(self.smallest_bytes);
            self.doorbell.wait(timeout.min(pause));
        } else if self.idle_sweeps < IDLE_SWEEPS || self.rings.len() >= MAX_WAITERS {
            self.doorbell.wait(timeout.min(HOT));
        } else {
            self.wait_idle(timeout.min(IDLE));
        }
    }

    /// Polls until nothing is left to read; what comes meanwhile can prolong it by `rounds` polls at
    /// most.
    pub fn drain(&mut self, rounds: usize, sink: &mut dyn FnMut(SessionEvent<'_>)) {
        for _ in 0..rounds {
            if !self.poll(sink).worked {
                return;
            }
        }
    }

    /// Leaves in good order: tells every process to write no more, and reads what is left; of those whose
    /// rings the next agent gets, what is there now. Sessions that are open stay so: their connections
    /// go on without being seen.
    pub fn shutdown(&mut self, sink: &mut dyn FnMut(SessionEvent<'_>)) {
        // Who has asked by now is heard, even if the doorbell hasn't rung for it yet: it may have ended
        // already, and all that it said lies in its ring.
        self.accept();
        self.detach();
        // A full ring takes this many sweeps, once more for what was being written.
        let rounds = mirror_hook::layout::MAX_DATA_BYTES / SWEEP_BYTES + 2;
        self.drain(usize::try_from(rounds).unwrap_or(1), sink);
        tell_all(&std::mem::take(&mut self.over), sink);
        // What ends with it: what nobody holds. The rest goes on.
        let answers = kin::answer(&self.families.all_questions(), self.helper.as_ref());
        self.tell_ends(Some(&answers), monotonic_now(), sink);
    }

    /// The processes whose rings are attached.
    pub fn processes(&self) -> impl Iterator<Item = &Arc<ProcessInfo>> {
        self.rings.values().map(Ring::process)
    }

    /// Sessions that were given up by their processes, and may be held by others whom these have forked.
    pub fn withheld(&self) -> usize {
        self.families.waiting()
    }

    /// Counts so far.
    pub fn stats(&self) -> IntakeStats {
        let mut stats = self.stats.clone();
        for ring in self.rings.values() {
            stats.add_counters(&ring.consumer().counters());
        }
        stats.live = self.rings.len();
        stats.granted_bytes = self.budget.used_bytes;
        stats.pending_dropped = self.listener.pending_dropped;
        stats.ended_early = self.families.told_early;
        stats
    }

    /// Tells every process to write no more.
    fn detach(&self) {
        for ring in self.rings.values() {
            ring.detach();
        }
    }

    /// Takes what was found out about processes, and asks on.
    fn look(&mut self, now: MonotonicTime) {
        if let Some(answers) = self.relations.answers(now) {
            // Who had attached before that is to be known before what was found is judged.
            self.accept();
            self.families.answered(&answers, now);
            for instance in answers.gone() {
                let mut rings = self.rings.values_mut();
                if let Some(ring) = rings.find(|ring| ring.instance == instance) {
                    ring.process_died();
                }
            }
        }
        let rings = self.rings.values().map(|ring| (ring.instance, ring.owner));
        self.relations
            .ask(now, || self.families.questions(now), rings);
    }

    /// Tells the ends that waited for forked processes and do no more; with `answers`, those for which they
    /// have to do.
    fn tell_ends(
        &mut self,
        answers: Option<&kin::Answers>,
        now: MonotonicTime,
        sink: &mut Sink<'_>,
    ) {
        let rings = &mut self.rings;
        let mut note = |event: SessionEvent<'_>| {
            let ring = rings.get_mut(&event.session.ring);
            if let Some(kept) = ring.and_then(|ring| ring.kept.as_mut()) {
                kept.table.note(&event);
            }
            sink(event);
        };
        match answers {
            Some(answers) => self.families.decide(answers, now, &mut note),
            None => self.families.settle(now, &mut note),
        }
    }

    fn sweep(&mut self, outcome: &mut PollOutcome, sink: &mut Sink<'_>) {
        // A process that was forked goes on where its parent was. Parents have the lower numbers and
        // are read first; children's marks are set first: so what is read of a child comes behind all
        // that its parent said before the fork.
        let marks: Vec<(u64, u64)> = self
            .rings
            .iter()
            .rev()
            .map(|(number, ring)| (*number, ring.mark()))
            .collect();
        let mut behind = HashSet::new();
        self.smallest_bytes = u64::MAX;
        let now = monotonic_now();
        for (number, mark) in marks.into_iter().rev() {
            let Some(ring) = self.rings.get_mut(&number) else {
                continue;
            };
            if ring
                .parent_instance
                .is_some_and(|parent| behind.contains(&parent))
            {
                behind.insert(ring.instance);
                continue;
            }
            let (families, instance) = (&mut self.families, ring.instance);
            let swept = ring.sweep(
                mark,
                SWEEP_BYTES,
                now,
                &mut self.buffer,
                &mut self.stats,
                &mut |event| {
                    if let SessionChange::Open { meta, .. } = event.change
                        && let Some(parent) = meta.parent
                    {
                        families.adopted(instance, parent);
                    }
                    sink(event);
                },
            );
            for leaving in ring.take_leaving() {
                match leaving.may_be_held() {
                    true => self.families.withhold(instance, leaving, now),
                    false => self.over.push(leaving),
                }
            }
            if ring.is_behind(mark) {
                behind.insert(ring.instance);
            }
            match swept {
                Sweep::Idle => {}
                Sweep::Worked => {
                    outcome.worked = true;
                    let capacity = ring.consumer().capacity();
                    self.smallest_bytes = self.smallest_bytes.min(capacity);
                }
                Sweep::Over => {
                    outcome.worked = true;
                    outcome.ended += 1;
                    self.free(number);
                }
            }
        }
        self.tell_ends(None, now, sink);
    }

    fn free(&mut self, number: u64) {
        if let Some(mut ring) = self.rings.remove(&number) {
            if let Some(held) = ring.held.take() {
                self.owners.let_go(held);
            }
            self.keep_no_longer(&ring);
            self.families.ended(ring.instance, ring.forks());
            self.budget.used_bytes -= ring.cost_bytes();
            self.stats.add_counters(&ring.consumer().counters());
        }
    }
}

fn tell_all(over: &[Leaving], sink: &mut Sink<'_>) {
    for leaving in over {
        leaving.tell(leaving.at, sink);
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.detach();
    }
}
