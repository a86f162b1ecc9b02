//! Envelopes: what a broker gets to hold.
//!
//! ```text
//! version u8 │ kind u8 │ partition u16 │ instance 16 │ number u64 │ made u64 │ exchange 32 │ n u8 │ m u16 │ name, n bytes │ terms, m bytes
//! sealed, as long as what is in it │ tag 16
//! ```
//!
//! All numbers are little-endian. Everything before `sealed`, and the subject under which the broker has it, is
//! authenticated with it.
//!
//! - **The key**: HPKE (RFC 9180) in its mode with a preshared key: X25519 to the fleet's public key, HKDF-SHA256, the
//!   agent's name as `psk_id` and its secret as `psk`, the agent's instance in `info`. The secret comes from name and terms
//!   (`key`): who says others than its own has another secret. `exchange` is what HPKE
//!   encapsulates; AES-256-GCM's key is what its context exports. One such key lives as long as an agent's instance.
//! - **The nonce**: the partition, and `number`. An instance numbers the envelopes of each partition from 1, without
//!   gaps: none repeats, and what the broker leaves out, gives again or puts elsewhere is noticed.
//! - **`made`**: milliseconds since 1970, by the host's clock. An envelope that is older than what the broker may keep
//!   is refused; so collectors needn't remember the instances of all times to refuse their envelopes.

use std::collections::HashMap;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hpke::aead::ExportOnlyAead;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, PskBundle, Serializable};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, Tag, UnboundKey};

use super::key::{AgentKey, FleetKey, FleetKeys, Terms, is_name};
use crate::tunnel::batch::{MAX_BATCH_BYTES, PARTITIONS};
use crate::tunnel::frame::Instance;

/// The form that this is.
const VERSION: u8 = 2;
/// Bytes before the agent's name.
const FIXED_BYTES: usize = 2 + 2 + 16 + 8 + 8 + 32 + 1 + 2;
const TAG_BYTES: usize = 16;
/// Instances whose keys a collector keeps at hand. Others cost an exchange each time.
const MAX_KEYS: usize = 16 * 1024;

/// What an envelope holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Events, as `tunnel::batch` reads them.
    Events,
    /// Nothing: the agent is there, and has flows in this partition.
    Alive,
    /// Nothing: the agent ends, and so do its flows.
    Goodbye,
}

/// An envelope that was opened: all of it is what the named agent has sealed, for this place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The agent's name.
    pub name: String,
    /// What it may tell of.
    pub terms: Terms,
    /// It was sealed for a key of the fleet that isn't its newest.
    pub old_key: bool,
    /// This life of it.
    pub instance: Instance,
    /// The partition; below [`PARTITIONS`].
    pub partition: u16,
    /// Counts this instance's envelopes of this partition, from 1.
    pub number: u64,
    /// Milliseconds since 1970, by the agent's clock.
    pub made_ms: u64,
    /// What is in it.
    pub kind: Kind,
    /// What is in it; at most [`MAX_BATCH_BYTES`].
    pub content: Bytes,
}

/// Why an envelope isn't opened. Each is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    /// It has no such form.
    #[error("this is no envelope")]
    Malformed,
    /// Another version has made it.
    #[error("an envelope of version {0}: this is {VERSION}")]
    Version(u8),
    /// It wasn't sealed by the agent that it names, for this fleet, this subject and this partition; or was changed.
    #[error("the envelope's seal is broken, or isn't of this fleet")]
    Seal,
}

/// Seals what an agent sends.
pub struct Sealer {
    name: String,
    terms: Vec<u8>,
    instance: Instance,
    exchange: [u8; 32],
    key: LessSafeKey,
    /// The next envelope's number, for each partition.
    next: Vec<u64>,
}

/// An envelope, ready to be sent, as often as is needed.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its number in its partition.
    pub number: u64,
    /// All of it.
    pub bytes: Bytes,
}

impl Sealer {
    /// For this life of the agent.
    pub fn new(key: &AgentKey, instance: Instance) -> Self {
        let psk = PskBundle::new(&key.secret, key.name.as_bytes());
        let mode = OpModeS::Psk(psk.expect("neither is empty"));
        let (exchange, context) =
            hpke::setup_sender::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(
                &mode,
                &key.public,
                &info(instance),
            )
            .expect("the public key was checked when it was read");
        let mut bytes = [0; 32];
        context
            .export(EXPORT, &mut bytes)
            .expect("32 bytes can be had");
        Self {
            name: key.name.clone(),
            terms: key.terms.to_bytes(),
            instance,
            exchange: exchange.to_bytes().into(),
            key: aes(&bytes),
            next: vec![1; usize::from(PARTITIONS)],
        }
    }

