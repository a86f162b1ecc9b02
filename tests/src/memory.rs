//! What stands in the memory of other processes.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

/// A mapping of a process, by `/proc/PID/maps`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// First address.
    pub from: u64,
    /// Address behind the last.
    pub to: u64,
    /// The file's name, or what stands in its place.
    pub name: String,
}

/// The mappings of a process that can be read.
///
/// # Panics
/// If there is no such process.
pub fn mappings(id: u32) -> Vec<Mapped> {
    let maps = fs::read_to_string(format!("/proc/{id}/maps")).expect("a process's mappings");
    let lines = maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let readable = words.next()?.starts_with('r');
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        readable.then(|| Mapped {
            from: address(from),
            to: address(to),
            name: words.skip(3).collect::<Vec<_>>().join(" "),
        })
    });
    lines.collect()
}

/// The rings that a process has mapped: an application its own, an agent those that it reads.
pub fn rings(id: u32) -> Vec<Mapped> {
    let mut found = mappings(id);
    found.retain(|mapped| mapped.name.starts_with("/memfd:sslcollector"));
    found
}

/// How often `text` stands in these mappings of a process. What can't be read doesn't count.
///
/// # Panics
/// If there is no such process, or it isn't ours to look at.
pub fn count(id: u32, mappings: &[Mapped], text: &[u8]) -> usize {
    const STEP: u64 = 1 << 20;
    let memory = File::open(format!("/proc/{id}/mem")).expect("a process's memory");
    let mut found = 0;
    for mapped in mappings {
        let mut from = mapped.from;
        while from < mapped.to {
            // What begins in one step and ends in the next is seen in the first.
            let length = (mapped.to - from).min(STEP + text.len() as u64 - 1);
            let mut bytes = vec![0; usize::try_from(length).expect("a step")];
            if memory.read_exact_at(&mut bytes, from).is_ok() {
                found += occurrences(&bytes, text);
            }
            from += STEP;
        }
    }
    found
}

/// The number at an address of a process, if it can be read.
pub fn word(id: u32, address: u64) -> Option<u32> {
    let memory = File::open(format!("/proc/{id}/mem")).ok()?;
    let mut bytes = [0; 4];
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(u32::from_ne_bytes(bytes))
}

/// How often `text` stands in `bytes`.
pub fn occurrences(bytes: &[u8], text: &[u8]) -> usize {
    let (first, rest) = text.split_first().expect("a text");
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts
        .filter(|(at, _)| bytes[at + 1..].starts_with(rest))
        .count()
}
