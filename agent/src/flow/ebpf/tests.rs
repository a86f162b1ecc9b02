//! The program as the kernel runs it. Needs the right to load it; says so and passes where it is missing.

use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};

use super::program::{KEY_BYTES, VALUE_BYTES, program};
use super::syscall::tests::run;
use super::syscall::{create_map, load_socket_filter};
use crate::flow::frames::{ethernet, hello, ipv4, ipv6, ipv6_extended, records, tcp};
use crate::flow::hello::tests::browser;
use crate::flow::wire::LinkType;

struct Kernel {
    program: OwnedFd,
    _windows: OwnedFd,
}

/// The program with room for so many windows.
fn kernel_with(link: LinkType, windows: u32) -> Option<Kernel> {
    let windows = match create_map(KEY_BYTES, VALUE_BYTES, windows) {
        Ok(windows) => windows,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
            eprintln!("skipped: no right to load programs here");
            return None;
        }
        Err(error) => panic!("{error}"),
    };
    let instructions = program(link, windows.as_raw_fd());
    let mut log = vec![0; 1 << 20];
    let loaded = load_socket_filter(&instructions, &mut log);
    let written = log.iter().position(|byte| *byte == 0).unwrap_or(0);
    let objection = String::from_utf8_lossy(&log[written.saturating_sub(2000)..written]);
    let program = loaded.unwrap_or_else(|error| panic!("{error}: {objection}"));
    Some(Kernel {
        program,
        _windows: windows,
    })
}

fn kernel(link: LinkType) -> Option<Kernel> {
    kernel_with(link, 64)
}

impl Kernel {
    /// How much of this packet passes; with an Ethernet header for the kernel's sake.
    fn asks(&self, protocol: u16, packet: &[u8]) -> usize {
        let frame = ethernet(protocol, packet);
        usize::try_from(run(&self.program, &frame)).unwrap()
    }

    /// How much of this payload passes, of a segment with the lengths of [`tcp`].
    fn payload(&self, port: u16, sequence: u32, payload: &[u8]) -> usize {
        let packet = ipv4(&tcp(port, 443, sequence, 0x18, payload));
        self.asks(0x0800, &packet)
            .saturating_sub(HEADERS)
            .min(payload.len())
    }
}

/// IPv4 and TCP as the tests make them.
const HEADERS: usize = 20 + 32;

fn long_hello() -> Vec<u8> {
    records(&browser(1500), 16_384)
}

#[test]
fn every_link_type_and_every_header() {
    let segment = tcp(5000, 443, 1, 0x18, &hello(1, [7; 32]));
    let bulk = tcp(5000, 443, 1, 0x18, &[23; 205]);
    let packets = |segment: &[u8]| {
        let mut packets = vec![(0x0800u16, ipv4(segment)), (0x86dd, ipv6(segment))];
        for extensions in [&[0][..], &[43, 60], &[60, 43, 60]] {
            packets.push((0x86dd, ipv6_extended(extensions, segment)));
        }
        packets
    };
    for link in [LinkType::Raw, LinkType::Ethernet, LinkType::LinuxSll2] {
        let Some(kernel) = kernel(link) else { return };
        for (segment, passes) in [(&segment, true), (&bulk, false)] {
            for (protocol, packet) in packets(segment) {
                for tags in 0..4 {
                    let (mut outer, mut inner) = (protocol, packet.clone());
                    for _ in 0..tags {
                        inner = [&[0, 5][..], &outer.to_be_bytes(), &inner].concat();
                        outer = 0x8100;
                    }
                    let (protocol, whole) = match link {
                        LinkType::Ethernet => (0x88b5, ethernet(outer, &inner)),
                        _ => (outer, inner),
                    };
                    let passes = passes && tags <= if link == LinkType::Raw { 0 } else { 2 };
                    let expected = if passes { whole.len() } else { 0 };
                    let passed = kernel.asks(protocol, &whole);
                    assert_eq!(passed, expected, "{link:?}, {protocol:x}, {tags} tags");
                }
            }
        }
        for extensions in [&[44][..], &[0, 60, 43, 60]] {
            let packet = ipv6_extended(extensions, &segment);
            let (protocol, packet) = match link {
                LinkType::Ethernet => (0x88b5, ethernet(0x86dd, &packet)),
                _ => (0x86dd, packet),
            };
            assert_eq!(kernel.asks(protocol, &packet), 0);
        }
    }
}

