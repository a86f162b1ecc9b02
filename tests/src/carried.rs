//! Programs whose TLS has a transport of their own, which another thread or process carries to a TCP connection:
//! `rustls-examples`' program `carried` and `tests/data/carried.c`, mirrored at one end or at both.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::bio::{fingerprints, good_flows, is_over, packet, segment, word};
use crate::network::{HOST, Listener, Network, PEER, ip};
use crate::place::Place;
use crate::process::{Process, run};
use crate::reader::Capture;
use crate::sslcollector::{binary, library_dir};
use crate::streams::Flow;

const PORT: u16 = 44_332;
/// As the programs say it.
const TEXT: &[u8] = b"carried by somebody else\n";

/// An end of the connections.
#[derive(Clone, Debug)]
pub struct End {
    /// What runs there,
    pub program: PathBuf,
    /// and what carries its bytes.
    pub way: &'static str,
    /// The patched library's directory, if it is to be mirrored.
    pub mirrored: Option<PathBuf>,
}

impl End {
    /// One that isn't mirrored.
    pub fn new(program: &Path, way: &'static str) -> Self {
        Self {
            program: program.to_owned(),
            way,
            mirrored: None,
        }
    }

    /// The same, mirrored; with the library for the machine's OpenSSL.
    #[must_use]
    pub fn mirrored(self) -> Self {
        Self {
            mirrored: Some(library_dir()),
            ..self
        }
    }

    fn command(&self, capture: &Path, interface: &str) -> (OsString, Vec<OsString>) {
        let own = [self.program.as_os_str(), self.way.as_ref()];
        let Some(library) = &self.mirrored else {
            return (own[0].to_owned(), vec![own[1].to_owned()]);
        };
        let mut words: Vec<OsString> = vec!["run".into(), "-w".into(), capture.into()];
        words.extend(["-I", interface, "--library-dir"].map(OsString::from));
        words.extend([library.into(), "--".into()]);
        words.extend(own.map(OsString::from));
        (binary().into(), words)
    }
}

/// What is to be said over how many connections.
#[derive(Clone, Debug)]
pub struct Talk<'a> {
    /// Who asks.
    pub client: End,
    /// Who answers.
    pub server: End,
    /// The one group that the server takes, or `any`.
    pub group: &'a str,
    /// What the client is told to do, one after another.
    pub steps: &'a [&'a str],
    /// How many connections that makes.
    pub connections: usize,
    /// What else the server is told: the file of its key for Encrypted Client Hello; `early`: to take 0-RTT data.
    pub more: &'a [&'a str],
}

/// What was said.
#[derive(Debug)]
pub struct Heard {
    /// The client's lines, of each connection its port and how it began; and the server's.
    pub lines: [Vec<String>; 2],
    /// What was mirrored at the client, and at the server.
    pub flows: [Vec<Flow>; 2],
    /// The lengths of the ClientHellos that began a packet.
    pub hellos: Vec<usize>,
    client: IpAddr,
    server: SocketAddr,
    ja4: HashMap<u16, String>,
}

