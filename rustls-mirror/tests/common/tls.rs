//! Configurations of both ends, with certificates made for this process.

use std::sync::{Arc, OnceLock};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ED25519,
};
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

const DOMAIN: &str = "mirror.test";

/// A certificate for every `NAME.mirror.test`, and its issuer's.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    issuer: CertificateDer<'static>,
}

/// Its signatures have one length, so that handshakes have, too.
fn key() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let issuer = CertifiedIssuer::self_signed(params, key()).unwrap();
        let mut params = CertificateParams::new(vec![format!("*.{DOMAIN}")]).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = key();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        Identity {
            chain: vec![certificate.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            issuer: issuer.der().clone(),
        }
    })
}

/// `NAME.mirror.test`, which the server's certificate covers.
pub(crate) fn name(name: &str) -> ServerName<'static> {
    ServerName::try_from(full_name(name)).unwrap()
}

/// The same as a client sends it.
pub(crate) fn full_name(name: &str) -> String {
    format!("{name}.{DOMAIN}")
}

/// rustls' own provider on *ring*.
pub(crate) fn ring() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Trust in those who issued [`identity`].
fn roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(identity().issuer.clone()).unwrap();
    roots
}

/// Trusts what [`server_config`] shows. TLS 1.2 and 1.3, resumption in memory.
pub(crate) fn client_config(provider: Arc<CryptoProvider>) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth()
}

/// The same with one version of TLS only.
pub(crate) fn client_config_of(
    provider: Arc<CryptoProvider>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots())
        .with_no_client_auth()
}

/// What [`client_config`] verifies servers with.
pub(crate) fn verifier(provider: Arc<CryptoProvider>) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots()), provider)
        .build()
        .unwrap()
}

/// Serves every `NAME.mirror.test`.
pub(crate) fn server_config(provider: Arc<CryptoProvider>) -> ServerConfig {
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(identity().chain.clone(), identity().key.clone_key())
        .unwrap()
}

/// As [`server_config`], and asks the client for a certificate, which [`authenticated`] has.
pub(crate) fn demanding_config(provider: Arc<CryptoProvider>) -> ServerConfig {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots()), Arc::clone(&provider))
            .build()
            .unwrap();
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity().chain.clone(), identity().key.clone_key())
        .unwrap()
}

/// As [`client_config_of`], with a certificate of its own.
pub(crate) fn authenticated(
    provider: Arc<CryptoProvider>,
    version: &'static rustls::SupportedProtocolVersion,
) -> ClientConfig {
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots())
        .with_client_auth_cert(identity().chain.clone(), identity().key.clone_key())
        .unwrap()
}

/// Both ends with [`ring`].
pub(crate) fn configs() -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let (client, server) = (client_config(ring()), server_config(ring()));
    (Arc::new(client), Arc::new(server))
}