#[test]
fn a_hello_in_segments_passes_and_nothing_behind_it() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let hello = long_hello();
    let stream = [&hello[..], &[23; 3000]].concat();
    for (port, size) in (5000..).zip([1, 2, 5, 6, 8, 9, 42, 100, 1400]) {
        let mut passed = 0;
        for (n, piece) in stream.chunks(size).enumerate() {
            let sequence = u32::MAX
                .wrapping_sub(300)
                .wrapping_add(u32::try_from(n * size).unwrap());
            passed += kernel.payload(port, sequence, piece);
        }
        // Where the first piece doesn't tell how long it is, some more may be its.
        let expected = if size < 9 { 4096 } else { hello.len() };
        assert_eq!(passed, expected, "pieces of {size}");
    }
}

/// Somebody who doesn't want to be read cuts a hello into many records.
#[test]
fn a_hello_in_records_passes_and_not_much_behind_it() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let mut port = 0;
    let mut passed = |stream: &[u8], size: usize| -> usize {
        port += 1;
        let pieces = (0u32..).zip(stream.chunks(size));
        let at = |n: u32| n * u32::try_from(size).unwrap();
        pieces
            .map(|(n, piece)| kernel.payload(port, at(n), piece))
            .sum()
    };
    for most in [4, 37, 60, 1000] {
        let stream = [&records(&browser(1500), most)[..], &[23; 6000]].concat();
        for size in [9, 100, 1400, 3000] {
            let passed = passed(&stream, size);
            assert_eq!(passed, 4096, "records of {most}, pieces of {size}");
        }
    }
    let server = [&records(&hello(2, [7; 32])[5..], 20)[..], &[23; 6000]].concat();
    assert_eq!(passed(&server, 1400), 4096);
    // There are no empty records in a handshake.
    assert_eq!(passed(&[22, 3, 1, 0, 0, 1, 0, 0, 40, 3, 3], 11), 0);
}

#[test]
fn order_and_repetition_do_not_matter_behind_the_first() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let hello = long_hello();
    let at = |n: usize| 1000 + u32::try_from(n).unwrap();
    assert_eq!(kernel.payload(1, at(1400), &hello[1400..]), 0);
    assert_eq!(kernel.payload(1, at(0), &hello[..400]), 400);
    assert_eq!(
        kernel.payload(1, at(1400), &hello[1400..]),
        hello.len() - 1400
    );
    assert_eq!(kernel.payload(1, at(400), &hello[400..1400]), 1000);
    assert_eq!(kernel.payload(1, at(0), &hello[..400]), 400);
    // One that begins before it and ends behind it.
    let around = [&[0; 50][..], &hello, &[0; 70]].concat();
    assert_eq!(kernel.payload(1, at(0) - 50, &around), 50 + hello.len());
    assert_eq!(kernel.payload(1, at(0) - 50, &around[..50]), 0);
    // Behind it, and when the numbers have gone round.
    assert_eq!(kernel.payload(1, at(hello.len()), &[23; 100]), 0);
    assert_eq!(kernel.payload(1, at(400), &[23; 100]), 100);
    assert_eq!(kernel.payload(1, at(1 << 20), &[23; 100]), 0);
    assert_eq!(kernel.payload(1, at(400), &[23; 100]), 0);
}

#[test]
fn the_other_direction_and_other_ports_have_windows_of_their_own() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let hello = long_hello();
    assert_eq!(kernel.payload(1, 0, &hello[..400]), 400);
    assert_eq!(kernel.payload(2, 400, &hello[400..]), 0);
    let answer = ipv4(&tcp(443, 1, 400, 0x18, &hello[400..]));
    assert_eq!(kernel.asks(0x0800, &answer), 0);
    let other = ipv6(&tcp(1, 443, 400, 0x18, &hello[400..]));
    assert_eq!(kernel.asks(0x86dd, &other), 0);
}