impl Talk<'_> {
    /// Lets them talk, on a network of their own. A client alone that is mirrored, and both that are, have the client on
    /// the host; else the server is there.
    ///
    /// # Panics
    /// If they can't.
    pub fn heard(&self, place: &Place) -> Heard {
        let network = Network::new();
        // Else the veth pair carries in one what takes several packets.
        ip("link set wire0 gso_max_segs 1");
        let wire = place.path("wire.pcapng");
        let listener = Listener::start("wire0", &wire);
        let files = ["client.pcapng", "server.pcapng"].map(|name| place.path(name));
        let (own, peers) = match (&self.client.mirrored, &self.server.mirrored) {
            (None, Some(_)) => (PEER[0], HOST[0]),
            _ => (HOST[0], PEER[0]),
        };
        let server = SocketAddr::new(peers, PORT);
        let started = |end: &End, file: &Path, address: IpAddr| {
            let is_host = address == HOST[0];
            let (program, words) = end.command(file, if is_host { "wire0" } else { "wire1" });
            let mut command = match is_host {
                true => Command::new(program),
                false => network.in_peer(program),
            };
            command.args(words);
            command
        };
        let serving = started(&self.server, &files[1], peers);
        let serving = Serving::start(serving, place, server, self);
        let asked = ask(
            started(&self.client, &files[0], own),
            place,
            server,
            self.steps,
        );
        let answered = serving.end();
        let seen = listener.end(|capture| is_over(capture, self.connections));
        let flows = [(&self.client, &files[0]), (&self.server, &files[1])];
        let flows = flows.map(|(end, file)| match end.mirrored {
            Some(_) => good_flows(file),
            None => Vec::new(),
        });
        Heard {
            lines: [asked, answered],
            flows,
            hellos: hellos(&seen),
            client: own,
            server,
            ja4: fingerprints(place, &wire, &PORT.to_string()),
        }
    }
}

impl Heard {
    /// The flow is the connection that the program told of by this line: with its addresses, found on the wire, the
    /// fingerprint that Suricata finds, and all that was said. How it began.
    ///
    /// # Panics
    /// If it isn't.
    pub fn judge<'l>(&self, flow: &Flow, line: &'l str, what: &str) -> &'l str {
        let what = format!("{line} {what}: {}", flow.comment);
        let (port, how) = line.split_once(' ').expect("a port and how");
        assert_eq!(word(flow, "bound"), Some("wire"), "{what}");
        assert_eq!(flow.client.ip(), self.client, "{what}");
        assert_eq!(flow.client.port().to_string(), port, "{what}");
        assert_eq!(flow.server, self.server, "{what}");
        let ja4 = self.ja4.get(&flow.client.port()).map(String::as_str);
        assert!(ja4.is_some() && word(flow, "ja4") == ja4, "{ja4:?} {what}");
        assert_eq!(flow.request.whole(), Some(TEXT), "{what}");
        assert_eq!(flow.response.whole(), Some(TEXT), "{what}");
        how
    }
}

/// A server and what it says of its connections once it has had all.
struct Serving {
    process: Process,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Serving {
    fn start(mut command: Command, place: &Place, address: SocketAddr, talk: &Talk<'_>) -> Self {
        command.arg("server").arg(place.path("cert.pem"));
        command.arg(place.path("key.pem")).arg(address.to_string());
        command.args([talk.group, &talk.connections.to_string()]);
        command.args(talk.more);
        let mut process = Process::start(command.stdout(Stdio::piped()));
        let mut lines = BufReader::new(process.stdout().expect("a pipe")).lines();
        let first = lines.next().expect("a line").expect("text");
        assert_eq!(first, format!("listening on {address}"));
        Self { process, lines }
    }

    fn end(mut self) -> Vec<String> {
        let lines = self.lines.map(|line| line.expect("text")).collect();
        assert!(self.process.wait().success());
        lines
    }
}

fn ask(mut command: Command, place: &Place, address: SocketAddr, steps: &[&str]) -> Vec<String> {
    command.arg("client").arg(place.path("cert.pem"));
    let output = run(command.arg(address.to_string()).args(steps));
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{complaint}");
    said.lines().map(str::to_owned).collect()
}

/// The ClientHellos' lengths, of those that begin a packet.
fn hellos(wire: &Capture) -> Vec<usize> {
    let frames = wire.packets.iter();
    let lengths = frames.filter_map(|one| {
        let segment = segment(packet(&one.frame)?.0)?;
        let payload = segment.get(usize::from(segment[12] >> 4) * 4..)?;
        let is_hello = payload.first() == Some(&22) && payload.get(5) == Some(&1);
        is_hello.then(|| 5 + usize::from(u16::from_be_bytes([payload[3], payload[4]])))
    });
    lengths.collect()
}
