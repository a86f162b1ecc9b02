//! The wrapped crypto provider: mirrors what is made with it, without touching the code that makes it.

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
/// `ClientConfig::builder()` and `ServerConfig::builder()` from now on is mirrored. Belongs at the start of
/// a program. Needs no agent; where there is none, nothing is mirrored.
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
