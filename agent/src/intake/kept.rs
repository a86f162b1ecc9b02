//! Rings that the service manager keeps for the next agent, and how that one goes on with them: see
//! [`crate::keep`].

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mirror_hook::event::CloseReason;
use mirror_hook::layout::{OWNER_LEFT, STATE_READY, control};
use mirror_hook::ring::Memory;

use super::admit::{Refusal, take_over};
use super::facade::Intake;
use super::family::Descent;
use super::kin::Owner;
use super::peer::{Peer, Watch, pid_of};
use super::process::Ring;
use super::seen::Seen;
use super::tracker::{Sink, Tracker};
use crate::event::{
    Continued, MonotonicTime, ProcessInfo, SessionChange, SessionEvent, SessionKey, Settled,
};
use crate::filter::Policy;
use crate::keep::Inherited;
use crate::keep::saved::{Identity, Saved, SavedSession, TableError};
use crate::keep::table::Table;

/// What is kept of a ring: these words and its instance are the names.
const PARTS: [&str; 3] = ["ring", "process", "sessions"];

/// A ring that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    instance: u64,
    /// Its sessions.
    pub(super) table: Table,
}

/// A session that goes on.
#[derive(Debug)]
pub(super) struct Resumed {
    key: SessionKey,
    process: Arc<ProcessInfo>,
    policy: Option<Arc<Policy>>,
    at: MonotonicTime,
    session: SavedSession,
}

