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
use mirror_hook::event::{EarlyData, Role, Transport};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error, KeyLog, ServerConfig,
    ServerConnection, SignatureScheme, quic,
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
    assert!(
        whole.iter().any(|count| *count == 2),
        "no handshake was dropped"
    );
    drop(runtime);
    for (task, count) in whole.into_iter().enumerate() {
        check(&format!("task{task}"), count);
    }
    assert_eq!(rustls_mirror::unpaired(), 0);
}

/// One connection in memory, by itself.
fn talk(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>, name: &str) {
    let mut wire = Wire::connected(client, server, name);
    for round in 0..ROUNDS {
        write_all(&mut wire.client, &text(name, Role::Client, round));
        wire.settle().unwrap();
        write_all(&mut wire.server, &text(name, Role::Server, round));
        wire.settle().unwrap();
        assert!(read_all(&mut wire.server) == text(name, Role::Client, round));
        assert!(read_all(&mut wire.client) == text(name, Role::Server, round));
    }
}
