//! What the kernel lets through to a capture, in libpcap's language: SYNs, and segments that begin like a
//! ClientHello or a ServerHello. It knows no connections: of a hello in several segments it passes the first
//! one, if the hello's type is in there. [`super::ebpf`] knows them, where the kernel takes that.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use super::wire::{EXTENSION_HEADERS, EXTENSIONS};

/// Header of IPv6.
const IPV6_BYTES: usize = 40;

/// The filter for link types on which libpcap knows VLAN tags: with two of them, one, or none.
pub(super) fn tagged() -> String {
    // `vlan` shifts all that stands behind it in the whole expression.
    let untagged = untagged();
    format!("({untagged}) or (vlan and (({untagged}) or (vlan and ({untagged}))))")
}

/// The filter for the others. What a card or the kernel has taken a tag off has none there.
///
/// `tcp[…]` stands for IPv4 only. In front of IPv6's TCP the lengths of the extension headers are added up, for as many as
/// are expected: `protochain` is a loop, which the kernel doesn't take.
pub(super) fn untagged() -> String {
    let v4 = wanted("tcp", "0");
    let mut ways = vec![format!("(tcp and ({v4}))")];
    let (mut kind, mut at) = ("ip6[6]".to_owned(), IPV6_BYTES.to_string());
    let mut extended = String::from("ip6");
    for headers in 0..=EXTENSION_HEADERS {
        let v6 = wanted("ip6", &at);
        ways.push(format!("({extended} and {kind} = 6 and ({v6}))"));
        if headers < EXTENSION_HEADERS {
            let kinds = EXTENSIONS.map(|known| format!("{kind} = {known}"));
            extended = format!("{extended} and ({})", kinds.join(" or "));
            kind = format!("ip6[{at}]");
            at = format!("({at} + 8 + ip6[{at} + 1] * 8)");
        }
    }
    ways.join(" or ")
}

/// A SYN, or a hello in a TCP segment that begins `at` this place: byte 0 of the payload is the record's type (22:
/// handshake), byte 1 its major version, byte 5 the handshake's type (1, 2: the hellos).
fn wanted(base: &str, at: &str) -> String {
    let payload = format!("{at} + (({base}[{at} + 12] & 0xf0) >> 2)");
    format!(
        "({base}[{at} + 13] & 0x12 = 2) or ({base}[{payload}] = 22 and {base}[{payload} + 1] = 3 \
         and ({base}[{payload} + 5] = 1 or {base}[{payload} + 5] = 2))"
    )
}

/// Whether the kernel itself runs a socket's filter. What it doesn't take libpcap runs, and says nothing: every packet
/// of the interface would then come to this process.
///
/// # Errors
/// The kernel doesn't tell.
pub(super) fn runs_in_kernel(socket: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(crate::output::packet_socket::filter_length(socket)? > 0)
}

/// Sets it, and sees to it that the kernel runs it.
///
/// # Errors
/// libpcap's words, or that the kernel doesn't.
pub(super) fn set(source: &mut pcap::Capture<pcap::Active>, filter: &str) -> Result<(), String> {
    source
        .filter(filter, true)
        .map_err(|error| error.to_string())?;
    match runs_in_kernel(source.as_fd()) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel doesn't run it: all packets would come here".to_owned()),
        Err(error) => Err(format!(
            "the kernel doesn't say whether it runs it: {error}"
        )),
    }
}
