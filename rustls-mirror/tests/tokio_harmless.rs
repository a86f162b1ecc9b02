#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
#![allow(
    unsafe_code,
    reason = "the hook reads its settings from the environment, which the test has to set"
)]
//! Mirrored streams of tokio-rustls where no agent is there, where one reads nothing, and where it is gone.

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::recorder::Agent;
use common::tls;
use mirror_hook::event::{Body, Direction, Role};
use mirror_hook::hook;
use mirror_hook::ring::{Next, RecordBuffer};
use rustls_mirror::tokio::{TlsAcceptor, TlsConnector};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

const RING_BYTES: u64 = 256 * 1024;
const TEXT_BYTES: usize = 100_000;

/// A connection that says `TEXT_BYTES` each way; whatever the mirror does, all of it arrives.
async fn serve(connector: &TlsConnector, acceptor: &TlsAcceptor) {
    let (near, far) = duplex(10_000);
    let connect = connector.connect(tls::name("served"), near);
    let (client, server) = tokio::join!(connect, acceptor.accept(far));
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let (asked, answered) = (text(Direction::Sent), text(Direction::Received));
    let (mut at_client, mut at_server) = (Vec::new(), Vec::new());
    let conversation = async {
        tokio::join!(
            async {
                client.write_all(&asked).await.unwrap();
                client.shutdown().await.unwrap();
                client.read_to_end(&mut at_client).await.unwrap();
            },
            async {
                server.read_to_end(&mut at_server).await.unwrap();
                server.write_all(&answered).await.unwrap();
                server.shutdown().await.unwrap();
            }
        )
    };
    let patience = Duration::from_secs(60);
    tokio::time::timeout(patience, conversation)
        .await
        .expect("a whole conversation");
    assert!(at_server == asked && at_client == answered);
}

/// What the client sends, or receives: of no two places nearby alike.
fn text(direction: Direction) -> Vec<u8> {
    let factor: u32 = match direction {
        Direction::Sent => 2_654_435_761,
        Direction::Received => 2_246_822_519,
    };
    let place = |at: u32| at.wrapping_mul(factor).to_be_bytes()[0];
    (0..).map(place).take(TEXT_BYTES).collect()
}

#[tokio::test]
async fn the_service_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let uid = rustix::process::getuid().as_raw().to_string();
    let variables = [
        ("SSLCOLLECTOR_SOCKET", path.to_str().unwrap()),
        ("SSLCOLLECTOR_AGENT_UID", &uid),
        ("SSLCOLLECTOR_RING_BYTES", &RING_BYTES.to_string()),
    ];
    for (name, value) in variables {
        // SAFETY: the other threads of a test read the environment through std, which locks it.
        unsafe { std::env::set_var(name, value) };
    }
    let (client, server) = tls::configs();
    let (connector, acceptor) = (client.into(), server.into());

    // No agent.
    for _ in 0..5 {
        serve(&connector, &acceptor).await;
    }

    // One that is slow: it reads nothing until the ring is long full.
    let agent = Agent::listen(&path);
    let attached = AtomicBool::new(false);
    let mut ring = std::thread::scope(|scope| {
        scope.spawn(|| {
            // A process asks again after a while only; `accept` tells if it never did.
            for _ in 0..3000 {
                if attached.load(Ordering::Relaxed) {
                    return;
                }
                hook::handshake();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let ring = agent.accept(RING_BYTES);
        attached.store(true, Ordering::Relaxed);
        ring
    });
    for _ in 0..10 {
        serve(&connector, &acceptor).await;
    }
    let mut buffer = RecordBuffer::new();
    let mut roles = HashMap::new();
    let mut mirrored = 0;
    while let Next::Record(record) = ring.consumer.poll(&mut buffer).unwrap() {
        match Body::parse(record.kind, record.flags, record.body).unwrap() {
            Body::Open(meta) => {
                roles.insert(record.connection, meta.role);
            }
            Body::Data {
                direction,
                offset,
                bytes,
            } => {
                let of_client = match (roles[&record.connection], direction) {
                    (Role::Client, direction) => direction,
                    (Role::Server, Direction::Sent) => Direction::Received,
                    (Role::Server, Direction::Received) => Direction::Sent,
                };
                let from = usize::try_from(offset).unwrap();
                assert!(
                    text(of_client)[from..].starts_with(bytes),
                    "{of_client:?}, {offset}"
                );
                mirrored += bytes.len();
            }
            _ => {}
        }
    }
    assert!(
        mirrored > 100_000,
        "{mirrored} bytes in a ring that was empty"
    );
    assert!(mirrored < 10 * 4 * TEXT_BYTES, "the ring was never full");

    // One that is gone, with its socket.
    drop((ring, agent, directory));
    for _ in 0..10 {
        serve(&connector, &acceptor).await;
    }
}
