use super::*;
use crate::flow::frames::hello;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

#[test]
fn the_filter_compiles_for_every_link_type() {
    for number in [1, 113, 276, 12] {
        let dead = pcap::Capture::dead(pcap::Linktype(number)).unwrap();
        dead.compile(&filter::untagged(), true).unwrap();
    }
    let ethernet = pcap::Capture::dead(pcap::Linktype(1)).unwrap();
    ethernet.compile(&filter::tagged(), true).unwrap();
}

/// The classic filter, as the kernel would run it, over the frames of the other tests.
#[test]
fn the_filter_passes_what_is_read_and_nothing_else() {
    use crate::flow::frames::{ethernet, ipv4, ipv6, ipv6_extended, tcp, told};
    let compiled = |number: i32, text: &str| {
        let dead = pcap::Capture::dead(pcap::Linktype(number)).unwrap();
        dead.compile(text, true).unwrap()
    };
    let (tagged, raw) = (
        compiled(1, &filter::tagged()),
        compiled(12, &filter::untagged()),
    );
    let segments = [
        (tcp(5000, 443, 1, 2, &[]), true),
        (tcp(5000, 443, 1, 0x12, &[]), false),
        (tcp(5000, 443, 1, 0x10, &[]), false),
        (tcp(5000, 443, 1, 0x18, &hello(1, [7; 32])), true),
        (tcp(5000, 443, 1, 0x18, &hello(2, [7; 32])), true),
        (tcp(5000, 443, 1, 0x18, &hello(11, [7; 32])), false),
        (tcp(5000, 443, 1, 0x18, &[23; 300]), false),
    ];
    for (segment, passes) in segments {
        let mut packets = vec![
            (0x0800u16, ipv4(&segment), true),
            (0x86dd, ipv6(&segment), true),
        ];
        for extensions in [&[0][..], &[60, 0], &[0, 43, 60]] {
            packets.push((0x86dd, ipv6_extended(extensions, &segment), true));
        }
        for extensions in [&[44][..], &[60, 0, 43, 60]] {
            packets.push((0x86dd, ipv6_extended(extensions, &segment), false));
        }
        for (protocol, packet, reaches) in packets {
            let passes = passes && reaches;
            assert_eq!(raw.filter(&packet), passes);
            if passes {
                assert!(!told(LinkType::Raw, &packet).is_empty());
            }
            let (mut outer, mut inner) = (protocol, packet);
            for tags in 0..3 {
                let frame = ethernet(outer, &inner);
                assert_eq!(tagged.filter(&frame), passes, "{outer:x}, {tags} tags");
                inner = [&[0, 5][..], &outer.to_be_bytes(), &inner].concat();
                outer = 0x8100;
            }
        }
    }
}

/// Needs the right to capture; says so and passes where it is missing.
#[test]
fn a_filter_that_the_kernel_does_not_run_is_found_out() {
    let opened = pcap::Capture::from_device("lo")
        .unwrap()
        .snaplen(256)
        .open();
    let Ok(mut source) = opened else {
        eprintln!("skipped: no right to capture here");
        return;
    };
    filter::set(&mut source, &filter::tagged()).unwrap();
    let error = filter::set(&mut source, "ip6 protochain 6").unwrap_err();
    assert!(error.contains("kernel doesn't run it"), "{error}");
}

#[test]
fn an_interface_that_is_not_there_is_an_error() {
    let config = CaptureConfig {
        interfaces: vec!["no-such-card".to_owned()],
    };
    let error = Capture::start(&config).unwrap_err();
    assert!(error.to_string().contains("no-such-card"));
}

/// What passes is counted to the frame, with the program and with the filter alone. Needs root; says so and passes
/// otherwise.
#[test]
fn nothing_of_the_bulk_reaches_the_agent() {
    const BULK: usize = 32 << 20;
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: no network of its own here");
        return;
    }
    mirror_tests::network::enter_new_namespace();
    mirror_tests::network::ip("link set lo up");
    for follows in [true, false] {
        let load = |link| match follows {
            true => ebpf::Program::load(link),
            false => Err(std::io::Error::from_raw_os_error(libc::EPERM)),
        };
        let opened = OpenCapture(vec![open("lo", load).unwrap()]);
        let complaints = opened.complaints().count();
        assert_eq!(
            complaints,
            usize::from(!follows),
            "the kernel takes the program"
        );
        let capture = opened.start().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, _) = listener.accept().unwrap();
            for piece in hello(1, [7; 32]).chunks(100) {
                client.write_all(piece).unwrap();
                server.read_exact(&mut vec![0; piece.len()]).unwrap();
            }
            server.write_all(&hello(2, [8; 32])).unwrap();
            client.read_exact(&mut [0; 205]).unwrap();
            let writer = std::thread::spawn(move || {
                client.write_all(&vec![23; BULK]).unwrap();
                client
            });
            server.read_exact(&mut vec![0; BULK]).unwrap();
            // The last one that passes: frames keep their order.
            server.write_all(&hello(2, [9; 32])).unwrap();
            writer.join().unwrap().read_exact(&mut [0; 205]).unwrap();
            let last =
                |fact| matches!(fact, WireFact::ServerHello { random, .. } if random == [9; 32]);
            while !last(capture.facts.recv().unwrap()) {}
        }
        // A SYN and both servers' hellos; the client's is in three segments, of which the filter knows the first.
        let each = 3 + if follows { 3 } else { 1 };
        assert_eq!(capture.stop().frames, 2 * each);
    }
}

/// Needs the right to capture; says so and passes where it is missing.
#[test]
fn hellos_on_loopback_are_seen() {
    let capture = match Capture::start(&CaptureConfig::default()) {
        Ok(capture) => capture,
        Err(CaptureError::NotPermitted { .. }) => {
            eprintln!("skipped: no right to capture here");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        let random = [from.port().to_be_bytes()[1]; 32];
        client.write_all(&hello(1, random)).unwrap();
        server.read_exact(&mut [0; 205]).unwrap();
        // An ordinary record must not pass the filter; the hello behind it must.
        server.write_all(&[23; 300]).unwrap();
        client.read_exact(&mut [0; 300]).unwrap();
        server.write_all(&hello(2, [9; 32])).unwrap();
        client.read_exact(&mut [0; 205]).unwrap();
        let mut seen = Vec::new();
        while seen.len() < 3 {
            // Other programs' handshakes on this machine are none of this test's.
            let fact = capture.facts.recv().unwrap();
            let (tuple, name) = match fact {
                WireFact::Syn { tuple, .. } => (tuple, "syn"),
                WireFact::ClientHello { tuple, .. } => (tuple, "client"),
                WireFact::ServerHello { tuple, .. } => (tuple, "server"),
                WireFact::Fingerprint { .. } => continue,
            };
            if tuple.client == from && seen.last() != Some(&name) {
                seen.push(name);
            }
        }
        assert_eq!(seen, ["syn", "client", "server"]);
    }
    assert_eq!(capture.stop().failed, 0);
}
