//! Address translation on the agent's own machine: a container's sessions pass a bridge and are translated on their way
//! out, so that `-I any` shows each of them under several addresses. Those of the program's own network namespace are the
//! flow's; where both are, it says that they are ambiguous.
//!
//! ```text
//!   the container                 the test's thread, and the agent            outside
//!   eth0 10.8.0.2, fd08::2 ── port0 ── bridge0 10.8.0.1, fd08::1
//!                                      out0 10.9.0.1, fd09::1 ──────── eth0 10.9.0.2, fd09::2
//! ```

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;

use mirror_tests::bio::{Held, TEXT, good_flows, logged, server, word};
use mirror_tests::client::PYTHON;
use mirror_tests::network::{Namespace, enter_new_namespace, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::service::Agent;
use mirror_tests::streams::{Flow, flows};

/// By IPv4 and IPv6.
const INSIDE: [&str; 2] = ["10.8.0.2", "fd08::2"];
const GATEWAY: [&str; 2] = ["10.9.0.1", "fd09::1"];
const OUTSIDE: [&str; 2] = ["10.9.0.2", "fd09::2"];

/// Where those outside find the container's server.
const PUBLISHED: u16 = 8443;
/// Where the gateway's own ports begin and end: no other ones are in there.
const TRANSLATED: (u16, u16) = (20_000, 29_999);

struct Nat {
    container: Namespace,
    outside: Namespace,
}

impl Nat {
    fn new() -> Self {
        enter_new_namespace();
        let (container, outside) = (Namespace::new(), Namespace::new());
        ip("link set lo up");
        ip("link add bridge0 type bridge forward_delay 0");
        for (port, namespace) in [("port0", &container), ("out0", &outside)] {
            let id = namespace.id();
            ip(&format!(
                "link add {port} type veth peer name eth0 netns {id}"
            ));
            namespace.ip("link set eth0 up");
            namespace.ip("link set lo up");
            ip(&format!("link set {port} up"));
        }
        ip("link set port0 master bridge0");
        ip("link set bridge0 up");
        for (network, device, namespace) in [(8, "bridge0", &container), (9, "out0", &outside)] {
            ip(&format!("addr add dev {device} 10.{network}.0.1/24"));
            ip(&format!("addr add dev {device} fd0{network}::1/64 nodad"));
            namespace.ip(&format!("addr add dev eth0 10.{network}.0.2/24"));
            namespace.ip(&format!("addr add dev eth0 fd0{network}::2/64 nodad"));
        }
        container.ip("route add default via 10.8.0.1");
        container.ip("-6 route add default via fd08::1");
        let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward; \
                       echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        output_of(Command::new("sh").args(["-c", forward]));
        Self { container, outside }
    }

    /// Connections are translated on their way out, and those to the published port of the gateway to this port inside.
    fn translate(&self, port: u16) {
        let (first, last) = TRANSLATED;
        let rules = format!(
            "table inet nat {{
                chain out {{
                    type nat hook postrouting priority srcnat;
                    oifname out0 meta l4proto tcp masquerade to :{first}-{last}
                }}
                chain in {{
                    type nat hook prerouting priority dstnat;
                    iifname out0 tcp dport {PUBLISHED} dnat ip to {}:{port}
                    iifname out0 tcp dport {PUBLISHED} dnat ip6 to [{}]:{port}
                }}
            }}",
            INSIDE[0], INSIDE[1]
        );
        output_of(Command::new("nft").arg(rules));
    }
}

