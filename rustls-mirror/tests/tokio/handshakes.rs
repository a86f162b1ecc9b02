//! Handshakes, good and bad, and what is known behind them.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use mirror_hook::event::{CloseReason, EarlyData, Role, Transport};
use rustls_mirror::tokio as tokio_rustls;
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::common::recorder;
use crate::common::tls;
use crate::support::{assert_exchanged, both_ends, connected_on, recorded, soon};

#[tokio::test]
async fn a_connection_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let near = near.unwrap();
    let near_address = near.local_addr().unwrap();
    let near_fd = near.as_raw_fd();
    let (mut client, mut server) = connected_on("tcp", near, far.unwrap().0).await;
    assert_eq!(client.as_raw_fd(), near_fd);

    client.write_all(b"a question").await.unwrap();
    client.flush().await.unwrap();
    let mut asked = [0; 10];
    server.read_exact(&mut asked).await.unwrap();
    server.write_all(b"an answer").await.unwrap();
    server.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(
        (&asked[..], &answer[..]),
        (&b"a question"[..], &b"an answer"[..])
    );
    assert_exchanged("tcp", b"a question", b"an answer");

    let (by_client, by_server) = recorded("tcp");
    assert!(by_server.ended_by(CloseReason::SentEnd) && !by_server.is_closed());
    assert!(by_client.ended_by(CloseReason::ReceivedEnd) && !by_client.is_closed());
    for (recorded, addresses) in [
        (&by_client, (near_address, address)),
        (&by_server, (address, near_address)),
    ] {
        // All of it from the beginning.
        assert_eq!(recorded.metas().len(), 1);
        let meta = recorded.meta();
        assert_eq!(
            (meta.addresses, meta.addresses_told),
            (Some(addresses), false)
        );
        assert!(meta.cookies.is_some() && meta.handshake_done && !meta.resumed);
        assert_eq!(
            (meta.transport, meta.early),
            (Transport::Tcp, EarlyData::None)
        );
        assert_eq!(
            (meta.tls_version, meta.sni),
            (Some(0x0304), &b"tcp.mirror.test"[..])
        );
    }
    let (of_client, of_server) = (by_client.meta(), by_server.meta());
    assert!(of_client.client_random.is_some() && of_client.server_random.is_some());
    assert_eq!(of_client.client_random, of_server.client_random);
    assert_eq!(of_client.server_random, of_server.server_random);
    assert_eq!(of_client.cipher, of_server.cipher);
    let (read, written) = of_client.wire_counts.unwrap();
    assert!(read > 500 && written > 200, "{read}, {written}");

    drop(client);
    drop(server);
    let (by_client, by_server) = recorded("tcp");
    for (recorded, sent, received) in [(by_client, 10, 9), (by_server, 9, 10)] {
        assert_eq!(
            recorded.closes.last(),
            Some(&(CloseReason::Free, sent, received))
        );
    }
}

#[tokio::test]
async fn the_unified_stream_is_mirrored() {
    let (client, server) = duplex(10_000);
    let (client, server) = connected_on("unified", client, server).await;
    let mut ends = [TlsStream::from(client), TlsStream::from(server)];
    for (at, name) in [(0, b"one"), (1, b"two")] {
        ends[at].write_all(name).await.unwrap();
        ends[at].flush().await.unwrap();
        let mut read = [0; 3];
        ends[1 - at].read_exact(&mut read).await.unwrap();
        assert_eq!(&read, name);
    }
    assert!(ends[0].get_ref().1.protocol_version().is_some());
    ends[1].get_mut().1.send_close_notify();
    ends[1].shutdown().await.unwrap();
    assert_eq!(ends[0].read(&mut [0]).await.unwrap(), 0);
    assert_exchanged("unified", b"one", b"two");
}

