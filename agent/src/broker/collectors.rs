//! The collectors' side: a member of a fleet, in a thread of its own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use async_nats::jetstream::{self, kv};
use bytes::Bytes;
use tokio::sync::watch;

use super::connect::{Backoff, BrokerConfig, Way, bucket, ensure_bucket, ensure_stream};
use super::envelope::{EnvelopeError, Opened, Opener};
use super::key::{FleetKeys, Terms};
use super::lease;
use super::life::{self, Life};
use super::mark::Marker;
use super::notices::{Notices, Trouble, Troubles, causes};
use super::permit::Permit;
use crate::collector::Feed;

/// How often a collector looks at the stream's room.
const ROOM_INTERVAL: Duration = Duration::from_secs(2);
/// What the bucket of marks is for.
const MARKS: &str = "marks";

/// A new way to the workers for an agent of this name, which may tell of what its terms say; `None`: it isn't let in.
pub type Feeds = Arc<dyn Fn(&str, &Terms) -> Option<Feed> + Send + Sync>;

/// A collector that takes its share of what a fleet's agents have handed to a broker.
#[derive(Debug)]
pub struct Collector {
    stop: watch::Sender<bool>,
    stats: Arc<Stats>,
    notices: Notices,
    thread: Option<thread::JoinHandle<()>>,
}

/// A count. Read for reports only: nothing depends on it.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        #[derive(Debug, Default)]
        pub(super) struct Stats {
            $(pub(super) $name: Counter,)*
        }

        /// What a collector has done.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct CollectorStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Stats {
            fn read(&self) -> CollectorStats {
                CollectorStats {
                    $($name: self.$name.read(),)*
                }
            }
        }
    };
}

stats! {
    /// Partitions that it has now.
    partitions,
    /// Collectors that are alive, this one among them.
    members,
    /// Envelopes with events that went to the workers.
    envelopes,
    /// Bytes of events in them.
    event_bytes,
    /// Envelopes that were sealed for an older key of the fleet.
    old_key_envelopes,
    /// Messages that are no envelopes, or of another version.
    malformed,
    /// Envelopes whose seal is broken: forged, changed, moved, or of another fleet.
    broken_seals,
    /// Envelopes that came a second time.
    repeated,
    /// Envelopes that are older than anything the broker may keep.
    stale,
    /// Envelopes of agents that aren't let in.
    not_let_in,
    /// Batches that can't be read.
    unreadable,
    /// Envelopes that never came: their numbers are missing.
    missing_envelopes,
    /// Marks of other collectors that couldn't be used.
    refused_marks,
    /// Partitions taken over from collectors that had ended without handing them over.
    takeovers,
    /// Sealed bytes that were read after such a takeover, and may have been put out before; at most so many.
    may_repeat_bytes,
    /// Flows that were begun anew after a takeover or a handover.
    continued_flows,
    /// Partitions handed over to others.
    handed_over,
    /// Times that others had taken over what this one believed to have.
    fenced,
    /// Partitions read once more from their mark, since the lease had been in doubt.
    restarts,
    /// Marks written.
    marks,
    /// Attempts to write a mark that failed: what was put out since the last one would be put out again.
    failed_marks,
    /// Times that what speaks to the broker had ended, by what the broker said for example, and was begun anew.
    begun_anew,
    /// Agents whose sessions were ended since they said nothing any more, counted in each partition.
    silent_agents,
}

/// Why something from the broker isn't used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Envelope(EnvelopeError),
    Again(String),
    Stale(String),
    NotLetIn(String),
    Unreadable(String, String),
}

/// What all tasks of a collector share.
pub(super) struct Context {
    pub(super) config: BrokerConfig,
    pub(super) feeds: Feeds,
    pub(super) marker: Marker,
    pub(super) marks: kv::Store,
    pub(super) leases: kv::Store,
    pub(super) permit: Arc<Permit>,
    pub(super) stats: Arc<Stats>,
    pub(super) notices: Notices,
    /// Marks can't be written.
    pub(super) unmarked: Troubles,
    /// The stream can't be read.
    pub(super) unread: Troubles,
    stream: jetstream::stream::Stream,
    /// The stream is half full. Written by one task, read by others; nothing else hangs on it.
    tight: AtomicBool,
    max_age: Duration,
    opener: Mutex<Opener>,
    /// Said once each: whoever can write to the broker could fill the log else.
    said: Mutex<std::collections::HashSet<String>>,
}