/// Python, which this agent mirrors.
fn mirrored(namespace: &Namespace, agent: &Agent) -> Command {
    let mut python = namespace.command(PYTHON);
    agent.prepare(&mut python);
    python
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Its ends are these.
fn assert_own(flow: &Flow, client: (IpAddr, u16), server: (IpAddr, u16)) {
    assert_eq!(word(flow, "bound"), Some("wire"), "{}", flow.comment);
    let ends = (flow.client, flow.server);
    assert_eq!(ends, (client.into(), server.into()), "{}", flow.comment);
    assert_eq!(flow.request.whole(), Some(TEXT));
    assert_eq!(flow.response.whole(), Some(TEXT));
}

/// Waits until all these are told, and the program lives: an agent that ends tells what it knows by then.
fn until_told(file: &Path, count: usize) {
    until("flows", || {
        let flows = flows(&Capture::read(file).ok()?).ok()?;
        (flows.len() >= count).then_some(())
    });
}

const CASES: [&str; 4] = ["asyncio", "long:1400", "cut:3,60", "records:30"];

#[test]
fn a_client_in_a_container_behind_masquerade() {
    for number in [0, 1] {
        let nat = Nat::new();
        nat.translate(0);
        let place = Place::new(&[]);
        let file = place.path("capture.pcapng");
        let agent = Agent::start(&place, &file, &["-I", "any"]);
        let (inside, outside) = (address(INSIDE[number]), address(OUTSIDE[number]));
        let count = CASES.len() + 1;
        let python = nat.outside.command(PYTHON);
        let (mut served, port) = server(python, &place, outside, count, "asyncio");
        let python = mirrored(&nat.container, &agent);
        let held = Held::start(python, outside, port, &CASES);
        until_told(&file, count);
        let told = held.told.clone();
        held.end();
        assert!(served.wait().success());
        let said = agent.end_well();
        let flows = good_flows(&file);
        assert_eq!(flows.len(), count, "{said}");
        for (flow, (own, _)) in flows.iter().zip(told) {
            assert_own(flow, (inside, own), (outside, port));
        }
        assert_translated(&place, number);
    }
}

/// Who looks outside only sees the gateway speak, and says that it may be another one.
#[test]
fn a_client_that_is_seen_outside_only() {
    for number in [0, 1] {
        let (flow, (gateway, seen, _), _) = by_the_gateway(number, "out0", Role::Client);
        assert_eq!(flow.client, (gateway, seen).into());
    }
}

/// A server outside is mirrored by the same agent, which sees both the container and the gateway speak to it: the one
/// that has a connection there is shown, and it says that it may be the other one.
#[test]
fn a_server_that_sees_the_gateway() {
    for number in [0, 1] {
        let (flow, (client, seen, text), server) = by_the_gateway(number, "any", Role::Server);
        assert_eq!(flow.client, (client, seen).into());
        assert_eq!(flow.server, server);
        assert_eq!(flow.request.whole(), Some(&text[..]));
    }
}

/// Who is mirrored.
#[derive(PartialEq, Eq)]
enum Role {
    Client,
    Server,
}

/// A session of the container's with a server outside; its flow, which says that its addresses may be others, what the
/// server saw, and where that is.
fn by_the_gateway(
    number: usize,
    interface: &str,
    role: Role,
) -> (Flow, (IpAddr, u16, Vec<u8>), SocketAddr) {
    let nat = Nat::new();
    nat.translate(0);
    let place = Place::new(&[]);
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", interface]);
    let outside = address(OUTSIDE[number]);
    let python = |namespace: &Namespace, is_mirrored: bool| match is_mirrored {
        true => mirrored(namespace, &agent),
        false => namespace.command(PYTHON),
    };
    let serving = python(&nat.outside, role == Role::Server);
    let (mut served, port) = server(serving, &place, outside, 1, "asyncio");
    let asking = python(&nat.container, role == Role::Client);
    let held = Held::start(asking, outside, port, &[]);
    until_told(&file, 1);
    held.end();
    assert!(served.wait().success());
    agent.end_well();
    assert_translated(&place, number);
    let mut flows = good_flows(&file);
    assert_eq!(flows.len(), 1, "{flows:?}");
    let flow = flows.remove(0);
    let bound = word(&flow, "bound");
    assert_eq!(bound, Some("wire-ambiguous"), "{}", flow.comment);
    (flow, logged(&place).remove(0), (outside, port).into())
}

/// The server saw the gateway, and ports of its.
fn assert_translated(place: &Place, number: usize) {
    for (address, port, _) in logged(place) {
        assert_eq!(address.to_string(), GATEWAY[number]);
        assert!((TRANSLATED.0..=TRANSLATED.1).contains(&port), "{port}");
    }
}

/// A container's server at a port of the gateway's.
#[test]
fn a_server_in_a_container_at_a_published_port() {
    for number in [0, 1] {
        let nat = Nat::new();
        let place = Place::new(&[]);
        let file = place.path("capture.pcapng");
        let agent = Agent::start(&place, &file, &["-I", "any"]);
        let python = mirrored(&nat.container, &agent);
        let (inside, outside) = (address(INSIDE[number]), address(OUTSIDE[number]));
        let count = CASES.len() + 1;
        let (mut served, port) = server(python, &place, inside, count, "asyncio");
        nat.translate(port);
        let gateway = address(GATEWAY[number]);
        let python = nat.outside.command(PYTHON);
        let held = Held::start(python, gateway, PUBLISHED, &CASES);
        until_told(&file, count);
        let told = held.told.clone();
        held.end();
        assert!(served.wait().success());
        let said = agent.end_well();
        let flows = good_flows(&file);
        assert_eq!(flows.len(), count, "{said}");
        for (flow, (own, _)) in flows.iter().zip(told) {
            assert_own(flow, (outside, own), (inside, port));
        }
    }
}
