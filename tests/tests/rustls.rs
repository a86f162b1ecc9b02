//! Services and clients on rustls, each with the line changed that rustls-examples shows: stock clients, each other,
//! HTTP/1.1, HTTP/2 and gRPC, one end mirrored or both.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::examples::{
    ask, assert_all_succeeded, assert_events, assert_words, client, curl_http2, end, h2load,
    has_words, judge, script, server, sha256, shell, start,
};
use mirror_tests::judges::{FileInfo, HttpEvent, Verdict, exported_objects, http2_messages};
use mirror_tests::place::{HOST, Place, content};
use mirror_tests::process::run;
use mirror_tests::service::{Clients, How, Seen};
use mirror_tests::sslcollector::{binary, run_to};
use mirror_tests::streams::{Flow, Stream};

const MIB: usize = 1 << 20;
const SIZES: [usize; 6] = [0, 1, 16_385, 20_000, 300_000, MIB];
/// Holds all that a program of the scenarios says.
const RING: &str = "64M";
/// Requests of h2load.
const REQUESTS: usize = 200;
/// Wrappers have the program's stream, and so its socket; a provider sees records only, and the agent looks for
/// the handshake on the wire.
const WRAPPED: &str = "bound=socket";
const INSTALLED: &str = "bound=wire";

/// curl with several versions of TLS, side by side: every byte of every connection.
fn http1(name: &str, bound: &str) {
    let place = Place::new(&SIZES);
    let service = server(&place, name);
    let mirrored = service.start(&place, How::Run(RING));
    let transfers = [
        Transfer::get("get", 0),
        Transfer::get("get", MIB),
        Transfer::post(16_385),
        Transfer::get("get", 1),
        Transfer::many(20_000, 5),
        Transfer::get("get", 16_385),
        Transfer::post(300_000),
    ];
    let truths = Clients::start(&place, service.port, &transfers, 2).truths();
    let seen = mirrored.end();
    let process = format!("process={name}");
    let words = [&process, "role=server", bound, "sni=mirror.test"];
    seen.assert_exact(&truths, &words);
    let (_, verdict) = judge(&place);
    assert_events(&verdict, &truths);
}

/// curl and h2load, with many streams at a time.
fn http2(name: &str, bound: &str) {
    let place = Place::new(&SIZES);
    let service = server(&place, name);
    let mirrored = service.start(&place, How::Run(RING));
    curl_http2(&place, service.port, MIB);
    let output = run(&mut h2load(service.port, "/get/20000", REQUESTS));
    assert_all_succeeded(&output, REQUESTS);
    let seen = mirrored.end();

    assert_eq!(seen.flows.len(), 5, "{}", seen.said);
    let process = format!("process={name}");
    assert_words(&seen.flows, &[&process, "role=server", bound, "alpn=h2"]);
    let (_, verdict) = judge(&place);
    let (all, bulk, back) = (REQUESTS + 2, "/get/1048576", "/post/back");
    assert_eq!(verdict.http.len(), all, "{}", seen.said);
    assert_eq!(answered(&verdict, "GET", "/get/20000", 20_000), REQUESTS);
    assert_eq!(answered(&verdict, "GET", bulk, MIB), 1);
    assert_eq!(answered(&verdict, "POST", back, MIB), 1);
    assert_files(&place, &verdict, &[(MIB, 3), (20_000, REQUESTS)]);

    let heads = http2_messages(&place.path("capture.pcapng"), service.port);
    let count = |wanted: &str| heads.iter().filter(|head| *head == wanted).count();
    assert_eq!(count("200"), all, "tshark's responses");
    assert_eq!(count("/get/20000"), REQUESTS, "tshark's requests");
    assert_eq!((count(bulk), count(back)), (1, 1), "tshark's requests");
}

/// How many transactions Suricata saw answered with 200 and a body of this size.
fn answered(verdict: &Verdict, method: &str, url: &str, size: usize) -> usize {
    let is_it = |event: &&HttpEvent| {
        (event.method == method && event.url == url)
            && (event.status, event.length) == (200, size as u64)
    };
    verdict.http.iter().filter(is_it).count()
}

/// The bodies that Suricata saw are so many of the files of these sizes, byte for byte.
fn assert_files(place: &Place, verdict: &Verdict, counts: &[(usize, usize)]) {
    for (size, count) in counts {
        let sum = sha256(&place.path(&format!("www/{size}")));
        let same = |file: &&FileInfo| file.sha256 == sum && !file.gaps;
        let seen = verdict.files.iter().filter(same).count();
        assert_eq!(seen, *count, "bodies of {size} bytes");
    }
}

#[test]
fn hyper_http1() {
    http1("hyper-server", WRAPPED);
}

#[test]
fn hyper_http2() {
    http2("hyper-server", WRAPPED);
}

