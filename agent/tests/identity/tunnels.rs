//! Who comes in with which certificate.

use std::io::{Read, Write};
use std::sync::Arc;

use agent::identity::{AgentIdentity, CollectorIdentity, IdentityError, explain};
use agent::tunnel::frame::Reason;

use crate::world::{Collector, Credentials, DAY, Host, Outcome, connect, stranger};

fn came(collector: &Collector, credentials: Option<Credentials>) -> Outcome {
    // That the collector ends the connection at once may overtake its answer.
    let _ = connect(collector.address, stranger(credentials));
    collector.outcome()
}

fn refused(reason: Reason) -> Outcome {
    Outcome::Tunnel(Err(reason))
}

#[test]
fn who_joined_comes_in_and_nobody_else() {
    let collector = Collector::start();
    let host = collector.host();
    let config = host.membership(&collector.clock).client_config();
    assert_eq!(connect(collector.address, config).unwrap(), b"!");
    assert_eq!(collector.outcome(), Outcome::Tunnel(Ok("web1".into())));
    assert_eq!(came(&collector, None), refused(Reason::NoCertificate));

    // Another collector's agent.
    let other = Collector::start();
    let foreign = other.host().credentials();
    assert_eq!(
        came(&collector, Some(foreign)),
        refused(Reason::UnknownCertificate)
    );

    // Made by oneself, with the names of a real one.
    let key = rcgen::KeyPair::generate().unwrap();
    let made = rcgen::CertificateParams::default()
        .self_signed(&key)
        .unwrap();
    let made = Credentials::from_pem(&made.pem(), &key.serialize_pem());
    assert_eq!(
        came(&collector, Some(made)),
        refused(Reason::UnknownCertificate)
    );

    let refusals = collector.identity.refusals().snapshot();
    assert_eq!(refusals.get(&Reason::NoCertificate), Some(&1));
    assert_eq!(refusals.get(&Reason::UnknownCertificate), Some(&2));
}

#[test]
fn a_collectors_own_certificates_are_no_agents() {
    let collector = Collector::start();
    let dir = collector.state.path().join("collector");
    let authority = Credentials::read(&dir, "authority.pem", "authority.key");
    assert_eq!(
        came(&collector, Some(authority)),
        refused(Reason::UnknownCertificate)
    );

    // The server's certificate, as whoever connects sees it, with its stolen key.
    let mut tcp = std::net::TcpStream::connect(collector.address).unwrap();
    let name = "collector".try_into().unwrap();
    let mut tls = rustls::ClientConnection::new(stranger(None), name).unwrap();
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    stream.read_exact(&mut [0]).unwrap();
    let shown = tls.peer_certificates().unwrap()[0].clone().into_owned();
    assert_eq!(collector.outcome(), refused(Reason::NoCertificate));
    let server = Credentials {
        chain: vec![shown],
        ..Credentials::read(&dir, "authority.pem", "server.key")
    };
    assert_eq!(
        came(&collector, Some(server)),
        refused(Reason::UnknownCertificate)
    );
}

#[test]
fn an_agent_cannot_be_a_collector() {
    let collector = Collector::start();
    let (victim, thief) = (collector.host(), collector.host());
    let mut shown = thief.credentials();
    let authority = std::fs::read_to_string(collector.state.path().join("collector/authority.pem"));
    let authority = Credentials::from_pem(
        &authority.unwrap(),
        &rcgen::KeyPair::generate().unwrap().serialize_pem(),
    );
    shown.chain.extend(authority.chain);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(shown.chain, shown.key)
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
        let _ = stream.write_all(b"!");
    });
    let config = victim.membership(&collector.clock).client_config();
    let error = connect(address, config).unwrap_err();
    server.join().unwrap();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let why = explain(inner.expect("an error of TLS")).expect("of the certificate");
    assert!(why.contains("isn't good"), "{why}");
}

#[test]
fn an_agent_believes_only_the_collector_that_it_joined() {
    let (collector, other) = (Collector::start(), Collector::start());
    let host = collector.host();
    let config = host.membership(&collector.clock).client_config();
    let error = connect(other.address, config).unwrap_err();
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    let why = explain(inner.expect("an error of TLS")).expect("of the certificate");
    assert!(why.contains(&collector.identity.pin().to_string()), "{why}");
    assert_eq!(other.outcome(), Outcome::NoHandshake);
}

