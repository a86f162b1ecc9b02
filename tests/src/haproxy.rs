//! HAProxy: ends TLS in front of a server that speaks none, with threads, another user and another root.

use std::fmt::Write;

use rustix::process::Signal;

use crate::place::{Place, free_port};
use crate::process::find;
use crate::service::{Service, open_to_others};

/// Writes its configuration. `backend` is the server's port on 127.0.0.1.
///
/// # Panics
/// If it can't be written, or there is no HAProxy.
pub fn haproxy(place: &Place, backend: u16) -> Service {
    open_to_others(place);
    let (dir, port) = (place.directory().display(), free_port());
    let both = [place.read("cert.pem"), place.read("key.pem")].concat();
    std::fs::write(place.path("both.pem"), both).expect("both.pem");
    std::fs::create_dir(place.path("empty")).expect("make a directory");
    let mut text = String::from("global\n  nbthread 3\n  maxconn 200\n");
    if rustix::process::geteuid().is_root() {
        let _ = write!(
            text,
            "  chroot {dir}/empty\n  user www-data\n  group www-data\n"
        );
    }
    let _ = write!(
        text,
        "defaults
  mode http
  timeout connect 60s
  timeout client 60s
  timeout server 60s
frontend tls
  bind 127.0.0.1:{port} ssl crt {dir}/both.pem
  default_backend clear
backend clear
  server one 127.0.0.1:{backend}
"
    );
    let file = place.path("haproxy.cfg");
    std::fs::write(&file, text).expect("haproxy.cfg");
    let haproxy = find("haproxy").expect("haproxy isn't installed (scripts/install-peers.sh test)");
    let words = [
        haproxy.display().to_string(),
        "-db".into(),
        "-f".into(),
        file.display().to_string(),
    ];
    Service {
        words: words.into(),
        port,
        end: Signal::TERM,
        // SIGTERM
        status: 143,
        log: None,
    }
}
