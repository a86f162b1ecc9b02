//! An ordinary user, who may not capture: programs are mirrored by `run`, and found by their byte counts or not at all.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::place::Place;
use crate::process::run;
use crate::reader::Capture;
use crate::rules;
use crate::sslcollector;
use crate::streams::{Flow, flows};

/// Everywhere, by its number.
const NOBODY: u32 = 65_534;

/// What an ordinary user needs.
#[derive(Debug)]
pub struct User<'p> {
    place: &'p Place,
    binary: PathBuf,
    library: PathBuf,
}

impl<'p> User<'p> {
    /// Lets the user into a place, with the command and the library.
    ///
    /// # Panics
    /// If that can't be done.
    pub fn new(place: &'p Place) -> Self {
        let user = Self {
            place,
            binary: place.path("sslcollector"),
            library: place.path("lib"),
        };
        fs::create_dir(&user.library).expect("make a directory");
        // Not here: what another test starts just now would have the file open, and nobody could execute it.
        let copy = |from: &Path, to: &Path| run(Command::new("cp").arg(from).arg(to));
        copy(
            &sslcollector::library_dir().join("libssl.so.3"),
            &user.library,
        );
        copy(&sslcollector::binary(), &user.binary);
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(place.directory(), mode).expect("let others in");
        chown(place.path("out"), Some(NOBODY), Some(NOBODY)).expect("give it away");
        user
    }

    /// Runs a program with the mirror; what that prints, and the flows.
    ///
    /// # Panics
    /// If the program fails, or what was captured isn't good.
    pub fn mirrors(&self, name: &str, program: &[String]) -> (String, Vec<Flow>) {
        let file = self.place.path("out").join(name);
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg("--inh-caps=-all").arg(&self.binary);
        // On a busy machine the agent may be late.
        command.args(["run", "--on-full", "wait:10000", "-w"]);
        command.arg(&file);
        command.arg("--library-dir").arg(&self.library).arg("--");
        let output = run(command.args(program).current_dir("/"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        let text = String::from_utf8(output.stdout).expect("text");
        (text, read(&file))
    }
}

fn read(file: &Path) -> Vec<Flow> {
    let capture = Capture::read(file).expect("a capture");
    rules::assert_good(&capture, "found by counts");
    flows(&capture).expect("flows")
}

/// Words of a command.
pub fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// How the addresses of a connection to this port were found: they were, or nobody knows them and they say so.
///
/// # Panics
/// If they say otherwise.
pub fn is_found(flow: &Flow, port: u16) -> bool {
    let bound = |word: &str| flow.comment.contains(&format!(" bound={word} "));
    if bound("counters") {
        assert_eq!(flow.server.port(), port, "{}", flow.comment);
        assert!(flow.server.ip().is_loopback(), "{}", flow.comment);
        assert!(flow.client.ip().is_loopback(), "{}", flow.comment);
        return true;
    }
    assert!(bound("placeholder"), "{}", flow.comment);
    assert!(flow.client.ip().to_string().starts_with("192.0.2."));
    false
}
