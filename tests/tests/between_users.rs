//! Connections with which other users have to do: accepted for somebody, or passed on unread to somebody. The wire shows them,
//! and the kernel is asked whose they are; who has a connection of its own gets its addresses.

use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use mirror_tests::bio::{self, Held};
use mirror_tests::client::PYTHON;
use mirror_tests::native::source;
use mirror_tests::network::{enter_new_namespace, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::service::Agent;
use mirror_tests::streams::{Flow, flows};

/// A program that is fed nothing, and what it says, a number a line.
fn talking(command: &mut Command) -> (Process, impl FnMut() -> u16 + use<>) {
    let mut process = Process::start_piped(command);
    let mut said = BufReader::new(process.stdout().expect("a pipe"));
    let next = move || {
        let mut line = String::new();
        said.read_line(&mut line).expect("a line");
        line.trim().parse().expect("a number")
    };
    (process, next)
}

/// The latest flow, once there are so many.
fn latest(place: &Place, count: usize) -> Flow {
    let file = place.path("capture.pcapng");
    let mut found = until("flows", || {
        let found = flows(&Capture::read(&file).ok()?).ok()?;
        (found.len() >= count).then_some(found)
    });
    found.pop().expect("a flow")
}

/// In a network of its own, of which the agent sees everything.
fn agent(place: &Place) -> Agent {
    enter_new_namespace();
    ip("link set lo up");
    Agent::start(place, &place.path("capture.pcapng"), &["-I", "lo"])
}

fn assert_own(flow: &Flow, (client, server): (u16, u16)) {
    let comment = &flow.comment;
    assert_eq!(
        (flow.client.port(), flow.server.port()),
        (client, server),
        "{comment}"
    );
    assert!(comment.contains(" bound=wire "), "{comment}");
    assert!(!comment.contains("claim="), "{comment}");
}

/// Root accepts connections for its children, which have become another user, and whose library has no socket: those that
/// were passed on, and those that were inherited.
#[test]
fn who_has_been_handed_a_connection_has_it() {
    if without_root("nobody else can be another user") {
        return;
    }
    let place = Place::new(&[]);
    let agent = agent(&place);
    let mut command = Command::new(PYTHON);
    agent.prepare(&mut command);
    command.arg(source("tests/data/accepted.py"));
    command.args([place.path("cert.pem"), place.path("key.pem")]);
    let (mut server, mut number) = talking(command.arg("1234"));
    let port = number();
    let mut clients = Vec::new();
    for count in 1..=2 {
        let at = format!("127.0.0.1:{port}");
        let mut client = Command::new("openssl");
        client.args(["s_client", "-quiet", "-no_ign_eof", "-connect", &at]);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        let (process, mut stdin) = Process::start_fed(&mut client);
        stdin.write_all(b"hello\n").expect("a pipe");
        let client_port = number();
        let flow = latest(&place, count);
        assert_own(&flow, (client_port, port));
        assert!(flow.comment.contains(" uid=1234 "), "{}", flow.comment);
        clients.push((process, stdin));
    }
    for (mut process, stdin) in clients {
        drop(stdin);
        assert!(process.wait().success());
    }
    assert!(server.wait().success());
    agent.end_well();
}

/// Another user's proxy passes bytes on, and the same handshake is seen on both of its connections: of a client it is the
/// first, of a server the second.
#[test]
fn who_is_behind_a_proxy_has_its_own_connection() {
    if without_root("nobody else can be another user") {
        return;
    }
    for mirrors_client in [true, false] {
        let place = Place::new(&[]);
        let agent = agent(&place);
        let command = || Command::new(PYTHON);
        let mirrored = || {
            let mut command = command();
            agent.prepare(&mut command);
            command
        };
        let (asks, answers) = match mirrors_client {
            true => (mirrored(), command()),
            false => (command(), mirrored()),
        };
        let address = Ipv4Addr::LOCALHOST.into();
        let (mut server, server_port) = bio::server(answers, &place, address, 1, "");
        let mut proxy = Command::new("setpriv");
        proxy.args(["--reuid", "65533", "--regid", "65533", "--clear-groups"]);
        proxy.arg(PYTHON).arg(source("tests/data/passes.py"));
        let (_proxy, mut number) = talking(proxy.arg(server_port.to_string()));
        let proxy_port = number();
        let client = Held::start(asks, address, proxy_port, &[]);
        let (of_proxy, of_client) = (number(), number());
        let ends = match mirrors_client {
            true => (of_client, proxy_port),
            false => (of_proxy, server_port),
        };
        assert_own(&latest(&place, 1), ends);
        client.end();
        assert!(server.wait().success());
        agent.end_well();
    }
}
