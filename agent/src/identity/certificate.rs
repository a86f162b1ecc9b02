//! Keys and certificates: how they are made, and what is read of them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, UnixTime};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::IdentityError;
use super::token::Address;

const DAY: u64 = 86_400;
/// Certificates are good from so long before they were made: a clock that is behind needs time to be noticed.
pub(super) const BACKDATED: Duration = Duration::from_secs(2 * DAY);
/// A collector's authority: as long as the collector. Only its key counts, and the pin names that.
const AUTHORITY_LIFE: Duration = Duration::from_secs(30 * 365 * DAY);
/// A collector's server certificate, made anew from the authority when a third of it has passed.
pub(super) const SERVER_LIFE: Duration = Duration::from_secs(90 * DAY);
/// An agent's certificate, renewed through the tunnel when a third of it has passed.
pub(super) const AGENT_LIFE: Duration = Duration::from_secs(90 * DAY);

/// A public key: SHA-256 of its SubjectPublicKeyInfo (RFC 5280 4.1.2.7, DER). Of a collector's authority
/// this is the pin; of an agent it is who it is. Written as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 32]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        unhex(text).map(Self)
    }
}

/// Bytes of a fixed number from hexadecimal digits.
pub(super) fn unhex<const N: usize>(text: &str) -> Result<[u8; N], String> {
    let wrong = || format!("'{text}' isn't {} hexadecimal digits", 2 * N);
    if text.len() != 2 * N || !text.is_ascii() {
        return Err(wrong());
    }
    let mut bytes = [0; N];
    for (byte, at) in bytes.iter_mut().zip((0..).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).map_err(|_| wrong())?;
    }
    Ok(bytes)
}

/// Hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl KeyId {
    pub(super) fn of_info(info: &[u8]) -> Self {
        Self(Sha256::digest(info).into())
    }

    /// Of the key that a certificate is for; `None`: it can't be read.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = ParsedCertificate::try_from(certificate).ok()?;
        Some(Self::of_info(&parsed.subject_public_key_info()))
    }

    pub(super) fn of_key(key: &impl PublicKeyData) -> Self {
        Self::of_info(&key.subject_public_key_info())
    }
}

/// A new private key.
pub(super) fn new_key() -> Result<KeyPair, IdentityError> {
    Ok(KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?)
}

/// The same for rustls.
pub(super) fn private_key(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(key.serialize_der().into())
}

fn named(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn valid(params: &mut CertificateParams, now: UnixTime, life: Duration) {
    let at = |seconds: u64| {
        // Beyond the year 9999 there are no certificates.
        OffsetDateTime::from_unix_timestamp(i64::try_from(seconds).unwrap_or(i64::MAX))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    params.not_before = at(now.as_secs().saturating_sub(BACKDATED.as_secs()));
    params.not_after = at(now.as_secs().saturating_add(life.as_secs()));
}

fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes = random::<16>()?;
    // Positive, and not 0 (RFC 5280 4.1.2.2).
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

/// Bytes from the kernel's generator.
pub(super) fn random<const N: usize>() -> Result<[u8; N], IdentityError> {
    let mut bytes = [0; N];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| IdentityError::Crypto(error.to_string()))?;
    Ok(bytes)
}

/// The certificate of an authority, signed by itself.
pub(super) fn authority(
    name: &str,
    key: &KeyPair,
    now: UnixTime,
) -> Result<rcgen::Certificate, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.serial_number = Some(serial()?);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    valid(&mut params, now, AUTHORITY_LIFE);
    Ok(params.self_signed(key)?)
}

/// A certificate with which a collector serves, and no agent can be one.
pub(super) fn for_server(
    issuer: &Issuer<'_, KeyPair>,
    key: &KeyPair,
    names: &[Address],
    now: UnixTime,
) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("sslcollector collector");
    params.serial_number = Some(serial()?);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    // Agents go by the authority alone: these are for other people's tools.
    for name in names {
        params
            .subject_alt_names
            .push(match name.host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.host.as_str().try_into()?),
            });
    }
    valid(&mut params, now, SERVER_LIFE);
    Ok(params.signed_by(key, issuer)?.der().clone())
}

