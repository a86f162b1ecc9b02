//! A broker, an agent, and collectors.

use std::path::Path;

use agent::broker::key::{AgentKey, FleetKey, FleetKeys, Terms};
use async_nats::jetstream;
use mirror_tests::nats::{NatsCluster, NatsServer};
use mirror_tests::process::until;

use crate::collector::{CollectorProcess, config_of};
use crate::talker::Talker;
use crate::truth::{FLOWS, Phase, ROUND_BYTES, Told};

pub(crate) struct Fleet {
    pub(crate) collectors: Vec<CollectorProcess>,
    pub(crate) agent: Talker,
    pub(crate) keys: FleetKeys,
    window_bytes: u64,
    /// See [`config_of`].
    pub(crate) broker: String,
    pub(crate) server: Option<NatsServer>,
    pub(crate) cluster: Option<NatsCluster>,
    directory: tempfile::TempDir,
}

impl Fleet {
    pub(crate) fn start(collectors: usize) -> Self {
        Self::limited(collectors, 64 << 20, "")
    }

    /// As [`Fleet::start`], with limits for the agent's window and the stream.
    pub(crate) fn limited(collectors: usize, window_bytes: u64, limits: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let server = NatsServer::start(directory.path());
        let broker = server.url() + limits;
        Self::around(
            collectors,
            (Some(server), None),
            (broker, window_bytes),
            directory,
        )
    }

    /// As [`Fleet::start`], with three servers that have a copy each.
    pub(crate) fn clustered(collectors: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cluster = NatsCluster::start(directory.path(), 3);
        let broker = cluster.urls() + " replicas=3";
        Self::around(
            collectors,
            (None, Some(cluster)),
            (broker, 64 << 20),
            directory,
        )
    }

    fn around(
        collectors: usize,
        (server, cluster): (Option<NatsServer>, Option<NatsCluster>),
        (broker, window_bytes): (String, u64),
        directory: tempfile::TempDir,
    ) -> Self {
        let keys = FleetKeys::from(FleetKey::generate());
        let key = keys.newest().agent("web-1", &Terms::default()).unwrap();
        let mut fleet = Self {
            collectors: Vec::new(),
            agent: Talker::new(config_of(&broker), &key, window_bytes),
            keys: keys.clone(),
            window_bytes,
            broker,
            server,
            cluster,
            directory,
        };
        fleet.give_keys(keys);
        (0..collectors).for_each(|_| fleet.add_collector());
        fleet
    }

    /// Collectors that begin from now on have these.
    pub(crate) fn give_keys(&mut self, keys: FleetKeys) {
        std::fs::write(self.directory.path().join("fleet.key"), keys.to_text()).unwrap();
        self.keys = keys;
    }

    /// Another agent in place of the one that talks, which has said all.
    pub(crate) fn replace_agent(&mut self, key: &AgentKey) {
        self.replace_agent_at(&self.broker.clone(), key);
    }

    /// One that has another way to the broker.
    pub(crate) fn replace_agent_at(&mut self, broker: &str, key: &AgentKey) {
        assert!(self.agent.publisher.finish(mirror_tests::process::LIMIT));
        self.agent = Talker::new(config_of(broker), key, self.window_bytes);
    }

    pub(crate) fn add_collector(&mut self) {
        self.add_collector_at(self.broker.clone());
    }

    /// One that has another way to the broker.
    pub(crate) fn add_collector_at(&mut self, broker: String) {
        let directory = format!("collector-{}", self.collectors.len());
        let directory = self.directory.path().join(directory);
        let collector = CollectorProcess::start(directory, &broker);
        self.collectors.push(collector);
    }

    pub(crate) fn server(&mut self) -> &mut NatsServer {
        self.server.as_mut().unwrap()
    }

    pub(crate) fn talk(&mut self, phase: Phase, round: u64) {
        self.agent.talk(phase, round);
        self.agent.wait_for_room();
    }

    pub(crate) fn say_farewell(&mut self, phase: Phase) {
        self.agent.say_farewell(phase);
    }

