//! Who has which partition: leases in a bucket, by compare and set.
//!
//! ```text
//! member.<id>   "alive"                    renewed each second by its collector, at the revision it knows
//! lease.<pp>    the id of its owner       changed when a partition changes hands; its revision is the fencing number
//! ```
//!
//! - A collector puts out as long as its [`Permit`](super::permit::Permit) holds, which its renewals extend.
//! - One whose member key hasn't changed for longer than that is removed by another one, at the revision that was seen
//!   last: so either the renewal or the removal succeeds, never both. A collector that can't renew because its key was
//!   removed gives up all, and comes back under another id.
//! - Partitions of the dead, and those that nobody has, are taken by whoever has fewer than its share, at the revision
//!   that was seen last. Who has more than its share hands over.
//! - What a collector writes about a partition (its marks) has the lease's number in it, at the revision that it wrote
//!   last; a successor begins by writing its own number there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_nats::jetstream::kv::{Entry, Operation, Watch};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time::MissedTickBehavior;

use super::collectors::Context;
use super::connect::{Backoff, partitions, random};
use super::life::words_of_panic;
use super::notices::{Trouble, causes};
use super::partition::{self, Ended};
use super::permit::{LEASE, LEASE_MARGIN, Moment, RENEWAL};
use crate::tunnel::batch::PARTITIONS;

const ALIVE: &[u8] = b"alive";

/// Another collector, as the bucket tells of it.
#[derive(Clone, Debug)]
struct Member {
    revision: u64,
    changed: Moment,
}

/// A partition's lease, as the bucket tells of it.
#[derive(Clone, Debug, Default)]
struct Lease {
    /// Empty: nobody's.
    owner: String,
    revision: u64,
}

/// What the bucket has.
#[derive(Debug, Default)]
struct View {
    members: BTreeMap<String, Member>,
    leases: HashMap<u16, Lease>,
}

/// A partition that is ours.
struct Held {
    fence: u64,
    stop: watch::Sender<bool>,
    task: task::Id,
}

/// How a membership has ended.
enum Life {
    Stopped,
    Fenced,
}

/// A collector's membership under one id.
struct Membership {
    context: Arc<Context>,
    id: String,
    revision: u64,
    view: View,
    held: HashMap<u16, Held>,
    tasks: JoinSet<(u16, Ended)>,
    trouble: Trouble,
}

