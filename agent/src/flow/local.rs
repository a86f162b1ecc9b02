//! The addresses of a process's network namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::event::ProcessInfo;

/// What stands behind so much of a file isn't read: tables of routes may be huge.
const MOST_BYTES: u64 = 4 << 20;

/// Of a route to an address of the namespace itself, in `ipv6_route`: <linux/ipv6_route.h>.
const RTF_LOCAL: u32 = 0x8000_0000;

/// Addresses, each with so many bits that count: those on interfaces, and whatever else is delivered there
/// (transparent proxies, `ip route add local`).
#[derive(Debug, Default)]
pub(super) struct LocalAddresses(Vec<(IpAddr, u32)>);

impl LocalAddresses {
    /// By `/proc/PID/net/fib_trie` and `ipv6_route`. `None`: nobody can say.
    pub(super) fn of(process: &ProcessInfo) -> Option<Self> {
        Self::in_tables(|file| lines(process, file))
    }

    fn in_tables<L: Iterator<Item = String>>(open: impl Fn(&str) -> Option<L>) -> Option<Self> {
        let (trie, routes) = (open("fib_trie")?, open("ipv6_route"));
        // A kernel may have no IPv6; or the process has ended between the two.
        if routes.is_none() {
            open("fib_trie")?;
        }
        let mut found = local_v4(trie);
        let routes = routes.into_iter().flatten();
        found.extend(routes.filter_map(|line| local_v6(&line)));
        found.sort_unstable();
        found.dedup();
        (!found.is_empty()).then_some(Self(found))
    }

    pub(super) fn have(&self, address: IpAddr) -> bool {
        let mut prefixes = self.0.iter();
        prefixes.any(|(prefix, bits)| is_within(address, *prefix, *bits))
    }
}

/// The lines of a file of the process's network.
pub(super) fn lines(
    process: &ProcessInfo,
    file: &str,
) -> Option<impl Iterator<Item = String> + use<>> {
    let file = File::open(format!("/proc/{}/net/{file}", process.pid)).ok()?;
    let lines = BufReader::new(file.take(MOST_BYTES)).lines();
    Some(lines.map_while(Result::ok))
}

/// A prefix is in one line, `|-- 127.0.0.0`, and what it is for in those behind it, `/8 host LOCAL`.
fn local_v4(lines: impl Iterator<Item = String>) -> Vec<(IpAddr, u32)> {
    let (mut prefix, mut found) = (None, Vec::new());
    for line in lines {
        let line = line.trim_start();
        if let Some(address) = line.strip_prefix("|-- ") {
            prefix = address.parse::<Ipv4Addr>().ok();
        } else if let Some(bits) = line.strip_suffix(" host LOCAL")
            && let Some(prefix) = prefix
            && let Some(Ok(bits)) = bits.strip_prefix('/').map(str::parse)
        {
            found.push((prefix.into(), bits));
        }
    }
    found
}

/// A line is destination, bits, source, bits, next hop, metric, references, use, flags and device, in hexadecimal digits.
fn local_v6(line: &str) -> Option<(IpAddr, u32)> {
    let mut words = line.split_ascii_whitespace();
    let prefix = u128::from_str_radix(words.next()?, 16).ok()?;
    let bits = u32::from_str_radix(words.next()?, 16).ok()?;
    let flags = u32::from_str_radix(words.nth(6)?, 16).ok()?;
    let prefix = Ipv6Addr::from_bits(prefix).into();
    (flags & RTF_LOCAL != 0).then_some((prefix, bits))
}

fn is_within(address: IpAddr, prefix: IpAddr, bits: u32) -> bool {
    match (address, prefix) {
        (IpAddr::V4(address), IpAddr::V4(prefix)) => {
            let differing = address.to_bits() ^ prefix.to_bits();
            bits <= 32 && differing.leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(prefix)) => {
            let differing = address.to_bits() ^ prefix.to_bits();
            bits <= 128 && differing.leading_zeros() >= bits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn local_prefixes_are_found_and_no_others() {
        let trie = "Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     |-- 127.0.0.0
        /8 link UNICAST
        /8 host LOCAL
     |-- 192.0.2.0
        /24 link UNICAST
     |-- 192.0.2.2
        /32 host LOCAL
     |-- nonsense
        /32 host LOCAL
        /zz host LOCAL";
        let found = local_v4(trie.lines().map(str::to_owned));
        assert_eq!(found, [(ip("127.0.0.0"), 8), (ip("192.0.2.2"), 32)]);
        let route = |prefix: &str, bits: &str, flags: &str| {
            let zeros = "0".repeat(32);
            local_v6(&format!(
                "{prefix:0<32} {bits} {zeros} 00 {zeros} 00000000 00000004 00000000 {flags}  eth0"
            ))
        };
        let found = route("fd08", "40", "80200001");
        assert_eq!(found, Some((ip("fd08::"), 64)));
        assert_eq!(route("fd08", "40", "00000001"), None);
        assert_eq!(local_v6("zz"), None);
    }

    #[test]
    fn who_ends_meanwhile_has_no_half_of_its_addresses() {
        let trie = ["|-- 127.0.0.0", "/8 host LOCAL"];
        // So many files are opened while it is there.
        let there_for = |opened: u32| {
            let left = std::cell::Cell::new(opened);
            LocalAddresses::in_tables(|file| {
                left.set(left.get().checked_sub(1)?);
                (file == "fib_trie").then(|| trie.map(str::to_owned).into_iter())
            })
        };
        assert!(there_for(1).is_none());
        assert!(there_for(2).is_none());
        assert!(there_for(3).is_some_and(|own| own.have(ip("127.0.0.1"))));
    }

    #[test]
    fn a_prefix_has_its_addresses() {
        for (address, prefix, bits, is_there) in [
            ("127.0.0.9", "127.0.0.0", 8, true),
            ("127.0.0.9", "127.1.0.0", 16, false),
            ("127.0.0.9", "127.0.0.9", 32, true),
            ("127.0.0.9", "127.0.0.8", 32, false),
            ("127.0.0.9", "0.0.0.0", 0, true),
            ("127.0.0.9", "127.0.0.9", 33, false),
            ("127.0.0.9", "::", 0, false),
            ("fd08::2", "fd08::2", 128, true),
            ("fd08::2", "fd08::3", 128, false),
            ("fd08::2", "fd08::", 64, true),
            ("fd08::2", "::", 0, true),
        ] {
            let local = LocalAddresses(vec![(ip(prefix), bits)]);
            assert_eq!(
                local.have(ip(address)),
                is_there,
                "{address} {prefix}/{bits}"
            );
        }
    }

    #[test]
    fn this_process_has_its_own() {
        let process = ProcessInfo {
            pid: std::process::id(),
            ..ProcessInfo::default()
        };
        let own = LocalAddresses::of(&process).unwrap();
        assert!(own.have(ip("127.0.0.1")) && own.have(ip("::1")));
        assert!(!own.have(ip("198.51.100.7")) && !own.have(ip("2001:db8::7")));
        assert!(LocalAddresses::of(&ProcessInfo::default()).is_none());
    }
}