/// A certificate with which an agent comes, and nobody can serve.
pub(super) fn for_agent(
    issuer: &Issuer<'_, KeyPair>,
    key: &impl PublicKeyData,
    name: &str,
    now: UnixTime,
) -> Result<CertificateDer<'static>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.serial_number = Some(serial()?);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    valid(&mut params, now, AGENT_LIFE);
    Ok(params.signed_by(key, issuer)?.der().clone())
}

/// A request for a certificate (PKCS #10, RFC 2986): proves that whoever makes it has the key.
pub(super) fn request(key: &KeyPair) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = named("agent");
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// The key of a request, which may come from anybody; what else it asks for doesn't count. `None`: it can't be
/// read, isn't signed by its key, or the key isn't of the kind that agents make.
pub(super) fn requested_key(request: &[u8]) -> Option<rcgen::PublicKey> {
    let request = CertificateSigningRequestDer::from(request);
    let params = CertificateSigningRequestParams::from_der(&request).ok()?;
    let key = params.public_key;
    (key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256).then_some(key)
}

/// For a fuzz target: whatever a host sends for a request, what is signed for it is an agent's and nothing else.
///
/// # Panics
/// If it isn't.
#[cfg(any(test, fuzzing))]
pub fn hostile_request(bytes: &[u8]) {
    let Some(requested) = requested_key(bytes) else {
        return;
    };
    let own = new_key().expect("a key");
    let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    let certificate = authority("collector", &own, now).expect("an authority");
    let issuer = Issuer::from_ca_cert_der(certificate.der(), own).expect("an issuer");
    let signed = for_agent(&issuer, &requested, "web1", now).expect("a certificate");
    assert_eq!(
        KeyId::of_certificate(&signed),
        Some(KeyId::of_key(&requested))
    );
    let (_, parsed) = X509Certificate::from_der(&signed).expect("a certificate");
    assert!(!parsed.is_ca());
    assert_eq!(parsed.subject().to_string(), "CN=web1");
    let usage = parsed.extended_key_usage().expect("at most one");
    assert!(usage.is_some_and(|usage| usage.value.client_auth && !usage.value.server_auth));
    let names = parsed.subject_alternative_name().expect("at most one");
    assert!(names.is_none());
}

/// From when to when a certificate is good, in seconds since 1970; `None`: it can't be read.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let seconds = |time: x509_parser::time::ASN1Time| u64::try_from(time.timestamp()).ok();
    Some((
        seconds(parsed.validity().not_before)?,
        seconds(parsed.validity().not_after)?,
    ))
}

/// When a certificate of this validity is renewed: a third of its life has passed.
pub(super) fn renewal((from, until): (u64, u64)) -> u64 {
    from + until.saturating_sub(from) / 3
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));

    #[test]
    fn a_key_is_named_by_its_info_wherever_it_stands() {
        let key = new_key().unwrap();
        let certificate = authority("x", &key, NOW).unwrap();
        let id = KeyId::of_key(&key);
        assert_eq!(KeyId::of_certificate(certificate.der()), Some(id));
        let requested = requested_key(&request(&key).unwrap()).unwrap();
        assert_eq!(KeyId::of_key(&requested), id);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn requests_of_others_are_refused() {
        let key = new_key().unwrap();
        let good = request(&key).unwrap();
        for at in [good.len() / 2, good.len() - 1] {
            let mut wrong = good.clone();
            wrong[at] ^= 1;
            assert!(requested_key(&wrong).is_none(), "{at}");
        }
        let other = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert!(requested_key(&request(&other).unwrap()).is_none());
        assert!(requested_key(b"").is_none());
    }

    #[test]
    fn certificates_are_good_a_while_before_they_are_made() {
        let key = new_key().unwrap();
        let (from, until) = validity(authority("x", &key, NOW).unwrap().der()).unwrap();
        assert_eq!(from, NOW.as_secs() - 2 * DAY);
        assert_eq!(until, NOW.as_secs() + 30 * 365 * DAY);
        assert_eq!(renewal((100, 400)), 200);
    }
}
