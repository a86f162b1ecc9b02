//! Clients that talk until it is enough, while something happens to whoever mirrors them; and what of it all is
//! in captures: each byte at its place, in one flow or in several that follow one another.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::client;
use crate::place::Place;
use crate::process::{Process, until};
use crate::sslcollector::library_dir;
use crate::streams::{Flow, Stream};

/// What programs hear between two looks, at least.
const BETWEEN: u64 = 20_000;

/// Clients with the patched library, each with a directory of its own for what it says and hears.
#[derive(Debug)]
pub struct Talkers<'p> {
    place: &'p Place,
    port: u16,
    clients: Vec<Client>,
    started: usize,
}

#[derive(Debug)]
struct Client {
    directory: PathBuf,
    process: Process,
}

/// What a connection said and heard.
#[derive(Debug)]
pub struct Truth {
    /// Which client's, and the how manyth of its connections, which come one after another.
    pub place: (usize, usize),
    /// All that was said.
    pub sent: Vec<u8>,
    /// All that was heard.
    pub received: Vec<u8>,
}

/// Connections by the port of the client. Of a port that the kernel gave twice it isn't known which flow is
/// whose: `None`.
pub type Truths = BTreeMap<u16, Option<Truth>>;

impl<'p> Talkers<'p> {
    /// None yet. They ask the server at `port`, and the agent at `run/agent.sock` of the place.
    pub fn new(place: &'p Place, port: u16) -> Self {
        Self {
            place,
            port,
            clients: Vec::new(),
            started: 0,
        }
    }

    /// Starts one that takes these steps of `client.py`.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(&mut self, steps: &[&str]) {
        let directory = self.place.path(&format!("out/{}", self.started));
        self.started += 1;
        fs::create_dir(&directory).expect("make a directory");
        let mut words = client::words(self.place, self.port, steps);
        words[3] = directory.display().to_string();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", self.place.path("run/agent.sock"));
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
        // What it prints is more than a pipe holds.
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let process = Process::start(&mut command);
        self.clients.push(Client { directory, process });
    }

    /// Until all clients have heard more.
    ///
    /// # Panics
    /// If they don't.
    pub fn until_they_go_on(&self) {
        let heard = |client: &Client| -> u64 {
            let files = (1..).map(|number| client.directory.join(format!("received.{number}")));
            files
                .map_while(|file| fs::metadata(file).ok())
                .map(|file| file.len())
                .sum()
        };
        let before: Vec<_> = self.clients.iter().map(heard).collect();
        until("programs that go on", || {
            let mut all = self.clients.iter().zip(&before);
            all.all(|(client, before)| heard(client) > before + BETWEEN)
                .then_some(())
        });
    }

    /// Tells the first one that it is enough, and waits for its end.
    ///
    /// # Panics
    /// If there is none, or it doesn't end.
    pub fn end_first(&mut self) {
        let client = &mut self.clients[0];
        fs::write(client.directory.join("enough"), "").expect("say that it is enough");
        client.process.wait();
    }

    /// All end; what they said.
    ///
    /// # Panics
    /// If one doesn't end well.
    pub fn end(&mut self) -> Truths {
        let mut all = BTreeMap::new();
        for client in &self.clients {
            fs::write(client.directory.join("enough"), "").expect("say that it is enough");
        }
        for (index, client) in std::mem::take(&mut self.clients).into_iter().enumerate() {
            let output = client.process.output();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {said}", output.status);
            for number in 1.. {
                let read = |name: &str| fs::read(client.directory.join(format!("{name}.{number}")));
                let (Ok(port), Ok(sent), Ok(received)) =
                    (read("port"), read("sent"), read("received"))
                else {
                    break;
                };
                let port: u16 = String::from_utf8_lossy(&port).parse().expect("a port");
                let place = (index, number);
                let truth = Some(Truth {
                    place,
                    sent,
                    received,
                });
                all.entry(port)
                    .and_modify(|truth| *truth = None)
                    .or_insert(truth);
            }
        }
        all
    }
}

/// What became of a connection: what is missing of it, and in how many flows it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// See [`Truth::place`].
    pub place: (usize, usize),
    /// Bytes that are in no flow.
    pub missing: u64,
    /// … of these behind all flows.
    pub tail: u64,
    /// Bytes that a flow has and one before it had, too.
    pub repeated: u64,
    /// Its flows.
    pub flows: usize,
}

