//! What a program can see of the mirror in itself: nothing. No allocation on the data's path, no thread, no
//! descriptor, not a byte in files that take the place of closed descriptors, little stack, errno as it was.

use std::process::{Command, Output, Stdio};

use mirror_tests::native::{compile_gnu, hook_archive, source};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run};
use mirror_tests::sslcollector::{library_dir, serve};
use rustix::process::{Signal, geteuid};

/// Rounds of closing all descriptors while text passes.
const ROUNDS: &str = "10000";
/// Stack for what is called with each text, and at the end of a connection.
const STACK_OF_A_TEXT: u32 = 512;
/// Stack for what announces a connection.
const STACK_OF_AN_ANNOUNCEMENT: u32 = 1536;
/// The same where all connections of the process are looked at for it.
const STACK_OF_A_LOOK: u32 = 2560;

/// Which library the program gets, and what of a mirror there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mirror {
    /// The distribution's library.
    Stock,
    /// The patched one, in a process that isn't enabled.
    Off,
    /// Enabled, and nobody listens.
    NoAgent,
    /// Enabled, with an agent that reads, or doesn't.
    Agent,
}

struct Scene {
    place: Place,
    program: std::path::PathBuf,
    agent: Process,
}

impl Scene {
    fn new(sources: &str, libraries: &[&str]) -> Self {
        let place = Place::new(&[]);
        let program = place.path("program");
        compile_gnu(&[source(sources)], &program, libraries);
        let mut agent = serve(&place.path("capture.pcapng"), &place.path("agent.sock"));
        let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(Stdio::piped()));
        let said = agent.first_words();
        assert!(said.contains("agent.sock"), "{said}");
        Self {
            place,
            program,
            agent,
        }
    }

    fn with_tls() -> Self {
        Self::new("tests/data/harmless.c", &["-lssl", "-lcrypto", "-lpthread"])
    }

    /// With nothing patched but the hook in it, resolved when it starts: the loader needs stack, too.
    fn with_the_hook() -> Self {
        Self::new("tests/data/calls.c", &[&hook_archive(), "-Wl,-z,now"])
    }

    fn command(&self, mirror: Mirror) -> Command {
        let mut command = Command::new(&self.program);
        command.env_remove("SSLCOLLECTOR_SOCKET");
        if mirror == Mirror::Stock {
            command.env_remove("LD_LIBRARY_PATH");
        } else {
            command.env("LD_LIBRARY_PATH", library_dir());
        }
        let socket = match mirror {
            Mirror::Stock | Mirror::Off => return command,
            Mirror::NoAgent => self.place.path("nobody.sock"),
            Mirror::Agent => self.place.path("agent.sock"),
        };
        command.env("SSLCOLLECTOR_SOCKET", socket);
        command.env("SSLCOLLECTOR_AGENT_UID", geteuid().as_raw().to_string());
        command
    }

    /// What a program with TLS prints; that it is mirrored where it should be is looked at.
    fn tls(&self, mirror: Mirror, words: &[&str]) -> String {
        let mut command = self.command(mirror);
        command.arg(self.place.path("cert.pem"));
        command.arg(self.place.path("key.pem")).args(words);
        let output = run(&mut command);
        let ring = ["no ring\n", "a ring\n"][usize::from(mirror == Mirror::Agent)];
        assert_eq!(String::from_utf8_lossy(&output.stderr), ring, "{mirror:?}");
        said(&output)
    }
}

fn said(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}: {text}", output.status);
    text
}

#[test]
fn no_allocation_no_thread_no_descriptor() {
    let scene = Scene::with_tls();
    let off = scene.tls(Mirror::Off, &["count"]);
    for line in ["texts of 1 bytes: 0", "texts of 16384 bytes: 0", "task: 0"] {
        assert!(!off.contains(line), "nothing was counted: {off}");
    }
    // The distribution's may be another release, which begins a session in another way.
    let of_text = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.contains("whole sessions"));
        lines.map(str::to_owned).collect()
    };
    let stock = scene.tls(Mirror::Stock, &["count"]);
    assert_eq!(of_text(&off), of_text(&stock));
    let assert_as_off = |mirror| {
        let counted = scene.tls(mirror, &["count"]);
        assert_eq!(of_text(&counted), of_text(&off), "{mirror:?}");
        let more = of_sessions(&counted).abs_diff(of_sessions(&off));
        // One a session would be 20; its random numbers may cost one more or less.
        assert!(more < 10, "{mirror:?}: {counted} instead of {off}");
    };
    assert_as_off(Mirror::NoAgent);
    assert_as_off(Mirror::Agent);
    // Nobody reads: most of it finds no room.
    scene.agent.signal(Signal::STOP);
    assert_as_off(Mirror::Agent);
}

/// Allocations of whole sessions.
fn of_sessions(counted: &str) -> u32 {
    let number = counted
        .lines()
        .find_map(|line| line.strip_prefix("allocations, whole sessions: "));
    let number = number.and_then(|number| number.parse().ok());
    number.expect("a number")
}

#[test]
fn files_in_the_place_of_closed_descriptors_stay_as_they_are() {
    let scene = Scene::with_tls();
    let files = scene.place.path("out/file").display().to_string();
    let done = scene.tls(Mirror::Agent, &["close", &files, ROUNDS]);
    assert_eq!(done, format!("{ROUNDS} rounds\n"));
}

/// Name, bytes of stack, and errno behind it, of each call.
fn calls(scene: &Scene, words: &[&str]) -> Vec<(String, u32, i32)> {
    let mut command = scene.command(Mirror::Agent);
    if words.contains(&"look") {
        command.env("SSLCOLLECTOR_TELL_SOCKETS", "1");
    }
    let text = said(&run(command.args(words)));
    let call = |line: &str| {
        let mut words = line.split(' ');
        let name = words.next()?.to_owned();
        Some((
            name,
            words.next()?.parse().ok()?,
            words.next()?.parse().ok()?,
        ))
    };
    let calls: Vec<_> = text.lines().map(|line| call(line).expect(line)).collect();
    assert_eq!(calls.len(), 11, "{text}");
    calls
}

#[test]
fn a_call_takes_little_stack() {
    let scene = Scene::with_the_hook();
    let looking = calls(&scene, &["look"]);
    let calls = calls(&scene, &[]);
    for (calls, announcement) in [
        (&calls, STACK_OF_AN_ANNOUNCEMENT),
        (&looking, STACK_OF_A_LOOK),
    ] {
        for (name, used, _) in calls {
            let most = match &**name {
                "handshake" => 1024,
                "open" | "update" | "early_rejected" => announcement,
                _ => STACK_OF_A_TEXT,
            };
            assert!(*used <= most, "{name} took {used} bytes: {calls:?}");
        }
    }
    // They did look.
    let of_open = |calls: &[(String, u32, i32)]| {
        let open = calls.iter().find(|(name, ..)| name == "open");
        open.expect("an open").1
    };
    assert!(of_open(&looking) > of_open(&calls), "{looking:?}");
    // It was mirrored: a text is copied by more than one function.
    assert!(
        calls
            .iter()
            .any(|(name, used, _)| name == "sent" && *used > 100)
    );
}

#[test]
fn errno_stays_also_where_a_call_of_the_hook_fails() {
    let scene = Scene::with_the_hook();
    for words in [
        &[][..],
        &["deny"],
        &["look"],
        &["look", "late"],
        &["look", "blind"],
    ] {
        for (name, _, errno) in calls(&scene, words) {
            assert_eq!(errno, 77, "{name} {words:?}");
        }
    }
}
