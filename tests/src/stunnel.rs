//! stunnel: TLS for programs that have none, in front of servers and of clients; as another user, in another root.

use std::fmt::Write;

use rustix::process::Signal;

use crate::place::{Place, free_port};
use crate::process::find;
use crate::service::{Service, open_to_others};

/// Which side of it speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Towards clients.
    Server,
    /// Towards servers.
    Client,
}

/// Writes its configuration: for each of `ways` where it listens, without the port, and the server with its port.
///
/// # Panics
/// If it can't be written, or there is no stunnel.
pub fn stunnel(place: &Place, side: Side, ways: &[(&str, &str)]) -> Service {
    open_to_others(place);
    let (dir, port) = (place.directory().display(), free_port());
    std::fs::create_dir(place.path("empty")).expect("make a directory");
    let mut text = "foreground = yes\npid =\ndebug = notice\n".to_owned();
    if rustix::process::geteuid().is_root() {
        let _ = writeln!(
            text,
            "chroot = {dir}/empty\nsetuid = www-data\nsetgid = www-data"
        );
    }
    for (number, (listen, server)) in ways.iter().enumerate() {
        let _ = writeln!(
            text,
            "[{number}]\naccept = {listen}:{port}\nconnect = {server}"
        );
        let _ = match side {
            Side::Client => writeln!(text, "client = yes"),
            Side::Server => writeln!(text, "cert = {dir}/cert.pem\nkey = {dir}/key.pem"),
        };
    }
    let file = place.path("stunnel.conf");
    std::fs::write(&file, text).expect("stunnel.conf");
    let stunnel =
        find("stunnel4").expect("stunnel4 isn't installed (scripts/install-peers.sh test)");
    Service {
        words: [stunnel, file]
            .map(|word| word.display().to_string())
            .into(),
        port,
        end: Signal::TERM,
        status: 0,
        log: None,
    }
}
