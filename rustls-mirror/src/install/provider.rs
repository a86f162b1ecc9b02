//! Everything of the wrapped provider that depends on rustls' version: its traits for hashes, keys and
//! records, each passed on to the provider beneath, with what passes shown to the mirror.
//!
//! rustls 0.24 has these traits in crates of their own, hands a suite's parts over as owned values, and
//! tells the encrypter's buffer apart from the message: the parts below change, the modules beside don't.

use std::ptr;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};

use mirror_hook::event::Direction;
#[cfg(feature = "tls12")]
use rustls::Tls12CipherSuite;
use rustls::crypto::cipher::{
    AeadKey, InboundOpaqueMessage, InboundPlainMessage, Iv, MessageDecrypter, MessageEncrypter,
    OutboundChunks, OutboundOpaqueMessage, OutboundPlainMessage, Tls13AeadAlgorithm,
    UnsupportedOperationError,
};
#[cfg(feature = "tls12")]
use rustls::crypto::cipher::{KeyBlockShape, Tls12AeadAlgorithm};
use rustls::crypto::hash::{Context, Hash, HashAlgorithm, Output};
use rustls::{
    CipherSuiteCommon, ConnectionTrafficSecrets, ContentType, Error, SupportedCipherSuite,
    Tls13CipherSuite,
};

use super::desk;
use super::half::{Content, Half};
use super::handshake::Handshake;

/// How many suites are wrapped in a process; more than a program has that doesn't make ever new ones.
const MAX_SUITES: usize = 256;

/// A suite, and the one that was made of it.
#[derive(Clone, Copy)]
struct Pair {
    base: SupportedCipherSuite,
    wrapped: SupportedCipherSuite,
}

/// All that were made in this process: each is there for good, for rustls wants them so.
static SUITES: Mutex<Vec<Pair>> = Mutex::new(Vec::new());

/// Whether this is one that [`wrap`] has made.
pub(super) fn is_wrapped(suite: SupportedCipherSuite) -> bool {
    let pairs = SUITES.lock().unwrap_or_else(PoisonError::into_inner);
    pairs.iter().any(|pair| is_same(pair.wrapped, suite))
}

/// The suite with what it is made of wrapped; itself, if it is so already or can't be.
pub(super) fn wrap(suite: SupportedCipherSuite) -> SupportedCipherSuite {
    let mut pairs = SUITES.lock().unwrap_or_else(PoisonError::into_inner);
    if pairs.iter().any(|pair| is_same(pair.wrapped, suite)) {
        return suite;
    }
    if let Some(pair) = pairs.iter().find(|pair| is_same(pair.base, suite)) {
        return pair.wrapped;
    }
    if pairs.len() >= MAX_SUITES {
        return suite;
    }
    let wrapped = match suite {
        SupportedCipherSuite::Tls13(base) => {
            SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
                common: common(&base.common),
                hkdf_provider: base.hkdf_provider,
                aead_alg: Box::leak(Box::new(Aead13(base.aead_alg))),
                quic: base.quic,
            })))
        }
        #[cfg(feature = "tls12")]
        SupportedCipherSuite::Tls12(base) => {
            SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
                common: common(&base.common),
                prf_provider: base.prf_provider,
                kx: base.kx,
                sign: base.sign,
                aead_alg: Box::leak(Box::new(Aead12(base.aead_alg))),
            })))
        }
        #[allow(
            unreachable_patterns,
            reason = "rustls may have TLS 1.2 where this crate doesn't"
        )]
        _ => return suite,
    };
    pairs.push(Pair {
        base: suite,
        wrapped,
    });
    wrapped
}

fn common(base: &CipherSuiteCommon) -> CipherSuiteCommon {
    CipherSuiteCommon {
        suite: base.suite,
        hash_provider: Box::leak(Box::new(TranscriptHash(base.hash_provider))),
        confidentiality_limit: base.confidentiality_limit,
    }
}

/// The same object, which is more than rustls' equality of suites.
fn is_same(one: SupportedCipherSuite, other: SupportedCipherSuite) -> bool {
    match (one, other) {
        (SupportedCipherSuite::Tls13(one), SupportedCipherSuite::Tls13(other)) => {
            ptr::eq(one, other)
        }
        #[cfg(feature = "tls12")]
        (SupportedCipherSuite::Tls12(one), SupportedCipherSuite::Tls12(other)) => {
            ptr::eq(one, other)
        }
        #[allow(unreachable_patterns, reason = "as in `wrap`")]
        _ => false,
    }
}

