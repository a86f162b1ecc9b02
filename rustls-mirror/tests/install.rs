#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! A wrapped provider mirrors what is made with it: the bytes that both ends exchanged, once, in order,
//! at their offsets, whatever the handshake was like.

mod common;

use std::io::{IoSlice, Read, Write};
use std::sync::Arc;

use common::memory::{Wire, read_all, write_all};
use common::recorder::{self, Recorded};
use common::tls;
use mirror_hook::event::{CloseReason, EarlyData, Role, Transport};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::server::ServerSessionMemoryCache;
use rustls::{
    CipherSuiteCommon, ClientConfig, HandshakeKind, ServerConfig, SignatureScheme,
    SupportedCipherSuite, Tls12CipherSuite,
};
use rustls_mirror::mirrored;

/// A mirrored provider with these suites only; empty: all.
fn provider(suites: &[rustls::SupportedCipherSuite]) -> Arc<CryptoProvider> {
    let mut base = default_provider();
    if !suites.is_empty() {
        base.cipher_suites = suites.to_vec();
    }
    Arc::new(mirrored(base))
}

fn configs() -> (ClientConfig, ServerConfig) {
    (
        tls::client_config(provider(&[])),
        tls::server_config(provider(&[])),
    )
}

/// Numbers that look random and are the same each time.
struct Sizes(u64);

impl Sizes {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        usize::try_from(self.0 >> 33).unwrap() % below
    }

    fn text(&mut self, below: usize) -> Vec<u8> {
        let length = self.next(below);
        let first = self.next(251);
        (first..first + length)
            .map(|at| u8::try_from(at % 251).unwrap())
            .collect()
    }
}

/// What each side has said.
#[derive(Default)]
struct Said {
    client: Vec<u8>,
    server: Vec<u8>,
}

/// Both talk, in pieces of many sizes; `between` is called between them.
fn talk(wire: &mut Wire, seed: u64, mut between: impl FnMut(&mut Wire, usize)) -> Said {
    let mut sizes = Sizes(seed);
    let mut said = Said::default();
    for round in 0..30 {
        let (one, other) = (sizes.text(3000), sizes.text(50_000));
        write_all(&mut wire.client, &one);
        said.client.extend(&one);
        let parts: Vec<_> = one.chunks(700).map(IoSlice::new).collect();
        let count = wire.client.writer().write_vectored(&parts).unwrap();
        said.client.extend(&one[..count]);
        between(wire, round);
        write_all(&mut wire.server, &other);
        said.server.extend(&other);
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        loop {
            let any = wire.step().unwrap();
            to_server.extend(read_all(&mut wire.server));
            to_client.extend(read_all(&mut wire.client));
            if !any {
                break;
            }
        }
        assert!(said.client.ends_with(&to_server) && said.server.ends_with(&to_client));
    }
    said
}

fn close(mut wire: Wire) {
    wire.client.send_close_notify();
    wire.settle().unwrap();
    wire.server.send_close_notify();
    wire.settle().unwrap();
}

/// The newest session of each role, which must carry what was said.
fn check(name: &str, said: &Said) -> (Recorded, Recorded) {
    let recorder = recorder::start();
    let client = recorder.sessions(name, Role::Client).pop().unwrap();
    let server = recorder.sessions(name, Role::Server).pop().unwrap();
    assert!(client.sent() == said.client, "{name}: what the client sent");
    assert!(
        server.received() == said.client,
        "{name}: what the server received"
    );
    assert!(server.sent() == said.server, "{name}: what the server sent");
    assert!(
        client.received() == said.server,
        "{name}: what the client received"
    );
    let (one, other) = (client.meta(), server.meta());
    assert!(one.handshake_done && other.handshake_done, "{name}");
    assert!(
        one.client_random.is_some() && one.server_random.is_some(),
        "{name}"
    );
    assert_eq!(one.client_random, other.client_random, "{name}");
    assert_eq!(one.server_random, other.server_random, "{name}");
    assert_eq!(
        (one.tls_version, one.cipher),
        (other.tls_version, other.cipher),
        "{name}"
    );
    assert_eq!(one.alpn, other.alpn, "{name}");
    assert_eq!(one.transport, Transport::Tcp);
    assert_eq!(rustls_mirror::unpaired(), 0, "{name}");
    (client, server)
}

