//! The wrapped crypto provider: mirrors what is made with it, without touching the code that makes it.
//!
//! ```text
//!   rustls, one connection           this module
//!   ----------------------           -----------
//!   transcript hash ───────────────> Handshake   both hellos: randoms, name, version, cipher, ALPN
//!   makes keys, drops keys ────────> desk        whose half is it? one answer for each thread
//!   encrypts, decrypts a record ───> Half ─────> Connection ─> Session ─> mirror_hook
//! ```
//!
//! Each cipher suite of a provider is made anew with its hash and its record protection wrapped
//! ([`provider`], the one file that depends on rustls' version). Of records only application data is
//! mirrored, after it was encrypted or decrypted with success: records of rejected 0-RTT data, which a
//! server tries to decrypt in vain, count for nothing. Alerts end a direction or the connection.
//!
//! # No secret is seen
//! The hash gets the handshake's messages, which both peers see, and nothing else: rustls derives keys
//! and authenticates messages by a suite's `hkdf_provider` and `prf_provider`, which are left alone. Keys
//! are handed on unread. Of messages, the two hellos and EncryptedExtensions are looked into; of all
//! others only their type and length.
//!
//! # Whose a half is
//! rustls makes encrypters and decrypters without saying for which connection. It makes them in the
//! middle of a call, on the thread of that call, and a connection is in no two calls at a time. Two facts
//! tell (the places are those of rustls 0.23.46):
//!
//! *First keys follow their handshake's transcript* (`Handshake::claim`). The handshake that this thread
//! touched last, and that stands where first keys are made, is the one:
//!
//! | end | first keys | where the transcript stands |
//! |---|---|---|
//! | 1.3 client, 0-RTT | encrypter | hash of a whole ClientHello and nothing, read for good |
//! | 1.3 client | decrypter, and right behind it the encrypter if no 0-RTT data is under way | both hellos; the hash was read |
//! | 1.3 server | decrypter for 0-RTT data, where a session is resumed | ServerHello was added |
//! | 1.3 server | encrypter | both hellos; the hash was read |
//! | 1.3 server | decrypter, if there was none for 0-RTT data | its own flight was added |
//! | 1.2, both | decrypter, and right behind it the encrypter | ClientKeyExchange or CertificateVerify; ServerHello, if resumed |
//!
//! None of these lasts beyond the call: what is due in it is made, once, or the handshake fails and its
//! transcript is dropped. (A hash for a PSK binder has no whole ClientHello; a HelloRetryRequest starts
//! another transcript; forked hashes aren't seen.) So a handshake at rest, on whichever thread, dropped or
//! not, claims nothing, and of those that are in a call on this thread, one inside another's callbacks,
//! the innermost was touched last.
//!
//! *Later keys replace others* (`desk::dropped`). rustls puts new keys where the old ones were: with nothing
//! between, the new half is made and the old one dropped, on one thread. The new half is of the old one's
//! connection, if the old one stands where keys are replaced: the last record that passed was a Finished,
//! an EndOfEarlyData, or a KeyUpdate. The same, seen right behind a claim, shows that the claim was a
//! mistake, which only a callback can bring about (a key log that does TLS, between an outer
//! handshake's transcript and its keys); the claim is taken back then.
//!
//! A client's 0-RTT data has a session before the ServerHello has come. The rest of the handshake takes
//! that over where rustls replaces the encrypter, either at once, or with the decrypter right
//! before; both must have hashed the same client random, which this process has drawn.
//!
//! Until its first record a half may change its place; from then on it doesn't. Which end it is shows in
//! how rustls hashes the ClientHello, and again in who sends EncryptedExtensions or, in TLS 1.2, the first
//! Finished; where these contradict each other, nothing is mirrored of the connection.
//! A half of which nothing is known is no session: it is counted by [`unpaired`], and its text isn't mirrored.
//!
//! # Encrypted Client Hello
//! A client that offers one (RFC 9849) has two ClientHellos. The agent finds its connection by the random of the
//! outer one, which is on the wire; the server knows it by that one, too. If the server accepts the inner one,
//! the connection goes on with that one's transcript, which doesn't tell the other. But in the call that hears the
//! ServerHello rustls hashes first the outer hello with it, then the inner one, and drops the outer one's transcript behind
//! that; so when the inner one hears the ServerHello, the outer one is what this thread touched right before
//! (`Handshake::follows`). Both must have heard the same ServerHello.random. That two connections of a thread had the
//! same, one inside the other, would be a server's doing, and both are that server's. Where they don't stand so,
//! the random is left unknown, and so are the addresses. For 0-RTT data the outer hello isn't hashed before the
//! server answers: its random is told behind it, as the server's is.
//!
//! # QUIC
//! rustls makes these keys for QUIC, too, and never uses them: a connection whose hello has QUIC's
//! parameters and whose handshake keys are replaced unused is announced as QUIC, without text. The keys
//! that QUIC uses don't come by here.
//!
//! # What isn't seen
//! - A configuration with a provider of its own, that isn't [`mirrored`]: quinn's and reqwest's features
//!   that choose one, or a call of `builder_with_provider(ring::default_provider())`.
//! - Addresses: the agent finds them by the randoms on the wire.
//! - What is decrypted and never read counts as received; what waits in rustls' buffer for the
//!   handshake's end counts as sent when it is encrypted.
//! - Whoever takes the secrets out (`dangerous_extract_secrets`, kernel TLS) ends the session with it.

