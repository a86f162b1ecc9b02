//! Programs of the distribution's Python (whose TLS is libssl.so.3, with its own socket): a client that can
//! do things in the middle of a transfer, `tests/data/client.py`, and a server.

use std::path::Path;
use std::process::Command;

use crate::place::Place;
use crate::streams::Flow;

/// The distribution's Python; one from elsewhere may bring a libssl of its own.
pub const PYTHON: &str = "/usr/bin/python3";

/// The client's words for `steps`.
pub fn words(place: &Place, port: u16, steps: &[&str]) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/client.py");
    let mut words = vec![
        PYTHON.to_owned(),
        script.display().to_string(),
        port.to_string(),
        place.path("out").display().to_string(),
    ];
    words.extend(steps.iter().map(|&step| step.to_owned()));
    words
}

/// The words of an HTTPS server, `tests/data/server.py`, that serves `way` (`threads`, `forks`) at `port`.
pub fn server_words(place: &Place, way: &str, port: u16) -> Vec<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/server.py");
    let path = |name| place.path(name).display().to_string();
    vec![
        PYTHON.to_owned(),
        script.display().to_string(),
        way.to_owned(),
        port.to_string(),
        path("cert.pem"),
        path("key.pem"),
        path("www"),
    ]
}

/// The client as a command, with the libraries that the environment has.
pub fn command(place: &Place, port: u16, steps: &[&str]) -> Command {
    let words = words(place, port, steps);
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    command
}

/// Compares a flow with what connection `number` (from 1) recorded: `None`, or the first difference.
///
/// # Panics
/// If there is no such record.
pub fn difference(place: &Place, number: usize, flow: &Flow) -> Option<String> {
    let sent = place.read(&format!("out/sent.{number}"));
    let received = place.read(&format!("out/received.{number}"));
    flow.request
        .difference(&sent)
        .map(|what| format!("sent: {what}"))
        .or_else(|| {
            let response = flow.response.difference(&received);
            response.map(|what| format!("received: {what}"))
        })
}

/// The port that connection `number` (from 1) came from.
///
/// # Panics
/// If there is no such record.
pub fn port(place: &Place, number: usize) -> u16 {
    let text = place.text(&format!("out/port.{number}"));
    text.parse().expect("client.py writes its port")
}
