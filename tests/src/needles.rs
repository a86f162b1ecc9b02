//! Looks for many byte strings at once: in files, and in the memory of other processes.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::memory::Mapped;

/// Bytes by which a needle is recognised first.
const BEGIN: usize = 8;

/// What is looked for.
#[derive(Debug, Default)]
pub struct Needles {
    names: Vec<String>,
    by_begin: HashMap<[u8; BEGIN], Vec<(usize, Vec<u8>)>>,
    /// Whether a needle begins with these two bytes.
    begins: Vec<bool>,
}

impl Needles {
    /// None.
    pub fn new() -> Self {
        Self {
            begins: vec![false; 1 << 16],
            ..Self::default()
        }
    }

    /// Adds one, under a name that several may share.
    ///
    /// # Panics
    /// If it has less than 8 bytes, which may be anywhere by chance.
    pub fn add(&mut self, name: &str, bytes: &[u8]) {
        let begin = *bytes.first_chunk().expect("a long needle");
        self.begins[two(&begin)] = true;
        let number = self.names.len();
        self.names.push(name.to_owned());
        let same = self.by_begin.entry(begin).or_default();
        same.push((number, bytes.to_vec()));
    }

    /// Adds one as it is, and as hexadecimal digits of both cases.
    ///
    /// # Panics
    /// As above.
    pub fn add_with_digits(&mut self, name: &str, bytes: &[u8]) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        self.add(name, bytes);
        self.add(&format!("{name} in digits"), digits.as_bytes());
        self.add(
            &format!("{name} in digits"),
            digits.to_uppercase().as_bytes(),
        );
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.names.len()
    }

    /// The names of those that are in `haystack`.
    pub fn found_in(&self, haystack: &[u8]) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        for (at, begin) in haystack.windows(BEGIN).enumerate() {
            if !self.begins[two(begin)] {
                continue;
            }
            for (number, needle) in self.by_begin.get(begin).into_iter().flatten() {
                if haystack[at..].starts_with(needle) {
                    found.insert(&*self.names[*number]);
                }
            }
        }
        found
    }

    /// The names of those that are in these mappings of a process; and how many bytes were looked at. What the kernel
    /// lets nobody read, as its own pages there, doesn't count.
    ///
    /// # Panics
    /// If there is no such process, or it isn't ours to look at.
    pub fn found_in_process(&self, id: u32, mappings: &[Mapped]) -> (BTreeSet<&str>, usize) {
        let memory = File::open(format!("/proc/{id}/mem")).expect("its memory");
        let mut found = BTreeSet::new();
        let mut looked_at = 0;
        for mapped in mappings {
            let length = usize::try_from(mapped.to - mapped.from).expect("a length");
            let mut bytes = vec![0; length];
            if memory.read_exact_at(&mut bytes, mapped.from).is_ok() {
                looked_at += length;
                found.extend(self.found_in(&bytes));
            }
        }
        (found, looked_at)
    }
}

fn two(begin: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([begin[0], begin[1]]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::mappings;

    #[test]
    fn finds_what_is_there_and_nothing_else() {
        let mut needles = Needles::new();
        needles.add_with_digits("one", &[0xab; 32]);
        needles.add("two", b"12345678901234567890");
        needles.add("three", b"12345678_");
        let mut haystack = vec![0; 1000];
        haystack[100..120].copy_from_slice(b"12345678901234567890");
        assert_eq!(needles.found_in(&haystack), BTreeSet::from(["two"]));
        haystack[968..].fill(0xab);
        assert_eq!(needles.found_in(&haystack), BTreeSet::from(["one", "two"]));
        assert!(needles.found_in(&haystack[..999]).len() == 1);
        let digits = "ab".repeat(32);
        assert_eq!(
            needles.found_in(digits.as_bytes()),
            BTreeSet::from(["one in digits"])
        );
    }

    #[test]
    fn finds_what_is_in_this_process() {
        let mut needles = Needles::new();
        let marker: Vec<u8> = (100..150).collect();
        needles.add("marker", &marker);
        let id = std::process::id();
        let (found, looked_at) = needles.found_in_process(id, &mappings(id));
        assert_eq!(found, BTreeSet::from(["marker"]));
        assert!(looked_at > 100_000);
    }
}
