//! Sessions of programs whose library has no socket are found on the wire whatever happens to their handshakes there:
//! VLAN tags, segments that come twice, in another order or not at all, and somebody who says them, too.

use std::net::IpAddr;

use mirror_tests::bio::{
    Held, TEXT, bound, client, fingerprints, good_flows, is_over, logged, mirrored, packet,
    segment, server, word,
};
use mirror_tests::client::PYTHON;
use mirror_tests::link::Link;
use mirror_tests::network::{HOST, Listener, PEER, ip};
use mirror_tests::place::Place;
use mirror_tests::streams::Flow;

const CASES: [&str; 3] = ["asyncio", "long:", "cut:3,60"];

/// A mirrored client's flows, in the order of the cases; each is found.
fn clients(link: &Link, place: &Place, number: usize) -> Vec<Flow> {
    let file = place.path("client.pcapng");
    let python = link.in_peer(PYTHON);
    let (mut served, port) = server(python, place, PEER[number], CASES.len(), "asyncio");
    let told = client(mirrored(&file), PEER[number], port, &CASES);
    assert!(served.wait().success());
    let mut flows = bound(&file, &told, (HOST[number], PEER[number]), port);
    let flows = told.iter().map(|(port, _)| flows.remove(port));
    flows.map(|flow| flow.expect("each once")).collect()
}

/// The same of a mirrored server.
fn servers(link: &Link, place: &Place, number: usize) -> Vec<Flow> {
    let file = place.path("server.pcapng");
    let python = mirrored(&file);
    let (mut served, port) = server(python, place, HOST[number], CASES.len(), "cut:20,42");
    let told = client(link.in_peer(PYTHON), HOST[number], port, &CASES);
    assert!(served.wait().success());
    let mut flows = bound(&file, &told, (PEER[number], HOST[number]), port);
    let flows = told.iter().map(|(port, _)| flows.remove(port));
    flows.map(|flow| flow.expect("each once")).collect()
}

/// Each hello was read as a whole.
fn assert_fingerprinted(flows: &[Flow], way: &str) {
    for flow in flows {
        let ja4 = word(flow, "ja4");
        assert!(ja4.is_some(), "{way}: {}", flow.comment);
        assert_eq!(word(flow, "sni"), Some("mirror.test"), "{way}");
    }
}

/// Frames go out with their tags in them, and come in with the kernel having taken the outer one off.
#[test]
fn behind_vlan_tags() {
    for (way, tags) in [("tags:7", 1), ("tags:7,8", 2)] {
        let link = Link::new(way);
        for number in [0, 1] {
            let place = Place::new(&[]);
            let wire = place.path("wire.pcapng");
            let listener = Listener::start("wire0", &wire);
            let flows = clients(&link, &place, number);
            assert_fingerprinted(&flows, way);
            let capture = listener.end(|capture| is_over(capture, CASES.len()));
            let frames = capture.packets.iter().filter_map(|one| packet(&one.frame));
            let tcp = frames.filter(|(packet, _)| segment(packet).is_some());
            assert!(tcp.clone().all(|(_, seen)| seen == tags), "{way}");
            let seen = fingerprints(&place, &wire, &flows[0].server.port().to_string());
            for flow in &flows {
                let expected = seen.get(&flow.client.port()).map(String::as_str);
                assert_eq!(word(flow, "ja4"), expected, "{way}: {}", flow.comment);
            }
            assert_fingerprinted(&servers(&link, &place, number), way);
        }
    }
}

/// What comes twice, in another order, or again because it was lost, is one handshake.
#[test]
fn over_a_bad_link() {
    for way in ["twice", "swapped", "lost"] {
        let link = Link::new(way);
        for number in [0, 1] {
            let place = Place::new(&[]);
            assert_fingerprinted(&clients(&link, &place, number), way);
            assert_fingerprinted(&servers(&link, &place, number), way);
        }
    }
}