#[test]
fn who_is_revoked_stays_out() {
    let collector = Collector::start();
    let host = collector.host();
    let come = || came(&collector, Some(host.credentials()));
    assert_eq!(come(), Outcome::Tunnel(Ok("web1".into())));
    let chain = host.credentials().chain;
    let record = collector.identity.admit(Some(&chain)).unwrap();
    let administration = collector.administration();
    administration.limit("web1", Some(1_000_000)).unwrap();
    let networks = vec![agent::filter::network("10.0.0.0/8").unwrap()];
    administration.allow("web1", networks).unwrap();
    collector.identity.reload().unwrap();
    let current = collector.identity.current(&record).unwrap();
    assert_eq!(current.quota_bits_per_s, Some(1_000_000));
    assert!(current.allows("10.7.7.7".parse().unwrap()));
    administration.revoke("web1").unwrap();
    assert_eq!(
        come(),
        Outcome::Tunnel(Ok("web1".into())),
        "before the reload"
    );
    collector.identity.reload().unwrap();
    assert_eq!(collector.identity.current(&record), Err(Reason::Revoked));
    assert_eq!(come(), refused(Reason::Revoked));
    let error = administration.revoke("web1").unwrap_err();
    assert!(matches!(error, IdentityError::NoAgent(_)), "{error}");
    // The name is free again, and another key has it; the old one stays out.
    let _new = collector.host();
    assert_eq!(come(), refused(Reason::Revoked));
}

#[test]
fn a_key_that_nobody_enrolled_stays_out_whoever_signed_it() {
    let collector = Collector::start();
    let host = collector.host();
    std::fs::remove_file(collector.state.path().join("collector/registry.toml")).unwrap();
    collector.identity.reload().unwrap();
    let outcome = came(&collector, Some(host.credentials()));
    assert_eq!(outcome, refused(Reason::UnknownCertificate));
}

#[test]
fn certificates_are_renewed_and_run_out() {
    let collector = Collector::start();
    let host = collector.host();
    let membership = host.membership(&collector.clock);
    let old = host.credentials();
    let old_chain = old.chain.clone();
    assert!(!membership.renewal_due(collector.clock.now()));
    collector.clock.advance(40 * DAY);
    assert!(membership.renewal_due(collector.clock.now()));
    let record = collector.identity.admit(Some(&old_chain)).unwrap();
    let request = membership.renewal_request().unwrap();
    let renewed = collector.identity.sign_renewal(&request, &record).unwrap();
    membership.store_renewed(&renewed).unwrap();
    assert!(!membership.renewal_due(collector.clock.now()));
    let error = membership.store_renewed(&old_chain[0]).unwrap_err();
    assert!(matches!(error, IdentityError::BadCertificate(_)), "{error}");

    collector.clock.advance(60 * DAY);
    assert_eq!(came(&collector, Some(old)), refused(Reason::Expired));
    // Also the collector's own certificate would have run out meanwhile: it has a new one.
    for membership in [membership, host.membership(&collector.clock)] {
        assert_eq!(
            connect(collector.address, membership.client_config()).unwrap(),
            b"!"
        );
        assert_eq!(collector.outcome(), Outcome::Tunnel(Ok("web1".into())));
    }
}

#[test]
fn a_renewal_is_for_ones_own_key() {
    let collector = Collector::start();
    let (first, second) = (collector.host(), collector.host());
    let record = collector
        .identity
        .admit(Some(&second.credentials().chain))
        .unwrap();
    let request = first
        .membership(&collector.clock)
        .renewal_request()
        .unwrap();
    let error = collector
        .identity
        .sign_renewal(&request, &record)
        .unwrap_err();
    assert_eq!(error.reason, Reason::Malformed);
    let error = collector.identity.sign_renewal(b"", &record).unwrap_err();
    assert_eq!(error.reason, Reason::Malformed);
    collector.administration().revoke("web1").unwrap();
    let request = second
        .membership(&collector.clock)
        .renewal_request()
        .unwrap();
    let error = collector
        .identity
        .sign_renewal(&request, &record)
        .unwrap_err();
    assert_eq!(error.reason, Reason::Revoked);
}

#[test]
fn a_new_server_key_changes_nothing_for_agents() {
    let collector = Collector::start();
    let host = collector.host();
    let connects = || {
        let config = host.membership(&collector.clock).client_config();
        assert_eq!(connect(collector.address, config).unwrap(), b"!");
        assert_eq!(collector.outcome(), Outcome::Tunnel(Ok("web1".into())));
    };
    let key = || std::fs::read(collector.state.path().join("collector/server.key")).unwrap();
    let before = key();
    connects();
    CollectorIdentity::rotate(collector.state.path()).unwrap();
    assert_ne!(before, key());
    connects();
    collector.identity.reload().unwrap();
    connects();
}

#[test]
fn without_a_membership_the_two_commands_are_named() {
    let empty = Host::new();
    let identity = AgentIdentity::load(empty.state.path()).unwrap();
    let error = identity.membership("sensor", 7833).unwrap_err().to_string();
    assert!(error.contains("sslcollector enroll"), "{error}");
    assert!(error.contains("sslcollector join TOKEN"), "{error}");
    // With two, a third one's name isn't either of them.
    let (a, b) = (Collector::start(), Collector::start());
    empty.join(&a.token()).unwrap();
    empty.join(&b.token()).unwrap();
    let identity = AgentIdentity::load(empty.state.path()).unwrap();
    assert!(identity.membership("sensor", 7833).is_err());
    let found = identity.membership("127.0.0.1", b.address.port()).unwrap();
    assert_eq!(found.pin(), b.identity.pin());
}
