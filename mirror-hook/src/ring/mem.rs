//! The memory that a ring lies in: the trait, and a heap memory for tests, fuzzing and loom. The
//! mapped one is [`crate::shm::Mapping`].

use crate::layout::{CLOSE_ENTRIES, CLOSE_ENTRY_BYTES, CLOSE_TABLE, CONTROL_BYTES, control};
use crate::sync::{AtomicU64, Ordering, before_seq_cst_load};

/// Shared memory as both ends use it: words by atomics, bytes by copies, never a reference.
///
/// `at` is an offset from the beginning of the control page. What lies outside the memory reads as
/// zero and is ignored when written: code in somebody else's process doesn't panic, and the callers
/// have checked their bounds. Words of 8 bytes lie at multiples of 8, of 4 bytes at multiples of 4.
pub trait Memory {
    /// Size in bytes, the control pages included.
    fn length_bytes(&self) -> usize;
    /// Loads the u64 at `at`.
    fn load_u64(&self, at: usize, order: Ordering) -> u64;
    /// Stores the u64 at `at`.
    fn store_u64(&self, at: usize, value: u64, order: Ordering);
    /// Replaces `current` by `new`, sequentially consistent.
    ///
    /// # Errors
    /// The value found, where it wasn't `current`.
    fn compare_exchange_u64(&self, at: usize, current: u64, new: u64) -> Result<u64, u64>;
    /// Adds to a counter, behind all earlier stores (Release).
    fn add_u64(&self, at: usize, value: u64);
    /// Loads the u32 at `at`.
    fn load_u32(&self, at: usize, order: Ordering) -> u32;
    /// Stores the u32 at `at`.
    fn store_u32(&self, at: usize, value: u32, order: Ordering);
    /// Replaces `current` by `new`, sequentially consistent.
    ///
    /// # Errors
    /// The value found, where it wasn't `current`.
    fn compare_exchange_u32(&self, at: usize, current: u32, new: u32) -> Result<u32, u32>;
    /// Copies `bytes` in.
    fn write(&self, at: usize, bytes: &[u8]);
    /// Copies out, once: what has been copied is not read again from the shared memory.
    fn read(&self, at: usize, out: &mut [u8]);
    /// Zeroes `length` bytes.
    fn zero(&self, at: usize, length: usize);
    /// FUTEX_WAKE of one waiter on the u32 at `at`.
    fn wake(&self, at: usize);
}

impl<M: Memory> Memory for &M {
    fn length_bytes(&self) -> usize {
        (**self).length_bytes()
    }
    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        (**self).load_u64(at, order)
    }
    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        (**self).store_u64(at, value, order);
    }
    fn compare_exchange_u64(&self, at: usize, current: u64, new: u64) -> Result<u64, u64> {
        (**self).compare_exchange_u64(at, current, new)
    }
    fn add_u64(&self, at: usize, value: u64) {
        (**self).add_u64(at, value);
    }
    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        (**self).load_u32(at, order)
    }
    fn store_u32(&self, at: usize, value: u32, order: Ordering) {
        (**self).store_u32(at, value, order);
    }
    fn compare_exchange_u32(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        (**self).compare_exchange_u32(at, current, new)
    }
    fn write(&self, at: usize, bytes: &[u8]) {
        (**self).write(at, bytes);
    }
    fn read(&self, at: usize, out: &mut [u8]) {
        (**self).read(at, out);
    }
    fn zero(&self, at: usize, length: usize) {
        (**self).zero(at, length);
    }
    fn wake(&self, at: usize) {
        (**self).wake(at);
    }
}

/// A ring's memory on the heap: for tests, fuzzing and loom, which it gives one atomic a word. It
/// holds only the words of the control pages that have a meaning.
#[derive(Debug)]
pub struct HeapMemory {
    words: Vec<AtomicU64>,
    close_entries: usize,
}

/// Words at the beginning of the control page that are in use.
const CONTROL_WORDS: usize = control::EXCLUDED_UNKNOWN / 8 + 1;
const CLOSE_WORDS: usize = CLOSE_ENTRY_BYTES / 8;

impl HeapMemory {
    /// A zeroed memory for a ring of `data_bytes`, a multiple of 8.
    pub fn new(data_bytes: usize) -> Self {
        Self::with_close_entries(data_bytes, CLOSE_ENTRIES)
    }

    /// The same with a shorter close table: the rest of it reads as never free.
    pub(crate) fn with_close_entries(data_bytes: usize, close_entries: usize) -> Self {
        let count = CONTROL_WORDS + close_entries * CLOSE_WORDS + data_bytes / 8;
        Self {
            words: (0..count).map(|_| AtomicU64::new(0)).collect(),
            close_entries,
        }
    }