/// Somebody says what others say of handshakes, before them, from an address of his own, and is told what they are
/// answered. Who isn't answered has no session; and a client's address is one of its own network's. Both of a server's
/// peers may be its client.
#[test]
fn where_somebody_says_what_others_say() {
    const OTHERS: [&str; 2] = ["10.7.0.99", "fd07::99"];
    for kind in ["asked", "replayed"] {
        for number in [0, 1] {
            for role in ["client", "server"] {
                let (own, server_address) = match role {
                    "client" => (HOST[number], PEER[number]),
                    _ => (PEER[number], HOST[number]),
                };
                let way = format!("{kind}:{own},{}", OTHERS[number]);
                let link = Link::new(&way);
                let place = Place::new(&[]);
                let file = place.path("capture.pcapng");
                let wire = place.path("wire.pcapng");
                let listener = Listener::start("wire0", &wire);
                let (at_server, at_client) = match role {
                    "client" => (link.in_peer(PYTHON), mirrored(&file)),
                    _ => (mirrored(&file), link.in_peer(PYTHON)),
                };
                let (mut served, port) = server(at_server, &place, server_address, 1, "asyncio");
                let held = Held::start(at_client, server_address, port, &[]);
                let (client_port, _) = held.told[0];
                held.end();
                assert!(served.wait().success());
                let flows = good_flows(&file);
                assert_eq!(flows.len(), 1);
                let (flow, comment) = (&flows[0], &flows[0].comment);
                assert_eq!(flow.request.whole(), Some(TEXT));
                assert_eq!(flow.response.whole(), Some(TEXT));
                if (kind, role) == ("replayed", "server") {
                    assert_eq!(word(flow, "bound"), Some("wire-ambiguous"), "{comment}");
                } else {
                    assert_eq!(word(flow, "bound"), Some("wire"), "{way}: {comment}");
                    assert_eq!(flow.client, (own, client_port).into(), "{way}: {comment}");
                }
                // The other one came first.
                let capture = listener.end(|capture| is_over(capture, 1));
                let hello = |frame: &[u8]| {
                    let (packet, _) = packet(frame)?;
                    let segment = segment(packet)?;
                    let payload = segment.get(usize::from(segment[12] >> 4) * 4..)?;
                    let is_hello = payload.first() == Some(&22) && payload.get(5) == Some(&1);
                    is_hello.then(|| source(packet))
                };
                let mut hellos = capture.packets.iter().filter_map(|one| hello(&one.frame));
                assert_eq!(hellos.next(), OTHERS[number].parse().ok());
                assert_eq!(hellos.next(), Some(own));
            }
        }
    }
}

fn source(packet: &[u8]) -> IpAddr {
    match packet[0] >> 4 {
        4 => IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).expect("an address")),
        _ => IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("an address")),
    }
}

/// A real connection on which another's hello is said, and answered, before it says it itself.
#[test]
fn where_a_hello_has_two_answers() {
    const OTHERS: [&str; 2] = ["10.7.0.99", "fd07::99"];
    for role in ["client", "server"] {
        let link = Link::new("plain");
        for number in [0, 1] {
            let place = Place::new(&[]);
            let file = place.path("capture.pcapng");
            // Of an interface's addresses this is the last one that the kernel takes by itself.
            let bits = ["/24", "/64 nodad preferred_lft 0"][number];
            let other = format!(
                "addr add dev app{} {}{bits}",
                usize::from(role == "server"),
                OTHERS[number]
            );
            let (at_server, at_client, ends) = match role {
                "client" => {
                    ip(&other);
                    let ends = (HOST[number], PEER[number]);
                    (link.in_peer(PYTHON), mirrored(&file), ends)
                }
                _ => {
                    link.ip_of_peer(&other);
                    let ends = (PEER[number], HOST[number]);
                    (mirrored(&file), link.in_peer(PYTHON), ends)
                }
            };
            let (mut served, port) = server(at_server, &place, ends.1, 1, "asyncio");
            let case = format!("replayed:{}", OTHERS[number]);
            let told = client(at_client, ends.1, port, &[&case]);
            assert!(served.wait().success());
            bound(&file, &told, ends, port);
            assert_eq!(logged(&place), [(ends.0, told[0].0, TEXT.to_vec())]);
        }
    }
}
