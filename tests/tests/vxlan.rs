//! Packets to sensors by VXLAN: the kernel's own VXLAN interfaces take out what the capture file has.

use std::collections::{BTreeMap, BTreeSet};

use mirror_tests::curl::Transfer;
use mirror_tests::decode::Segment;
use mirror_tests::judges::{Profile, Suricata, Verdict};
use mirror_tests::network::{HOST, Listener, Namespace, Network, ip};
use mirror_tests::onwire::{Connection, Mirrored, assert_good_on_wire, by_direction};
use mirror_tests::place::Place;
use mirror_tests::process::output_of;
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::streams::{End, flows};

const MIB: usize = 1 << 20;
const SYN: u8 = 2;

/// A sensor with two kernel interfaces that take VXLAN, one by IPv4 and one by IPv6.
struct Sensor(Namespace);

impl Sensor {
    /// `mtu`: that of the way to it.
    fn new(mtu: u32) -> Self {
        let there = Namespace::new();
        let id = there.id();
        ip(&format!(
            "link add sensor0 mtu {mtu} type veth peer name sensor1 mtu {mtu} netns {id}"
        ));
        ip("addr add 10.9.0.1/24 dev sensor0");
        ip("addr add fd09::1/64 dev sensor0 nodad");
        ip("link set sensor0 up");
        there.ip("link set sensor1 up");
        let sensor = Self(there);
        sensor.addresses("add");
        sensor
    }

    fn take(&self, name: &str, local: &str, port: u16) {
        self.0.ip(&format!(
            "link add {name} type vxlan id 77 dstport {port} local {local} dev sensor1 nolearning"
        ));
        // It has nothing to say itself.
        let quiet = format!("echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6");
        output_of(self.0.command("sh").args(["-c", &quiet]));
        self.0.ip(&format!("link set {name} up"));
    }

    /// Their addresses are whose, once more or no more (`add`, `del`).
    fn addresses(&self, what: &str) {
        self.0.ip(&format!("addr {what} 10.9.0.2/24 dev sensor1"));
        let nodad = if what == "add" { "nodad" } else { "" };
        self.0
            .ip(&format!("addr {what} fd09::2/64 dev sensor1 {nodad}"));
        // Who has asked before asks again.
        ip("neigh flush dev sensor0");
    }

    fn listen(&self, interface: &str, place: &Place) -> Listener {
        let file = place.path(&format!("{interface}.pcapng"));
        Listener::start_by(self.0.command("dumpcap"), interface, &file)
    }
}

#[test]
fn a_sensor_takes_out_what_the_file_has() {
    let network = Network::new();
    let sensor = Sensor::new(1600);
    sensor.take("vxlan4", "10.9.0.2", 4789);
    sensor.take("vxlan6", "fd09::2", 8472);
    let place = Place::new(&[0, 16_385, 20_000, MIB]);
    let options = [
        "-I",
        "wire0",
        "--vxlan",
        "10.9.0.2",
        "--vxlan",
        "[fd09::2]:8472",
        "--vni",
        "77",
    ];
    let mirrored = Mirrored::start(&place, &options);
    let listeners = ["vxlan4", "vxlan6"].map(|name| (name, sensor.listen(name, &place)));
    let transfers = [
        Transfer::get("get", 0),
        Transfer::get("chunked", MIB),
        Transfer::post(16_385),
        Transfer::many(20_000, 5),
    ];
    for address in HOST {
        for transfer in &transfers {
            let name = format!("{}-{}", transfer.name, address.is_ipv6());
            mirrored.fetch(
                &network,
                &Transfer {
                    name,
                    ..transfer.clone()
                },
                address,
            );
        }
    }
    let file = mirrored.end();
    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert!(
        !said.contains("LOST") && said.contains(" packets to 10.9.0.2:4789"),
        "{said}"
    );
    let expected = by_direction(&file);
    assert_eq!(expected.len(), 2 * 2 * transfers.len());
    for (name, listener) in listeners {
        let seen = listener.end(|seen| seen.packets.len() == file.packets.len());
        assert_good_on_wire(&seen, name);
        // To the byte: the same key forges the same packets.
        assert!(
            by_direction(&seen) == expected,
            "{name}: other frames than in the file"
        );
    }
}

