//! The programs of rustls-examples: services and clients on rustls that mirror themselves. What they are asked
//! and what they ask is checked here against what their peers, with libraries of their own, say.

use std::ffi::OsString;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;

use crate::curl::{Transfer, Truth};
use crate::judges::{HttpEvent, Profile, Suricata, Verdict, complaints, in_time_order};
use crate::place::{HOST, Place, free_port};
use crate::process::{Process, run, stdout_of, until};
use crate::reader::Capture;
use crate::rules;
use crate::service::Service;
use crate::sslcollector::beside;
use crate::streams::{Flow, flows};

/// One of the servers, which serves the files of `place` on 127.0.0.1.
pub fn server(place: &Place, name: &str) -> Service {
    server_at(place, name, "127.0.0.1")
}

/// The same at any address; `[::]` is all of IPv4 and IPv6.
pub fn server_at(place: &Place, name: &str, address: &str) -> Service {
    let port = free_port();
    let path = |name: &str| place.path(name).display().to_string();
    let mut words = vec![beside(name).display().to_string()];
    match name {
        "tonic-service" => words.extend(["serve".into(), path("cert.pem"), path("key.pem")]),
        _ => words.extend([path("cert.pem"), path("key.pem"), path("www")]),
    }
    words.push(format!("{address}:{port}"));
    Service {
        words,
        port,
        end: Signal::TERM,
        status: 0,
        log: None,
    }
}

/// The words for one of the clients that is to ask for `path` at a port of this machine; `options` are behind
/// all others.
pub fn client(place: &Place, name: &str, port: u16, path: &str, options: &[&str]) -> Vec<OsString> {
    let roots = place.path("cert.pem");
    let url = format!("https://{HOST}:{port}{path}");
    let address = format!("127.0.0.1:{port}");
    let mut words: Vec<OsString> = vec![beside(name).into()];
    match name {
        "blocking-client" => words.extend([roots.into(), url.into(), address.into()]),
        "reqwest-client" => {
            words.extend([roots.into(), url.into(), "--connect".into(), address.into()]);
        }
        "tonic-service" => {
            words.extend(["call".into(), roots.into(), HOST.into(), address.into()]);
        }
        _ => panic!("there is no client {name}"),
    }
    words.extend(options.iter().map(OsString::from));
    words
}

/// A shell's words for a program, which none of ours need quotes within.
pub fn shell(words: &[OsString]) -> String {
    let quoted = words.iter().map(|word| format!("'{}' ", word.display()));
    quoted.collect()
}

/// A script that starts a service, has `clients` (commands of the shell) ask it one after another, and ends it. A
/// client that fails ends it with status 9.
pub fn script(place: &Place, service: &Service, clients: &[String]) -> String {
    let words: Vec<OsString> = service.words.iter().map(OsString::from).collect();
    let address = place.path("out/address");
    let address = address.display();
    let mut script = format!(
        "{}>'{address}' & server=$!\ntrap 'kill $server' EXIT\n\
         until [ -s '{address}' ]; do kill -0 $server || exit 8; sleep 0.02; done\n",
        shell(&words)
    );
    for client in clients {
        script += &format!("{} || exit 9\n", client.trim_end());
    }
    script + "trap - EXIT\nkill $server\nwait $server\n"
}

/// What nobody objects to: the rules of forging, tshark, capinfos and Suricata, which has seen each flow from
/// its beginning to its end.
///
/// # Panics
/// If somebody objects.
pub fn judge(place: &Place) -> (Vec<Flow>, Verdict) {
    let file = place.path("capture.pcapng");
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "rustls");
    assert!(in_time_order(&file), "capinfos: not in order of time");
    assert_eq!(complaints(&file), [""; 0], "tshark objects");
    let flows = flows(&capture).expect("flows");
    let verdict = Suricata.read(&file, Profile::Sslcollector, &place.path("judge"));
    assert_eq!(verdict.complaints(), [""; 0], "Suricata objects");
    assert_eq!(verdict.flow_states, vec!["closed"; flows.len()]);
    (flows, verdict)
}

/// Suricata saw each transaction of `truths`, and no other.
///
/// # Panics
/// If not.
pub fn assert_events(verdict: &Verdict, truths: &[(Transfer, Truth)]) {
    let mut seen = verdict.http.clone();
    let mut expected = Vec::new();
    for (_, truth) in truths {
        expected.extend(truth.transactions.iter().map(|transaction| HttpEvent {
            port: truth.port,
            method: transaction.method.into(),
            url: transaction.url.clone(),
            status: transaction.status,
            length: transaction.received.len() as u64,
        }));
    }
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected, "Suricata's http events");
}