    /// Seals the parts of `content`, one after the other, for a partition, which travels under `subject`.
    ///
    /// # Panics
    /// If there is no such partition, or the content is larger than any.
    pub fn seal(
        &mut self,
        (partition, subject): (u16, &str),
        made_ms: u64,
        kind: Kind,
        content: &[&[u8]],
    ) -> Sealed {
        let number = self.next[usize::from(partition)];
        self.next[usize::from(partition)] += 1;
        let bytes: usize = content.iter().map(|part| part.len()).sum();
        assert!(bytes <= MAX_BATCH_BYTES, "{bytes} bytes for one envelope");
        let mut envelope = BytesMut::with_capacity(
            FIXED_BYTES + self.name.len() + self.terms.len() + bytes + TAG_BYTES,
        );
        envelope.put_u8(VERSION);
        envelope.put_u8(kind.code());
        envelope.put_u16_le(partition);
        envelope.put_slice(&self.instance.0);
        envelope.put_u64_le(number);
        envelope.put_u64_le(made_ms);
        envelope.put_slice(&self.exchange);
        envelope.put_u8(u8::try_from(self.name.len()).expect("names are short"));
        envelope.put_u16_le(u16::try_from(self.terms.len()).expect("terms are short"));
        envelope.put_slice(self.name.as_bytes());
        envelope.put_slice(&self.terms);
        let head = envelope.len();
        let aad = [&envelope[..], subject.as_bytes()].concat();
        content.iter().for_each(|part| envelope.put_slice(part));
        let tag = self
            .key
            .seal_in_place_separate_tag(
                nonce(partition, number),
                Aad::from(aad),
                &mut envelope[head..],
            )
            .expect("AES-GCM takes this much");
        envelope.put_slice(tag.as_ref());
        Sealed {
            number,
            bytes: envelope.freeze(),
        }
    }
}

/// Opens what agents have sealed.
pub struct Opener {
    fleet: FleetKeys,
    keys: HashMap<SenderId, Agreed>,
}

/// Whose: instance, exchange, name and terms.
type SenderId = (Instance, [u8; 32], String, Terms);

/// What was agreed upon with a life of an agent.
struct Agreed {
    key: LessSafeKey,
    old: bool,
}

impl Opener {
    /// For this fleet.
    pub fn new(fleet: impl Into<FleetKeys>) -> Self {
        Self {
            fleet: fleet.into(),
            keys: HashMap::new(),
        }
    }

    /// Opens what a broker had under `subject`; whatever it is.
    ///
    /// # Errors
    /// It isn't what an agent of this fleet has sealed for there.
    pub fn open(&mut self, subject: &str, envelope: Bytes) -> Result<Opened, EnvelopeError> {
        let header = Header::read(&envelope)?;
        let aad = [&envelope[..header.bytes], subject.as_bytes()].concat();
        let id = (
            header.instance,
            header.exchange,
            header.name.clone(),
            header.terms.clone(),
        );
        if let Some(agreed) = self.keys.get(&id) {
            let content = unseal(&agreed.key, &header, aad, envelope)?;
            return Ok(header.opened(content, agreed.old));
        }
        for (number, fleet) in self.fleet.all().iter().enumerate() {
            let key = agree(fleet, &header)?;
            let Ok(content) = unseal(&key, &header, aad.clone(), envelope.clone()) else {
                continue;
            };
            if self.keys.len() >= MAX_KEYS {
                self.keys.clear();
            }
            let old = number > 0;
            self.keys.insert(id, Agreed { key, old });
            return Ok(header.opened(content, old));
        }
        Err(EnvelopeError::Seal)
    }
}

/// What is sealed.
fn unseal(
    key: &LessSafeKey,
    header: &Header,
    aad: Vec<u8>,
    envelope: Bytes,
) -> Result<Bytes, EnvelopeError> {
    let mut sealed = BytesMut::from(envelope);
    sealed.advance(header.bytes);
    let tag = sealed.split_off(sealed.len() - TAG_BYTES);
    let tag = Tag::try_from(&tag[..]).map_err(|_| EnvelopeError::Malformed)?;
    let nonce = nonce(header.partition, header.number);
    key.open_in_place_separate_tag(nonce, Aad::from(aad), tag, &mut sealed, 0..)
        .map_err(|_| EnvelopeError::Seal)?;
    Ok(sealed.freeze())
}

