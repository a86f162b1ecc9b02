//! What programs say of their connections, and what the kernel says of that: real programs, whose addresses are proven.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::attach::{Run, compile};
use mirror_tests::client::PYTHON;
use mirror_tests::load::{ab_at, assert_all_answered};
use mirror_tests::native::{compile_gnu, hook_archive, source};
use mirror_tests::network::{Namespace, enter_new_namespace, ip};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, is_root, output_of, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::{Agent, How, open_to_others};
use mirror_tests::streams::{Flow, flows};

const SHORT: usize = 5000;
const AT_ONCE: usize = 200;
/// In both namespaces.
const SERVER_PORT: u16 = 44_330;

/// Each of thousands of short connections has the port that nginx saw, whoever its worker has become; and nobody is
/// accused.
#[test]
fn short_connections_have_their_own_addresses() {
    let place = Place::new(&[1]);
    open_to_others(&place);
    let nginx = Nginx::with(
        &place,
        Options {
            user: if is_root() { "www-data" } else { "root" },
            workers: 2,
            connections: 1024,
            ..Options::default()
        },
    );
    let mirrored = nginx.service().start(&place, How::Serve);
    let url = format!("https://127.0.0.1:{}/get/1", nginx.port);
    assert_all_answered(ab_at(&url, SHORT, AT_ONCE), SHORT);
    let seen = mirrored.end();
    let mut logged: Vec<u16> = nginx.log().iter().map(|entry| entry.port).collect();
    // At its end ab has opened some on which it says nothing, and which it resets; nginx logs none of them.
    let mut spoken = seen.flows.clone();
    spoken.retain(|flow| flow.request.length() > 0);
    let mut told: Vec<u16> = spoken.iter().map(|flow| flow.client.port()).collect();
    assert_eq!(told.len(), SHORT, "{}", seen.said);
    logged.sort_unstable();
    told.sort_unstable();
    assert!(told == logged, "ports differ: {}", seen.said);
    for flow in &spoken {
        assert_eq!(flow.server.to_string(), format!("127.0.0.1:{}", nginx.port));
        assert!(flow.client.ip().is_loopback());
        let comment = &flow.comment;
        assert!(comment.contains(" bound=socket claim="), "{comment}");
        assert!(!comment.contains("claim=contradicted"), "{comment}");
    }
    let proven = |flow: &Flow| flow.comment.contains("claim=proven");
    assert!(spoken.iter().any(proven), "{}", seen.said);
}

/// The same addresses in two network namespaces are two connections: whichever is mirrored, it is the other one that the
/// kernel isn't asked about.
#[test]
fn the_same_addresses_in_two_namespaces() {
    if without_root("nobody else makes namespaces") {
        return;
    }
    let place = Place::new(&[]);
    enter_new_namespace();
    ip("link set lo up");
    let other = Namespace::new();
    other.ip("link set lo up");
    compile(&place.path("attach"), &[]);
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &[]);
    let in_namespace = |number: usize, program: &Path| match number {
        0 => Command::new(program),
        _ => other.command(program),
    };
    let servers = [0, 1].map(|number| server(&place, in_namespace(number, "openssl".as_ref())));
    // The same port twice would have to wait until the kernel forgets the first.
    for (mirrored, port) in [(0, 50_000), (1, 50_001)] {
        let clients = [0, 1].map(|number| {
            let range = format!("echo {port} {port} >/proc/sys/net/ipv4/ip_local_port_range");
            output_of(in_namespace(number, "sh".as_ref()).args(["-c", &range]));
            let mut client = in_namespace(number, &place.path("attach"));
            if number == mirrored {
                agent.prepare(&mut client);
            }
            let wait = place.path(&format!("wait-{port}-{number}"));
            client.arg(SERVER_PORT.to_string()).arg("open");
            client.arg(format!("wait:{}", wait.display())).arg("close");
            let client = Process::start_piped(&mut client);
            let held = wait.with_extension("here");
            until("a connection", || held.exists().then_some(()));
            (client, wait)
        });
        let read = || flows(&Capture::read(&file).ok()?).ok();
        until("its flow", || read().filter(|flows| flows.len() > mirrored));
        for (client, wait) in clients {
            fs::write(wait.with_extension("go"), "").expect("a file");
            let ended = Run::of(client.output());
            assert_eq!(ended.code, Some(0), "{ended:?}");
        }
    }
    drop(servers);
    let said = agent.end_well();
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, &said);
    let flows = flows(&capture).expect("flows");
    let clients: Vec<_> = flows.iter().map(|flow| flow.client.to_string()).collect();
    assert_eq!(clients, ["127.0.0.1:50000", "127.0.0.1:50001"], "{said}");
    let namespaces = flows.iter().map(|flow| {
        let comment = &flow.comment;
        assert!(comment.contains(" bound=socket claim=proven "), "{comment}");
        let mut words = comment.split(' ');
        words.find(|word| word.starts_with("netns="))
    });
    let namespaces: Vec<_> = namespaces.collect();
    assert!(
        namespaces[0].is_some() && namespaces[0] != namespaces[1],
        "{namespaces:?}"
    );
}

