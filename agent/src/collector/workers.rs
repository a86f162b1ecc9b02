//! Workers: each reads the batches of its partitions, and has outputs of its own.
//!
//! ```text
//!                          ┌─ worker 0: WorkQueue ─> Inlet ─> Merge ─> Outlet (forgers, sockets)
//! Feed ── partition % n ──>├─ worker 1: …
//!                          └─ …            <── Receipt::done, behind the outlet's flush
//! ```
//!
//! A flow's partition comes from its id, so both copies of a connection that is mirrored at both ends meet at one
//! worker. Workers share nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::agent::Agent;
use super::feed::Feed;
use super::inlet::{InletLimits, InletStats};
use super::merge::{MergeConfig, MergeStats};
use super::queue::WorkQueue;
use super::source::{SourceId, SourceInfo};
use super::worker::Worker;
use crate::event::{FlowSink, WallTime};

/// A source has room for one of these at least.
const LARGEST_BATCH_BYTES: u32 = 256 << 10;
const _: () = assert!(LARGEST_BATCH_BYTES as usize == crate::tunnel::batch::MAX_BATCH_BYTES);

/// Where a worker's flows go. Lives in the worker's thread.
pub trait Outlet: FlowSink {
    /// Hands on all there is, captures what is older than `until`. False: no output is left that could take it.
    fn release(&mut self, until: WallTime) -> bool;

    /// The earliest time of events that it was given and holds back: they aren't put out yet.
    fn oldest_held(&self) -> Option<WallTime> {
        None
    }

    /// Begins other files.
    fn turn_over(&mut self, at: WallTime);

    /// Ends what is live, and writes what is left. False as above.
    fn finish(&mut self, at: WallTime) -> bool;

    /// Somebody wants to know its counts.
    fn report(&mut self);
}

/// How the workers work.
#[derive(Clone, Copy, Debug)]
pub struct WorkersConfig {
    /// How many.
    pub workers: usize,
    /// Packets of captures wait so long for others with an earlier time, in nanoseconds; 0 where none are written.
    pub reorder_ns: u64,
    /// Bytes of events that may wait for the workers: of one source, and of all.
    pub source_bytes: u32,
    /// Of all sources.
    pub all_bytes: u32,
    /// How much a source may have.
    pub limits: InletLimits,
    /// How copies of one connection are brought together.
    pub merge: MergeConfig,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            reorder_ns: 100_000_000,
            source_bytes: 4 << 20,
            all_bytes: 256 << 20,
            limits: InletLimits::default(),
            merge: MergeConfig::default(),
        }
    }
}

/// What a worker is asked for.
#[derive(Debug)]
pub(super) enum Request {
    TurnOver,
    Report(mpsc::Sender<WorkerReport>),
    /// From here on a connection may be told of by more than one agent, or no more.
    ExpectTwins(bool),
}

/// The counts of one worker.
#[derive(Clone, Debug, Default)]
pub struct WorkerReport {
    /// What came in.
    pub inlet: InletStats,
    /// What became of copies.
    pub merge: MergeStats,
    /// Flows that are live.
    pub live_flows: usize,
    /// What people should know, a line each; once.
    pub complaints: Vec<String>,
}

/// All workers. They end with [`Workers::finish`].
#[derive(Debug)]
pub struct Workers {
    queues: Arc<[Arc<WorkQueue>]>,
    threads: Mutex<Vec<thread::JoinHandle<WorkerReport>>>,
    all_room: Arc<Semaphore>,
    source_bytes: u32,
    sources: AtomicU64,
    /// No output is left, or a worker has ended before its time.
    failed: Arc<AtomicBool>,
}