/// The key that the envelope's agent has agreed upon, if it has for this fleet.
fn agree(fleet: &FleetKey, header: &Header) -> Result<LessSafeKey, EnvelopeError> {
    let seal = |_| EnvelopeError::Seal;
    let agent = fleet
        .agent(&header.name, &header.terms)
        .map_err(|_| EnvelopeError::Malformed)?;
    let psk = PskBundle::new(&agent.secret, agent.name.as_bytes()).map_err(seal)?;
    let exchange = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&header.exchange);
    let context = hpke::setup_receiver::<ExportOnlyAead, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Psk(psk),
        &fleet.private,
        &exchange.map_err(seal)?,
        &info(header.instance),
    )
    .map_err(seal)?;
    let mut bytes = [0; 32];
    context.export(EXPORT, &mut bytes).map_err(seal)?;
    Ok(aes(&bytes))
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer")
            .field("name", &self.name)
            .field("instance", &self.instance)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Opener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opener")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Self::Events => 1,
            Self::Alive => 2,
            Self::Goodbye => 3,
        }
    }

    fn from_code(code: u8) -> Option<Self> {
        [Self::Events, Self::Alive, Self::Goodbye]
            .into_iter()
            .find(|kind| kind.code() == code)
    }
}

/// What stands before the sealed part; anybody may have written it.
struct Header {
    kind: Kind,
    partition: u16,
    instance: Instance,
    number: u64,
    made_ms: u64,
    exchange: [u8; 32],
    name: String,
    terms: Terms,
    /// How long it is itself.
    bytes: usize,
}

impl Header {
    fn read(envelope: &[u8]) -> Result<Self, EnvelopeError> {
        let malformed = EnvelopeError::Malformed;
        let mut rest = envelope;
        if rest.len() < FIXED_BYTES {
            return Err(malformed);
        }
        let version = rest.get_u8();
        if version != VERSION {
            return Err(EnvelopeError::Version(version));
        }
        let kind = Kind::from_code(rest.get_u8()).ok_or(malformed)?;
        let partition = rest.get_u16_le();
        let mut instance = [0; 16];
        rest.copy_to_slice(&mut instance);
        let number = rest.get_u64_le();
        let made_ms = rest.get_u64_le();
        let mut exchange = [0; 32];
        rest.copy_to_slice(&mut exchange);
        let name_bytes = usize::from(rest.get_u8());
        let terms_bytes = usize::from(rest.get_u16_le());
        let (name, rest) = rest.split_at_checked(name_bytes).ok_or(malformed)?;
        let (terms, sealed) = rest.split_at_checked(terms_bytes).ok_or(malformed)?;
        let terms = Terms::from_bytes(terms).ok_or(malformed)?;
        let name = std::str::from_utf8(name).ok().filter(|name| is_name(name));
        let name = name.ok_or(malformed)?.to_owned();
        let content = sealed.len().checked_sub(TAG_BYTES).ok_or(malformed)?;
        let agrees = match kind {
            Kind::Events => true,
            Kind::Alive | Kind::Goodbye => content == 0,
        };
        if !agrees || content > MAX_BATCH_BYTES || partition >= PARTITIONS || number == 0 {
            return Err(malformed);
        }
        Ok(Self {
            kind,
            partition,
            instance: Instance(instance),
            number,
            made_ms,
            exchange,
            bytes: FIXED_BYTES + name.len() + terms_bytes,
            name,
            terms,
        })
    }

    fn opened(self, content: Bytes, old_key: bool) -> Opened {
        Opened {
            name: self.name,
            terms: self.terms,
            old_key,
            instance: self.instance,
            partition: self.partition,
            number: self.number,
            made_ms: self.made_ms,
            kind: self.kind,
            content,
        }
    }
}

/// What the exported key is for.
const EXPORT: &[u8] = b"envelopes AES-256-GCM";

fn info(instance: Instance) -> Vec<u8> {
    [&b"sslcollector broker 1 "[..], &instance.0].concat()
}

fn aes(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are a key"))
}