/// One that listens on its interface, and decodes VXLAN itself. Its kernel says that nobody takes the packets.
#[test]
fn a_monitor_decodes_what_the_file_has() {
    for to in ["10.9.0.2", "fd09::2"] {
        let network = Network::new();
        let sensor = Sensor::new(1600);
        let place = Place::new(&[16_385, 20_000, MIB]);
        let live = sensor.0.command("suricata");
        let live = Suricata.listen_by(live, "sensor1", &place.path("judge/live"));
        let options = [
            "-I", "wire0", "--vxlan", to, "--vni", "77", "--pace", "100M",
        ];
        let mirrored = Mirrored::start(&place, &options);
        let transfers = [
            Transfer::get("get", MIB),
            Transfer::post(16_385),
            Transfer::many(20_000, 5),
        ];
        for address in HOST {
            for transfer in &transfers {
                let name = format!("{}-{}", transfer.name, address.is_ipv6());
                let transfer = Transfer {
                    name,
                    ..transfer.clone()
                };
                mirrored.fetch(&network, &transfer, address);
            }
        }
        mirrored.end();
        let (capture, judge) = (place.path("capture.pcapng"), place.path("judge"));
        let file = Suricata.read(&capture, Profile::Sslcollector, &judge);
        let live = live.verdict();
        let mut complaints = live.complaints();
        // The kernels' own, which tell one another of multicast.
        complaints.retain(|text| !text.contains("decoder.ipv6.zero_len_padn"));
        assert_eq!(complaints, [""; 0], "{to}");
        assert_eq!(file.http.len(), 2 * (1 + 1 + 5), "{file:?}");
        let sorted = |verdict: &Verdict| {
            let (mut http, mut files) = (verdict.http.clone(), verdict.files.clone());
            http.sort();
            files.sort();
            (http, files)
        };
        assert_eq!(sorted(&live), sorted(&file), "{to}");
    }
}

/// Packets take their time, as on an interface.
#[test]
fn packets_keep_a_pace() {
    let network = Network::new();
    let sensor = Sensor::new(1600);
    sensor.take("vxlan4", "10.9.0.2", 4789);
    let place = Place::new(&[MIB]);
    let options = [
        "-I", "wire0", "--vxlan", "10.9.0.2", "--vni", "77", "--pace", "4M",
    ];
    let mirrored = Mirrored::start(&place, &options);
    let listener = sensor.listen("vxlan4", &place);
    mirrored.fetch(&network, &Transfer::get("get", MIB), HOST[0]);
    let file = mirrored.end();
    let seen = listener.end(|seen| seen.packets.len() == file.packets.len());
    let bytes: usize = seen.packets.iter().map(|packet| packet.frame.len()).sum();
    let times = seen.packets.iter().map(|packet| packet.at_ns);
    let (first, last) = (times.clone().min(), times.max());
    let took_ms = (last.expect("packets") - first.expect("packets")) / 1_000_000;
    // 4 Mbit/s are 500 bytes a millisecond. What may go out at once is a few milliseconds' worth.
    let needed_ms = bytes as u64 / 500;
    assert!(
        needed_ms > 2000 && took_ms + 100 >= needed_ms,
        "{took_ms} of {needed_ms} ms"
    );
}

