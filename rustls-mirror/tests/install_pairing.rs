#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Whose a direction is, is never mistaken: handshakes that are interleaved, dropped, nested in one
//! another's callbacks, and moved between threads. Each text names its connection.

mod common;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use common::memory::{Wire, read_all, write_all};
use common::recorder;
use common::tls;
use mirror_hook::event::{Role, Transport};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error, KeyLog, ServerConfig, SignatureScheme, quic,
};
use rustls_mirror::mirrored;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

fn configs() -> (ClientConfig, ServerConfig) {
    let provider = Arc::new(mirrored(default_provider()));
    (
        tls::client_config(Arc::clone(&provider)),
        tls::server_config(provider),
    )
}

/// What connection `name` says in this direction.
fn text(name: &str, from: Role, round: usize) -> Vec<u8> {
    format!("[{name} {from:?} {round}]")
        .repeat(1 + round * 40)
        .into_bytes()
}

const ROUNDS: usize = 4;

fn whole_text(name: &str, from: Role) -> Vec<u8> {
    (0..ROUNDS)
        .flat_map(|round| text(name, from, round))
        .collect()
}

/// All sessions of this name and role carry the whole talk, and there are `count` of them.
fn check(name: &str, count: usize) {
    let recorder = recorder::start();
    for (role, peer) in [(Role::Client, Role::Server), (Role::Server, Role::Client)] {
        let sessions = recorder.sessions(name, role);
        let whole = sessions.iter().filter(|session| {
            session.sent() == whole_text(name, role) && session.received() == whole_text(name, peer)
        });
        assert_eq!(
            whole.count(),
            count,
            "{name} as {role:?}: {:?}",
            sessions
                .iter()
                .map(|s| (s.meta(), s.sent().len(), s.received().len(), &s.closes))
                .collect::<Vec<_>>()
        );
        // Those whose handshake was dropped have no text.
        let empty = sessions
            .iter()
            .filter(|session| session.sent().is_empty() && session.received().is_empty());
        assert_eq!(empty.count(), sessions.len() - count, "{name} as {role:?}");
    }
}

/// Lets a future be polled this often, and drops it then.
struct Polls<F>(Option<Pin<Box<F>>>, usize);

impl<F: Future> Future for Polls<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let left = self.1;
        self.1 = left.saturating_sub(1);
        match &mut self.0 {
            Some(future) if left != 0 => future.as_mut().poll(context).map(Some),
            future => {
                *future = None;
                Poll::Ready(None)
            }
        }
    }
}

/// Both ends of one connection, each in a task of its own; `polls`: how far the handshake comes.
async fn connection(
    client: TlsConnector,
    server: TlsAcceptor,
    name: String,
    polls: usize,
    update: bool,
) -> bool {
    let (near, far) = tokio::io::duplex(700);
    let serving = tokio::spawn(serve(server, far, name.clone(), update));
    let handshake = client.connect(tls::name(&name), near);
    let Some(stream) = Polls(Some(Box::pin(handshake)), polls).await else {
        serving.await.unwrap();
        return false;
    };
    let mut stream = stream.unwrap();
    for round in 0..ROUNDS {
        if update {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
        }
        stream
            .write_all(&text(&name, Role::Client, round))
            .await
            .unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
        let mut answer = text(&name, Role::Server, round);
        stream.read_exact(&mut answer).await.unwrap();
        assert!(answer == text(&name, Role::Server, round));
    }
    // The server may be gone already, as the client below.
    let _ended = stream.shutdown().await;
    drop(stream);
    serving.await.unwrap();
    true
}

async fn serve(server: TlsAcceptor, far: DuplexStream, name: String, update: bool) {
    let Ok(mut stream) = server.accept(far).await else {
        return;
    };
    for round in 0..ROUNDS {
        let mut question = text(&name, Role::Client, round);
        if stream.read_exact(&mut question).await.is_err() {
            assert_eq!(round, 0, "a handshake that was dropped at its end");
            return;
        }
        assert!(question == text(&name, Role::Client, round));
        if update {
            stream.get_mut().1.refresh_traffic_keys().unwrap();
        }
        stream
            .write_all(&text(&name, Role::Server, round))
            .await
            .unwrap();
        stream.flush().await.unwrap();
        tokio::task::yield_now().await;
    }
    // The client may be gone already.
    let _ended = stream.shutdown().await;
}

