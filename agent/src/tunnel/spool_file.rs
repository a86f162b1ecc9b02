//! A file that batches go through, first in, first out.
//!
//! ```text
//! record  length u32 │ number u64 │ sealed: partition u16 │ events │ tag of 16 bytes
//! ```
//!
//! It has no name, and what is in it is sealed by AES-256-GCM (NIST SP 800-38D) under a key that only this process
//! has, in memory: when it ends, however it ends, nothing of it can be read. The agent's next life couldn't go on with
//! it anyway: a killed agent's window is a hole that the collector declares. A record's number is its nonce, and is
//! never used again.
//!
//! The file is used in circles, up to its size; when nothing is in it, it takes no room.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Bytes, BytesMut};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use super::batch::MAX_BATCH_BYTES;

const HEADER_BYTES: usize = 12;
const PARTITION_BYTES: usize = 2;

/// Where bytes lie: a file, and in tests one that fails.
pub(super) trait Storage {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()>;
    fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()>;
    /// Gives back what all of it takes.
    fn clear(&mut self) -> io::Result<()>;
}

impl Storage for File {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(bytes, at)
    }

    fn clear(&mut self) -> io::Result<()> {
        self.set_len(0)
    }
}

/// Batches on disk.
pub(super) struct SpoolFile<S> {
    storage: S,
    size: u64,
    key: LessSafeKey,
    /// Positions of what comes next, in and out. They never go back; the file's are their remainders.
    write: u64,
    read: u64,
    /// Of the last record, which may be taken back.
    before: u64,
    next_number: u64,
    /// The oldest one has this number, but for those that were skipped.
    oldest_number: u64,
    /// Numbers of records that were taken back, or couldn't be written.
    skipped: VecDeque<u64>,
}

/// A batch can't be stored.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// It has all that the operator gives it.
    #[error("it is full")]
    Full,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What is stored can't be had again.
#[derive(Debug, thiserror::Error)]
pub(super) enum LoadError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("something else has written to it")]
    Changed,
}

impl<S: Storage> SpoolFile<S> {
    /// An empty one of `size` bytes at most, with a key of its own.
    pub(super) fn new(storage: S, size: u64) -> io::Result<Self> {
        let mut key = [0; 32];
        let no_key = |_| io::Error::other("there is no randomness for a key");
        SystemRandom::new().fill(&mut key).map_err(no_key)?;
        let key = UnboundKey::new(&AES_256_GCM, &key).map_err(no_key)?;
        Ok(Self {
            storage,
            size,
            key: LessSafeKey::new(key),
            write: 0,
            read: 0,
            before: 0,
            next_number: 0,
            oldest_number: 0,
            skipped: VecDeque::new(),
        })
    }

    /// Bytes that are in it.
    pub(super) fn bytes(&self) -> u64 {
        self.write - self.read
    }

