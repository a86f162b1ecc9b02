//! Programs of an ordinary user whose library has no socket, in the ways in which connections come about: each is found by its byte
//! counts, or says that nobody knows its addresses, and none has another's.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::client::PYTHON;
use mirror_tests::nginx::Nginx;
use mirror_tests::place::{Place, content};
use mirror_tests::process::{Process, without_root};
use mirror_tests::user::{User, is_found, words};
use rustix::process::Signal;

const CURL: &str = "curl -q -sSk -o /dev/null -w '%{local_port}\\n'";

/// A server in Python, and its port.
fn serve(script: &str, arguments: &[&str]) -> (Process, u16) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("data")
        .join(script);
    let mut server = Command::new(PYTHON);
    server.arg(script).args(arguments).stdout(Stdio::piped());
    let mut server = Process::start(&mut server);
    let mut line = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a port");
    let port = line.trim().parse().expect("a port");
    (server, port)
}

fn end(mut server: Process) {
    server.signal(Signal::TERM);
    server.wait();
}

fn path(place: &Place, name: &str) -> String {
    place.path(name).display().to_string()
}

/// One process each, by IPv4 and IPv6, at one time.
#[test]
fn two_programs_at_once_have_each_its_own() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[1000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let url = |address: &str| format!("https://{address}:{}/get/1000", nginx.port);
    let (four, six) = (url("127.0.0.1"), url("[::1]"));
    let script = format!("{CURL} {four} & one=$!; {CURL} -g '{six}' & wait $one && wait $!");
    let (ports, flows) = user.mirrors("two.pcapng", &words(&["sh", "-c", &script]));
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        assert!(is_found(flow, nginx.port), "{}", flow.comment);
        let port = flow.client.port().to_string();
        assert!(ports.lines().any(|line| line == port), "{ports}: {port}");
        assert_eq!(flow.client.is_ipv6(), flow.server.is_ipv6());
    }
    assert_ne!(flows[0].client.is_ipv6(), flows[1].client.is_ipv6());
    assert_ne!(flows[0].client.port(), flows[1].client.port());
    nginx.quit();
}

/// Many requests at once on a connection.
#[test]
fn what_http2_has_on_one_connection_is_found() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[1000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let url = format!("https://127.0.0.1:{}/get/1000?[1-20]", nginx.port);
    let script = format!("{CURL} --http2 --parallel '{url}'");
    let (ports, flows) = user.mirrors("http2.pcapng", &words(&["sh", "-c", &script]));
    assert!(!flows.is_empty());
    for flow in flows.iter().filter(|flow| flow.comment.contains(" bound=")) {
        assert!(is_found(flow, nginx.port), "{}", flow.comment);
        let port = flow.client.port().to_string();
        assert!(ports.lines().any(|line| line == port), "{ports}: {port}");
    }
    nginx.quit();
}

/// The counts of their sockets are never those of TLS alone.
#[test]
fn behind_clear_text_nobody_is_found() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[1000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let (proxy, through) = serve("clear_first.py", &["connect"]);
    let (mail, port) = serve(
        "clear_first.py",
        &["pop3", &path(&place, "cert.pem"), &path(&place, "key.pem")],
    );
    let url = format!("https://127.0.0.1:{}/get/1000", nginx.port);
    let proxied = format!("{CURL} --http1.1 -x http://127.0.0.1:{through} {url}");
    let (_, flows) = user.mirrors("proxied.pcapng", &words(&["sh", "-c", &proxied]));
    let [flow] = &flows[..] else {
        panic!("{flows:?}");
    };
    assert!(!is_found(flow, through), "{}", flow.comment);
    let response = flow.response.whole().expect("the whole response");
    assert!(response.ends_with(&content(1000)));
    let fetched = format!("{CURL} --ssl-reqd -u who:word pop3://127.0.0.1:{port}/1");
    let (_, flows) = user.mirrors("mail.pcapng", &words(&["sh", "-c", &fetched]));
    let [flow] = &flows[..] else {
        panic!("{flows:?}");
    };
    assert!(!is_found(flow, port), "{}", flow.comment);
    let response = String::from_utf8_lossy(flow.response.whole().expect("the whole response"));
    assert!(response.contains("behind clear text"), "{response}");
    end(proxy);
    end(mail);
    nginx.quit();
}

/// Twenty at once, each over at once, which say their ports: whichever are found have these.
#[test]
fn short_connections_of_asyncio_have_never_anothers_addresses() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[]);
    let user = User::new(&place);
    let (certificate, key) = (path(&place, "cert.pem"), path(&place, "key.pem"));
    let (server, port) = serve(
        "bio.py",
        &["server", "127.0.0.1", &certificate, &key, "100", "asyncio"],
    );
    let script = place.path("bio.py");
    std::fs::copy(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("data/bio.py"),
        &script,
    )
    .expect("copy");
    let ask = words(&[
        PYTHON,
        &path(&place, "bio.py"),
        "crowd",
        "127.0.0.1",
        &port.to_string(),
        "60",
        "20",
    ]);
    let (_, flows) = user.mirrors("crowd.pcapng", &ask);
    assert_eq!(flows.len(), 60);
    let mut found = HashMap::new();
    for flow in &flows {
        let said = String::from_utf8_lossy(flow.request.whole().expect("whole")).into_owned();
        let (number, own) = said.split_once(" over port ").expect("what it says");
        if is_found(flow, port) {
            assert_eq!(own.parse(), Ok(flow.client.port()), "{}", flow.comment);
            assert_eq!(found.insert(number.to_owned(), own.to_owned()), None);
        }
    }
    assert!(!found.is_empty());
    end(server);
}