/// The hash that rustls keeps of a handshake's messages. It is used for nothing that is secret: key
/// derivation and message authentication have providers of their own.
struct TranscriptHash(&'static dyn Hash);

impl Hash for TranscriptHash {
    fn start(&self) -> Box<dyn Context> {
        Box::new(Transcript {
            hash: self.0.start(),
            seen: Seen(Arc::default()),
        })
    }

    fn hash(&self, data: &[u8]) -> Output {
        self.0.hash(data)
    }

    fn output_len(&self) -> usize {
        self.0.output_len()
    }

    fn algorithm(&self) -> HashAlgorithm {
        self.0.algorithm()
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Transcript {
    hash: Box<dyn Context>,
    seen: Seen,
}

/// Tells the handshake when rustls drops its transcript.
struct Seen(Arc<Handshake>);

impl Drop for Seen {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Context for Transcript {
    fn fork_finish(&self) -> Output {
        desk::touched(&self.seen.0);
        self.hash.fork_finish()
    }

    /// A fork is for a hash of what was never said, or not yet: the mirror doesn't see it.
    fn fork(&self) -> Box<dyn Context> {
        desk::touched(&self.seen.0);
        self.hash.fork()
    }

    fn finish(self: Box<Self>) -> Output {
        let Self { hash, seen } = *self;
        seen.0.finish();
        desk::touched(&seen.0);
        hash.finish()
    }

    fn update(&mut self, data: &[u8]) {
        self.seen.0.update(data);
        desk::touched(&self.seen.0);
        self.hash.update(data);
    }
}

struct Aead13(&'static dyn Tls13AeadAlgorithm);

impl Tls13AeadAlgorithm for Aead13 {
    fn encrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageEncrypter> {
        Encrypter::boxed(self.0.encrypter(key, iv), true)
    }

    fn decrypter(&self, key: AeadKey, iv: Iv) -> Box<dyn MessageDecrypter> {
        Decrypter::boxed(self.0.decrypter(key, iv), true)
    }

    fn key_len(&self) -> usize {
        self.0.key_len()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: Iv,
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

#[cfg(feature = "tls12")]
struct Aead12(&'static dyn Tls12AeadAlgorithm);

#[cfg(feature = "tls12")]
impl Tls12AeadAlgorithm for Aead12 {
    fn encrypter(&self, key: AeadKey, iv: &[u8], extra: &[u8]) -> Box<dyn MessageEncrypter> {
        Encrypter::boxed(self.0.encrypter(key, iv, extra), false)
    }

    fn decrypter(&self, key: AeadKey, iv: &[u8]) -> Box<dyn MessageDecrypter> {
        Decrypter::boxed(self.0.decrypter(key, iv), false)
    }

    fn key_block_shape(&self) -> KeyBlockShape {
        self.0.key_block_shape()
    }

    fn extract_keys(
        &self,
        key: AeadKey,
        iv: &[u8],
        explicit: &[u8],
    ) -> Result<ConnectionTrafficSecrets, UnsupportedOperationError> {
        self.0.extract_keys(key, iv, explicit)
    }

    fn fips(&self) -> bool {
        self.0.fips()
    }
}

struct Encrypter {
    encrypter: Box<dyn MessageEncrypter>,
    half: Half,
}

impl Encrypter {
    fn boxed(encrypter: Box<dyn MessageEncrypter>, tls13: bool) -> Box<dyn MessageEncrypter> {
        let half = Half::new(Direction::Sent, tls13);
        Box::new(Self { encrypter, half })
    }
}

impl MessageEncrypter for Encrypter {
    fn encrypt(
        &mut self,
        msg: OutboundPlainMessage<'_>,
        seq: u64,
    ) -> Result<OutboundOpaqueMessage, Error> {
        let content = content(msg.typ);
        let payload = msg.payload.clone();
        let encrypted = self.encrypter.encrypt(msg, seq)?;
        self.half.passed(content, pieces(&payload));
        Ok(encrypted)
    }

    fn encrypted_payload_len(&self, payload_len: usize) -> usize {
        self.encrypter.encrypted_payload_len(payload_len)
    }
}

struct Decrypter {
    decrypter: Box<dyn MessageDecrypter>,
    half: Half,
}

impl Decrypter {
    fn boxed(decrypter: Box<dyn MessageDecrypter>, tls13: bool) -> Box<dyn MessageDecrypter> {
        let half = Half::new(Direction::Received, tls13);
        Box::new(Self { decrypter, half })
    }
}

impl MessageDecrypter for Decrypter {
    fn decrypt<'a>(
        &mut self,
        msg: InboundOpaqueMessage<'a>,
        seq: u64,
    ) -> Result<InboundPlainMessage<'a>, Error> {
        let message = self.decrypter.decrypt(msg, seq)?;
        let whole = std::iter::once(message.payload);
        self.half.passed(content(message.typ), whole);
        Ok(message)
    }
}

fn content(kind: ContentType) -> Content {
    match kind {
        ContentType::ApplicationData => Content::ApplicationData,
        ContentType::Alert => Content::Alert,
        ContentType::Handshake => Content::Handshake,
        _ => Content::Other,
    }
}

/// The slices of which a payload is made.
fn pieces<'a>(payload: &'a OutboundChunks<'a>) -> impl Iterator<Item = &'a [u8]> + Clone {
    let (chunks, from, to) = match payload {
        OutboundChunks::Single(whole) => (slice::from_ref(whole), 0, whole.len()),
        OutboundChunks::Multiple { chunks, start, end } => (*chunks, *start, *end),
    };
    let mut at = 0_usize;
    chunks.iter().filter_map(move |chunk| {
        let begin = at;
        at = at.saturating_add(chunk.len());
        let first = from.saturating_sub(begin);
        let last = to.saturating_sub(begin).min(chunk.len());
        chunk.get(first..last).filter(|piece| !piece.is_empty())
    })
}
