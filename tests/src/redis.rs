//! Redis: a server whose only port has TLS, and redis-cli; what they say to each other, in the protocol's words.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::dialogue::Text;
use crate::place::{HOST, Place, free_port};
use crate::process::{Process, find};
use crate::service::Service;
use crate::tuples::{self, Kind};

/// A server that keeps all in memory, at these addresses.
///
/// # Panics
/// If there is no Redis.
pub fn redis(place: &Place, addresses: &[&str]) -> Service {
    let port = free_port();
    let program = find("redis-server");
    let program = program.expect("redis-server isn't installed (scripts/install-peers.sh test)");
    let path = |name: &str| place.path(name).display().to_string();
    let mut words = vec![program.display().to_string()];
    for (option, value) in [
        ("--port", "0".to_owned()),
        ("--tls-port", port.to_string()),
        ("--tls-cert-file", path("cert.pem")),
        ("--tls-key-file", path("key.pem")),
        ("--tls-ca-cert-file", path("cert.pem")),
        ("--tls-auth-clients", "no".to_owned()),
        ("--protected-mode", "no".to_owned()),
        ("--save", String::new()),
        ("--dir", path("")),
    ] {
        words.extend([option.to_owned(), value]);
    }
    // Its answer to a question that redis-cli asks first has some hundred thousand bytes.
    words.extend(["--rename-command", "COMMAND", "", "--bind"].map(String::from));
    words.extend(addresses.iter().map(|&address| address.to_owned()));
    Service {
        words,
        port,
        end: Signal::TERM,
        status: 0,
        log: None,
    }
}

/// A run of redis-cli, on one connection.
#[derive(Debug)]
pub struct Session {
    process: Process,
    key: String,
    value: String,
}

/// What was said on its connection.
#[derive(Clone, Debug)]
pub struct Talk {
    /// The port that it came from, as the server told it.
    pub port: u16,
    request: Vec<u8>,
    response: Vec<u8>,
}

impl Session {
    /// Starts one that stores `value` at `key`, asks for it, and who it is itself, twice; by a `redis-cli` that runs
    /// wherever, with whatever library.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(mut cli: Command, server: (IpAddr, u16), key: &str, value: &str) -> Self {
        let (address, port) = server;
        cli.args(["--tls", "--insecure", "--sni", HOST, "-h"]);
        cli.args([&address.to_string(), "-p", &port.to_string()]);
        let commands = commands(key, value).map(|words| words.join(" ") + "\n");
        let (process, mut input) =
            Process::start_fed(cli.stdout(Stdio::piped()).stderr(Stdio::piped()));
        std::io::Write::write_all(&mut input, commands.concat().as_bytes()).expect("commands");
        Self {
            process,
            key: key.to_owned(),
            value: value.to_owned(),
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it failed, or heard something else.
    pub fn end(self) -> Talk {
        let output = self.process.output();
        assert!(output.status.success(), "redis-cli: {output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<_> = text.lines().filter(|line| !line.is_empty()).collect();
        let [first, ok, value, second] = lines[..] else {
            panic!("redis-cli: {text}");
        };
        assert_eq!((ok, value), ("OK", &self.value[..]));
        let port = |line: &str| {
            let address = line.split(' ').find_map(|word| word.strip_prefix("addr="));
            address.and_then(|address| address.rsplit(':').next()?.parse().ok())
        };
        let from: u16 = port(first).expect("a port");
        assert_eq!(port(second), Some(from), "{text}");
        // A server that doesn't know the question is asked in an older way.
        let mut request = array(&["COMMAND", "DOCS"]) + &array(&["COMMAND"]);
        for words in commands(&self.key, &self.value) {
            request += &array(&words);
        }
        let unknown = |with: &str| {
            format!("-ERR unknown command 'COMMAND', with args beginning with: {with}\r\n")
        };
        // The answer to CLIENT INFO ends with a line's end of its own.
        let response = [
            unknown("'DOCS' "),
            unknown(""),
            bulk(&format!("{first}\n")),
            "+OK\r\n".to_owned(),
            bulk(value),
            bulk(&format!("{second}\n")),
        ];
        Talk {
            port: from,
            request: request.into_bytes(),
            response: response.concat().into_bytes(),
        }
    }
}

impl Talk {
    /// As a session between these.
    pub fn session(self, client: IpAddr, server: SocketAddr, kind: &Kind) -> tuples::Session {
        tuples::Session {
            client: SocketAddr::new(client, self.port),
            server,
            text: Text::Whole {
                request: self.request,
                response: self.response,
            },
            kind: kind.clone(),
        }
    }
}

fn commands<'w>(key: &'w str, value: &'w str) -> [Vec<&'w str>; 4] {
    let who = || vec!["CLIENT", "INFO"];
    [who(), vec!["SET", key, value], vec!["GET", key], who()]
}

/// Redis' protocol: a bulk string.
fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// And an array of such.
fn array(words: &[&str]) -> String {
    let mut text = String::new();
    let _ = write!(text, "*{}\r\n", words.len());
    text + &words.iter().map(|word| bulk(word)).collect::<String>()
}
