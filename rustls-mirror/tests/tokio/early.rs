//! 0-RTT data: accepted, rejected and sent again, more than the server takes.

use std::io::{Read, Write};
use std::sync::Arc;

use mirror_hook::event::{EarlyData, Role};
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::common::recorder::{self, Recorded};
use crate::common::tls;
use crate::support::{soon, text};

/// A server that takes this much 0-RTT data, and has no tickets of another.
fn acceptor(early_bytes: u32) -> TlsAcceptor {
    let mut config: ServerConfig = tls::server_config(tls::ring());
    config.max_early_data_size = early_bytes;
    Arc::new(config).into()
}

/// A connector that has been to `name` at this server, and is to be again.
async fn returning(name: &str, acceptor: &TlsAcceptor) -> TlsConnector {
    recorder::start();
    let mut config = tls::client_config(tls::ring());
    config.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(config));
    let (near, far) = duplex(10_000);
    let connect = connector.connect(tls::name(name), near);
    let (client, server) = soon("a handshake", async {
        tokio::join!(connect, acceptor.accept(far))
    })
    .await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    // Tickets come before text.
    server.write_all(b"text").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut [0; 4]).await.unwrap();
    connector
}

/// Sends `early` before the handshake of a second connection and `late` behind it; gives what the server
/// has read as either.
async fn said_early(
    name: &str,
    connector: TlsConnector,
    acceptor: &TlsAcceptor,
    early: &[u8],
    late: &[u8],
) -> (Vec<u8>, Vec<u8>) {
    let (near, far) = duplex(200_000);
    let connector = connector.early_data(true);
    let mut client = connector.connect(tls::name(name), near).await.unwrap();
    assert!(client.get_ref().1.is_handshaking());
    let saying = async {
        client.write_all(early).await.unwrap();
        client.flush().await.unwrap();
        client.write_all(late).await.unwrap();
        client.shutdown().await.unwrap();
    };
    let hearing = async {
        let mut server: server::TlsStream<DuplexStream> = acceptor.accept(far).await.unwrap();
        let mut heard_early = Vec::new();
        if let Some(mut reader) = server.get_mut().1.early_data() {
            reader.read_to_end(&mut heard_early).unwrap();
        }
        let mut heard = Vec::new();
        server.read_to_end(&mut heard).await.unwrap();
        (heard_early, heard)
    };
    let ((), heard) = soon("all text", async { tokio::join!(saying, hearing) }).await;
    heard
}

/// What the second connection to `name` said, as either role.
fn second(name: &str) -> (Recorded, Recorded) {
    let recorder = recorder::start();
    let [client, server] = [Role::Client, Role::Server].map(|role| {
        let mut sessions = recorder.sessions(name, role);
        assert_eq!(sessions.len(), 2);
        sessions.remove(1)
    });
    (client, server)
}

#[tokio::test]
async fn early_data_that_is_accepted() {
    let acceptor = acceptor(10_000);
    let connector = returning("accepted", &acceptor).await;
    let heard = said_early("accepted", connector, &acceptor, b"early, ", b"late").await;
    assert_eq!(heard, (b"early, ".to_vec(), b"late".to_vec()));
    let (by_client, by_server) = second("accepted");
    assert_eq!(by_client.sent(), b"early, late");
    assert_eq!(by_server.received(), b"early, late");
    let early: Vec<_> = by_client.metas().iter().map(|meta| meta.early).collect();
    assert_eq!(early, [EarlyData::Pending, EarlyData::Accepted]);
    assert!(by_client.meta().handshake_done && by_client.meta().resumed);
    assert_eq!(by_server.meta().early, EarlyData::Accepted);
    assert!(by_client.meta().client_random.is_some());
    assert_eq!(
        by_client.meta().client_random,
        by_server.meta().client_random
    );
}

#[tokio::test]
async fn early_data_that_is_rejected_is_sent_again() {
    let connector = returning("rejected", &acceptor(10_000)).await;
    // Another server, which doesn't know the ticket.
    let heard = said_early(
        "rejected",
        connector,
        &acceptor(10_000),
        b"early, ",
        b"late",
    )
    .await;
    assert_eq!(heard, (Vec::new(), b"early, late".to_vec()));
    let (by_client, by_server) = second("rejected");
    assert_eq!(by_client.rejected, b"early, ");
    assert_eq!(by_client.sent(), b"early, late");
    assert_eq!(by_server.received(), b"early, late");
    assert_eq!(by_client.meta().early, EarlyData::Rejected);
    assert!(by_client.meta().handshake_done && !by_client.meta().resumed);
    assert_eq!(by_server.meta().early, EarlyData::None);
}

#[tokio::test]
async fn more_than_the_server_takes_early() {
    for rejected in [false, true] {
        let name = format!("more-{rejected}");
        let first = acceptor(1000);
        let connector = returning(&name, &first).await;
        // What it passes over are records, longer than the text in them.
        let then = if rejected { acceptor(10_000) } else { first };
        let (early, late) = (text(1, 30_000), text(2, 100));
        let (heard_early, heard) = said_early(&name, connector, &then, &early, &late).await;
        assert_eq!(heard_early.len(), if rejected { 0 } else { 1000 });
        let truth = [heard_early, heard].concat();
        assert!(truth == [early, late].concat());
        let (by_client, by_server) = second(&name);
        assert!(by_client.sent() == truth && by_server.received() == truth);
        assert_eq!(by_client.rejected.len(), if rejected { 1000 } else { 0 });
    }
}

/// Written to the connection and not to the stream, it isn't sent again.
#[tokio::test]
async fn early_data_that_is_written_below() {
    let connector = returning("below-early", &acceptor(1000)).await;
    let acceptor = acceptor(1000);
    let (near, far) = duplex(10_000);
    let connect = connector.connect_with(tls::name("below-early"), near, |connection| {
        let mut writer = connection.early_data().unwrap();
        assert_eq!(writer.bytes_left(), 1000);
        writer.write_all(b"never read").unwrap();
    });
    let (client, server) = soon("a handshake", async {
        tokio::join!(connect, acceptor.accept(far))
    })
    .await;
    let mut client: client::TlsStream<_> = client.unwrap();
    let mut server = server.unwrap();
    client.write_all(b"read").await.unwrap();
    client.flush().await.unwrap();
    let mut heard = [0; 4];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"read");
    let (by_client, by_server) = second("below-early");
    assert_eq!(by_client.rejected, b"never read");
    assert_eq!(by_client.sent(), b"read");
    assert_eq!(by_server.received(), b"read");
}
