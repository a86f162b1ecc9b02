//! The acceptor that sees the ClientHello before it has a configuration.

use std::io::ErrorKind;
use std::time::Duration;

use mirror_hook::event::Role;
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use crate::common::{recorder, tls};
use crate::support::{assert_exchanged, both_ends, recorded, soon};

#[tokio::test]
async fn a_configuration_chosen_by_name() {
    let (connector, acceptor) = both_ends();
    let (near, far) = duplex(10_000);
    let accept = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), far)
            .await
            .unwrap();
        assert_eq!(start.client_hello().server_name(), Some("lazy.mirror.test"));
        assert_eq!(
            start.accepted.client_hello().server_name(),
            Some("lazy.mirror.test")
        );
        let config = acceptor.config().clone();
        start
            .into_stream_with(config, |connection| connection.set_buffer_limit(Some(100)))
            .await
    };
    let connect = connector.connect(tls::name("lazy"), near);
    let (client, server) = soon("a handshake", async { tokio::join!(connect, accept) }).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    assert_eq!(server.write(&[7; 1000]).await.unwrap(), 1000);
    server.flush().await.unwrap();
    let mut heard = [0; 1000];
    client.read_exact(&mut heard).await.unwrap();
    assert_exchanged("lazy", b"", &[7; 1000]);
    let (by_client, by_server) = recorded("lazy");
    assert!(by_server.meta().client_random.is_some());
    assert_eq!(
        by_client.meta().client_random,
        by_server.meta().client_random
    );
    assert_eq!(
        by_client.meta().server_random,
        by_server.meta().server_random
    );
}

#[tokio::test]
async fn a_handshake_in_parts() {
    let (connector, acceptor) = both_ends();
    let (near, far) = duplex(10_000);
    let accept = async {
        // This crate's own acceptor will do as well.
        let acceptor_of_rustls = rustls_mirror::server::Acceptor::default();
        let start = LazyConfigAcceptor::new(acceptor_of_rustls, far)
            .await
            .unwrap();
        let StartHandshake { accepted, io, .. } = start;
        let start = StartHandshake::from_parts(accepted, io);
        start.into_stream(acceptor.config().clone()).await
    };
    let connect = connector.connect(tls::name("parts"), near);
    let (client, server) = soon("a handshake", async { tokio::join!(connect, accept) }).await;
    let (_client, _server) = (client.unwrap(), server.unwrap());
    assert!(recorded("parts").1.meta().client_random.is_some());
}

#[tokio::test]
async fn a_connection_without_a_name_it_knows_is_rejected() {
    let (connector, _) = both_ends();
    let (near, far) = duplex(10_000);
    let accept = async {
        let mut start = LazyConfigAcceptor::new(Acceptor::default(), far)
            .await
            .unwrap();
        assert_eq!(
            start.client_hello().server_name(),
            Some("refused.mirror.test")
        );
        // A fatal alert: unrecognized_name.
        start.io.write_all(&[21, 3, 3, 0, 2, 2, 112]).await.unwrap();
        drop(start);
    };
    let connect = connector.connect(tls::name("refused"), near);
    let (client, ()) = soon("a refusal", async { tokio::join!(connect, accept) }).await;
    assert_eq!(client.unwrap_err().kind(), ErrorKind::InvalidData);
    nothing_announced("refused");
}

#[tokio::test]
async fn a_configuration_that_doesnt_fit() {
    let (connector, acceptor) = both_ends();
    let mut config = tls::server_config(tls::ring());
    config.alpn_protocols = vec![b"other".to_vec()];
    assert!(acceptor.config().alpn_protocols.is_empty());
    let (near, far) = duplex(10_000);
    let accept = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), far)
            .await
            .unwrap();
        start
            .into_stream(std::sync::Arc::new(config))
            .into_fallible()
            .await
    };
    let connect = connector
        .with_alpn(vec![b"this".to_vec()])
        .connect(tls::name("unfit"), near);
    let (client, server) = soon("a refusal", async { tokio::join!(connect, accept) }).await;
    // The alert has been sent.
    assert_eq!(client.unwrap_err().kind(), ErrorKind::InvalidData);
    assert_eq!(server.unwrap_err().0.kind(), ErrorKind::InvalidData);
    nothing_announced("unfit");
}

#[tokio::test]
async fn no_hello_comes() {
    recorder::start();
    let (near, far) = duplex(10_000);
    drop(near);
    let acceptor = LazyConfigAcceptor::new(Acceptor::default(), far);
    let error = soon("an error", acceptor).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);

    // Not within the time that a server gives: it answers in the clear.
    let (mut near, far) = duplex(10_000);
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), far);
    let in_time = tokio::time::timeout(Duration::ZERO, &mut acceptor).await;
    in_time.unwrap_err();
    let mut far = acceptor.take_io().unwrap();
    assert!(acceptor.take_io().is_none());
    acceptor.await.unwrap_err();
    far.write_all(b"too late").await.unwrap();
    let mut answer = [0; 8];
    near.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"too late");
}

#[tokio::test]
async fn what_comes_isnt_a_hello() {
    recorder::start();
    let (mut near, far) = duplex(10_000);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut acceptor = LazyConfigAcceptor::new(Acceptor::default(), far);
    let error = soon("an error", &mut acceptor).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let mut far = acceptor.take_io().unwrap();
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    drop(far);
    let mut answer = Vec::new();
    near.read_to_end(&mut answer).await.unwrap();
    // An alert stands before it.
    assert!(answer.starts_with(&[21, 3]) && answer.ends_with(b"400 Bad Request\r\n\r\n"));
}

fn nothing_announced(name: &str) {
    let recorder = recorder::start();
    for role in [Role::Client, Role::Server] {
        assert!(recorder.sessions(name, role).is_empty());
    }
}
