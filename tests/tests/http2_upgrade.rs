//! HTTP/1.1 that is upgraded to HTTP/2 within TLS (h2c, RFC 7540 section 3.2): curl and Apache, neither of which speaks TLS
//! here, with a tunnel of two stunnels between them, as Suricata sees it.

use std::fs::File;
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::process::Command;

use mirror_tests::apache::apache_h2c;
use mirror_tests::examples::{judge, sha256};
use mirror_tests::place::{Place, content};
use mirror_tests::process::{Process, run, until};
use mirror_tests::service::{Agent, Service};
use mirror_tests::streams::Flow;
use mirror_tests::stunnel::{Side, stunnel};
use rustix::process::Signal;

/// Connections, of one request each.
const COUNT: usize = 3;

/// A service that is up, in a process group of its own: Apache signals all of its at its end.
fn up(place: &Place, service: &Service, mut command: Command) -> Process {
    let said = File::create(place.path("service.said")).expect("a file");
    command.args(&service.words).stderr(said).process_group(0);
    let mut process = Process::start(&mut command);
    until("the service listens", || {
        assert!(!process.ended(), "{}", place.text("service.said"));
        TcpStream::connect(("127.0.0.1", service.port)).ok()
    });
    process
}

fn env() -> Command {
    Command::new("env")
}

fn text(side: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(side)
}

#[test]
fn curl_and_apache_by_stunnel() {
    let place = Place::new(&[1_000]);
    let [web, near] = [Place::new(&[1_000]), Place::new(&[])];
    let apache = apache_h2c(&web);
    let far = stunnel(
        &place,
        Side::Server,
        &[("127.0.0.1", &format!("127.0.0.1:{}", apache.port))],
    );
    let tunnel = stunnel(
        &near,
        Side::Client,
        &[("127.0.0.1", &format!("127.0.0.1:{}", far.port))],
    );
    let agent = Agent::start(&place, &place.path("capture.pcapng"), &["--http1"]);
    let mut mirrored = env();
    agent.prepare(&mut mirrored);
    let mut running = vec![up(&web, &apache, env())];
    running.push(up(&place, &far, mirrored));
    running.push(up(&near, &tunnel, env()));

    let base = format!("http://127.0.0.1:{}/get/1000", tunnel.port);
    for number in 0..COUNT {
        let mut curl = Command::new("curl");
        curl.args([
            "-q",
            "-sS",
            "--http2",
            "--noproxy",
            "*",
            "-w",
            "%{http_version}",
        ]);
        curl.arg(format!("{base}?{number}"));
        curl.arg("-o").arg(place.path(&format!("out/{number}")));
        let output = run(&mut curl);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(text(&output.stdout), "2");
    }
    for mut process in running.into_iter().rev() {
        process.signal(Signal::TERM);
        process.wait();
    }
    let said = agent.end_well();

    for number in 0..COUNT {
        assert!(place.read(&format!("out/{number}")) == content(1_000));
    }
    let (flows, verdict) = judge(&place);
    let mut urls: Vec<_> = verdict.http.iter().map(|event| event.url.clone()).collect();
    urls.sort();
    let by_curl = (0..COUNT).map(|number| format!("/get/1000?{number}"));
    let mut meant: Vec<_> = by_curl.collect();
    meant.sort();
    assert_eq!(urls, meant, "{said}");
    let is_whole = |(status, length)| status == 200 && length == 1_000;
    let mut events = verdict.http.iter();
    assert!(events.all(|event| is_whole((event.status, event.length))));
    let sum = sha256(&place.path("www/1000"));
    let files = verdict.files.iter();
    let whole = files.filter(|file| file.sha256 == sum && !file.gaps);
    assert_eq!(whole.count(), COUNT);

    // The one that asked has its answer in front of all others, as if it had been declined.
    // Who looked whether the tunnel is up said nothing.
    let said_something = |flow: &&Flow| flow.request.whole() != Some(b"");
    let flows: Vec<_> = flows.iter().filter(said_something).collect();
    assert_eq!(flows.len(), COUNT, "{said}");
    for flow in flows {
        let asked = text(flow.request.whole().expect("no hole"));
        assert!(asked.contains("\r\nUpgrade: h2c\r\n"), "{asked}");
        let answered = text(flow.response.whole().expect("no hole"));
        assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
        assert!(!answered.contains("101 Switching"), "{answered}");
    }
    let told = "3 sessions of HTTP/2 that began as HTTP/1.1 (h2c)";
    assert!(said.contains(told), "{said}");
    assert!(!said.contains("shown as frames"), "{said}");
}
