//! Filters: each kind of condition chooses among real sessions; and what is excluded is nowhere in the
//! ring's memory, nor in the agent's, nor in the capture.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use mirror_tests::memory::{count, mappings, occurrences, rings, word};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector::{library_dir, run_to, serve};
use mirror_tests::streams::{Flow, flows};
use rustix::process::Signal;

/// The files that are asked for; each has a text of its own.
const FILES: [&str; 4] = ["first", "second", "third", "secret"];

/// A place with a server, whose files can be told apart.
fn place() -> Place {
    let place = Place::new(&[]);
    for name in FILES {
        let text = format!("response-of-{name}\n").repeat(1000);
        fs::write(place.path(&format!("www/{name}")), text).expect("write a file");
    }
    place
}

fn marked(nginx: &Nginx<'_>, steps: &[&str]) -> Vec<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/data/marked.py");
    let words = [
        "python3".to_owned(),
        script.to_owned(),
        nginx.port.to_string(),
    ];
    let steps = steps.iter().map(|step| (*step).to_owned());
    words.into_iter().chain(steps).collect()
}

/// The files whose request and response are in the flows, in the order of the flows.
fn files(flows: &[Flow]) -> Vec<&'static str> {
    let file_of = |flow: &Flow| {
        let (request, response) = (flow.request.whole()?, flow.response.whole()?);
        FILES.into_iter().find(|name| {
            let has = |text: &[u8], what: &str| {
                occurrences(text, format!("{what}-of-{name}").as_bytes()) > 0
            };
            has(request, "request") && has(response, "response")
        })
    };
    let mut found: Vec<_> = flows
        .iter()
        .map(|flow| file_of(flow).unwrap_or_else(|| panic!("no whole exchange: {flow:?}")))
        .collect();
    found.sort_unstable();
    found
}

/// Runs three connections below these filters; the files whose exchange was mirrored, and what was said.
fn chosen(place: &Place, nginx: &Nginx<'_>, filters: &[&str]) -> (Vec<&'static str>, String) {
    let steps = [
        "say@127.0.0.1@one.example.com@first",
        "say@::1@TWO.example.com@second",
        "say@127.0.0.1@other.test@third",
    ];
    mirrored(place, filters, &marked(nginx, &steps))
}

fn mirrored(place: &Place, filters: &[&str], program: &[String]) -> (Vec<&'static str>, String) {
    let file = place.path("capture.pcapng");
    let output = run(run_to(&file, filters).args(program));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{filters:?}: {said}");
    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, "filters");
    (files(&flows(&capture).expect("flows")), said)
}

#[test]
fn each_condition_chooses() {
    let place = place();
    let nginx = Nginx::new(&place);
    nginx.start();
    let port = nginx.port.to_string();
    let ports = |rule: &str| rule.replace("PORT", &port);
    let all = &["first", "second", "third"][..];
    let cases: [(&[&str], &[&str]); 13] = [
        (&[], all),
        (&["--allow", "port=PORT"], all),
        (&["--deny", "port=PORT"], &[]),
        (&["--allow", "port=1-PORT,net=::/0"], &["second"]),
        (&["--deny", "net=127.0.0.0/8"], &["second"]),
        (&["--allow", "server-net=::1"], &["second"]),
        (&["--allow", "sni=*.Example.com"], &["first", "second"]),
        (&["--deny", "sni=two.example.com"], &["first", "third"]),
        (
            &[
                "--allow",
                "sni=*",
                "--deny",
                "net=::1",
                "--deny",
                "sni=other.test",
            ],
            &["first"],
        ),
        (&["--allow", "role=client"], all),
        (&["--allow", "role=server"], &[]),
        (
            &["--deny", "exe=no-such-program", "--deny", "uid=4294967294"],
            all,
        ),
        (&["--deny", "uid=UID"], &[]),
    ];
    let uid = rustix::process::geteuid().as_raw().to_string();
    for (filters, expected) in cases {
        let filters: Vec<_> = filters
            .iter()
            .map(|word| ports(word).replace("UID", &uid))
            .collect();
        let filters: Vec<_> = filters.iter().map(String::as_str).collect();
        let (found, said) = chosen(&place, &nginx, &filters);
        assert_eq!(found, expected, "{filters:?}: {said}");
        let sessions = all.len() - expected.len();
        let told = match sessions {
            // The process as a whole: nobody counts its sessions.
            3 if filters[1].starts_with("uid=") => "1 process excluded by the filters".to_owned(),
            1 => "1 session excluded by the filters".to_owned(),
            _ => format!("{sessions} sessions excluded by the filters"),
        };
        assert_eq!(said.contains(&told), sessions > 0, "{filters:?}: {said}");
        assert!(!said.contains("no TLS was seen"), "{filters:?}: {said}");
    }
    nginx.quit();
}

