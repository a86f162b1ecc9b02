#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! Connections whose application moves the records itself: what they do is what rustls' do, and the
//! recorder has each byte once, at its place.

mod common;

use std::io::{BufRead, ErrorKind, IoSlice, Read, Write};
use std::sync::Arc;

use common::{recorder, tls};
use mirror_hook::event::{Announcement, CloseReason, EarlyData, Role};
use rustls_mirror as rustls;

use rustls::client::Resumption;
use rustls::crypto::ring::kx_group::{SECP256R1, X25519};
use rustls::server::Acceptor;
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, ServerConfig, ServerConnection,
};

/// Both ends of a connection to `name`, before its handshake.
fn ends_of(
    name: &str,
    configs: &(Arc<ClientConfig>, Arc<ServerConfig>),
) -> (Connection, Connection) {
    let client = ClientConnection::new(Arc::clone(&configs.0), tls::name(name)).unwrap();
    let server = ServerConnection::new(Arc::clone(&configs.1)).unwrap();
    (client.into(), server.into())
}

fn ends(name: &str) -> (Connection, Connection) {
    ends_of(name, &tls::configs())
}

fn handshaken(name: &str) -> (Connection, Connection) {
    let (mut client, mut server) = ends(name);
    handshake(&mut client, &mut server);
    (client, server)
}

/// All the records that `from` has for `to`.
fn transfer(from: &mut Connection, to: &mut Connection) -> Result<(), rustls::Error> {
    let mut records = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut records).unwrap();
    }
    let mut records = &records[..];
    while !records.is_empty() {
        to.read_tls(&mut records).unwrap();
        to.process_new_packets()?;
    }
    Ok(())
}

fn handshake(client: &mut Connection, server: &mut Connection) {
    // A bound: a handshake has three flights, and a retry two more.
    for _ in 0..4 {
        transfer(client, server).unwrap();
        transfer(server, client).unwrap();
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
}

/// What can be read now.
fn read_all(connection: &mut Connection) -> Vec<u8> {
    let mut text = Vec::new();
    let end = connection.reader().read_to_end(&mut text);
    if let Err(error) = end {
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
    }
    text
}

fn as_client(connection: &mut Connection) -> &mut ClientConnection {
    connection.try_into().unwrap()
}

fn as_server(connection: &mut Connection) -> &mut ServerConnection {
    match connection {
        Connection::Server(server) => server,
        Connection::Client(_) => panic!("not a server"),
    }
}

#[test]
fn what_was_accepted_and_read_is_mirrored() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("plain");
    assert_eq!(client.writer().write(b"hello").unwrap(), 5);
    assert_eq!(
        client
            .writer()
            .write_vectored(&[
                IoSlice::new(b" vec"),
                IoSlice::new(b""),
                IoSlice::new(b"tors"),
            ])
            .unwrap(),
        8
    );
    client.writer().flush().unwrap();
    transfer(&mut client, &mut server).unwrap();
    let nothing_yet = recorder.session("plain", Role::Server);
    assert_eq!(nothing_yet.received(), b"");
    let mut some = [0; 3];
    server.reader().read_exact(&mut some).unwrap();
    assert_eq!(recorder.session("plain", Role::Server).received(), b"hel");
    assert_eq!(read_all(&mut server), b"lo vectors");
    // Nobody waits for the end to see what was said.
    assert_eq!(
        recorder.session("plain", Role::Client).sent(),
        b"hello vectors"
    );
    assert_eq!(
        recorder.session("plain", Role::Server).received(),
        b"hello vectors"
    );
    let meta = recorder.session("plain", Role::Client);
    let meta = meta.meta();
    assert_eq!(
        (meta.addresses, meta.announcement),
        (None, Announcement::New)
    );
    assert_eq!(
        meta.cipher,
        client
            .negotiated_cipher_suite()
            .map(|suite| suite.suite().into())
    );
}

