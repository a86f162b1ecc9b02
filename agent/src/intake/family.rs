//! Connections that cross a fork: an end is told when nobody holds the connection any more.
//!
//! A process that frees a connection without a word to its peer (no close_notify), or dies, ends it only
//! if nobody it has forked meanwhile goes on with it. The hook counts forks, so for a process that has not
//! forked since the connection's OPEN there is no question. Else its end is withheld until each of
//! these forks is accounted for:
//!
//! ```text
//!  parent   OPEN ── fork ── Free: withheld ·························> told
//!                     │                                           │
//!  child              └ (silent) ── attach ── OPEN inherited ──────┘── DATA … Free: the flow's end
//!                       found in /proc        it has a session of its own
//! ```
//!
//! - It has attached, as the same fork's number in its message tells, and announced the connection: then
//!   its own session stands for it.
//! - It has attached and not announced it: it may yet do so, until its end, or for [`PATIENCE_NS`].
//! - It hasn't attached, or others came of the same fork: [`super::kin`] tells whether anybody has the parent's
//!   memory.
//!
//! All of this is about the moment of an end. What a child says is told at once, whoever it is.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use mirror_hook::event::CloseReason;

use super::kin::{Answer, Answers, Owner, Question, Questions};
use crate::event::{MonotonicTime, SessionChange, SessionEvent, SessionKey};
use mirror_hook::attach::AttachMessage;

/// How long an end waits for a child that has attached, and for one that may not be looked at.
const PATIENCE_NS: u64 = 60_000_000_000;
const PATIENCE_UNKNOWN_NS: u64 = 10_000_000_000;
/// When to look for silent children for the first time, and again; each time the pause doubles up to the
/// last.
const FIRST_LOOK_NS: u64 = 200_000_000;
const LAST_PAUSE_NS: u64 = 5_000_000_000;
/// Looks that have to agree that nobody is there: a child could fork and end during one.
const LOOKS: u32 = 2;
/// Processes remembered beyond their end, for parents that are read later than their children.
const MAX_ENDED: usize = 4096;
/// Most ends that are withheld; the oldest is told for one more.
const MAX_WITHHELD: usize = 4096;
/// Children to look at for one end, in all generations. Where there are more it is found out whether
/// anybody has the parent's memory.
const MAX_CHILDREN: u32 = 256;

/// The end of a session, as its process tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Freed, in silence.
    Free,
    Died,
}

/// An end that may not be the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) session: SessionKey,
    pub(super) at: MonotonicTime,
    pub(super) end: End,
    /// Forks of the process before the connection was opened, and before this end.
    pub(super) forks: (u32, u32),
}

impl Leaving {
    /// Whether somebody whom the process has forked may have the connection.
    pub(super) fn may_be_held(&self) -> bool {
        self.forks.1 > self.forks.0
    }

    /// Tells the end, no earlier than `at`.
    pub(super) fn tell(&self, at: MonotonicTime, sink: &mut dyn FnMut(SessionEvent<'_>)) {
        sink(SessionEvent {
            session: self.session,
            at: self.at.max(at),
            change: match self.end {
                End::Free => SessionChange::Close {
                    reason: CloseReason::Free,
                },
                End::Died => SessionChange::Died,
            },
        });
    }
}

/// Whose child a process says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Descent {
    /// The parent's instance.
    pub(super) parent: u64,
    /// By which of its forks.
    pub(super) fork: u32,
    /// Nobody else came of that fork.
    pub(super) alone: bool,
}

impl Descent {
    pub(super) fn of(message: &AttachMessage) -> Option<Self> {
        Some(Self {
            parent: message.parent_instance?,
            fork: message.parent_fork,
            alone: message.silent_forks == 0,
        })
    }
}

/// A process as its attach message tells, and what became of it.
#[derive(Debug)]
struct Relative {
    owner: Owner,
    uid: u32,
    /// Whose child it is.
    parent: Option<Descent>,
    /// Rings of those that it has forked: by which fork, their instance.
    children: BTreeSet<(u32, u64)>,
    /// Connections that it goes on with: their parents' instance and number.
    adopted: HashSet<(u64, u64)>,
    /// It is over: times it had forked.
    ended: Option<u32>,
}

#[derive(Debug)]
struct Withheld {
    instance: u64,
    leaving: Leaving,
    since: MonotonicTime,
    /// Consecutive looks that found nobody.
    alone: u32,
    /// When to look for silent children next.
    look_at: MonotonicTime,
    pause_ns: u64,
    /// The last look couldn't tell.
    unknown: bool,
}

