#![allow(clippy::unwrap_used, reason = "a test stops at what it doesn't expect")]
//! The one line at a program's start, where no agent is: everything goes on.

mod common;

use std::sync::Arc;

use common::memory::{Wire, read_all, write_all};
use common::tls;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use rustls_mirror::{InstallError, install, mirrored};

/// One test: a process has one default.
#[test]
fn a_process_has_one_default() {
    assert!(CryptoProvider::get_default().is_none());
    install(default_provider()).unwrap();
    let again = install(default_provider());
    assert_eq!(again, Err(InstallError::DefaultExists));
    assert!(again.unwrap_err().to_string().contains("default"));

    // What chooses no provider has it.
    let config = ClientConfig::builder()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    let default = CryptoProvider::get_default().unwrap();
    assert!(Arc::ptr_eq(config.crypto_provider(), default));

    // All is as in the provider that was given, but for the suites, which are others of the same names.
    let base = default_provider();
    let suites = |provider: &CryptoProvider| {
        let suites = provider.cipher_suites.iter();
        suites.map(|suite| suite.suite()).collect::<Vec<_>>()
    };
    assert_eq!(suites(&base), suites(default));
    assert_eq!(base.cipher_suites, default.cipher_suites);
    assert_eq!(base.fips(), default.fips());
    let groups = |provider: &CryptoProvider| {
        let groups = provider.kx_groups.iter();
        groups.map(|group| group.name()).collect::<Vec<_>>()
    };
    assert_eq!(groups(&base), groups(default));

    // Wrapping what is wrapped, or the same again, makes nothing new.
    let same = |one: &CryptoProvider, other: &CryptoProvider| {
        let pairs = one.cipher_suites.iter().zip(&other.cipher_suites);
        let tls13 = |suite: &rustls::SupportedCipherSuite| suite.tls13().map(std::ptr::from_ref);
        pairs
            .into_iter()
            .all(|(one, other)| tls13(one) == tls13(other))
    };
    assert!(!same(&base, default));
    assert!(same(&mirrored(base), default));
    assert!(same(&mirrored(CryptoProvider::clone(default)), default));

    let client = Arc::new(tls::client_config(Arc::clone(default)));
    let server = Arc::new(tls::server_config(Arc::clone(default)));
    let mut wire = Wire::connected(&client, &server, "nobody-listens");
    write_all(&mut wire.client, b"said to the server alone");
    wire.settle().unwrap();
    assert_eq!(read_all(&mut wire.server), b"said to the server alone");
}