/// No answer comes from where nobody is: but whoever looks for the sensor on its network finds nobody.
#[test]
fn a_sensor_that_is_gone_and_comes_back() {
    let network = Network::new();
    let sensor = Sensor::new(1600);
    sensor.take("vxlan4", "10.9.0.2", 4789);
    let place = Place::new(&[20_000]);
    let options = [
        "-I", "wire0", "--vxlan", "10.9.0.2", "--vxlan", "fd09::2", "--vni", "77",
    ];
    sensor.addresses("del");
    let mirrored = Mirrored::start(&place, &options);
    let mut client = Connection::open(&network, mirrored.nginx.port);
    client.get(20_000);
    for to in ["10.9.0.2", "[fd09::2]"] {
        mirrored.wait_for(
            &format!("packets to {to}:4789 reach nobody (No route to host"),
            1,
        );
    }
    let back = sensor.listen("vxlan4", &place);
    sensor.addresses("add");
    mirrored.wait_for("nobody answers packets to 10.9.0.2:4789 any more", 1);
    // By IPv6 somebody is there, who doesn't take them.
    mirrored.wait_for(
        "packets to [fd09::2]:4789 are answered (Connection refused",
        1,
    );
    client.get(20_000);
    drop(client);
    mirrored.end();
    back.end(|seen| answers_behind_syn(seen) >= 1);
}

/// What is on the wire, read by hand: UDP to port 4789 with the frame inside.
struct Outer<'a> {
    source_port: u16,
    ip_bytes: usize,
    cut: bool,
    inner: &'a [u8],
}

fn outer(frame: &[u8]) -> Option<Outer<'_>> {
    let word = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let (ip_bytes, udp, cut) = match word(12) {
        // DF has to be set, nothing may be cut.
        0x0800 if frame[23] == 17 => (usize::from(word(16)), 34, word(20) != 0x4000),
        0x86dd if frame[20] == 17 => (usize::from(word(18)) + 40, 54, false),
        0x86dd => return (frame[20] == 44).then(|| panic!("an IPv6 fragment")),
        _ => return None,
    };
    // One without content asks whether somebody answers.
    let ours = word(udp + 2) == 4789 && word(udp + 4) > 8;
    ours.then(|| {
        assert_eq!(frame[udp + 8..udp + 16], [8, 0, 0, 0, 0, 0, 77, 0]);
        Outer {
            source_port: word(udp),
            ip_bytes,
            cut,
            inner: &frame[udp + 16..],
        }
    })
}

#[test]
fn datagrams_fit_the_way_and_flows_have_their_ports() {
    let network = Network::new();
    let sensor = Sensor::new(1500);
    let place = Place::new(&[MIB]);
    let port_map = "--port-map";
    for (ip, to) in [("IPv4", "10.9.0.2"), ("IPv6", "fd09::2")] {
        let listener = sensor.listen("sensor1", &place);
        let options = [
            "-I", "wire0", "--vxlan", to, "--vni", "77", "--vlan", "9", port_map, "1:2",
        ];
        let mirrored = Mirrored::start(&place, &options);
        let transfers: Vec<_> = (0..8)
            .map(|number| Transfer {
                name: format!("{ip}-{number}"),
                ..Transfer::get("get", MIB)
            })
            .collect();
        for transfer in &transfers {
            mirrored.fetch(&network, transfer, HOST[0]);
        }
        mirrored.end();
        let inner = |seen: &Capture| {
            let mut inner = seen.clone();
            inner
                .packets
                .retain_mut(|packet| match outer(&packet.frame) {
                    Some(outer) => {
                        assert_eq!(outer.inner[12..16], [0x81, 0, 0, 9]);
                        let mut frame = outer.inner.to_vec();
                        frame.drain(12..16);
                        packet.frame = frame;
                        true
                    }
                    None => false,
                });
            inner
        };
        let whole = |seen: &Capture| {
            let flows = flows(&inner(seen)).unwrap_or_default();
            flows.len() == transfers.len() && flows.iter().all(|flow| flow.end != End::Open)
        };
        let seen = listener.end(whole);
        let mut ports: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
        let mut largest = 0;
        for outer in seen
            .packets
            .iter()
            .filter_map(|packet| outer(&packet.frame))
        {
            assert!(!outer.cut, "{ip}: cut, or may be");
            largest = largest.max(outer.ip_bytes);
            let mut frame = outer.inner.to_vec();
            frame.drain(12..16);
            let segment = Segment::decode(&frame).expect("a forged frame");
            let client = match segment.source.ip() == HOST[0] {
                true => segment.destination.port(),
                false => segment.source.port(),
            };
            ports.entry(client).or_default().insert(outer.source_port);
        }
        assert_eq!(largest, 1500, "{ip}: the way's MTU is used");
        assert!(
            ports.values().all(|ports| ports.len() == 1),
            "{ip}: one port a flow: {ports:?}"
        );
        let different: BTreeSet<_> = ports.values().flatten().collect();
        assert!(different.len() > 1, "{ip}: {ports:?}");
        let flows = flows(&inner(&seen)).expect("flows");
        for transfer in &transfers {
            let truth = transfer.truth(&place);
            let flow = flows
                .iter()
                .find(|flow| flow.client.port() == truth.port)
                .expect("a flow");
            assert_eq!(flow.response.difference(&truth.response), None, "{ip}");
        }
    }
}

