//! Packets on an interface: seen by monitors there and at its far end as they stand in the capture file, whatever
//! happens to the interface meanwhile.

use std::fs::File;
use std::process::{Command, Stdio};

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::decode::Segment;
use mirror_tests::examples::server_at;
use mirror_tests::judges::{Profile, Suricata, Verdict};
use mirror_tests::network::{HOST, Listener, Network, ip};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::onwire::{Connection, Mirrored, assert_good_on_wire, by_direction};
use mirror_tests::place::{HOST as NAME, Place};
use mirror_tests::process::{Process, output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::{End, Flow, flows};

const MIB: usize = 1 << 20;
const SYN: u8 = 2;

fn http(verdict: &Verdict) -> Vec<String> {
    let mut http: Vec<_> = verdict
        .http
        .iter()
        .map(|event| format!("{event:?}"))
        .collect();
    http.extend(verdict.files.iter().map(|file| format!("{file:?}")));
    http.sort();
    http
}

fn transfers() -> Vec<Transfer> {
    vec![
        Transfer::get("get", 0),
        Transfer::get("get", 20_000),
        Transfer::get("chunked", MIB),
        Transfer::post(16_385),
        Transfer::many(20_000, 20),
    ]
}

#[test]
fn monitors_at_both_ends_get_what_the_file_has() {
    let network = Network::new();
    let place = Place::new(&[0, 16_385, 20_000, MIB]);
    // The pace cuts batches, and loses nothing.
    let options = ["-I", "wire0", "-o", "mirror0", "--create", "--pace", "50M"];
    let mirrored = Mirrored::start(&place, &options);
    let listeners = ["mirror0", "mirror0-tap"].map(|interface| {
        let file = place.path(&format!("{interface}.pcapng"));
        (interface, Listener::start(interface, &file))
    });
    let suricatas = ["mirror0", "mirror0-tap"].map(|interface| {
        let directory = place.path(&format!("judge/{interface}"));
        (interface, Suricata.listen(interface, &directory))
    });
    for address in HOST {
        for transfer in transfers() {
            let name = format!("{}-{}", transfer.name, address.is_ipv6());
            let transfer = Transfer { name, ..transfer };
            mirrored.fetch(&network, &transfer, address);
            transfer.truth(&place);
        }
    }
    let said = mirrored.said();
    assert!(
        said.contains("made mirror0 and its other end mirror0-tap"),
        "{said}"
    );
    let file = mirrored.end();
    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert!(!said.contains("LOST"), "{said}");
    assert!(said.contains(" on mirror0"), "{said}");
    let expected = by_direction(&file);
    assert_eq!(expected.len(), 2 * 2 * transfers().len());
    for (interface, listener) in listeners {
        let seen = listener.end(|seen| seen.packets.len() == file.packets.len());
        assert_good_on_wire(&seen, interface);
        // To the byte: the same key forges the same packets.
        assert!(
            by_direction(&seen) == expected,
            "{interface}: other frames than in the file"
        );
    }
    let directory = place.path("judge");
    let offline = Suricata.read(
        &place.path("capture.pcapng"),
        Profile::Sslcollector,
        &directory,
    );
    assert_eq!(offline.http.len(), 2 * (4 + 20), "{offline:?}");
    for (interface, suricata) in suricatas {
        let live = suricata.verdict();
        assert_eq!(live.complaints(), [""; 0], "{interface}");
        assert_eq!(http(&live), http(&offline), "{interface}");
    }
}

/// Packets that the kernel has cut are the same ones, at both ends.
#[test]
fn wire_only_packets_are_the_same() {
    let network = Network::new();
    let place = Place::new(&[0, 16_385, 20_000, MIB]);
    let options = ["-I", "wire0", "-o", "mirror0", "--create", "--wire-only"];
    let mirrored = Mirrored::start(&place, &options);
    let listen =
        |interface: &str| Listener::start(interface, &place.path(&format!("{interface}.pcapng")));
    let (near, far) = (listen("mirror0"), listen("mirror0-tap"));
    let suricata = Suricata.listen("mirror0-tap", &place.path("judge/far"));
    for address in HOST {
        for transfer in transfers() {
            let name = format!("{}-{}", transfer.name, address.is_ipv6());
            let transfer = Transfer { name, ..transfer };
            mirrored.fetch(&network, &transfer, address);
            transfer.truth(&place);
        }
    }
    let file = mirrored.end();
    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert!(
        !said.contains("LOST") && !said.contains("wire-only"),
        "{said}"
    );
    let expected = numbered_alike(&file);
    for (listener, end) in [(near, "mirror0"), (far, "mirror0-tap")] {
        let seen = listener.end(|seen| seen.packets.len() == file.packets.len());
        assert_good_on_wire(&seen, end);
        let alike = numbered_alike(&seen);
        assert!(
            by_direction(&alike) == by_direction(&expected),
            "{end}: other frames than in the file"
        );
        // It was the kernel that made them: it counts.
        assert!(by_direction(&alike) != by_direction(&seen), "{end}: {said}");
    }

    let offline = Suricata.read(
        &place.path("capture.pcapng"),
        Profile::Sslcollector,
        &place.path("judge"),
    );
    assert_eq!(offline.http.len(), 2 * (4 + 20), "{offline:?}");
    let live = suricata.verdict();
    assert_eq!(live.complaints(), [""; 0]);
    assert_eq!(http(&live), http(&offline));
}

/// The frames without the identification of IPv4, which the kernel counts up, and the checksum over it.
fn numbered_alike(capture: &Capture) -> Capture {
    let mut capture = capture.clone();
    for packet in &mut capture.packets {
        if packet.frame[12..14] == [8, 0] {
            packet.frame[18..20].fill(0);
            packet.frame[24..26].fill(0);
        }
    }
    capture
}

/// An interface that might hand large packets to its far end uncut isn't given any.
#[test]
fn wire_only_where_the_far_end_would_get_large_packets() {
    let network = Network::new();
    ip("link add mirror0 type veth peer name mirror0-tap");
    for end in ["mirror0", "mirror0-tap"] {
        ip(&format!("link set {end} addrgenmode none up"));
    }
    let place = Place::new(&[20_000]);
    let options = ["-I", "wire0", "-o", "mirror0", "--wire-only"];
    let mirrored = Mirrored::start(&place, &options);
    let far = Listener::start("mirror0-tap", &place.path("far.pcapng"));
    for (number, address) in HOST.into_iter().enumerate() {
        let transfer = Transfer::many(20_000, 5);
        let name = format!("many-{number}");
        mirrored.fetch(&network, &Transfer { name, ..transfer }, address);
    }
    mirrored.wait_for("`ethtool -K mirror0 tso off tx off`", 1);
    let file = mirrored.end();
    let far = far.end(|seen| seen.packets.len() == file.packets.len());
    assert_good_on_wire(&far, "mirror0-tap");
    assert!(by_direction(&far) == by_direction(&file), "other frames");
}

/// A service on rustls that mirrors itself, asked over IPv4 and IPv6.
#[test]
fn a_rustls_service_at_both_ends() {
    let network = Network::new();
    let place = Place::new(&[20_000, MIB]);
    let service = server_at(&place, "hyper-server", "[::]");
    let capture = place.path("capture.pcapng");
    let options = ["-I", "wire0", "-o", "mirror0", "--create"];
    let mut command =
        sslcollector::run_to(&capture, &[&options[..], &["--ring-size", "16M"]].concat());
    command.args(&service.words).stdout(Stdio::null());
    command.stderr(File::create(place.path("said")).expect("a file"));
    let mut program = Process::start(&mut command);
    until("the service listens", || {
        std::net::TcpStream::connect(("127.0.0.1", service.port)).ok()
    });
    let suricatas = ["mirror0", "mirror0-tap"].map(|interface| {
        let directory = place.path(&format!("judge/{interface}"));
        (interface, Suricata.listen(interface, &directory))
    });
    for (number, address) in HOST.into_iter().enumerate() {
        for transfer in [Transfer::get("get", MIB), Transfer::many(20_000, 5)] {
            let name = format!("{}-{number}", transfer.name);
            let transfer = Transfer { name, ..transfer };
            let script = transfer.script(&place, (address, service.port), Tls::V1_3);
            output_of(network.in_peer("sh").args(["-c", &script]));
            transfer.truth(&place);
        }
    }
    program.signal(service.end);
    let status = program.wait();
    let said = place.text("said");
    assert!(status.success(), "{status}: {said}");
    let directory = place.path("judge");
    let offline = Suricata.read(&capture, Profile::Sslcollector, &directory);
    assert_eq!(offline.http.len(), 2 * (1 + 5), "{offline:?}");
    for (interface, suricata) in suricatas {
        let live = suricata.verdict();
        assert_eq!(live.complaints(), [""; 0], "{interface}");
        assert_eq!(http(&live), http(&offline), "{interface}");
    }
}

/// The sensor sees the encrypted packets, too, between the same addresses and ports: the VLAN tells them apart.
#[test]
fn beside_the_encrypted_packets_on_a_vlan() {
    let network = Network::new();
    let place = Place::new(&[20_000]);
    let options = ["-I", "wire0", "-o", "wire0", "--vlan", "7"];
    let mirrored = Mirrored::start(&place, &options);
    let suricata = Suricata.listen("wire0", &place.path("judge/wire0"));
    for (number, address) in HOST.into_iter().enumerate() {
        let transfer = Transfer::many(20_000, 5);
        let name = format!("many-{number}");
        mirrored.fetch(&network, &Transfer { name, ..transfer }, address);
    }
    mirrored.end();
    let said = place.text("said");
    // Its own packets are no handshakes of anybody.
    assert!(
        !said.contains("placeholder") && !said.contains("several addresses"),
        "{said}"
    );
    let live = suricata.verdict();
    assert_eq!(live.http.len(), 10, "{live:?}");
    assert!(
        live.http
            .iter()
            .all(|event| event.length == 20_000 && event.status == 200),
        "{live:?}"
    );
}

#[test]
fn mapped_addresses_ports_and_macs_and_what_stays_in_the_host() {
    let _network = Network::new();
    let place = Place::new(&[20_000]);
    let options = Options {
        addresses: &["127.0.0.2"],
        ..Options::default()
    };
    let nginx = Nginx::with(&place, options);
    nginx.start();
    let port_map = format!("{}:80", nginx.port);
    // Its library has the socket: whatever the load, its addresses are known.
    let fetch = |options: &[&str], address: &str| {
        let request = format!("GET /close/20000 HTTP/1.1\\r\\nHost: {NAME}\\r\\n\\r\\n");
        let client = format!("openssl s_client -quiet -connect {address}:{}", nginx.port);
        let script = format!("printf '{request}' | {client} >/dev/null 2>&1");
        let options = [&["-I", "lo", "-o", "mirror0", "--create"], options].concat();
        let output = run(sslcollector::run(&options).args(["sh", "-c", &script]));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    // Makes the interface; nothing is sent.
    let said = fetch(&[], "127.0.0.1");
    assert!(said.contains("0 packets on mirror0"), "{said}");
    assert!(
        said.contains("1 session within this host not sent") && said.contains("--net-map"),
        "{said}"
    );

    let listener = Listener::start("mirror0-tap", &place.path("seen.pcapng"));
    let maps = [
        "--port-map",
        &port_map,
        "--mac",
        "52:54:00:12:34:56",
        "--vlan",
        "4094",
        "--net-map",
    ];
    for (map, address) in [
        ("127.0.0.0/16=10.127.0.0/16", "127.0.0.1"),
        ("::/64=2001:db8::/64", "[::1]"),
    ] {
        // A session needs two addresses.
        let said = fetch(&[&maps[..], &[map]].concat(), address);
        assert!(
            said.contains("1 session within this host not sent"),
            "{said}"
        );
    }
    let said = fetch(
        &[&maps[..], &["127.0.0.0/16=10.127.0.0/16"]].concat(),
        "127.0.0.2",
    );
    assert!(!said.contains("not sent"), "{said}");
    nginx.quit();
    let whole = |seen: &Capture| {
        flows(&untagged(seen)).is_ok_and(|flows| flows.len() == 1 && flows[0].end != End::Open)
    };
    let seen = listener.end(whole);
    assert!(!seen.packets.is_empty());
    for packet in &seen.packets {
        assert_eq!(packet.frame[0..6], [0x52, 0x54, 0, 0x12, 0x34, 0x56]);
        assert_eq!(packet.frame[12..16], [0x81, 0, 0x0f, 0xfe]);
    }
    let flows = flows(&untagged(&seen)).expect("flows");
    let [Flow { client, server, .. }] = &flows[..] else {
        panic!("{flows:?}");
    };
    assert_eq!(client.ip().to_string(), "10.127.0.1");
    assert_eq!(server.to_string(), "10.127.0.2:80");
}

/// The frames without their VLAN tags.
fn untagged(capture: &Capture) -> Capture {
    let mut capture = capture.clone();
    for packet in &mut capture.packets {
        packet.frame.drain(12..16);
    }
    capture
}

/// Answers of 20,000 bytes that a capture has, by the bytes that the server says.
fn answers(capture: &Capture) -> usize {
    let frames = capture.packets.iter().map(|packet| &packet.frame);
    let segments = frames.map(|frame| Segment::decode(frame).expect("a forged frame"));
    let server = segments.filter(|segment| segment.source.ip() == HOST[0]);
    server.map(|segment| segment.payload.len()).sum::<usize>() / 20_000
}

/// Whether it is down, gone or without a carrier that is noticed first, nobody knows.
const LOST: &str = ": packets are lost until it is back";

/// Live flows go on with a new handshake, which a monitor needs.
#[test]
fn an_interface_that_goes_and_comes_back() {
    let network = Network::new();
    let place = Place::new(&[20_000]);
    let mirrored = Mirrored::start(&place, &["-I", "wire0", "-o", "mirror0", "--create"]);
    let listen = |name: &str| Listener::start("mirror0-tap", &place.path(name));

    let first = listen("first.pcapng");
    let mut client = Connection::open(&network, mirrored.nginx.port);
    client.get(20_000);
    mirrored.wait_until_sent(20_000);
    ip("link set mirror0 down");
    client.get(20_000);
    mirrored.wait_for(LOST, 1);
    mirrored.wait_until_sent(40_000);
    ip("link set mirror0 up");
    mirrored.wait_for("mirror0 is back", 1);
    client.get(20_000);
    mirrored.wait_until_sent(60_000);
    let first = first.end(|seen| answers(seen) == 2);

    // Its far end down: no carrier.
    ip("link set mirror0-tap down");
    mirrored.wait_for(LOST, 2);
    client.get(20_000);
    mirrored.wait_until_sent(80_000);
    ip("link set mirror0-tap up");
    mirrored.wait_for("mirror0 is back", 2);

    // Removed, and made anew under its name.
    ip("link del mirror0");
    mirrored.wait_for(LOST, 3);
    client.get(20_000);
    mirrored.wait_until_sent(100_000);
    ip("link add mirror0 type veth peer name mirror0-tap");
    ip("link set mirror0 addrgenmode none up");
    ip("link set mirror0-tap addrgenmode none up");
    mirrored.wait_for("mirror0 is back", 3);
    let last = listen("last.pcapng");
    client.get(20_000);
    drop(client);
    let file = mirrored.end();
    let last = last.end(|seen| answers(seen) == 1);

    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert_eq!(flows(&file).expect("flows").len(), 1);
    assert!(
        said.contains("LOST while mirror0 couldn't send (3 times)"),
        "{said}"
    );
    // Each begins with a handshake, and has one whole answer.
    let syns = |capture: &Capture| {
        let frames = capture.packets.iter().map(|packet| &packet.frame);
        frames
            .filter(|frame| Segment::decode(frame).expect("a forged frame").has(SYN))
            .count()
    };
    assert_eq!((syns(&first), syns(&last)), (2 + 2, 2), "{said}");
    let mut requests = 0;
    for name in ["first", "last"] {
        let file = place.path(&format!("{name}.pcapng"));
        let verdict = Suricata.read(&file, Profile::Sslcollector, &place.path("judge"));
        assert!(
            verdict.http.iter().all(|event| event.length == 20_000),
            "{name}: {verdict:?}"
        );
        requests += verdict.http.len();
    }
    assert_eq!(requests, 3);
}

#[test]
fn what_cannot_work_is_said_with_the_next_step() {
    let _network = Network::new();
    ip("link add idle0 type veth peer name idle1");
    ip("link add small0 type veth peer name small1");
    ip("link set small0 mtu 600 up");
    ip("route add default dev wire0");
    let place = Place::new(&[]);
    let attempt = |options: &[&str]| {
        let mut command = Command::new(sslcollector::binary());
        command.args(options).args(["-I", "none", "--socket"]);
        command.arg(place.path("agent.sock"));
        let output = run(&mut command);
        assert_eq!(output.status.code(), Some(1), "{options:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    for (options, words) in [
        (
            &["-o", "nowhere0"][..],
            &["no interface nowhere0", "--create"][..],
        ),
        (&["-o", "idle0"], &["idle0 is down", "ip link set idle0 up"]),
        (
            &["-o", "small0"],
            &["MTU of 600", "ip link set small0 mtu 1500"],
        ),
        (&["-o", "wire0"], &["default route", "--force"]),
        (&["-o", "a-name-too-long", "--create"], &["too long a name"]),
    ] {
        let said = attempt(options);
        assert!(
            words.iter().all(|word| said.contains(word)),
            "{options:?}: {said}"
        );
    }
    let mut unprivileged = Command::new("setpriv");
    unprivileged.args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]);
    unprivileged
        .arg(sslcollector::binary())
        .args(["run", "-I", "none", "-o", "idle0"]);
    unprivileged
        .arg("--library-dir")
        .arg(sslcollector::library_dir())
        .arg("true");
    let said = String::from_utf8_lossy(&run(&mut unprivileged).stderr).into_owned();
    assert!(said.contains("no right to send on idle0"), "{said}");
}
