//! What programs say of their connections, and what the kernel says of that: real programs, whose addresses are proven.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use mirror_tests::attach::{Connection, Run, compile};
use mirror_tests::bio::{packet, segment};
use mirror_tests::client::PYTHON;
use mirror_tests::load::{ab_at, assert_all_answered};
use mirror_tests::native::{compile_gnu, hook_archive, source};
use mirror_tests::network::{ITS_ROOT, Listener, Namespace, enter_new_namespace, ip};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, is_root, output_of, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::{Agent, How, open_to_others};
use mirror_tests::streams::{End, Flow, flows};
use serde_json::Value;

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

/// What runs in a container whose processes, users and network are its own: the log says in which network, and its
/// addresses are proven.
#[test]
fn a_connection_in_a_container() {
    if without_root("nobody else makes namespaces") {
        return;
    }
    let place = Place::new(&[]);
    let container = Namespace::with_users();
    container.ip("link set lo up");
    let readable = fs::Permissions::from_mode(0o644);
    fs::set_permissions(place.path("key.pem"), readable).expect("a key");
    let (file, log) = (place.path("capture.pcapng"), place.path("sessions.jsonl"));
    let log_name = log.display().to_string();
    let agent = Agent::start(&place, &file, &["-I", "none", "--log", &log_name]);
    let mut command = container.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--"]);
    agent.prepare(&mut command);
    // So the host's root is called there.
    command.env("SSLCOLLECTOR_AGENT_UID", "65534");
    let mut program = Victim::start_by(&place, command, "fd");
    let ends = program.shown();
    let flow = the_flow(&file);
    let truth = program.end();
    let said = agent.end_well();
    assert_eq!((flow.client, flow.server), ends);
    let comment = &flow.comment;
    let network = fs::metadata(format!("/proc/{}/ns/net", container.id()));
    let network = network.expect("a namespace").ino();
    for word in [
        format!(" uid={ITS_ROOT} "),
        " bound=socket claim=proven ".to_owned(),
        format!(" netns={network} "),
    ] {
        assert!(comment.contains(&word), "{word}: {comment}: {said}");
    }
    let lines = fs::read_to_string(log).expect("a log");
    let line: Value = serde_json::from_str(&lines).expect("a line");
    assert_eq!(line["bound"], "socket");
    assert_eq!(line["claim"], "proven");
    assert_eq!(line["process"]["netns"], network);
    assert_eq!(line["process"]["uid"], ITS_ROOT);
    assert_eq!(line["src_port"], ends.0.port());
    assert_eq!(line["bytes_toserver"], truth.sent.len());
    assert_eq!(line["bytes_toclient"], truth.received.len());
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
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", "none"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let server = listener.local_addr().expect("an address");
    // Of this process, and alive for all of the test.
    let victim = TcpStream::connect(server).expect("connect");
    let client = victim.local_addr().expect("an address");
    let mut impostor = Impostor::start(&place, &agent, (client, server));
    let flow = the_flow(&file);
    impostor.end();
    let said = agent.end_well();
    assert_eq!((flow.client, flow.server), (client, server));
    let comment = &flow.comment;
    assert!(comment.contains(" bound=told community_id="), "{comment}");
    assert!(!said.contains("confirmed"), "{said}");
}

/// Of a connection that is another's, and mirrored: it doesn't get its addresses, whoever comes first.
#[test]
fn what_an_application_tells_takes_no_sessions_addresses() {
    for first in [true, false] {
        let place = Place::new(&[]);
        let (file, log) = (place.path("capture.pcapng"), place.path("sessions.jsonl"));
        let log_name = log.display().to_string();
        let agent = Agent::start(&place, &file, &["-I", "none", "--log", &log_name]);
        let mut victim = Victim::start(&place, &agent, if first { "late" } else { "fd" });
        let ends = victim.shown();
        if !first {
            flows_of(&file, 1);
        }
        let mut impostor = Impostor::start(&place, &agent, ends);
        if first {
            assert!(the_flow(&file).comment.contains(" bound=told "));
            victim.go_on();
            assert_eq!(victim.shown(), ends);
            flows_of(&file, 3);
        } else {
            flows_of(&file, 2);
        }
        impostor.end();
        let truth = victim.end();
        let said = agent.end_well();

        let capture = Capture::read(&file).expect("a capture");
        rules::assert_good(&capture, "an impostor's");
        let mut flows = flows(&capture).expect("flows");
        let proven = |flow: &Flow| flow.comment.contains(" bound=socket claim=proven ");
        let its = flows.iter().position(proven).expect("the true one");
        let its = flows.remove(its);
        assert_eq!((its.client, its.server), ends);
        assert_eq!(its.request.whole(), Some(&truth.sent[..]));
        assert_eq!(its.response.whole(), Some(&truth.received[..]));
        assert_eq!(its.end, End::ClosedByClient);

        // What the impostor says is all there, and under nobody's addresses from then on.
        let refused = flows.pop().expect("the other one");
        let comment = &refused.comment;
        let words = " bound=placeholder claim=contradicted ";
        assert!(comment.contains(words), "{comment}");
        let mut text = refused.response.whole().expect("all of it").to_vec();
        assert_eq!(flows.len(), usize::from(first));
        if let Some(told) = flows.pop() {
            assert_eq!((told.client, told.server), ends);
            assert_eq!(told.end, End::ResetByServer);
            assert!(told.times_ns.1 <= its.times_ns.0, "{told:?} {its:?}");
            assert!(comment.contains(" continued=yes "), "{comment}");
            text = [told.response.whole().expect("all of it"), &text].concat();
        }
        assert_eq!(text, b"mine\nstill mine\n");

        let counted = "1 session named another process's connection";
        assert!(said.contains(counted), "{said}");
        let lines = fs::read_to_string(log).expect("a log");
        let lines = lines
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let refused: Vec<_> = lines
            .filter(|line| line["claim"] == "contradicted")
            .collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0]["bound"], "placeholder");
        assert_eq!(refused[0]["process"]["pid"], impostor.process.id());
    }
}