/// Takes part until told to stop.
pub(super) async fn run(context: Arc<Context>, mut stop: watch::Receiver<bool>) {
    loop {
        let joined = tokio::select! {
            joined = Membership::join(&context) => joined,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match joined.live(&mut stop).await {
            Life::Stopped => return,
            Life::Fenced => {
                context.stats.fenced.add(1);
                partitions().for_each(|partition| context.forget(partition));
                context.notices.say(
                    "other collectors have taken over, since this one didn't renew its leases: what it had queued is \
                     left out; it joins again",
                );
            }
        }
    }
}

impl Membership {
    async fn join(context: &Arc<Context>) -> Self {
        let id = format!("{:032x}", u128::from_be_bytes(random()));
        let mut trouble = Trouble::new(
            context.notices.clone(),
            "the broker's bucket of leases can be used again",
        );
        let mut backoff = Backoff::new();
        let revision = loop {
            let created = context
                .leases
                .create(member_key(&id), Bytes::from_static(ALIVE));
            match created.await {
                Ok(revision) => break revision,
                Err(error) => trouble.is(format!(
                    "can't join the collectors at the broker: {}; trying again",
                    causes(&error)
                )),
            }
            backoff.wait().await;
        };
        trouble.over();
        Self {
            context: Arc::clone(context),
            id,
            revision,
            view: View::default(),
            held: HashMap::new(),
            tasks: JoinSet::new(),
            trouble,
        }
    }

    async fn live(mut self, stop: &mut watch::Receiver<bool>) -> Life {
        let mut watching: Option<Watch> = None;
        let mut tick = tokio::time::interval(RENEWAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if *stop.borrow() && self.held.is_empty() {
                self.leave().await;
                return Life::Stopped;
            }
            if *stop.borrow() {
                self.held.values().for_each(Held::hand_over);
            }
            tokio::select! {
                _ = stop.changed() => {}
                _ = tick.tick() => {
                    if watching.is_none() {
                        self.view = View::default();
                        watching = self.context.leases.watch_with_history(">").await.ok();
                    }
                    if !self.renew().await {
                        self.context.permit.revoke();
                        self.tasks.shutdown().await;
                        return Life::Fenced;
                    }
                    self.remove_silent().await;
                    if !*stop.borrow() {
                        self.balance().await;
                    }
                }
                Some(ended) = self.tasks.join_next_with_id() => match ended {
                    Ok((_, (partition, ended))) => self.ended(partition, ended).await,
                    Err(error) => self.failed(error.id()).await,
                },
                entry = next(&mut watching), if watching.is_some() => match entry {
                    Some(entry) => self.view.note(&entry),
                    None => watching = None,
                },
            }
        }
    }

    /// False: somebody has removed us.
    async fn renew(&mut self) -> bool {
        let began = Moment::now();
        let key = member_key(&self.id);
        let store = &self.context.leases;
        match store
            .update(&key, Bytes::from_static(ALIVE), self.revision)
            .await
        {
            Ok(revision) => {
                self.revision = revision;
                self.trouble.over();
                self.context.permit.extend(began);
                true
            }
            // An earlier attempt may have been written without our hearing of it.
            Err(error) => match store.entry(&key).await {
                Ok(Some(entry)) if entry.operation == Operation::Put && entry.value == ALIVE => {
                    self.revision = entry.revision;
                    true
                }
                Ok(_) => false,
                Err(_) => {
                    self.trouble.is(format!(
                        "can't renew the leases at the broker: {}; without them nothing is put out after {} s",
                        causes(&error),
                        LEASE.as_secs()
                    ));
                    true
                }
            },
        }
    }

    /// Removes others that haven't renewed for longer than their permit lasts.
    async fn remove_silent(&mut self) {
        let gone = |(id, member): (&String, &Member)| {
            let silent = member.changed.elapsed() > LEASE + LEASE_MARGIN;
            (*id != self.id && silent).then(|| (id.clone(), member.revision))
        };
        let gone: Vec<_> = self.view.members.iter().filter_map(gone).collect();
        for (id, revision) in gone {
            let leases = &self.context.leases;
            let removed = leases
                .delete_expect_revision(member_key(&id), Some(revision))
                .await;
            match removed {
                Ok(()) => {
                    self.view.members.remove(&id);
                    self.context.notices.say(format!(
                        "collector {} has gone: others take its partitions",
                        short(&id)
                    ));
                }
                // It has just renewed, or somebody else was faster: the bucket will tell.
                Err(_) => {
                    if let Some(member) = self.view.members.get_mut(&id) {
                        member.changed = Moment::now();
                    }
                }
            }
        }
    }

    /// Takes or hands over, until we have our share.
    async fn balance(&mut self) {
        // As long as we don't see ourselves we don't know what there is.
        let alive: Vec<_> = self.view.members.keys().cloned().collect();
        let Some(rank) = alive.iter().position(|id| *id == self.id) else {
            return;
        };
        self.context.stats.members.set(alive.len() as u64);
        let share = share(rank, alive.len());
        let leaving = self.held.values().filter(|held| *held.stop.borrow());
        let mut have = self.held.len() - leaving.count();
        if have > share {
            let mut surplus: Vec<_> = self
                .held
                .iter()
                .filter(|(_, held)| !*held.stop.borrow())
                .collect();
            surplus.sort_unstable_by_key(|(partition, _)| **partition);
            for (_, held) in surplus.into_iter().rev().take(have - share) {
                held.hand_over();
            }
            return;
        }
        let free = |partition: &u16| {
            let lease = self.view.leases.get(partition);
            !self.held.contains_key(partition)
                && lease.is_none_or(|lease| !alive.contains(&lease.owner))
        };
        // Each begins at another place, so that two don't ask for the same.
        let from = u16::try_from(rank * usize::from(PARTITIONS) / alive.len()).unwrap_or(0);
        let around = partitions().map(|offset| (from + offset) % PARTITIONS);
        let wanted: Vec<_> = around.filter(free).collect();
        let began = Moment::now();
        for partition in wanted {
            // A broker may be slow: what we have is renewed first, and the rest taken at the next look.
            if have >= share || !self.context.permit.holds() || began.elapsed() >= RENEWAL {
                break;
            }
            have += usize::from(self.acquire(partition).await);
        }
        self.context.stats.partitions.set(self.held.len() as u64);
    }

    async fn acquire(&mut self, partition: u16) -> bool {
        let key = lease_key(partition);
        let store = &self.context.leases;
        let id = Bytes::from(self.id.clone());
        let fence = match self.view.leases.get(&partition) {
            None => store.create(&key, id).await.ok(),
            Some(lease) => store.update(&key, id, lease.revision).await.ok(),
        };
        let Some(fence) = fence else {
            return false;
        };
        let (stop, stopped) = watch::channel(false);
        let context = Arc::clone(&self.context);
        let task = self.tasks.spawn(async move {
            let ended = partition::run(context, partition, fence, stopped).await;
            (partition, ended)
        });
        let task = task.id();
        self.held.insert(partition, Held { fence, stop, task });
        true
    }

    /// A task has panicked: its partition is given up, for somebody to go on from its mark. We look for free ones once a
    /// second.
    async fn failed(&mut self, task: task::Id) {
        let words = words_of_panic();
        let mut held = self.held.iter();
        let partition =
            held.find_map(|(partition, held)| (held.task == task).then_some(*partition));
        if let Some(partition) = partition {
            self.context.stats.begun_anew.add(1);
            self.context.notices.say(format!(
                "what reads partition {partition} has failed ({words}): it is begun anew from its mark"
            ));
            self.ended(partition, Ended::Failed).await;
        }
    }

    /// A partition's work is over.
    async fn ended(&mut self, partition: u16, ended: Ended) {
        let Some(held) = self.held.remove(&partition) else {
            return;
        };
        self.context.forget(partition);
        if ended == Ended::HandedOver {
            self.context.stats.handed_over.add(1);
        }
        if ended != Ended::Fenced {
            let released = self
                .context
                .leases
                .update(lease_key(partition), Bytes::new(), held.fence)
                .await;
            if let Ok(revision) = released {
                let lease = Lease {
                    owner: String::new(),
                    revision,
                };
                self.view.leases.insert(partition, lease);
            }
        }
        self.context.stats.partitions.set(self.held.len() as u64);
    }

    /// Nothing is ours any more: nobody needs to wait for us.
    async fn leave(&mut self) {
        self.context.permit.revoke();
        let key = member_key(&self.id);
        // If it fails, others find us silent.
        let _ = self
            .context
            .leases
            .delete_expect_revision(key, Some(self.revision))
            .await;
    }
}

impl Held {
    fn hand_over(&self) {
        self.stop.send_replace(true);
    }
}

impl View {
    fn note(&mut self, entry: &Entry) {
        if let Some(id) = entry.key.strip_prefix("member.") {
            // Part of it is shown to people: nothing that a broker has made up.
            if !is_id(id) {
                return;
            }
            if entry.operation != Operation::Put {
                self.members.remove(id);
                return;
            }
            let member = Member {
                revision: entry.revision,
                changed: Moment::now(),
            };
            self.members.insert(id.to_owned(), member);
        } else if let Some(partition) = entry.key.strip_prefix("lease.") {
            let Some(partition) = partition.parse().ok().filter(|&number| number < PARTITIONS)
            else {
                return;
            };
            let lease = Lease {
                owner: String::from_utf8_lossy(&entry.value).into_owned(),
                revision: entry.revision,
            };
            // What we did ourselves may be known already.
            let known = self.leases.entry(partition).or_default();
            if known.revision < lease.revision {
                *known = lease;
            }
        }
    }
}

async fn next(watching: &mut Option<Watch>) -> Option<Entry> {
    // One that fails is begun again.
    watching.as_mut()?.next().await?.ok()
}

/// Partitions of the collector of this rank among so many.
fn share(rank: usize, members: usize) -> usize {
    let all = usize::from(PARTITIONS);
    all / members + usize::from(rank < all % members)
}

fn member_key(id: &str) -> String {
    format!("member.{id}")
}

/// Whether it is what a collector calls itself: 128 bits in lower-case hexadecimal.
fn is_id(id: &str) -> bool {
    id.len() == 32
        && id
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn lease_key(partition: u16) -> String {
    format!("lease.{partition:02}")
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_a_broker_makes_up_is_no_collector() {
        assert!(is_id(&format!("{:032x}", 7_u128)));
        for id in ["", "7", "\u{1b}[2J\u{7}", &"F".repeat(32), &"a".repeat(33)] {
            assert!(!is_id(id), "{id:?}");
        }
    }

    #[test]
    fn shares_are_fair_and_all_of_it() {
        for members in 1..100 {
            let shares: Vec<_> = (0..members).map(|rank| share(rank, members)).collect();
            assert_eq!(shares.iter().sum::<usize>(), usize::from(PARTITIONS));
            let (least, most) = (shares.iter().min().unwrap(), shares.iter().max().unwrap());
            assert!(most - least <= 1 && *most <= 64_usize.div_ceil(members));
        }
    }
}
