//! A collector within the test, whose outlet keeps what it is given.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use agent::collector::{Fleet, Listener, Outlet, Workers, WorkersConfig};
use agent::event::{FlowChange, FlowEvent, FlowId, FlowSink, Side, WallTime};
use agent::identity::CollectorIdentity;
use agent::tunnel::frame::Instance;
use tokio::runtime::Runtime;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What came out of one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) id: Option<FlowId>,
    /// By client and server.
    pub(crate) text: [Vec<u8>; 2],
    pub(crate) missing: u64,
    pub(crate) finished: bool,
    pub(crate) reset: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    flows: Arc<Mutex<HashMap<u64, Told>>>,
    pieces: Arc<Mutex<Vec<(u8, usize)>>>,
    gate: Arc<Gate>,
}

/// Behind it nothing comes out.
#[derive(Debug, Default)]
struct Gate {
    closed: Mutex<bool>,
    opened: Condvar,
}

impl Seen {
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<u64, Told>> {
        self.flows.lock().unwrap()
    }

    /// Texts in the order in which they came out: a byte of the text, and how many there are.
    pub(crate) fn pieces(&self) -> Vec<(u8, usize)> {
        self.pieces.lock().unwrap().clone()
    }

    /// From here on nothing comes out. What is in the worker's hands waits.
    pub(crate) fn close(&self) {
        *self.gate.closed.lock().unwrap() = true;
    }

    pub(crate) fn open(&self) {
        *self.gate.closed.lock().unwrap() = false;
        self.gate.opened.notify_all();
    }

    fn pass(&self) {
        let closed = self.gate.closed.lock().unwrap();
        let waited = self
            .gate
            .opened
            .wait_timeout_while(closed, PATIENCE, |closed| *closed);
        assert!(!waited.unwrap().1.timed_out(), "the gate stays closed");
    }

    /// All flows, in the order in which they began.
    pub(crate) fn flows(&self) -> Vec<Told> {
        let flows = self.lock();
        let mut numbers: Vec<_> = flows.keys().copied().collect();
        numbers.sort_unstable();
        numbers.iter().map(|number| flows[number].clone()).collect()
    }
}

impl FlowSink for Seen {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.pass();
        let mut flows = self.lock();
        let told = flows.entry(event.flow).or_default();
        match event.change {
            FlowChange::Begin(info) => {
                assert_eq!(told.id, None, "begun twice");
                told.id = Some(info.id);
            }
            FlowChange::Data { from, bytes, .. } => {
                self.pieces.lock().unwrap().push((bytes[0], bytes.len()));
                told.text[usize::from(from == Side::Server)].extend_from_slice(bytes);
            }
            FlowChange::Hole { bytes, .. } => told.missing += bytes,
            FlowChange::Finish { .. } => told.finished = true,
            FlowChange::Reset { .. } => told.reset = true,
        }
    }
}

impl Outlet for Seen {
    fn release(&mut self, _: WallTime) -> bool {
        true
    }
    fn turn_over(&mut self, _: WallTime) {}
    fn finish(&mut self, _: WallTime) -> bool {
        true
    }
    fn report(&mut self) {}
}

/// A collector that listens on loopback.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) seen: Seen,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl World {
    pub(crate) fn new(identity: Option<CollectorIdentity>, linger: Duration) -> Self {
        let seen = Seen::default();
        let outlet = seen.clone();
        let config = WorkersConfig {
            workers: 1,
            reorder_ns: 0,
            ..WorkersConfig::default()
        };
        let workers = Workers::start(&config, move |_| Ok::<_, String>(outlet.clone())).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let fleet = Fleet::new(Instance([9; 16]), workers, identity, None, linger);
        let address = runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let listener = Listener::bind(&[any], Arc::clone(&fleet)).await.unwrap();
            let address = listener.addresses()[0];
            listener.start();
            address
        });
        Self {
            seen,
            fleet,
            address,
            _runtime: runtime,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.fleet.drain();
        self.fleet.workers().finish(PATIENCE);
        self.fleet.leave();
        let start = Instant::now();
        while self.fleet.connections() > 0 && start.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Waits, and says for what if it was in vain.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
