//! The way to a NATS server, and what must be there: a stream for events, and buckets for the collectors.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context, kv};
use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr};

use super::access::Access;
use crate::tunnel::batch::PARTITIONS;

/// Longest that is waited between attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// Longest that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Lines that wait to be said.
const MAX_NOTICES: usize = 64;
/// What envelopes and what belongs to them take at most.
const NEEDED_PAYLOAD: usize = 300 * 1024;

/// Which broker, and what is kept there.
#[derive(Clone, Debug)]
pub struct BrokerConfig {
    /// Its servers; any of them will do. No secrets in them.
    pub servers: Vec<ServerAddr>,
    /// Who we are to it.
    pub access: Access,
    /// The stream: also the first part of its subjects, and of its buckets' names.
    pub stream: String,
    /// How long the stream keeps what nobody has consumed.
    pub max_age: Duration,
    /// Most bytes that the stream keeps; `None`: as many as the server allows. What finds no room is refused, and
    /// stays in the agents' windows.
    pub max_bytes: Option<u64>,
    /// Servers of a cluster that keep a copy each.
    pub replicas: usize,
}

/// What people should know, a line each.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    /// Adds a line.
    pub(super) fn say(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < MAX_NOTICES {
            lines.push(line);
        }
    }

    /// What was said since the last time.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Something that may be wrong for a while: said when it begins or changes, and when it is over.
#[derive(Debug)]
pub(super) struct Trouble {
    notices: Notices,
    over: &'static str,
    current: Option<String>,
}

impl Trouble {
    /// `over`: what is said when it is over.
    pub(super) fn new(notices: Notices, over: &'static str) -> Self {
        Self {
            notices,
            over,
            current: None,
        }
    }

    pub(super) fn is(&mut self, line: String) {
        if self.current.as_ref() != Some(&line) {
            self.notices.say(line.clone());
            self.current = Some(line);
        }
    }

    pub(super) fn over(&mut self) {
        if self.current.is_some() {
            self.is_well();
        }
    }

    /// Says so also where nothing was wrong.
    fn is_well(&mut self) {
        self.current = None;
        self.notices.say(self.over.to_owned());
    }
}

/// Waits longer each time, and not as long as others do.
#[derive(Debug)]
pub(super) struct Backoff(Duration);

impl Backoff {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    pub(super) async fn wait(&mut self) {
        let share = f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX);
        tokio::time::sleep(self.0.mul_f64(0.5 + share / 2.0)).await;
        self.0 = (self.0 * 2).min(MAX_BACKOFF);
    }
}

/// Random bytes from the kernel.
///
/// # Panics
/// If it has none.
pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    assert_eq!(filled, Ok(N), "the kernel gives random bytes");
    bytes
}

/// The subject of a partition.
pub(super) fn subject(stream: &str, partition: u16) -> String {
    format!("{stream}.events.{partition:02}")
}

/// Connects, however long it takes: what is in the way is said once. Afterwards the connection mends itself.
pub(super) async fn connect(config: &BrokerConfig, name: &str, notices: &Notices) -> Client {
    let mut trouble = Trouble::new(notices.clone(), "the broker is reached");
    let mut backoff = Backoff::new();
    loop {
        match options(config, name, notices) {
            Ok(options) => match options.connect(config.servers.clone()).await {
                Ok(client) => {
                    trouble.over();
                    warn_of_clear_text(config, &client, notices);
                    let most = client.server_info().max_payload;
                    if most < NEEDED_PAYLOAD {
                        notices.say(format!(
                            "the broker takes messages of {most} bytes at most, and batches are up to {NEEDED_PAYLOAD}: \
                             raise its max_payload (1 MB by default)"
                        ));
                    }
                    return client;
                }
                Err(error) => trouble.is(format!(
                    "{}; trying again",
                    config.access.explain(&names(config), &error)
                )),
            },
            Err(error) => trouble.is(format!("can't use the broker's credentials: {error}")),
        }
        backoff.wait().await;
    }
}

/// Said once: what a broker without TLS lets others hear.
fn warn_of_clear_text(config: &BrokerConfig, client: &Client, notices: &Notices) {
    let local = config
        .servers
        .iter()
        .all(|server| ["localhost", "127.0.0.1", "::1", "[::1]"].contains(&server.host()));
    let tls = requires_tls(config) || client.server_info().tls_required;
    if config.access.tells_secrets() && !tls && !local {
        notices.say(format!(
            "the broker at {} gets our password in CLEAR TEXT, and whoever listens on the way does: tls:// encrypts it",
            names(config)
        ));
    }
}

/// One server without it could lead a client away from all others.
fn requires_tls(config: &BrokerConfig) -> bool {
    config.access.requires_tls() || config.servers.iter().any(ServerAddr::tls_required)
}

