//! HTTP/2 shown as HTTP/1.1: what curl, nghttp and h2load exchange with nginx, Apache, nghttpd and
//! hyper, as Suricata and tshark see it.

use std::fs::{self, File};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use mirror_tests::apache::apache_http2;
use mirror_tests::curl::dechunk;
use mirror_tests::examples::{assert_all_succeeded, judge, script, server};
use mirror_tests::judges::{Profile, Suricata, exported_objects};
use mirror_tests::lanes::{
    assert_lanes, curl, event, events, further_flows, hash_count, mirror, with_http2, word,
};
use mirror_tests::place::{HOST, Place, content, free_port};
use mirror_tests::process::{Process, find, run, until};
use mirror_tests::service::Agent;
use mirror_tests::sessions;
use rustix::process::Signal;

const SIZES: [usize; 6] = [0, 1, 16_384, 16_385, 90_000, 1 << 20];
/// Of larger bodies Suricata hashes the beginning only, unless it is told otherwise.
const MAX_HASHED: usize = 100_000;
/// Requests of h2load.
const REQUESTS: usize = 1000;

/// Fifty requests at a time, of all sizes, up and down.
#[test]
fn curl_and_nginx() {
    let place = Place::new(&SIZES);
    let nginx = with_http2(&place);
    let mut words = curl(&place, nginx.port);
    words.extend(["--parallel", "--parallel-max", "50"].map(str::to_owned));
    let mut expected = Vec::new();
    for round in 0..10 {
        for size in SIZES {
            let path = format!("/get/{size}?{round}");
            let out = place.path(&format!("out/{size}.{round}"));
            words.push(format!("https://{HOST}:{}{path}", nginx.port));
            words.extend(["-o".to_owned(), out.display().to_string()]);
            expected.push(event("GET", &path, 200, size));
        }
    }
    words.push(format!("https://{HOST}:{}/get/none", nginx.port));
    words.extend(["-o".to_owned(), "/dev/null".to_owned()]);
    // Connections and methods of their own.
    let next = |more: &[&str], path: &str, out: &str| {
        let mut words = curl(&place, nginx.port);
        words[0] = "--next".into();
        words.extend(more.iter().map(|word| (*word).to_owned()));
        words.push(format!("https://{HOST}:{}{path}", nginx.port));
        words.extend(["-o".to_owned(), place.path(out).display().to_string()]);
        words.retain(|word| word != "-q");
        words
    };
    let upload = place.path("www/90000").display().to_string();
    words.extend(next(
        &["--data-binary", &format!("@{upload}")],
        "/post/x",
        "out/post",
    ));
    words.extend(next(&["-I"], "/get/16384", "out/head"));
    words.extend(next(&["-T", &upload], "/put/y", "out/put"));
    let output = run(mirror(&place).args(&words));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    nginx.quit();

    for round in 0..10 {
        for size in SIZES {
            let got = place.read(&format!("out/{size}.{round}"));
            assert!(got == content(size), "what curl got: {size}");
        }
    }
    let (flows, verdict) = judge(&place);
    let log = nginx.log();
    let not_found = log.iter().find(|entry| entry.status == 404).expect("404");
    let in_capture = events(&verdict);
    let body = in_capture.iter().find(|event| event.status == 404);
    let body = body.map_or(0, |event| event.length);
    assert!(body > 0 && body < not_found.bytes_sent);
    expected.push(event(
        "GET",
        "/get/none",
        404,
        usize::try_from(body).unwrap(),
    ));
    expected.push(event("POST", "/post/x", 200, "stored".len()));
    expected.push(event("HEAD", "/get/16384", 200, 0));
    expected.push(event("PUT", "/put/y", 201, 0));
    expected.sort();
    assert_eq!(in_capture, expected, "{said}");
    for size in SIZES
        .into_iter()
        .filter(|size| (1..MAX_HASHED).contains(size))
    {
        let file = place.path(&format!("www/{size}"));
        assert_eq!(hash_count(&verdict, &file, false), 10, "{size}");
    }
    assert_eq!(hash_count(&verdict, Path::new(&upload), true), 2);
    let mut ids: Vec<_> = flows.iter().map(|flow| word(flow, "session")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_lanes(&flows, ids.len());
    let further = further_flows(&said, expected.len());
    assert_eq!(flows.len(), ids.len() + further, "{said}");
    assert!(!said.contains("shown as frames"), "{said}");

    // The log has a line for each flow, with the session's id.
    let lines = sessions::read(&place.path("sessions.jsonl"));
    assert_eq!(lines.len(), flows.len());
    for flow in &flows {
        let id = word(flow, "flow").expect("an id");
        let line = lines.iter().find(|line| line["session_id"] == id);
        let line = line.expect("a line of each flow");
        assert_eq!(line["http1"]["session_id"].as_str(), word(flow, "session"));
        assert_eq!(line["http1"]["kind"], "lane");
    }

    // tshark, by the same bytes.
    let objects = exported_objects(&place.path("capture.pcapng"), &place.path("objects"));
    let of_size = |size: usize| {
        let of = objects.iter().filter(|(_, bytes)| bytes.len() == size);
        of.filter(|(_, bytes)| **bytes == content(size)).count()
    };
    assert_eq!(of_size(16_385), 10, "tshark");
    assert_eq!(of_size(1 << 20), 10, "tshark");
}

/// Rules that were written for HTTP/1.1, and rules on its bytes, match.
#[test]
fn rules_for_http1_match() {
    let place = Place::new(&[20_000]);
    let nginx = with_http2(&place);
    let mut words = curl(&place, nginx.port);
    let file = place.path("out/file").display().to_string();
    let url = format!("https://{HOST}:{}/get/20000", nginx.port);
    words.extend(["-A", "evil/1", "-b", "a=1; b=2", "-o", &file, &url].map(str::to_owned));
    let output = run(mirror(&place).args(&words));
    assert!(output.status.success(), "{output:?}");
    nginx.quit();
    let rules = format!(
        "alert http1 any any -> any any (msg:\"agent\"; http.user_agent; content:\"evil/1\"; sid:1;)\n\
         alert http1 any any -> any any (msg:\"cookie\"; http.cookie; content:\"a=1|3b| b=2\"; sid:2;)\n\
         alert http1 any any -> any any (msg:\"status\"; http.stat_msg; content:\"OK\"; sid:3;)\n\
         alert tcp any any -> any any (msg:\"bytes\"; content:\"GET /get/20000 HTTP/1.1|0d 0a|Host|3a 20|{HOST}\"; sid:4;)\n\
         alert tcp any any -> any any (msg:\"header\"; content:\"|0d 0a|User-Agent|3a 20|evil/1|0d 0a|\"; sid:5;)\n\
         alert http2 any any -> any any (msg:\"http2\"; sid:6;)\n"
    );
    let capture = place.path("capture.pcapng");
    let verdict = Suricata.read_by(
        &rules,
        &capture,
        Profile::Sslcollector,
        &place.path("judge"),
    );
    let mut matched: Vec<_> = verdict
        .objections
        .iter()
        .map(|alert| alert.rsplit(": ").next().unwrap())
        .collect();
    matched.sort_unstable();
    assert_eq!(matched, ["agent", "bytes", "cookie", "header", "status"]);
}

/// A hundred streams at a time on each of two connections, both ends mirrored.
#[test]
fn h2load_and_hyper() {
    let place = Place::new(&[20_000]);
    let service = server(&place, "hyper-server");
    let load = format!(
        "h2load -n {REQUESTS} -c 2 -m 100 https://127.0.0.1:{}/get/20000 >'{}'",
        service.port,
        place.path("out/load").display()
    );
    let output = run(mirror(&place).args(["sh", "-c", &script(&place, &service, &[load])]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let load = std::process::Output {
        stdout: place.read("out/load"),
        ..output.clone()
    };
    assert_all_succeeded(&load, REQUESTS);
    let (flows, verdict) = judge(&place);
    assert_lanes(&flows, 2);
    assert!(flows.len() <= 200, "{}", flows.len());
    assert_eq!(
        events(&verdict),
        vec![event("GET", "/get/20000", 200, 20_000); REQUESTS]
    );
    assert_eq!(
        hash_count(&verdict, &place.path("www/20000"), false),
        REQUESTS
    );
}

/// Content without a length comes in chunks, which are what the peer got.
#[test]
fn content_without_a_length() {
    let place = Place::new(&[90_000]);
    let nginx = with_http2(&place);
    let mut words = curl(&place, nginx.port);
    let file = place.path("out/file").display().to_string();
    let url = format!("https://{HOST}:{}/chunked/90000", nginx.port);
    words.extend(["-o", &file, &url].map(str::to_owned));
    let output = run(mirror(&place).args(&words));
    assert!(output.status.success(), "{output:?}");
    nginx.quit();
    let (flows, verdict) = judge(&place);
    let [flow] = &flows[..] else {
        panic!("{} flows", flows.len());
    };
    let response = flow.response.whole().expect("no hole");
    let head = response
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("a head")
        + 4;
    let shown = String::from_utf8_lossy(&response[..head]);
    assert!(
        shown.contains("\r\nTransfer-Encoding: chunked\r\n"),
        "{shown}"
    );
    let content = dechunk(&response[head..]).expect("chunks");
    assert!(content == fs::read(&file).expect("what curl got"));
    assert_eq!(hash_count(&verdict, Path::new(&file), false), 1);
}

/// Apache, whose library has no socket, below an agent that serves.
#[test]
fn curl_and_apache() {
    const COUNT: usize = 20;
    let place = Place::new(&[1_000]);
    let service = apache_http2(&place);
    let agent = Agent::start(&place, &place.path("capture.pcapng"), &["--http1"]);
    let mut apache = Command::new("env");
    agent.prepare(&mut apache);
    let said = File::create(place.path("apache.said")).expect("a file");
    apache.args(&service.words).stderr(said);
    // Apache signals its whole process group at its end.
    let mut apache = Process::start(apache.process_group(0));
    until("Apache listens", || {
        assert!(!apache.ended(), "{}", place.text("apache.said"));
        TcpStream::connect(("127.0.0.1", service.port)).ok()
    });
    let mut words = curl(&place, service.port);
    words.extend(["--parallel", "--parallel-max", "10"].map(str::to_owned));
    for number in 0..COUNT {
        let out = place.path(&format!("out/{number}")).display().to_string();
        let url = format!("https://{HOST}:{}/get/1000", service.port);
        words.extend([url, "-o".to_owned(), out]);
    }
    let output = run(Command::new(&words[0]).args(&words[1..]));
    assert!(output.status.success(), "{output:?}");
    apache.signal(Signal::TERM);
    apache.wait();
    let said = agent.end_well();
    for number in 0..COUNT {
        assert!(place.read(&format!("out/{number}")) == content(1_000));
    }
    let (flows, verdict) = judge(&place);
    assert_lanes(&flows, 1);
    let expected = vec![event("GET", "/get/1000", 200, 1_000); COUNT];
    assert_eq!(events(&verdict), expected, "{said}");
    assert_eq!(hash_count(&verdict, &place.path("www/1000"), false), COUNT);
}

/// What nghttpd pushes has a flow of its own, and is marked.
#[test]
fn what_nghttpd_pushes() {
    let place = Place::new(&[1, 20_000]);
    let port = free_port();
    let nghttpd = find("nghttpd").expect("nghttpd isn't installed (scripts/install-peers.sh test)");
    let mut server = Command::new(nghttpd);
    server.args(["--address=127.0.0.1", "--push=/1=/20000", "-d"]);
    server.arg(place.path("www")).arg(port.to_string());
    server
        .arg(place.path("key.pem"))
        .arg(place.path("cert.pem"));
    let mut server = Process::start(&mut server);
    until("nghttpd listens", || {
        assert!(!server.ended());
        TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let url = format!("https://127.0.0.1:{port}/1");
    let output = run(mirror(&place).args(["nghttp", "-n", "-y", &url]));
    server.signal(Signal::TERM);
    server.wait();
    assert!(output.status.success(), "{output:?}");
    let (flows, verdict) = judge(&place);
    let expected = [
        event("GET", "/1", 200, 1),
        event("GET", "/20000", 200, 20_000),
    ];
    assert_eq!(events(&verdict), expected);
    assert_eq!(hash_count(&verdict, &place.path("www/20000"), false), 1);
    let mut parts: Vec<_> = flows.iter().map(|flow| word(flow, "http1")).collect();
    parts.sort_unstable();
    assert_eq!(parts, [Some("lane:1"), Some("push:2")]);
    assert_eq!(word(&flows[0], "session"), word(&flows[1], "session"));
}
