//! Reads one subject of the stream in order, from a given place on, however often the connection is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull::{Config, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use bytes::Bytes;
use futures_util::StreamExt;

use super::collectors::Context;
use super::life::Brake;
use super::notices::{causes, foreign};

/// Envelopes that are asked for at once.
const PULL: usize = 8;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The server forgets a reader that asks for nothing for so long.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// What the stream has.
#[derive(Debug)]
pub(super) struct Received {
    /// Its number in the stream.
    pub(super) sequence: u64,
    /// How many are known to wait behind it.
    pub(super) waiting: u64,
    pub(super) payload: Bytes,
}

/// A place in the stream.
pub(super) struct Reader {
    context: Arc<Context>,
    partition: u16,
    subject: String,
    next: u64,
    opening: Option<tokio::task::JoinHandle<Result<Stream, String>>>,
    messages: Option<Stream>,
    /// How many the server's reader has given.
    given: u64,
    brake: Brake,
}

impl Reader {
    pub(super) fn new(
        context: Arc<Context>,
        (partition, subject): (u16, String),
        next: u64,
    ) -> Self {
        Self {
            context,
            partition,
            subject,
            next,
            opening: None,
            messages: None,
            given: 0,
            brake: Brake::new(),
        }
    }

    /// The next one, however long it takes. May be given up while it waits.
    pub(super) async fn next(&mut self) -> Received {
        loop {
            let Some(messages) = &mut self.messages else {
                self.open().await;
                continue;
            };
            let error = match messages.next().await {
                Some(Ok(message)) => match message.info() {
                    // Without a gap in what it gives, there is none in what we have.
                    Ok(info) if info.consumer_sequence == self.given + 1 => {
                        let (sequence, waiting) = (info.stream_sequence, info.pending);
                        self.given += 1;
                        if self.brake.holds(Instant::now()) {
                            self.context.unread.over(self.partition);
                        }
                        if sequence < self.next {
                            continue;
                        }
                        self.next = sequence + 1;
                        return Received {
                            sequence,
                            waiting,
                            payload: message.payload.clone(),
                        };
                    }
                    Ok(info) => format!(
                        "message {} came where {} was expected",
                        info.consumer_sequence,
                        self.given + 1
                    ),
                    Err(error) => foreign(&error.to_string()),
                },
                Some(Err(error)) => causes(&error),
                None => "it ended".into(),
            };
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &str) {
        self.messages = None;
        // Once is what happens when a server is restarted.
        if self.brake.failed(Instant::now()) > 2 {
            self.context.unread.is(self.partition, || {
                format!(
                    "can't read the stream {}: {error}; trying again",
                    self.context.config.stream
                )
            });
        }
    }

    /// Asks the server for a reader at our place.
    async fn open(&mut self) {
        let opening = match &mut self.opening {
            Some(opening) => opening,
            None => {
                let delay = match self.brake.failures() {
                    0 => Duration::ZERO,
                    _ => self.brake.delay(),
                };
                let (context, subject, next) =
                    (Arc::clone(&self.context), self.subject.clone(), self.next);
                // Its own task, so that it isn't given up half-way with us, nor waited for anew.
                self.opening.insert(tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    open(&context, subject, next).await
                }))
            }
        };
        let opened = opening.await;
        self.opening = None;
        match opened {
            Ok(Ok(messages)) => {
                self.messages = Some(messages);
                self.given = 0;
                self.brake.works(Instant::now());
            }
            Ok(Err(error)) => self.fail(&error),
            Err(error) => self.fail(&error.to_string()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(opening) = &self.opening {
            opening.abort();
        }
    }
}

async fn open(context: &Context, subject: String, next: u64) -> Result<Stream, String> {
    let config = Config {
        deliver_policy: DeliverPolicy::ByStartSequence {
            start_sequence: next,
        },
        // What was read is remembered in our own mark.
        ack_policy: AckPolicy::None,
        replay_policy: ReplayPolicy::Instant,
        filter_subject: subject,
        inactive_threshold: FORGOTTEN,
        memory_storage: true,
        num_replicas: 1,
        ..Config::default()
    };
    let stream = context.stream();
    let consumer = stream
        .create_consumer(config)
        .await
        .map_err(|error| causes(&error))?;
    let messages = consumer
        .stream()
        .max_messages_per_batch(PULL)
        .heartbeat(HEARTBEAT)
        .expires(4 * HEARTBEAT)
        .messages();
    messages.await.map_err(|error| causes(&error))
}