/// Looks whether the flows of each connection, one behind the other, are what it said. In the order of the clients
/// and their connections.
///
/// # Panics
/// If a byte is wrong, or a flow belongs to no connection.
pub fn judge(flows: &[Flow], truths: &Truths) -> Vec<Seen> {
    let ports = flows.iter().map(|flow| flow.client.port());
    for port in ports {
        assert!(truths.contains_key(&port), "a flow from nowhere: {port}");
    }
    let of = |port: u16| -> Vec<&Flow> {
        let ours = flows.iter().filter(|flow| flow.client.port() == port);
        ours.collect()
    };
    let known = truths
        .iter()
        .filter_map(|(port, truth)| Some((port, truth.as_ref()?)));
    let mut seen: Vec<_> = known.map(|(port, truth)| look(&of(*port), truth)).collect();
    seen.sort_by_key(|seen| seen.place);
    seen
}

/// What of the text found the ring full, as an agent says at its end: a program may say more than fits before the
/// agent has looked at it, on a machine with much else to do.
pub fn found_ring_full(said: &str) -> u64 {
    let before = said.rsplit_once(" bytes found the ring full");
    let number = before.and_then(|(before, _)| before.rsplit([' ', ',']).next());
    number.map_or(0, |number| number.parse().expect("a number of bytes"))
}

/// The bytes that an agent's last report calls lost, wherever they were; `None`: it says nothing of that.
pub fn lost(said: &str) -> Option<u64> {
    let report = said
        .lines()
        .rev()
        .find(|line| line.contains(" process") && line.contains(" of clear text"))?;
    let (before, _) = report.split_once(" LOST")?;
    before.rsplit(", ").next()?.split(' ').next()?.parse().ok()
}

/// What is missing of all that was seen is what is `told` to be, by whoever `said` this; no more than that, where the
/// kernel gave a port twice, since it isn't known what is missing of those connections.
///
/// # Panics
/// If it isn't.
pub fn assert_missing(seen: &[Seen], truths: &Truths, told: u64, said: &str) {
    let missing: u64 = seen.iter().map(|seen| seen.missing).sum();
    let all_known = truths.values().all(Option::is_some);
    let right = missing == told || !all_known && missing < told;
    assert!(right, "{missing}, not {told}: {seen:?}: {said}");
}

fn look(flows: &[&Flow], truth: &Truth) -> Seen {
    let mut seen = Seen {
        place: truth.place,
        ..Seen::default()
    };
    let mut at = (0, 0);
    for flow in flows {
        seen.flows += 1;
        let bases = base(flow);
        let streams: [(&Stream, &[u8], u64, &mut u64); 2] = [
            (&flow.request, &truth.sent, bases.0, &mut at.0),
            (&flow.response, &truth.received, bases.1, &mut at.1),
        ];
        for (stream, truth, base, at) in streams {
            let comment = &flow.comment;
            let from = usize::try_from(base).expect("a length");
            let truth = truth.get(from..).expect("no more than was said");
            let difference = stream.difference_at_beginning(truth);
            assert_eq!(difference, None, "{comment}");
            seen.missing += base.saturating_sub(*at) + stream.missing();
            seen.repeated += at.saturating_sub(base);
            *at = (*at).max(base + stream.length());
        }
    }
    seen.tail = truth.sent.len() as u64 - at.0 + truth.received.len() as u64 - at.1;
    seen.missing += seen.tail;
    seen
}

/// Where in the session a flow begins: client, server.
fn base(flow: &Flow) -> (u64, u64) {
    let offset = |name: &str| {
        let word = flow
            .comment
            .split(' ')
            .find_map(|word| word.strip_prefix(name));
        word.map_or(0, |number| number.parse().expect("an offset"))
    };
    let bases = (offset("client_offset="), offset("server_offset="));
    // Of another agent's session, or begun anew in another file.
    let goes_on = ["continued=yes", "restarted="];
    if !goes_on.iter().any(|words| flow.comment.contains(words)) {
        assert_eq!(bases, (0, 0), "{}", flow.comment);
    }
    bases
}
