//! Marks: how far a partition's outputs have come, sealed by the collectors for one another.
//!
//! ```text
//! owner 16 │ n u8 │ n times: the key, wrapped, 32 │ tag 16 │ counter u64 │ sealed: zstd of postcard of [`Mark`] │ tag 16
//! ```
//!
//! A successor begins the live flows of the mark anew, and reads on behind its sequence. `owner` is this life of a
//! collector; its key is random, and it counts its marks: no nonce repeats. It is wrapped under each key that the fleet
//! has (by what is derived from its secret and `owner`), so that collectors that know of a new one and those that don't
//! yet, or know of an old one no more, read each other's. What stands before, and the partition, is authenticated.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};

use super::connect::random;
use super::key::{FleetKey, FleetKeys, Terms};
use crate::tunnel::frame::Instance;

/// Most bytes of a mark, uncompressed: some hundred thousand flows of one partition.
const MAX_MARK_BYTES: usize = 64 << 20;
const OWNER_BYTES: usize = 16;
/// A key, and its tag.
const WRAPPED_BYTES: usize = 32 + 16;

/// How far a partition has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Who has written it: the number of its lease. A mark of a smaller number never follows one of a larger.
    pub(super) fence: u64,
    /// All up to here in the stream has been put out.
    pub(super) sequence: u64,
    /// Nothing behind it was put out: its owner has given up the lease.
    pub(super) handed_over: bool,
    pub(super) sources: Vec<SourceMark>,
}

/// What is known of an agent's instance there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SourceMark {
    pub(super) instance: Instance,
    pub(super) name: String,
    pub(super) terms: Terms,
    /// Of its last envelope.
    pub(super) number: u64,
    /// When that was made.
    pub(super) made_ms: u64,
    /// Its live flows as they were there: batches of beginnings. None where it has gone.
    pub(super) flows: Vec<Vec<u8>>,
    pub(super) gone: bool,
}

/// Why a mark can't be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum MarkError {
    #[error("it isn't of this fleet, or was changed")]
    Seal,
    #[error("it can't be read")]
    Malformed,
}

/// Seals marks, and opens those of others.
pub(super) struct Marker {
    fleet: FleetKeys,
    /// What all its marks begin with.
    head: Vec<u8>,
    key: LessSafeKey,
    counter: AtomicU64,
}

impl std::fmt::Debug for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marker").finish_non_exhaustive()
    }
}

impl Marker {
    pub(super) fn new(fleet: FleetKeys) -> Self {
        let (owner, secret) = (random::<OWNER_BYTES>(), random::<32>());
        let mut head = owner.to_vec();
        head.push(u8::try_from(fleet.all().len()).expect("a fleet has few keys"));
        for fleet in fleet.all() {
            let mut wrapped = secret.to_vec();
            let sealed = wrapping(fleet, &owner).seal_in_place_append_tag(
                nonce(0),
                Aad::empty(),
                &mut wrapped,
            );
            sealed.expect("AES-GCM takes this much");
            head.extend(wrapped);
        }
        Self {
            key: aes(&secret),
            fleet,
            head,
            counter: AtomicU64::new(0),
        }
    }

    pub(super) fn seal(&self, partition: u16, mark: &Mark) -> Bytes {
        // Each number is given once; nothing else hangs on it.
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let form = postcard::to_stdvec(mark).expect("marks can be written");
        let form = zstd::bulk::compress(&form, 1).expect("memory is enough for a mark");
        let mut sealed = [&self.head[..], &counter.to_le_bytes(), &form].concat();
        let from = self.head.len() + 8;
        let tag = self
            .key
            .seal_in_place_separate_tag(
                nonce(counter),
                aad(partition, &self.head),
                &mut sealed[from..],
            )
            .expect("AES-GCM takes this much");
        sealed.extend_from_slice(tag.as_ref());
        sealed.into()
    }

    pub(super) fn open(&self, partition: u16, sealed: &[u8]) -> Result<Mark, MarkError> {
        let malformed = MarkError::Malformed;
        let count = usize::from(*sealed.get(OWNER_BYTES).ok_or(malformed)?);
        let head_bytes = OWNER_BYTES + 1 + count * WRAPPED_BYTES;
        let (head, rest) = sealed.split_at_checked(head_bytes).ok_or(malformed)?;
        let (counter, rest) = rest.split_first_chunk().ok_or(malformed)?;
        let key = self.unwrap(head).ok_or(MarkError::Seal)?;
        let mut rest = rest.to_vec();
        let form = key
            .open_in_place(
                nonce(u64::from_le_bytes(*counter)),
                aad(partition, head),
                &mut rest,
            )
            .map_err(|_| MarkError::Seal)?;
        read(form)
    }

    /// The key of a mark, if it was wrapped for one that we have.
    fn unwrap(&self, head: &[u8]) -> Option<LessSafeKey> {
        let owner = head.first_chunk()?;
        let keys: Vec<_> = self
            .fleet
            .all()
            .iter()
            .map(|fleet| wrapping(fleet, owner))
            .collect();
        let mut wrapped = head[OWNER_BYTES + 1..].chunks_exact(WRAPPED_BYTES);
        wrapped.find_map(|wrapped| {
            keys.iter().find_map(|key| {
                let mut wrapped = wrapped.to_vec();
                let secret = key.open_in_place(nonce(0), Aad::empty(), &mut wrapped);
                Some(aes(secret.ok()?.first_chunk()?))
            })
        })
    }
}

