//! Whom a collector refuses, at its real socket: each for a reason of its own, which is said and counted.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::network::{enter_new_namespace, ip};
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::{binary, library_dir};
use mirror_tests::streams::flows;
use rustix::process::Signal;

const PAGE: usize = 20_000;
/// The host's address; its second one is nobody's who may tell of it.
const HOST: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1)),
    IpAddr::V4(Ipv4Addr::new(10, 66, 0, 1)),
];

/// A collector, a host that has joined it, and programs.
struct Scenario<'p> {
    place: &'p Place,
    nginx: Nginx<'p>,
    sensor: Sensor,
}

impl<'p> Scenario<'p> {
    fn new(home: &Place, place: &'p Place) -> Self {
        enter_new_namespace();
        ip("link set lo up");
        ip("addr add 10.9.0.1/32 dev lo");
        ip("addr add 10.66.0.1/32 dev lo");
        let options = Options {
            addresses: &["10.9.0.1", "10.66.0.1"],
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        nginx.start();
        sensor::init(home);
        let capture = home.path("capture.pcapng");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let sensor = Sensor::start(home, any, &["-w", &capture.display().to_string()]);
        let token = sensor::token(home, sensor.address, "host", &["--net", "10.9.0.0/24"]);
        sensor::join(Command::new(binary()), place, "agent", &token);
        Self {
            place,
            nginx,
            sensor,
        }
    }

    /// curl below an agent that sends to this address with an identity of the place's.
    fn agent(&self, state: &str, to: SocketAddr, host: IpAddr, name: &str) -> (Transfer, Command) {
        let transfer = Transfer {
            name: name.into(),
            ..Transfer::get("get", PAGE)
        };
        let script = transfer.script(self.place, (host, self.nginx.port), Tls::V1_3);
        let mut command = Command::new(binary());
        command.args(["run", "-I", "lo", "-t", &to.to_string()]);
        // An agent that may not say anything isn't waited for.
        let linger = if state == "agent" { "60s" } else { "1s" };
        command.args(["--linger", linger]);
        command.arg("--state").arg(self.place.path(state));
        command.arg("--library-dir").arg(library_dir()).arg("--");
        command.args(["sh", "-c", &script]);
        (transfer, command)
    }

    /// A client that speaks TLS with the collector, with what the host has as its certificate or another one.
    fn stranger(&self, certificate: Option<&str>) -> Stranger {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-quiet", "-tls1_3", "-alpn", "sslcollector/1"]);
        command.args(["-connect", &self.sensor.address.to_string()]);
        if let Some(name) = certificate {
            for (option, end) in [("-cert", "crt"), ("-key", "key")] {
                command.arg(option);
                command.arg(self.place.path(&format!("{name}.{end}")));
            }
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn();
        Stranger(child.expect("openssl (scripts/install-peers.sh test)"))
    }

    /// The host's own certificate and key, as files.
    fn take_credentials(&self) {
        let joined = self.place.path("agent/joined");
        let mut files = fs::read_dir(joined).expect("what the host keeps");
        let file = files.find_map(|file| {
            let path = file.expect("an entry").path();
            path.extension()
                .is_some_and(|end| end == "toml")
                .then_some(path)
        });
        let text = fs::read_to_string(file.expect("a membership")).expect("its text");
        for (field, end) in [("key = ", "key"), ("certificate = ", "crt")] {
            let (_, rest) = text.split_once(field).expect("its fields");
            let pem = rest.trim_start_matches(['"', '\'', '\n']);
            let (body, tail) = pem.split_once("-----END ").expect("PEM");
            let (label, _) = tail.split_once("-----").expect("PEM");
            let pem = format!("{body}-----END {label}-----\n").replace("\\n", "\n");
            fs::write(self.place.path(&format!("host.{end}")), pem).expect("a file");
        }
    }

    /// A certificate that the stranger has made itself.
    fn make_credentials(&self) {
        let mut command = Command::new("openssl");
        command.args([
            "req", "-x509", "-nodes", "-newkey", "ec", "-subj", "/CN=host",
        ]);
        command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-keyout"]);
        command.arg(self.place.path("own.key"));
        output_of(command.arg("-out").arg(self.place.path("own.crt")));
    }

    /// Until the collector has refused so many, by reason.
    fn until_refused(&self, wanted: &[(&str, u64)]) {
        until(&format!("refusals: {wanted:?}"), || {
            self.sensor.process.signal(Signal::USR1);
            let counts = refusals(&self.sensor.said());
            let mut wanted = wanted.iter();
            wanted
                .all(|(reason, count)| counts.get(*reason) >= Some(count))
                .then_some(())
        });
    }
}

/// Ended when it is dropped.
struct Stranger(Child);

impl Stranger {
    fn say(&mut self, bytes: &[u8]) {
        let stdin = self.0.stdin.as_mut().expect("a pipe");
        stdin.write_all(bytes).expect("somebody who reads");
        stdin.flush().expect("somebody who reads");
    }

    /// All that it is told until the collector closes.
    fn hears(mut self) -> String {
        let mut bytes = Vec::new();
        let mut stdout = self.0.stdout.take().expect("a pipe");
        let reader = thread::spawn(move || {
            let _ = stdout.read_to_end(&mut bytes);
            bytes
        });
        until("the collector to close", || {
            reader.is_finished().then_some(())
        });
        String::from_utf8_lossy(&reader.join().expect("no panic")).into_owned()
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the last report says of refused connections.
fn refusals(said: &str) -> BTreeMap<String, u64> {
    let marker = "connections refused: ";
    let line = said.lines().rev().find_map(|line| line.split_once(marker));
    let counts = line
        .map(|(_, counts)| counts.split(", "))
        .into_iter()
        .flatten();
    counts
        .filter_map(|count| {
            let (reason, count) = count.split_once(' ')?;
            Some((reason.to_owned(), count.parse().ok()?))
        })
        .collect()
}

fn join_fails(place: &Place, state: &str, token: &str) -> String {
    let mut command = Command::new(binary());
    command
        .args(["join", token, "--state"])
        .arg(place.path(state));
    let output = run(&mut command);
    assert!(!output.status.success(), "it has joined");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn strangers_are_refused_by_their_reasons() {
    let (home, place) = (Place::new(&[]), Place::new(&[PAGE]));
    let scenario = Scenario::new(&home, &place);
    scenario.take_credentials();
    scenario.make_credentials();
    // It takes ten seconds until nobody waits for it any more.
    let silent = scenario.stranger(Some("host"));

    let told = scenario.stranger(None).hears();
    assert!(told.contains("shows no certificate"), "{told}");
    let told = scenario.stranger(Some("own")).hears();
    assert!(told.contains("isn't from this collector"), "{told}");
    for (header, words) in [
        ([0xff, 0xff, 0xff, 0xff, 2, 0], "larger than any"),
        ([0, 0, 0, 0, 77, 0], "kind 77"),
    ] {
        let mut stranger = scenario.stranger(Some("host"));
        stranger.say(&header);
        let told = stranger.hears();
        assert!(told.contains(words), "{told}");
    }
    // Something that isn't TLS at all.
    let mut http = TcpStream::connect(scenario.sensor.address).expect("a connection");
    http.write_all(b"GET / HTTP/1.1\r\n\r\n")
        .expect("a request");
    let mut answer = Vec::new();
    let _ = http.read_to_end(&mut answer);

    let options = ["--valid", "1s"];
    let expired = sensor::token(&home, scenario.sensor.address, "late", &options);
    let made = Instant::now();
    let good = sensor::token(&home, scenario.sensor.address, "other", &[]);
    sensor::join(Command::new(binary()), &place, "other", &good);
    let words = join_fails(&place, "thief", &good);
    assert!(words.contains("the token was used"), "{words}");

    let told = silent.hears();
    assert!(told.contains("nothing came for too long"), "{told}");
    until("the token to run out", || {
        (made.elapsed() > Duration::from_secs(3)).then_some(())
    });
    let words = join_fails(&place, "late", &expired);
    assert!(words.contains("the token has run out"), "{words}");
    scenario.until_refused(&[
        ("NoCertificate", 1),
        ("UnknownCertificate", 1),
        ("Oversized", 1),
        ("Malformed", 2),
        ("TokenUsed", 1),
        ("TokenExpired", 1),
        ("Silent", 1),
    ]);
    scenario.nginx.quit();
    let said = scenario.sensor.end();
    for words in [
        "refused: the agent shows no certificate",
        "refused: the agent's certificate isn't from this collector",
        "refused: a frame of 4294967295 bytes is larger than any",
        "refused: a frame of kind 77",
        "refused: no handshake",
        "refused: the token was used already",
        "refused: the token has run out",
        "refused: nothing came for too long",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains("0 sessions of "), "{said}");
}

/// Somebody on the way who writes down what a client says.
struct Recorder {
    address: SocketAddr,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Recorder {
    /// Takes one connection.
    fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let said = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&said);
        thread::spawn(move || {
            let (mut near, _) = listener.accept().expect("a client");
            let mut far = TcpStream::connect(target).expect("the collector");
            let (mut back, mut there) = (
                far.try_clone().expect("a descriptor"),
                near.try_clone().expect("a descriptor"),
            );
            thread::spawn(move || std::io::copy(&mut back, &mut there));
            let mut bytes = [0; 4096];
            while let Ok(count) = near.read(&mut bytes) {
                if count == 0 || far.write_all(&bytes[..count]).is_err() {
                    break;
                }
                kept.lock()
                    .expect("no panic")
                    .extend_from_slice(&bytes[..count]);
            }
        });
        Self { address, said }
    }

    /// Says the same again, as a client of its own, until the other side closes.
    fn replay(&self, to: SocketAddr) {
        let said = self.said.lock().expect("no panic").clone();
        assert!(said.len() > PAGE, "{} bytes were recorded", said.len());
        let mut stream = TcpStream::connect(to).expect("a connection");
        // It may be closed before all of it has gone.
        let _ = stream.write_all(&said);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn agents_are_refused_what_they_may_not() {
    let (home, place) = (Place::new(&[]), Place::new(&[PAGE]));
    let scenario = Scenario::new(&home, &place);
    let address = scenario.sensor.address;
    // What it may, by a way on which somebody listens, who says it again.
    let recorder = Recorder::to(address);
    let (transfer, mut command) = scenario.agent("agent", recorder.address, HOST[0], "good");
    let said = output_of(&mut command);
    assert!(said.contains("all acknowledged"), "{said}");
    let text = transfer.truth(&place).response.len() as u64;
    recorder.replay(address);
    scenario.until_refused(&[("Replayed", 1)]);

    // Of an address that isn't the host's.
    let (_, mut command) = scenario.agent("agent", address, HOST[1], "foreign");
    let said = output_of(&mut command);
    assert!(said.contains("all acknowledged"), "{said}");

    // Of a host that has joined another collector.
    let other_home = Place::new(&[]);
    sensor::init(&other_home);
    let nowhere = other_home.path("capture.pcapng").display().to_string();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let other = Sensor::start(&other_home, any, &["-w", &nowhere]);
    let token = sensor::token(&other_home, other.address, "host", &[]);
    sensor::join(Command::new(binary()), &place, "elsewhere", &token);
    let (_, mut command) = scenario.agent("elsewhere", address, HOST[0], "stray");
    let output = run(&mut command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("its key is"), "{said}");
    scenario.until_refused(&[("WrongCollector", 1)]);
    assert!(other.end().contains("0 sessions of "));

    // Revoked while it is connected.
    let agent = Agent::sending(
        &place,
        &[
            "-I",
            "none",
            "-t",
            &address.to_string(),
            "--state",
            &place.path("agent").display().to_string(),
        ],
    );
    until("the agent to be connected", || {
        agent
            .said()
            .contains("connected to the collector")
            .then_some(())
    });
    let mut revoke = Command::new(binary());
    revoke.args(["agents", "revoke", "host", "--state"]);
    output_of(revoke.arg(home.path("sensor")));
    scenario.sensor.process.signal(Signal::HUP);
    until("the agent to be told", || {
        agent.said().contains("the agent was revoked").then_some(())
    });
    scenario.until_refused(&[("Revoked", 1)]);
    agent.end_well();

    scenario.nginx.quit();
    let said = scenario.sensor.end();
    for words in [
        "refused: its handshake was made for another connection",
        "1 session refused: foreign addresses",
        "refused: it doesn't take this for the collector that it has joined",
        "host may come in no more (Revoked)",
        "refused: the agent was revoked",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    // SIGHUP began another file.
    let mut whole = Vec::new();
    for file in fs::read_dir(home.directory()).expect("captures") {
        let path = file.expect("an entry").path();
        if path.extension().is_some_and(|end| end == "pcapng") {
            let capture = Capture::read(&path).expect("a capture");
            rules::assert_good(&capture, &said);
            whole.extend(flows(&capture).expect("flows"));
        }
    }
    let lengths: Vec<_> = whole.iter().map(|flow| flow.response.length()).collect();
    assert_eq!(lengths, [text], "{said}");
}