impl Workers {
    /// Starts them; each opens its outlet in its own thread, by its number.
    ///
    /// # Errors
    /// What `open` says.
    ///
    /// # Panics
    /// If the system has no more threads.
    pub fn start<O, E, F>(config: &WorkersConfig, open: F) -> Result<Self, E>
    where
        O: Outlet,
        E: Send + 'static,
        F: Fn(usize) -> Result<O, E> + Send + Sync + 'static,
    {
        let count = config.workers.max(1);
        let open = Arc::new(open);
        let queues: Arc<[_]> = (0..count).map(|_| Arc::new(WorkQueue::default())).collect();
        let failed = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        let (opened, results) = mpsc::channel();
        let mut failure = None;
        for (number, queue) in queues.iter().enumerate() {
            let (queue, opened) = (Arc::clone(queue), opened.clone());
            let (open, failed, config) = (Arc::clone(&open), Arc::clone(&failed), *config);
            let run = move || match open(number) {
                Ok(outlet) => {
                    let _ = opened.send(Ok(()));
                    drop(opened);
                    let guard = FailGuard(&failed);
                    let report = Worker::new(&config, outlet, &failed).run(&queue);
                    std::mem::forget(guard);
                    report
                }
                Err(error) => {
                    let _ = opened.send(Err(error));
                    WorkerReport::default()
                }
            };
            let thread = thread::Builder::new().name(format!("worker-{number}"));
            threads.push(thread.spawn(run).expect("the system has threads"));
            // One after the other: what the first one makes, the next one finds.
            if let Ok(Err(error)) = results.recv() {
                failure = Some(error);
                break;
            }
        }
        let workers = Self {
            queues,
            threads: Mutex::new(threads),
            all_room: Arc::new(Semaphore::new(config.all_bytes as usize)),
            source_bytes: config.source_bytes.max(LARGEST_BATCH_BYTES),
            sources: AtomicU64::new(0),
            failed,
        };
        match failure {
            None => Ok(workers),
            Some(error) => {
                workers.finish(Duration::from_secs(1));
                Err(error)
            }
        }
    }

    /// Begins another source of this agent's.
    pub fn feed(&self, agent: Arc<Agent>) -> Feed {
        // A number, and nothing more.
        let id = SourceId(self.sources.fetch_add(1, Ordering::Relaxed));
        let info = Arc::new(SourceInfo::new(id, agent));
        let queues = Arc::clone(&self.queues);
        Feed::new(info, queues, self.source_bytes, Arc::clone(&self.all_room))
    }

    /// No output is left.
    pub fn has_failed(&self) -> bool {
        // Pairs with the Release stores of workers.
        self.failed.load(Ordering::Acquire)
    }

    /// Begins other capture files.
    pub fn turn_over(&self) {
        for queue in &*self.queues {
            queue.request(Request::TurnOver);
        }
    }

    /// Whether a connection may be told of by more than one agent: then holes wait a little for the other copy.
    pub fn expect_twins(&self, expect: bool) {
        for queue in &*self.queues {
            queue.request(Request::ExpectTwins(expect));
        }
    }

    /// The counts of all workers that answer within `patience`.
    pub fn report(&self, patience: Duration) -> Vec<WorkerReport> {
        let (answer, answers) = mpsc::channel();
        for queue in &*self.queues {
            queue.request(Request::Report(answer.clone()));
        }
        drop(answer);
        let deadline = Instant::now() + patience;
        let left = || deadline.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| answers.recv_timeout(left()).ok()).collect()
    }

    /// Reads what waits, ends what is live, and completes the outputs. Waits for `patience` at most; a worker that
    /// needs longer (its output stands still) is left alone, and has no report.
    pub fn finish(&self, patience: Duration) -> Vec<WorkerReport> {
        self.queues.iter().for_each(|queue| queue.close());
        self.all_room.close();
        let deadline = Instant::now() + patience;
        let mut reports = Vec::new();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(5));
            }
            if thread.is_finished() {
                reports.extend(thread.join().ok());
            }
        }
        reports
    }
}

/// A worker that panics takes the collector with it: half of the flows would be silently missing.
struct FailGuard<'a>(&'a AtomicBool);

impl Drop for FailGuard<'_> {
    fn drop(&mut self) {
        // Pairs with the Acquire load in `has_failed`.
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "workers_tests.rs"]
mod tests;