fn options(
    config: &BrokerConfig,
    name: &str,
    notices: &Notices,
) -> std::io::Result<ConnectOptions> {
    let place = names(config);
    let way = Trouble::new(notices.clone(), "connected to the broker");
    let way = Arc::new(Mutex::new((way, Trouble::new(notices.clone(), ""))));
    let options = ConnectOptions::new()
        .name(name)
        .connection_timeout(REQUEST_TIMEOUT)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(Duration::from_secs(10))
        .reconnect_delay_callback(|attempts| {
            let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
            let most = (Duration::from_millis(50) * 2_u32.pow(exponent)).min(MAX_BACKOFF);
            let share = f64::from(u32::from_le_bytes(random())) / f64::from(u32::MAX);
            most.mul_f64(0.5 + share / 2.0)
        })
        .event_callback(move |event| {
            let (way, place) = (Arc::clone(&way), place.clone());
            async move {
                let mut way = way.lock().unwrap_or_else(PoisonError::into_inner);
                let (connection, complaint) = &mut *way;
                match event {
                    Event::Connected => connection.is_well(),
                    Event::Disconnected => {
                        connection.is("the connection to the broker is gone; trying again".into())
                    }
                    Event::ClientError(ClientError::Other(error)) => connection.is(format!(
                        "can't reach the broker at {place} again: {error}; trying again"
                    )),
                    // What it forbids, for example.
                    Event::ServerError(error) => complaint.is(format!("the broker says: {error}")),
                    // The rest is told by what fails because of it.
                    _ => {}
                }
            }
        });
    config
        .access
        .apply(options.require_tls(requires_tls(config)))
}

/// JetStream, as both sides use it.
pub(super) fn context(client: Client) -> Context {
    jetstream::ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .build(client)
}

/// Makes the stream if it isn't there. One that is there stays as it is.
///
/// # Errors
/// It isn't there, and can't be made; says why.
pub(super) async fn ensure_stream(
    context: &Context,
    config: &BrokerConfig,
) -> Result<jetstream::stream::Stream, String> {
    let told = |error: &dyn std::fmt::Display| {
        format!(
            "the broker has no stream {}, and can't make it: {error}",
            config.stream
        )
    };
    match context.get_stream(&config.stream).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND => {}
            _ => return Err(format!("the broker doesn't tell of its streams: {error}")),
        },
    }
    let stream = StreamConfig {
        name: config.stream.clone(),
        description: Some("batches of sslcollector agents, sealed".into()),
        subjects: vec![format!("{}.events.*", config.stream)],
        retention: RetentionPolicy::Limits,
        // What was acknowledged to an agent isn't dropped for what comes later.
        discard: DiscardPolicy::New,
        storage: StorageType::File,
        max_age: config.max_age,
        max_bytes: config
            .max_bytes
            .map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        num_replicas: config.replicas,
        duplicate_window: Duration::from_secs(120).min(config.max_age),
        ..StreamConfig::default()
    };
    match context.create_stream(stream).await {
        Ok(stream) => Ok(stream),
        Err(error) if error.kind() == CreateStreamErrorKind::TimedOut => Err(told(&error)),
        // Somebody else may have made it just now.
        Err(error) => context
            .get_stream(&config.stream)
            .await
            .map_err(|_| told(&error)),
    }
}

/// Makes a bucket if it isn't there.
///
/// # Errors
/// It isn't there, and can't be made; says why.
pub(super) async fn ensure_bucket(
    context: &Context,
    config: &BrokerConfig,
    purpose: &str,
) -> Result<kv::Store, String> {
    let bucket = format!("{}-{purpose}", config.stream);
    if let Ok(store) = context.get_key_value(&bucket).await {
        return Ok(store);
    }
    // What `create_key_value` would do, which asks for the account first, and can't read what a server of 2.9 answers.
    let made = context.create_stream(StreamConfig {
        name: format!("KV_{bucket}"),
        description: Some("collectors of sslcollector".into()),
        subjects: vec![format!("$KV.{bucket}.>")],
        max_messages_per_subject: 1,
        max_messages: -1,
        max_bytes: -1,
        max_consumers: -1,
        discard: DiscardPolicy::New,
        allow_rollup: true,
        deny_delete: true,
        allow_direct: true,
        storage: StorageType::File,
        num_replicas: config.replicas,
        ..StreamConfig::default()
    });
    let made = made.await;
    let found = context.get_key_value(&bucket).await;
    found.map_err(|found| {
        let error = made.map_or_else(|error| causes(&error), |_| causes(&found));
        format!("the broker has no bucket {bucket}, and can't make it: {error}")
    })
}

/// All partitions.
pub(super) fn partitions() -> std::ops::Range<u16> {
    0..PARTITIONS
}

fn names(config: &BrokerConfig) -> String {
    let name = |server: &ServerAddr| format!("{}:{}", server.host(), server.port());
    config
        .servers
        .iter()
        .map(name)
        .collect::<Vec<_>>()
        .join(", ")
}

/// An error with what is behind it.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
