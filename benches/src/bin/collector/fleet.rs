//! Agents: many in this process, each with a window and a sender of its own.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent::clock::wall_now;
use agent::event::{FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, Side, Tuple};
use agent::identity::{Address, AgentIdentity};
use agent::tunnel::frame::Instance;
use agent::tunnel::outbox::Outbox;
use agent::tunnel::window::Window;
use agent::tunnel::{Collector as Remote, Security, Sender, SenderConfig, SharedWindow};
use anyhow::{Context, ensure};
use mirror_benches::flow_info;

use crate::place::{Collector, Place};

/// Clear text of one event: what TLS carries at most.
const RECORD_BYTES: usize = 16 * 1024;
const WINDOW_BYTES: u64 = 16 << 20;
/// A window with so much room takes what comes.
const ROOM_BYTES: u64 = 4 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// What passed, in which time, at whose cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    pub(crate) processor_s: f64,
}

impl Load {
    pub(crate) fn gbit(&self) -> f64 {
        self.bytes * 8.0 / 1e9 / self.seconds
    }

    pub(crate) fn processors(&self) -> f64 {
        self.processor_s / self.seconds
    }

    pub(crate) fn gbit_per_processor(&self) -> f64 {
        self.bytes * 8.0 / 1e9 / self.processor_s
    }
}

impl Display for Load {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>5.2} Gbit/s passed; the collector used {:.2} processors: {:>5.2} Gbit/s for each",
            self.gbit(),
            self.processors(),
            self.gbit_per_processor()
        )
    }
}

/// Agents that are connected.
pub(crate) struct Agents {
    agents: Vec<(SharedWindow, Sender)>,
}

impl Agents {
    pub(crate) fn join(place: &Place, collector: &Collector, count: usize) -> anyhow::Result<Self> {
        let mut agents = Vec::new();
        for number in 0..count {
            let state = place.path(&format!("agent{number}"));
            // The identity stays from one collector to the next; only its port changes.
            if !state.exists() {
                place.join(&format!("agent{number}"), collector)?;
            }
            let identity = AgentIdentity::load(&state)?;
            let membership = identity
                .memberships()
                .first()
                .context("a membership")?
                .clone();
            let window = SharedWindow::new(Window::new(WINDOW_BYTES));
            let mut instance = [0; 16];
            instance[..8].copy_from_slice(&wall_now().0.to_le_bytes());
            instance[8] = u8::try_from(number)?;
            let config = SenderConfig {
                collectors: vec![Remote {
                    address: Address::new("127.0.0.1", Some(collector.address.port())),
                    security: Security::Tls(Arc::new(membership)),
                }],
                compression: None,
                instance: Instance(instance),
            };
            agents.push((window.clone(), Sender::start(config, window)?));
        }
        Ok(Self { agents })
    }

    /// Begins so many flows at the first agent, and waits until the collector has told them.
    pub(crate) fn open(&self, flows: usize) -> anyhow::Result<()> {
        let (window, _) = &self.agents[0];
        let mut talker = Talker::new(window.clone(), 0, flows)?;
        wait("the collector to take all flows", || {
            window.lock().is_empty()
        })?;
        // They stay.
        talker.forget();
        Ok(())
    }

