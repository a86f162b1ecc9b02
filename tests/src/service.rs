//! A service with the patched library, mirrored as a whole: its processes, whatever users and roots they
//! change to, below `sslcollector run` or served by an agent; and its clients, which have the
//! distribution's library and tell the truth.

use std::fs::{File, Permissions};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::curl::{Tls, Transfer, Truth, Upload, size_of};
use crate::place::{Place, content};
use crate::process::{Process, listens, until};
use crate::reader::Capture;
use crate::rules;
use crate::sslcollector::{library_dir, run_to, serve_at};
use crate::streams::{Flow, flows};

/// A program that serves TLS in the foreground.
#[derive(Clone, Debug)]
pub struct Service {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// Where it listens.
    pub port: u16,
    /// What ends it in good order.
    pub end: Signal,
    /// The exit status that it has then; 128 + N where signal N ends it.
    pub status: i32,
    /// Where its complaints are, if not on standard error.
    pub log: Option<PathBuf>,
}

/// How a service is mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By `sslcollector run`, with a ring of this size for each process, all of which may be used from the
    /// first byte on: whatever fits there is exact, however late the agent looks.
    Run(&'static str),
    /// By an agent that serves, with the default ring: what doesn't fit is declared.
    Serve,
}

/// A service that runs.
#[derive(Debug)]
pub struct Mirrored<'a> {
    place: &'a Place,
    /// `sslcollector run`, or the service itself.
    main: Process,
    agent: Option<Process>,
    service: Service,
}

/// What was mirrored of a service that has ended.
#[derive(Debug)]
pub struct Seen {
    /// The flows of the capture, which keeps all rules.
    pub flows: Vec<Flow>,
    /// What sslcollector said.
    pub said: String,
}

impl Service {
    /// Starts it, and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start<'a>(&self, place: &'a Place, how: How) -> Mirrored<'a> {
        let mirrored = match how {
            How::Run(ring) => self.start_with(place, &["--ring-size", ring]),
            How::Serve => {
                let agent = Agent::start(place, &place.path("capture.pcapng"), &[]);
                let mut main = Command::new("env");
                agent.prepare(&mut main);
                self.start_below(place, main, Some(agent.process))
            }
        };
        // Whoever shakes hands while another thread asks for the agent isn't mirrored: here somebody who says nothing has it ask.
        let asked = std::net::TcpStream::connect(("127.0.0.1", self.port));
        asked.expect("a service that listens");
        mirrored
    }

    /// Starts it below `sslcollector run` with these options besides its capture, and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start_with<'a, S: AsRef<str>>(&self, place: &'a Place, options: &[S]) -> Mirrored<'a> {
        let options: Vec<_> = options.iter().map(S::as_ref).collect();
        let main = run_to(&place.path("capture.pcapng"), &options);
        self.start_below(place, main, None)
    }

    fn start_below<'a>(
        &self,
        place: &'a Place,
        mut main: Command,
        agent: Option<Process>,
    ) -> Mirrored<'a> {
        let said = File::create(place.path("said")).expect("a file");
        main.args(&self.words).stdout(Stdio::null()).stderr(said);
        // Apache signals its whole process group at its end.
        main.process_group(0);
        let mut mirrored = Mirrored {
            place,
            main: Process::start(&mut main),
            agent,
            service: self.clone(),
        };
        until("the service listens", || {
            let ended = mirrored.main.ended();
            assert!(!ended, "{:?}: {}", self.words, self.complaints(place));
            listens(self.port).then_some(())
        });
        mirrored
    }

    fn complaints(&self, place: &Place) -> String {
        let log = self.log.as_ref().map(std::fs::read_to_string);
        log.and_then(Result::ok).unwrap_or_default() + &place.text("said")
    }
}

/// An agent that serves, in a place that other users may enter.
#[derive(Debug)]
pub struct Agent {
    /// In front of the process, which its end kills.
    _report: Report,
    /// The process.
    pub process: Process,
    socket: PathBuf,
    said: PathBuf,
}

/// Where a test fails, what its agent counted is in what the test says.
#[derive(Debug)]
struct Report {
    agent: u32,
    said: PathBuf,
}

impl Drop for Report {
    fn drop(&mut self) {
        let state = || std::fs::read_to_string(format!("/proc/{}/stat", self.agent));
        // Nobody has waited for it yet, so the number is its own.
        let runs = || state().is_ok_and(|state| !state.contains(") Z "));
        if !std::thread::panicking() || !runs() {
            return;
        }
        crate::process::send(self.agent, Signal::TERM);
        let patience = (0..100).take_while(|_| runs());
        patience.for_each(|_| std::thread::sleep(std::time::Duration::from_millis(50)));
        let said = std::fs::read_to_string(&self.said).unwrap_or_default();
        eprintln!("the agent, ended by its failed test: {said}");
    }
}

