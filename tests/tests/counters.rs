//! Without the right to capture, sessions whose library has no socket are found by their byte counts: each has the
//! addresses that its own socket had, or says that nobody knows them.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::client::PYTHON;
use mirror_tests::nginx::Nginx;
use mirror_tests::place::{Place, content};
use mirror_tests::process::{Process, without_root};
use mirror_tests::streams::Flow;
use mirror_tests::user::{User, is_found, words};

/// A machine that is busy with something else may look too late.
const TRIES: usize = 8;

/// One connection, by HTTP/1.1.
const CURL: [&str; 4] = ["curl", "-q", "-sSk", "--http1.1"];

/// Connections at once.
const FIFTY: usize = 50;

/// curl, asking for each of these on a connection of its own, with these options besides.
fn fifty(nginx: &Nginx<'_>, sizes: &[usize], options: &[&str]) -> Vec<String> {
    let parallel = ["--parallel", "--parallel-immediate", "--parallel-max", "50"];
    let mut ask = words(&[&CURL[..], &parallel, options].concat());
    for size in sizes {
        let url = format!("https://127.0.0.1:{}/get/{size}", nginx.port);
        ask.extend(words(&["-o", "/dev/null", &url]));
    }
    ask
}

/// Whichever are found are what nginx has logged since so many lines: the sizes that were asked for, and how many.
fn judged(nginx: &Nginx<'_>, seen: &mut usize, flows: &[Flow]) -> (Vec<usize>, usize) {
    let log = nginx.log();
    let logged: HashMap<_, _> = log[*seen..]
        .iter()
        .map(|entry| (entry.port, entry))
        .collect();
    *seen = log.len();
    let (mut asked, mut found) = (Vec::new(), 0);
    for flow in flows {
        let request = flow.request.whole().expect("the whole request");
        let request = String::from_utf8_lossy(request);
        let url = request.split(' ').nth(1).expect("a URL").to_owned();
        let (_, size) = url.rsplit_once('/').expect("a size");
        let size = size.parse().expect("a size");
        let response = flow.response.whole().expect("the whole response");
        assert!(response.ends_with(&content(size)), "{url}");
        if is_found(flow, nginx.port) {
            found += 1;
            let entry = logged.get(&flow.client.port());
            let entry = entry.expect("a port that nginx saw");
            assert_eq!(entry.url, url, "{}", flow.comment);
        }
        asked.push(size);
    }
    asked.sort_unstable();
    (asked, found)
}

/// What is over within milliseconds is found all the same: the process looks itself, where each handshake ends.
#[test]
fn each_of_ten_short_transfers_is_found() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[1000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    for number in 0..10 {
        let url = format!("https://127.0.0.1:{}/get/1000", nginx.port);
        let ask = [&CURL[..], &["-o/dev/null", "-w", "%{local_port}\\n", &url]].concat();
        let (port, flows) = user.mirrors(&format!("{number}.pcapng"), &words(&ask));
        let [flow] = &flows[..] else {
            panic!("{flows:?}");
        };
        assert!(is_found(flow, nginx.port), "{}", flow.comment);
        assert_eq!(flow.client.port().to_string(), port.trim());
    }
    nginx.quit();
}

/// As fast as they go, with requests and responses of equal length.
#[test]
fn fifty_short_transfers_at_once_are_all_found() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let sizes: Vec<_> = (1000..1000 + FIFTY).collect();
    let place = Place::new(&sizes);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let ask = fifty(&nginx, &sizes, &["-HConnection: close"]);
    let mut seen = 0;
    let all = (0..TRIES).any(|number| {
        let (_, flows) = user.mirrors(&format!("{number}.pcapng"), &ask);
        let (asked, found) = judged(&nginx, &mut seen, &flows);
        assert_eq!(asked, sizes);
        found == FIFTY
    });
    assert!(all, "they were never all found");
    nginx.quit();
}

