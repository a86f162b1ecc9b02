//! One exchange between curl and nginx, with the patched library on one side or on both, and all the
//! judges on its capture.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::curl::{Tls, Transfer, Truth, Upload, dechunk};
use crate::judges::{HttpEvent, Profile, Suricata, complaints, exported_objects, in_time_order};
use crate::nginx::Nginx;
use crate::place::{Place, SIZES, content};
use crate::process::{Process, output_of, run};
use crate::reader::Capture;
use crate::rules;
use crate::sslcollector;
use crate::streams::{End, Flow, flows};

static TURN: Mutex<()> = Mutex::new(());

/// Who has the patched library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patched {
    /// curl.
    Client,
    /// nginx.
    Server,
    /// Both, below one agent.
    Both,
}

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Who is mirrored.
    pub patched: Patched,
    /// Version of TLS.
    pub tls: Tls,
    /// Where nginx is asked.
    pub address: IpAddr,
    /// One after another, each on a connection of its own.
    pub transfers: Vec<Transfer>,
}

/// What happened.
#[derive(Debug)]
pub struct Happened {
    exchange: Exchange,
    place: Place,
    port: u16,
    times_ns: (u64, u64),
    /// What `sslcollector run` said.
    pub output: Output,
}

impl Exchange {
    /// Runs it. `options` go to `sslcollector run`.
    ///
    /// # Panics
    /// If a program fails that isn't meant to.
    pub fn run(self, options: &[&str]) -> Happened {
        // Tests run side by side. Bulk that is mirrored needs a machine of two cores for itself; the
        // judges don't.
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Place::new(&SIZES);
        let nginx = Nginx::new(&place);
        let server = (self.address, nginx.port);
        let scripts = self.transfers.iter();
        let client: String = scripts
            .map(|transfer| transfer.script(&place, server, self.tls))
            .collect();
        let begin_ns = now_ns();
        let mut mirrored = sslcollector::run_to(&capture_path(&place), options);
        let output = match self.patched {
            Patched::Client => {
                nginx.start();
                let output = run(mirrored.args(["sh", "-c", &client]));
                nginx.quit();
                output
            }
            Patched::Server => {
                let server = Process::start_piped(mirrored.args(nginx.command(false)));
                nginx.wait_until_up();
                output_of(Command::new("sh").args(["-c", &client]));
                nginx.quit();
                server.output()
            }
            Patched::Both => {
                let script = nginx.start_script() + &client + &nginx.quit_script();
                run(mirrored.args(["sh", "-c", &script]))
            }
        };
        let times_ns = (begin_ns, now_ns());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        let port = nginx.port;
        drop(nginx);
        Happened {
            exchange: self,
            port,
            times_ns,
            output,
            place,
        }
    }
}

impl Happened {
    /// Where the capture lies.
    pub fn capture(&self) -> PathBuf {
        capture_path(&self.place)
    }

    /// The scenario's directory.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Asks every judge, and compares every byte.
    ///
    /// # Panics
    /// If anything isn't as it was.
    pub fn judge(&self, profile: Profile) {
        let file = self.capture();
        let capture = Capture::read(&file).expect("a capture");
        let Exchange {
            patched,
            tls,
            address,
            ..
        } = &self.exchange;
        rules::assert_good(&capture, &format!("{patched:?} {tls:?} {address}"));
        assert!(in_time_order(&file), "capinfos: not in order of time");
        assert_eq!(complaints(&file), [""; 0], "tshark objects");
        let times = capture.packets.iter().map(|packet| packet.at_ns);
        let (first, last) = (times.clone().min(), times.max());
        assert!(
            first >= Some(self.times_ns.0),
            "{first:?} is before the exchange"
        );
        assert!(
            last <= Some(self.times_ns.1),
            "{last:?} is after the exchange"
        );

        let flows = flows(&capture).expect("flows");
        let server = SocketAddr::new(self.exchange.address, self.port);
        for flow in &flows {
            assert_eq!(flow.server, server, "{flow:?}");
        }
        let (finished, aborted): (Vec<_>, Vec<_>) = self
            .exchange
            .transfers
            .iter()
            .partition(|transfer| transfer.abort_after.is_none());
        let truths: Vec<_> = finished
            .iter()
            .map(|transfer| (*transfer, transfer.truth(&self.place)))
            .collect();
        let mut rest: Vec<&Flow> = flows.iter().collect();
        for (transfer, truth) in &truths {
            let mine = |flow: &&Flow| flow.client.port() == truth.port;
            let index = rest.iter().position(mine);
            let index = index.unwrap_or_else(|| panic!("no flow of {}", transfer.name));
            self.compare(transfer, truth, rest.remove(index));
        }
        assert_eq!(rest.len(), aborted.len(), "flows that nobody knows");
        for (transfer, flow) in aborted.iter().zip(&rest) {
            self.compare_aborted(transfer, flow);
        }
        let aborted: Vec<_> = rest.iter().map(|flow| flow.client.port()).collect();
        self.ask_suricata(profile, &truths, &aborted, flows.len());
        self.ask_tshark(&truths);
    }

