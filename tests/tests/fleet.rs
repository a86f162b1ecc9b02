//! Hosts with both ends of their connections mirrored, one collector, and monitors at both ends of its interface:
//! each transaction is there exactly once.

use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::fleet::{Fleet, Host, SENSOR};
use mirror_tests::judges::{HttpEvent, Suricata, Verdict};
use mirror_tests::network::Listener;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules::{self, Rule};
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::sslcollector::{binary, library_dir};
use mirror_tests::streams::{End, flows};
use rustix::process::Signal;

const HOSTS: u8 = 10;
const PAGE: usize = 20_000;
const LARGE: usize = 300_000;

/// A host with nginx below an agent of its own.
struct Site<'a> {
    host: &'a Host,
    place: &'a Place,
    nginx: Nginx<'a>,
    agent: Process,
    port: u16,
}

/// `sslcollector run` on a host, which sends to the collector over IPv4 or IPv6, by turns.
fn mirrored(host: &Host, place: &Place, sensor: &Sensor) -> Command {
    let address = SENSOR[usize::from(host.number % 2)];
    let to = SocketAddr::new(address, sensor.address.port()).to_string();
    let mut command = host.namespace.command(binary());
    command.args(["run", "-I", "eth0", "--ring-size", "16M", "-t", &to]);
    command.arg("--state").arg(place.path("agent"));
    command.arg("--library-dir").arg(library_dir()).arg("--");
    command
}

impl<'a> Site<'a> {
    fn start(host: &'a Host, place: &'a Place, sensor: &Sensor) -> Self {
        let options = Options {
            addresses: &["0.0.0.0", "[::]"],
            ..Options::default()
        };
        let nginx = Nginx::with(place, options);
        let mut command = mirrored(host, place, sensor);
        command.args(nginx.command(false)).stdout(Stdio::null());
        let said = std::fs::File::create(place.path("said")).expect("a file");
        let mut agent = Process::start(command.stderr(said));
        let port = nginx.port;
        until("nginx listens", || {
            assert!(!agent.ended(), "{}", place.text("said"));
            let mut look = host.namespace.command("bash");
            look.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{port}")]);
            run(&mut look).status.success().then_some(())
        });
        Self {
            host,
            place,
            nginx,
            agent,
            port,
        }
    }

    /// curl on this host, mirrored too, asks another one.
    fn ask(&self, other: &Site<'_>, address: IpAddr, transfer: &Transfer, sensor: &Sensor) {
        let script = transfer.script(self.place, (address, other.port), Tls::V1_3);
        let mut command = mirrored(self.host, self.place, sensor);
        output_of(command.args(["sh", "-c", &script]));
    }

    fn end(mut self) {
        self.nginx.quit();
        let status = self.agent.wait();
        let said = self.place.text("said");
        assert!(status.success(), "{status}: {said}");
        assert!(said.contains("all acknowledged"), "{said}");
    }
}

fn sorted(verdict: &Verdict) -> Vec<HttpEvent> {
    let mut http = verdict.http.clone();
    http.sort();
    http
}

#[test]
fn ten_hosts_with_both_ends_mirrored_are_told_once() {
    let fleet = Fleet::new(HOSTS);
    let home = Place::new(&[]);
    let places: Vec<_> = fleet
        .hosts
        .iter()
        .map(|_| Place::new(&[PAGE, LARGE]))
        .collect();
    sensor::init(&home);
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let sensor = Sensor::start(&home, any, &["-o", "mirror0", "--create", "--workers", "2"]);
    let listener = Listener::start("mirror0-tap", &home.path("seen.pcapng"));
    let suricatas = ["mirror0", "mirror0-tap"].map(|interface| {
        let directory = home.path(&format!("judge/{interface}"));
        (interface, Suricata.listen(interface, &directory))
    });
    let mut sites = Vec::new();
    for (host, place) in fleet.hosts.iter().zip(&places) {
        let address = SocketAddr::new(SENSOR[0], sensor.address.port());
        let token = sensor::token(&home, address, &host.cable(), &[]);
        sensor::join(host.namespace.command(binary()), place, "agent", &token);
        sites.push(Site::start(host, place, &sensor));
    }
    let mut expected = Vec::new();
    let mut text = 0;
    for (number, site) in sites.iter().enumerate() {
        let other = &sites[(number + 3) % sites.len()];
        let address = other.host.addresses()[number % 2];
        for transfer in [
            Transfer::get("get", LARGE),
            Transfer::post(PAGE),
            Transfer::many(PAGE, 3),
        ] {
            site.ask(other, address, &transfer, &sensor);
            let truth = transfer.truth(site.place);
            text += truth.response.len() as u64;
            expected.extend(truth.transactions.iter().map(|one| HttpEvent {
                port: truth.port,
                method: one.method.into(),
                url: one.url.clone(),
                status: one.status,
                length: one.received.len() as u64,
            }));
        }
    }
    expected.sort();
    sites.into_iter().for_each(Site::end);
    let connections = 3 * usize::from(HOSTS);
    let closed = |seen: &Capture| {
        let whole = |flow: &mirror_tests::streams::Flow| flow.end != End::Open;
        flows(seen).is_ok_and(|flows| flows.len() == connections && flows.iter().all(whole))
    };
    let seen = listener.end(closed);
    let said = sensor.end();
    let violations: Vec<_> = rules::check(&seen)
        .into_iter()
        .filter(|one| one.rule != Rule::Comment)
        .collect();
    assert!(violations.is_empty(), "{violations:?}");
    let flows = flows(&seen).expect("flows");
    let responses: u64 = flows.iter().map(|flow| flow.response.length()).sum();
    let missing: u64 = flows
        .iter()
        .map(|flow| flow.request.missing() + flow.response.missing())
        .sum();
    assert_eq!((responses, missing), (text, 0), "{said}");
    for (interface, suricata) in suricatas {
        let live = suricata.verdict();
        assert_eq!(live.complaints(), [""; 0], "{interface}");
        assert_eq!(sorted(&live), expected, "{interface}: {said}");
    }
    // Both came while the connection lived, or one of them when it had ended.
    let count = |words: &str| -> usize {
        let line = said.lines().find_map(|line| line.split_once(words));
        let number = line.and_then(|(before, _)| before.rsplit(' ').next()?.parse().ok());
        number.unwrap_or(0)
    };
    assert_eq!(count(" sessions of 10 agents"), connections, "{said}");
    let (beside, behind) = (
        count(" sessions mirrored at both ends"),
        count(" sessions of which the other end's copy came when it had ended"),
    );
    assert_eq!(beside + behind, connections, "{said}");
}