#[test]
fn a_way_that_is_cut_and_a_sensor_that_comes_late() {
    let network = Network::new();
    let sensor = Sensor::new(1600);
    let place = Place::new(&[20_000]);
    let mirrored = Mirrored::start(
        &place,
        &["-I", "wire0", "--vxlan", "10.9.0.2", "--vni", "77"],
    );
    let mut client = Connection::open(&network, mirrored.nginx.port);
    // Nobody takes it out there yet: its kernel says so.
    let outside = sensor.listen("sensor1", &place);
    client.get(20_000);
    mirrored.wait_until_sent(20_000);
    // What is answered to one packet is told with the next one.
    client.get(20_000);
    mirrored.wait_for("are answered (Connection refused", 1);
    sensor.take("vxlan4", "10.9.0.2", 4789);
    let first = sensor.listen("vxlan4", &place);
    client.get(20_000);
    mirrored.wait_for("nobody answers packets to 10.9.0.2:4789 any more", 1);
    client.get(20_000);
    mirrored.wait_until_sent(80_000);
    let syns = |capture: &Capture| {
        let segments = capture
            .packets
            .iter()
            .map(|packet| Segment::decode(&packet.frame));
        segments
            .filter(|segment| segment.as_ref().is_ok_and(|one| one.has(SYN)))
            .count()
    };
    // The live connection has begun anew, so that it is understood.
    let first = first.end(|seen| syns(seen) >= 2 && answers_behind_syn(seen) >= 1);
    assert_eq!(syns(&first), 2);
    // A sensor that listens on its interface alone has missed nothing of all that.
    outside.end(|seen| {
        seen.packets
            .iter()
            .filter_map(|packet| outer(&packet.frame))
            .count()
            >= 4 * 14
    });

    ip("link set sensor0 down");
    client.get(20_000);
    mirrored.wait_for("packets to 10.9.0.2:4789 can't be sent", 1);
    mirrored.wait_until_sent(100_000);
    ip("link set sensor0 up");
    mirrored.wait_for("packets to 10.9.0.2:4789 are sent again", 1);
    let last = Listener::start_by(
        sensor.0.command("dumpcap"),
        "vxlan4",
        &place.path("last.pcapng"),
    );
    client.get(20_000);
    drop(client);
    let file = mirrored.end();
    let last = last.end(|seen| answers_behind_syn(seen) >= 1);
    assert_eq!(syns(&last), 2);
    let said = place.text("said");
    rules::assert_good(&file, &said);
    assert_eq!(flows(&file).expect("flows").len(), 1, "{said}");
    assert!(
        said.contains("LOST while 10.9.0.2:4789 couldn't send (2 times)"),
        "{said}"
    );
}

/// Answers of 20,000 bytes in conversations whose beginning is there.
fn answers_behind_syn(capture: &Capture) -> usize {
    let mut syn = false;
    let mut bytes = 0;
    for packet in &capture.packets {
        let segment = Segment::decode(&packet.frame).expect("a forged frame");
        syn |= segment.has(SYN);
        if syn && segment.source.ip() == HOST[0] {
            bytes += segment.payload.len();
        }
    }
    bytes / 20_000
}