/// The suite, with the signatures that the tests' certificate can make.
fn for_our_certificate(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let SupportedCipherSuite::Tls12(base) = suite else {
        return suite;
    };
    SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
        common: CipherSuiteCommon {
            suite: base.common.suite,
            hash_provider: base.common.hash_provider,
            confidentiality_limit: base.common.confidentiality_limit,
        },
        prf_provider: base.prf_provider,
        kx: base.kx,
        sign: &[SignatureScheme::ED25519],
        aead_alg: base.aead_alg,
    })))
}

#[test]
fn each_suite_of_each_version() {
    let recorder = recorder::start();
    let suites = default_provider().cipher_suites;
    for (at, suite) in suites.into_iter().map(for_our_certificate).enumerate() {
        let name = format!("suite{at}");
        let mut client = tls::client_config(provider(&[suite]));
        client.alpn_protocols = vec![b"h2".to_vec()];
        let mut server = tls::server_config(provider(&[suite]));
        server.alpn_protocols = vec![b"h2".to_vec()];
        let mut wire = Wire::connected(&Arc::new(client), &Arc::new(server), &name);
        let said = talk(&mut wire, at as u64, |_, _| ());
        close(wire);
        let (client, server) = check(&name, &said);
        let meta = client.meta();
        assert_eq!(meta.cipher, Some(suite.suite().into()));
        assert_eq!(meta.tls_version, Some(suite.version().version.into()));
        assert_eq!(meta.alpn, b"h2");
        assert!(!meta.resumed);
        for end in [client, server] {
            assert!(end.ended_by(CloseReason::SentEnd) && end.ended_by(CloseReason::ReceivedEnd));
            assert!(end.is_closed() && !end.ended_by(CloseReason::Abort));
        }
        assert_eq!(recorder.sessions(&name, Role::Client).len(), 1);
        assert_eq!(recorder.sessions(&name, Role::Server).len(), 1);
    }
}