/// All processes that may be related, and the ends that wait for them.
#[derive(Debug, Default)]
pub(super) struct Families {
    relatives: HashMap<u64, Relative>,
    ended: VecDeque<u64>,
    withheld: VecDeque<Withheld>,
    /// Something has changed that an end may wait for.
    changed: bool,
    /// When to look at them though nothing has changed.
    patience_ends: MonotonicTime,
    /// Ends told though somebody may hold the connection.
    pub(super) told_early: u64,
}

/// Whom an end waits for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Holders {
    /// Somebody who has attached.
    attached: bool,
    /// Processes of whose forks not all have attached.
    silent: Vec<u64>,
    /// Children looked at.
    children: u32,
}

impl Families {
    /// A process has attached.
    pub(super) fn attached(
        &mut self,
        instance: u64,
        parent: Option<Descent>,
        uid: u32,
        owner: Owner,
    ) {
        // Who calls itself like another is nobody's relative.
        if self.relatives.contains_key(&instance) {
            return;
        }
        // Only root's children can be somebody else's.
        let parent = parent.filter(|descent| {
            let parent = self.relatives.get(&descent.parent);
            parent.is_some_and(|parent| parent.uid == uid || parent.uid == 0)
        });
        let relative = Relative {
            owner,
            uid,
            parent,
            children: BTreeSet::new(),
            adopted: HashSet::new(),
            ended: None,
        };
        self.relatives.insert(instance, relative);
        if let Some(Descent { parent, fork, .. }) = parent
            && let Some(parent) = self.relatives.get_mut(&parent)
        {
            parent.children.insert((fork, instance));
        }
        self.changed = true;
    }

    /// A process goes on with its parent's connection.
    pub(super) fn adopted(&mut self, instance: u64, connection: (u64, u64)) {
        if let Some(relative) = self.relatives.get_mut(&instance) {
            relative.adopted.insert(connection);
            self.changed = true;
        }
    }

    /// A ring is over; its process had forked so often.
    pub(super) fn ended(&mut self, instance: u64, forks: u32) {
        let Some(relative) = self.relatives.get_mut(&instance) else {
            return;
        };
        if relative.ended.replace(forks).is_some() {
            return;
        }
        relative.adopted = HashSet::new();
        self.changed = true;
        self.ended.push_back(instance);
        while self.ended.len() > MAX_ENDED
            && let Some(oldest) = self.ended.pop_front()
            && let Some(forgotten) = self.relatives.remove(&oldest)
        {
            if let Some(Descent { parent, fork, .. }) = forgotten.parent
                && let Some(parent) = self.relatives.get_mut(&parent)
            {
                parent.children.remove(&(fork, oldest));
            }
        }
    }

    /// An end waits.
    pub(super) fn withhold(&mut self, instance: u64, leaving: Leaving, now: MonotonicTime) {
        self.withheld.push_back(Withheld {
            instance,
            leaving,
            since: now,
            alone: 0,
            look_at: after(now, FIRST_LOOK_NS),
            pause_ns: FIRST_LOOK_NS,
            unknown: false,
        });
        self.changed = true;
    }

    /// Ends that wait.
    pub(super) fn waiting(&self) -> usize {
        self.withheld.len()
    }

    /// Tells the ends that have nobody to wait for any more.
    pub(super) fn settle(&mut self, now: MonotonicTime, sink: &mut dyn FnMut(SessionEvent<'_>)) {
        while self.withheld.len() > MAX_WITHHELD
            && let Some(oldest) = self.withheld.pop_front()
        {
            self.told_early += 1;
            tell(&oldest, now, sink);
        }
        if !std::mem::take(&mut self.changed) && now < self.patience_ends {
            return;
        }
        let mut waiting = std::mem::take(&mut self.withheld);
        let mut patience_ends = MonotonicTime(u64::MAX);
        waiting.retain(|held| {
            let holders = self.holders(held);
            let silent = !holders.silent.is_empty() && held.alone < LOOKS;
            let until = match (holders.attached, silent) {
                (false, false) => None,
                (true, _) => Some(after(held.since, PATIENCE_NS)),
                (false, true) if held.unknown => Some(after(held.since, PATIENCE_UNKNOWN_NS)),
                (false, true) => Some(MonotonicTime(u64::MAX)),
            };
            if let Some(until) = until.filter(|until| now < *until) {
                patience_ends = patience_ends.min(until);
                return true;
            }
            self.told_early += u64::from(until.is_some());
            tell(held, now, sink);
            false
        });
        self.withheld = waiting;
        self.patience_ends = patience_ends;
    }

    /// Whose memory to look for now.
    pub(super) fn questions(&self, now: MonotonicTime) -> Questions {
        let due = self.withheld.iter().filter(|held| held.look_at <= now);
        self.questions_of(due)
    }

    /// Whose memory to look for, be it time or not.
    pub(super) fn all_questions(&self) -> Questions {
        self.questions_of(self.withheld.iter())
    }

    fn questions_of<'w>(&self, ends: impl Iterator<Item = &'w Withheld>) -> Questions {
        let silent: BTreeSet<u64> = ends.flat_map(|held| self.holders(held).silent).collect();
        let question = |instance| {
            let relative = self.relatives.get(&instance)?;
            Some((instance, relative.owner, Question::Shared))
        };
        silent.into_iter().filter_map(question).collect()
    }

