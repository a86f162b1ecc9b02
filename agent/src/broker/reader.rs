//! Reads one subject of the stream in order, from a given place on, however often the connection is lost.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull::{Config, Stream};
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy};
use bytes::Bytes;
use futures_util::StreamExt;

use super::collectors::Context;
use super::connect::{Backoff, Trouble, causes};

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
    subject: String,
    next: u64,
    opening: Option<tokio::task::JoinHandle<Result<Stream, String>>>,
    messages: Option<Stream>,
    /// How many the server's reader has given.
    given: u64,
    backoff: Backoff,
    trouble: Trouble,
    failures: u32,
}

impl Reader {
    pub(super) fn new(context: Arc<Context>, subject: String, next: u64) -> Self {
        let trouble = Trouble::new(context.notices.clone(), "the stream can be read again");
        Self {
            context,
            subject,
            next,
            opening: None,
            messages: None,
            given: 0,
            backoff: Backoff::new(),
            trouble,
            failures: 0,
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
                        self.failures = 0;
                        self.trouble.over();
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
                    Err(error) => error.to_string(),
                },
                Some(Err(error)) => causes(&error),
                None => "it ended".into(),
            };
            self.fail(&error);
        }
    }

    fn fail(&mut self, error: &str) {
        self.messages = None;
        self.failures += 1;
        // Once is what happens when a server is restarted.
        if self.failures > 2 {
            self.trouble.is(format!(
                "can't read the stream {}: {error}; trying again",
                self.context.config.stream
            ));
        }
    }

    /// Asks the server for a reader at our place.
    async fn open(&mut self) {
        let opening = match &mut self.opening {
            Some(opening) => opening,
            None => {
                if self.failures > 0 {
                    self.backoff.wait().await;
                }
                let (context, subject, next) =
                    (Arc::clone(&self.context), self.subject.clone(), self.next);
                // Its own task, so that it isn't given up half-way with us.
                self.opening.insert(tokio::spawn(
                    async move { open(&context, subject, next).await },
                ))
            }
        };
        let opened = opening.await;
        self.opening = None;
        match opened {
            Ok(Ok(messages)) => {
                self.messages = Some(messages);
                self.given = 0;
                self.backoff = Backoff::new();
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
