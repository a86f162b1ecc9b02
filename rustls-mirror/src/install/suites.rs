//! The cipher suites of wrapped providers.

use std::ptr;
use std::sync::{Mutex, PoisonError};

use rustls::crypto::CryptoProvider;
use rustls::{SupportedCipherSuite, Tls13CipherSuite};

/// A suite, and the one that was made of it.
struct Pair {
    wrapped: &'static Tls13CipherSuite,
}

/// All that were made in this process: each is there for good, for rustls wants them so.
static SUITES: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

/// Whether the connections made with this provider are mirrored by it.
pub(crate) fn is_mirrored(provider: &CryptoProvider) -> bool {
    let suites = SUITES.lock().unwrap_or_else(PoisonError::into_inner);
    provider.cipher_suites.iter().any(|suite| match suite {
        SupportedCipherSuite::Tls13(suite) => {
            suites.iter().any(|pair| ptr::eq(pair.wrapped, *suite))
        }
        #[allow(
            unreachable_patterns,
            reason = "rustls has TLS 1.2 only with its feature"
        )]
        _ => false,
    })
}