/// One connection, with a talk and both ends closed.
fn session(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> (Recorded, Recorded) {
    let mut wire = Wire::connected(client, server, name);
    let said = talk(&mut wire, 7, |_, _| ());
    close(wire);
    check(name, &said)
}

#[test]
fn resumed_sessions() {
    recorder::start();
    for (version, tickets, ems) in [
        (&rustls::version::TLS12, false, true),
        (&rustls::version::TLS12, true, true),
        (&rustls::version::TLS12, true, false),
        (&rustls::version::TLS13, false, true),
        (&rustls::version::TLS13, true, true),
    ] {
        let name = format!("resumed-{:?}-{tickets}-{ems}", version.version).to_lowercase();
        let mut client = tls::client_config_of(provider(&[]), version);
        client.require_ems = ems;
        let mut server = tls::server_config(provider(&[]));
        if tickets {
            server.ticketer = rustls::crypto::ring::Ticketer::new().unwrap();
        } else {
            server.session_storage = ServerSessionMemoryCache::new(64);
        }
        let (client, server) = (Arc::new(client), Arc::new(server));
        for round in 0..3 {
            let (one, other) = session(&client, &server, &name);
            assert_eq!(one.meta().resumed, round != 0, "{name}");
            assert_eq!(other.meta().resumed, round != 0, "{name}");
            assert_eq!(one.meta().early, EarlyData::None);
        }
    }
}

/// Both ends with 0-RTT data, and a ticket for it.
fn early_configs(name: &str) -> (Arc<ClientConfig>, ServerConfig) {
    let (mut client, mut server) = configs();
    client.enable_early_data = true;
    server.max_early_data_size = 20_000;
    server.send_half_rtt_data = true;
    let client = Arc::new(client);
    session(&client, &Arc::new(server.clone()), name);
    (client, server)
}

/// A connection whose client begins with 0-RTT data.
fn begin_early(client: &Arc<ClientConfig>, server: ServerConfig, name: &str, text: &[u8]) -> Wire {
    let mut wire = Wire::new(client, &Arc::new(server), name);
    wire.client.early_data().unwrap().write_all(text).unwrap();
    wire
}

#[test]
fn accepted_early_data() {
    recorder::start();
    for length in [0, 1, 10_000] {
        let name = format!("early{length}");
        let (client, server) = early_configs(&name);
        let text = vec![b'e'; length];
        let mut wire = begin_early(&client, server, &name, &text);
        wire.settle().unwrap();
        assert!(wire.client.is_early_data_accepted());
        let mut early = Vec::new();
        if let Some(mut data) = wire.server.early_data() {
            data.read_to_end(&mut early).unwrap();
        }
        assert_eq!(early, text);
        let mut said = talk(&mut wire, 5, |_, _| ());
        said.client.splice(0..0, text);
        close(wire);
        let (client, server) = check(&name, &said);
        assert_eq!(client.meta().early, EarlyData::Accepted);
        assert_eq!(server.meta().early, EarlyData::Accepted);
        assert!(client.meta().resumed && client.rejected.is_empty());
    }
}

#[test]
fn rejected_early_data() {
    recorder::start();
    type Change = fn(&mut ServerConfig);
    let cases: [(&str, Change); 3] = [
        // The server resumes the session, and takes no early data.
        ("refused", |server| server.max_early_data_size = 0),
        // It doesn't know the ticket.
        ("unknown", |server| {
            server.session_storage = ServerSessionMemoryCache::new(64)
        }),
        // It asks for another key exchange first.
        ("retried", |server| {
            let mut provider = CryptoProvider::clone(server.crypto_provider());
            provider.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
            let mut retrying = tls::server_config(Arc::new(provider));
            retrying.session_storage = Arc::clone(&server.session_storage);
            *server = retrying;
        }),
    ];
    for (case, change) in cases {
        let name = format!("early-{case}");
        let (client, mut server) = early_configs(&name);
        change(&mut server);
        let mut wire = begin_early(&client, server, &name, b"said too early, to be said again");
        wire.settle().unwrap();
        assert!(!wire.client.is_early_data_accepted(), "{case}");
        let said = talk(&mut wire, 5, |_, _| ());
        close(wire);
        let (client, server) = check(&name, &said);
        assert_eq!(
            client.rejected, b"said too early, to be said again",
            "{case}"
        );
        assert_eq!(client.meta().early, EarlyData::Rejected, "{case}");
        assert!(server.rejected.is_empty(), "{case}");
        assert!(client.ended_by(CloseReason::SentEnd), "{case}");
    }
}

#[test]
fn a_retried_hello() {
    recorder::start();
    let (client, _) = configs();
    let mut base = default_provider();
    base.kx_groups = vec![rustls::crypto::ring::kx_group::SECP384R1];
    let server = tls::server_config(Arc::new(mirrored(base)));
    let mut wire = Wire::connected(&Arc::new(client), &Arc::new(server), "retried");
    assert_eq!(
        wire.client.handshake_kind(),
        Some(HandshakeKind::FullWithHelloRetryRequest)
    );
    let said = talk(&mut wire, 11, |_, _| ());
    close(wire);
    check("retried", &said);
}

#[test]
fn key_updates_of_both_sides() {
    recorder::start();
    let (client, server) = configs();
    let (client, server) = (Arc::new(client), Arc::new(server));
    let mut wire = Wire::connected(&client, &server, "updated");
    let said = talk(&mut wire, 13, |wire, round| match round % 4 {
        0 => wire.client.refresh_traffic_keys().unwrap(),
        1 => wire.server.refresh_traffic_keys().unwrap(),
        2 => {
            // Both at once, and twice.
            wire.client.refresh_traffic_keys().unwrap();
            wire.server.refresh_traffic_keys().unwrap();
            wire.client.refresh_traffic_keys().unwrap();
        }
        _ => {}
    });
    close(wire);
    check("updated", &said);
}

#[test]
fn exhausted_keys_are_replaced_in_the_middle_of_a_write() {
    recorder::start();
    let SupportedCipherSuite::Tls13(base) =
        rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256
    else {
        unreachable!()
    };
    let short = Box::leak(Box::new(rustls::Tls13CipherSuite {
        common: CipherSuiteCommon {
            suite: base.common.suite,
            hash_provider: base.common.hash_provider,
            confidentiality_limit: 10,
        },
        ..*base
    }));
    let provider = provider(&[SupportedCipherSuite::Tls13(short)]);
    let client = tls::client_config(Arc::clone(&provider));
    let server = tls::server_config(provider);
    let mut wire = Wire::connected(&Arc::new(client), &Arc::new(server), "exhausted");
    let said = talk(&mut wire, 17, |wire, _| wire.settle().unwrap());
    close(wire);
    check("exhausted", &said);
}

#[test]
fn fragments_of_any_size() {
    recorder::start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let name = format!("fragments-{:?}", version.version).to_lowercase();
        let mut client = tls::client_config_of(provider(&[]), version);
        client.max_fragment_size = Some(32);
        let mut server = tls::server_config(provider(&[]));
        server.max_fragment_size = Some(64);
        let mut wire = Wire::connected(&Arc::new(client), &Arc::new(server), &name);
        let said = talk(&mut wire, 19, |wire, round| {
            if round == 3 && version.version == rustls::ProtocolVersion::TLSv1_3 {
                wire.client.refresh_traffic_keys().unwrap();
            }
        });
        close(wire);
        check(&name, &said);
    }
}