#[test]
fn a_short_write_is_mirrored_as_short() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("short");
    client.set_buffer_limit(Some(10));
    let text = b"0123456789abcdef";
    let first = client.writer().write(text).unwrap();
    assert!(first < text.len());
    assert_eq!(client.writer().write(text).unwrap(), 0);
    transfer(&mut client, &mut server).unwrap();
    let second = client
        .writer()
        .write_vectored(&[
            IoSlice::new(&text[first..first + 1]),
            IoSlice::new(&text[first + 1..]),
        ])
        .unwrap();
    assert!(second > 0);
    transfer(&mut client, &mut server).unwrap();
    let said = &text[..first + second];
    assert_eq!(read_all(&mut server), said);
    assert_eq!(recorder.session("short", Role::Client).sent(), said);
    assert_eq!(recorder.session("short", Role::Server).received(), said);
}

#[test]
fn what_is_shown_is_mirrored_when_it_is_consumed() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("shown");
    client.writer().write_all(b"one line\nand more").unwrap();
    transfer(&mut client, &mut server).unwrap();
    let received = || recorder.session("shown", Role::Server).received().to_vec();
    assert_eq!(
        server.reader().into_first_chunk().unwrap(),
        b"one line\nand more"
    );
    assert_eq!(server.reader().fill_buf().unwrap(), b"one line\nand more");
    assert_eq!(received(), b"");
    server.reader().consume(4);
    assert_eq!(received(), b"one ");
    let mut line = String::new();
    server.reader().read_line(&mut line).unwrap();
    assert_eq!(
        (line.as_str(), received().as_slice()),
        ("line\n", &b"one line\n"[..])
    );
    server.reader().consume(0);
    assert_eq!(read_all(&mut server), b"and more");
    assert_eq!(received(), b"one line\nand more");
    let defect =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| server.reader().consume(1)));
    assert!(defect.is_err(), "rustls answers such a defect with a panic");
    assert_eq!(received(), b"one line\nand more");
}

#[test]
fn each_direction_ends_when_all_of_it_was_read() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("ends");
    client.writer().write_all(b"last words").unwrap();
    client.send_close_notify();
    // The peer has to ignore it.
    client.writer().write_all(b"behind the end").unwrap();
    transfer(&mut client, &mut server).unwrap();
    let ended = |role, reason| recorder.session("ends", role).ended_by(reason);
    assert!(ended(Role::Client, CloseReason::SentEnd));
    assert!(!ended(Role::Server, CloseReason::ReceivedEnd));
    let mut text = [0; 10];
    server.reader().read_exact(&mut text).unwrap();
    assert!(ended(Role::Server, CloseReason::ReceivedEnd));
    assert_eq!(server.reader().read(&mut text).unwrap(), 0);
    // The other half goes on.
    server.writer().write_all(b"an answer").unwrap();
    transfer(&mut server, &mut client).unwrap();
    assert_eq!(read_all(&mut client), b"an answer");
    drop((client, server));
    let (client, server) = (
        recorder.session("ends", Role::Client),
        recorder.session("ends", Role::Server),
    );
    assert_eq!(
        (client.sent(), client.received()),
        (&b"last words"[..], &b"an answer"[..])
    );
    assert_eq!(
        (server.sent(), server.received()),
        (&b"an answer"[..], &b"last words"[..])
    );
    assert_eq!(client.closes.last(), Some(&(CloseReason::Free, 10, 9)));
    assert_eq!(server.closes.last(), Some(&(CloseReason::Free, 9, 10)));
}

#[test]
fn a_transport_that_ends_without_close_notify_ends_the_stream() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("truncated");
    client.writer().write_all(b"half a").unwrap();
    transfer(&mut client, &mut server).unwrap();
    assert_eq!(server.read_tls(&mut &b""[..]).unwrap(), 0);
    server.process_new_packets().unwrap();
    let ended = || {
        recorder
            .session("truncated", Role::Server)
            .ended_by(CloseReason::ReceivedEnd)
    };
    assert!(!ended());
    let mut text = Vec::new();
    let error = server.reader().read_to_end(&mut text).unwrap_err();
    assert_eq!(
        (error.kind(), &text[..]),
        (ErrorKind::UnexpectedEof, &b"half a"[..])
    );
    assert!(ended());
    assert_eq!(
        recorder.session("truncated", Role::Server).received(),
        b"half a"
    );
}