#[test]
fn thousands_of_tasks_that_migrate() {
    const TASKS: usize = 700;
    recorder::start();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(8)
        .build()
        .unwrap();
    let (client, server) = configs();
    let provider = Arc::clone(client.crypto_provider());
    let older = tls::client_config_of(provider, &rustls::version::TLS12);
    let newest = TlsConnector::from(Arc::new(client));
    let oldest = TlsConnector::from(Arc::new(older));
    let server = TlsAcceptor::from(Arc::new(server));
    let whole: Vec<usize> = runtime.block_on(async {
        let tasks: Vec<_> = (0..TASKS)
            .map(|task| {
                let name = format!("task{task}");
                let older = task % 3 == 0;
                let client = if older { &oldest } else { &newest }.clone();
                let server = server.clone();
                tokio::spawn(async move {
                    let mut whole = 0;
                    // The first of them is often dropped in its handshake, the third resumes the second.
                    for polls in [task % 7, usize::MAX, usize::MAX] {
                        let (client, server) = (client.clone(), server.clone());
                        let update = !older && task % 5 == 0;
                        let done = connection(client, server, name.clone(), polls, update).await;
                        whole += usize::from(done);
                    }
                    whole
                })
            })
            .collect();
        let mut whole = Vec::new();
        for task in tasks {
            whole.push(task.await.unwrap());
        }
        whole
    });
    assert!(whole.contains(&2), "no handshake was dropped");
    drop(runtime);
    for (task, count) in whole.into_iter().enumerate() {
        check(&format!("task{task}"), count);
    }
    assert_eq!(rustls_mirror::unpaired(), 0);
}

/// One connection in memory, by itself.
fn talk(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) {
    talk_on(&mut Wire::connected(client, server, name), name);
}

fn talk_on(wire: &mut Wire, name: &str) {
    for round in 0..ROUNDS {
        write_all(&mut wire.client, &text(name, Role::Client, round));
        wire.settle().unwrap();
        write_all(&mut wire.server, &text(name, Role::Server, round));
        wire.settle().unwrap();
        assert!(read_all(&mut wire.server) == text(name, Role::Client, round));
        assert!(read_all(&mut wire.client) == text(name, Role::Server, round));
    }
}

/// What an application may do where rustls calls it back in the middle of a handshake: handshakes of its
/// own, whole ones and begun ones, on the same thread.
#[derive(Debug)]
struct Meddler {
    verifier: Arc<WebPkiServerVerifier>,
    clients: Vec<Arc<ClientConfig>>,
    servers: Vec<Arc<ServerConfig>>,
    name: &'static str,
    calls: AtomicUsize,
    begun: Mutex<Vec<(String, Wire)>>,
}

impl Meddler {
    fn new(name: &'static str) -> Arc<Self> {
        let (client, server) = configs();
        let provider = Arc::clone(client.crypto_provider());
        let older = tls::client_config_of(Arc::clone(&provider), &rustls::version::TLS12);
        let mut retrying = CryptoProvider::clone(&provider);
        retrying.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
        Arc::new(Self {
            verifier: tls::verifier(provider),
            clients: vec![Arc::new(client), Arc::new(older)],
            servers: vec![
                Arc::new(server),
                Arc::new(tls::server_config(Arc::new(retrying))),
            ],
            name,
            calls: AtomicUsize::new(0),
            begun: Mutex::new(Vec::new()),
        })
    }