    pub(super) fn store(&mut self, partition: u16, events: &[u8]) -> Result<(), StoreError> {
        let length = PARTITION_BYTES + events.len() + AES_256_GCM.tag_len();
        if self.bytes() + (HEADER_BYTES + length) as u64 > self.size {
            return Err(StoreError::Full);
        }
        let number = self.next_number;
        let mut record = Vec::with_capacity(HEADER_BYTES + length);
        let length = u32::try_from(length).expect("batches are bounded");
        record.extend_from_slice(&length.to_le_bytes());
        record.extend_from_slice(&number.to_le_bytes());
        record.extend_from_slice(&partition.to_le_bytes());
        record.extend_from_slice(events);
        let (header, text) = record.split_at_mut(HEADER_BYTES);
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(number), Aad::from(&*header), text)
            .map_err(|_| io::Error::other("it can't be sealed"))?;
        record.extend_from_slice(tag.as_ref());
        self.next_number += 1;
        let (at, first) = self.place(self.write, record.len());
        let written = self.storage.write_at(&record[..first], at);
        let rest = &record[first..];
        let written = written.and_then(|()| match rest {
            [] => Ok(()),
            rest => self.storage.write_at(rest, 0),
        });
        if let Err(error) = written {
            self.skipped.push_back(number);
            // A disk that stays full would have them pile up.
            self.clear_if_empty();
            return Err(error.into());
        }
        self.before = self.write;
        self.write += record.len() as u64;
        Ok(())
    }

    /// Takes the last one back: nobody wants it any more.
    pub(super) fn take_back(&mut self) {
        self.skipped.push_back(self.next_number - 1);
        self.write = self.before;
        self.clear_if_empty();
    }

    /// The oldest one. What the file had before, and was read or taken back, doesn't come again.
    pub(super) fn load(&mut self) -> Result<(u16, Bytes), LoadError> {
        if self.bytes() == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut header = [0; HEADER_BYTES];
        self.read_from(self.read, &mut header)?;
        let [l0, l1, l2, l3, number @ ..] = header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let least = PARTITION_BYTES + AES_256_GCM.tag_len();
        if !(least..=least + MAX_BATCH_BYTES).contains(&length) {
            return Err(LoadError::Changed);
        }
        let mut sealed = BytesMut::zeroed(length);
        self.read_from(self.read + HEADER_BYTES as u64, &mut sealed)?;
        let number = u64::from_le_bytes(number);
        while self
            .skipped
            .pop_front_if(|skipped| *skipped == self.oldest_number)
            .is_some()
        {
            self.oldest_number += 1;
        }
        if number != self.oldest_number {
            return Err(LoadError::Changed);
        }
        let opened = self
            .key
            .open_in_place(nonce(number), Aad::from(&header), &mut sealed)
            .map_err(|_| LoadError::Changed)?;
        let opened = opened.len();
        let mut events = sealed.freeze();
        events.truncate(opened);
        let partition = u16::from_le_bytes([events[0], events[1]]);
        let events = events.slice(PARTITION_BYTES..);
        self.oldest_number += 1;
        self.read += (HEADER_BYTES + length) as u64;
        self.clear_if_empty();
        Ok((partition, events))
    }

    /// Forgets all that is in it.
    pub(super) fn clear(&mut self) {
        self.read = self.write;
        self.clear_if_empty();
    }

    fn clear_if_empty(&mut self) {
        if self.read == self.write {
            (self.read, self.write, self.before) = (0, 0, 0);
            self.oldest_number = self.next_number;
            self.skipped.clear();
            // What it can't give back it uses again.
            let _ = self.storage.clear();
        }
    }

    fn read_from(&mut self, position: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (at, first) = self.place(position, bytes.len());
        let (head, rest) = bytes.split_at_mut(first);
        self.storage.read_at(head, at)?;
        if !rest.is_empty() {
            self.storage.read_at(rest, 0)?;
        }
        Ok(())
    }

    /// Where a position is in the file, and how many bytes lie there before its end.
    fn place(&self, position: u64, length: usize) -> (u64, usize) {
        let at = position % self.size;
        let first = usize::try_from(self.size - at).unwrap_or(usize::MAX);
        (at, length.min(first))
    }
}