#[test]
fn records_that_wait_are_read_behind_the_transports_end() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("waiting");
    client.writer().write_all(b"still there").unwrap();
    let mut records = Vec::new();
    client.write_tls(&mut records).unwrap();
    server.read_tls(&mut &records[..]).unwrap();
    assert_eq!(server.read_tls(&mut &b""[..]).unwrap(), 0);
    let error = server.reader().read(&mut [0; 20]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    server.process_new_packets().unwrap();
    let mut text = [0; 11];
    server.reader().read_exact(&mut text).unwrap();
    let recorded = recorder.session("waiting", Role::Server);
    assert_eq!(recorded.received(), b"still there");
    assert_eq!(recorded.closes, [(CloseReason::ReceivedEnd, 0, 11)]);
}

#[test]
fn a_fatal_error_aborts_behind_the_text_before_it() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("fatal");
    client.writer().write_all(b"good").unwrap();
    let mut records = Vec::new();
    client.write_tls(&mut records).unwrap();
    // A record that nobody encrypted.
    records.extend([23, 3, 3, 0, 20]);
    records.extend([0; 20]);
    server.read_tls(&mut &records[..]).unwrap();
    assert!(server.process_new_packets().is_err());
    let recorded = || recorder.session("fatal", Role::Server);
    assert!(!recorded().ended_by(CloseReason::Abort));
    assert_eq!(read_all(&mut server), b"good");
    assert!(recorded().ended_by(CloseReason::Abort));
    assert_eq!(recorded().received(), b"good");
    assert!(server.writer().write(b"too late").is_err());
    // The alert is the end of the other end.
    assert!(transfer(&mut server, &mut client).is_err());
    assert!(
        recorder
            .session("fatal", Role::Client)
            .ended_by(CloseReason::Abort)
    );
    drop((client, server));
    assert_eq!(recorded().closes.len(), 1);
}

#[test]
fn text_written_before_the_handshake_is_sent_behind_it() {
    let recorder = recorder::start();
    let (mut client, mut server) = ends("hasty");
    client.writer().write_all(b"hasty ").unwrap();
    let parts = [IoSlice::new(b"word"), IoSlice::new(b"s")];
    assert_eq!(client.writer().write_vectored(&parts).unwrap(), 5);
    assert!(recorder.sessions("hasty", Role::Client).is_empty());
    handshake(&mut client, &mut server);
    client.writer().write_all(b", and more").unwrap();
    transfer(&mut client, &mut server).unwrap();
    assert_eq!(read_all(&mut server), b"hasty words, and more");
    let recorded = recorder.session("hasty", Role::Client);
    assert_eq!(recorded.sent(), b"hasty words, and more");
    assert_eq!(recorded.metas().len(), 1);
    assert!(recorded.meta().handshake_done);
}

#[test]
fn text_whose_handshake_failed_was_never_sent() {
    let recorder = recorder::start();
    let (client_config, server_config) = tls::configs();
    // A name that the certificate doesn't cover.
    let name = rustls::pki_types::ServerName::try_from("failed.elsewhere.test").unwrap();
    let mut client = Connection::from(ClientConnection::new(client_config, name).unwrap());
    let mut server = Connection::from(ServerConnection::new(server_config).unwrap());
    client.writer().write_all(b"a secret").unwrap();
    transfer(&mut client, &mut server).unwrap();
    assert!(transfer(&mut server, &mut client).is_err());
    drop((client, server));
    assert!(recorder.sessions_to("failed.elsewhere.test").is_empty());
}

/// Configurations for 0-RTT data, with a session in the client's store.
fn early_configs(name: &str) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    early_configs_of(name, tls::server_config(tls::ring()))
}

/// The same with this server, otherwise.
fn early_configs_of(
    name: &str,
    mut server: ServerConfig,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let mut client = tls::client_config(tls::ring());
    client.enable_early_data = true;
    server.max_early_data_size = 1000;
    let configs = (Arc::new(client), Arc::new(server));
    let (mut client, mut server) = ends_of(name, &configs);
    handshake(&mut client, &mut server);
    configs
}