#[tokio::test]
async fn a_certificate_that_isnt_trusted() {
    let (_, acceptor) = both_ends();
    let distrustful = ClientConfig::builder_with_provider(tls::ring())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(distrustful));
    let (near, far) = duplex(10_000);
    let connect = connector.connect(tls::name("distrust"), near);
    assert!(connect.get_ref().is_some());
    let (client, server) = soon("a handshake's end", async {
        tokio::join!(
            connect.into_fallible(),
            acceptor.accept(far).into_fallible()
        )
    })
    .await;
    // Both give back their transports, which still are connected.
    let (error, mut near) = client.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    let (error, mut far) = server.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData);
    near.write_all(b"in the clear").await.unwrap();
    let mut clear = [0; 12];
    far.read_exact(&mut clear).await.unwrap();
    assert_eq!(&clear, b"in the clear");
    nothing_announced("distrust");
}

#[tokio::test]
async fn the_peer_goes_away_in_the_handshake() {
    let (connector, acceptor) = both_ends();
    for at_client in [true, false] {
        let (near, far) = duplex(10_000);
        let kind = if at_client {
            drop(far);
            let result = soon("an error", connector.connect(tls::name("gone"), near)).await;
            result.map(drop).unwrap_err().kind()
        } else {
            drop(near);
            let result = soon("an error", acceptor.accept(far)).await;
            result.map(drop).unwrap_err().kind()
        };
        let expected = [ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];
        assert!(expected.contains(&kind), "{kind}");
    }
    nothing_announced("gone");
}

#[tokio::test]
async fn a_handshake_that_is_cancelled() {
    let (connector, _) = both_ends();
    let (near, mut far) = duplex(10_000);
    let mut hello = [0; 100];
    let mut connect = connector.connect(tls::name("cancelled"), near);
    tokio::select! {
        biased;
        _ = &mut connect => panic!("nobody answered"),
        read = far.read_exact(&mut hello) => assert_eq!(read.unwrap(), 100),
    }
    assert!(connect.get_mut().is_some());
    drop(connect);
    nothing_announced("cancelled");
}

/// A provider that mirrors does so below these streams, too: they leave it to do so.
#[tokio::test]
async fn a_connection_that_its_provider_mirrors() {
    recorder::start();
    let provider = Arc::new(rustls_mirror::mirrored((*tls::ring()).clone()));
    let connector = TlsConnector::from(Arc::new(tls::client_config(provider.clone())));
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(provider)));
    let (near, far) = duplex(10_000);
    let connect = connector.connect(tls::name("provider"), near);
    let accept = async {
        let hello = tokio_rustls::rustls::server::Acceptor::default();
        let start = tokio_rustls::LazyConfigAcceptor::new(hello, far).await?;
        start.into_stream(acceptor.config().clone()).await
    };
    let (client, server) = soon("a handshake", async { tokio::join!(connect, accept) }).await;
    let (mut client, mut server) = (client.unwrap(), server.unwrap());
    client.write_all(b"once").await.unwrap();
    client.shutdown().await.unwrap();
    let mut heard = Vec::new();
    server.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"once");
    // There is one session of each role.
    assert_exchanged("provider", b"once", b"");
}

fn nothing_announced(name: &str) {
    let recorder = recorder::start();
    for role in [Role::Client, Role::Server] {
        assert!(recorder.sessions(name, role).is_empty());
    }
}

/// Everything may go where tokio-rustls' own may.
#[test]
fn types_are_as_free_as_the_bare_ones() {
    fn free<T: Send + Sync + Unpin + 'static>() {}
    free::<TlsConnector>();
    free::<TlsAcceptor>();
    free::<tokio_rustls::Connect<TcpStream>>();
    free::<tokio_rustls::FallibleConnect<TcpStream>>();
    free::<tokio_rustls::Accept<TcpStream>>();
    free::<tokio_rustls::FallibleAccept<TcpStream>>();
    free::<tokio_rustls::client::TlsStream<TcpStream>>();
    free::<tokio_rustls::server::TlsStream<TcpStream>>();
    free::<TlsStream<TcpStream>>();
    free::<tokio_rustls::LazyConfigAcceptor<TcpStream>>();
    free::<tokio_rustls::StartHandshake<TcpStream>>();
}
