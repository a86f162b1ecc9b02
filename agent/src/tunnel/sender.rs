//! The sender: a thread that brings a window's batches to a collector, as long as there is one to be found.
//!
//! ```text
//! agent's thread:  FlowEvent ─> Outbox ─push─> SharedWindow
//! this thread:                      SharedWindow ─outgoing─> SendQueue ─writev─> TLS ─> collector
//!                                   SharedWindow <──ack──────────────────────── frames <─┘
//! ```
//!
//! Of several collectors it stays with one until that fails, and then tries the others in turn. After a round
//! without success it waits, from 0.1 s to 30 s; after a connection that has held, from 0.1 s again. Where the
//! collector wants nothing of this agent (it was revoked, or another collector answers), it waits 30 s each time.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::backoff::Backoff;
use super::connection::{Connection, ConnectionEnd, Greeting};
use super::dial::{Collector, DialError, dial};
use super::frame::{Instance, Reason};
use super::shared::SharedWindow;
use super::status::{Status, TunnelStatus};

/// A connection of this age was a good one.
const HELD: Duration = Duration::from_secs(10);

/// Where a sender sends, and how.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// At least one. All are told the same, one at a time.
    pub collectors: Vec<Collector>,
    /// zstd's level, where batches are to be compressed that become smaller by it.
    pub compression: Option<i32>,
    /// Random: this life of the agent, and this tunnel.
    pub instance: Instance,
}

/// A thread that sends what is in a window. Ends when it is dropped, at once.
#[derive(Debug)]
pub struct Sender {
    thread: Option<JoinHandle<()>>,
    /// Until when to try, once it is to end.
    stop: watch::Sender<Option<Instant>>,
    status: Arc<Status>,
    window: SharedWindow,
    /// For people.
    collectors: String,
}

impl Sender {
    /// Starts the thread.
    ///
    /// # Errors
    /// There can be no thread, or nothing for it to wait with.
    pub fn start(config: SenderConfig, window: SharedWindow) -> io::Result<Self> {
        let runtime = Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()?;
        let status = Arc::new(Status::default());
        let (stop, stopped) = watch::channel(None);
        let names = config.collectors.iter().map(|one| one.address.to_string());
        let collectors = names.collect::<Vec<_>>().join(", ");
        let mut work = Work {
            config,
            window: window.clone(),
            status: Arc::clone(&status),
            stop: stopped.clone(),
            connections: 0,
            epoch: None,
        };
        let body = move || {
            runtime.block_on(async {
                tokio::select! {
                    () = work.work() => {}
                    () = deadline(stopped) => {}
                }
            });
            // A name that is being looked up may take its time.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new()
            .name("tunnel".into())
            .spawn(body)?;
        Ok(Self {
            thread: Some(thread),
            stop,
            status,
            window,
            collectors,
        })
    }

    /// How it stands.
    pub fn status(&self) -> TunnelStatus {
        self.status.snapshot()
    }

    /// The collectors that it may go to, for people.
    pub fn collectors(&self) -> &str {
        &self.collectors
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&self) -> Vec<String> {
        self.status.take_lines()
    }

    /// The window that it empties.
    pub fn window(&self) -> &SharedWindow {
        &self.window
    }

    /// From now on nothing more comes into the window: sends the rest, says goodbye, and ends when all is acknowledged,
    /// but by `until` in any case. Doesn't wait.
    pub fn finish(&self, until: Instant) {
        self.stop.send_replace(Some(until));
        self.window.tell_filled();
    }

    /// Waits for its end, which [`finish`](Self::finish) has asked for.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // Its panic was printed; there is nothing to be done about it.
            let _ = thread.join();
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.finish(Instant::now());
            self.join();
        }
    }
}

async fn deadline(mut stop: watch::Receiver<Option<Instant>>) {
    // Whoever holds the other end sets it before that is gone.
    let until = match stop.wait_for(Option::is_some).await {
        Ok(until) => *until,
        Err(_) => None,
    };
    if let Some(until) = until {
        sleep_until(until.into()).await;
    }
}

