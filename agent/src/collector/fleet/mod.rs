//! Who is connected, and what of it was received: instances of agents across their connections.

mod life;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub(super) use self::life::{Closing, Seat};
use self::life::{Life, LifeState};
use super::acks::Acks;
use super::agent::Agent;
use super::lines::Lines;
use super::quota::Quota;
use super::workers::Workers;
use crate::identity::{AgentRecord, CollectorIdentity, IdentityError, KeyId, RefusalCounts};
use crate::tunnel::frame::{Hello, Instance, Reason, Resume};

/// Instances of one agent that may be connected or waited for.
const MAX_INSTANCES: usize = 16;

/// What all connections share.
#[derive(Debug)]
pub struct Fleet {
    pub(super) epoch: Instance,
    pub(super) workers: Workers,
    pub(super) identity: Option<CollectorIdentity>,
    /// For agents that have none of their own.
    default_quota: Option<u64>,
    linger: Duration,
    state: Mutex<State>,
    refusals: RefusalCounts,
    lines: Lines,
    phase: watch::Sender<Phase>,
}

/// How far the collector's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Agents come and are heard.
    Running,
    /// Nothing more is read; what was is brought to its end.
    Draining,
    /// Agents are sent away.
    Leaving,
}

#[derive(Debug, Default)]
struct State {
    agents: HashMap<AgentKey, Known>,
    lives: HashMap<(AgentKey, Instance), Arc<Life>>,
    numbers: u64,
    connections: usize,
    expects_twins: bool,
}

/// An agent that came at least once.
#[derive(Clone, Debug)]
struct Known {
    agent: Arc<Agent>,
    quota: Arc<Quota>,
    record: Option<AgentRecord>,
    address: IpAddr,
}

/// By what an agent is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AgentKey {
    Key(KeyId),
    /// Without TLS nobody knows more.
    Address(IpAddr),
}

/// An agent in a report.
#[derive(Clone, Debug)]
pub struct AgentReport {
    /// Whose.
    pub agent: Arc<Agent>,
    /// Where it came from last.
    pub address: IpAddr,
    /// Instances that are connected.
    pub connected: usize,
    /// Instances that are waited for.
    pub waited_for: usize,
}

impl Fleet {
    /// Nobody is connected yet. `epoch`: random, this life of the collector.
    pub fn new(
        epoch: Instance,
        workers: Workers,
        identity: Option<CollectorIdentity>,
        default_quota: Option<u64>,
        linger: Duration,
    ) -> Arc<Self> {
        workers.expect_twins(false);
        Arc::new(Self {
            epoch,
            workers,
            identity,
            default_quota,
            linger,
            state: Mutex::default(),
            refusals: RefusalCounts::default(),
            lines: Lines::default(),
            phase: watch::Sender::new(Phase::Running),
        })
    }

    /// The workers.
    pub fn workers(&self) -> &Workers {
        &self.workers
    }

    /// What people should know, a line each; once.
    pub fn take_lines(&self) -> Vec<String> {
        self.lines.take(Instant::now())
    }

    pub(super) fn say(&self, line: String) {
        self.lines.say(line);
    }

    /// Somebody was refused, as this line says.
    pub(super) fn say_refused(&self, reason: Reason, line: String) {
        self.lines.say_refused(reason, line, Instant::now());
    }

    /// Somebody was refused.
    pub(super) fn count(&self, reason: Reason) {
        self.refusals.add(reason);
    }

    /// How often who was refused, by reason.
    pub fn refusals(&self) -> std::collections::BTreeMap<Reason, u64> {
        let mut counts = self.refusals.snapshot();
        if let Some(identity) = &self.identity {
            for (reason, count) in identity.refusals().snapshot() {
                *counts.entry(reason).or_default() += count;
            }
        }
        counts
    }

