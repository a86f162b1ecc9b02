//! A collector, in a process of its own: it writes a line for each event, and what it counts.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use agent::broker::key::{FleetKeys, Terms};
use agent::broker::{Access, BrokerConfig, Collector};
use agent::collector::{Agent, Outlet, Workers, WorkersConfig};
use agent::event::{FlowChange, FlowEvent, FlowSink, Side, WallTime};
use mirror_tests::process::{Process, until};

use crate::truth::text;

const DIRECTORY: &str = "SSLCOLLECTOR_TEST_DIRECTORY";
const BROKER: &str = "SSLCOLLECTOR_TEST_BROKER";

/// An agent whose first envelope has a collector panic.
pub(crate) const FATAL: &str = "fatal";

/// A collector's process, and where it writes.
#[derive(Debug)]
pub(crate) struct CollectorProcess {
    pub(crate) process: Process,
    directory: PathBuf,
}

impl CollectorProcess {
    pub(crate) fn start(directory: PathBuf, broker: &str) -> Self {
        std::fs::create_dir(&directory).unwrap();
        let process = Process::start(
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "collector::process", "--nocapture"])
                .env(DIRECTORY, &directory)
                .env(BROKER, broker)
                .stdout(Stdio::null()),
        );
        Self { process, directory }
    }

    /// Tells it to hand over and end.
    pub(crate) fn stop(&self) {
        File::create(self.directory.join("stop")).unwrap();
    }

    /// Has its workers stand still behind what they put out, until they are released.
    pub(crate) fn hold(&self) {
        File::create(self.directory.join("hold")).unwrap();
        until("the workers to stand still", || {
            let held = |worker| self.directory.join(format!("held-{worker}")).exists();
            (0..2).all(held).then_some(())
        });
    }

    pub(crate) fn release(&self) {
        std::fs::remove_file(self.directory.join("hold")).unwrap();
    }

    /// What its workers have written.
    pub(crate) fn files(&self) -> Vec<String> {
        let file = |worker| self.directory.join(format!("worker-{worker}"));
        (0..2)
            .filter_map(|worker| std::fs::read_to_string(file(worker)).ok())
            .collect()
    }

    /// Its counts and notices, as it wrote them last.
    pub(crate) fn status(&self) -> String {
        std::fs::read_to_string(self.directory.join("status")).unwrap_or_default()
    }
}

struct Lines {
    number: usize,
    directory: PathBuf,
    file: BufWriter<File>,
    flows: std::collections::HashMap<u64, (agent::event::FlowId, [u64; 2])>,
}

impl FlowSink for Lines {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        let name = |side| if side == Side::Client { 'c' } else { 's' };
        let flow = event.flow;
        let file = &mut self.file;
        let written = match event.change {
            FlowChange::Begin(info) => {
                let (client, server) = info.continued.unwrap_or((0, 0));
                self.flows.insert(flow, (info.id, [client, server]));
                let id = u128::from_be_bytes(info.id.0);
                writeln!(file, "B {flow} {id:x} {client} {server}")
            }
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                let (id, [client, server]) = self.flows[&flow];
                let base = if from == Side::Client { client } else { server };
                let right = text(id, from, base + offset, bytes.len() as u64) == bytes;
                let right = if right { "right" } else { "WRONG" };
                writeln!(
                    file,
                    "D {flow} {} {offset} {} {right}",
                    name(from),
                    bytes.len()
                )
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => writeln!(file, "H {flow} {} {offset} {bytes}", name(from)),
            FlowChange::Finish { from } => writeln!(file, "F {flow} {}", name(from)),
            FlowChange::Reset { .. } => writeln!(file, "R {flow}"),
        };
        written.unwrap();
    }
}

impl Outlet for Lines {
    fn release(&mut self, _until: WallTime) -> bool {
        let flushed = self.file.flush().is_ok();
        while self.directory.join("hold").exists() {
            File::create(self.directory.join(format!("held-{}", self.number))).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        flushed
    }

    fn turn_over(&mut self, _at: WallTime) {}

    fn finish(&mut self, _at: WallTime) -> bool {
        self.file.flush().is_ok()
    }

    fn report(&mut self) {}
}

/// Not a test: what a [`CollectorProcess`] runs.
#[test]
fn process() {
    let Ok(directory) = std::env::var(DIRECTORY) else {
        return;
    };
    let directory = PathBuf::from(directory);
    let out = directory.clone();
    let config = WorkersConfig {
        workers: 2,
        reorder_ns: 0,
        ..WorkersConfig::default()
    };
    let workers = Workers::start(&config, move |number| {
        let file = File::create(out.join(format!("worker-{number}")))?;
        Ok::<_, std::io::Error>(Lines {
            number,
            directory: out.clone(),
            file: BufWriter::new(file),
            flows: std::collections::HashMap::new(),
        })
    });
    let workers = Arc::new(workers.unwrap());
    let key = std::fs::read_to_string(directory.join("../fleet.key")).unwrap();
    let agents = Arc::new(Mutex::new(Vec::new()));
    let feeds = {
        let (workers, numbers) = (Arc::clone(&workers), AtomicU64::new(1));
        let agents = Arc::clone(&agents);
        let failed = AtomicBool::new(false);
        Arc::new(move |name: &str, terms: &Terms| {
            assert!(
                name != FATAL || failed.swap(true, Ordering::Relaxed),
                "once it is too much"
            );
            let number = numbers.fetch_add(1, Ordering::Relaxed);
            let agent = Arc::new(Agent::new(number, name, terms.networks()));
            agents.lock().unwrap().push(Arc::clone(&agent));
            Some(workers.feed(agent))
        })
    };
    let config = config_of(&std::env::var(BROKER).unwrap());
    let collector = Collector::start(config, FleetKeys::from_text(&key).unwrap(), feeds);
    let mut notices = String::new();
    while !collector.is_over() {
        if directory.join("stop").exists() {
            collector.stop();
        }
        for notice in collector.take_notices() {
            writeln!(notices, "{notice}").unwrap();
        }
        let refused = |agent: &Arc<Agent>| agent.counts.refused_flows.load(Ordering::Relaxed);
        let refused: u64 = agents.lock().unwrap().iter().map(refused).sum();
        let status = format!(
            "{:#?}\nrefused_flows: {refused}\n{notices}",
            collector.stats()
        );
        write_status(&directory, &status);
        thread::sleep(Duration::from_millis(20));
    }
    write_status(&directory, &format!("{:#?}\n{notices}", collector.stats()));
    drop(collector);
    workers.finish(Duration::from_secs(10));
}

fn write_status(directory: &Path, status: &str) {
    std::fs::write(directory.join("status.new"), status).unwrap();
    std::fs::rename(directory.join("status.new"), directory.join("status")).unwrap();
}

/// From `URL,… [max_bytes=N] [replicas=N]`.
pub(crate) fn config_of(text: &str) -> BrokerConfig {
    let mut words = text.split(' ');
    let servers = words.next().unwrap().split(',');
    let mut config = BrokerConfig {
        servers: servers.map(|url| url.parse().unwrap()).collect(),
        access: Access::default(),
        stream: "test".into(),
        max_age: Duration::from_secs(3600),
        max_bytes: None,
        replicas: 1,
    };
    for word in words {
        match word.split_once('=').unwrap() {
            ("max_bytes", value) => config.max_bytes = Some(value.parse().unwrap()),
            ("replicas", value) => config.replicas = value.parse().unwrap(),
            _ => panic!("{word}"),
        }
    }
    config
}
