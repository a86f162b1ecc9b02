//! The worked example of the C API, as C and as C++: a TLS terminator on memory BIOs, with the
//! distribution's OpenSSL, that tells the hook itself what it knows.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};

use mirror_tests::native::{Language, compile, hook_archive, source};
use mirror_tests::place::{HOST, Place, content};
use mirror_tests::process::{Process, stdout_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector::serve;
use mirror_tests::streams::{End, flows};
use rustix::process::{Signal, geteuid};

const BODY: usize = 300_000;
const CLIENTS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// Answers one request a connection, and closes. What was asked and answered, in the end.
fn backend(listener: TcpListener) -> JoinHandle<Vec<(Vec<u8>, Vec<u8>)>> {
    let answer = |client: std::io::Result<std::net::TcpStream>| {
        let mut client = client.expect("the terminator");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut some = [0; 4096];
            let count = client.read(&mut some).expect("a request");
            assert_ne!(count, 0, "only a part of a request");
            request.extend(&some[..count]);
        }
        // Without a length: the end of the connection is the body's, so it is the server that closes.
        let head = b"HTTP/1.1 200 OK\r\n\r\n";
        let response = [head, &content(BODY)[..]].concat();
        client.write_all(&response).expect("send the response");
        (request, response)
    };
    thread::spawn(move || {
        listener
            .incoming()
            .take(CLIENTS.len())
            .map(answer)
            .collect()
    })
}

/// Asks the terminator; the port that it asked from.
fn ask(place: &Place, server: SocketAddr) -> u16 {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--http1.1", "--max-time", "100"]);
    curl.arg("--cacert").arg(place.path("cert.pem"));
    let address = match server.ip() {
        IpAddr::V6(ip) => format!("[{ip}]"),
        ip => ip.to_string(),
    };
    curl.args(["--resolve", &format!("{HOST}:{}:{address}", server.port())]);
    curl.arg("--output").arg(place.path("out/body"));
    curl.args(["--write-out", "%{local_port}"]);
    let url = format!("https://{HOST}:{}/", server.port());
    let port = stdout_of(curl.arg(url).env_remove("LD_LIBRARY_PATH"));
    assert!(place.read("out/body") == content(BODY), "what curl got");
    port.parse().expect("a port")
}

fn the_example(language: Language) {
    let place = Place::new(&[]);
    let program = place.path("terminator");
    let example = source("mirror-hook/examples/terminator.c");
    let archive = hook_archive();
    compile(
        language,
        &[example],
        &program,
        &[&archive, "-lssl", "-lcrypto"],
    );

    let capture = place.path("capture.pcapng");
    let socket = place.path("agent.sock");
    let mut agent = serve(&capture, &socket);
    let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(Stdio::piped()));
    let said = agent.first_words();
    assert!(said.contains("agent.sock"), "{said}");

    let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
    let backend_port = listener.local_addr().expect("an address").port();
    let truth = backend(listener);
    let mut terminator = Command::new(&program);
    terminator
        .arg(place.path("cert.pem"))
        .arg(place.path("key.pem"));
    terminator.args(["0", &backend_port.to_string()]);
    // Nothing of ours but what is linked in.
    terminator.env_remove("LD_LIBRARY_PATH");
    terminator.env("SSLCOLLECTOR_SOCKET", &socket);
    terminator.env("SSLCOLLECTOR_AGENT_UID", geteuid().as_raw().to_string());
    let mut terminator = Process::start(terminator.stdout(Stdio::piped()));
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(terminator.stdout().expect("a pipe"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("its port");
    let port = line.trim().strip_prefix("port ").expect("its port");
    let port = port.parse().expect("a port");

    let asked = CLIENTS.map(|ip| {
        (
            SocketAddr::new(ip, port),
            ask(&place, SocketAddr::new(ip, port)),
        )
    });
    let truth = truth.join().expect("the back end");
    let seen = until("both flows to end", || {
        let found = flows(&Capture::read(&capture).ok()?).ok()?;
        let ended = found.iter().filter(|flow| flow.end != End::Open).count();
        (ended == CLIENTS.len()).then_some(found)
    });
    terminator.signal(Signal::KILL);
    terminator.wait();
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    rules::assert_good(&Capture::read(&capture).expect("a capture"), "the example");

    let mut first = true;
    for ((flow, (server, client_port)), (request, response)) in seen.iter().zip(asked).zip(&truth) {
        assert_eq!(flow.server, server);
        assert_eq!(flow.client, SocketAddr::new(server.ip(), client_port));
        assert_eq!(flow.request.whole(), Some(&request[..]));
        // On a busy machine the agent may grant the ring in the middle of the first answer: what didn't fit the
        // first 64 KiB is declared.
        assert_eq!(flow.response.difference_at_beginning(response), None);
        assert!(
            first || flow.response.whole() == Some(&response[..]),
            "{:?}",
            flow.response.holes()
        );
        // A hole that lasts to the end is told by a reset.
        let cut = first && flow.response.whole().is_none() && flow.end == End::ResetByServer;
        assert!(cut || flow.end == End::ClosedByServer, "{:?}", flow.end);
        first = false;
        let words: Vec<_> = flow.comment.split(' ').collect();
        for word in [
            "process=terminator",
            "role=server",
            "bound=told",
            "sni=mirror.test",
            "tls=TLSv1.3",
            "cipher=TLS_AES_256_GCM_SHA384",
        ] {
            assert!(words.contains(&word), "{word}: {}", flow.comment);
        }
    }
}

#[test]
fn compiled_as_c() {
    the_example(Language::C);
}

#[test]
fn compiled_as_cpp() {
    the_example(Language::Cpp);
}