    /// All agents that came, by name.
    pub fn agents(&self) -> Vec<AgentReport> {
        let state = self.lock();
        let mut reports: Vec<_> = state
            .agents
            .iter()
            .map(|(key, known)| {
                let lives = state.lives.iter().filter(|((of, _), _)| of == key);
                let (alone, connected): (Vec<_>, Vec<_>) =
                    lives.partition(|(_, life)| life.lock().alone_since.is_some());
                AgentReport {
                    agent: Arc::clone(&known.agent),
                    address: known.address,
                    connected: connected.len(),
                    waited_for: alone.len(),
                }
            })
            .collect();
        drop(state);
        reports.sort_by(|one, other| one.agent.name().cmp(other.agent.name()));
        reports
    }

    /// Reads again what agents may; who may nothing any more is thrown out. Reads from disk.
    ///
    /// # Errors
    /// See [`CollectorIdentity::reload`]; then all stays as it was.
    pub fn reload(&self) -> Result<(), IdentityError> {
        let Some(identity) = &self.identity else {
            return Ok(());
        };
        identity.reload()?;
        let mut state = self.lock();
        let mut gone = Vec::new();
        for (key, known) in &mut state.agents {
            let Some(record) = &known.record else {
                continue;
            };
            match identity.current(record) {
                Ok(record) => {
                    known.agent.set_networks(Some(record.networks.clone()));
                    known
                        .quota
                        .set(record.quota_bits_per_s.or(self.default_quota));
                    known.record = Some(record);
                }
                Err(reason) => gone.push((*key, reason)),
            }
        }
        for (key, reason) in gone {
            if let Some(known) = state.agents.remove(&key) {
                let name = known.agent.name();
                self.say(format!(
                    "{name} may come in no more ({reason:?}): its flows end"
                ));
            }
            state.lives.retain(|(of, _), life| {
                if *of == key {
                    life.end(Some(reason));
                }
                *of != key
            });
        }
        Ok(())
    }

    /// Ends instances that have been without a connection for too long. To be called about once a second.
    pub fn sweep(&self) {
        let now = Instant::now();
        let mut state = self.lock();
        state.lives.retain(|_, life| {
            let alone_since = life.lock().alone_since;
            let lost = alone_since.is_some_and(|since| now.duration_since(since) >= self.linger);
            if lost {
                life.end(None);
            }
            !lost
        });
        let mut agents: Vec<_> = state.lives.keys().map(|(key, _)| key).collect();
        agents.dedup();
        let expect = agents.len() > 1;
        self.expect_twins(&mut state, expect);
    }

