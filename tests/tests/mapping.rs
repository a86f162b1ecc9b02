//! Sessions whose library has no socket are found on the wire, whatever way their hellos take: the addresses are
//! those that the program's own socket had, the fingerprint is Suricata's.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use mirror_tests::bio::{Held, bound, client, data, fingerprints, is_over, mirrored, server, word};
use mirror_tests::client::PYTHON;
use mirror_tests::footprint::Footprint;
use mirror_tests::network::{HOST, Listener, Namespace, Network, PEER, enter_new_namespace, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::service::Agent;
use mirror_tests::streams::flows;
use rustix::process::Signal;
use serde_json::{Value, json};

/// A client's hello in every way.
#[test]
fn clients_are_found_and_fingerprinted_by_their_hellos_in_pieces() {
    let cases = [
        "asyncio",
        "cut:1,2,3,5,6,9",
        "cut:5",
        "cut:42",
        "cut:43",
        "cut:44,200",
        "long:1400",
        "long:3,1000,2000",
        "records:30",
        "resume",
    ];
    for (host, peer) in HOST.into_iter().zip(PEER) {
        let network = Network::new();
        let place = Place::new(&[]);
        let wire = place.path("wire.pcapng");
        let listener = Listener::start("wire0", &wire);
        let command = network.in_peer(PYTHON);
        let (mut served, port) = server(command, &place, peer, cases.len(), "cut:");
        let file = place.path("capture.pcapng");
        let clients = client(mirrored(&file), peer, port, &cases);
        let at = |case: &str| cases.iter().position(|one| *one == case).expect("a case");
        assert!(served.wait().success());
        assert_eq!(clients.len(), cases.len());
        assert!(clients[cases.len() - 1].1, "the last one resumes");
        let ends = (host, peer);
        let flows = bound(&file, &clients, ends, port);
        listener.end(|capture| is_over(capture, cases.len()));
        let mut expected = fingerprints(&place, &wire, &port.to_string());
        // Suricata puts segments together, and no records: the same client says the same in one.
        let same = expected[&clients[at("cut:5")].0].clone();
        expected.insert(clients[at("records:30")].0, same);
        for (case, (client, _)) in cases.iter().zip(&clients) {
            let flow = &flows[client];
            let seen = word(flow, "ja4");
            assert!(seen.is_some(), "{case}: {}", flow.comment);
            let suricata = expected.get(client).map(String::as_str);
            assert_eq!(seen, suricata, "{case}");
            assert_eq!(word(flow, "sni"), Some("mirror.test"));
        }
    }
}

/// A server's hello in pieces, by asyncio, and behind a HelloRetryRequest.
#[test]
fn servers_are_found_by_theirs() {
    for case in ["asyncio", "cut:3", "cut:20,42", "curve:secp384r1"] {
        let network = Network::new();
        let place = Place::new(&[]);
        let file = place.path("capture.pcapng");
        let clients = ["cut:3,60", "asyncio", "long:1400"];
        let (mut served, port) = server(mirrored(&file), &place, HOST[0], clients.len(), case);
        let clients = client(network.in_peer(PYTHON), HOST[0], port, &clients);
        assert!(served.wait().success());
        let flows = bound(&file, &clients, (PEER[0], HOST[0]), port);
        for flow in flows.values() {
            assert!(word(flow, "ja4").is_some(), "{case}: {}", flow.comment);
        }
    }
}

/// Handshakes that nobody goes on with, of clients that aren't there: what is remembered of them has a bound, and who comes
/// behind them is found.
#[test]
fn a_storm_of_hellos_takes_bounded_memory_and_hides_nobody() {
    const STORM: &str = "100000";
    const MOST_KB: u64 = 128 << 10;
    const NO_MORE_KB: u64 = 16 << 10;
    let network = Network::new();
    let place = Place::new(&[]);
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", "wire0"]);
    let (_served, port) = server(network.in_peer(PYTHON), &place, PEER[0], 1000, "asyncio");
    let resident_kb = || {
        let footprint = Footprint::of(agent.process.id());
        footprint.expect("an agent").resident_kb
    };
    let mut sessions = 0;
    let mut is_found = || {
        let mut python = Command::new(PYTHON);
        agent.prepare(&mut python);
        let told = client(python, PEER[0], port, &["asyncio"]);
        sessions += 1;
        let flow = until("its flow", || {
            let mut flows = flows(&Capture::read(&file).ok()?).ok()?;
            flows.pop().filter(|_| flows.len() + 1 == sessions)
        });
        let found = word(&flow, "bound") == Some("wire");
        assert!(!found || flow.client == (HOST[0], told[0].0).into());
        found.then_some(())
    };
    let mut storm = || {
        let mut python = network.in_peer(PYTHON);
        output_of(python.arg(data("storm.py")).args(["wire1", STORM]));
        // The kernel may drop what comes while there is no room for more of it.
        until("one that is found", &mut is_found);
        resident_kb()
    };
    let before = resident_kb();
    let [first, _, last] = [(); 3].map(|()| storm());
    assert!(first < before + MOST_KB, "{before}, then {first} KiB");
    assert!(last < first + NO_MORE_KB, "{first}, then {last} KiB");
    agent.end_well();
}

/// Two networks beside one another, each with a client and a server that have the addresses and ports of the other's, at the
/// same time: who watches both sees one tuple, and two handshakes.
#[test]
fn the_same_addresses_in_two_networks_are_two_sessions() {
    const ENDS: [[&str; 2]; 2] = [["10.8.0.1", "10.8.0.2"], ["fd08::1", "fd08::2"]];
    enter_new_namespace();
    let networks = ["one", "two"].map(|name| {
        ip(&format!("link add {name} type bridge forward_delay 0"));
        ip(&format!("link set {name} up"));
        [0, 1].map(|end| {
            let namespace = Namespace::new();
            let (port, id) = (format!("{name}{end}"), namespace.id());
            ip(&format!(
                "link add {port} type veth peer name eth0 netns {id}"
            ));
            ip(&format!("link set {port} up master {name}"));
            namespace.ip("link set eth0 up");
            namespace.ip(&format!("addr add dev eth0 {}/24", ENDS[0][end]));
            namespace.ip(&format!("addr add dev eth0 {}/64 nodad", ENDS[1][end]));
            let range = "echo 50000 50000 >/proc/sys/net/ipv4/ip_local_port_range";
            output_of(namespace.command("sh").args(["-c", range]));
            namespace
        })
    });
    for [client, server_address] in ENDS {
        let place = Place::new(&[]);
        let log = place.path("sessions.jsonl");
        let log_name = log.display().to_string();
        let agent = Agent::sending(&place, &["-I", "any", "--log", &log_name]);
        let address = server_address.parse().expect("an address");
        let talks = networks.each_ref().map(|[inside, outside]| {
            let (served, port) = server(outside.command(PYTHON), &place, address, 1, "asyncio");
            let mut python = inside.command(PYTHON);
            agent.prepare(&mut python);
            (served, port, Held::start(python, address, port, &[]))
        });
        let mut expected = Vec::new();
        for ((mut served, port, held), [inside, _]) in talks.into_iter().zip(&networks) {
            let network = fs::metadata(format!("/proc/{}/ns/net", inside.id()));
            let network = network.expect("a namespace").ino();
            expected.push(json!([
                "wire",
                client,
                held.told[0].0,
                server_address,
                port,
                network
            ]));
            held.end();
            assert!(served.wait().success());
        }
        assert_eq!(
            expected[0].as_array().map(|it| &it[..5]),
            expected[1].as_array().map(|it| &it[..5])
        );
        let said = agent.end_well();
        let lines = fs::read_to_string(log).expect("a log");
        let lines = lines.lines().map(|line| {
            let line: Value = serde_json::from_str(line).expect("JSON");
            let [bound, from, port] = ["bound", "src_ip", "src_port"].map(|key| &line[key]);
            let [to, at, network] = [
                &line["dest_ip"],
                &line["dest_port"],
                &line["process"]["netns"],
            ];
            json!([bound, from, port, to, at, network])
        });
        let mut told: Vec<_> = lines.collect();
        told.sort_by_key(Value::to_string);
        expected.sort_by_key(Value::to_string);
        assert_eq!(told, expected, "{said}");
    }
}

/// An agent goes on without it, and its report says what that means.
#[test]
fn an_interface_that_goes_is_in_the_report() {
    enter_new_namespace();
    ip("link add gone0 type veth peer name gone1");
    ip("link set gone0 up");
    let place = Place::new(&[]);
    let agent = Agent::start(&place, &place.path("capture.pcapng"), &["-I", "gone0"]);
    ip("link del gone0");
    until("its end in the report", || {
        agent.process.signal(Signal::USR1);
        let said = agent.said();
        said.contains("1 interface ceased to show handshakes")
            .then_some(())
    });
    agent.end_well();
}