mod connection;
mod desk;
mod framing;
mod half;
mod handshake;
mod provider;

use std::error::Error;
use std::fmt;

use rustls::CipherSuite;
use rustls::crypto::CryptoProvider;

/// Makes `base`, with its connections mirrored, the default provider of this process: what is made by
/// `ClientConfig::builder()` and `ServerConfig::builder()` from now on is mirrored, in whichever crate.
/// Belongs at the start of a program, in the place of `base.install_default()`.
///
/// Needs no agent; where there is none, nothing is mirrored. TLS 1.2 and 1.3, clients and servers, 0-RTT
/// data and connections without buffers are seen. Keys pass by unread.
///
/// Not seen is what is made with another provider:
/// - by a configuration to which one was given (`builder_with_provider`, quinn's and reqwest's features
///   and options that choose one): give it [`mirrored`] ones where that can be done;
/// - by libraries that use *ring* or aws-lc-rs without rustls, or bring a rustls of another version.
///
/// QUIC connections are announced, and go on as they are; their text isn't mirrored. Records tell no
/// addresses: the agent finds these on the wire, by the handshake's randoms, where it may listen there.
///
/// ```
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     rustls_mirror::install(rustls::crypto::ring::default_provider())?;
///     // …
///     Ok(())
/// }
/// ```
///
/// # Errors
/// The process has a default provider already, or `base` can't be wrapped whole; nothing is changed then.
pub fn install(base: CryptoProvider) -> Result<(), InstallError> {
    if CryptoProvider::get_default().is_some() {
        return Err(InstallError::DefaultExists);
    }
    let provider = mirrored(base);
    let mut suites = provider.cipher_suites.iter();
    if let Some(bare) = suites.find(|suite| !provider::is_wrapped(**suite)) {
        return Err(InstallError::Unwrapped(bare.suite()));
    }
    let installed = provider.install_default();
    installed.map_err(|_| InstallError::DefaultExists)
}

/// `base` with its connections mirrored, for the configurations that it is given to
/// (`ClientConfig::builder_with_provider` and the like). All that isn't a cipher suite's hash or record
/// protection is `base`'s own, as are the keys.
///
/// A suite that can't be wrapped stays as it is, and its connections unseen: those of TLS 1.2 where this
/// crate was built without its feature `tls12`, and new ones in a process that has wrapped 256 already.
#[must_use]
pub fn mirrored(base: CryptoProvider) -> CryptoProvider {
    let suites = base.cipher_suites.iter();
    CryptoProvider {
        cipher_suites: suites.map(|suite| provider::wrap(*suite)).collect(),
        ..base
    }
}

/// Whether the connections made with this provider are mirrored by it, so that nobody else need do so.
pub(crate) fn is_mirrored(provider: &CryptoProvider) -> bool {
    provider
        .cipher_suites
        .iter()
        .any(|suite| provider::is_wrapped(*suite))
}

/// How many directions of connections had text that wasn't mirrored because it wasn't certain whose it
/// was. None should have; see the module's text.
#[must_use]
pub fn unpaired() -> u64 {
    half::unpaired()
}

/// Why [`install`] changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InstallError {
    /// The process has a default provider already.
    DefaultExists,
    /// The provider has a cipher suite that can't be wrapped, so that what is made with it would pass
    /// unseen: see [`mirrored`].
    Unwrapped(CipherSuite),
}

impl fmt::Display for InstallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DefaultExists => f.write_str("the process has a default crypto provider already"),
            Self::Unwrapped(suite) => write!(
                f,
                "{suite:?} can't be mirrored; for TLS 1.2, rustls-mirror needs its feature tls12"
            ),
        }
    }
}

impl Error for InstallError {}
