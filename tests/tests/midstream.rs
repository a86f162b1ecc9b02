//! Connections that are older than the agent: nginx and a curl that keeps its connection outlive one agent, and are
//! served by another.

use std::io::Read;
use std::process::{Command, Stdio};

use mirror_tests::judges::{HttpEvent, Profile, Suricata, complaints};
use mirror_tests::nginx::{LogEntry, Nginx};
use mirror_tests::place::{Place, content};
use mirror_tests::process::{Process, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::Sensor;
use mirror_tests::service::Agent;
use mirror_tests::sessions;
use mirror_tests::streams::{Flow, flows};
use rustix::process::Signal;
use serde_json::Value;

/// More than sockets and pipes take while curl isn't read: its answer is under way when the agents change.
const LARGE: usize = 14 << 20;
const NEXT: usize = 20_000;

/// Where packets are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Agent,
    Collector,
}

/// What there is of the old connection.
struct Seen {
    /// What nginx says of the two requests: the one under way, and the next.
    requests: [LogEntry; 2],
    /// Its flows in the capture.
    flows: Vec<Flow>,
    /// Its line in the log of sessions.
    line: Value,
    /// Who made packets, at its end.
    said: String,
    /// What Suricata saw of it.
    http: Vec<HttpEvent>,
}

fn curl(nginx: &Nginx<'_>, sizes: &[usize]) -> Command {
    let mut command = Command::new("curl");
    command.arg("-sk").env_remove("LD_LIBRARY_PATH");
    let url = |size| format!("https://127.0.0.1:{}/get/{size}", nginx.port);
    command.args(sizes.iter().map(url));
    command
}

/// An agent, which sends to the sensor if there is one.
fn agent(place: &Place, sensor: Option<&Sensor>, options: &[&str]) -> Agent {
    let address = sensor.map(|sensor| sensor.address.to_string());
    let outputs = match &address {
        Some(address) => vec!["-t", address, "--insecure-plaintext"],
        None => options.to_vec(),
    };
    Agent::sending(
        place,
        &[&["-I", "none", "--ring-size", "16M"], &outputs[..]].concat(),
    )
}

fn old_connection(at: At, option: &str) -> Seen {
    let place = Place::new(&[1, NEXT, LARGE]);
    let nginx = Nginx::new(&place);
    let (capture, log) = (place.path("capture.pcapng"), place.path("sessions.jsonl"));
    let first = Agent::start(&place, &place.path("first.pcapng"), &["-I", "none"]);
    nginx.start_with(|command| first.prepare(command));
    let mut old = Process::start(curl(&nginx, &[LARGE, NEXT]).stdout(Stdio::piped()));
    let mut stdout = old.stdout().expect("a pipe");
    let mut heard = vec![0];
    stdout.read_exact(&mut heard).expect("an answer");
    let mut first = first.process;
    first.signal(Signal::KILL);
    first.wait();

    let names = [&capture, &log].map(|path| path.display().to_string());
    let options = ["-w", &names[0], "--log", &names[1], "--midstream", option];
    let sensor = (at == At::Collector).then(|| {
        let options = [&options[..], &["--insecure-plaintext"]].concat();
        Sensor::start(&place, ([127, 0, 0, 1], 0).into(), &options)
    });
    let second = agent(&place, sensor.as_ref(), &options);
    // nginx looks for it when somebody connects.
    let sessions = || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        sessions::parse(&text[..whole])
    };
    until("the new agent to be found", || {
        assert!(run(&mut curl(&nginx, &[1])).status.success());
        (!sessions().is_empty()).then_some(())
    });
    stdout.read_to_end(&mut heard).expect("both answers");
    assert!(heard == [content(LARGE), content(NEXT)].concat());
    assert!(old.wait().success());
    // It logs what it has answered a moment later.
    let of_size = |size: usize| {
        let url = format!("/get/{size}");
        let logged = || nginx.log().into_iter().find(|request| request.url == url);
        until("nginx's line of a request", logged)
    };
    let requests = [of_size(LARGE), of_size(NEXT)];
    let port = requests[0].port;
    assert_eq!(port, requests[1].port, "curl keeps its connection");
    let line = until("the old connection's line", || {
        let lines = sessions();
        lines.into_iter().find(|line| line["src_port"] == port)
    });
    let said = second.end_well();
    let said = sensor.map_or(said, Sensor::end);
    nginx.quit();

    let read = Capture::read(&capture).expect("a capture");
    rules::assert_good(&read, &said);
    let mut flows = flows(&read).expect("flows");
    flows.retain(|flow| flow.client.port() == port);
    let verdict = Suricata.read(&capture, Profile::Sslcollector, &place.path("judge"));
    assert_eq!(verdict.complaints(), [""; 0], "Suricata objects");
    assert_eq!(complaints(&capture), [""; 0], "tshark objects");
    let mut http = verdict.http;
    http.retain(|event| event.port == port);
    Seen {
        requests,
        flows,
        line,
        said,
        http,
    }
}

