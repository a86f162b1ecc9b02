//! The service manager of the agents under test: `tests/data/manager.py` keeps their descriptors.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::client::PYTHON;
use crate::place::Place;
use crate::sslcollector::serve_at;

/// A manager, which ends with this, and its service with it.
#[derive(Debug)]
pub struct Manager {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    log: PathBuf,
}

impl Manager {
    /// One that keeps as many descriptors as `room`. What its service says goes to a file in `place`.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn new(place: &Place, room: usize) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/manager.py");
        let log = place.path("service.log");
        let said = std::fs::File::create(&log).expect("a file for what the service says");
        let mut child = Command::new(PYTHON)
            .arg(script)
            .arg(place.path("notify"))
            .arg(room.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said)
            .spawn()
            .expect("start Python");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("its answers"));
        Self {
            child,
            commands,
            answers,
            log,
        }
    }

    /// Starts an agent with all that is kept, and waits until it is ready.
    ///
    /// # Panics
    /// If it ends instead.
    pub fn start(&mut self, capture: &Path, socket: &Path, options: &[&str]) {
        let capture = capture.display().to_string();
        self.start_sending(socket, &[&["-w", &capture], options].concat());
    }

    /// The same, with the outputs that the options name.
    ///
    /// # Panics
    /// As above.
    pub fn start_sending(&mut self, socket: &Path, options: &[&str]) {
        let command = serve_at(socket);
        let mut words = vec![json!("start"), text(command.get_program())];
        words.extend(command.get_args().map(text));
        words.extend(options.iter().map(|option| json!(option)));
        let answer = self.ask(&Value::Array(words));
        assert!(answer["pid"].is_u64(), "{answer}: {}", self.said());
    }

    /// Ends the agent, and keeps what it keeps.
    ///
    /// # Panics
    /// If it doesn't end as it should by this signal.
    pub fn end(&mut self, signal: Signal) {
        let answer = self.ask(&json!(["end", signal.as_raw()]));
        let wanted = if signal == Signal::KILL { 9 } else { 0 };
        assert_eq!(answer["status"], wanted, "{}", self.said());
    }

    /// The names of what is kept.
    pub fn kept(&mut self) -> Vec<String> {
        let answer = self.ask(&json!(["kept"]));
        let names = answer["kept"].as_array().expect("a list").iter();
        names
            .map(|name| name.as_str().expect("a name").to_owned())
            .collect()
    }

    /// Keeps something of this kind (see the script) by this name.
    pub fn put(&mut self, name: &str, kind: &str) {
        self.ask(&json!(["put", name, kind]));
    }

    /// Keeps what has this name no longer.
    pub fn drop_kept(&mut self, name: &str) {
        self.ask(&json!(["drop", name]));
    }

    /// What its services have said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn ask(&mut self, command: &Value) -> Value {
        let commands = self.commands.as_mut().expect("it runs");
        writeln!(commands, "{command}").expect("a manager that listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {}", self.said()))
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        // The end of its commands is its end; so nothing of it is left behind.
        drop(self.commands.take());
        let _ = self.child.wait();
    }
}

fn text(word: &OsStr) -> Value {
    json!(word.to_str().expect("a path in UTF-8"))
}