/// Many requests on one connection, at a pace: what is over at once can't be told from what has never been.
#[test]
fn an_ordinary_users_curl_has_its_own_addresses() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[20_000]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let url = format!("https://127.0.0.1:{}/get/20000?[1-100]", nginx.port);
    let ask = words(&[
        "curl",
        "-q",
        "-sSk",
        "--http1.1",
        "--limit-rate",
        "1M",
        "-o",
        "/dev/null",
        "-w",
        "%{local_port}\\n",
        &url,
    ]);
    let found = (0..TRIES).any(|number| {
        let (port, flows) = user.mirrors(&format!("{number}.pcapng"), &ask);
        let [flow] = &flows[..] else {
            panic!("{flows:?}");
        };
        let response = flow.response.whole().expect("the whole response");
        assert!(response.ends_with(&content(20_000)) && response.len() > 100 * 20_000);
        let found = is_found(flow, nginx.port);
        let port = port.lines().next().expect("curl's port");
        assert!(
            !found || flow.client.port().to_string() == port,
            "{}",
            flow.comment
        );
        found
    });
    assert!(found, "it was never found");
    nginx.quit();
}

/// Fifty at once, to one server, with requests of equal length: whichever are found are what nginx has logged.
#[test]
fn none_of_fifty_connections_of_curl_has_anothers_addresses() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let sizes: Vec<_> = (0..FIFTY).map(|number| 100_000 + 9_973 * number).collect();
    let place = Place::new(&sizes);
    let nginx = Nginx::new(&place);
    nginx.start();
    let user = User::new(&place);
    let ask = fifty(&nginx, &sizes, &["--limit-rate", "200K"]);
    let mut seen = 0;
    let all = (0..TRIES).any(|number| {
        let (_, flows) = user.mirrors(&format!("{number}.pcapng"), &ask);
        let (asked, found) = judged(&nginx, &mut seen, &flows);
        assert_eq!(asked, sizes);
        found == FIFTY
    });
    assert!(all, "they were never all found");
    nginx.quit();
}

/// Where each has stood still once with what it alone had got, all are found.
#[test]
fn connections_of_asyncio_that_get_different_amounts_are_all_found() {
    if without_root("only root can become an ordinary user") {
        return;
    }
    let place = Place::new(&[]);
    let user = User::new(&place);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/counted.py");
    let mut server = Command::new(PYTHON);
    server.arg(&script).args(["server", "127.0.0.1"]);
    server
        .arg(place.path("cert.pem"))
        .arg(place.path("key.pem"));
    let mut server = Process::start(server.stdout(Stdio::piped()));
    let mut line = String::new();
    let stdout = server.stdout().expect("a pipe");
    BufReader::new(stdout).read_line(&mut line).expect("a port");
    let port: u16 = line.trim().parse().expect("a port");
    fs::copy(&script, place.path("counted.py")).expect("copy");
    let script = place.path("counted.py").display().to_string();
    let sizes: Vec<usize> = (1..=20).map(|number| 1_000 * number).collect();
    let mut ask = words(&[PYTHON, &script, "client", "127.0.0.1", line.trim(), "4"]);
    ask.extend(sizes.iter().map(usize::to_string));
    let all = (0..TRIES).any(|number| {
        let (text, flows) = user.mirrors(&format!("{number}.pcapng"), &ask);
        assert_eq!(flows.len(), sizes.len());
        let said = text
            .lines()
            .map(|line| line.split_once(' ').expect("a port and a size"));
        let said: HashMap<u16, usize> = said
            .map(|(port, size)| (port.parse().expect("a port"), size.parse().expect("a size")))
            .collect();
        let found = flows.iter().filter(|flow| {
            let request =
                String::from_utf8_lossy(flow.request.whole().expect("whole")).into_owned();
            let size: usize = request[..6].parse().expect("a size");
            assert_eq!(request, format!("{size:06}\n").repeat(4));
            let answer = format!("{size:06},").repeat(size / 7 + 1);
            let answers = answer[..size].repeat(4);
            assert_eq!(flow.response.whole(), Some(answers.as_bytes()));
            let found = is_found(flow, port);
            assert!(
                !found || said.get(&flow.client.port()) == Some(&size),
                "{said:?}: {flow:?}"
            );
            found
        });
        found.count() == sizes.len()
    });
    assert!(all, "they were never all found");
    server.signal(rustix::process::Signal::TERM);
    server.wait();
}
