//! No key leaves the application: nothing of what its TLS library tells in a key log, and nothing of its server's
//! private key, is in the ring, in the agent's memory or in the capture. Clear text is, so it would be found.
//!
//! `MIRROR_HANDSHAKES=N` (`make secrets`) takes N sessions.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use mirror_tests::memory::{mappings, rings};
use mirror_tests::native::{compile_gnu, source};
use mirror_tests::needles::Needles;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, stdout_of, until};
use mirror_tests::sslcollector::{library_dir, serve};
use rustix::process::{Signal, geteuid};

/// A program that does sessions and tells their secrets.
struct Program {
    process: Process,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    sessions: u32,
}

impl Program {
    fn start(place: &Place) -> Self {
        let program = place.path("secrets");
        let sources = [source("tests/data/secrets.c")];
        compile_gnu(&sources, &program, &["-lssl", "-lcrypto"]);
        let mut command = Command::new(&program);
        command
            .arg(place.path("cert.pem"))
            .arg(place.path("key.pem"));
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", place.path("agent.sock"));
        command.env("SSLCOLLECTOR_AGENT_UID", geteuid().as_raw().to_string());
        let (mut process, orders) = Process::start_fed(command.stdout(Stdio::piped()));
        let answers = BufReader::new(process.stdout().expect("a pipe"));
        Self {
            process,
            orders,
            answers,
            sessions: 0,
        }
    }

    /// Does sessions; what they must keep for themselves is added to `secrets`.
    fn session(&mut self, count: u32, secrets: &mut Needles) {
        writeln!(self.orders, "{count}").expect("the program lives");
        for line in (&mut self.answers).lines() {
            let line = line.expect("its key log");
            if line == "done" {
                self.sessions += count;
                return;
            }
            // LABEL CLIENT_RANDOM SECRET, of which the middle is public.
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words.len(), 3, "{line}");
            secrets.add_with_digits(words[0], &from_digits(words[2]));
        }
        panic!("the program has ended");
    }
}

/// What a session has said, counted from 0.
fn texts_of(session: u32) -> Needles {
    let mut texts = Needles::new();
    for what in ["clear text", "answer"] {
        texts.add(what, format!("{what} of session {session};").as_bytes());
    }
    texts
}

fn from_digits(digits: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&digits[at..at + 2], 16).expect("digits");
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The server's private key: the number in both byte orders, and its file.
fn add_private_key(place: &Place, secrets: &mut Needles) {
    let mut openssl = Command::new("openssl");
    openssl.args(["pkey", "-noout", "-text", "-in"]);
    let text = stdout_of(openssl.arg(place.path("key.pem")));
    let number = text
        .split_once("priv:")
        .and_then(|(_, rest)| rest.split_once("pub:"))
        .expect("a private key");
    let digits: String = number.0.chars().filter(char::is_ascii_hexdigit).collect();
    let mut number = from_digits(&digits);
    secrets.add_with_digits("the private key", &number);
    number.reverse();
    secrets.add("the private key", &number);
    let file = place.text("key.pem");
    // Behind the first characters, which say only what kind of key it is.
    let line = file.lines().nth(1).expect("a PEM file");
    secrets.add("the private key's file", &line.as_bytes()[40..]);
}

#[test]
fn no_secret_leaves_the_application() {
    let asked_for = std::env::var("MIRROR_HANDSHAKES").ok();
    let sessions = asked_for.map_or(100, |number| number.parse().expect("a number"));
    let place = Place::new(&[]);
    let capture = place.path("capture.pcapng");
    let mut agent = serve(&capture, &place.path("agent.sock"));
    let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(Stdio::piped()));
    let said = agent.first_words();
    assert!(said.contains("agent.sock"), "{said}");
    let mut secrets = Needles::new();
    let mut program = Program::start(&place);
    program.session(2, &mut secrets);
    add_private_key(&place, &mut secrets);
    let texts = texts_of(1);
    until("text in the capture", || {
        let file = std::fs::read(&capture).ok()?;
        (texts.found_in(&file).len() == 2).then_some(())
    });

    // Nothing is read, so all that is ever written stays in the ring.
    agent.signal(Signal::STOP);
    let first = program.sessions;
    program.session(sessions, &mut secrets);
    assert!(secrets.count() > 3 * 3 * sessions as usize, "few secrets");
    let id = program.process.id();
    let ring = rings(id);
    assert_eq!(ring.len(), 1);
    // The first: there may be more than it has room for.
    let texts = texts_of(first);
    assert_eq!(texts.found_in_process(id, &ring).0.len(), 2, "no text");
    let (found, looked_at) = secrets.found_in_process(id, &ring);
    assert_eq!(found, BTreeSet::new(), "in {looked_at} bytes of the ring");
    // They are where they belong, in a form that is looked for.
    let mut others = mappings(id);
    others.retain(|mapped| !ring.contains(mapped));
    let (found, _) = secrets.found_in_process(id, &others);
    for secret in [
        "CLIENT_RANDOM",
        "CLIENT_TRAFFIC_SECRET_0",
        "the private key",
    ] {
        assert!(found.contains(secret), "{secret} isn't in {found:?}");
    }

    agent.signal(Signal::CONT);
    let file = until("text of a session after all those", || {
        // Where the ring is still full it isn't heard: then the next one is.
        program.session(2, &mut secrets);
        let file = std::fs::read(&capture).ok()?;
        let texts = texts_of(first + sessions + 1);
        let later = texts_of(program.sessions.saturating_sub(100).max(first + sessions));
        let heard = texts.found_in(&file).len() + later.found_in(&file).len();
        (heard > 0).then_some(file)
    });
    assert_eq!(secrets.found_in(&file), BTreeSet::new(), "in the capture");
    agent.signal(Signal::STOP);
    let mut known = Needles::new();
    known.add("its argument", capture.display().to_string().as_bytes());
    let everything = mappings(agent.id());
    let (found, _) = known.found_in_process(agent.id(), &everything);
    assert_eq!(found.len(), 1, "what must be in the agent");
    let (found, looked_at) = secrets.found_in_process(agent.id(), &everything);
    assert_eq!(found, BTreeSet::new(), "in {looked_at} bytes of the agent");
    println!(
        "{} forms of secrets are not in {looked_at} bytes of the agent",
        secrets.count()
    );

    agent.signal(Signal::CONT);
    drop(program.orders);
    assert!(program.process.wait().success());
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let file = std::fs::read(&capture).expect("the capture");
    assert_eq!(secrets.found_in(&file), BTreeSet::new(), "in the capture");
}
