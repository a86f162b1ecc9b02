//! The agent's side: batches from its window to the broker.
//!
//! ```text
//! Window ──outgoing──> lane of the partition ──seal──> publish ──ack──> Window::ack_one
//!                      (one on its way at a time, 64 lanes side by side)
//! ```
//!
//! One envelope of a partition is on its way at a time: so its order in the stream is the agent's, whatever fails and
//! is tried again. What waits meanwhile goes into the next envelope together, which makes up for a long way. The
//! same bytes are sent until the broker has them; their `Nats-Msg-Id` lets it drop those that it has already. While it
//! takes none, batches stay in the window, which declares what finds no room.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::connect::{BrokerConfig, Connection, Way, partitions, random, subject};
use super::envelope::{Kind, Sealer};
use super::flight::Flight;
use super::key::AgentKey;
use super::life::{self, Life};
use super::notices::{Notices, Trouble};
use crate::tunnel::SharedWindow;
use crate::tunnel::batch::MAX_BATCH_BYTES;
use crate::tunnel::frame::{Batch, Instance, Resume};
use crate::tunnel::window::Outgoing;

/// Most bytes that are on their way.
const MAX_FLIGHT_BYTES: usize = 16 << 20;
/// A partition that has nothing to say says that the agent is there.
pub(super) const ALIVE_INTERVAL: Duration = Duration::from_secs(60);

/// Brings what is in a window to a broker, in a thread of its own.
#[derive(Debug)]
pub struct Publisher {
    stop: watch::Sender<Stop>,
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a publisher has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Envelopes that the broker has.
    pub envelopes: u64,
    /// Bytes of them, sealed.
    pub bytes: u64,
    /// Attempts that failed, and were or are repeated.
    pub failures: u64,
    /// Envelopes of which the broker had already got a copy.
    pub duplicates: u64,
    /// Times that what speaks to the broker had ended, by what the broker said for example, and was begun anew.
    pub begun_anew: u64,
}

#[derive(Debug, Default)]
pub(super) struct Shared {
    notices: Notices,
    /// Read for reports only: nothing depends on them.
    pub(super) envelopes: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) failures: AtomicU64,
    pub(super) duplicates: AtomicU64,
    begun_anew: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Not yet.
    No,
    /// When the window is empty.
    Drained,
    /// At once.
    Now,
}

impl Publisher {
    /// Begins. Nobody else may take from the window.
    ///
    /// # Panics
    /// If the system has no more threads.
    pub fn start(config: BrokerConfig, key: &AgentKey, window: SharedWindow) -> Self {
        let (stop, stopped) = watch::channel(Stop::No);
        let shared = Arc::new(Shared::default());
        let name = format!("sslcollector agent {}", key.name());
        let way = Way::new(config, name, shared.notices.clone());
        let (key, kept) = (key.clone(), Arc::clone(&shared));
        let mut first = true;
        let life = move || {
            if !std::mem::replace(&mut first, false) {
                // What the life before had taken is taken once more, under another instance. That can't be refused.
                let _ = window.lock().resume(Resume::Anew);
            }
            let run = Run::new(&key, way.clone(), window.clone(), Arc::clone(&kept));
            run.run(stopped.clone())
        };
        let counted = Arc::clone(&shared);
        let failed = move || counted.begin_anew();
        Self {
            stop,
            thread: Some(life::start(shared.notices.clone(), failed, life)),
            shared,
        }
    }

    /// The counts so far.
    pub fn stats(&self) -> PublisherStats {
        // Counts, and nothing that depends on them.
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PublisherStats {
            envelopes: read(&self.shared.envelopes),
            bytes: read(&self.shared.bytes),
            failures: read(&self.shared.failures),
            duplicates: read(&self.shared.duplicates),
            begun_anew: read(&self.shared.begun_anew),
        }
    }

    /// What people should know, a line each; once.
    pub fn take_notices(&self) -> Vec<String> {
        self.shared.notices.take()
    }

    /// Waits until the broker has all that is in the window, for `patience` at most, and ends. True: it has.
    pub fn finish(&mut self, patience: Duration) -> bool {
        let deadline = std::time::Instant::now() + patience;
        self.stop.send_replace(Stop::Drained);
        let Some(thread) = self.thread.take() else {
            return true;
        };
        while !thread.is_finished() && std::time::Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let drained = thread.is_finished();
        self.stop.send_replace(Stop::Now);
        thread.join().is_ok() && drained
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.stop.send_replace(Stop::Now);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn begin_anew(&self) {
        // A count.
        self.begun_anew.fetch_add(1, Ordering::Relaxed);
    }
}

/// What waits of one partition.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<Batch>,
    flying: bool,
    /// When something was sent last; `None`: nothing was ever.
    last: Option<Instant>,
    parted: bool,
}

struct Run {
    way: Way,
    instance: Instance,
    sealer: Sealer,
    window: SharedWindow,
    shared: Arc<Shared>,
    lanes: Vec<Lane>,
    flight_bytes: usize,
    flying: FuturesUnordered<BoxFuture<'static, Landed>>,
}

/// An envelope that the broker has.
struct Landed {
    partition: u16,
    seqs: Vec<u64>,
    bytes: usize,
}

impl Run {
    fn new(key: &AgentKey, way: Way, window: SharedWindow, shared: Arc<Shared>) -> Self {
        let instance = Instance(random());
        Self {
            sealer: Sealer::new(key, instance),
            instance,
            way,
            window,
            shared,
            lanes: partitions().map(|_| Lane::default()).collect(),
            flight_bytes: 0,
            flying: FuturesUnordered::new(),
        }
    }