impl Agent {
    /// Starts one, and waits until it listens. The socket is the same for each agent of a place.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start(place: &Place, capture: &Path, options: &[&str]) -> Self {
        let capture = capture.display().to_string();
        Self::sending(place, &[&["-w", &capture], options].concat())
    }

    /// The same, with the outputs that the options name.
    ///
    /// # Panics
    /// As above.
    pub fn sending(place: &Place, options: &[&str]) -> Self {
        Self::printing(place, options, Stdio::null())
    }

    /// The same, with a standard output.
    ///
    /// # Panics
    /// As above.
    pub fn printing(place: &Place, options: &[&str], stdout: Stdio) -> Self {
        open_to_others(place);
        let socket = place.path("run/agent.sock");
        std::fs::create_dir_all(place.path("run")).expect("make a directory");
        let said = place.path("agent.said");
        let mut command = serve_at(&socket);
        command.args(options).stdout(stdout);
        command.stderr(File::create(&said).expect("a file"));
        let process = Process::start(&mut command);
        let mut agent = Self {
            _report: Report {
                agent: process.id(),
                said: said.clone(),
            },
            process,
            socket,
            said,
        };
        until("the agent listens", || {
            let said = agent.said();
            assert!(!agent.process.ended(), "the agent: {said}");
            said.contains("serving programs").then_some(())
        });
        agent
    }

    /// Lets a program ask for this agent, with the patched library.
    pub fn prepare(&self, command: &mut Command) {
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", &self.socket);
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Ends it; all that it has said.
    ///
    /// # Panics
    /// If it doesn't end well.
    pub fn end_well(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.process.wait();
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// What it has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.said).unwrap_or_default()
    }
}

impl Mirrored<'_> {
    /// Sends a signal to the service, through `sslcollector run` if that is there.
    pub fn signal(&self, signal: Signal) {
        self.main.signal(signal);
    }

    /// Ends the service, then who mirrors it.
    ///
    /// # Panics
    /// If either doesn't end well, or the capture isn't a good one.
    pub fn end(mut self) -> Seen {
        self.main.signal(self.service.end);
        let status = self.main.wait();
        let mut said = self.place.text("said");
        let code = status.code().or(status.signal().map(|signal| 128 + signal));
        assert_eq!(code, Some(self.service.status), "{status}: {said}");
        if let Some(mut agent) = self.agent.take() {
            agent.signal(Signal::TERM);
            assert!(agent.wait().success());
            said = self.place.text("agent.said");
        }
        Seen::read(self.place, said)
    }
}

/// Lets other users into the directory: services serve its files as such.
///
/// # Panics
/// If it isn't ours.
pub fn open_to_others(place: &Place) {
    let open = Permissions::from_mode(0o755);
    std::fs::set_permissions(place.directory(), open).expect("let others in");
}

/// Clients that run side by side, each of which makes its transfers one after another.
#[derive(Debug)]
pub struct Clients<'a> {
    place: &'a Place,
    transfers: Vec<Transfer>,
    shells: Vec<Process>,
}

/// How many clients there are at a time.
const AT_A_TIME: usize = 8;

/// One connection in five has the older version.
pub const MOSTLY_1_3: [Tls; 5] = [Tls::V1_3, Tls::V1_3, Tls::V1_3, Tls::V1_3, Tls::V1_2];