/// Another user has seen a handshake, and says that it was its own: the wire shows that the randoms are right, and the
/// kernel whose connection it is.
#[test]
fn who_has_seen_a_handshake_does_not_get_its_connection() {
    const STRANGER: &str = "65533";
    if without_root("nobody else can be another user") {
        return;
    }
    let place = Place::new(&[]);
    enter_new_namespace();
    ip("link set lo up");
    let wire = Listener::start("lo", &place.path("wire.pcapng"));
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", "lo"]);
    let mut victim = Victim::start_by(&place, Command::new("env"), "fd");
    let ends = victim.shown();
    let random = |capture: &Capture, kind: u8| {
        let mut payloads = capture.packets.iter().filter_map(|one| {
            let segment = segment(packet(&one.frame)?.0)?;
            segment.get(usize::from(segment[12] >> 4) * 4..)
        });
        // The record's header, the message's, and a version (RFC 8446 4.1.2, 5.1).
        let is_hello =
            |payload: &&[u8]| payload.first() == Some(&22) && payload.get(5) == Some(&kind);
        let hello = payloads.find(is_hello)?.get(11..43)?;
        Some(hello.iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let randoms = |capture: &Capture| Some([random(capture, 1)?, random(capture, 2)?]);
    let capture = wire.end(|capture| randoms(capture).is_some());
    let randoms: [String; 2] = randoms(&capture).expect("a handshake");
    let setpriv = ["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups"];
    let ends_with = |user: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(user);
        let mut impostor = Impostor::start_by(&place, &agent, command, &randoms);
        let flow = flows_of(&file, 1 + usize::from(user.is_empty())).pop();
        impostor.end();
        flow.expect("a flow")
    };
    let refused = ends_with(&setpriv);
    let comment = &refused.comment;
    let words = " bound=placeholder claim=contradicted ";
    assert!(comment.contains(words), "{comment}");
    // Its own user's other processes can't be told from it.
    let own = ends_with(&[]);
    assert!(own.comment.contains(" bound=wire "), "{}", own.comment);
    assert_eq!((own.client, own.server), ends);
    victim.end();
    let said = agent.end_well();
    let counted = "1 session named another process's connection";
    assert!(said.contains(counted), "{said}");
}

/// A program that says of its connection that it is another one.
struct Impostor {
    process: Process,
    stdin: Option<ChildStdin>,
    /// Where its own one leads.
    _listener: TcpListener,
}

impl Impostor {
    /// It names these ends: the client's, and its own, which is the server's.
    fn start(place: &Place, agent: &Agent, ends: (SocketAddr, SocketAddr)) -> Self {
        let named = [ends.1.port(), ends.0.port()].map(|port| port.to_string());
        Self::start_by(place, agent, Command::new("env"), &named)
    }

    /// By a program that becomes it.
    fn start_by(place: &Place, agent: &Agent, mut command: Command, named: &[String]) -> Self {
        let program = place.path("impostor");
        let sources = [source("tests/data/impostor.c")];
        compile_gnu(&sources, &program, &[&hook_archive()]);
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let own = listener.local_addr().expect("an address").port();
        agent.prepare(&mut command);
        command.arg(program).arg(own.to_string()).args(named);
        let (process, stdin) = Process::start_fed(command.stdout(Stdio::null()));
        Self {
            process,
            stdin: Some(stdin),
            _listener: listener,
        }
    }

    /// It speaks once more before.
    fn end(&mut self) {
        self.stdin = None;
        assert!(self.process.wait().success());
    }
}

/// A program with a connection between two sockets of its own.
struct Victim {
    process: Process,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Victim {
    fn start(place: &Place, agent: &Agent, form: &str) -> Self {
        let mut command = Command::new("env");
        agent.prepare(&mut command);
        Self::start_by(place, command, form)
    }

    /// By a program that becomes it, or starts it.
    fn start_by(place: &Place, mut command: Command, form: &str) -> Self {
        let program = place.path("sockets");
        let sources = [source("tests/data/sockets.c")];
        compile_gnu(&sources, &program, &["-lssl", "-lcrypto"]);
        command.arg(program);
        command.args([place.path("cert.pem"), place.path("key.pem")]);
        command
            .arg(form)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let (mut process, stdin) = Process::start_fed(&mut command);
        let stdout = BufReader::new(process.stdout().expect("a pipe"));
        Self {
            process,
            stdin,
            stdout,
        }
    }

    /// The client and the server, as its next line has them.
    fn shown(&mut self) -> (SocketAddr, SocketAddr) {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("a line");
        let mut words = line
            .split(' ')
            .map(|word| word.parse().expect("an address"));
        (
            words.next().expect("a client"),
            words.next().expect("a server"),
        )
    }

    fn go_on(&mut self) {
        self.stdin.write_all(b"\n").expect("a pipe");
    }

    /// What it has said.
    fn end(mut self) -> Connection {
        self.go_on();
        let mut run = Run::of(self.process.output());
        assert_eq!(run.code, Some(0), "{run:?}");
        run.connections.remove(0)
    }
}

/// The flows of a capture that is being written, once there are so many.
fn flows_of(file: &Path, count: usize) -> Vec<Flow> {
    until("flows", || {
        let found = flows(&Capture::read(file).ok()?).ok()?;
        (found.len() >= count).then_some(found)
    })
}

/// The only flow of a capture that is being written, once it is there.
fn the_flow(file: &Path) -> Flow {
    let mut found = flows_of(file, 1);
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
