//! HAProxy: ends TLS in front of servers that speak none, or TLS again; with threads, another user and another root.

use std::fmt::Write;

use rustix::process::Signal;

use crate::place::{Place, free_port};
use crate::process::find;
use crate::service::{Service, open_to_others};

/// A way through it.
#[derive(Clone, Debug)]
pub struct Way {
    /// Where it listens, without the port, and options.
    pub bind: &'static str,
    /// The server: an address with a port, and options.
    pub server: String,
    /// Rules for what passes.
    pub rules: &'static str,
}

/// Writes its configuration. `backend` is the server's port on 127.0.0.1.
///
/// # Panics
/// If it can't be written, or there is no HAProxy.
pub fn haproxy(place: &Place, backend: u16) -> Service {
    let way = Way {
        bind: "127.0.0.1",
        server: format!("127.0.0.1:{backend}"),
        rules: "",
    };
    haproxy_with(place, free_port(), "http", &[way])
}

/// The same, with HTTP/2 for those who ask for it.
///
/// # Panics
/// As above.
pub fn haproxy_http2(place: &Place, backend: u16) -> Service {
    let service = haproxy(place, backend);
    let file = place.path("haproxy.cfg");
    let text = place.text("haproxy.cfg");
    let text = text.replace("both.pem\n", "both.pem alpn h2,http/1.1\n");
    std::fs::write(file, text).expect("haproxy.cfg");
    service
}

/// The same at this port, with these ways, whose text it reads (mode `http`) or doesn't (`tcp`). Connections to servers are kept for
/// other clients' requests, where it reads.
///
/// # Panics
/// As above.
pub fn haproxy_with(place: &Place, port: u16, mode: &str, ways: &[Way]) -> Service {
    open_to_others(place);
    let dir = place.directory().display();
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
  mode {mode}
  timeout connect 60s
  timeout client 60s
  timeout server 60s
"
    );
    if mode == "http" {
        text += "  http-reuse always\n";
    }
    for (number, way) in ways.iter().enumerate() {
        let _ = write!(
            text,
            "frontend tls{number}
  bind {}:{port} ssl crt {dir}/both.pem
  {}
  default_backend servers{number}
backend servers{number}
  server one {}
",
            way.bind, way.rules, way.server
        );
    }
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