impl<'a> Clients<'a> {
    /// Each of `transfers` `rounds` times, by curl with the distribution's library.
    pub fn start(place: &'a Place, port: u16, transfers: &[Transfer], rounds: usize) -> Self {
        let numbered = transfers.iter().cycle().take(transfers.len() * rounds);
        let transfers: Vec<_> = numbered
            .enumerate()
            .map(|(number, transfer)| Transfer {
                name: format!("{number}-{}", transfer.name),
                ..transfer.clone()
            })
            .collect();
        let server = (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        Self::start_by(place, || Command::new("sh"), server, &MOSTLY_1_3, transfers)
    }

    /// Each of `transfers`, whose names are their own, by shells that are started elsewhere or with another
    /// library, with these versions of TLS in turn;
    /// with none in clear.
    pub fn start_by(
        place: &'a Place,
        shell: impl Fn() -> Command,
        server: (IpAddr, u16),
        tls: &[Tls],
        transfers: Vec<Transfer>,
    ) -> Self {
        let shells = (0..AT_A_TIME).map(|client| {
            let mine = transfers.iter().enumerate().skip(client).step_by(AT_A_TIME);
            let script: String = mine
                .map(|(number, transfer)| {
                    let tls = tls.get(number % tls.len().max(1)).copied();
                    transfer.script(place, server, tls)
                })
                .collect();
            Process::start(shell().args(["-c", &script]))
        });
        let shells = shells.collect();
        Self {
            place,
            transfers,
            shells,
        }
    }

    /// Waits until so many transfers have been made.
    ///
    /// # Panics
    /// If they aren't.
    pub fn wait_for(&self, count: usize) {
        let done = |transfer: &&Transfer| {
            let info = self.place.path(&format!("out/{}.info", transfer.name));
            std::fs::metadata(info).is_ok_and(|file| file.len() > 0)
        };
        until("transfers", || {
            (self.transfers.iter().filter(done).count() >= count).then_some(())
        });
    }

    /// Waits until all have been made; what the clients say of them.
    ///
    /// # Panics
    /// If one failed.
    pub fn truths(self) -> Vec<(Transfer, Truth)> {
        for mut shell in self.shells {
            assert!(shell.wait().success(), "a transfer failed");
        }
        let truths = self.transfers.into_iter().map(|transfer| {
            let truth = transfer.truth(self.place);
            for transaction in &truth.transactions {
                assert_eq!(transaction.status, 200, "{}", transfer.name);
                if transfer.upload == Upload::None {
                    let whole = transaction.received == content(size_of(&transfer.url));
                    assert!(whole, "{}: curl received something else", transfer.name);
                }
            }
            (transfer, truth)
        });
        truths.collect()
    }
}

impl Seen {
    /// What is in the capture of a place, where sslcollector has ended with these words.
    ///
    /// # Panics
    /// If it isn't a good one.
    pub fn read(place: &Place, said: String) -> Self {
        let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
        rules::assert_good(&capture, &said);
        Self {
            flows: flows(&capture).expect("flows"),
            said,
        }
    }

    /// Each transfer is a flow of its own, whole, and there is no other; `words` are in the comment of each.
    ///
    /// # Panics
    /// If not.
    pub fn assert_exact(&self, truths: &[(Transfer, Truth)], words: &[&str]) {
        for (transfer, truth) in truths {
            let flow = self.compare(transfer, truth, words);
            let missing = flow.request.missing() + flow.response.missing();
            assert_eq!(missing, 0, "{}: {}", transfer.name, self.said);
            let length = truth.response.len() as u64;
            assert_eq!(
                flow.response.length(),
                length,
                "{}: {}",
                transfer.name,
                self.said
            );
        }
        assert_eq!(self.flows.len(), truths.len(), "flows: {}", self.said);
    }

    /// As [`Seen::assert_exact`], but what is missing is declared: by a gap, and by a comment at the end of a
    /// stream. No byte is wrong.
    ///
    /// # Panics
    /// If not.
    pub fn assert_exact_or_declared(&self, truths: &[(Transfer, Truth)], words: &[&str]) {
        for (transfer, truth) in truths {
            self.compare(transfer, truth, words);
        }
        assert_eq!(self.flows.len(), truths.len(), "flows: {}", self.said);
    }

    fn compare(&self, transfer: &Transfer, truth: &Truth, words: &[&str]) -> &Flow {
        let name = &transfer.name;
        let mut mine = self
            .flows
            .iter()
            .filter(|flow| flow.client.port() == truth.port);
        let flow = mine
            .next()
            .unwrap_or_else(|| panic!("no flow of {name}: {}", self.said));
        assert!(mine.next().is_none(), "{name}: two flows with one port");
        let request = truth
            .request
            .as_deref()
            .expect("a request of known framing");
        let sides = [
            ("client", &flow.request, request),
            ("server", &flow.response, &truth.response[..]),
        ];
        for (side, stream, truth) in sides {
            let difference = stream.difference_at_beginning(truth);
            assert_eq!(difference, None, "{name}: {side}");
            let tail = truth.len() as u64 - stream.length();
            let told = format!("{side}_missing={tail}");
            let comment = &flow.end_comment;
            assert!(
                tail == 0 || comment.contains(&told),
                "{name}: {told} isn't in: {comment}"
            );
        }
        let comment: Vec<_> = flow.comment.split(' ').collect();
        let there = words.iter().all(|word| comment.contains(word));
        assert!(there, "{name}: {words:?} aren't in: {}", flow.comment);
        flow
    }
}
