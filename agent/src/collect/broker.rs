//! What a collector takes from a broker.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use agent::broker::key::{FleetKeys, Terms};
use agent::broker::{BrokerConfig, Collector, CollectorStats};
use agent::collector::{Agent, Fleet};

use crate::config::SourceChoice;
use crate::report::counted;

/// Agents by a broker have numbers of their own, from here on.
const FIRST_NUMBER: u64 = 1 << 32;

/// A member of the fleet that shares a broker's partitions.
pub(super) struct BrokerSource {
    collector: Collector,
}

/// A broker of which everything is read that this process may read, and which wasn't spoken to.
pub(super) struct OpenBroker {
    config: BrokerConfig,
    keys: FleetKeys,
    denied: Vec<String>,
}

impl OpenBroker {
    pub(super) fn open(choice: &SourceChoice) -> anyhow::Result<Self> {
        Ok(Self {
            config: choice.broker.load()?,
            keys: choice.fleet_keys()?,
            denied: choice.denied.clone(),
        })
    }
}

impl BrokerSource {
    /// Begins to speak to it.
    pub(super) fn start(broker: OpenBroker, fleet: &Arc<Fleet>) -> Self {
        let (fleet, denied) = (Arc::clone(fleet), broker.denied);
        let agents = Mutex::new(HashMap::new());
        let feeds = move |name: &str, terms: &Terms| {
            if denied.iter().any(|denied| denied == name) {
                return None;
            }
            let mut agents = agents.lock().unwrap_or_else(PoisonError::into_inner);
            let number = FIRST_NUMBER + agents.len() as u64;
            let key = (name.to_owned(), terms.clone());
            if agents.len() == 1 && !agents.contains_key(&key) {
                // Both ends of a connection may be mirrored.
                fleet.workers().expect_twins(true);
            }
            let agent = agents
                .entry(key)
                .or_insert_with(|| Arc::new(Agent::new(number, name, terms.networks())));
            Some(fleet.workers().feed(Arc::clone(agent)))
        };
        Self {
            collector: Collector::start(broker.config, broker.keys, Arc::new(feeds)),
        }
    }

    /// Gives its partitions to others; waits for it no longer than this.
    pub(super) fn hand_over(&self, patience: Duration) {
        self.collector.stop();
        let deadline = Instant::now() + patience;
        while !self.collector.is_over() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub(super) fn take_notices(&self) -> Vec<String> {
        self.collector.take_notices()
    }

    /// Its report, a line each.
    pub(super) fn report(&self) -> Vec<String> {
        let stats = self.collector.stats();
        let mut lines = vec![format!(
            "broker: {} of {}, {} with {} of events",
            counted(stats.partitions, "partition"),
            counted(stats.members, "collector"),
            counted(stats.envelopes, "envelope"),
            counted(stats.event_bytes, "byte"),
        )];
        let said = counts(&stats).into_iter().filter(|(count, ..)| *count > 0);
        lines.extend(
            said.map(|(count, noun, what)| format!("broker: {} {what}", counted(count, noun))),
        );
        lines
    }
}

fn counts(stats: &CollectorStats) -> [(u64, &'static str, &'static str); 17] {
    [
        (
            stats.old_key_envelopes,
            "envelope",
            "by an older key of the fleet, which is needed while these grow",
        ),
        (
            stats.takeovers,
            "partition",
            "taken over from collectors that were gone",
        ),
        (
            stats.may_repeat_bytes,
            "sealed byte",
            "read after that, of which these may have put out some already: at most so many",
        ),
        (
            stats.continued_flows,
            "session",
            "begun anew where another collector, or this one, had left off",
        ),
        (stats.handed_over, "partition", "handed over"),
        (
            stats.fenced,
            "time",
            "others had taken over: what was queued here was left out",
        ),
        (
            stats.restarts,
            "partition",
            "read again from its mark, since the lease was in doubt",
        ),
        (
            stats.missing_envelopes,
            "envelope",
            "LOST at the broker: their numbers are missing",
        ),
        (stats.repeated, "envelope", "came again, and dropped"),
        (
            stats.broken_seals,
            "message",
            "refused: the seal is broken, of a key that was retired, or not of this fleet",
        ),
        (
            stats.malformed,
            "message",
            "refused: no envelope, or of another version",
        ),
        (
            stats.stale,
            "envelope",
            "refused: older than what the broker may keep",
        ),
        (
            stats.not_let_in,
            "envelope",
            "refused: their agent isn't let in",
        ),
        (stats.unreadable, "batch", "refused: can't be read"),
        (
            stats.failed_marks,
            "mark",
            "that couldn't be written: what was put out since would be put out again after a takeover",
        ),
        (
            stats.begun_anew,
            "time",
            "what speaks to the broker had ended, and was begun anew",
        ),
        (
            stats.silent_agents,
            "partition",
            "in which an agent's sessions were ended, since it was gone",
        ),
    ]
}
