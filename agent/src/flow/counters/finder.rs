//! When which process is looked at, and which of its sessions are waited for.

use std::collections::HashMap;
use std::sync::Arc;

use mirror_hook::event::{Announcement, CloseReason, Meta, Transport};

use super::table::Process;
use super::{Counts, Found, Looker};
use crate::event::{MonotonicTime, ProcessInfo, SessionChange, SessionEvent, SessionKey};
use crate::flow::bounded::BoundedMap;
use crate::flow::known::Known;
use crate::flow::proof::Claim;

/// Processes that are looked at, at a time.
const MOST_PROCESSES: usize = 1024;
/// Sockets of which it is remembered that they have a session.
const MOST_BOUND: usize = 16 * 1024;
/// The second look comes so long behind the first, in nanoseconds; each later one waits twice as long …
const SHORTEST_NS: u64 = 1_000_000;
/// … but no longer than this.
const LONGEST_NS: u64 = 100_000_000;
/// Looks take one part in so many of the time at most.
const SHARE: u64 = 4;

/// Finds the sockets of sessions that tell none.
#[derive(Debug)]
pub(in crate::flow) struct Finder {
    looker: Box<dyn Looker>,
    /// Processes look themselves, too.
    tells: bool,
    processes: HashMap<u32, Watched>,
    sessions: HashMap<SessionKey, Of>,
    /// Sockets that were found to be a session's, by their cookies.
    bound: BoundedMap<u64, ()>,
    /// Nobody is looked at before.
    rests_until: MonotonicTime,
}

/// Whose a session is, and what it says itself of its socket.
#[derive(Clone, Copy, Debug)]
struct Of {
    pid: u32,
    says: Option<Claim>,
}

#[derive(Debug)]
struct Watched {
    info: Arc<ProcessInfo>,
    process: Process,
    due: MonotonicTime,
    pause_ns: u64,
    /// It can't be looked at.
    closed: bool,
    /// It could be looked at, and can't any more.
    seen: bool,
    gone: bool,
    /// Its sockets are to be known when its first session begins.
    expected: bool,
}

impl Finder {
    pub(in crate::flow) fn new(looker: Box<dyn Looker>, tells: bool) -> Self {
        Self {
            looker,
            tells,
            processes: HashMap::new(),
            sessions: HashMap::new(),
            bound: BoundedMap::new(MOST_BOUND),
            rests_until: MonotonicTime::default(),
        }
    }

    /// Takes what of an event concerns it; in the sessions' order, before anybody decides anything by it.
    pub(in crate::flow) fn note(&mut self, event: &SessionEvent<'_>, now: MonotonicTime) {
        let key = event.session;
        match event.change {
            SessionChange::Open { process, meta, .. }
            | SessionChange::Resumed { process, meta, .. } => {
                self.open(key, event.at, process, meta, now);
            }
            SessionChange::Update { meta } => self.update(key, event.at, meta),
            SessionChange::Look { part } => {
                if let Some(watched) = self.watched_mut(key) {
                    watched.process.told_look(key, event.at, part);
                }
            }
            SessionChange::Close {
                reason: CloseReason::Free | CloseReason::Abort,
            }
            | SessionChange::Died => self.end(key),
            SessionChange::Close { .. }
            | SessionChange::Data { .. }
            | SessionChange::Lost { .. } => {}
        }
    }

    /// A process is mirrored from now on; its first handshake has begun.
    pub(in crate::flow) fn expect(&mut self, info: &Arc<ProcessInfo>, now: MonotonicTime) {
        if !self.processes.contains_key(&info.pid)
            && let Some(watched) = self.watch(info, now)
        {
            watched.expected = true;
        }
    }

    /// Whether a session's socket may be found yet.
    pub(in crate::flow) fn seeks(&self, key: SessionKey) -> bool {
        let watched = self.watched(key);
        let looked_at = |watched: &Watched| self.tells || !watched.closed;
        watched.is_some_and(|watched| looked_at(watched) && watched.process.may_find(key))
    }

    /// Nobody waits for it any more.
    pub(in crate::flow) fn give_up(&mut self, key: SessionKey) {
        if let Some(watched) = self.watched_mut(key) {
            watched.process.give_up(key);
            self.clean(key);
        }
    }

    /// Decides by what has come, then looks where that is due. The sessions of which it is known now which socket is
    /// theirs, or that none will be found.
    pub(in crate::flow) fn turn(&mut self, now: MonotonicTime) -> Vec<(SessionKey, Option<Found>)> {
        let mut all = Vec::new();
        for watched in self.processes.values_mut() {
            for (key, socket) in watched.process.decide() {
                let found = watched.process.found(key);
                // What only its process says keeps no other one from its own.
                if let Some(Found::Seen(_)) = found {
                    self.bound.insert(socket, ());
                }
                all.push((key, found));
            }
            let hopeless = watched.process.take_hopeless();
            all.extend(hopeless.into_iter().map(|key| (key, None)));
        }
        self.look_around(now, &mut all);
        for (key, _) in &all {
            self.clean(*key);
        }
        all
    }