/// As who accepts connections for others does, or systemd: its user isn't the one who made the socket.
#[test]
fn whose_connection_was_passed_on_to_it_has_it() {
    if without_root("nobody else can be another user") {
        return;
    }
    let place = Place::new(&[]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &[]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/passed.py");
    let mut command = Command::new(PYTHON);
    agent.prepare(&mut command);
    command.arg(script).arg(nginx.port.to_string()).arg("1234");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let (program, stdin) = Process::start_fed(&mut command);
    let flow = the_flow(&file);
    drop(stdin);
    let output = program.output();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        flow.client.port().to_string()
    );
    let comment = &flow.comment;
    assert!(comment.contains(" uid=1234 "), "{comment}");
    assert!(comment.contains(" bound=socket claim=proven "), "{comment}");
    agent.end_well();
    nginx.quit();
}

/// What the C API takes from an application is told, however true: even beside a socket that would be proven.
#[test]
fn what_an_application_tells_is_never_proven() {
    let place = Place::new(&[]);
    let program = place.path("impostor");
    let sources = [source("tests/data/impostor.c")];
    compile_gnu(&sources, &program, &[&hook_archive()]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let port = listener.local_addr().expect("an address").port();
    // Of this process, and alive for all of the test.
    let victim = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    let local = victim.local_addr().expect("an address");
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", "none"]);
    let mut command = Command::new(program);
    agent.prepare(&mut command);
    command.args([port, local.port(), port].map(|port| port.to_string()));
    let (mut program, stdin) = Process::start_fed(command.stdout(Stdio::null()));
    let flow = the_flow(&file);
    drop(stdin);
    assert!(program.wait().success());
    let said = agent.end_well();
    assert_eq!(flow.server, local);
    let comment = &flow.comment;
    assert!(comment.contains(" bound=told community_id="), "{comment}");
    assert!(!said.contains("confirmed"), "{said}");
}

/// The only flow of a capture that is being written, once it is there.
fn the_flow(file: &Path) -> Flow {
    let read = || flows(&Capture::read(file).ok()?).ok();
    let mut found = until("a flow", || read().filter(|flows| !flows.is_empty()));
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A server that listens.
fn server(place: &Place, mut openssl: Command) -> Process {
    openssl.args(["s_server", "-www", "-accept"]);
    openssl.arg(format!("127.0.0.1:{SERVER_PORT}"));
    openssl.arg("-cert").arg(place.path("cert.pem"));
    openssl.arg("-key").arg(place.path("key.pem"));
    let server = Process::start(openssl.stdout(Stdio::null()).stderr(Stdio::null()));
    let listens = format!(":{SERVER_PORT:04X} 00000000:0000 0A");
    until("a server", || {
        let table = fs::read_to_string(format!("/proc/{}/net/tcp", server.id())).ok()?;
        table.contains(&listens).then_some(())
    });
    server
}