    /// What a collector counts under this name.
    pub(crate) fn stat(&self, collector: usize, name: &str) -> u64 {
        let status = self.collectors[collector].status();
        let line = status
            .lines()
            .find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |value| value.trim_end_matches(',').parse().unwrap())
    }

    pub(crate) fn wait_for_partitions(&self, wanted: &[u64]) {
        until("the partitions to be shared", || {
            let have = (0..self.collectors.len()).map(|at| self.stat(at, "partitions"));
            have.eq(wanted.iter().copied()).then_some(())
        });
    }

    /// Bytes of the phase that a collector has put out.
    pub(crate) fn out(&self, collector: usize, phase: Phase) -> u64 {
        let mut told = Told::default();
        for file in self.collectors[collector].files() {
            told.read(&file, |id| phase.has(id));
        }
        told.bytes
    }

    pub(crate) fn out_of_all(&self, phase: Phase) -> u64 {
        (0..self.collectors.len())
            .map(|collector| self.out(collector, phase))
            .sum()
    }

    /// Until a collector has put out what its share says in so many rounds, about.
    pub(crate) fn wait_until_out(&self, collector: usize, phase: Phase, rounds: u64) {
        let share = rounds * ROUND_BYTES * u64::from(FLOWS) * 2 / self.collectors.len() as u64;
        until("text from a collector", || {
            (self.out(collector, phase) >= share / 2).then_some(())
        });
    }

    /// Until each byte of these phases, and each end, has come out somewhere, at its place.
    pub(crate) fn wait_until_complete(&self, phases: &[(Phase, u64)]) -> Told {
        let told = self.wait_until_told(|told| {
            let mut phases = phases.iter();
            phases.find_map(|(phase, rounds)| told.missing(*phase, *rounds))
        });
        assert_eq!(told.holes(), 0, "holes");
        told
    }

    /// Until nothing is missing of what all collectors have put out.
    pub(crate) fn wait_until_told(&self, missing: impl Fn(&Told) -> Option<String>) -> Told {
        let begin = std::time::Instant::now();
        loop {
            let mut told = Told::default();
            for file in self.collectors.iter().flat_map(CollectorProcess::files) {
                told.read(&file, |_| true);
            }
            let Some(missing) = missing(&told) else {
                return told;
            };
            assert!(
                begin.elapsed() < mirror_tests::process::LIMIT,
                "missing: {missing}\nso far {} bytes, {} in holes, {} repeated\n{:?}\n{:?}\n{}",
                told.bytes,
                told.holes(),
                told.repeated,
                self.agent.outbox(),
                self.agent.publisher.stats(),
                self.collectors
                    .iter()
                    .map(CollectorProcess::status)
                    .collect::<String>()
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }

    /// How often clear text is found in what the broker has on its disk.
    pub(crate) fn clear_text_in_store(&self) -> usize {
        let store = self.server.as_ref().unwrap().store();
        count_in(&store, b"needle ") + count_in(&store, b"needle.example")
    }

    /// Something in clear text, for the broker to keep beside the rest.
    pub(crate) fn store_in_clear(&self) {
        self.with_broker(async |broker: jetstream::Context| {
            let config = jetstream::stream::Config {
                name: "clear".into(),
                ..Default::default()
            };
            broker.create_stream(config).await.unwrap();
            let sent = broker.publish("clear", "a needle in clear".into()).await;
            sent.unwrap().await.unwrap();
        });
    }

    /// Talks to the broker as anybody could.
    pub(crate) fn with_broker<T>(&self, act: impl AsyncFnOnce(jetstream::Context) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let client = async_nats::connect(config_of(&self.broker).servers)
                .await
                .unwrap();
            act(jetstream::new(client)).await
        })
    }
}

fn count_in(path: &Path, needle: &[u8]) -> usize {
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().flatten();
        return entries.map(|entry| count_in(&entry.path(), needle)).sum();
    }
    // The broker removes files of its own while we look.
    let bytes = std::fs::read(path).unwrap_or_default();
    memchr::memmem::find_iter(&bytes, needle).count()
}
