//! Interfaces for an output: makes a pair of virtual ones, and knows the one that leads to the world.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use agent::output::leave_cutting_to_kernel;
use anyhow::{Context, bail};

/// What is appended to the output's name for the end at which a sensor listens.
const FAR_SUFFIX: &str = "-tap";
/// The kernel takes no longer names.
const NAME_BYTES: usize = 15;

/// How long the kernel may take to say that a new pair runs: it looks about once a second.
const CARRIER: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(20);

/// A route that refuses is in the kernel's table, too (RTF_REJECT of <linux/route.h>).
const REFUSES: u32 = 0x0200;

/// Makes `name` and its other end, `name-tap`, both up and without addresses, if there is no `name` yet. Returns
/// what was done. They stay when the agent ends, so that a sensor keeps its interface.
///
/// # Errors
/// They can't be made; says why.
pub(crate) fn make(name: &str) -> anyhow::Result<Option<String>> {
    if exists(name) {
        return Ok(None);
    }
    let far = format!("{name}{FAR_SUFFIX}");
    if far.len() > NAME_BYTES {
        bail!(
            "{name} is too long a name for --create: {} characters at most",
            NAME_BYTES - FAR_SUFFIX.len()
        );
    }
    ip(&["link", "add", name, "type", "veth", "peer", "name", &far])?;
    // Else the far end would get large packets uncut (--wire-only), and unfinished checksums. Nobody else sends here.
    let _ = leave_cutting_to_kernel(name);
    for end in [name, far.as_str()] {
        // An interface with addresses speaks of its own accord.
        ip(&[
            "link",
            "set",
            "dev",
            end,
            "addrgenmode",
            "none",
            "arp",
            "off",
            "up",
        ])?;
    }
    await_carrier(name)?;
    Ok(Some(format!(
        "made {name} and its other end {far}: a sensor may listen at either; `ip link del {name}` removes both"
    )))
}

/// Packets that are sent before don't count as sent. One that takes longer is waited for as any that is down.
fn await_carrier(name: &str) -> anyhow::Result<()> {
    let begin = Instant::now();
    while !ip(&["-oneline", "link", "show", "dev", name])?.contains("state UP")
        && begin.elapsed() < CARRIER
    {
        std::thread::sleep(LOOK);
    }
    Ok(())
}

fn exists(name: &str) -> bool {
    let table = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    table.lines().any(|line| {
        line.split_once(':')
            .is_some_and(|(interface, _)| interface.trim() == name)
    })
}

fn ip(words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("ip").args(words).stdin(Stdio::null()).output();
    let output = match output {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!("--create needs the command `ip` (package iproute2)")
        }
        output => output.context("can't run `ip`")?,
    };
    if !output.status.success() {
        let why = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed: {}", words.join(" "), why.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether packets for anybody leave by this interface.
pub(crate) fn has_default_route(name: &str) -> bool {
    let read = |file: &str| std::fs::read_to_string(Path::new("/proc/self/net").join(file));
    let v4 = read("route").unwrap_or_default();
    let v6 = read("ipv6_route").unwrap_or_default();
    leads_out_v4(&v4, name) || leads_out_v6(&v6, name)
}

/// Columns: interface, destination, gateway, flags, …, mask (the eighth); hexadecimal.
fn leads_out_v4(table: &str, name: &str) -> bool {
    table.lines().skip(1).any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let flags = |text| u32::from_str_radix(text, 16).unwrap_or(0);
        match columns.as_slice() {
            [
                interface,
                "00000000",
                _,
                route_flags,
                _,
                _,
                _,
                "00000000",
                ..,
            ] => *interface == name && flags(route_flags) & REFUSES == 0,
            _ => false,
        }
    })
}

/// Columns: destination, its bits, …, flags (the ninth), interface; hexadecimal.
fn leads_out_v6(table: &str, name: &str) -> bool {
    table.lines().any(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        match columns.as_slice() {
            [destination, "00", _, _, _, _, _, _, flags, interface] => {
                let flags = u32::from_str_radix(flags, 16).unwrap_or(0);
                destination.bytes().all(|byte| byte == b'0')
                    && *interface == name
                    && flags & REFUSES == 0
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_found() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                     eth0\t00000000\t0100A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                     eth1\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                     eth2\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert!(leads_out_v4(table, "eth0"));
        assert!(!leads_out_v4(table, "eth1") && !leads_out_v4(table, "eth2"));
        let zeros = "00000000000000000000000000000000";
        let table = format!(
            "{zeros} 00 {zeros} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
             {zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n\
             fe800000000000000000000000000000 40 {zeros} 00 {zeros} 00000100 00000001 00000000 00000001     eth1\n"
        );
        assert!(leads_out_v6(&table, "eth0"));
        assert!(!leads_out_v6(&table, "lo") && !leads_out_v6(&table, "eth1"));
    }
}
