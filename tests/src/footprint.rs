//! What a process holds: descriptors, threads, memory. A mirror leaves nothing behind.

use std::collections::BTreeMap;
use std::path::Path;

/// What a process holds at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// How many descriptors lead to each kind of thing; numbers of sockets and the like are left out.
    pub descriptors: BTreeMap<String, usize>,
    /// Number of threads.
    pub threads: usize,
    /// Memory in use, kilobytes.
    pub resident_kb: u64,
    /// Address space, kilobytes.
    pub address_kb: u64,
}

impl Footprint {
    /// Of the process `id`; `None` while it ends.
    pub fn of(id: u32) -> Option<Self> {
        let process = Path::new("/proc").join(id.to_string());
        let mut descriptors = BTreeMap::new();
        for descriptor in std::fs::read_dir(process.join("fd")).ok()? {
            let target = std::fs::read_link(descriptor.ok()?.path()).ok()?;
            let target = target.to_string_lossy().into_owned();
            let kind = target.split('[').next().unwrap_or_default().to_owned();
            *descriptors.entry(kind).or_default() += 1;
        }
        let status = std::fs::read_to_string(process.join("status")).ok()?;
        let kilobytes = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Some(Self {
            descriptors,
            threads: std::fs::read_dir(process.join("task")).ok()?.count(),
            resident_kb: kilobytes("VmRSS:")?,
            address_kb: kilobytes("VmSize:")?,
        })
    }
}

/// The most memory that a process has had in use so far, in bytes.
///
/// # Panics
/// If there is no such process.
pub fn peak_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kilobytes.expect("VmHWM") * 1024
}

/// Connections on IPv4 to this port that a process here still holds.
///
/// # Panics
/// If the kernel doesn't tell.
pub fn connections(port: u16) -> usize {
    // As in the kernel's net/tcp_states.h.
    const ESTABLISHED: &str = "01";
    const CLOSE_WAIT: &str = "08";
    let table = std::fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp");
    let local = format!(":{port:04X}");
    let held = table.lines().skip(1).filter(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        words[1].ends_with(&local) && [ESTABLISHED, CLOSE_WAIT].contains(&words[3])
    });
    held.count()
}
