//! The way to a NATS server, and what must be there: a stream for events, and buckets for the collectors.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{
    Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType,
};
use async_nats::jetstream::{self, Context, kv};
use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr};

use tokio::sync::watch;

use super::access::Access;
use super::life::{Brake, MAX_DELAY, words_of_panic};
use super::notices::{Notices, Trouble, causes, foreign};
use super::size::limit;
use crate::tunnel::batch::PARTITIONS;

/// Longest that a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
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
        self.0 = (self.0 * 2).min(MAX_DELAY);
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

/// The way to a broker, which remembers how it went.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) config: BrokerConfig,
    /// What we are called there.
    name: String,
    notices: Notices,
    brake: Arc<Mutex<Brake>>,
}

/// A client that mends its connection by itself, as long as the part of it that reads lives.
pub(super) struct Connection {
    client: Client,
    lives: watch::Receiver<()>,
}

impl Connection {
    /// JetStream, as both sides use it.
    pub(super) fn context(&self) -> Context {
        jetstream::ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(self.client.clone())
    }

    /// Until it has ended for good: what is asked of it is never answered any more.
    pub(super) async fn over(&mut self) {
        while self.lives.changed().await.is_ok() {}
    }
}

impl Way {
    pub(super) fn new(config: BrokerConfig, name: String, notices: Notices) -> Self {
        Self {
            config,
            name,
            notices,
            brake: Arc::new(Mutex::new(Brake::new())),
        }
    }

    /// Connects, however long it takes: what is in the way is said once. Afterwards the connection mends itself.
    pub(super) async fn connect(&self) -> Connection {
        let config = &self.config;
        let mut trouble = Trouble::new(self.notices.clone(), "the broker is reached");
        loop {
            // It goes with what reads: when nobody can be heard any more, nobody can be waited for either.
            let (alive, lives) = watch::channel(());
            let options = match self.options(alive) {
                Ok(options) => options,
                Err(error) => {
                    trouble.is(format!("can't use the broker's credentials: {error}"));
                    tokio::time::sleep(self.delay()).await;
                    continue;
                }
            };
            // A task of its own: what the broker says may make it panic. Before each attempt it waits, see `options`.
            let servers = config.servers.clone();
            let connected = tokio::spawn(async move { options.connect(servers).await });
            match connected.await {
                Ok(Ok(client)) => {
                    trouble.over();
                    self.brake().works(Instant::now());
                    self.look_at(&client);
                    return Connection { client, lives };
                }
                Ok(Err(error)) => trouble.is(format!(
                    "{}; trying again",
                    config.access.explain(&names(config), &error)
                )),
                Err(_) => trouble.is(format!(
                    "the broker at {} says what nobody could mean ({}); trying again",
                    names(config),
                    words_of_panic()
                )),
            }
        }
    }

    /// The connection has ended for good; another one is needed.
    pub(super) fn say_over(&self) {
        self.notices.say(format!(
            "the connection to the broker at {} has ended by what the broker said ({}): beginning anew",
            names(&self.config),
            words_of_panic()
        ));
    }

    fn look_at(&self, client: &Client) {
        warn_of_clear_text(&self.config, client, &self.notices);
        let most = client.server_info().max_payload;
        if most < NEEDED_PAYLOAD {
            self.notices.say(format!(
                "the broker takes messages of {most} bytes at most, and batches are up to {NEEDED_PAYLOAD}: \
                 raise its max_payload (1 MB by default)"
            ));
        }
    }

    fn brake(&self) -> MutexGuard<'_, Brake> {
        self.brake.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Before an attempt.
    fn delay(&self) -> Duration {
        let mut brake = self.brake();
        brake.failed(Instant::now());
        brake.delay()
    }

    /// `alive` lives as long as what connects and reads does.
    fn options(&self, alive: watch::Sender<()>) -> std::io::Result<ConnectOptions> {
        let (config, notices) = (&self.config, &self.notices);
        let connection = Trouble::new(notices.clone(), "connected to the broker");
        let troubles = Arc::new(Mutex::new((connection, String::new())));
        let (before, events) = (self.clone(), self.clone());
        let options = ConnectOptions::new()
            .name(&self.name)
            .connection_timeout(REQUEST_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(move |_| {
                // Held by the client's connector, which ends with the task that reads, however that ends.
                let _ = &alive;
                before.delay()
            })
            .event_callback(move |event| {
                let (troubles, way) = (Arc::clone(&troubles), events.clone());
                async move {
                    let mut troubles = troubles.lock().unwrap_or_else(PoisonError::into_inner);
                    way.hear(&event, &mut troubles);
                }
            });
        config
            .access
            .apply(options.require_tls(requires_tls(config)))
    }

    fn hear(&self, event: &Event, (connection, complaint): &mut (Trouble, String)) {
        match event {
            Event::Connected => {
                self.brake().works(Instant::now());
                connection.is_well();
            }
            Event::Disconnected => {
                connection.is("the connection to the broker is gone; trying again".into());
            }
            Event::ClientError(ClientError::Other(error)) => connection.is(format!(
                "can't reach the broker at {} again: {}; trying again",
                names(&self.config),
                foreign(error)
            )),
            // What it forbids, for example.
            Event::ServerError(error) => {
                let line = format!("the broker says: {}", foreign(&error.to_string()));
                if line != *complaint {
                    self.notices.quote(&line);
                    *complaint = line;
                }
            }
            // The rest is told by what fails because of it.
            _ => {}
        }
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

/// Makes the stream if it isn't there. One that is there stays as it is.
///
/// # Errors
/// It isn't there, and can't be made; says why.
pub(super) async fn ensure_stream(
    context: &Context,
    config: &BrokerConfig,
) -> Result<jetstream::stream::Stream, String> {
    let told = |error: &dyn std::error::Error| {
        format!(
            "the broker has no stream {}, and can't make it: {}",
            config.stream,
            causes(error)
        )
    };
    match context.get_stream(&config.stream).await {
        Ok(stream) => return Ok(stream),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(error)
                if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND => {}
            _ => {
                return Err(format!(
                    "the broker doesn't tell of its streams: {}",
                    causes(&error)
                ));
            }
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
            .map(|bytes| limit(bytes, subject(&config.stream, 0).len()))
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

/// What the bucket for this is called.
pub(super) fn bucket(config: &BrokerConfig, purpose: &str) -> String {
    format!("{}-{purpose}", config.stream)
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
    let bucket = bucket(config, purpose);
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