/// Both ends of the connections are mirrored, by programs of different executables.
#[test]
fn the_program_and_its_role_choose() {
    let place = place();
    let nginx = Nginx::new(&place);
    let steps = ["say@127.0.0.1@one.example.com@first"];
    let client: Vec<_> = marked(&nginx, &steps)
        .iter()
        .map(|word| format!("'{word}'"))
        .collect();
    let script = [
        nginx.start_script(),
        client.join(" "),
        "\n".to_owned(),
        nginx.quit_script(),
    ];
    let program = ["sh".to_owned(), "-c".to_owned(), script.concat()];
    for (filters, role) in [
        (["--allow", "exe=nginx"], "server"),
        (["--deny", "exe=*/python3*"], "server"),
        (["--deny", "role=client"], "server"),
        (["--allow", "role=client"], "client"),
    ] {
        let (found, said) = mirrored(&place, &filters, &program);
        assert_eq!(found, ["first"], "{filters:?}: {said}");
        let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
        let flow = &flows(&capture).expect("flows")[0];
        let role = format!("role={role}");
        assert!(
            flow.comment.contains(&role),
            "{filters:?}: {}",
            flow.comment
        );
    }
}

/// curl's library has no socket: its addresses are on the wire alone.
#[test]
fn flows_whose_addresses_the_library_doesnt_know() {
    let place = place();
    let nginx = Nginx::new(&place);
    nginx.start();
    let url = format!(
        "https://127.0.0.1:{}/get/first?request-of-first",
        nginx.port
    );
    let curl = [
        "curl",
        "-q",
        "-sS",
        "-k",
        "--http1.1",
        "--noproxy",
        "*",
        "-o",
    ];
    let mut program: Vec<_> = curl.iter().map(|word| (*word).to_owned()).collect();
    program.extend([place.path("out/curl").display().to_string(), url]);
    let port = format!("port={}", nginx.port);
    let advice = "--unknown-flow mirror lets";
    let cases: [(&[&str], &[&str], bool); 4] = [
        (&["--allow", &port], &[], true),
        (
            &["--allow", &port, "--unknown-flow", "mirror"],
            &["first"],
            false,
        ),
        (&["--deny", &port, "--unknown-flow", "mirror"], &[], false),
        // Nobody watches the wire.
        (
            &["--allow", &port, "--unknown-flow", "mirror", "-I", "none"],
            &[],
            true,
        ),
    ];
    for (filters, expected, unknown) in cases {
        let (found, said) = mirrored(&place, filters, &program);
        // Byte counts may have told it all the same.
        let counted = said.contains("bound=counters");
        assert!(!counted || filters.contains(&"none"), "{said}");
        let (expected, unknown) = match counted {
            true => (&["first"][..], false),
            false => (expected, unknown),
        };
        assert_eq!(found, expected, "{filters:?}: {said}");
        assert_eq!(said.contains(advice), unknown, "{filters:?}: {said}");
        let bytes = fs::read(place.path("capture.pcapng")).expect("the capture");
        assert_eq!(occurrences(&bytes, b"of-first") > 0, !expected.is_empty());
    }
    nginx.quit();
}

/// An agent with filters, and a client that asks for it.
struct Watched<'a> {
    place: &'a Place,
    agent: Process,
    client: Option<Process>,
}

impl<'a> Watched<'a> {
    fn new(place: &'a Place, filters: &[&str]) -> Self {
        fs::create_dir(place.path("run")).expect("make a directory");
        let socket = place.path("run/agent.sock");
        let mut command = serve(&place.path("capture.pcapng"), &socket);
        let command = command.args(filters);
        let mut agent = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = agent.first_words();
        assert!(said.contains("agent.sock"), "{said}");
        Self {
            place,
            agent,
            client: None,
        }
    }

