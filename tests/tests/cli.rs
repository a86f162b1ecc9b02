//! The command line: what is passed on, and what is said when something isn't as it should be.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use mirror_tests::client;
use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector;
use mirror_tests::streams::{End, flows};
use rustix::process::Signal;

const LOCAL: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

/// Ends with this status, and says all of these.
fn fails(command: &mut Command, status: i32, words: &[&str]) {
    let output = run(command);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(status), "{command:?}: {said}");
    for word in words {
        assert!(
            said.contains(word),
            "{command:?} doesn't say {word}: {said}"
        );
    }
}

#[test]
fn wrong_use_and_what_is_missing() {
    let place = Place::new(&[]);
    let file = place.path("x.pcapng");
    let sslcollector = || Command::new(sslcollector::binary());
    fails(
        sslcollector().arg("--no-such-option"),
        2,
        &["--no-such-option"],
    );
    fails(sslcollector().args(["run", "-w"]), 2, &["-w"]);
    fails(sslcollector().arg("run"), 2, &["PROGRAM"]);
    fails(
        sslcollector().args(["run", "--ring-size", "3", "true"]),
        2,
        &["ring-size"],
    );

    // Nothing is started when the capture can't be written, or the library isn't there.
    let marker = place.path("marker");
    let touch = ["touch".as_ref(), marker.as_os_str()];
    let nowhere = place.path("no-such-directory/x.pcapng");
    let mut command = sslcollector::run_to(&nowhere, &[]);
    fails(command.args(touch), 1, &["no-such-directory", "-w"]);
    let mut command = sslcollector();
    command.args(["run", "--library-dir", "/no-such-directory", "--"]);
    fails(
        command.args(touch),
        1,
        &["/no-such-directory", "make openssl"],
    );
    assert!(!marker.exists());

    let mut command = sslcollector::run_to(&file, &[]);
    fails(
        command.arg("no-such-program"),
        1,
        &["no-such-program", "PATH"],
    );
    let mut command = sslcollector::run_to(&file, &[]);
    fails(
        command.arg(place.path("cert.pem")),
        1,
        &["cert.pem", "executable"],
    );
    let mut command = sslcollector::run_to(&file, &["-I", "no-such-interface"]);
    fails(command.arg("true"), 1, &["no-such-interface"]);
}