#[test]
fn early_data_is_the_beginning_of_the_stream() {
    let recorder = recorder::start();
    // The first connection's name is the session's.
    let configs = early_configs("zero");
    let (mut client, mut server) = ends_of("zero", &configs);
    let mut early = as_client(&mut client).early_data().unwrap();
    assert_eq!(early.bytes_left(), 1000);
    early.write_all(b"early ").unwrap();
    early.flush().unwrap();
    transfer(&mut client, &mut server).unwrap();
    let mut got = [0; 3];
    as_server(&mut server)
        .early_data()
        .unwrap()
        .read_exact(&mut got)
        .unwrap();
    assert_eq!(&got, b"ear");
    // In answer to what came early, before the handshake has ended.
    server.writer().write_all(b"soon").unwrap();
    handshake(&mut client, &mut server);
    assert!(as_client(&mut client).is_early_data_accepted());
    client.writer().write_all(b"late").unwrap();
    transfer(&mut client, &mut server).unwrap();
    // In whichever order the application reads, the stream has one.
    assert_eq!(read_all(&mut server), b"late");
    let mut rest = Vec::new();
    as_server(&mut server)
        .early_data()
        .unwrap()
        .read_to_end(&mut rest)
        .unwrap();
    assert_eq!(rest, b"ly ");
    assert_eq!(read_all(&mut client), b"soon");

    let client = recorder.sessions("zero", Role::Client).pop().unwrap();
    let server = recorder.sessions("zero", Role::Server).pop().unwrap();
    assert_eq!(
        (client.sent(), client.received()),
        (&b"early late"[..], &b"soon"[..])
    );
    assert_eq!(
        (server.sent(), server.received()),
        (&b"soon"[..], &b"early late"[..])
    );
    for recorded in [&client, &server] {
        assert_eq!(recorded.meta().early, EarlyData::Accepted);
        assert!(recorded.meta().handshake_done && recorded.meta().resumed);
    }
    assert_eq!(client.metas()[0].early, EarlyData::Pending);
    assert!(client.rejected.is_empty());
}

#[test]
fn an_answer_to_early_data_is_mirrored_when_it_is_sent() {
    let recorder = recorder::start();
    let mut config = tls::server_config(tls::ring());
    config.send_half_rtt_data = true;
    let configs = early_configs_of("prompt", config);
    let (mut client, mut server) = ends_of("prompt", &configs);
    let early = as_client(&mut client).early_data();
    early.unwrap().write_all(b"early").unwrap();
    transfer(&mut client, &mut server).unwrap();
    let mut got = [0; 5];
    let early = as_server(&mut server).early_data();
    early.unwrap().read_exact(&mut got).unwrap();
    server.writer().write_all(b"answer").unwrap();
    assert!(server.is_handshaking());
    let recorded = recorder.sessions("prompt", Role::Server).pop().unwrap();
    assert_eq!(
        (recorded.sent(), recorded.received()),
        (&b"answer"[..], &b"early"[..])
    );
    handshake(&mut client, &mut server);
    assert_eq!(read_all(&mut client), b"answer");
    let recorded = recorder.sessions("prompt", Role::Server).pop().unwrap();
    assert_eq!(
        (recorded.sent(), recorded.received()),
        (&b"answer"[..], &b"early"[..])
    );
    assert!(recorded.meta().handshake_done);
}

#[test]
fn early_data_that_was_rejected_doesnt_count() {
    let recorder = recorder::start();
    let configs = early_configs("refused");
    let (mut client, mut server) = ends_of("refused", &configs);
    client.writer().write_all(b"buffered, ").unwrap();
    as_client(&mut client)
        .early_data()
        .unwrap()
        .write_all(b"never read")
        .unwrap();
    as_server(&mut server).reject_early_data();
    handshake(&mut client, &mut server);
    assert!(!as_client(&mut client).is_early_data_accepted());
    client.writer().write_all(b"read").unwrap();
    transfer(&mut client, &mut server).unwrap();
    assert_eq!(read_all(&mut server), b"buffered, read");
    let recorded = recorder.sessions("refused", Role::Client).pop().unwrap();
    assert_eq!(recorded.rejected, b"never read");
    assert_eq!(recorded.sent(), b"buffered, read");
    assert_eq!(recorded.meta().early, EarlyData::Rejected);
    assert!(recorded.meta().handshake_done);
    let recorded = recorder.sessions("refused", Role::Server).pop().unwrap();
    assert_eq!(recorded.received(), b"buffered, read");
}