/// No other envelope of the instance has this one.
fn nonce(partition: u16, number: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[..2].copy_from_slice(&partition.to_le_bytes());
    bytes[4..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SUBJECT: &str = "sslcollector.events.05";

    fn sealed(fleet: &FleetKey, content: &[u8]) -> Bytes {
        let mut sealer = Sealer::new(
            &fleet.agent("web", &Terms::default()).unwrap(),
            Instance([7; 16]),
        );
        sealer
            .seal((5, SUBJECT), 1000, Kind::Events, &[content])
            .bytes
    }

    #[test]
    fn what_is_sealed_is_opened() {
        let fleet = FleetKey::generate();
        let mut sealer = Sealer::new(
            &fleet.agent("web", &Terms::default()).unwrap(),
            Instance([7; 16]),
        );
        let mut opener = Opener::new(fleet.clone());
        for number in 1..4 {
            let sealed = sealer.seal((5, SUBJECT), 1000, Kind::Events, &[b"GET ", b"/secret"]);
            assert!(!sealed.bytes.windows(6).any(|window| window == b"secret"));
            let opened = opener.open(SUBJECT, sealed.bytes).unwrap();
            assert_eq!((opened.number, opened.partition), (number, 5));
            assert_eq!((opened.name.as_str(), opened.made_ms), ("web", 1000));
            assert_eq!(&opened.content[..], b"GET /secret");
        }
        let sealed = sealer.seal((6, "elsewhere"), 1000, Kind::Alive, &[]);
        assert_eq!(sealed.number, 1);
        let opened = opener.open("elsewhere", sealed.bytes).unwrap();
        assert_eq!((opened.kind, opened.number), (Kind::Alive, 1));
    }

    #[test]
    fn no_bit_can_be_changed_and_nothing_cut() {
        let fleet = FleetKey::generate();
        let envelope = sealed(&fleet, b"text");
        let mut opener = Opener::new(fleet);
        assert!(opener.open(SUBJECT, envelope.clone()).is_ok());
        for bit in 0..envelope.len() * 8 {
            let mut changed = envelope.to_vec();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(opener.open(SUBJECT, changed.into()).is_err(), "bit {bit}");
        }
        for end in 0..envelope.len() {
            let cut = envelope.slice(..end);
            assert!(opener.open(SUBJECT, cut).is_err(), "{end} bytes");
        }
    }

    #[test]
    fn it_is_of_this_place_this_agent_and_this_fleet() {
        let fleet = FleetKey::generate();
        let envelope = sealed(&fleet, b"text");
        let mut opener = Opener::new(fleet.clone());
        let elsewhere = opener.open("sslcollector.events.06", envelope.clone());
        assert_eq!(elsewhere.unwrap_err(), EnvelopeError::Seal);
        let mut other = Opener::new(FleetKey::generate());
        let opened = other.open(SUBJECT, envelope);
        assert_eq!(opened.unwrap_err(), EnvelopeError::Seal);
        // An agent that speaks in another's name: it has the public key, and not the other's secret.
        let mut thief = fleet.agent("web", &Terms::default()).unwrap();
        thief.name = "db".into();
        let mut sealer = Sealer::new(&thief, Instance([8; 16]));
        let forged = sealer.seal((5, SUBJECT), 1000, Kind::Events, &[b"text"]);
        let opened = opener.open(SUBJECT, forged.bytes);
        assert_eq!(opened.unwrap_err(), EnvelopeError::Seal);
    }

    #[test]
    fn nobody_changes_its_own_terms() {
        let network = |text| crate::filter::network(text).unwrap();
        let terms = |text| Terms::of(Some(&[network(text)])).unwrap();
        let fleet = FleetKey::generate();
        let mut opener = Opener::new(fleet.clone());
        let mut key = fleet.agent("web", &terms("10.0.0.1")).unwrap();
        let seal = |key: &AgentKey| {
            let mut sealer = Sealer::new(key, Instance([8; 16]));
            let sealed = sealer.seal((5, SUBJECT), 1000, Kind::Events, &[b"text"]);
            sealed.bytes
        };
        let opened = opener.open(SUBJECT, seal(&key)).unwrap();
        assert_eq!(opened.terms.networks().unwrap(), [network("10.0.0.1")]);
        for other in [Terms::default(), terms("10.0.0.0/8"), terms("10.0.0.2")] {
            key.terms = other;
            let opened = opener.open(SUBJECT, seal(&key));
            assert_eq!(opened.unwrap_err(), EnvelopeError::Seal);
        }
    }

    #[test]
    fn what_was_sealed_for_an_older_key_is_read_until_it_is_retired() {
        let old = FleetKeys::from(FleetKey::generate());
        let envelope = sealed(old.newest(), b"text");
        let new = old.rotated().unwrap();
        let mut opener = Opener::new(new.clone());
        for _ in 0..2 {
            let opened = opener.open(SUBJECT, envelope.clone()).unwrap();
            assert!(opened.old_key && &opened.content[..] == b"text");
        }
        let opened = opener.open(SUBJECT, sealed(new.newest(), b"new")).unwrap();
        assert!(!opened.old_key && &opened.content[..] == b"new");
        let retired = Opener::new(new.retired()).open(SUBJECT, envelope);
        assert_eq!(retired.unwrap_err(), EnvelopeError::Seal);
    }

    #[test]
    fn the_corpus_is_refused() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/envelope");
        let mut opener = Opener::new(FleetKey::generate());
        let mut tried = 0;
        for file in std::fs::read_dir(corpus).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(opener.open(SUBJECT, bytes[1..].to_vec().into()).is_err());
            tried += 1;
        }
        assert!(tried >= 4);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused(mut bytes: Vec<u8>) {
            let fleet = FleetKey::generate();
            if let Some(byte) = bytes.first_mut() {
                *byte = VERSION;
            }
            prop_assert!(Opener::new(fleet).open(SUBJECT, bytes.into()).is_err());
        }
    }
}