#[test]
fn axum_http1() {
    http1("axum-service", INSTALLED);
}

#[test]
fn axum_http2() {
    http2("axum-service", INSTALLED);
}

/// A client of ours in a script: what it prints is put into this file.
fn into_file(place: &Place, words: &[std::ffi::OsString], file: &str) -> String {
    format!("{}>'{}'", shell(words), place.path(file).display())
}

/// All three clients ask `name`, which is mirrored as well if `both` says so: below one agent.
fn clients(name: &str, both: Option<&str>) {
    let place = Place::new(&SIZES);
    let service = server(&place, name);
    let port = service.port;
    let body = place.path("www/300000").display().to_string();
    let reqwest =
        |path: &str, options: &[&str]| client(&place, "reqwest-client", port, path, options);
    let post = ["--post", &body];
    let commands = [
        client(&place, "blocking-client", port, "/get/300000", &[]),
        reqwest("/get/300000", &["--http1", "--times", "2"]),
        reqwest("/post/1", &[&["--http1"], &post[..]].concat()),
        reqwest("/get/300000", &["--times", "2"]),
        reqwest("/post/2", &post),
    ];
    let files: Vec<_> = (0..commands.len())
        .map(|number| format!("out/client.{number}"))
        .collect();
    let lines: Vec<_> = commands
        .iter()
        .zip(&files)
        .map(|(words, file)| into_file(&place, words, file))
        .collect();

    let capture = place.path("capture.pcapng");
    let mut mirror = run_to(&capture, &["--ring-size", RING]);
    let output = if both.is_some() {
        run(mirror.args(["sh", "-c", &script(&place, &service, &lines)]))
    } else {
        let server = start(&service);
        let output = run(mirror.args(["sh", "-c", &lines.join(" && ")]));
        end(server);
        output
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let truth = content(300_000);
    for (number, file) in files.iter().enumerate() {
        let times = if [1, 3].contains(&number) { 2 } else { 1 };
        assert!(
            place.read(file) == truth.repeat(times),
            "{file}: what the client got"
        );
    }

    let (flows, verdict) = judge(&place);
    assert_eq!(flows.len(), commands.len(), "{said}");
    let by_time = {
        let mut flows: Vec<&Flow> = flows.iter().collect();
        flows.sort_by_key(|flow| flow.times_ns.0);
        flows
    };
    for (number, flow) in by_time.iter().enumerate() {
        assert_eq!(flow.server.port(), port);
        let (process, bound) = match number {
            0 => ("process=blocking-client", WRAPPED),
            _ => ("process=reqwest-client", INSTALLED),
        };
        let server = format!("process={name}");
        let of_client = [process, "role=client", bound, "sni=mirror.test"];
        let of_server = both.is_some_and(|bound| has_words(flow, &[&server, "role=server", bound]));
        let told = has_words(flow, &of_client) || of_server;
        assert!(told, "{number}: {}", flow.comment);
    }
    if both.is_some() {
        let told = format!(
            "{} sessions mirrored at both ends: one copy",
            commands.len()
        );
        assert!(said.contains(&told), "{told} isn't in: {said}");
    }

    let request =
        format!("GET /get/300000 HTTP/1.1\r\nHost: {HOST}:{port}\r\nConnection: close\r\n\r\n");
    assert_eq!(whole(&by_time[0].request), request.as_bytes());
    for number in [0, 1, 2] {
        assert!(
            whole(&by_time[number].response).ends_with(&truth),
            "{number}: response"
        );
    }
    assert!(whole(&by_time[2].request).ends_with(&truth), "request");
    let objects = exported_objects(&capture, &place.path("objects"));
    let same = objects.values().filter(|object| **object == truth).count();
    assert_eq!(same, 5, "tshark's bodies of HTTP/1.1");

    assert_eq!(answered(&verdict, "GET", "/get/300000", 300_000), 5);
    assert_eq!(answered(&verdict, "POST", "/post/1", 300_000), 1);
    assert_eq!(answered(&verdict, "POST", "/post/2", 300_000), 1);
    assert_eq!(verdict.http.len(), 7);
    // Those of HTTP/2; of HTTP/1.1 Suricata keeps the first 100 KB of a body.
    assert_files(&place, &verdict, &[(300_000, 4)]);
    let heads: BTreeSet<_> = http2_messages(&capture, port).into_iter().collect();
    for head in ["200", "/get/300000", "/post/2"] {
        assert!(heads.contains(head), "tshark's {head} isn't in {heads:?}");
    }
}

fn whole(stream: &Stream) -> &[u8] {
    stream.whole().expect("no hole")
}

#[test]
fn clients_alone() {
    clients("hyper-server", None);
}

#[test]
fn clients_and_hyper() {
    clients("hyper-server", Some(WRAPPED));
}

#[test]
fn clients_and_axum() {
    clients("axum-service", Some(INSTALLED));
}

/// OpenSSL at one end, rustls at the other, both mirrored: each connection is shown once, as curl tells it.
fn patched_curl(name: &str, tls: Tls) {
    let place = Place::new(&SIZES);
    let service = server(&place, name);
    let transfers = [
        Transfer::get("get", MIB),
        Transfer::post(300_000),
        Transfer::many(20_000, 5),
    ];
    let at = (IpAddr::V4(Ipv4Addr::LOCALHOST), service.port);
    let lines = transfers.each_ref().map(|one| one.script(&place, at, tls));
    let mut mirror = run_to(&place.path("capture.pcapng"), &["--ring-size", RING]);
    let output = run(mirror.args(["sh", "-c", &script(&place, &service, &lines)]));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{}: {said}", output.status);
    assert!(
        said.contains("3 sessions mirrored at both ends: one copy"),
        "{said}"
    );

    let truths = transfers.map(|one| (one.clone(), one.truth(&place)));
    let (flows, verdict) = judge(&place);
    Seen { flows, said }.assert_exact(&truths, &["sni=mirror.test"]);
    assert_events(&verdict, &truths);
}

#[test]
fn patched_curl_and_hyper() {
    patched_curl("hyper-server", Tls::V1_3);
}

#[test]
fn patched_curl_and_axum() {
    patched_curl("axum-service", Tls::V1_2);
}

/// Calls of each kind: what the client says comes back, and the mirror has it in both directions.
#[test]
fn grpc() {
    const COUNT: usize = 50;
    let place = Place::new(&[]);
    let service = server(&place, "tonic-service");
    let text = "a message that is its own answer";
    let words = client(
        &place,
        "tonic-service",
        service.port,
        "",
        &[&COUNT.to_string(), text],
    );
    let line = into_file(&place, &words, "out/client");
    let mut mirror = run_to(&place.path("capture.pcapng"), &["--ring-size", RING]);
    let output = run(mirror.args(["sh", "-c", &script(&place, &service, &[line])]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    assert_eq!(place.text("out/client").lines().count(), 2 * (COUNT + 1));

    let (flows, verdict) = judge(&place);
    assert_eq!(flows.len(), 1, "{said}");
    assert_words(&flows, &["process=tonic-service", INSTALLED, "alpn=h2"]);
    for (side, stream) in [
        ("client", &flows[0].request),
        ("server", &flows[0].response),
    ] {
        let said = whole(stream)
            .windows(text.len())
            .filter(|part| *part == text.as_bytes());
        assert_eq!(said.count(), 2 * (COUNT + 1), "{side}");
    }
    for url in ["Once", "Each", "Repeat", "Count"] {
        let url = format!("/mirror.Echo/{url}");
        let seen = verdict
            .http
            .iter()
            .filter(|event| event.url == url && event.status == 200);
        assert_eq!(seen.count(), 1, "{url}: {:?}", verdict.http);
    }
    let heads = http2_messages(&place.path("capture.pcapng"), service.port);
    for head in ["200", "/mirror.Echo/Once", "/mirror.Echo/Each"] {
        assert!(
            heads.iter().any(|seen| seen == head),
            "tshark's {head} isn't in {heads:?}"
        );
    }
}

/// Where no agent asks for it, nothing is mirrored, and nothing else is different.
#[test]
fn without_anybody() {
    let place = Place::new(&SIZES);
    for name in ["hyper-server", "axum-service"] {
        let service = server(&place, name);
        let server = start(&service);
        curl_http2(&place, service.port, MIB);
        let words = client(&place, "blocking-client", service.port, "/get/300000", &[]);
        assert!(ask(&words) == content(300_000));
        end(server);
    }
}

/// A program that mirrors by itself runs where no patched library was built, and isn't taken for one that can't be
/// mirrored.
#[test]
fn without_a_patched_library() {
    let place = Place::new(&SIZES);
    let sslcollector = place.path("bin/sslcollector");
    fs::create_dir(place.path("bin")).expect("make a directory");
    fs::copy(binary(), &sslcollector).expect("copy");
    let service = server(&place, "hyper-server");
    let server = start(&service);
    let words = client(&place, "blocking-client", service.port, "/get/300000", &[]);
    let mut mirror = Command::new(&sslcollector);
    mirror
        .args(["run", "-w"])
        .arg(place.path("capture.pcapng"))
        .arg("--");
    let output = run(mirror.args(&words));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout == content(300_000), "{said}");
    end(server);
    let (flows, _) = judge(&place);
    assert_eq!(flows.len(), 1, "{said}");
    assert_words(&flows, &["process=blocking-client", WRAPPED]);

    let output = run(Command::new(&sslcollector)
        .args(["run", "--"])
        .arg(&words[0]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("it mirrors by itself"), "{said}");
}