#[test]
fn a_resumed_session_says_so() {
    let recorder = recorder::start();
    let configs = tls::configs();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let (mut client, mut server) = ends_of("resumed", &configs);
        handshake(&mut client, &mut server);
        assert_eq!(client.handshake_kind(), Some(kind));
        for role in [Role::Client, Role::Server] {
            let recorded = recorder.sessions("resumed", role).pop().unwrap();
            assert_eq!(recorded.meta().resumed, kind == HandshakeKind::Resumed);
        }
    }
}

#[test]
fn tls12_is_mirrored() {
    let recorder = recorder::start();
    let mut config = tls::client_config_of(tls::ring(), &rustls::version::TLS12);
    config.alpn_protocols = vec![b"other".to_vec(), b"h2".to_vec()];
    let mut server_config = tls::server_config(tls::ring());
    server_config.alpn_protocols = vec![b"h2".to_vec()];
    let configs = (Arc::new(config), Arc::new(server_config));
    let (mut client, mut server) = ends_of("old", &configs);
    handshake(&mut client, &mut server);
    client.writer().write_all(b"older").unwrap();
    transfer(&mut client, &mut server).unwrap();
    assert_eq!(read_all(&mut server), b"older");
    for role in [Role::Client, Role::Server] {
        let recorded = recorder.session("old", role);
        let meta = recorded.meta();
        assert_eq!((meta.tls_version, meta.alpn), (Some(0x0303), &b"h2"[..]));
        assert!(meta.client_random.is_some() && meta.server_random.is_some());
    }
}

#[test]
fn a_retried_hello_has_the_randoms_of_the_wire() {
    let recorder = recorder::start();
    let with = |groups| {
        let mut provider = (*tls::ring()).clone();
        provider.kx_groups = groups;
        Arc::new(provider)
    };
    let mut client_config = tls::client_config(with(vec![X25519, SECP256R1]));
    client_config.resumption = Resumption::disabled();
    let server_config = tls::server_config(with(vec![SECP256R1]));
    let configs = (Arc::new(client_config), Arc::new(server_config));
    let (mut client, mut server) = ends_of("retried", &configs);
    let mut first = Vec::new();
    client.write_tls(&mut first).unwrap();
    let random: [u8; 32] = first[11..43].try_into().unwrap();
    server.read_tls(&mut &first[..]).unwrap();
    server.process_new_packets().unwrap();
    handshake(&mut client, &mut server);
    assert_eq!(
        client.handshake_kind(),
        Some(HandshakeKind::FullWithHelloRetryRequest)
    );
    let client = recorder.session("retried", Role::Client);
    let server = recorder.session("retried", Role::Server);
    assert_eq!(client.meta().client_random, Some(random));
    assert_eq!(server.meta().client_random, Some(random));
    assert!(client.meta().server_random.is_some());
    assert_eq!(client.meta().server_random, server.meta().server_random);
}

#[test]
fn keys_are_renewed_and_exported_as_ever() {
    let recorder = recorder::start();
    let (mut client, mut server) = handshaken("keys");
    let exported = |connection: &Connection| {
        connection
            .export_keying_material([0; 32], b"label", Some(b"context"))
            .unwrap()
    };
    assert_eq!(exported(&client), exported(&server));
    for round in 0..3_u8 {
        client.refresh_traffic_keys().unwrap();
        client.writer().write_all(&[round]).unwrap();
        transfer(&mut client, &mut server).unwrap();
        server.writer().write_all(&[round]).unwrap();
        transfer(&mut server, &mut client).unwrap();
        assert_eq!(
            (read_all(&mut server), read_all(&mut client)),
            (vec![round], vec![round])
        );
    }
    assert_eq!(recorder.session("keys", Role::Client).sent(), [0, 1, 2]);
    assert_eq!(recorder.session("keys", Role::Server).sent(), [0, 1, 2]);
}

