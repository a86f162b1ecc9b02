//! One connection of an agent to its collector, from `Hello` to its end.

use std::io::{self, IoSlice};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, interval, timeout};

use super::dial::{Security, Stream};
use super::frame::{
    Frame, FrameError, Hello, Instance, Message, PING_SECONDS, Refused, Resume, SILENCE_SECONDS,
    VERSION, Welcome,
};
use super::queue::{SLICES, SendQueue};
use super::shared::SharedWindow;
use super::status::Status;
use super::window::WindowError;
use crate::clock;
use crate::escape::Line;

/// How often it is asked whether a certificate is to be renewed.
const RENEWAL: Duration = Duration::from_secs(3600);
const SILENCE: Duration = Duration::from_secs(SILENCE_SECONDS);

/// Why a connection has ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionEnd {
    /// All has been said and acknowledged.
    #[error("all has been said")]
    Finished,
    /// The collector goes, or comes again.
    #[error("the collector is leaving")]
    Leaving,
    #[error("the collector has closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("nothing was heard for {SILENCE_SECONDS} seconds")]
    Silent,
    /// Its words go to a terminal, or to a log.
    #[error("refused: {}", words(.0))]
    Refused(Refused),
    #[error("the collector speaks version {0} of the tunnel, and this agent {VERSION}")]
    Version(u16),
    #[error("what the collector says can't be read: {0}")]
    Frame(#[from] FrameError),
    #[error("the collector says what can't be: {0}")]
    Window(#[from] WindowError),
    #[error("the collector says what only an agent may")]
    Unexpected,
}

/// Bytes of a refusal's words that are shown.
const MAX_WORDS: usize = 500;

/// What each connection says first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Greeting {
    pub(super) instance: Instance,
    pub(super) connection: u64,
    pub(super) epoch: Option<Instance>,
}

/// A connection that was welcomed.
pub(super) struct Connection<'a> {
    reader: ReadHalf<Stream>,
    writer: WriteHalf<Stream>,
    incoming: BytesMut,
    queue: SendQueue,
    window: &'a SharedWindow,
    status: &'a Status,
    security: &'a Security,
    heard: Instant,
    /// Something was written that may not have left.
    unflushed: bool,
    said_goodbye: bool,
    renewal: Interval,
}

impl<'a> Connection<'a> {
    /// Says hello, and waits for the welcome. Returns the collector's life, too.
    pub(super) async fn greet(
        stream: Stream,
        security: &'a Security,
        compression: Option<i32>,
        greeting: Greeting,
        window: &'a SharedWindow,
        status: &'a Status,
    ) -> Result<(Self, Instance), ConnectionEnd> {
        let (reader, writer) = tokio::io::split(stream);
        let mut renewal = interval(RENEWAL);
        renewal.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut connection = Self {
            reader,
            writer,
            incoming: BytesMut::with_capacity(4096),
            queue: SendQueue::new(compression)?,
            window,
            status,
            security,
            heard: Instant::now(),
            unflushed: false,
            said_goodbye: false,
            renewal,
        };
        let answer = timeout(SILENCE, connection.exchange_hello(greeting));
        let welcome = answer.await.map_err(|_| ConnectionEnd::Silent)??;
        if welcome.version != VERSION {
            return Err(ConnectionEnd::Version(welcome.version));
        }
        // A collector that lives another life can't know what has arrived.
        if matches!(welcome.resume, Resume::From(_)) && greeting.epoch != Some(welcome.epoch) {
            return Err(ConnectionEnd::Unexpected);
        }
        window.lock().resume(welcome.resume)?;
        Ok((connection, welcome.epoch))
    }

    async fn exchange_hello(&mut self, greeting: Greeting) -> Result<Welcome, ConnectionEnd> {
        let hello = Hello {
            version: VERSION,
            instance: greeting.instance,
            connection: greeting.connection,
            epoch: greeting.epoch,
            oldest: self.window.lock().oldest(),
            clock_ns: now_ns(),
            software: env!("CARGO_PKG_VERSION").into(),
        };
        let mut bytes = BytesMut::new();
        Message::Hello(hello).encode(&mut bytes);
        // A refusal may come before all of it has gone: the answer says more than the error of a write.
        let written = async {
            self.writer.write_all(&bytes).await?;
            self.writer.flush().await
        }
        .await;
        loop {
            match Frame::decode(&mut self.incoming)? {
                Some(Frame::Message(Message::Welcome(welcome))) => return Ok(welcome),
                Some(Frame::Message(Message::Refused(refused))) => {
                    return Err(ConnectionEnd::Refused(refused));
                }
                Some(Frame::Message(Message::Leaving)) => return Err(ConnectionEnd::Leaving),
                Some(_) => return Err(ConnectionEnd::Unexpected),
                None => {}
            }
            if self.reader.read_buf(&mut self.incoming).await? == 0 {
                written?;
                return Err(ConnectionEnd::Closed);
            }
        }
    }

