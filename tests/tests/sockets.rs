//! Sockets in every form that a program can give to its TLS library: each flow has the addresses that the program's own
//! socket has, and every byte. A connection that has no one pair of addresses is shown under none.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use mirror_tests::attach::{Connection, Run};
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::network::{enter_new_namespace, ip};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::Agent;
use mirror_tests::streams::{Flow, flows};
use serde_json::Value;

/// A connection of the program, what it said of it while that was alive, and what the agent has written.
struct Talk {
    /// The client and the server, if they are one pair of addresses.
    ends: Option<(SocketAddr, SocketAddr)>,
    /// The process of the server's end.
    server: String,
    connection: Connection,
    flow: Flow,
    /// Its line in the log.
    line: Value,
}

/// Lets `sockets.c` talk on this form of sockets, and one of the ends be mirrored.
fn talks(form: &str, role: &str, interface: &str) -> Vec<Talk> {
    let place = Place::new(&[]);
    let program = place.path("sockets");
    let sources = [source("tests/data/sockets.c")];
    compile_gnu(&sources, &program, &["-lssl", "-lcrypto"]);
    let (capture, log) = (place.path("capture.pcapng"), place.path("sessions.jsonl"));
    let (rule, log_name) = (format!("role={role}"), log.display().to_string());
    let options = ["-I", interface, "--allow", &rule, "--log", &log_name];
    let agent = Agent::start(&place, &capture, &options);
    let mut command = Command::new(program);
    agent.prepare(&mut command);
    command.args([place.path("cert.pem"), place.path("key.pem")]);
    command
        .arg(form)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut process, mut stdin) = Process::start_fed(&mut command);
    let mut shown = Vec::new();
    for line in BufReader::new(process.stdout().expect("a pipe")).lines() {
        shown.push(line.expect("a line"));
        // Its addresses are looked at while it is alive: the kernel knows it.
        until("its flow", || {
            let flows = flows(&Capture::read(&capture).ok()?).ok()?;
            (flows.len() == shown.len()).then_some(())
        });
        stdin.write_all(b"\n").expect("the program");
    }
    let run = Run::of(process.output());
    assert_eq!(run.code, Some(0), "{form}: {shown:?}");
    let said = agent.end_well();
    let capture = Capture::read(&capture).expect("a capture");
    rules::assert_good(&capture, form);
    let mut flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), shown.len(), "{form}: {said}");
    assert_eq!(run.connections.len(), shown.len(), "{form}");
    let lines = fs::read_to_string(log).expect("a log");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), shown.len(), "{form}");
    let connections = shown.iter().zip(run.connections);
    let talk = |(line, connection): (&String, Connection)| {
        let words: Vec<_> = line.split(' ').collect();
        let address = |word: &str| {
            let address: SocketAddr = word.parse().ok()?;
            Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
        };
        let ends = address(words[0]).zip(address(words[1]));
        let is_its = |flow: &Flow| ends.is_none_or(|ends| (flow.client, flow.server) == ends);
        let flow = flows.iter().position(is_its);
        let flow = flow.unwrap_or_else(|| panic!("{form}: no flow of {line} in {flows:?}: {said}"));
        let flow = flows.remove(flow);
        let is_its = |line: &&Value| line["src_port"] == flow.client.port();
        let line = lines.iter().find(is_its).expect("a line in the log");
        Talk {
            ends,
            server: words[2].to_owned(),
            connection,
            line: line.clone(),
            flow,
        }
    };
    connections.map(talk).collect()
}

impl Talk {
    /// Every byte is there, at its place.
    fn assert_whole(&self, form: &str) {
        let (flow, connection) = (&self.flow, &self.connection);
        let comment = &flow.comment;
        assert!(!connection.received.is_empty());
        for (stream, truth) in [
            (&flow.request, &connection.sent),
            (&flow.response, &connection.received),
        ] {
            assert_eq!(stream.difference(truth), None, "{form}: {comment}");
            assert_eq!(stream.missing(), 0, "{form}: {comment}");
        }
    }

    /// Its addresses are its socket's, as the kernel says.
    fn assert_proven(&self, form: &str) {
        let comment = &self.flow.comment;
        assert!(self.ends.is_some(), "{form}");
        assert!(
            comment.contains(" bound=socket claim=proven "),
            "{form}: {comment}"
        );
        let (client, server) = (self.flow.client, self.flow.server);
        assert_eq!(self.line["bound"], "socket", "{form}");
        assert_eq!(self.line["claim"], "proven", "{form}");
        assert_eq!(self.line["src_ip"], client.ip().to_string(), "{form}");
        assert_eq!(self.line["dest_ip"], server.ip().to_string(), "{form}");
        assert_eq!(self.line["dest_port"], server.port(), "{form}");
    }

    /// It is shown under no connection's addresses.
    fn assert_nobodys(&self, form: &str) {
        let comment = &self.flow.comment;
        assert_eq!(self.ends, None, "{form}");
        assert!(comment.contains(" bound=placeholder "), "{form}: {comment}");
        assert!(!comment.contains(" claim="), "{form}: {comment}");
        assert_eq!(self.line["bound"], "placeholder", "{form}");
        assert_eq!(self.line.get("claim"), None, "{form}");
    }
}

#[test]
fn a_socket_is_known_by_whichever_descriptor_and_bio() {
    for form in ["fd", "dup", "dup2", "halves", "mapped", "buffer", "chain"] {
        for role in ["client", "server"] {
            let talks = talks(form, role, "none");
            assert_eq!(talks.len(), 1);
            talks[0].assert_whole(form);
            talks[0].assert_proven(form);
        }
    }
}

/// Each has its own addresses and its own text, whatever number its descriptor has by now.
#[test]
fn a_descriptor_that_is_another_connections_by_now() {
    for role in ["client", "server"] {
        let talks = talks("reused", role, "none");
        assert_eq!(talks.len(), 2);
        for talk in &talks {
            talk.assert_whole("reused");
            talk.assert_proven("reused");
        }
        assert_ne!(talks[0].ends, talks[1].ends);
    }
}

/// Each connection is that of the process which accepted it.
#[test]
fn processes_that_share_a_port() {
    let talks = talks("shared", "server", "none");
    for talk in &talks {
        talk.assert_whole("shared");
        talk.assert_proven("shared");
        let pid = format!(" pid={} ", talk.server);
        assert!(talk.flow.comment.contains(&pid), "{}", talk.flow.comment);
        assert_eq!(talk.line["process"]["pid"].to_string(), talk.server);
    }
}

#[test]
fn what_is_no_connection_of_tcp_is_nobodys() {
    for role in ["client", "server"] {
        let talks = talks("unix", role, "none");
        talks[0].assert_whole("unix");
        talks[0].assert_nobodys("unix");
    }
}

/// One way is one connection, the other way another one: neither has both hellos, nor is the session's.
#[test]
fn a_session_on_two_connections_is_neithers() {
    let assert_neithers = |interface| {
        for role in ["client", "server"] {
            let talks = talks("crossed", role, interface);
            talks[0].assert_whole("crossed");
            talks[0].assert_nobodys("crossed");
        }
    };
    assert_neithers("none");
    if without_root("nobody else watches handshakes") {
        return;
    }
    enter_new_namespace();
    ip("link set lo up");
    assert_neithers("lo");
}