    fn word(&self, at: usize) -> Option<&AtomicU64> {
        let table_words = self.close_entries * CLOSE_WORDS;
        let index = if at >= CONTROL_BYTES {
            CONTROL_WORDS + table_words + (at - CONTROL_BYTES) / 8
        } else if at >= CLOSE_TABLE {
            let within = (at - CLOSE_TABLE) / 8;
            CONTROL_WORDS + Some(within).filter(|within| *within < table_words)?
        } else {
            Some(at / 8).filter(|index| *index < CONTROL_WORDS)?
        };
        self.words.get(index)
    }

    /// Changes the bytes of one word, atomically as a whole.
    fn change(&self, at: usize, change: impl Fn([u8; 8]) -> Option<[u8; 8]>) -> Option<u64> {
        let word = self.word(at)?;
        let mut current = word.load(Ordering::Relaxed);
        loop {
            let Some(new) = change(current.to_ne_bytes()) else {
                return Some(current);
            };
            match word.compare_exchange(
                current,
                u64::from_ne_bytes(new),
                Ordering::SeqCst,
                Ordering::SeqCst,
            ) {
                Ok(previous) => return Some(previous),
                Err(found) => current = found,
            }
        }
    }

    fn put(&self, at: usize, bytes: &[u8]) {
        let (mut at, mut bytes) = (at, bytes);
        while !bytes.is_empty() {
            let within = at % 8;
            let (now, rest) = bytes.split_at(bytes.len().min(8 - within));
            if let Ok(word) = <[u8; 8]>::try_from(now) {
                self.store_u64(at, u64::from_ne_bytes(word), Ordering::Relaxed);
            } else if let Some(word) = self.word(at) {
                // Only the record's owner writes here, so this needs no exchange.
                let mut value = word.load(Ordering::Relaxed).to_ne_bytes();
                value[within..within + now.len()].copy_from_slice(now);
                word.store(u64::from_ne_bytes(value), Ordering::Relaxed);
            }
            at += now.len();
            bytes = rest;
        }
    }
}

/// The four bytes at `at` of the eight that hold them.
fn half(word: [u8; 8], at: usize) -> u32 {
    let from = at % 8;
    let mut out = [0; 4];
    out.copy_from_slice(&word[from..from + 4]);
    u32::from_ne_bytes(out)
}

fn with_half(mut word: [u8; 8], at: usize, value: u32) -> [u8; 8] {
    let from = at % 8;
    word[from..from + 4].copy_from_slice(&value.to_ne_bytes());
    word
}

impl Memory for HeapMemory {
    fn length_bytes(&self) -> usize {
        CONTROL_BYTES + (self.words.len() - CONTROL_WORDS - self.close_entries * CLOSE_WORDS) * 8
    }

    fn load_u64(&self, at: usize, order: Ordering) -> u64 {
        before_seq_cst_load(order);
        self.word(at).map_or(0, |word| word.load(order))
    }

    fn store_u64(&self, at: usize, value: u64, order: Ordering) {
        if let Some(word) = self.word(at) {
            word.store(value, order);
        }
    }

    fn compare_exchange_u64(&self, at: usize, current: u64, new: u64) -> Result<u64, u64> {
        let word = self.word(at).ok_or(!current)?;
        word.compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
    }

    fn add_u64(&self, at: usize, value: u64) {
        if let Some(word) = self.word(at) {
            word.fetch_add(value, Ordering::Release);
        }
    }

    fn load_u32(&self, at: usize, order: Ordering) -> u32 {
        half(self.load_u64(at & !7, order).to_ne_bytes(), at)
    }

    fn store_u32(&self, at: usize, value: u32, _order: Ordering) {
        self.change(at, |word| Some(with_half(word, at, value)));
    }

    fn compare_exchange_u32(&self, at: usize, current: u32, new: u32) -> Result<u32, u32> {
        let found = self
            .change(at, |word| {
                (half(word, at) == current).then(|| with_half(word, at, new))
            })
            .map_or(!current, |word| half(word.to_ne_bytes(), at));
        if found == current {
            Ok(found)
        } else {
            Err(found)
        }
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.put(at, bytes);
    }

    fn read(&self, at: usize, out: &mut [u8]) {
        let mut at = at;
        let mut out = out;
        while !out.is_empty() {
            let within = at % 8;
            let bytes = self.load_u64(at - within, Ordering::Relaxed).to_ne_bytes();
            let count = out.len().min(8 - within);
            let (now, rest) = out.split_at_mut(count);
            now.copy_from_slice(&bytes[within..within + count]);
            at += count;
            out = rest;
        }
    }

    fn zero(&self, at: usize, length: usize) {
        let mut done = 0;
        while done < length {
            let count = (length - done).min(8 - (at + done) % 8);
            self.put(at + done, &[0; 8][..count]);
            done += count;
        }
    }

    fn wake(&self, _at: usize) {}
}