fn read(form: &[u8]) -> Result<Mark, MarkError> {
    let form = zstd::bulk::decompress(form, MAX_MARK_BYTES).map_err(|_| MarkError::Malformed)?;
    match postcard::take_from_bytes(&form) {
        Ok((mark, [])) => Ok(mark),
        _ => Err(MarkError::Malformed),
    }
}

/// For a fuzz target. By the first byte: bytes of the broker's own in the place of a mark; a mark with changes, three
/// bytes each, the place and what is changed there; or what a collector of the fleet has sealed, compressed or not.
///
/// # Panics
/// If something is opened that wasn't sealed, or is read as what it isn't.
#[cfg(any(test, fuzzing))]
pub fn hostile_mark(bytes: &[u8]) {
    use std::sync::OnceLock;
    static SEALED: OnceLock<(Marker, Bytes)> = OnceLock::new();
    let Some((mode, rest)) = bytes.split_first() else {
        return;
    };
    let (marker, sealed) = SEALED.get_or_init(|| {
        let marker = Marker::new(FleetKeys::from(FleetKey::generate()));
        let sealed = marker.seal(3, &Mark::default());
        (marker, sealed)
    });
    match mode % 4 {
        0 => assert!(marker.open(3, rest).is_err()),
        1 => {
            let mut changed = sealed.to_vec();
            for change in rest.chunks_exact(3) {
                let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
                let place = place % changed.len();
                changed[place] ^= change[2];
            }
            let opened = marker.open(3, &changed);
            assert_eq!(opened.is_ok(), changed[..] == sealed[..], "{opened:?}");
        }
        compressed => {
            let form = match compressed {
                2 => rest.to_vec(),
                _ => zstd::bulk::compress(rest, 1).expect("memory is enough"),
            };
            if let Ok(mark) = read(&form) {
                let again = marker.seal(3, &mark);
                assert_eq!(marker.open(3, &again), Ok(mark));
            }
        }
    }
}

/// What wraps the key of this owner: for nothing else, so one nonce is enough.
fn wrapping(fleet: &FleetKey, owner: &[u8; OWNER_BYTES]) -> LessSafeKey {
    aes(&fleet.derive(&[b"mark", owner]))
}

fn aes(bytes: &[u8; 32]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, bytes).expect("32 bytes are a key"))
}

fn aad(partition: u16, head: &[u8]) -> Aad<Vec<u8>> {
    Aad::from([&partition.to_le_bytes(), head].concat())
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_by_the_fleet_only() {
        let fleet = FleetKeys::from(FleetKey::generate());
        let mark = Mark {
            fence: 7,
            sequence: 99,
            handed_over: false,
            sources: vec![SourceMark {
                instance: Instance([1; 16]),
                name: "web".into(),
                terms: Terms::default(),
                number: 4,
                made_ms: 5,
                flows: vec![b"secret.example".to_vec()],
                gone: false,
            }],
        };
        let one = Marker::new(fleet.clone());
        let sealed = one.seal(3, &mark);
        assert_ne!(one.seal(3, &mark), sealed);
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        let other = Marker::new(fleet);
        assert_eq!(other.open(3, &sealed).unwrap(), mark);
        assert_eq!(other.open(4, &sealed).unwrap_err(), MarkError::Seal);
        let stranger = Marker::new(FleetKey::generate().into());
        assert_eq!(stranger.open(3, &sealed).unwrap_err(), MarkError::Seal);
        for byte in 0..sealed.len() {
            let mut changed = sealed.to_vec();
            changed[byte] ^= 1;
            assert!(other.open(3, &changed).is_err(), "byte {byte}");
            assert!(other.open(3, &sealed[..byte]).is_err(), "{byte} bytes");
        }
    }

    #[test]
    fn collectors_read_each_others_marks_while_the_fleet_changes_its_key() {
        let old = FleetKeys::from(FleetKey::generate());
        let both = old.rotated().unwrap();
        let new = both.retired();
        let [old, both, new] = [old, both, new].map(Marker::new);
        let mark = Mark::default();
        for (from, to) in [(&old, &both), (&both, &old), (&both, &new), (&new, &both)] {
            assert_eq!(to.open(3, &from.seal(3, &mark)).unwrap(), mark);
        }
        assert_eq!(
            new.open(3, &old.seal(3, &mark)).unwrap_err(),
            MarkError::Seal
        );
    }

    #[test]
    fn whatever_the_broker_has_is_no_mark() {
        use crate::corpus::run;
        let mark = Mark {
            fence: 7,
            sequence: 300,
            handed_over: true,
            sources: vec![SourceMark {
                instance: Instance([1; 16]),
                name: "web".into(),
                terms: Terms::default(),
                number: 4,
                made_ms: 5,
                flows: vec![vec![6; 5]],
                gone: false,
            }],
        };
        let form = postcard::to_stdvec(&mark).unwrap();
        let formed = [&[3][..], &form].concat();
        run("mark", "form", &formed, hostile_mark);
        let compressed = zstd::bulk::compress(&form, 1).unwrap();
        let compressed = [&[2][..], &compressed].concat();
        run("mark", "compressed", &compressed, hostile_mark);
        run("mark", "changed", &[1, 3, 0, 1, 30, 0, 128], hostile_mark);
        run("mark", "foreign", &[0; 60], hostile_mark);
    }
}