/// The comment of each flow has all these words.
///
/// # Panics
/// If not.
pub fn assert_words(flows: &[Flow], words: &[&str]) {
    for flow in flows {
        let there = has_words(flow, words);
        assert!(there, "{words:?} aren't in: {}", flow.comment);
    }
}

/// Whether the comment of a flow has all these words. A program that has ended before the agent could look has no
/// name any more (`process=`), but never a wrong one.
pub fn has_words(flow: &Flow, words: &[&str]) -> bool {
    let comment: Vec<_> = flow.comment.split(' ').collect();
    let unnamed = !comment.iter().any(|word| word.starts_with("process="));
    words
        .iter()
        .all(|word| comment.contains(word) || (unnamed && word.starts_with("process=")))
}

/// Lower case hexadecimal, as sha256sum prints it.
pub fn sha256(file: &Path) -> String {
    let line = stdout_of(Command::new("sha256sum").arg(file));
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// h2load: `requests` by HTTP/2 on 4 connections with 8 streams each, with the distribution's library.
pub fn h2load(port: u16, path: &str, requests: usize) -> Command {
    let mut h2load = Command::new("h2load");
    h2load.args(["-n", &requests.to_string(), "-c", "4", "-m", "8"]);
    h2load.arg(format!("https://127.0.0.1:{port}{path}"));
    h2load
}

/// Every one of the requests was answered, and with success.
///
/// # Panics
/// If not.
pub fn assert_all_succeeded(output: &Output, requests: usize) {
    let text = String::from_utf8_lossy(&output.stdout);
    let told = format!("{requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout");
    assert!(text.contains(&told), "{output:?}");
    assert!(
        text.contains(&format!("status codes: {requests} 2xx")),
        "{text}"
    );
}

/// curl by HTTP/2 on one connection: the file of this size, and its way there and back. Both come as they should.
///
/// # Panics
/// If not.
pub fn curl_http2(place: &Place, port: u16, size: usize) {
    let file = place.path(&format!("www/{size}"));
    let (first, second) = (place.path("out/curl.1"), place.path("out/curl.2"));
    let url = |path: &str| format!("https://{HOST}:{port}{path}");
    let mut curl = Command::new("curl");
    curl.args(["-q", "-sS", "--fail", "--http2", "--noproxy", "*"]);
    curl.arg("--cacert").arg(place.path("cert.pem"));
    curl.args(["--resolve", &format!("{HOST}:{port}:127.0.0.1")]);
    curl.args(["-w", "%{http_version} %{num_connects}\n", "-o"])
        .arg(&first);
    curl.args([
        &url(&format!("/get/{size}")),
        "--next",
        "-sS",
        "--fail",
        "--http2",
    ]);
    curl.arg("--cacert").arg(place.path("cert.pem"));
    curl.args(["-w", "%{http_version} %{num_connects}\n", "-o"])
        .arg(&second);
    curl.args(["--data-binary".into(), format!("@{}", file.display())]);
    let said = stdout_of(curl.arg(url("/post/back")));
    assert_eq!(
        said, "2 1\n2 0\n",
        "two requests by HTTP/2 on one connection"
    );
    let truth = fs::read(&file).expect("a file");
    for received in [first, second] {
        assert!(
            fs::read(received).expect("a file") == truth,
            "what curl got"
        );
    }
}

/// Runs a client that must succeed, mirrored by nobody; its standard output.
///
/// # Panics
/// If it fails.
pub fn ask(words: &[OsString]) -> Vec<u8> {
    let mut command = Command::new(&words[0]);
    let output = run(command.args(&words[1..]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    output.stdout
}

/// Starts a service that nobody mirrors, and waits until it listens.
///
/// # Panics
/// If it doesn't come up.
pub fn start(service: &Service) -> Process {
    start_as(service, &mut Command::new("env"))
}

/// As [`start`], behind a command that may enable the mirror.
///
/// # Panics
/// As above.
pub fn start_as(service: &Service, command: &mut Command) -> Process {
    command.args(&service.words).stdout(Stdio::null());
    let mut process = Process::start(command);
    until("the service listens", || {
        assert!(!process.ended(), "{:?}", service.words);
        TcpStream::connect(("127.0.0.1", service.port)).ok()
    });
    process
}

/// Ends a service in good order.
///
/// # Panics
/// If it doesn't.
pub fn end(mut server: Process) {
    server.signal(Signal::TERM);
    assert!(server.wait().success());
}