/// From the next request on each byte is there, and what came before is told.
fn is_forged(at: At) {
    let seen = old_connection(at, "forge");
    let [_, next] = &seen.requests;
    let [flow] = &seen.flows[..] else {
        panic!("{:?}\n{}", seen.flows, seen.said);
    };
    let (request, response) = (flow.request.whole(), flow.response.whole());
    let (request, response) = (request.expect("no hole"), response.expect("no hole"));
    assert!(request.starts_with(format!("GET /get/{NEXT} HTTP/1.1\r\n").as_bytes()));
    let lengths = (request.len() as u64, response.len() as u64);
    assert_eq!(lengths, (next.request_length, next.bytes_sent));
    assert!(response.starts_with(b"HTTP/1.1 200 OK\r\n") && response.ends_with(&content(NEXT)));
    let left_out = seen.line["midstream"]["left_out_toclient"].as_u64();
    let left_out = left_out.expect("the rest of the first answer");
    assert!((1..=LARGE as u64).contains(&left_out));
    let mark = format!(" announced=midstream unshown_client=0 unshown_server={left_out}");
    assert!(flow.comment.contains(&mark), "{}", flow.comment);
    assert_eq!(seen.line["announced"], "midstream");
    assert_eq!(seen.line["midstream"]["shown"], true);
    assert_eq!(seen.line["bytes_toclient"], left_out + next.bytes_sent);
    assert_eq!(seen.line["bytes_toserver"], next.request_length);
    let words = format!(
        "1 session had begun before anybody looked: 1 shown from a later message on, 0 not, {left_out} bytes"
    );
    assert!(seen.said.contains(&words), "{words}\n{}", seen.said);
    let event = HttpEvent {
        port: next.port,
        method: "GET".into(),
        url: format!("/get/{NEXT}"),
        status: 200,
        length: NEXT as u64,
    };
    assert_eq!(seen.http, [event]);
}

/// There is nothing of it in packets; the log and the report have it.
fn is_skipped(at: At) {
    let seen = old_connection(at, "skip");
    let [_, next] = &seen.requests;
    assert!(seen.flows.is_empty(), "{:?}", seen.flows);
    assert_eq!(seen.http, []);
    let line = &seen.line;
    let of_all = |way: &str| {
        let left_out = line["midstream"][format!("left_out_{way}")].as_u64();
        assert_eq!(left_out, line[format!("bytes_{way}")].as_u64());
        left_out.expect("a number")
    };
    assert_eq!(of_all("toserver"), next.request_length);
    let answered = of_all("toclient");
    assert!(answered > next.bytes_sent && answered <= LARGE as u64 + next.bytes_sent);
    assert_eq!(line["announced"], "midstream");
    assert_eq!(line["midstream"]["shown"], false);
    assert_eq!(line["end"], "finished");
    let bytes = answered + next.request_length;
    let words = format!(
        "1 session had begun before anybody looked: 0 shown from a later message on, 1 not, {bytes} bytes"
    );
    assert!(seen.said.contains(&words), "{words}\n{}", seen.said);
}

#[test]
fn what_is_older_is_forged_from_its_next_request_on() {
    is_forged(At::Agent);
}

#[test]
fn what_is_older_is_skipped() {
    is_skipped(At::Agent);
}

#[test]
fn a_collector_forges_what_is_older_at_its_host() {
    is_forged(At::Collector);
}

#[test]
fn a_collector_skips_what_is_older_at_its_host() {
    is_skipped(At::Collector);
}