#[test]
fn text_before_the_handshake_has_ended() {
    recorder::start();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let name = format!("buffered-{:?}", version.version).to_lowercase();
        let client = tls::client_config_of(provider(&[]), version);
        let mut server = tls::server_config(provider(&[]));
        server.send_half_rtt_data = true;
        let mut wire = Wire::new(&Arc::new(client), &Arc::new(server), &name);
        write_all(&mut wire.client, b"from the client");
        write_all(&mut wire.server, b"from the server");
        wire.settle().unwrap();
        assert_eq!(read_all(&mut wire.server), b"from the client");
        assert_eq!(read_all(&mut wire.client), b"from the server");
        close(wire);
        let said = Said {
            client: b"from the client".to_vec(),
            server: b"from the server".to_vec(),
        };
        check(&name, &said);
    }
}

#[test]
fn truncated_and_broken_connections() {
    let recorder = recorder::start();
    let (client, server) = configs();
    let (client, server) = (Arc::new(client), Arc::new(server));
    let mut wire = Wire::connected(&client, &server, "truncated");
    let said = talk(&mut wire, 23, |_, _| ());
    drop(wire);
    let (one, other) = check("truncated", &said);
    for end in [one, other] {
        assert!(end.is_closed() && !end.ended_by(CloseReason::Abort));
        assert!(!end.ended_by(CloseReason::SentEnd) && !end.ended_by(CloseReason::ReceivedEnd));
    }

    let mut wire = Wire::connected(&client, &server, "broken");
    let said = talk(&mut wire, 29, |_, _| ());
    write_all(&mut wire.client, b"this one is changed on its way");
    let mut bytes = wire.client_bytes();
    *bytes.last_mut().unwrap() ^= 1;
    wire.server.read_tls(&mut &bytes[..]).unwrap();
    wire.server.process_new_packets().unwrap_err();
    // The server's alert reaches the client.
    wire.settle().unwrap_err();
    drop(wire);
    let client = recorder.session("broken", Role::Client);
    let server = recorder.session("broken", Role::Server);
    assert!(server.received() == said.client && client.received() == said.server);
    assert!(client.sent().ends_with(b"changed on its way"));
    assert!(client.ended_by(CloseReason::Abort) && server.ended_by(CloseReason::Abort));
}

#[test]
fn what_follows_a_close_notify_is_ignored() {
    let recorder = recorder::start();
    let (client, server) = configs();
    let mut wire = Wire::connected(&Arc::new(client), &Arc::new(server), "closed");
    write_all(&mut wire.client, b"before");
    wire.settle().unwrap();
    wire.client.send_close_notify();
    write_all(&mut wire.client, b"behind");
    write_all(&mut wire.server, b"still answered");
    wire.settle().unwrap();
    assert_eq!(read_all(&mut wire.server), b"before");
    assert_eq!(read_all(&mut wire.client), b"still answered");
    let client = recorder.session("closed", Role::Client);
    assert_eq!(client.sent(), b"before");
    assert_eq!(client.received(), b"still answered");
    let server = recorder.session("closed", Role::Server);
    assert_eq!(server.received(), b"before");
}