/// A ring that came back can't be used.
#[derive(Debug, thiserror::Error)]
enum NotTaken {
    #[error("{0} of its parts are missing")]
    Incomplete(usize),
    #[error(transparent)]
    Table(#[from] TableError),
    #[error("it is another ring's")]
    OtherRing,
    #[error("the process isn't the one that it belonged to")]
    OtherProcess,
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// A ring as it came back.
#[derive(Debug)]
struct Returned {
    memfd: OwnedFd,
    pidfd: OwnedFd,
    table: Table,
    saved: Saved,
}

impl Intake {
    /// What there is to be said of what the service manager gave back.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// A flow's number that no session that goes on here has had.
    pub fn first_flow(&self) -> u64 {
        let flows = self
            .resumed
            .iter()
            .filter_map(|one| one.session.settled.flow);
        flows.max().unwrap_or(0).saturating_add(1)
    }

    /// Notes what has become of a session, for the agent that may have to go on with it.
    pub fn settled(&mut self, key: SessionKey, settled: &Settled) {
        if let Some(ring) = self.rings.get_mut(&key.ring)
            && let Some(kept) = &mut ring.kept
        {
            kept.table.settle(key.connection, settled);
        }
    }

    /// Has a new ring kept. Where that isn't possible, it is as without a service manager.
    pub(super) fn keep(&mut self, number: u64, ring: &mut Ring, memfd: BorrowedFd<'_>) {
        // An agent that is gone must be seen to be: else its process would wait for the next for ever.
        let (Some(manager), Watch::Pidfd(pidfd), Some(_)) =
            (&self.manager, ring.watch(), &ring.held)
        else {
            return;
        };
        let process = ProcessInfo::clone(ring.process());
        let identity = Identity {
            message: ring.message,
            granted_bytes: ring.consumer().capacity(),
            number,
            process,
        };
        let Ok((table, sessions)) = Table::new(&identity) else {
            return;
        };
        let parts = [memfd, pidfd.as_fd(), sessions.as_fd()];
        for (index, (part, fd)) in PARTS.iter().zip(parts).enumerate() {
            if manager.store(&name(part, ring.instance), &[fd]).is_err() {
                for part in &PARTS[..index] {
                    manager.remove(&name(part, ring.instance), 1);
                }
                return;
            }
        }
        ring.consumer().keep();
        let instance = ring.instance;
        ring.kept = Some(Kept { instance, table });
    }

    /// A ring has ended.
    pub(super) fn keep_no_longer(&self, ring: &Ring) {
        if let (Some(manager), Some(kept)) = (&self.manager, &ring.kept) {
            for part in PARTS {
                manager.remove(&name(part, kept.instance), 1);
            }
        }
    }

    /// Goes on with what the service manager gave back.
    pub(super) fn take_over(&mut self, returned: Vec<Inherited>) {
        let mut rings: BTreeMap<String, HashMap<&str, OwnedFd>> = BTreeMap::new();
        for Inherited { name, fd } in returned {
            let known = name.split_once('-').and_then(|(part, instance)| {
                let part = PARTS.into_iter().find(|known| *known == part)?;
                Some((part, instance.to_owned()))
            });
            match known {
                // A second one of the same name is closed.
                Some((part, instance)) => {
                    rings.entry(instance).or_default().entry(part).or_insert(fd);
                }
                None => self.give_up(&name, 1, "nothing of that name is used here"),
            }
        }
        let mut good = Vec::new();
        for (instance, parts) in rings {
            let found: Vec<_> = parts.keys().copied().collect();
            match returned_ring(&instance, parts) {
                Ok(ring) => good.push((instance, ring)),
                Err(reason) => self.give_up_ring(&instance, &found, &reason),
            }
        }
        // Parents have the lower numbers.
        good.sort_by_key(|(_, ring)| ring.saved.identity.number);
        for (instance, ring) in good {
            match self.take_ring(ring) {
                Ok(()) => self.stats.taken_over += 1,
                Err(reason) => self.give_up_ring(&instance, &PARTS, &reason),
            }
        }
        self.order_resumed();
    }

    fn take_ring(&mut self, ring: Returned) -> Result<(), NotTaken> {
        let Returned {
            memfd,
            pidfd,
            table,
            saved,
        } = ring;
        let identity = &saved.identity;
        let pid = pid_of(pidfd.as_fd()).ok_or(NotTaken::OtherProcess)?;
        let process = &identity.process;
        if pid != -1 && u32::try_from(pid) != Ok(process.pid) {
            return Err(NotTaken::OtherProcess);
        }
        let peer = Peer {
            pid: process.pid,
            uid: process.uid,
        };
        self.admit_user(&peer)?;
        let by_helper = || self.helper.as_ref()?.process(peer.pid);
        let seen = match pid {
            // Its id may be somebody else's by now.
            -1 => Seen::default(),
            _ => by_helper().unwrap_or_else(|| Seen::of(peer.pid)),
        };
        let told = self.told(&peer, &seen);
        let number = identity.number;
        if self.rings.contains_key(&number) || self.rings.len() >= self.config.max_rings {
            return Err(Refusal::TooMany.into());
        }
        let owner = Owner::new(process.pid, seen.started, &memfd);
        let mut held = None;
        let own = |memfd: BorrowedFd<'_>| {
            let (ring, thread_id) = self.owners.hold(memfd).ok()?;
            held = Some(ring);
            Some(thread_id)
        };
        let admitted = match take_over(identity, memfd, told.as_ref(), own) {
            Ok(admitted) => admitted,
            Err(reason) => {
                if let Some(held) = held {
                    self.owners.let_go(held);
                }
                return Err(reason.into());
            }
        };
        let process = Arc::new(process.clone());
        let policy = told.map(|told| told.policy);
        let most = self.config.max_connections;
        let tracker = Tracker::new(number, Arc::clone(&process), policy.clone(), most);
        let watched = self.doorbell.add(pidfd.as_fd(), number).is_ok();
        let tracker = tracker.resume(&saved);
        let mut ring = Ring::new(admitted, owner, tracker, Watch::Pidfd(pidfd));
        let descent = Descent::of(&identity.message);
        self.families
            .attached(ring.instance, descent, process.uid, owner);
        let metas = saved.sessions.iter().filter_map(SavedSession::meta);
        for parent in metas.filter_map(|meta| meta.parent) {
            self.families.adopted(ring.instance, parent);
        }
        let memory = ring.consumer().memory();
        let left = memory.load_u32(control::OWNER, Ordering::Acquire) == OWNER_LEFT
            || memory.load_u32(control::STATE, Ordering::Acquire) != STATE_READY;
        if pid == -1 || left || !watched {
            // What it wrote is still read.
            ring.process_died();
        }
        ring.held = held;
        ring.kept = Some(Kept {
            instance: ring.instance,
            table,
        });
        self.budget.used_bytes += ring.cost_bytes();
        self.rings.insert(number, ring);
        self.next_ring = self.next_ring.max(number.saturating_add(1));
        let sessions = saved.sessions.into_iter();
        self.resumed.extend(sessions.map(|session| Resumed {
            key: SessionKey {
                ring: number,
                connection: session.connection,
            },
            process: Arc::clone(&process),
            policy: policy.clone(),
            at: MonotonicTime(saved.last_ns),
            session,
        }));
        Ok(())
    }

    /// Those that were told come first, as they came then: of two copies the same one is told again.
    fn order_resumed(&mut self) {
        self.resumed
            .sort_by_key(|one| (one.session.settled.flow.unwrap_or(u64::MAX), one.key));
    }

    /// Tells of the sessions that go on here.
    pub(super) fn tell_resumed(&mut self, sink: &mut Sink<'_>) {
        let resumed = std::mem::take(&mut self.resumed);
        // Of one flow's sessions, which are a process and its children, the one that is ahead tells
        // how far the flow is.
        let mut bases: HashMap<u64, (u64, u64)> = HashMap::new();
        for Resumed { session, .. } in &resumed {
            if let Some(flow) = session.settled.flow {
                let base = bases.entry(flow).or_default();
                *base = (base.0.max(session.next.0), base.1.max(session.next.1));
            }
        }
        for one in &resumed {
            let Some(meta) = one.session.meta() else {
                continue;
            };
            let flow = one.session.settled.flow;
            let continued = Continued {
                base: flow
                    .and_then(|flow| bases.get(&flow).copied())
                    .unwrap_or(one.session.next),
                found: one.session.settled.found,
            };
            self.stats.resumed += 1;
            let mut tell = |change| {
                sink(SessionEvent {
                    session: one.key,
                    at: one.at,
                    change,
                });
            };
            tell(SessionChange::Resumed {
                process: &one.process,
                meta: &meta,
                policy: one.policy.as_ref(),
                continued: &continued,
            });
            let (sent, received) = one.session.ended;
            let ends = [
                (sent, CloseReason::SentEnd),
                (received, CloseReason::ReceivedEnd),
            ];
            for (_, reason) in ends.into_iter().filter(|(ended, _)| *ended) {
                tell(SessionChange::Close { reason });
            }
        }
    }

    fn give_up_ring(&mut self, instance: &str, parts: &[&str], reason: &NotTaken) {
        for part in parts {
            self.give_up(&format!("{part}-{instance}"), 1, &reason.to_string());
        }
    }

    /// Says what isn't used, and has it kept no longer.
    fn give_up(&mut self, name: &str, count: usize, reason: &str) {
        self.complaints.push(format!(
            "the service manager gave back {}, which isn't used: {reason}",
            crate::escape::Word(name)
        ));
        if let Some(manager) = &self.manager {
            manager.remove(name, count);
        }
    }
}

fn returned_ring(instance: &str, mut parts: HashMap<&str, OwnedFd>) -> Result<Returned, NotTaken> {
    let missing = PARTS.len() - parts.len();
    let mut part = |part: &str| parts.remove(part).ok_or(NotTaken::Incomplete(missing));
    let (memfd, pidfd, sessions) = (part(PARTS[0])?, part(PARTS[1])?, part(PARTS[2])?);
    let (table, saved) = Table::load(sessions.as_fd())?;
    if name("ring", saved.identity.message.instance) != format!("ring-{instance}") {
        return Err(NotTaken::OtherRing);
    }
    Ok(Returned {
        memfd,
        pidfd,
        table,
        saved,
    })
}

fn name(part: &str, instance: u64) -> String {
    format!("{part}-{instance:016x}")
}