    fn compare(&self, transfer: &Transfer, truth: &Truth, flow: &Flow) {
        let name = &transfer.name;
        let response = flow.response.difference(&truth.response);
        assert_eq!(response, None, "{name}: response");
        if let Some(request) = &truth.request {
            let request = flow.request.difference(request);
            assert_eq!(request, None, "{name}: request");
        } else {
            let request = flow.request.whole().expect("no hole");
            let body = request.strip_prefix(&truth.request_heads[..]);
            let body = dechunk(body.expect("the request's head"));
            assert!(
                body.as_ref() == Some(&truth.transactions[0].sent),
                "{name}: body"
            );
        }
        self.compare_metadata(&flow.comment);
        // nginx's own view: what it stored, and how much it counted.
        let log = Nginx::read_log(&self.place);
        let lines: Vec<_> = log.iter().filter(|line| line.port == truth.port).collect();
        let received: u64 = lines.iter().map(|line| line.request_length).sum();
        let sent: u64 = lines.iter().map(|line| line.bytes_sent).sum();
        assert_eq!(flow.request.length(), received, "{name}: nginx received");
        assert_eq!(flow.response.length(), sent, "{name}: nginx sent");
        match transfer.upload {
            Upload::Post(size) if size > 0 => {
                let stored = std::fs::read(&lines[0].body_file).expect("nginx stored it");
                assert!(stored == content(size), "{name}: stored by nginx");
            }
            Upload::ChunkedPut(size) => {
                let stored = self.place.read(&format!("put/{size}"));
                assert!(stored == content(size), "{name}: stored by nginx");
            }
            _ => {}
        }
        let end = if transfer.url.starts_with("/close/") {
            End::ClosedByServer
        } else {
            End::ClosedByClient
        };
        assert_eq!(flow.end, end, "{name}");
    }

    /// What Wireshark shows beside a flow's first packet.
    fn compare_metadata(&self, comment: &str) {
        let version = match self.exchange.tls {
            Tls::V1_2 => "tls=TLSv1.2",
            Tls::V1_3 => "tls=TLSv1.3",
        };
        let words: Vec<_> = comment.split(' ').collect();
        let has = |wanted: &[&str]| wanted.iter().all(|wanted| words.contains(wanted));
        // nginx gives its library the socket; curl doesn't. A curl that has ended before the agent
        // could look has no name any more, but never a wrong one.
        let named = words.iter().find(|word| word.starts_with("process="));
        let client =
            has(&["role=client", "bound=wire"]) && named.is_none_or(|name| *name == "process=curl");
        let server = has(&["process=nginx", "role=server", "bound=socket"]);
        let told = match self.exchange.patched {
            Patched::Client => client,
            Patched::Server => server,
            Patched::Both => client || server,
        };
        assert!(
            told && has(&["sni=mirror.test", version]),
            "metadata: {comment}"
        );
    }

    fn compare_aborted(&self, transfer: &Transfer, flow: &Flow) {
        let name = &transfer.name;
        let request = transfer.request_head(&self.place);
        assert_eq!(flow.request.difference(&request), None, "{name}: request");
        let mut response = transfer.response_head(&self.place);
        let least = response.len() + transfer.abort_after.unwrap_or(0);
        let file = transfer.url.rsplit('/').next().unwrap_or_default();
        response.extend(self.place.read(&format!("www/{file}")));
        let difference = flow.response.difference_at_beginning(&response);
        assert_eq!(difference, None, "{name}: response");
        assert!(flow.response.length() >= least as u64, "{name}: too little");
        assert!(flow.response.whole().is_some(), "{name}: holes");
        assert_ne!(flow.end, End::Open, "{name}");
    }

    fn ask_suricata(
        &self,
        profile: Profile,
        truths: &[(&Transfer, Truth)],
        aborted: &[u16],
        flows: usize,
    ) {
        let verdict = Suricata.read(&self.capture(), profile, &self.place.path("judge"));
        assert_eq!(verdict.complaints(), [""; 0], "Suricata objects");
        assert_eq!(verdict.flow_states, vec!["closed"; flows]);
        let mut seen = verdict.http;
        seen.retain(|event| !aborted.contains(&event.port));
        let mut expected = Vec::new();
        for (_, truth) in truths {
            for transaction in &truth.transactions {
                expected.push(HttpEvent {
                    port: truth.port,
                    method: transaction.method.into(),
                    url: transaction.url.clone(),
                    status: transaction.status,
                    length: suricata_length(&transaction.url, &transaction.received),
                });
            }
        }
        seen.sort();
        expected.sort();
        let differs = seen
            .iter()
            .zip(&expected)
            .find(|(seen, expected)| seen != expected);
        assert_eq!(differs, None, "Suricata's http events");
        assert_eq!(seen.len(), expected.len(), "Suricata's http events");
        for file in verdict.files.iter().filter(|file| !file.gaps) {
            assert!(!file.url.is_empty());
        }
    }

    fn ask_tshark(&self, truths: &[(&Transfer, Truth)]) {
        let objects = exported_objects(&self.capture(), &self.place.path("objects"));
        for transaction in truths.iter().flat_map(|(_, truth)| &truth.transactions) {
            let received = body_of(&transaction.url, &transaction.received);
            for body in [&received, &transaction.sent] {
                let there = body.is_empty() || objects.values().any(|object| object == body);
                assert!(there, "tshark exports no body of {}", transaction.url);
            }
        }
    }
}

/// What Suricata takes for the length of a body: with the chunks' framing, but for the empty line that
/// ends it (RFC 9112 7.1: an empty trailer section).
fn suricata_length(url: &str, received: &[u8]) -> u64 {
    let empty_line = if url.starts_with("/chunked/") { 2 } else { 0 };
    received.len() as u64 - empty_line
}

/// A response's body without its framing.
fn body_of(url: &str, received: &[u8]) -> Vec<u8> {
    if url.starts_with("/chunked/") {
        dechunk(received).expect("whole chunks")
    } else {
        received.to_vec()
    }
}

fn capture_path(place: &Place) -> PathBuf {
    place.path("capture.pcapng")
}

fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.expect("a clock that is set").as_nanos()).expect("before the year 2554")
}