impl Collector {
    /// Begins. What it reads goes to `feeds`.
    ///
    /// # Panics
    /// If the system has no more threads.
    pub fn start(config: BrokerConfig, keys: FleetKeys, feeds: Feeds) -> Self {
        let (stop, stopped) = watch::channel(false);
        let stats = Arc::new(Stats::default());
        let notices = Notices::default();
        let way = Way::new(config, "sslcollector collector".into(), notices.clone());
        let (counted, told) = (Arc::clone(&stats), notices.clone());
        let life = move || {
            let with = (keys.clone(), Arc::clone(&feeds));
            let shared = (Arc::clone(&counted), told.clone());
            run(way.clone(), with, shared, stopped.clone())
        };
        let counted = Arc::clone(&stats);
        let failed = move || counted.begun_anew.add(1);
        Self {
            thread: Some(life::start(notices.clone(), failed, life)),
            stop,
            stats,
            notices,
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> CollectorStats {
        self.stats.read()
    }

    /// What people should know, a line each; once.
    pub fn take_notices(&self) -> Vec<String> {
        self.notices.take()
    }

    /// Hands over its partitions, as soon as what it has taken is put out. Returns at once: the workers must go on
    /// until [`is_over`](Self::is_over).
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// It has handed over all.
    pub fn is_over(&self) -> bool {
        self.thread
            .as_ref()
            .is_none_or(thread::JoinHandle::is_finished)
    }
}

async fn run(
    way: Way,
    with: (FleetKeys, Feeds),
    shared: (Arc<Stats>, Notices),
    mut stop: watch::Receiver<bool>,
) -> Life {
    let mut connection = tokio::select! {
        connection = way.connect() => connection,
        _ = stop.wait_for(|stop| *stop) => return Life::Over,
    };
    let jetstream = connection.context();
    let live = async {
        let context = tokio::select! {
            context = prepare(&way, jetstream, with, shared) => Arc::new(context),
            _ = stop.wait_for(|stop| *stop) => return,
        };
        tokio::select! {
            () = lease::run(Arc::clone(&context), stop.clone()) => {}
            () = context.watch_room() => {}
        }
    };
    tokio::select! {
        () = live => Life::Over,
        // All that is ours goes with it. Nobody hears that we go: others, or we ourselves, find us silent, and go on from the
        // marks.
        () = connection.over() => {
            way.say_over();
            Life::Failed
        }
    }
}

/// Until there is a stream and all that belongs to it.
async fn prepare(
    way: &Way,
    jetstream: jetstream::Context,
    (keys, feeds): (FleetKeys, Feeds),
    (stats, notices): (Arc<Stats>, Notices),
) -> Context {
    let config = &way.config;
    let mut trouble = Trouble::new(notices.clone(), "the broker has what is needed");
    let mut backoff = Backoff::new();
    let (stream, leases, marks) = loop {
        let found = async {
            Ok::<_, String>((
                ensure_stream(&jetstream, config).await?,
                ensure_bucket(&jetstream, config, "leases").await?,
                ensure_bucket(&jetstream, config, MARKS).await?,
            ))
        };
        match found.await {
            Ok(found) => break found,
            Err(error) => trouble.is(format!("{error}; trying again")),
        }
        backoff.wait().await;
    };
    trouble.over();
    // The operator may have made the stream: what it says counts. 0: it keeps them for ever.
    let max_age = match stream.cached_info().config.max_age {
        Duration::ZERO => Duration::from_secs(10 * 365 * 24 * 3600),
        max_age => max_age,
    };
    Context {
        opener: Mutex::new(Opener::new(keys.clone())),
        marker: Marker::new(keys),
        config: config.clone(),
        feeds,
        marks,
        leases,
        permit: Arc::new(Permit::default()),
        unmarked: Troubles::new(notices.clone(), "marks are written again"),
        unread: Troubles::new(notices.clone(), "the stream can be read again"),
        stats,
        notices,
        stream,
        tight: AtomicBool::new(false),
        max_age,
        said: Mutex::new(std::collections::HashSet::new()),
    }
}

impl Context {
    pub(super) fn open(&self, subject: &str, envelope: Bytes) -> Result<Opened, Refusal> {
        let mut opener = self.opener.lock().unwrap_or_else(PoisonError::into_inner);
        let opened = opener.open(subject, envelope).map_err(Refusal::Envelope)?;
        if opened.old_key {
            self.stats.old_key_envelopes.add(1);
            self.say_once(format!(
                "agent {} has a key from before the fleet's was changed",
                opened.name
            ));
        }
        Ok(opened)
    }

    pub(super) fn stream(&self) -> jetstream::stream::Stream {
        self.stream.clone()
    }

    /// Whether agents may be waiting for room in the stream.
    pub(super) fn is_tight(&self) -> bool {
        self.tight.load(Ordering::Relaxed)
    }

    /// Looks at the stream's room, for ever.
    async fn watch_room(&self) {
        loop {
            if let Ok(info) = self.stream.get_info().await {
                let most = u64::try_from(info.config.max_bytes).unwrap_or(0);
                let tight = most > 0 && info.state.bytes >= most / 2;
                self.tight.store(tight, Ordering::Relaxed);
            }
            tokio::time::sleep(ROOM_INTERVAL).await;
        }
    }

    pub(super) fn max_age_ms(&self) -> u64 {
        u64::try_from(self.max_age.as_millis()).unwrap_or(u64::MAX / 2)
    }

    /// The newest message's number in the stream, of any partition.
    pub(super) async fn last_sequence(&self) -> Option<u64> {
        let info = self.stream.get_info().await;
        info.ok().map(|info| info.state.last_sequence)
    }

    /// Removes the subject's messages up to this one. False: it failed.
    pub(super) async fn purge(&self, subject: &str, through: u64) -> bool {
        let purge = self.stream.purge().filter(subject).sequence(through + 1);
        match purge.await {
            Ok(_) => true,
            Err(error) => {
                self.say_once(format!(
                    "can't remove what was put out from the stream {}: {}; it stays there for as long as the stream keeps it",
                    self.config.stream,
                    causes(&error)
                ));
                false
            }
        }
    }

    /// A mark can't be written, or taken over: counted, and said once until all can be.
    pub(super) fn note_unmarked(&self, partition: u16, error: &dyn std::error::Error) {
        self.stats.failed_marks.add(1);
        self.unmarked.is(partition, || {
            format!(
                "can't write at the broker how far the outputs have come (bucket {}, key {}, and maybe others): {}; what is \
                 put out from here on would be put out again after a takeover; trying again",
                bucket(&self.config, MARKS),
                mark_key(partition),
                causes(error)
            )
        });
    }

    /// The partition isn't ours any more, and neither is what was wrong with it.
    pub(super) fn forget(&self, partition: u16) {
        self.unmarked.forget(partition);
        self.unread.forget(partition);
    }

    /// Counts it, and says it once for each agent.
    pub(super) fn refuse(&self, partition: u16, refusal: Refusal) {
        let stats = &self.stats;
        let (counter, line) = match refusal {
            Refusal::Envelope(error) => {
                let counter = match error {
                    EnvelopeError::Seal => &stats.broken_seals,
                    EnvelopeError::Malformed | EnvelopeError::Version(_) => &stats.malformed,
                };
                let line = format!(
                    "refused from the broker: {error} (partition {partition}, and maybe others)"
                );
                (counter, Some(line))
            }
            // Agents repeat what the broker has taken without saying so: that is how it should be.
            Refusal::Again(_) => (&stats.repeated, None),
            Refusal::Stale(name) => (
                &stats.stale,
                Some(format!(
                    "refused from the broker: agent {name} has sealed it before the stream's memory begins; \
                     is its clock right, or does somebody replay it?"
                )),
            ),
            Refusal::NotLetIn(name) => (
                &stats.not_let_in,
                Some(format!(
                    "refused from the broker: agent {name} isn't let in"
                )),
            ),
            Refusal::Unreadable(name, error) => (
                &stats.unreadable,
                Some(format!(
                    "refused from the broker: agent {name} says what can't be read: {error}"
                )),
            ),
        };
        counter.add(1);
        if let Some(line) = line {
            self.say_once(line);
        }
    }

    fn say_once(&self, line: String) {
        const MAX_SAID: usize = 1000;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let key = line
            .split(" (partition")
            .next()
            .unwrap_or_default()
            .to_owned();
        if said.len() < MAX_SAID && said.insert(key) {
            self.notices.say(line);
        }
    }
}

/// A partition's key in the bucket of marks.
pub(super) fn mark_key(partition: u16) -> String {
    format!("mark.{partition:02}")
}