#[test]
fn an_accepted_connection_is_mirrored() {
    let recorder = recorder::start();
    let (client_config, server_config) = tls::configs();
    let mut client =
        Connection::from(ClientConnection::new(client_config, tls::name("accepted")).unwrap());
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut acceptor = Acceptor::default();
    let accepted = hello
        .iter()
        .find_map(|byte| {
            acceptor.read_tls(&mut &[*byte][..]).unwrap();
            acceptor.accept().unwrap()
        })
        .unwrap();
    assert_eq!(
        accepted.client_hello().server_name(),
        Some("accepted.mirror.test")
    );
    assert!(acceptor.read_tls(&mut &b"more"[..]).is_err());
    let server = accepted.into_connection(server_config).unwrap();
    assert_eq!(server.server_name(), Some("accepted.mirror.test"));
    let mut server = Connection::from(server);
    handshake(&mut client, &mut server);
    server.writer().write_all(b"welcome").unwrap();
    transfer(&mut server, &mut client).unwrap();
    assert_eq!(read_all(&mut client), b"welcome");
    let recorded = recorder.session("accepted", Role::Server);
    assert_eq!(recorded.sent(), b"welcome");
    assert_eq!(
        recorded.meta().client_random,
        Some(hello[11..43].try_into().unwrap())
    );
}

#[test]
fn a_hello_that_isnt_one_gets_its_alert() {
    let mut acceptor = Acceptor::default();
    acceptor
        .read_tls(&mut &b"GET / HTTP/1.1\r\n\r\n"[..])
        .unwrap();
    let (_, mut alert) = acceptor.accept().unwrap_err();
    let mut sent = Vec::new();
    alert.write_all(&mut sent).unwrap();
    assert_eq!(sent.first(), Some(&21));
}

#[test]
fn addresses_can_be_told() {
    let recorder = recorder::start();
    let (mut client, mut server) = ends("told");
    let addresses = (
        "192.0.2.1:4000".parse().unwrap(),
        "192.0.2.2:443".parse().unwrap(),
    );
    client.mirror_addresses(addresses.0, addresses.1);
    handshake(&mut client, &mut server);
    server.mirror_addresses(addresses.1, addresses.0);
    let client = recorder.session("told", Role::Client);
    let server = recorder.session("told", Role::Server);
    assert_eq!(client.meta().addresses, Some(addresses));
    assert_eq!(server.meta().addresses, Some((addresses.1, addresses.0)));
    assert!(client.meta().addresses_told && server.meta().addresses_told);
}

#[test]
fn who_takes_the_secrets_out_leaves_the_mirror() {
    let recorder = recorder::start();
    let mut client_config = tls::client_config(tls::ring());
    client_config.enable_secret_extraction = true;
    let configs = (
        Arc::new(client_config),
        Arc::new(tls::server_config(tls::ring())),
    );
    let (mut client, mut server) = ends_of("extracted", &configs);
    handshake(&mut client, &mut server);
    client.writer().write_all(b"before").unwrap();
    transfer(&mut client, &mut server).unwrap();
    client.dangerous_extract_secrets().unwrap();
    let recorded = recorder.session("extracted", Role::Client);
    assert_eq!(recorded.sent(), b"before");
    assert!(recorded.is_closed());
    drop(server);
}

#[test]
fn what_its_provider_mirrors_isnt_mirrored_twice() {
    let recorder = recorder::start();
    let provider = Arc::new(rustls::mirrored((*tls::ring()).clone()));
    let client = Arc::new(tls::client_config(Arc::clone(&provider)));
    let server = Arc::new(tls::server_config(provider));
    let (mut client, mut server) = ends_of("twice", &(client, server));
    handshake(&mut client, &mut server);
    client.writer().write_all(b"once").unwrap();
    client.send_close_notify();
    transfer(&mut client, &mut server).unwrap();
    assert_eq!(read_all(&mut server), b"once");
    drop((client, server));
    // Each end's one session.
    assert_eq!(recorder.session("twice", Role::Client).sent(), b"once");
    assert_eq!(recorder.session("twice", Role::Server).received(), b"once");
}