    fn path(&self, pause: &str) -> PathBuf {
        self.place.path(pause)
    }

    /// A program that asks for the agent.
    fn asking(&self, words: &[String]) -> Command {
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", self.path("run/agent.sock"));
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
        command
    }

    /// Starts the client, which pauses where its steps are a single word.
    fn start(&mut self, nginx: &Nginx<'_>, policy: Option<&str>, steps: &[&str]) {
        let pauses = steps.iter().map(|step| match step.contains('@') {
            true => (*step).to_owned(),
            false => format!("pause@{}", self.path(step).display()),
        });
        let pauses: Vec<_> = pauses.collect();
        let pauses: Vec<_> = pauses.iter().map(String::as_str).collect();
        let mut command = self.asking(&marked(nginx, &pauses));
        if let Some(policy) = policy {
            command.env("SSLCOLLECTOR_POLICY", policy);
        }
        self.client = Some(Process::start(&mut command));
    }

    /// Waits until the client has come to this pause.
    fn reached(&self, pause: &str) {
        let here = self.path(&format!("{pause}.here"));
        until(pause, || here.exists().then_some(()));
    }

    fn go(&self, pause: &str) {
        fs::write(self.path(&format!("{pause}.go")), "").expect("write a file");
    }

    /// How often this stands in the client's ring, as the client or as the agent sees it.
    fn in_ring(&self, text: &str) -> usize {
        let client = self.client.as_ref().expect("a client").id();
        let agent = self.agent.id();
        let here = count(client, &rings(client), text.as_bytes());
        here.max(count(agent, &rings(agent), text.as_bytes()))
    }

    /// How often this stands anywhere in the agent's memory.
    fn in_agent(&self, text: &str) -> usize {
        let agent = self.agent.id();
        count(agent, &mappings(agent), text.as_bytes())
    }

    /// Waits until this is in the capture.
    fn captured(&self, text: &str) {
        let file = self.place.path("capture.pcapng");
        until(text, || {
            let bytes = fs::read(&file).ok()?;
            (occurrences(&bytes, text.as_bytes()) > 0).then_some(())
        });
    }

    /// Lets all come to its end; the capture's bytes.
    fn end(mut self) -> Vec<u8> {
        let client = self.client.as_mut().expect("a client");
        assert!(client.wait().success());
        self.agent.signal(Signal::TERM);
        assert!(self.agent.wait().success());
        let file = self.place.path("capture.pcapng");
        rules::assert_good(&Capture::read(&file).expect("a capture"), "filters");
        fs::read(&file).expect("the capture")
    }
}

/// Where the agent answers in a ring's control page, and what.
const STATE: u64 = 192;
const READY: u32 = 1;

/// What the agent may only drop once the wire has told whose it is: it keeps nothing of it.
#[test]
fn what_the_agent_drops_is_nowhere() {
    let place = place();
    let nginx = Nginx::new(&place);
    nginx.start();
    let filters = ["--deny", "server-net=127.0.0.1", "--unknown-flow", "mirror"];
    let mut watched = Watched::new(&place, &filters);
    for (host, file) in [("127.0.0.1", "secret"), ("[::1]", "first")] {
        let url = format!("https://{host}:{}/get/{file}?request-of-{file}", nginx.port);
        let out = place.path("out/curl").display().to_string();
        let curl = [
            "curl",
            "-q",
            "-sS",
            "-k",
            "--http1.1",
            "--noproxy",
            "*",
            "-o",
            &out,
            &url,
        ];
        let mut client = watched.asking(&curl.map(str::to_owned));
        assert!(Process::start(&mut client).wait().success());
    }
    watched.captured("response-of-first");
    for secret in SECRET {
        assert_eq!(watched.in_agent(secret), 0, "{secret}");
    }
    watched.agent.signal(Signal::TERM);
    assert!(watched.agent.wait().success());
    let capture = fs::read(place.path("capture.pcapng")).expect("the capture");
    assert_eq!(occurrences(&capture, b"-of-secret"), 0);
    nginx.quit();
}

const SECRET: [&str; 2] = ["request-of-secret", "response-of-secret"];