#[test]
fn status_and_output_of_the_program_are_its_own() {
    let place = Place::new(&[]);
    let file = place.path("x.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    let output = run(command.args(["sh", "-c", "echo out; echo err >&2; exit 41"]));
    assert_eq!(output.status.code(), Some(41));
    assert_eq!(output.stdout, b"out\n");
    assert!(said(&output).contains("err\n"));
    // It did no TLS; a capture without packets is still a capture.
    assert_eq!(Capture::read(&file).expect("a capture").packets, []);

    let mut command = sslcollector::run_to(&file, &[]);
    let output = run(command.args(["sh", "-c", "kill -KILL $$"]));
    assert_eq!(output.status.code(), Some(137), "{}", said(&output));
}

#[test]
fn a_program_without_libssl_is_told_from_one_that_has_it() {
    let place = Place::new(&[1]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let url = format!("https://127.0.0.1:{}/get/1", nginx.port);
    let file = place.path("x.pcapng");
    let mut command = sslcollector::run_to(&file, &[]);
    command.args([
        "wget",
        "--no-config",
        "--no-proxy",
        "-q",
        "--no-check-certificate",
        "-O",
        "-",
    ]);
    let output = run(command.arg(&url));
    let text = said(&output);
    assert_eq!(output.stdout, place.read("www/1"), "{text}");
    assert!(output.status.success());
    assert!(text.contains("no TLS") && text.contains("GnuTLS"), "{text}");

    let mut command = sslcollector::run_to(&file, &[]);
    let output = run(command.arg("true"));
    assert!(said(&output).contains("no TLS"), "{}", said(&output));
    nginx.quit();
}

/// A library that is linked in can't be replaced by a patched one.
#[test]
fn a_program_with_its_library_linked_in_is_told() {
    let place = Place::new(&[]);
    let (source, program) = (place.path("linked.c"), place.path("linked"));
    let text = "#include <openssl/ssl.h>\n\
                int main(void) { return SSL_CTX_new(TLS_client_method()) == NULL; }\n";
    fs::write(&source, text).expect("a source file");
    let mut cc = Command::new("cc");
    cc.arg("-static").arg("-o").args([&program, &source]);
    // What a static libcrypto says of getaddrinfo is no concern here.
    output_of(cc.args(["-lssl", "-lcrypto", "-ldl", "-pthread"]));
    let mut command = sslcollector::run_to(&place.path("x.pcapng"), &[]);
    let output = run(command.arg(&program));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("no TLS") && text.contains("linked statically"),
        "{text}"
    );
}

#[test]
fn a_summary_for_people_without_a_file() {
    let place = Place::new(&[16_385]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let mut command = sslcollector::run::<&str>(&[]);
    let script = Transfer::get("get", 16_385).script(&place, (LOCAL, nginx.port), Tls::V1_3);
    let output = run(command.args(["sh", "-c", &script]));
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    for word in [
        "GET /get/16385 HTTP/1.1",
        "HTTP/1.1 200 OK",
        "Content-Length: 16385",
    ] {
        assert!(said.contains(word), "{word} isn't in: {said}");
    }
    nginx.quit();
}

/// `-w -`: the capture is all there is on standard output.
#[test]
fn a_capture_on_standard_output() {
    let place = Place::new(&[16_385]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let port = nginx.port;
    let transfer = Transfer::get("get", 16_385);
    let script = transfer.script(&place, (LOCAL, port), Tls::V1_3) + "echo printed\n";
    let mut command = sslcollector::run_to(Path::new("-"), &[]);
    let output = run(command.args(["sh", "-c", &script]));
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("printed\n"), "{text}");
    assert!(
        text.contains("standard error"),
        "nothing said of it: {text}"
    );
    let capture = Capture::parse(&output.stdout).expect("a capture");
    rules::assert_good(&capture, "-w -");
    let flows = flows(&capture).expect("flows");
    let truth = transfer.truth(&place);
    assert_eq!(flows[0].response.difference(&truth.response), None);

    // The reader goes away: curl doesn't notice.
    let collector = sslcollector::run_to(Path::new("-"), &[]);
    let quoted: Vec<_> = [collector.get_program()]
        .into_iter()
        .chain(collector.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    fs::write(
        place.path("client.sh"),
        transfer.script(&place, (LOCAL, port), Tls::V1_3),
    )
    .expect("client.sh");
    let pipe = format!(
        "{{ {} sh {dir}/client.sh; echo $? >{dir}/status; }} | head -c 10 >{dir}/head",
        quoted.join(" "),
        dir = place.directory().display(),
    );
    fs::remove_file(place.path("out/get-16385.body1")).expect("body of the first run");
    let output = run(Command::new("sh").args(["-c", &pipe]));
    said(&output);
    assert_eq!(place.read("head").len(), 10);
    assert_eq!(place.read("out/get-16385.body1"), place.read("www/16385"));
    assert_eq!(place.text("status"), "0\n");
    nginx.quit();
}

/// Signals go to the program; the file is complete also when it ends in the middle of a transfer.
#[test]
fn signals_leave_a_complete_file() {
    const BULK: usize = 20 << 20;
    let place = Place::new(&[1, BULK]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let half = format!("half:/get/{BULK}");
    for (signal, status) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let _ = fs::remove_file(place.path("out/half"));
        let file = place.path("x.pcapng");
        let mut command = sslcollector::run_to(&file, &[]);
        let words = client::words(&place, nginx.port, &["get:/get/1", &half]);
        let process = Process::start_piped(command.args(words));
        until("the middle of the transfer", || {
            place.path("out/half").exists().then_some(())
        });
        process.signal(signal);
        let output = process.output();
        let said = said(&output);
        // Python turns SIGINT into an exception, which ends it with 1 or by that signal.
        let codes = [Some(status), Some(1)];
        assert!(
            codes.contains(&output.status.code()),
            "{:?}: {said}",
            output.status
        );
        let capture = Capture::read(&file).expect("a capture");
        rules::assert_good(&capture, "signal");
        let flows = flows(&capture).expect("flows");
        assert_eq!(flows.len(), 1);
        let received = place.read("out/received.1");
        let response = &flows[0].response;
        assert_eq!(response.holes(), [], "{said}");
        let whole = response.whole().unwrap_or_default();
        assert!(
            whole.starts_with(&received),
            "less than was received: {said}"
        );
        assert_ne!(flows[0].end, End::Open);
    }
    nginx.quit();
}

/// An ordinary user has no right to capture: text of curl, whose library has no socket, comes with
/// addresses that nobody takes for real.
#[test]
fn without_privilege() {
    let place = Place::new(&[16_385]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let root = rustix::process::geteuid().is_root();
    // Where the tests are built an ordinary user may have no access.
    let library = place.path("lib");
    fs::create_dir(&library).expect("make a directory");
    let (name, binary) = ("libssl.so.3", place.path("sslcollector"));
    fs::copy(sslcollector::library_dir().join(name), library.join(name)).expect("copy");
    fs::copy(sslcollector::binary(), &binary).expect("copy");
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(place.directory(), mode).expect("let others in");
    let mut command = Command::new(&binary);
    if root {
        chown(place.path("out"), Some(65_534), Some(65_534)).expect("give it away");
        command = Command::new("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(&binary);
    }
    let file = place.path("out/x.pcapng");
    let transfer = Transfer::get("get", 16_385);
    let script = transfer.script(&place, (LOCAL, nginx.port), Tls::V1_3);
    command
        .args(["run", "-w"])
        .arg(&file)
        .arg("--library-dir")
        .arg(&library);
    command.args(["--", "sh", "-c", &script]);
    command.current_dir("/").stdout(Stdio::piped());
    let output = run(&mut command);
    let port = nginx.port;
    nginx.quit();
    let said = said(&output);
    assert!(output.status.success(), "{said}");

    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "without privilege");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), 1, "{said}");
    let flow = &flows[0];
    let truth = transfer.truth(&place);
    assert_eq!(flow.response.difference(&truth.response), None);
    // By its byte counts, where sslcollector looked in time; else nobody knows.
    if flow.comment.contains("bound=counters") {
        let server = std::net::SocketAddr::from((LOCAL, port));
        assert_eq!(flow.server, server, "{}", flow.comment);
        return;
    }
    assert!(
        flow.comment.contains("bound=placeholder"),
        "{}",
        flow.comment
    );
    for address in [flow.client.ip(), flow.server.ip()] {
        // RFC 5737 3.
        let text = address.to_string();
        let ranges = ["192.0.2.", "198.51.100.", "203.0.113."];
        assert!(ranges.iter().any(|range| text.starts_with(range)), "{text}");
    }
}