    async fn run(mut self, mut stop: watch::Receiver<Stop>) -> Life {
        let Some(mut connection) = self.connect(&mut stop).await else {
            return Life::Over;
        };
        let trouble = Trouble::new(
            self.shared.notices.clone(),
            "the broker takes batches again",
        );
        let trouble = Arc::new(Mutex::new(trouble));
        // What is on its way goes on by the next connection, as the same envelopes.
        let (link, linked) = watch::channel(connection.context());
        while !self
            .bring((&linked, &trouble), &mut connection, &mut stop)
            .await
        {
            self.shared.begin_anew();
            self.way.say_over();
            let Some(another) = self.connect(&mut stop).await else {
                return Life::Over;
            };
            connection = another;
            link.send_replace(connection.context());
        }
        Life::Over
    }

    /// `None`: nobody waits for it any more.
    async fn connect(&self, stop: &mut watch::Receiver<Stop>) -> Option<Connection> {
        tokio::select! {
            connection = self.way.connect() => Some(connection),
            () = until(stop, |stop| stop == Stop::Now) => None,
        }
    }

    /// Until it is to stop (true), or the connection is over.
    async fn bring(
        &mut self,
        to: (&watch::Receiver<Context>, &Arc<Mutex<Trouble>>),
        connection: &mut Connection,
        stop: &mut watch::Receiver<Stop>,
    ) -> bool {
        let mut alive = tokio::time::interval(ALIVE_INTERVAL / 4);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let stopping = *stop.borrow();
            self.collect();
            let quiet = self.launch(to, stopping);
            if stopping == Stop::Now || stopping == Stop::Drained && quiet {
                return true;
            }
            let window = self.window.clone();
            tokio::select! {
                Some(landed) = self.flying.next() => self.landed(&landed),
                () = window.filled() => {}
                () = connection.over() => return false,
                _ = alive.tick() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// Takes what the window has.
    fn collect(&mut self) {
        let mut window = self.window.lock();
        while let Some(outgoing) = window.outgoing() {
            // The end of a preamble is for receivers that forget; a stream doesn't.
            if let Outgoing::Batch(batch) = outgoing
                && let Some(lane) = self.lanes.get_mut(usize::from(batch.partition))
            {
                lane.waiting.push_back(batch);
            }
        }
    }

    /// Sends what may be sent now. True: nothing is left, not even a farewell.
    fn launch(
        &mut self,
        to: (&watch::Receiver<Context>, &Arc<Mutex<Trouble>>),
        stop: Stop,
    ) -> bool {
        let mut quiet = self.flying.is_empty();
        for partition in partitions() {
            let lane = &mut self.lanes[usize::from(partition)];
            if lane.flying {
                continue;
            }
            let silent = lane
                .last
                .is_some_and(|last| last.elapsed() >= ALIVE_INTERVAL);
            let (kind, batches) = match lane.waiting.is_empty() {
                false if self.flight_bytes >= MAX_FLIGHT_BYTES => {
                    quiet = false;
                    continue;
                }
                false => (Kind::Events, take_some(&mut lane.waiting)),
                true if stop == Stop::Drained && lane.last.is_some() && !lane.parted => {
                    lane.parted = true;
                    (Kind::Goodbye, Vec::new())
                }
                true if silent && !lane.parted => (Kind::Alive, Vec::new()),
                true => continue,
            };
            quiet = false;
            lane.flying = true;
            lane.last = Some(Instant::now());
            let flight = self.flight(to, partition, kind, &batches);
            let (bytes, seqs) = (flight.bytes.len(), batches.iter().map(|batch| batch.seq));
            let landed = Landed {
                partition,
                seqs: seqs.collect(),
                bytes,
            };
            self.flight_bytes += bytes;
            self.flying.push(Box::pin(async move {
                flight.land().await;
                landed
            }));
        }
        quiet
    }

    fn flight(
        &mut self,
        (link, trouble): (&watch::Receiver<Context>, &Arc<Mutex<Trouble>>),
        partition: u16,
        kind: Kind,
        batches: &[Batch],
    ) -> Flight {
        let subject = subject(&self.way.config.stream, partition);
        let parts: Vec<&[u8]> = batches.iter().map(|batch| &batch.events[..]).collect();
        let sealed = self
            .sealer
            .seal((partition, &subject), now_ms(), kind, &parts);
        let instance = u128::from_be_bytes(self.instance.0);
        Flight {
            id: format!("{instance:032x}:{partition}:{}", sealed.number),
            link: link.clone(),
            config: self.way.config.clone(),
            subject,
            bytes: sealed.bytes,
            shared: Arc::clone(&self.shared),
            trouble: Arc::clone(trouble),
        }
    }

    fn landed(&mut self, landed: &Landed) {
        self.lanes[usize::from(landed.partition)].flying = false;
        self.flight_bytes -= landed.bytes;
        {
            let mut window = self.window.lock();
            for seq in &landed.seqs {
                // They came from there: it can't refuse them.
                let _ = window.ack_one(*seq);
            }
        }
        self.window.tell_emptied();
    }
}

/// As many batches as one envelope takes: at least one.
fn take_some(waiting: &mut VecDeque<Batch>) -> Vec<Batch> {
    let mut bytes = 0;
    let mut taken = Vec::new();
    while let Some(batch) = waiting.front() {
        bytes += batch.events.len();
        if !taken.is_empty() && bytes > MAX_BATCH_BYTES {
            break;
        }
        taken.extend(waiting.pop_front());
    }
    taken
}

async fn until(stop: &mut watch::Receiver<Stop>, wanted: impl Fn(Stop) -> bool) {
    // Whoever could say so is gone: that is an end, too.
    let _ = stop.wait_for(|stop| wanted(*stop)).await;
}

/// Milliseconds since 1970.
pub(super) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
