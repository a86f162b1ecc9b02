//! Connections below streams, as the application may have them.

use std::io::{BufRead, Read, Write};

use mirror_hook::event::{CloseReason, Role};
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio_rustls::rustls::ProtocolVersion;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::common::{recorder, tls};
use crate::support::{assert_exchanged, both_ends, connected, recorded, soon};

#[tokio::test]
async fn text_before_the_handshake() {
    let (connector, acceptor) = both_ends();
    let (near, far) = duplex(10_000);
    let connect = connector.connect_with(tls::name("before"), near, |connection| {
        connection.set_buffer_limit(Some(5));
        assert_eq!(connection.writer().write(b"early bird").unwrap(), 5);
        connection.set_buffer_limit(None);
        connection.writer().write_all(b" bird").unwrap();
        assert!(connection.is_handshaking());
    });
    let accept = acceptor.accept_with(far, |connection| {
        connection.writer().write_all(b"worm").unwrap();
        connection.set_resumption_data(b"of no interest");
    });
    let (client, server) = soon("a handshake", async { tokio::join!(connect, accept) }).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    let mut words = [0; 10];
    server.read_exact(&mut words).await.unwrap();
    assert_eq!(&words, b"early bird");
    client.read_exact(&mut words[..4]).await.unwrap();
    assert_eq!(&words[..4], b"worm");
    assert_exchanged("before", b"early bird", b"worm");
}

#[tokio::test]
async fn text_before_a_handshake_that_fails() {
    let (connector, _) = both_ends();
    let (near, far) = duplex(10_000);
    let connect = connector.connect_with(tls::name("never"), near, |connection| {
        connection.writer().write_all(b"never sent").unwrap();
    });
    drop(far);
    soon("an error", connect).await.unwrap_err();
    assert!(recorder::start().sessions("never", Role::Client).is_empty());
}

#[tokio::test]
async fn text_by_the_connection_below_a_stream() {
    let (mut client, mut server) = connected("below").await;
    client.get_mut().1.writer().write_all(b"by hand").unwrap();
    client.flush().await.unwrap();
    let mut one = [0];
    server.read_exact(&mut one).await.unwrap();
    let (_, mut connection) = server.get_mut();
    assert_eq!(connection.reader().fill_buf().unwrap(), b"y hand");
    assert_eq!(connection.reader().into_first_chunk().unwrap(), b"y hand");
    connection.reader().consume(1);
    let mut rest = [0; 10];
    assert_eq!(connection.reader().read(&mut rest).unwrap(), 5);
    connection.refresh_traffic_keys().unwrap();
    assert_eq!(connection.server_name(), Some("below.mirror.test"));
    let mut keys = [[0; 32]; 2];
    client
        .get_ref()
        .1
        .export_keying_material(&mut keys[0], b"test", None)
        .unwrap();
    connection
        .export_keying_material(&mut keys[1], b"test", None)
        .unwrap();
    assert_eq!(keys[0], keys[1]);
    assert_exchanged("below", b"by hand", b"");
    server.write_all(b"goes on").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut rest[..7]).await.unwrap();
    assert_exchanged("below", b"by hand", b"goes on");
}

#[tokio::test]
async fn a_connection_without_its_stream_stays_mirrored() {
    let (mut client, mut server) = connected("apart").await;
    client.write_all(b"together").await.unwrap();
    client.flush().await.unwrap();
    let (mut transport, mut connection) = client.into_inner();
    connection.writer().write_all(b", apart").unwrap();
    let mut records = Vec::new();
    connection.write_tls(&mut records).unwrap();
    transport.write_all(&records).await.unwrap();
    let mut heard = [0; 15];
    server.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"together, apart");
    server.write_all(b"yes").await.unwrap();
    server.flush().await.unwrap();
    let mut records = vec![0; 1000];
    let count = transport.read(&mut records).await.unwrap();
    connection.read_tls(&mut &records[..count]).unwrap();
    connection.process_new_packets().unwrap();
    let mut answer = [0; 3];
    connection.reader().read_exact(&mut answer).unwrap();
    assert_exchanged("apart", &heard, b"yes");
    assert!(!recorded("apart").0.is_closed());
    drop(connection);
    assert_eq!(recorded("apart").0.closes, [(CloseReason::Free, 15, 3)]);
}

#[tokio::test]
async fn protocols_of_a_connectors_own() {
    recorder::start();
    let mut server = tls::server_config(tls::ring());
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(std::sync::Arc::new(server));
    let connector = TlsConnector::from(tls::configs().0);
    assert!(connector.config().alpn_protocols.is_empty());
    assert_eq!(acceptor.config().alpn_protocols.len(), 2);
    let (near, far) = duplex(10_000);
    let connect = connector
        .with_alpn(vec![b"http/1.1".to_vec()])
        .connect(tls::name("protocols"), near);
    let (client, server) = soon("a handshake", async {
        tokio::join!(connect, acceptor.accept(far))
    })
    .await;
    let (client, server) = (client.unwrap(), server.unwrap());
    assert_eq!(client.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(
        server.get_ref().1.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
    let (by_client, by_server) = recorded("protocols");
    assert_eq!(
        (by_client.meta().alpn, by_server.meta().alpn),
        (&b"http/1.1"[..], &b"http/1.1"[..])
    );
}

#[tokio::test]
async fn addresses_that_the_application_tells() {
    let (mut client, _server) = connected("told").await;
    let (local, peer) = (
        "192.0.2.1:1000".parse().unwrap(),
        "192.0.2.2:443".parse().unwrap(),
    );
    assert_eq!(recorded("told").0.meta().addresses, None);
    client.mirror_addresses(local, peer);
    let meta = recorded("told").0;
    let meta = meta.meta();
    assert_eq!(
        (meta.addresses, meta.addresses_told),
        (Some((local, peer)), true)
    );
}