    fn look_around(&mut self, mut now: MonotonicTime, all: &mut Vec<(SessionKey, Option<Found>)>) {
        for watched in self.processes.values_mut() {
            let may_look = !watched.closed && !watched.gone;
            let seeks = may_look && (watched.expected || watched.process.seeks());
            if !seeks || watched.due > now || self.rests_until > now {
                continue;
            }
            let first = std::mem::take(&mut watched.expected);
            let Some(look) = self.looker.look(&watched.info) else {
                // What it said before it ended may still come.
                watched.gone = watched.seen;
                if watched.gone {
                    continue;
                }
                watched.closed = true;
                if !self.tells {
                    let sought = watched.process.take_sought();
                    all.extend(sought.into_iter().map(|key| (key, None)));
                }
                continue;
            };
            let spent_ns = look.ended.0.saturating_sub(look.began.0);
            now = now.max(look.ended);
            // The first one, once a process, lists all sockets of the machine; the next must not wait for that.
            if !first {
                self.rests_until = MonotonicTime(now.0.saturating_add(SHARE * spent_ns));
            }
            watched.due = MonotonicTime(now.0.saturating_add(watched.pause_ns));
            watched.pause_ns = (2 * watched.pause_ns).min(LONGEST_NS);
            // It may have come by a fork from a process that has a session for it.
            for sample in &look.samples {
                if self.bound.get(&sample.socket).is_some() {
                    watched.process.take(sample.socket);
                }
            }
            watched.process.seen(look);
            watched.seen = true;
        }
    }

    fn open(
        &mut self,
        key: SessionKey,
        at: MonotonicTime,
        info: &Arc<ProcessInfo>,
        meta: &Meta<'_>,
        now: MonotonicTime,
    ) {
        if meta.transport != Transport::Tcp || meta.addresses_told || info.pid == 0 {
            return;
        }
        let Some(watched) = self.watch(info, now) else {
            return;
        };
        let says = Known::new(meta).claim();
        let of = Of {
            pid: info.pid,
            says,
        };
        match says {
            Some(claim) => watched.process.say(&claim),
            None => {
                // Of one that a parent began the library's counts may say less than its socket's.
                let counts = meta.wire_counts;
                let counts = counts.filter(|_| meta.announcement != Announcement::Inherited);
                watched.process.open(key, at, counts.map(Counts::of_wire));
                watched.due = watched.due.min(now);
                watched.pause_ns = SHORTEST_NS;
            }
        }
        self.sessions.insert(key, of);
    }

    fn watch(&mut self, info: &Arc<ProcessInfo>, now: MonotonicTime) -> Option<&mut Watched> {
        if !self.processes.contains_key(&info.pid) && self.processes.len() >= MOST_PROCESSES {
            let idle = |(pid, watched): (&u32, &Watched)| watched.process.is_idle().then_some(*pid);
            let idle = self.processes.iter().find_map(idle)?;
            self.processes.remove(&idle);
            self.looker.forget(idle);
        }
        let new = || Watched {
            info: Arc::clone(info),
            process: Process::default(),
            due: now,
            pause_ns: SHORTEST_NS,
            closed: false,
            seen: false,
            gone: false,
            expected: false,
        };
        Some(self.processes.entry(info.pid).or_insert_with(new))
    }

    fn update(&mut self, key: SessionKey, at: MonotonicTime, meta: &Meta<'_>) {
        if let Some(watched) = self.watched_mut(key)
            && let Some(counts) = meta.wire_counts
        {
            watched.process.tell(key, at, Counts::of_wire(counts));
        }
    }

    fn end(&mut self, key: SessionKey) {
        let says = self.sessions.get(&key).and_then(|of| of.says);
        if let Some(watched) = self.watched_mut(key) {
            if let Some(claim) = says {
                watched.process.unsay(&claim);
            }
            watched.process.end(key);
            self.clean(key);
        }
    }

    /// Forgets a session that is over, and its process with the last.
    fn clean(&mut self, key: SessionKey) {
        let Some(pid) = self.sessions.get(&key).map(|of| of.pid) else {
            return;
        };
        let Some(watched) = self.processes.get_mut(&pid) else {
            return;
        };
        if !watched.process.is_over(key) {
            return;
        }
        self.sessions.remove(&key);
        watched.process.forget();
        if watched.process.is_idle() {
            self.processes.remove(&pid);
            self.looker.forget(pid);
        }
    }

    fn watched(&self, key: SessionKey) -> Option<&Watched> {
        self.processes.get(&self.sessions.get(&key)?.pid)
    }

    fn watched_mut(&mut self, key: SessionKey) -> Option<&mut Watched> {
        self.processes.get_mut(&self.sessions.get(&key)?.pid)
    }
}
