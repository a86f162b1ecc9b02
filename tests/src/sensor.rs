//! A collector, and the agents that send it what they mirror.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::place::Place;
use crate::process::{Process, output_of, stdout_of, until};
use crate::sslcollector::binary;

/// A collector that runs.
#[derive(Debug)]
pub struct Sensor {
    /// The process.
    pub process: Process,
    /// Where agents reach it.
    pub address: SocketAddr,
    said: PathBuf,
}

/// Makes the collector's identity, in `sensor` of the place.
///
/// # Panics
/// If it can't be made.
pub fn init(place: &Place) {
    let mut command = Command::new(binary());
    command.args(["-C", "--init", "--name", "127.0.0.1", "--state"]);
    output_of(command.arg(place.path("sensor")));
}

/// What `sslcollector enroll` prints for an agent of this name, with these options.
///
/// # Panics
/// If it fails.
pub fn token(place: &Place, address: SocketAddr, name: &str, options: &[&str]) -> String {
    let mut command = Command::new(binary());
    command.args(["enroll", "--address", &address.to_string(), "--name", name]);
    command
        .args(options)
        .arg("--state")
        .arg(place.path("sensor"));
    stdout_of(&mut command).trim().to_owned()
}

/// `sslcollector join`, with the identity of an agent in `state`, a directory of the place.
pub fn join(mut command: Command, place: &Place, state: &str, token: &str) {
    command
        .args(["join", token, "--state"])
        .arg(place.path(state));
    output_of(&mut command);
}

impl Sensor {
    /// Starts a collector at an address, port 0 for any, and waits until it listens. What it says is appended to
    /// `sensor.said`.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn start(place: &Place, address: SocketAddr, options: &[&str]) -> Self {
        Self::start_by(Command::new(binary()), place, address, options)
    }

    /// The same, where this command runs it: in another namespace.
    ///
    /// # Panics
    /// As above.
    pub fn start_by(
        mut command: Command,
        place: &Place,
        address: SocketAddr,
        options: &[&str],
    ) -> Self {
        let said = place.path("sensor.said");
        let before = fs::read_to_string(&said).unwrap_or_default().len();
        command.args(["-C", "--listen", &address.to_string()]);
        command
            .args(options)
            .arg("--state")
            .arg(place.path("sensor"));
        let file = File::options().append(true).create(true).open(&said);
        command.stdout(Stdio::null()).stderr(file.expect("a file"));
        let mut process = Process::start(&mut command);
        let address = until("the collector listens", || {
            let text = fs::read_to_string(&said).unwrap_or_default();
            assert!(!process.ended(), "the collector: {text}");
            let (_, rest) = text.get(before..)?.split_once("collecting at ")?;
            rest.split([';', ',']).next()?.parse().ok()
        });
        Self {
            process,
            address,
            said,
        }
    }

    /// All that the collectors of the place have said so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }

    /// Waits until it has said these words so often.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn wait_for(&self, words: &str, times: usize) {
        until(words, || {
            (self.said().matches(words).count() >= times).then_some(())
        });
    }

    /// Ends it; all that was said.
    ///
    /// # Panics
    /// If it doesn't end well.
    pub fn end(mut self) -> String {
        self.process.signal(Signal::TERM);
        let status = self.process.wait();
        let said = self.said();
        assert!(status.success(), "{status}: {said}");
        said
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }
}