    fn expect_twins(&self, state: &mut State, expect: bool) {
        if std::mem::replace(&mut state.expects_twins, expect) != expect {
            self.workers.expect_twins(expect);
        }
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// From here on nothing more is read.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Agents are told to go, behind the last acknowledgement.
    pub fn leave(&self) {
        self.phase.send_replace(Phase::Leaving);
    }

    /// Connections of agents.
    pub fn connections(&self) -> usize {
        self.lock().connections
    }

    /// An agent wants in, and may. Names it, or finds its instance.
    pub(super) fn enter(
        self: &Arc<Self>,
        record: Option<AgentRecord>,
        address: IpAddr,
        hello: &Hello,
    ) -> Result<Seat, Reason> {
        let agent_key = record
            .as_ref()
            .map_or(AgentKey::Address(address), |record| {
                AgentKey::Key(record.key)
            });
        let key = (agent_key, hello.instance);
        let mut state = self.lock();
        // It may have been revoked since its handshake. From here on `reload` finds it.
        let record = match (&self.identity, record) {
            (Some(identity), Some(record)) => Some(identity.current(&record)?),
            (_, record) => record,
        };
        let known = self.known(&mut state, agent_key, record, address);
        let closing = watch::Sender::new(None);
        let receiver = closing.subscribe();
        let (life, resume) = match state.lives.get(&key).cloned() {
            Some(life) => {
                let mut current = life.lock();
                if hello.connection <= current.connection {
                    return Err(Reason::Replayed);
                }
                let older = std::mem::replace(&mut current.closing, closing);
                older.send_replace(Some(Closing::Replaced));
                current.connection = hello.connection;
                current.alone_since = None;
                let resume = self.resume(&mut current, hello, &known.agent);
                drop(current);
                (life, resume)
            }
            None => {
                make_room(&mut state, agent_key)?;
                let life = Arc::new(Life {
                    state: Mutex::new(LifeState {
                        connection: hello.connection,
                        next: hello.oldest,
                        feed: self.workers.feed(Arc::clone(&known.agent)),
                        acks: Arc::new(Acks::new(hello.oldest)),
                        closing,
                        alone_since: None,
                        over: false,
                    }),
                });
                state.lives.insert(key, Arc::clone(&life));
                (life, Resume::Anew)
            }
        };
        let several = state.lives.keys().any(|(of, _)| *of != agent_key);
        self.expect_twins(&mut state, several);
        state.connections += 1;
        drop(state);
        let current = life.lock();
        let (feed, acks) = (current.feed.clone(), Arc::clone(&current.acks));
        drop(current);
        Ok(Seat {
            fleet: Arc::clone(self),
            life,
            key,
            connection: hello.connection,
            resume,
            oldest: hello.oldest,
            feed,
            acks,
            quota: known.quota,
            record: known.record,
            closing: receiver,
        })
    }

    /// Where a known instance goes on.
    fn resume(&self, life: &mut LifeState, hello: &Hello, agent: &Arc<Agent>) -> Resume {
        let goes_on = hello.epoch == Some(self.epoch) && hello.oldest <= life.next;
        if goes_on && !life.over {
            return Resume::From(life.next);
        }
        if hello.oldest >= life.next && !life.over {
            // Another collector has heard what lies between. The flows go on, with holes.
            life.acks.skip_to(hello.oldest - 1);
        } else {
            // What it would tell again was told: its flows begin anew.
            life.feed.end();
            life.feed = self.workers.feed(Arc::clone(agent));
            life.acks = Arc::new(Acks::new(hello.oldest));
            life.over = false;
        }
        life.next = hello.oldest;
        Resume::Anew
    }

    fn known(
        &self,
        state: &mut State,
        key: AgentKey,
        record: Option<AgentRecord>,
        address: IpAddr,
    ) -> Known {
        let quota = record
            .as_ref()
            .and_then(|record| record.quota_bits_per_s)
            .or(self.default_quota);
        let networks = record.as_ref().map(|record| record.networks.clone());
        if let Some(known) = state.agents.get_mut(&key) {
            known.agent.set_networks(networks);
            (known.record, known.address) = (record, address);
            return known.clone();
        }
        state.numbers += 1;
        let name = match &record {
            Some(record) => record.name.clone(),
            None => address.to_string(),
        };
        let known = Known {
            agent: Arc::new(Agent::new(state.numbers, &name, networks)),
            quota: Arc::new(Quota::new(quota)),
            record,
            address,
        };
        state.agents.insert(key, known.clone());
        known
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for another instance of an agent. Where there are as many as there may be, the one that has been without a
/// connection for longest isn't waited for any more: an agent that is killed again and again isn't kept out by that.
fn make_room(state: &mut State, agent: AgentKey) -> Result<(), Reason> {
    let mine = state.lives.iter().filter(|((of, _), _)| *of == agent);
    if mine.clone().count() < MAX_INSTANCES {
        return Ok(());
    }
    let alone = mine.filter_map(|(key, life)| Some((life.lock().alone_since?, *key)));
    let (_, longest) = alone
        .min_by_key(|(since, _)| *since)
        .ok_or(Reason::TooMany)?;
    if let Some(life) = state.lives.remove(&longest) {
        life.end(None);
    }
    Ok(())
}