    /// Sends as fast as the collector takes it, over so many flows in all.
    pub(crate) fn load(
        &self,
        collector: &Collector,
        flows: usize,
        round: Duration,
    ) -> anyhow::Result<Load> {
        let speakers = flows.min(self.agents.len());
        let mut talkers = Vec::new();
        for (number, (window, _)) in self.agents.iter().take(speakers).enumerate() {
            talkers.push(Talker::new(window.clone(), number, flows / speakers)?);
        }
        let stop = AtomicBool::new(false);
        let acknowledged = || -> u64 {
            let windows = self.agents.iter().map(|(window, _)| window.lock().stats());
            windows
                .map(|stats| stats.sent_bytes - stats.waiting_bytes.min(stats.sent_bytes))
                .sum()
        };
        thread::scope(|scope| {
            // One thread for all: they only fill windows.
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let mut idle = true;
                    for talker in &mut talkers {
                        idle &= !talker.talk();
                    }
                    if idle {
                        thread::sleep(Duration::from_micros(500));
                    }
                }
            });
            thread::sleep(Duration::from_secs(1));
            let (start, bytes, used) = (Instant::now(), acknowledged(), collector.processor_s()?);
            thread::sleep(round);
            let (seconds, bytes) = (start.elapsed().as_secs_f64(), acknowledged() - bytes);
            let used = collector.processor_s()? - used;
            stop.store(true, Ordering::Relaxed);
            #[allow(clippy::cast_precision_loss, reason = "a rate")]
            Ok(Load {
                bytes: bytes as f64,
                seconds,
                processor_s: used,
            })
        })
    }

    /// Sends until `stop`.
    pub(crate) fn talk_until(&self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut talkers = Vec::new();
        for (number, (window, _)) in self.agents.iter().enumerate() {
            talkers.push(Talker::new(window.clone(), number, 6)?);
        }
        while !stop.load(Ordering::Relaxed) {
            let talked = talkers
                .iter_mut()
                .map(Talker::talk)
                .filter(|talked| *talked)
                .count();
            if talked == 0 {
                thread::sleep(Duration::from_micros(500));
            }
        }
        Ok(())
    }
}

/// Fills a window.
struct Talker {
    window: SharedWindow,
    outbox: Outbox,
    offsets: Vec<u64>,
    next: usize,
    text: Vec<u8>,
}

impl Talker {
    fn new(window: SharedWindow, agent: usize, flows: usize) -> anyhow::Result<Self> {
        let mut outbox = Outbox::new(vec![window.clone()]);
        for flow in 0..flows {
            wait("room for beginnings", || window.lock().free() > ROOM_BYTES)?;
            outbox.flow_event(FlowEvent {
                flow: flow as u64,
                at: wall_now(),
                change: FlowChange::Begin(&info(agent, flow)?),
            });
            if flow % 1000 == 999 {
                outbox.flush();
            }
        }
        outbox.flush();
        Ok(Self {
            window,
            outbox,
            offsets: vec![0; flows],
            next: 0,
            text: vec![b'x'; RECORD_BYTES],
        })
    }

    /// Says something if there is room.
    fn talk(&mut self) -> bool {
        if self.window.lock().free() < ROOM_BYTES {
            return false;
        }
        let at = wall_now();
        for _ in 0..64 {
            let flow = self.next;
            self.next = (flow + 1) % self.offsets.len();
            let change = FlowChange::Data {
                from: Side::Server,
                offset: self.offsets[flow],
                bytes: &self.text,
            };
            self.offsets[flow] += self.text.len() as u64;
            self.outbox.flow_event(FlowEvent {
                flow: flow as u64,
                at,
                change,
            });
        }
        self.outbox.flush();
        true
    }

    fn forget(&mut self) {
        self.offsets.clear();
    }
}

fn info(agent: usize, flow: usize) -> anyhow::Result<FlowInfo> {
    let mut id = [0; 16];
    id[..8].copy_from_slice(
        &(flow as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .to_le_bytes(),
    );
    id[8] = u8::try_from(agent)?;
    id[9..13].copy_from_slice(&u32::try_from(flow)?.to_le_bytes());
    let port = u16::try_from(1024 + flow % 60_000)?;
    let host = u8::try_from(flow / 60_000)?;
    Ok(FlowInfo {
        id: FlowId(id),
        tuple: Tuple {
            client: ([192, 168, host, u8::try_from(agent)?], port).into(),
            server: ([10, 0, 0, 1], 443).into(),
        },
        sni: Some("www.example.com".into()),
        alpn: Some("http/1.1".into()),
        ..flow_info()
    })
}

pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    while !done() {
        ensure!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
