//! A collector that listens on this machine, hosts, and what strangers come with.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use agent::identity::{
    Address, Administration, AgentIdentity, CollectorIdentity, JoinError, Joined, Membership,
    NewToken, Token, join,
};
use agent::tunnel::frame::Reason;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::sync::oneshot;

pub(crate) const DAY: u64 = 86_400;
const PATIENCE: Duration = Duration::from_secs(60);

/// A clock that a test moves on.
#[derive(Debug)]
pub(crate) struct Clock(AtomicU64);

impl Clock {
    pub(crate) fn new() -> Arc<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Arc::new(Self(AtomicU64::new(now.expect("after 1970").as_secs())))
    }

    pub(crate) fn advance(&self, seconds: u64) {
        // SeqCst: one number, and tests needn't be fast.
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = self.0.load(Ordering::SeqCst);
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// What became of a connection at the collector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// TLS wasn't agreed on; no byte of the other side's own has come.
    NoHandshake,
    /// `join`: the agent's name, or why not.
    Enrolment(Result<String, Reason>),
    /// A tunnel: the agent's name, or why not.
    Tunnel(Result<String, Reason>),
}

/// A collector that listens; ends with this.
pub(crate) struct Collector {
    pub(crate) state: TempDir,
    pub(crate) identity: CollectorIdentity,
    pub(crate) address: SocketAddr,
    pub(crate) clock: Arc<Clock>,
    outcomes: mpsc::Receiver<Outcome>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    pub(crate) fn start() -> Self {
        let state = tempfile::tempdir().expect("a directory");
        CollectorIdentity::init(state.path(), &[]).expect("an identity");
        let clock = Clock::new();
        let identity = CollectorIdentity::load_at(state.path(), Arc::clone(&clock) as _)
            .expect("the identity that was made");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        let address = listener.local_addr().expect("its address");
        let (outcome, outcomes) = mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let serving = identity.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("the listener");
                tokio::select! {
                    () = serve(listener, serving, outcome) => {}
                    _ = stopped => {}
                }
            });
        });
        Self {
            state,
            identity,
            address,
            clock,
            outcomes,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    pub(crate) fn administration(&self) -> Administration {
        Administration::open(self.state.path()).expect("the collector's state")
    }

    pub(crate) fn token(&self) -> Token {
        self.administration()
            .enroll(self.wanted())
            .expect("a token")
    }

    pub(crate) fn wanted(&self) -> NewToken {
        NewToken {
            addresses: vec![Address::new(
                &self.address.ip().to_string(),
                Some(self.address.port()),
            )],
            name: Some("web1".parse().expect("a name")),
            replaces: true,
            networks: Vec::new(),
            valid: Duration::from_secs(900),
        }
    }

    /// What became of the next connection.
    pub(crate) fn outcome(&self) -> Outcome {
        let outcome = self.outcomes.recv_timeout(PATIENCE);
        outcome.expect("the collector is done with a connection")
    }

    /// A host that has joined.
    pub(crate) fn host(&self) -> Host {
        let host = Host::new();
        host.join(&self.token()).expect("the host joins");
        assert_eq!(self.outcome(), Outcome::Enrolment(Ok("web1".into())));
        host
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: tokio::net::TcpListener,
    identity: CollectorIdentity,
    outcomes: mpsc::Sender<Outcome>,
) {
    loop {
        let Ok((tcp, peer)) = listener.accept().await else {
            return;
        };
        let (identity, outcomes) = (identity.clone(), outcomes.clone());
        tokio::spawn(async move {
            let config = identity.server_config().expect("a configuration");
            let acceptor = tokio_rustls::TlsAcceptor::from(config);
            let outcome = match acceptor.accept(tcp).await {
                Err(_) => Outcome::NoHandshake,
                Ok(stream)
                    if stream.get_ref().1.alpn_protocol() == Some(agent::identity::ENROL_ALPN) =>
                {
                    let enrolled = identity.serve_enrolment(stream, peer.ip()).await;
                    Outcome::Enrolment(
                        enrolled
                            .map(|agent| agent.name)
                            .map_err(|error| error.reason),
                    )
                }
                Ok(mut stream) => {
                    let admitted = identity.admit(stream.get_ref().1.peer_certificates());
                    let _ = stream.write_all(b"!").await;
                    let _ = stream.shutdown().await;
                    Outcome::Tunnel(admitted.map(|agent| agent.name))
                }
            };
            let _ = outcomes.send(outcome);
        });
    }
}

/// A host.
pub(crate) struct Host {
    pub(crate) state: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        Self {
            state: tempfile::tempdir().expect("a directory"),
        }
    }

    pub(crate) fn join(&self, token: &Token) -> Result<Joined, JoinError> {
        join(self.state.path(), &token.encode(), false)
    }

    pub(crate) fn membership(&self, clock: &Arc<Clock>) -> Membership {
        let identity = AgentIdentity::load_at(self.state.path(), Arc::clone(clock) as _);
        identity
            .expect("the host's identity")
            .membership("anything", 1)
            .expect("its only collector")
    }

    /// The certificate and the key that it keeps.
    pub(crate) fn credentials(&self) -> Credentials {
        let dir = self.state.path().join("joined");
        let entries = std::fs::read_dir(&dir).expect("what the host keeps");
        let mut paths = entries.map(|entry| entry.expect("an entry").path());
        let path = paths.find(|path| path.extension().is_some_and(|end| end == "toml"));
        let text = std::fs::read_to_string(path.expect("a membership")).expect("its text");
        let table: toml::Table = text.parse().expect("TOML");
        let field = |name: &str| table[name].as_str().expect("a text").to_owned();
        Credentials::from_pem(&field("certificate"), &field("key"))
    }
}

/// A certificate with its key.
pub(crate) struct Credentials {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Credentials {
    pub(crate) fn from_pem(certificate: &str, key: &str) -> Self {
        use rustls::pki_types::pem::PemObject;
        Self {
            chain: vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")],
            key: PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM"),
        }
    }

    pub(crate) fn read(dir: &Path, certificate: &str, key: &str) -> Self {
        let text = |name: &str| std::fs::read_to_string(dir.join(name)).expect("a file");
        Self::from_pem(&text(certificate), &text(key))
    }
}

/// A client that believes everybody and shows what it is given.
pub(crate) fn stranger(credentials: Option<Credentials>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(BelievesAll));
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(Credentials { chain, key }) => builder
            .with_client_auth_cert(chain, key)
            .expect("a certificate and its key"),
    };
    config.alpn_protocols = vec![agent::identity::TUNNEL_ALPN.to_vec()];
    Arc::new(config)
}

/// Connects, and hears the collector's answer.
pub(crate) fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let tcp = std::net::TcpStream::connect(address)?;
    tcp.set_read_timeout(Some(PATIENCE))?;
    let name = ServerName::try_from("collector").expect("a name");
    let tls = rustls::ClientConnection::new(config, name).map_err(std::io::Error::other)?;
    let mut answer = Vec::new();
    rustls::StreamOwned::new(tls, tcp).read_to_end(&mut answer)?;
    Ok(answer)
}

#[derive(Debug)]
struct BelievesAll;

impl ServerCertVerifier for BelievesAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![
            SignatureScheme::ECDSA_NISTP256_SHA256,
            SignatureScheme::ED25519,
        ]
    }
}