/// For a fuzz target: a spool on a disk that changes what it has. What comes back is what went in, or an error.
///
/// A step is two bytes: store so many bytes, load, take back the last one, forget all; change a byte of the disk, or
/// have it as it was at an earlier time.
///
/// # Panics
/// If something else comes back, or it takes more room than it may.
#[cfg(any(test, fuzzing))]
pub fn hostile_spool(bytes: &[u8]) {
    const SIZE: u64 = 700;
    let disk = Disk(vec![0; usize::try_from(SIZE).expect("small")]);
    let mut before = disk.0.clone();
    let mut spool = SpoolFile::new(disk, SIZE).expect("randomness");
    let mut model: VecDeque<(u16, Vec<u8>)> = VecDeque::new();
    let (mut number, mut stored_last, mut changed) = (0_u16, false, false);
    for &[what, how] in bytes.as_chunks().0 {
        let stored_before = std::mem::take(&mut stored_last);
        match what % 8 {
            0 | 1 => {
                let events = vec![how; usize::from(how)];
                number = number.wrapping_add(1);
                if spool.store(number, &events).is_ok() {
                    model.push_back((number, events));
                    stored_last = true;
                }
            }
            2 | 3 => match (spool.load(), model.front()) {
                (Ok((partition, events)), Some(expected)) => {
                    assert_eq!((partition, &events[..]), (expected.0, &expected.1[..]));
                    model.pop_front();
                }
                (Ok(other), None) => panic!("{other:?} from nowhere"),
                (Err(error), Some(_)) => assert!(changed, "{error}"),
                (Err(_), None) => {}
            },
            4 if stored_before && model.pop_back().is_some() => spool.take_back(),
            5 if how < 8 => {
                spool.clear();
                model.clear();
                changed = false;
            }
            6 => {
                let place = usize::from(how) * 2 + usize::from(what / 128);
                spool.storage.0[place] ^= 1 << (what / 8 % 8);
                changed = true;
            }
            7 if how < 128 => before.clone_from(&spool.storage.0),
            7 => {
                spool.storage.0.clone_from(&before);
                changed = true;
            }
            _ => {}
        }
        assert!(spool.bytes() <= SIZE);
        assert_eq!(spool.bytes() == 0, model.is_empty());
    }
}

#[cfg(any(test, fuzzing))]
struct Disk(Vec<u8>);

#[cfg(any(test, fuzzing))]
impl Storage for Disk {
    fn write_at(&mut self, bytes: &[u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).expect("within the file");
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn read_at(&mut self, bytes: &mut [u8], at: u64) -> io::Result<()> {
        let at = usize::try_from(at).expect("within the file");
        let found = self.0.get(at..at + bytes.len());
        bytes.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn clear(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out_in_order(
            size in 100..3000_u64,
            steps in prop::collection::vec((0..3_u8, 0..500_usize), 1..200),
        ) {
            let mut spool = SpoolFile::new(tempfile::tempfile().unwrap(), size).unwrap();
            let mut model = VecDeque::new();
            for (number, (step, length)) in (0_u16..).zip(steps) {
                let events = vec![number.to_le_bytes()[0]; length];
                match step {
                    0 => match model.pop_front() {
                        Some(expected) => prop_assert_eq!(spool.load().unwrap(), expected),
                        None => prop_assert!(spool.load().is_err()),
                    },
                    1 => match spool.store(number, &events) {
                        Ok(()) => model.push_back((number, Bytes::from(events))),
                        Err(StoreError::Full) => {
                            prop_assert!(spool.bytes() + length as u64 + 30 > size);
                        }
                        Err(StoreError::Io(error)) => panic!("{error}"),
                    },
                    _ => {
                        if spool.store(number, &events).is_ok() {
                            spool.take_back();
                        }
                    }
                }
                prop_assert!(spool.bytes() <= size);
                let taken = spool.storage.metadata().unwrap().len();
                prop_assert!(taken <= size && (taken == 0 || spool.bytes() > 0));
            }
        }
    }

    #[test]
    fn nothing_on_disk_can_be_read_or_changed() {
        let mut spool = SpoolFile::new(tempfile::tempfile().unwrap(), 10_000).unwrap();
        spool.store(7, b"the clear text of somebody").unwrap();
        let mut bytes = vec![0; usize::try_from(spool.bytes()).unwrap()];
        spool.storage.read_exact_at(&mut bytes, 0).unwrap();
        assert!(!bytes.windows(5).any(|part| part == b"clear"));
        for at in [0, 5, 20, bytes.len() - 1] {
            let right = bytes[at];
            spool.storage.write_all_at(&[right ^ 1], at as u64).unwrap();
            assert!(spool.load().is_err(), "byte {at}");
            spool.storage.write_all_at(&[right], at as u64).unwrap();
        }
        assert_eq!(spool.load().unwrap().1, &b"the clear text of somebody"[..]);
    }
}
