//! Thousands of short connections at a time, over ports that come again and again, by programs whose library has no
//! socket: each has the addresses that it had, by the handshake on the wire.

use std::net::IpAddr;
use std::process::Command;

use mirror_tests::bio::{data, good_flows, logged, mirrored, server, word};
use mirror_tests::client::PYTHON;
use mirror_tests::network::{HOST, Network, PEER};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of};
use mirror_tests::streams::Flow;

const COUNT: usize = 5000;
const AT_ONCE: usize = 200;
/// Each of them carries many connections, one after the other.
const PORTS: &str = "50000 50299";

fn crowd(mut python: Command, address: IpAddr, port: u16, count: usize) -> Process {
    python.arg(data("bio.py")).arg("crowd");
    python.args([address.to_string(), port.to_string()]);
    python.args([count.to_string(), AT_ONCE.to_string()]);
    Process::start(&mut python)
}

fn few_ports(mut shell: Command) {
    let range = format!("echo {PORTS} >/proc/sys/net/ipv4/ip_local_port_range");
    output_of(shell.args(["-c", &range]));
}

/// As the server logged them, each with its text.
fn assert_all_right(flows: &[Flow], place: &Place, server: (IpAddr, u16), count: usize) {
    let logged = logged(place);
    assert_eq!(logged.len(), count);
    let mut ports: Vec<_> = logged.iter().map(|(_, port, _)| *port).collect();
    ports.dedup();
    assert!(ports.len() <= 300, "{} ports", ports.len());
    let mut told = Vec::new();
    for flow in flows {
        let comment = &flow.comment;
        assert_eq!(word(flow, "bound"), Some("wire"), "{comment}");
        assert_eq!((flow.server.ip(), flow.server.port()), server);
        let text = flow.request.whole().expect("a whole request").to_vec();
        assert_eq!(flow.response.whole(), Some(&text[..]));
        told.push((flow.client.ip(), flow.client.port(), text));
    }
    told.sort_unstable();
    let wrong = told
        .iter()
        .zip(&logged)
        .find(|(told, logged)| told != logged);
    assert_eq!(wrong, None);
    assert_eq!(told.len(), count);
}

#[test]
fn short_connections_of_a_client() {
    let network = Network::new();
    let place = Place::new(&[]);
    few_ports(Command::new("sh"));
    let python = network.in_peer(PYTHON);
    let (mut served, port) = server(python, &place, PEER[0], COUNT, "asyncio");
    let file = place.path("capture.pcapng");
    let mut crowd = crowd(mirrored(&file), PEER[0], port, COUNT);
    assert!(crowd.wait().success());
    assert!(served.wait().success());
    assert_all_right(&good_flows(&file), &place, (PEER[0], port), COUNT);
}

#[test]
fn short_connections_of_a_server() {
    let network = Network::new();
    let place = Place::new(&[]);
    few_ports(network.in_peer("sh"));
    let file = place.path("capture.pcapng");
    let (mut served, port) = server(mirrored(&file), &place, HOST[0], COUNT, "asyncio");
    let mut crowd = crowd(network.in_peer(PYTHON), HOST[0], port, COUNT);
    assert!(crowd.wait().success());
    assert!(served.wait().success());
    assert_all_right(&good_flows(&file), &place, (HOST[0], port), COUNT);
}
