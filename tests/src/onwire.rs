//! nginx that is mirrored on a network of a test's own, and what monitors see there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::{ChildStdin, ChildStdout, Stdio};

use rustix::process::Signal;

use crate::curl::{Tls, Transfer};
use crate::decode::Segment;
use crate::network::{HOST_WORDS, Network};
use crate::nginx::{Nginx, Options};
use crate::place::{HOST as NAME, Place};
use crate::process::{Process, output_of, send, until};
use crate::reader::Capture;
use crate::rules::{self, Rule};
use crate::sslcollector;

/// nginx below `sslcollector run`, in the network's host.
#[derive(Debug)]
pub struct Mirrored<'a> {
    /// The service.
    pub nginx: Nginx<'a>,
    /// `sslcollector run`.
    pub process: Process,
    place: &'a Place,
}

impl<'a> Mirrored<'a> {
    /// With these options besides `-w capture.pcapng`.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start(place: &'a Place, options: &[&str]) -> Self {
        let options_of_nginx = Options {
            addresses: HOST_WORDS,
            ..Options::default()
        };
        let nginx = Nginx::with(place, options_of_nginx);
        let capture = place.path("capture.pcapng");
        let mut command =
            sslcollector::run_to(&capture, &[&["--ring-size", "64M"], options].concat());
        command.args(nginx.command(false));
        command.stderr(File::create(place.path("said")).expect("a file"));
        let process = Process::start(&mut command);
        nginx.wait_until_up();
        Self {
            nginx,
            process,
            place,
        }
    }

    /// What sslcollector has said so far.
    pub fn said(&self) -> String {
        self.place.text("said")
    }

    /// Waits until sslcollector has said these words so often.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn wait_for(&self, words: &str, times: usize) {
        until(words, || {
            (self.said().matches(words).count() == times).then_some(())
        });
    }

    /// Waits until the packets of so many bytes of clear text are on their way.
    ///
    /// # Panics
    /// If they aren't.
    pub fn wait_until_sent(&self, bytes: u64) {
        until("packets on the interface", || {
            send(self.process.id(), Signal::USR1);
            (clear_text(&self.said())? >= bytes).then_some(())
        });
    }

    /// Ends it; the capture file.
    ///
    /// # Panics
    /// If it doesn't end well.
    pub fn end(mut self) -> Capture {
        self.nginx.quit();
        let status = self.process.wait();
        assert!(status.success(), "{status}: {}", self.said());
        Capture::read(&self.place.path("capture.pcapng")).expect("a capture")
    }

    /// One transfer from the peer.
    pub fn fetch(&self, network: &Network, transfer: &Transfer, address: IpAddr) {
        let script = transfer.script(self.place, (address, self.nginx.port), Tls::V1_3);
        output_of(network.in_peer("sh").args(["-c", &script]));
    }
}

/// Bytes of clear text that an agent has put out, by the last report in what it said.
pub fn clear_text(said: &str) -> Option<u64> {
    // A report's first line: others tell of clear text that is missing.
    let count = said.lines().rev().find_map(|line| {
        let (before, _) = line.split_once(" bytes of clear text")?;
        let (sessions, count) = before.rsplit_once(", ")?;
        sessions.contains(" process").then_some(count)
    });
    count?.parse().ok()
}

/// The frames of each direction, in their order; without what the interface's own hosts say (MLD, ARP).
///
/// # Panics
/// If there is another one.
pub fn by_direction(capture: &Capture) -> BTreeMap<(SocketAddr, SocketAddr), Vec<&[u8]>> {
    let mut directions: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for packet in &capture.packets {
        let segment = Segment::decode(&packet.frame).expect("a forged frame");
        let ends = (segment.source, segment.destination);
        directions.entry(ends).or_default().push(&packet.frame[..]);
    }
    directions
}

/// As the rules have it; comments are the file's alone.
///
/// # Panics
/// If not.
pub fn assert_good_on_wire(capture: &Capture, what: &str) {
    let violations = rules::check(capture).into_iter();
    let others: Vec<_> = violations
        .filter(|one| one.rule != Rule::Comment)
        .take(8)
        .collect();
    assert!(others.is_empty(), "{what}: {others:#?}");
}

/// One connection, on which the test says when a request comes.
#[derive(Debug)]
pub struct Connection {
    requests: ChildStdin,
    answers: ChildStdout,
    port: u16,
    _process: Process,
}

impl Connection {
    /// Connects from the peer.
    ///
    /// # Panics
    /// If there is no openssl.
    pub fn open(network: &Network, port: u16) -> Self {
        let mut client = network.in_peer("openssl");
        client.args([
            "s_client",
            "-quiet",
            "-connect",
            &format!("10.7.0.1:{port}"),
        ]);
        client.stdout(Stdio::piped()).stderr(Stdio::null());
        let (mut process, requests) = Process::start_fed(&mut client);
        Self {
            requests,
            answers: process.stdout().expect("a pipe"),
            port,
            _process: process,
        }
    }

    /// One request, and its whole answer.
    ///
    /// # Panics
    /// If it doesn't come.
    pub fn get(&mut self, size: usize) {
        let request = format!(
            "GET /get/{size} HTTP/1.1\r\nHost: {NAME}:{}\r\n\r\n",
            self.port
        );
        self.requests
            .write_all(request.as_bytes())
            .expect("a request");
        let mut answer = Vec::new();
        let head = |answer: &[u8]| answer.windows(4).position(|four| four == b"\r\n\r\n");
        while head(&answer).is_none_or(|head| answer.len() < head + 4 + size) {
            let mut some = [0; 65_536];
            let count = self.answers.read(&mut some).expect("an answer");
            assert!(count > 0, "the server has closed");
            answer.extend(&some[..count]);
        }
    }
}