    fn meddle(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        for (at, (client, server)) in self.pairs().enumerate() {
            talk(client, server, &format!("{}-{call}-{at}", self.name));
            // The last of them is left where another stage of a handshake begins each time.
            for quarters in [call % 9, (call + 4) % 9] {
                let name = format!("{}-{call}-{at}-{quarters}", self.name);
                let mut wire = Wire::new(client, server, &name);
                wire.quarters(quarters);
                self.begun.lock().unwrap().push((name, wire));
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (&Arc<ClientConfig>, &Arc<ServerConfig>)> {
        let each = |client| self.servers.iter().map(move |server| (client, server));
        self.clients.iter().flat_map(each)
    }

    /// Ends what was begun, and looks at all of it.
    fn finish(&self) {
        for (name, mut wire) in self.begun.lock().unwrap().drain(..) {
            wire.settle().unwrap();
            talk_on(&mut wire, &name);
            check(&name, 1);
        }
        for call in 0..self.calls.load(Ordering::Relaxed) {
            for at in 0..self.pairs().count() {
                check(&format!("{}-{call}-{at}", self.name), 1);
            }
        }
    }
}

impl KeyLog for Meddler {
    fn log(&self, _label: &str, _client_random: &[u8], _secret: &[u8]) {
        self.meddle();
    }
}

impl ServerCertVerifier for Meddler {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.meddle();
        self.verifier
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.meddle();
        self.verifier.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.meddle();
        self.verifier.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[test]
fn handshakes_inside_a_verifier() {
    recorder::start();
    let (_, server) = configs();
    let server = Arc::new(server);
    for (name, version) in [
        ("verifier12", &rustls::version::TLS12),
        ("verifier13", &rustls::version::TLS13),
    ] {
        let meddler = Meddler::new(name);
        let provider = Arc::new(mirrored(default_provider()));
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&meddler) as _)
            .with_no_client_auth();
        talk(&Arc::new(client), &server, name);
        check(name, 1);
        assert_eq!(meddler.calls.load(Ordering::Relaxed), 2);
        meddler.finish();
    }
}

#[test]
fn handshakes_inside_a_key_log() {
    recorder::start();
    for (name, version) in [
        ("keylog12", &rustls::version::TLS12),
        ("keylog13", &rustls::version::TLS13),
    ] {
        for side in [Role::Client, Role::Server] {
            let name: &'static str = Box::leak(format!("{name}-{side:?}").to_lowercase().into());
            let meddler = Meddler::new(name);
            let (client, mut server) = configs();
            let mut client = tls::client_config_of(Arc::clone(client.crypto_provider()), version);
            client.enable_early_data = true;
            server.max_early_data_size = 1000;
            match side {
                Role::Client => client.key_log = Arc::clone(&meddler) as _,
                Role::Server => server.key_log = Arc::clone(&meddler) as _,
            }
            let (client, server) = (Arc::new(client), Arc::new(server));
            // The second is resumed; in TLS 1.3 both are asked for early data, which is of no interest here.
            talk(&client, &server, name);
            talk(&client, &server, name);
            check(name, 2);
            assert!(meddler.calls.load(Ordering::Relaxed) >= 2);
            meddler.finish();
        }
    }
    assert_eq!(rustls_mirror::unpaired(), 0);
}

#[test]
fn certificates_of_clients() {
    recorder::start();
    let provider = Arc::new(mirrored(default_provider()));
    let server = Arc::new(tls::demanding_config(Arc::clone(&provider)));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let name = format!("authenticated-{:?}", version.version).to_lowercase();
        let client = tls::authenticated(Arc::clone(&provider), version);
        let client = Arc::new(client);
        talk(&client, &server, &name);
        talk(&client, &server, &name);
        check(&name, 2);
    }
}

#[test]
fn secrets_that_are_taken_out_end_the_session() {
    let recorder = recorder::start();
    let (mut client, server) = configs();
    client.enable_secret_extraction = true;
    let (client, server) = (Arc::new(client), Arc::new(server));
    let mut wire = Wire::new(&client, &server, "ktls");
    wire.settle().unwrap();
    talk_on(&mut wire, "ktls");
    wire.client.dangerous_extract_secrets().unwrap();
    drop(wire.server);
    let session = recorder.session("ktls", Role::Client);
    assert!(session.sent() == whole_text("ktls", Role::Client));
    assert!(session.is_closed());
    check("ktls", 1);
}

/// Both ends of a QUIC handshake, which talk to each other until they have nothing to say.
#[test]
fn quic_is_recognised_and_left_alone() {
    let recorder = recorder::start();
    let provider = Arc::new(mirrored(default_provider()));
    let mut client = tls::client_config_of(Arc::clone(&provider), &rustls::version::TLS13);
    client.enable_early_data = true;
    let mut server = tls::server_config(provider);
    server.max_early_data_size = u32::MAX;
    let (client, server) = (Arc::new(client), Arc::new(server));
    for round in 0..2 {
        let params = b"parameters".to_vec();
        let version = quic::Version::V1;
        let mut one: quic::Connection = quic::ClientConnection::new(
            Arc::clone(&client),
            version,
            tls::name("quic"),
            params.clone(),
        )
        .unwrap()
        .into();
        let mut other: quic::Connection =
            quic::ServerConnection::new(Arc::clone(&server), version, params)
                .unwrap()
                .into();
        let mut keys: [Vec<quic::Keys>; 2] = Default::default();
        while one.is_handshaking() || other.is_handshaking() {
            pass(&mut one, &mut other, &mut keys[0]);
            pass(&mut other, &mut one, &mut keys[1]);
        }
        pass(&mut other, &mut one, &mut keys[1]);
        // What one seals the other opens: the keys came through as they are.
        let [near, far] = &keys;
        assert_eq!((near.len(), far.len()), (2, 2));
        for (near, far) in near.iter().zip(far) {
            let mut packet = b"a packet".to_vec();
            let tag = near
                .local
                .packet
                .encrypt_in_place(1, b"header", &mut packet)
                .unwrap();
            packet.extend_from_slice(tag.as_ref());
            let opened = far
                .remote
                .packet
                .decrypt_in_place(1, b"header", &mut packet)
                .unwrap();
            assert_eq!(opened, b"a packet");
        }
        drop((one, other));
        for role in [Role::Client, Role::Server] {
            let sessions = recorder.sessions("quic", role);
            assert_eq!(sessions.len(), round + 1, "{role:?}");
            let session = sessions.last().unwrap();
            assert_eq!(session.meta().transport, Transport::Quic, "{role:?}");
            assert!(session.meta().handshake_done && session.is_closed());
            assert!(session.sent().is_empty() && session.received().is_empty());
        }
    }
}

/// What `from` has to say, to the other; the keys that come with it.
fn pass(from: &mut quic::Connection, to: &mut quic::Connection, keys: &mut Vec<quic::Keys>) {
    loop {
        let mut bytes = Vec::new();
        let change = from.write_hs(&mut bytes);
        let silent = bytes.is_empty() && change.is_none();
        to.read_hs(&bytes).unwrap();
        match change {
            Some(quic::KeyChange::Handshake { keys: new }) => keys.push(new),
            Some(quic::KeyChange::OneRtt { keys: new, .. }) => keys.push(new),
            None => {}
        }
        if silent {
            return;
        }
    }
}
