//! Sessions to a broker, sealed for the collectors.

use agent::broker::key::AgentKey;
use agent::broker::{BrokerConfig, Publisher, PublisherStats};
use agent::tunnel::SharedWindow;
use agent::tunnel::outbox::{Outbox, OutboxStats};
use agent::tunnel::window::{Window, WindowStats};

use super::EndStats;
use super::away::{AwayEnd, Way};
use crate::config::BrokerChoice;

/// Who brings what is in a window to the broker.
pub(super) struct BrokerWay {
    choice: BrokerChoice,
    window: SharedWindow,
    /// What becomes of them when it begins.
    waiting: Option<(BrokerConfig, AgentKey)>,
    publisher: Option<Publisher>,
    complaints: Vec<String>,
}

/// What went to a broker.
#[derive(Clone, Debug)]
pub(crate) struct BrokerStats {
    /// What was told.
    pub(crate) outbox: OutboxStats,
    /// What became of its batches.
    pub(crate) window: WindowStats,
    /// How they were brought there.
    pub(crate) publisher: PublisherStats,
}

impl BrokerWay {
    pub(super) fn open(choice: &BrokerChoice) -> anyhow::Result<AwayEnd<Self>> {
        let key = choice.agent_key()?;
        let window = SharedWindow::new(Window::new(choice.window_bytes));
        let outbox = Outbox::new(vec![window.clone()]);
        let way = Self {
            window,
            waiting: Some((choice.load()?, key)),
            publisher: None,
            choice: choice.clone(),
            complaints: Vec::new(),
        };
        Ok(AwayEnd::new(outbox, way))
    }
}

impl Way for BrokerWay {
    fn begin(&mut self) -> anyhow::Result<()> {
        if let Some((config, key)) = self.waiting.take() {
            let window = self.window.clone();
            self.publisher = Some(Publisher::start(config, &key, window));
        }
        Ok(())
    }

    fn finish(&mut self) {
        let publisher = self.publisher.as_mut();
        if !publisher.is_none_or(|publisher| publisher.finish(self.choice.linger)) {
            let waiting = self.window.lock().stats().waiting_batches;
            self.complaints.push(format!(
                "{} hasn't taken all within {} s (--linger): {waiting} batches are LOST",
                self.choice,
                self.choice.linger.as_secs()
            ));
        }
    }

    fn take_complaints(&mut self) -> Vec<String> {
        let notices = self.publisher.as_ref().map(Publisher::take_notices);
        let mut complaints = notices.unwrap_or_default();
        complaints.append(&mut self.complaints);
        complaints
    }

    fn stats(&self, outbox: OutboxStats) -> EndStats {
        EndStats {
            broker: Some(BrokerStats {
                outbox,
                window: self.window.lock().stats(),
                publisher: self
                    .publisher
                    .as_ref()
                    .map(Publisher::stats)
                    .unwrap_or_default(),
            }),
            ..EndStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use agent::broker::key::{FleetKey, Terms};
    use clap::Parser;
    use mirror_tests::place::write_secret;
    use mirror_tests::process::until;

    use super::super::End;
    use super::*;
    use crate::cli::Cli;
    use crate::config::{OutputChoice, Task, resolve};

    /// Whether this process has a thread that speaks to a broker.
    fn speaks() -> bool {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let name = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("comm"));
        let mut names = threads.flatten().filter_map(|thread| name(thread).ok());
        names.any(|name| name == "broker\n")
    }

    #[test]
    fn nobody_is_spoken_to_while_there_are_privileges() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("own.key");
        let key = FleetKey::generate().agent("web", &Terms::default());
        write_secret(&path, &key.unwrap().to_text());
        let words = ["sslcollector", "-I", "none", "--socket", "/s", "-t"];
        let words = words.map(str::to_owned).into_iter().chain([
            "nats://127.0.0.1:1".to_owned(),
            "--fleet-key".to_owned(),
            path.display().to_string(),
        ]);
        let task = resolve(Cli::try_parse_from(words).unwrap()).unwrap();
        let Task::Mirror(settings) = task else {
            panic!("it serves");
        };
        let [OutputChoice::Broker(choice)] = &settings.outputs[..] else {
            panic!("one output, by a broker");
        };
        let mut end = BrokerWay::open(choice).unwrap();
        assert!(!speaks());
        end.begin().unwrap();
        until("a thread for the broker", || speaks().then_some(()));
    }
}