/// Programs of one host that go on while its cable is out: nothing is missing, and nothing is there twice.
#[test]
fn a_cable_that_is_pulled_loses_nothing() {
    let fleet = Fleet::new(2);
    let home = Place::new(&[]);
    let places: Vec<_> = fleet.hosts.iter().map(|_| Place::new(&[PAGE])).collect();
    sensor::init(&home);
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let capture = home.path("capture.pcapng");
    let sensor = Sensor::start(&home, any, &["-w", &capture.display().to_string()]);
    let address = SocketAddr::new(SENSOR[1], sensor.address.port());
    let (host, place) = (&fleet.hosts[0], &places[0]);
    let token = sensor::token(
        &home,
        address,
        "host",
        &["--net", "10.8.0.0/24", "--net", "127.0.0.0/8"],
    );
    sensor::join(host.namespace.command(binary()), place, "agent", &token);
    let site = Site::start(host, place, &sensor);
    let mut lengths = Vec::new();
    for number in 0..4 {
        // Stock clients on the host itself, which don't need the cable.
        let name = format!("get-{number}");
        let transfer = Transfer {
            name,
            ..Transfer::get("get", PAGE)
        };
        let local = IpAddr::from([127, 0, 0, 1]);
        if number % 2 == 1 {
            host.unplug();
        }
        let script = transfer.script(place, (local, site.port), Tls::V1_3);
        output_of(host.namespace.command("sh").args(["-c", &script]));
        lengths.push(transfer.truth(place).response.len() as u64);
        host.plug();
    }
    site.end();
    let said = sensor.end();
    let capture = Capture::read(&capture).expect("a capture");
    rules::assert_good(&capture, &said);
    let flows = flows(&capture).expect("flows");
    let seen: Vec<_> = flows
        .iter()
        .map(|flow| flow.response.length() - flow.response.missing())
        .collect();
    assert_eq!(seen, lengths, "{said}");
}

/// Signals that end programs reach them through `run`, and the agent still hands over what they said.
#[test]
fn a_program_that_is_ended_has_said_all() {
    let fleet = Fleet::new(1);
    let (home, place) = (Place::new(&[]), Place::new(&[PAGE]));
    sensor::init(&home);
    let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
    let capture = home.path("capture.pcapng");
    let sensor = Sensor::start(&home, any, &["-w", &capture.display().to_string()]);
    let host = &fleet.hosts[0];
    let address = SocketAddr::new(SENSOR[0], sensor.address.port());
    let token = sensor::token(&home, address, "host", &[]);
    sensor::join(host.namespace.command(binary()), &place, "agent", &token);
    let mut site = Site::start(host, &place, &sensor);
    let transfer = Transfer::get("get", PAGE);
    let script = transfer.script(&place, (host.addresses()[0], site.port), Tls::V1_3);
    output_of(host.namespace.command("sh").args(["-c", &script]));
    let length = transfer.truth(&place).response.len() as u64;
    site.agent.signal(Signal::TERM);
    site.agent.wait();
    sensor.end();
    let capture = Capture::read(&capture).expect("a capture");
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), 1);
    assert_eq!(flows[0].response.length(), length);
}
