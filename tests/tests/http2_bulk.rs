//! A large download by HTTP/2 and small requests beside it, shown as HTTP/1.1 while they come: nothing waits for the download,
//! and nothing of it is kept.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use mirror_tests::bio::data;
use mirror_tests::client::PYTHON;
use mirror_tests::examples::sha256;
use mirror_tests::footprint::peak_bytes;
use mirror_tests::growing::{Growing, Talk, pieces};
use mirror_tests::http1::{requests, responses};
use mirror_tests::lanes::HTTP1;
use mirror_tests::nginx::{Nginx, Options};
use mirror_tests::place::{Place, content};
use mirror_tests::process::Process;
use mirror_tests::service::Agent;

const MIB: usize = 1 << 20;
const LARGE_BYTES: usize = 1 << 30;
const SMALL_BYTES: usize = 1000;
const SMALL: usize = 100;
/// So much of the download is under way at most: the ring, of 32 MiB, has room for it, however late its agent looks.
const AHEAD_BYTES: usize = 16 * MIB;
/// So much more of it may come at a time.
const STEP_BYTES: usize = 4 * MIB;
/// What the agent's memory may grow by while all of it passes: its ring, the window in which packets wait for earlier ones, and
/// what is on its way to standard output.
const GROWTH_BYTES: u64 = 256 * MIB as u64;
/// Where the large file says where that is.
const MARK_EVERY: usize = 50_021;

/// `tests/data/held.py`.
struct Client {
    process: Process,
    orders: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Client {
    fn start(port: u16) -> Self {
        let mut python = Command::new(PYTHON);
        python.arg(data("held.py")).arg(port.to_string());
        let (mut process, orders) = Process::start_fed(python.stdout(Stdio::piped()));
        let said = BufReader::new(process.stdout().expect("a pipe"));
        Self {
            process,
            orders,
            said,
        }
    }

    fn order(&mut self, line: &str) {
        writeln!(self.orders, "{line}").expect("a client that listens");
    }

    /// What it says next: a stream, its length and its hash.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("a line");
        line
    }
}

/// What has come out of the download, and its hash.
struct Download {
    sum: Process,
    to: Option<ChildStdin>,
    head: Vec<u8>,
    bytes: usize,
}

impl Download {
    fn new() -> Self {
        let mut sum = Command::new("sha256sum");
        let (sum, to) = Process::start_fed(sum.stdout(Stdio::piped()));
        Self {
            sum,
            to: Some(to),
            head: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes what has been said more.
    fn take(&mut self, talk: &mut Talk) {
        let mut text = std::mem::take(&mut talk.said[1]);
        if self.bytes == 0 {
            self.head.append(&mut text);
            let end = self.head.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(end) = end {
                text = self.head.split_off(end + 4);
            }
        }
        self.bytes += text.len();
        let to = self.to.as_mut().expect("a pipe");
        to.write_all(&text).expect("sha256sum");
    }

    fn sha256(mut self) -> String {
        drop(self.to.take());
        let mut line = String::new();
        let said = self.sum.stdout().expect("a pipe");
        BufReader::new(said).read_line(&mut line).expect("a line");
        line.split(' ').next().unwrap_or_default().to_owned()
    }
}

/// How many small requests have come out with their answers.
fn small_ones(talks: &[Talk]) -> usize {
    let whole = talks.iter().map(|talk| {
        let asked = requests(&talk.said[0]).unwrap_or_default();
        let answered = responses(&talk.said[1]).unwrap_or_default();
        let pairs = asked.iter().zip(&answered);
        let small = pairs.filter(|(request, response)| {
            request.line == format!("GET /get/{SMALL_BYTES}")
                && response.content == content(SMALL_BYTES)
        });
        small.count()
    });
    whole.sum()
}

#[test]
fn nothing_waits_for_a_large_download() {
    let place = Place::new(&[SMALL_BYTES]);
    let file = place.path(&format!("www/{LARGE_BYTES}"));
    let large = File::create(&file).expect("a file");
    large.set_len(LARGE_BYTES as u64).expect("a large file");
    for place in (0..LARGE_BYTES - 8).step_by(MARK_EVERY) {
        let mark = (place as u64).to_be_bytes();
        large.write_all_at(&mark, place as u64).expect("room");
    }
    let options = [&HTTP1[..], &["-w", "-"]].concat();
    let mut agent = Agent::printing(&place, &options, Stdio::piped());
    let capture = pieces(agent.process.stdout().expect("a pipe"));
    let options = Options {
        http2: true,
        ..Options::default()
    };
    let nginx = Nginx::with(&place, options);
    nginx.start_with(|command| agent.prepare(command));
    let mut seen = Growing::default();
    // Until nginx has its ring, little may be said.
    let mut first = Client::start(nginx.port);
    first.order(&format!("get /get/{SMALL_BYTES}"));
    while small_ones(&seen.talks) == 0 {
        assert!(seen.read(&capture), "{}", agent.said());
    }
    first.order("end");
    let mut download = Download::new();
    let mut client = Client::start(nginx.port);

    // The client lets a mebibyte come, and nothing more until it is told to.
    client.order(&format!("get /get/{LARGE_BYTES}"));
    while download.bytes < MIB {
        assert!(seen.read(&capture), "{}", agent.said());
        if let Some(talk) = seen.talks.get_mut(1) {
            download.take(talk);
        }
    }
    for _ in 0..SMALL {
        client.order(&format!("get /get/{SMALL_BYTES}"));
    }
    for _ in 0..SMALL {
        let said = client.hear();
        assert!(said.contains(&format!(" {SMALL_BYTES} ")), "{said}");
    }
    // The download stands still while they come out.
    while small_ones(&seen.talks[2..]) < SMALL {
        assert!(seen.read(&capture), "{}", agent.said());
    }
    download.take(&mut seen.talks[1]);
    assert_eq!(download.bytes, MIB);

    let before = peak_bytes(agent.process.id());
    let mut permitted = MIB;
    while download.bytes < LARGE_BYTES {
        while permitted < LARGE_BYTES && permitted < download.bytes + AHEAD_BYTES {
            client.order(&format!("more 1 {STEP_BYTES}"));
            permitted += STEP_BYTES;
        }
        assert!(seen.read(&capture), "{}", agent.said());
        download.take(&mut seen.talks[1]);
    }
    let said = client.hear();
    client.order("end");
    assert!(client.process.wait().success());
    let peak = peak_bytes(agent.process.id());
    nginx.quit();
    agent.signal(rustix::process::Signal::TERM);
    while seen.read(&capture) {}
    let report = agent.end_well();

    let sum = sha256(&file);
    assert_eq!(said, format!("1 {LARGE_BYTES} {sum}\n"));
    assert_eq!((download.bytes, download.sha256()), (LARGE_BYTES, sum));
    assert!(peak < before + GROWTH_BYTES, "{before} bytes, then {peak}");
    assert_eq!(small_ones(&seen.talks[2..]), SMALL, "{report}");
    let asked = requests(&seen.talks[1].said[0]).expect("requests");
    assert_eq!(asked.len(), 1, "the download's own");
    assert!(
        !report.contains("LOST") && !report.contains("shown as frames"),
        "{report}"
    );
}
