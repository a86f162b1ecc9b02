//! Who is believed in a handshake.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, CipherSuite, DigitallySignedStruct, DistinguishedName, Error, OtherError,
    RootCertStore, SignatureScheme,
};

use super::certificate::KeyId;

/// The provider of all that is done here. Of what both sides know, AES with 128 bits is taken: good enough, and the one
/// that costs least.
pub(super) fn provider() -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    let suites = &mut provider.cipher_suites;
    suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

/// The server isn't the collector whose pin is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongCollector {
    /// It shows no authority, so it is no collector.
    #[error("it is no collector of ours: it shows no authority behind its certificate")]
    NoAuthority,
    /// Its authority has another key.
    #[error("its key is {found}, and {pinned} was expected")]
    OtherKey {
        /// What it shows.
        found: KeyId,
        /// What is known.
        pinned: KeyId,
    },
}

/// What to tell people of a handshake that failed, by what the collector showed or by what it said of us;
/// `None`: it is about something else.
pub fn explain(error: &Error) -> Option<String> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => inner
            .downcast_ref::<WrongCollector>()
            .map(ToString::to_string),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => Some("its certificate isn't valid yet: is this host's clock behind?".into()),
        Error::InvalidCertificate(
            CertificateError::Expired | CertificateError::ExpiredContext { .. },
        ) => Some(
            "its certificate has run out: is this host's clock ahead, or the collector's behind?"
                .into(),
        ),
        Error::InvalidCertificate(_) => Some(format!("its certificate isn't good: {error}")),
        _ => None,
    }
}

/// The part of a verifier that is the same for servers and for clients, in two traits: signatures of TLS 1.3 by
/// the algorithms of its `provider`.
macro_rules! tls13_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            _message: &[u8],
            _certificate: &CertificateDer<'_>,
            _signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            Err(Error::PeerIncompatible(
                rustls::PeerIncompatible::Tls13RequiredForQuic,
            ))
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &CertificateDer<'_>,
            signature: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.provider.signature_verification_algorithms;
            verify_tls13_signature(message, certificate, signature, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            let algorithms = &self.provider.signature_verification_algorithms;
            algorithms.supported_schemes()
        }
    };
}

/// Believes the servers of one authority, whatever they are called: it is the collector's own and signs
/// nobody else's.
pub(super) struct OfCollector {
    pin: KeyId,
    provider: Arc<CryptoProvider>,
}

impl OfCollector {
    pub(super) fn new(pin: KeyId) -> Arc<Self> {
        Arc::new(Self {
            pin,
            provider: provider(),
        })
    }
}

impl fmt::Debug for OfCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OfCollector")
            .field("pin", &self.pin)
            .finish_non_exhaustive()
    }
}

fn wrong(why: WrongCollector) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(why))))
}

impl ServerCertVerifier for OfCollector {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = intermediates.last();
        let authority = authority.ok_or_else(|| wrong(WrongCollector::NoAuthority))?;
        let found = KeyId::of_certificate(authority)
            .ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if found != self.pin {
            return Err(wrong(WrongCollector::OtherKey {
                found,
                pinned: self.pin,
            }));
        }
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        // With the usage of a server: an agent's certificate, which has the same issuer, isn't one.
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    tls13_signatures!();
}

/// Takes any certificate, or none, of whoever has its key. Who that is is asked behind the handshake
/// ([`CollectorIdentity::admit`](super::CollectorIdentity::admit)), where a refusal can say its reason.
pub(super) struct JudgedLater {
    provider: Arc<CryptoProvider>,
}

impl JudgedLater {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            provider: provider(),
        })
    }
}

impl fmt::Debug for JudgedLater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JudgedLater")
    }
}

impl ClientCertVerifier for JudgedLater {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    tls13_signatures!();
}