struct Work {
    config: SenderConfig,
    window: SharedWindow,
    status: Arc<Status>,
    stop: watch::Receiver<Option<Instant>>,
    connections: u64,
    epoch: Option<Instance>,
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error(transparent)]
    Connection(#[from] ConnectionEnd),
}

impl Work {
    async fn work(&mut self) {
        let collectors = self.config.collectors.clone();
        let mut backoff = Backoff::default();
        loop {
            // A round over all collectors.
            let mut hopeless = true;
            for collector in &collectors {
                let begun = Instant::now();
                let failure = loop {
                    let begun = Instant::now();
                    match self.connect(collector).await {
                        Failure::Connection(ConnectionEnd::Finished) => return,
                        // It has told us to come again: at once, if it isn't for the first time.
                        Failure::Connection(ConnectionEnd::Leaving) if begun.elapsed() > HELD => {}
                        failure => break failure,
                    }
                };
                let is_final = failure.is_final();
                hopeless &= is_final;
                let what_next = match (collectors.len(), is_final) {
                    (1, true) => "trying again every half a minute",
                    (1, false) => "trying again",
                    _ => "trying the next one",
                };
                let name = collector.address.to_string();
                self.status.failed(&name, &failure.to_string(), what_next);
                if begun.elapsed() > HELD {
                    backoff.reset();
                }
                if self.stop.borrow().is_some() && self.window.lock().is_empty() {
                    return;
                }
            }
            if hopeless {
                backoff.slow_down();
            }
            let wait = tokio::time::sleep(backoff.wait(random()));
            let mut stop = self.stop.clone();
            tokio::select! {
                () = wait => {}
                // The last moment to get rid of what waits.
                _ = stop.wait_for(Option::is_some), if self.stop.borrow().is_none() => {}
            }
        }
    }

    async fn connect(&mut self, collector: &Collector) -> Failure {
        match self.attempt(collector).await {
            Ok(end) => end.into(),
            Err(failure) => failure,
        }
    }

    async fn attempt(&mut self, collector: &Collector) -> Result<ConnectionEnd, Failure> {
        let (stream, peer) = dial(collector).await?;
        self.connections += 1;
        let greeting = Greeting {
            instance: self.config.instance,
            connection: self.connections,
            // What can't be believed is asked for anew.
            epoch: self.epoch.take(),
        };
        let greeted = Connection::greet(
            stream,
            &collector.security,
            self.config.compression,
            greeting,
            &self.window,
            &self.status,
        );
        let (connection, epoch) = match greeted.await {
            Ok(greeted) => greeted,
            Err(end) => {
                let contradicts = matches!(
                    end,
                    ConnectionEnd::Unexpected | ConnectionEnd::Window(_) | ConnectionEnd::Frame(_)
                );
                self.epoch = greeting.epoch.filter(|_| !contradicts);
                return Err(end.into());
            }
        };
        self.epoch = Some(epoch);
        self.status.connected(collector.address.to_string(), peer);
        let end = connection.run(self.stop.clone()).await;
        if matches!(end, ConnectionEnd::Window(_)) {
            self.epoch = None;
        }
        Ok(end)
    }
}

impl Failure {
    /// The collector won't have it another time, unless somebody does something.
    fn is_final(&self) -> bool {
        match self {
            Self::Dial(DialError::Refused(..)) | Self::Connection(ConnectionEnd::Version(_)) => {
                true
            }
            Self::Connection(ConnectionEnd::Refused(refused)) => matches!(
                refused.reason,
                Reason::NoCertificate
                    | Reason::UnknownCertificate
                    | Reason::Revoked
                    | Reason::Expired
                    | Reason::Version
            ),
            _ => false,
        }
    }
}

fn random() -> u32 {
    let mut bytes = [0; 4];
    // Without chance all wait the same.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    u32::from_ne_bytes(bytes)
}
