#![allow(
    unsafe_code,
    reason = "getifaddrs(3) gives a C list that nothing in the standard library reads"
)]
//! This host: its name, and the addresses of its interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the kernel calls this host; empty: nobody knows.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

/// The addresses of all interfaces, each once. Empty where the kernel doesn't tell.
pub(super) fn own() -> Vec<IpAddr> {
    let mut list = std::ptr::null_mut();
    // SAFETY: `list` is a place for one pointer; on success it is ours until freeifaddrs.
    if unsafe { libc::getifaddrs(&raw mut list) } != 0 {
        return Vec::new();
    }
    let mut addresses = Vec::new();
    let mut next = list;
    while !next.is_null() {
        // SAFETY: an entry of the list, which isn't freed before the end of this function.
        let entry = unsafe { &*next };
        // SAFETY: an entry's address is null or a socket address of the length of its family.
        let address = unsafe { address_of(entry.ifa_addr) };
        if let Some(address) = address.filter(|address| !addresses.contains(address)) {
            addresses.push(address);
        }
        next = entry.ifa_next;
    }
    // SAFETY: from getifaddrs, and no reference into it is left.
    unsafe { libc::freeifaddrs(list) };
    addresses
}

/// # Safety
/// `address` is null, or points at a socket address which has the length that its family has.
unsafe fn address_of(address: *const libc::sockaddr) -> Option<IpAddr> {
    if address.is_null() {
        return None;
    }
    // SAFETY: as the caller says, it has a family.
    let family = unsafe { (*address).sa_family };
    match i32::from(family) {
        libc::AF_INET => {
            // SAFETY: as the caller says, the family AF_INET has this form; it may lie at any address.
            let v4 = unsafe { address.cast::<libc::sockaddr_in>().read_unaligned() };
            Some(Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as the caller says, the family AF_INET6 has this form; it may lie at any address.
            let v6 = unsafe { address.cast::<libc::sockaddr_in6>().read_unaligned() };
            Some(Ipv6Addr::from(v6.sin6_addr.s6_addr).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_addresses() {
        assert!(own().contains(&IpAddr::from([127, 0, 0, 1])), "{:?}", own());
        assert!(!host_name().is_empty());
    }
}
