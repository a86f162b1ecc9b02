//! One envelope on its way to the broker, for as long as it takes.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::connection::State;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use bytes::Bytes;
use tokio::sync::watch;

use super::connect::{Backoff, BrokerConfig, ensure_stream};
use super::notices::{Trouble, causes};
use super::publisher::Shared;
use super::size::header;

/// One envelope on its way.
pub(super) struct Flight {
    /// By which connection; it may become another one.
    pub(super) link: watch::Receiver<Context>,
    pub(super) config: BrokerConfig,
    pub(super) subject: String,
    pub(super) id: String,
    pub(super) bytes: Bytes,
    pub(super) shared: Arc<Shared>,
    pub(super) trouble: Arc<Mutex<Trouble>>,
}

impl Flight {
    /// Until the broker has it.
    pub(super) async fn land(self) {
        let mut backoff = Backoff::new();
        loop {
            let error = match self.attempt().await {
                Ok(()) => {
                    self.trouble().over();
                    return;
                }
                Err(error) => error,
            };
            // A count.
            self.shared.failures.fetch_add(1, Ordering::Relaxed);
            self.trouble().is(error);
            backoff.wait().await;
        }
    }

    async fn attempt(&self) -> Result<(), String> {
        let context = self.link.borrow().clone();
        // What is handed over without a connection piles up, and goes out all at once.
        if context.client().connection_state() != State::Connected {
            return Err("no connection to the broker: batches wait in the window".into());
        }
        let fields = [
            ("Nats-Msg-Id", self.id.as_str()),
            ("Nats-Expected-Stream", self.config.stream.as_str()),
        ];
        let headers = header(&fields, &self.subject, self.bytes.len());
        let sent = context.publish_with_headers(self.subject.clone(), headers, self.bytes.clone());
        let stored = async { sent.await?.await }.await;
        match stored {
            Ok(ack) => {
                // Counts.
                self.shared.envelopes.fetch_add(1, Ordering::Relaxed);
                self.shared
                    .bytes
                    .fetch_add(self.bytes.len() as u64, Ordering::Relaxed);
                self.shared
                    .duplicates
                    .fetch_add(u64::from(ack.duplicate), Ordering::Relaxed);
                Ok(())
            }
            Err(error) if error.kind() == PublishErrorKind::StreamNotFound => {
                match ensure_stream(&context, &self.config).await {
                    Ok(_) => Err(format!(
                        "the broker had no stream {}: made it",
                        self.config.stream
                    )),
                    Err(error) => Err(error),
                }
            }
            Err(error) => {
                let told = causes(&error);
                let stream = &self.config.stream;
                Err(match told.contains("maximum bytes exceeded") {
                    true => format!(
                        "the broker's stream {stream} is full: batches wait in the window, and what finds no room there \
                         is dropped; collectors make room"
                    ),
                    false => {
                        format!("the broker doesn't take a batch: {told}; it waits in the window")
                    }
                })
            }
        }
    }

    fn trouble(&self) -> std::sync::MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