    /// Takes what was found. All who had attached by then must be known.
    pub(super) fn answered(&mut self, answers: &Answers, now: MonotonicTime) {
        let found: HashMap<u64, Answer> = answers.answers.iter().copied().collect();
        let mut withheld = std::mem::take(&mut self.withheld);
        for held in &mut withheld {
            let silent = self.holders(held).silent;
            let answer = |instance: &u64| found.get(instance).copied();
            if silent.is_empty() || silent.iter().any(|instance| answer(instance).is_none()) {
                continue;
            }
            let any = |wanted| {
                silent
                    .iter()
                    .filter_map(answer)
                    .any(|found| found == wanted)
            };
            held.unknown = any(Answer::Unknown) && !any(Answer::Shared);
            held.alone = match any(Answer::Shared) || held.unknown {
                true => 0,
                false => held.alone + 1,
            };
            if held.alone == 0 {
                held.pause_ns = held.pause_ns.saturating_mul(2).min(LAST_PAUSE_NS);
            }
            held.look_at = after(now, held.pause_ns);
            self.changed = true;
        }
        self.withheld = withheld;
    }

    /// The agent ends: what was found now has to do.
    pub(super) fn decide(
        &mut self,
        answers: &Answers,
        now: MonotonicTime,
        sink: &mut dyn FnMut(SessionEvent<'_>),
    ) {
        for _ in 0..LOOKS {
            self.answered(answers, now);
        }
        self.settle(now, sink);
    }

    fn holders(&self, held: &Withheld) -> Holders {
        let mut holders = Holders::default();
        let connection = (held.instance, held.leaving.session.connection);
        self.find(held.instance, held.leaving.forks, connection, &mut holders);
        holders
    }

    /// Who may hold `connection` of those that `instance` has forked.
    fn find(
        &self,
        instance: u64,
        (before, up_to): (u32, u32),
        connection: (u64, u64),
        holders: &mut Holders,
    ) {
        let forks = up_to.saturating_sub(before);
        let Some(relative) = self.relatives.get(&instance).filter(|_| forks > 0) else {
            return;
        };
        let mut accounted = 0;
        let mut last = before;
        for &(fork, child) in relative.children.range((before + 1, 0)..=(up_to, u64::MAX)) {
            holders.children += 1;
            if holders.children > MAX_CHILDREN {
                break;
            }
            let Some(relative) = self.relatives.get(&child) else {
                continue;
            };
            if fork != last && relative.parent.is_some_and(|descent| descent.alone) {
                accounted += 1;
                last = fork;
            }
            match relative.ended {
                None => holders.attached |= !relative.adopted.contains(&connection),
                // Its children have what it had.
                Some(forks) => self.find(child, (0, forks), connection, holders),
            }
        }
        if accounted < forks && !holders.silent.contains(&instance) {
            holders.silent.push(instance);
        }
    }
}

fn after(time: MonotonicTime, ns: u64) -> MonotonicTime {
    MonotonicTime(time.0.saturating_add(ns))
}

/// At its own time if that is the present; else at the present: what lies between has been written.
fn tell(held: &Withheld, now: MonotonicTime, sink: &mut dyn FnMut(SessionEvent<'_>)) {
    // Whoever has waited ends now.
    let at = match held.since == now {
        true => held.leaving.at,
        false => now,
    };
    held.leaving.tell(at, sink);
}

#[cfg(test)]
#[path = "family_tests.rs"]
mod tests;