#[test]
fn of_a_servers_hello_the_random_passes_and_of_a_syn_its_head() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    assert_eq!(kernel.payload(1, 0, &hello(2, [7; 32])), 43);
    assert_eq!(kernel.payload(1, 205, &hello(2, [7; 32])[43..]), 0);
    assert_eq!(kernel.payload(2, 0, &hello(2, [7; 32])[..20]), 20);
    assert_eq!(kernel.payload(2, 20, &hello(2, [7; 32])[20..]), 23);
    let syn = ipv4(&tcp(1, 443, 0, 2, b"with text"));
    assert_eq!(kernel.asks(0x0800, &syn), 40);
    let syn_ack = ipv4(&tcp(1, 443, 0, 0x12, &[]));
    assert_eq!(kernel.asks(0x0800, &syn_ack), 0);
}

#[test]
fn a_hello_passes_behind_a_change_cipher_spec() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let change = [20, 3, 3, 0, 1, 1];
    let behind = [&change[..], &hello(2, [7; 32])].concat();
    assert_eq!(kernel.payload(1, 0, &behind), 6 + 43);
    assert_eq!(kernel.payload(2, 0, &behind[..20]), 20);
    assert_eq!(kernel.payload(2, 20, &behind[20..]), 23 + 6);
    assert_eq!(kernel.payload(3, u32::MAX - 2, &behind[..20]), 20);
    assert_eq!(kernel.payload(3, 17, &behind[20..]), 23 + 6);
    let long = [&change[..], &long_hello(), &[23; 100]].concat();
    assert_eq!(kernel.payload(4, 0, &long[..400]), 400);
    assert_eq!(kernel.payload(4, 400, &long[400..]), long.len() - 500);
    // By itself, or in front of anything else.
    assert_eq!(kernel.payload(5, 0, &change), 0);
    assert_eq!(kernel.payload(5, 0, &[&change[..], &[23; 100]].concat()), 0);
    assert_eq!(kernel.payload(5, 0, &[&change[..], &change].concat()), 0);
    for (at, value) in [(0, 21), (1, 2), (3, 1), (4, 2), (5, 0)] {
        let mut other = behind.clone();
        other[at] = value;
        assert_eq!(kernel.payload(6, 0, &other), 0, "byte {at}");
    }
}

#[test]
fn a_storm_pushes_out_what_is_old_and_no_more() {
    let Some(kernel) = kernel_with(LinkType::Raw, 1024) else {
        return;
    };
    let hello = long_hello();
    for port in 0..20_000u16 {
        assert_eq!(kernel.payload(port, 0, &hello[..400]), 400);
    }
    assert_eq!(kernel.payload(20_000, 0, &hello[..400]), 400);
    assert_eq!(
        kernel.payload(20_000, 400, &hello[400..]),
        hello.len() - 400
    );
    let old = (0..20_000).filter(|port| kernel.payload(*port, 400, &hello[400..]) > 0);
    assert!(old.count() <= 1024);
}

#[test]
fn malformed_packets_do_not_pass() {
    let Some(kernel) = kernel(LinkType::Raw) else {
        return;
    };
    let good = ipv4(&tcp(1, 443, 0, 0x18, &hello(1, [7; 32])));
    let damaged = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        kernel.asks(0x0800, &packet)
    };
    assert!(damaged(0, 0x45) > 0);
    for (at, value) in [
        (0, 0x44),  // a header too short
        (0, 0x75),  // another version
        (2, 0),     // nothing in it
        (6, 0x20),  // a fragment
        (9, 17),    // UDP
        (32, 0x40), // a header of TCP too short
        (52, 23),   // no handshake
        (55, 0xff), // a record too long
        (57, 11),   // a certificate
    ] {
        assert_eq!(damaged(at, value), 0, "byte {at}");
    }
    for end in 21..good.len() {
        assert!(kernel.asks(0x0800, &good[..end]) <= good.len());
    }
}

#[test]
fn what_is_attached_is_no_classic_filter() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let length = || crate::output::packet_socket::filter_length(std::os::fd::AsFd::as_fd(&socket));
    assert_eq!(length().unwrap(), 0);
    let program = super::Program::load(LinkType::Raw);
    match program.and_then(|program| program.attach(std::os::fd::AsFd::as_fd(&socket))) {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => return,
        attached => attached.unwrap(),
    }
    assert!(length().is_err());
}