#[test]
fn what_is_excluded_is_nowhere() {
    let place = place();
    let nginx = Nginx::new(&place);
    nginx.start();
    let mut watched = Watched::new(&place, &["--deny", "sni=secret.test"]);
    let steps = [
        "say@127.0.0.1@one.example.com@first",
        "answered",
        "say@127.0.0.1@two.example.com@second",
        "say@127.0.0.1@Secret.Test@secret",
        "again@secret",
        "full",
        "say@127.0.0.1@three.example.com@third",
    ];
    watched.start(&nginx, None, &steps);
    watched.reached("answered");
    watched.captured("response-of-first");
    watched.agent.signal(Signal::STOP);
    watched.go("answered");
    watched.reached("full");
    // The scan finds what is there.
    assert!(watched.in_ring("request-of-second") > 0);
    assert!(watched.in_ring("response-of-second") > 0);
    for secret in SECRET {
        assert_eq!(watched.in_ring(secret), 0, "{secret}");
    }
    watched.agent.signal(Signal::CONT);
    watched.captured("response-of-second");
    for secret in SECRET {
        assert_eq!(watched.in_agent(secret), 0, "{secret}");
    }
    watched.go("full");
    let capture = watched.end();
    assert!(occurrences(&capture, b"response-of-third") > 0);
    assert_eq!(occurrences(&capture, b"-of-secret"), 0);
    nginx.quit();
}

/// What a process says before the agent has answered is in its ring for that long, and then nowhere.
#[test]
fn what_came_before_the_answer_is_nowhere_after_it() {
    for filters in [["--deny", "sni=secret.test"], ["--deny", "exe=python3*"]] {
        let place = place();
        let nginx = Nginx::new(&place);
        nginx.start();
        let mut watched = Watched::new(&place, &filters);
        watched.agent.signal(Signal::STOP);
        let steps = [
            "say@127.0.0.1@secret.test@secret",
            "unanswered",
            "again@secret",
            "say@127.0.0.1@three.example.com@third",
            "answered",
        ];
        watched.start(&nginx, None, &steps);
        watched.reached("unanswered");
        assert!(watched.in_ring(SECRET[0]) > 0);
        watched.agent.signal(Signal::CONT);
        until("the ring is emptied", || {
            (watched.in_ring(SECRET[0]) == 0).then_some(())
        });
        watched.go("unanswered");
        watched.reached("answered");
        let mirrored = filters[1].starts_with("sni=");
        if mirrored {
            watched.captured("response-of-third");
        }
        for secret in SECRET {
            assert_eq!(watched.in_ring(secret), 0, "{filters:?}: {secret}");
            assert_eq!(watched.in_agent(secret), 0, "{filters:?}: {secret}");
        }
        watched.go("answered");
        let capture = watched.end();
        assert_eq!(occurrences(&capture, b"response-of-third") > 0, mirrored);
        assert_eq!(occurrences(&capture, b"-of-secret"), 0);
        nginx.quit();
    }
}

/// A process that is to wait for the answer has nothing in its ring before.
#[test]
fn who_waits_for_the_answer_leaves_nothing() {
    let place = place();
    let nginx = Nginx::new(&place);
    nginx.start();
    let mut watched = Watched::new(&place, &["--deny", "sni=secret.test"]);
    watched.agent.signal(Signal::STOP);
    let steps = [
        "say@127.0.0.1@secret.test@secret",
        "say@127.0.0.1@one.example.com@first",
        "unanswered",
        "say@127.0.0.1@two.example.com@second",
        "say@127.0.0.1@secret.test@secret",
    ];
    watched.start(&nginx, Some("wait"), &steps);
    watched.reached("unanswered");
    assert_eq!(watched.in_ring("-of-"), 0);
    watched.agent.signal(Signal::CONT);
    until("the agent's answer", || {
        let client = watched.client.as_ref().expect("a client").id();
        let state = word(client, rings(client).first()?.from + STATE)?;
        (state == READY).then_some(())
    });
    watched.go("unanswered");
    let capture = watched.end();
    assert!(occurrences(&capture, b"response-of-second") > 0);
    assert_eq!(occurrences(&capture, b"-of-secret"), 0);
    nginx.quit();
}
