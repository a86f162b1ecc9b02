//! Both ends of a connection, and how they are compared with what was mirrored.

use std::time::Duration;

use mirror_hook::event::Role;
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::common::recorder::{self, Recorded};
use crate::common::tls;

/// How long a test waits for what has to come.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for `future`, which is `what`.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} never came"),
    }
}

/// A connector and an acceptor that trust each other. The recorder is there.
pub(crate) fn both_ends() -> (TlsConnector, TlsAcceptor) {
    recorder::start();
    let (client, server) = tls::configs();
    (client.into(), server.into())
}

/// A connection to `name` on these transports.
pub(crate) async fn connected_on<C, S>(
    name: &str,
    client: C,
    server: S,
) -> (client::TlsStream<C>, server::TlsStream<S>)
where
    C: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (connector, acceptor) = both_ends();
    let connect = connector.connect(tls::name(name), client);
    let (client, server) = soon("a handshake", async {
        tokio::join!(connect, acceptor.accept(server))
    })
    .await;
    (client.unwrap(), server.unwrap())
}

/// The same in memory.
pub(crate) async fn connected(
    name: &str,
) -> (
    client::TlsStream<DuplexStream>,
    server::TlsStream<DuplexStream>,
) {
    let (client, server) = tokio::io::duplex(100_000);
    connected_on(name, client, server).await
}

/// What the ends of the one connection to `name` have said.
pub(crate) fn recorded(name: &str) -> (Recorded, Recorded) {
    let recorder = recorder::start();
    (
        recorder.session(name, Role::Client),
        recorder.session(name, Role::Server),
    )
}

/// Compares what was mirrored at both ends of `name` with what they have exchanged.
pub(crate) fn assert_exchanged(name: &str, by_client: &[u8], by_server: &[u8]) {
    let (client, server) = recorded(name);
    for (what, mirrored, exchanged) in [
        ("sent by the client", client.sent(), by_client),
        ("received by the server", server.received(), by_client),
        ("sent by the server", server.sent(), by_server),
        ("received by the client", client.received(), by_server),
    ] {
        assert_eq!(mirrored.len(), exchanged.len(), "{what}: {name}");
        assert!(mirrored == exchanged, "{what}: {name}");
    }
}

/// Text of which no two places nearby are alike; `seed` tells texts apart.
pub(crate) fn text(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes())
        .flatten()
        .take(length)
        .collect()
}

/// Numbers that are the same in each run (splitmix64).
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of 0 to `limit` - 1.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}