    /// Sends, and takes acknowledgements, until the connection ends.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<Option<std::time::Instant>>,
    ) -> ConnectionEnd {
        let end = match self.pass_frames(&mut stop).await {
            Ok(()) => ConnectionEnd::Finished,
            // What the collector said last explains why it no longer reads.
            Err(ConnectionEnd::Broken(error)) => match self.last_words().await {
                Some(end) => end,
                None => ConnectionEnd::Broken(error),
            },
            Err(end) => end,
        };
        let _ = timeout(Duration::from_secs(1), self.writer.shutdown()).await;
        end
    }

    async fn pass_frames(
        &mut self,
        stop: &mut watch::Receiver<Option<std::time::Instant>>,
    ) -> Result<(), ConnectionEnd> {
        let mut ping = interval(Duration::from_secs(PING_SECONDS));
        // They may have come with the welcome.
        self.take_frames()?;
        loop {
            self.queue.refill(self.window);
            if stop.borrow_and_update().is_some()
                && self.queue.is_empty()
                && self.window.lock().is_all_sent()
            {
                if !std::mem::replace(&mut self.said_goodbye, true) {
                    self.queue.message(&Message::Goodbye);
                } else if !self.unflushed && self.window.lock().is_empty() {
                    return Ok(());
                }
            }
            let mut slices = [IoSlice::new(&[]); SLICES];
            let number = self.queue.slices(&mut slices);
            let idle = number == 0;
            tokio::select! {
                read = self.reader.read_buf(&mut self.incoming) => {
                    if read? == 0 {
                        return Err(ConnectionEnd::Closed);
                    }
                    self.heard = Instant::now();
                    self.take_frames()?;
                }
                written = write(&mut self.writer, &slices[..number]), if !idle || self.unflushed => {
                    self.queue.written(written?);
                    self.unflushed = !idle;
                }
                () = self.window.filled(), if idle => {}
                _ = stop.changed(), if idle && !self.said_goodbye => {}
                _ = ping.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(ConnectionEnd::Silent);
                    }
                    self.queue.message(&Message::Ping { sent_ns: now_ns() });
                }
                _ = self.renewal.tick() => self.renew(),
            }
        }
    }

    fn take_frames(&mut self) -> Result<(), ConnectionEnd> {
        while let Some(frame) = Frame::decode(&mut self.incoming)? {
            self.take(frame)?;
        }
        Ok(())
    }

    fn take(&mut self, frame: Frame) -> Result<(), ConnectionEnd> {
        let Frame::Message(message) = frame else {
            return Err(ConnectionEnd::Unexpected);
        };
        match message {
            Message::Ack { through } => {
                self.window.lock().ack(through)?;
                self.window.tell_emptied();
                self.status.compressed(self.queue.compressed);
            }
            Message::Ping { sent_ns } => self.queue.answer(&Message::Pong {
                sent_ns,
                answered_ns: now_ns(),
            }),
            Message::Pong {
                sent_ns,
                answered_ns,
            } => self.status.exchange(sent_ns, answered_ns, now_ns()),
            Message::Refused(refused) => return Err(ConnectionEnd::Refused(refused)),
            Message::Leaving => return Err(ConnectionEnd::Leaving),
            Message::Renewed(certificate) => self.store(&certificate),
            Message::Hello(_)
            | Message::Welcome(_)
            | Message::PreambleEnd
            | Message::Goodbye
            | Message::Renew(_) => return Err(ConnectionEnd::Unexpected),
        }
        Ok(())
    }

    /// What was said before the connection broke.
    async fn last_words(&mut self) -> Option<ConnectionEnd> {
        let rest = async {
            loop {
                match Frame::decode(&mut self.incoming) {
                    Ok(Some(frame)) => {
                        if let Err(end) = self.take(frame) {
                            return Some(end);
                        }
                    }
                    Ok(None) => {
                        let read = self.reader.read_buf(&mut self.incoming).await;
                        if read.unwrap_or(0) == 0 {
                            return None;
                        }
                    }
                    Err(_) => return None,
                }
            }
        };
        timeout(Duration::from_secs(1), rest).await.ok().flatten()
    }

    fn renew(&mut self) {
        let Security::Tls(membership) = self.security else {
            return;
        };
        if !membership.renewal_due(SystemTime::now()) {
            return;
        }
        match membership.renewal_request() {
            Ok(request) => self.queue.message(&Message::Renew(request)),
            Err(error) => self
                .status
                .say(format!("can't renew the certificate: {error}")),
        }
    }

    fn store(&self, certificate: &[u8]) {
        if let Security::Tls(membership) = self.security
            && let Err(error) = membership.store_renewed(certificate)
        {
            self.status
                .say(format!("can't keep the renewed certificate: {error}"));
        }
    }
}

/// A refusal's words, which a collector chooses.
fn words(refused: &Refused) -> String {
    let bytes = refused.text.as_bytes();
    Line(&bytes[..bytes.len().min(MAX_WORDS)]).to_string()
}

/// Writes of these, or what they were behind.
async fn write(writer: &mut WriteHalf<Stream>, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    match slices.is_empty() {
        true => writer.flush().await.map(|()| 0),
        false => writer.write_vectored(slices).await,
    }
}

fn now_ns() -> u64 {
    clock::wall_now().0
}