#[test]
fn refused_handshakes_leave_nothing() {
    let recorder = recorder::start();
    let (client, server) = configs();
    let mut untrusting = ClientConfig::builder_with_provider(provider(&[]))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    untrusting.resumption = Resumption::disabled();
    let mut wire = Wire::new(&Arc::new(untrusting), &Arc::new(server), "untrusted");
    wire.settle().unwrap_err();
    drop(wire);
    drop(client);
    // Half-open ones of which no text has passed are nobody's business; no data in any case.
    for role in [Role::Client, Role::Server] {
        for session in recorder.sessions("untrusted", role) {
            assert!(session.sent().is_empty() && session.received().is_empty());
        }
    }
}

#[test]
fn wrapped_connections_with_a_wrapped_provider_are_mirrored_once() {
    let recorder = recorder::start();
    let (client, server) = configs();
    let mut client =
        rustls_mirror::ClientConnection::new(Arc::new(client), tls::name("twice")).unwrap();
    let mut server = rustls_mirror::ServerConnection::new(Arc::new(server)).unwrap();
    client.writer().write_all(b"once").unwrap();
    let mut text = Vec::new();
    while text.is_empty() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        client.write_tls(&mut there).unwrap();
        server.read_tls(&mut &there[..]).unwrap();
        server.process_new_packets().unwrap();
        while server.wants_write() {
            server.write_tls(&mut back).unwrap();
        }
        let mut back = &back[..];
        while !back.is_empty() {
            client.read_tls(&mut back).unwrap();
            client.process_new_packets().unwrap();
        }
        // Nothing there yet is no error here.
        let _nothing = server.reader().read_to_end(&mut text);
    }
    assert_eq!(text, b"once");
    assert_eq!(recorder.session("twice", Role::Client).sent(), b"once");
    assert_eq!(recorder.session("twice", Role::Server).received(), b"once");
}

/// The API without buffers, whose records don't go by the wrappers.
#[test]
fn unbuffered_connections() {
    use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};

    let recorder = recorder::start();
    let (client, server) = configs();
    let mut client =
        rustls::client::UnbufferedClientConnection::new(Arc::new(client), tls::name("unbuffered"))
            .unwrap();
    let mut wire = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    let (mut incoming, mut outgoing, mut answer) = (Vec::new(), Vec::new(), Vec::new());
    let mut asked = false;
    for _ in 0..100 {
        let UnbufferedStatus { discard, state } = client.process_tls_records(&mut incoming);
        let mut used = discard;
        match state.unwrap() {
            ConnectionState::EncodeTlsData(mut data) => {
                let mut buffer = vec![0; 20_000];
                match data.encode(&mut buffer) {
                    Ok(count) => outgoing.extend_from_slice(&buffer[..count]),
                    Err(EncodeError::AlreadyEncoded) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::WriteTraffic(mut traffic) if !asked => {
                let mut buffer = vec![0; 1000];
                let count = traffic.encrypt(b"a question", &mut buffer).unwrap();
                outgoing.extend_from_slice(&buffer[..count]);
                asked = true;
            }
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.unwrap();
                    used += record.discard;
                    answer.extend_from_slice(record.payload);
                }
            }
            _ => {}
        }
        incoming.drain(..used);
        let mut from_client = &outgoing[..];
        while !from_client.is_empty() {
            wire.read_tls(&mut from_client).unwrap();
            wire.process_new_packets().unwrap();
        }
        outgoing.clear();
        if read_all(&mut wire) == b"a question" {
            write_all(&mut wire, b"an answer");
        }
        while wire.wants_write() {
            wire.write_tls(&mut incoming).unwrap();
        }
        if answer == b"an answer" {
            break;
        }
    }
    assert_eq!(answer, b"an answer");
    let session = recorder.session("unbuffered", Role::Client);
    assert_eq!(session.sent(), b"a question");
    assert_eq!(session.received(), b"an answer");
    assert!(session.meta().handshake_done);
}
