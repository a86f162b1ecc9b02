//! PostgreSQL: a process for each connection, which begins in clear and goes over to TLS. And what psql
//! says and hears on one, as the protocol's messages.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use crate::place::{Place, free_port};
use crate::process::{Process, output_of};
use crate::service::{Service, open_to_others};
use crate::streams::Flow;

/// A cluster of databases of its own.
#[derive(Debug)]
pub struct Postgres<'a> {
    place: &'a Place,
    /// The server.
    pub service: Service,
}

/// One session of psql, which sends a table and gets it back.
#[derive(Debug)]
pub struct Session {
    number: usize,
    process: Process,
}

const CREATE: &str = "CREATE TEMP TABLE lines (line text)";
const RECEIVE: &str = "COPY lines TO STDOUT";
const PORT: &str = "SELECT inet_client_port()";

impl<'a> Postgres<'a> {
    /// Makes the cluster. Started by root its server is the user postgres: it would not be root.
    ///
    /// # Panics
    /// If it can't be made, or there is no PostgreSQL.
    pub fn new(place: &'a Place) -> Self {
        Self::at(place, "127.0.0.1")
    }

    /// The same, which listens at these addresses, separated by commas, and trusts who comes there by TLS.
    ///
    /// # Panics
    /// As above.
    pub fn at(place: &'a Place, addresses: &str) -> Self {
        open_to_others(place);
        let (data, port) = (place.path("data"), free_port());
        let owner: &[&str] = match rustix::process::geteuid().is_root() {
            true => &["-o", "postgres"],
            false => &[],
        };
        let install = |mode: &str, words: &[&Path]| {
            output_of(
                Command::new("install")
                    .args(owner)
                    .arg("-m")
                    .arg(mode)
                    .args(words),
            );
        };
        install("700", &[Path::new("-d"), &data]);
        install("600", &[&place.path("key.pem"), &place.path("server.key")]);
        let mut initdb = as_postgres("initdb");
        initdb.extend(["-N", "-A", "trust", "-U", "postgres", "-D"].map(String::from));
        initdb.push(data.display().to_string());
        output_of(Command::new(&initdb[0]).args(&initdb[1..]));
        let who = data.join("pg_hba.conf");
        let mut text = std::fs::read_to_string(&who).expect("who may connect");
        text += "hostssl all all all trust\n";
        std::fs::write(&who, text).expect("who may connect");
        let dir = place.directory().display();
        let mut words = as_postgres("postgres");
        words.extend(["-D".to_owned(), data.display().to_string()]);
        let settings = [
            format!("port={port}"),
            format!("listen_addresses={addresses}"),
            format!("unix_socket_directories={}", data.display()),
            "ssl=on".into(),
            format!("ssl_cert_file={dir}/cert.pem"),
            format!("ssl_key_file={dir}/server.key"),
            "fsync=off".into(),
            "autovacuum=off".into(),
        ];
        words.extend(
            settings
                .iter()
                .flat_map(|setting| ["-c".to_owned(), setting.clone()]),
        );
        Self {
            place,
            service: Service {
                words,
                port,
                // Fast: it doesn't wait for clients to go.
                end: Signal::INT,
                status: 0,
                log: None,
            },
        }
    }

    /// Waits until it answers; it listens earlier.
    ///
    /// # Panics
    /// If it doesn't.
    pub fn wait_until_ready(&self) {
        // Not by the network, on which it may be elsewhere.
        let directory = self.place.path("data");
        let port = self.service.port;
        let server = format!("host={} port={port} user=postgres", directory.display());
        let mut ready = Command::new("pg_isready");
        ready.args(["-q", "-t", "60", "-d", &server]);
        crate::process::until("PostgreSQL is ready", || {
            let status = Process::start(&mut ready).wait();
            status.success().then_some(())
        });
    }

    /// Starts a session that sends the file `table`, with the distribution's library.
    ///
    /// # Panics
    /// If a file can't be made.
    pub fn session(&self, number: usize, table: &str) -> Session {
        let address = Ipv4Addr::LOCALHOST.into();
        self.session_by(Command::new("psql"), address, number, table)
    }

    /// The same by a psql that runs elsewhere or with another library, at another of the server's addresses.
    ///
    /// # Panics
    /// As above.
    pub fn session_by(
        &self,
        mut psql: Command,
        address: IpAddr,
        number: usize,
        table: &str,
    ) -> Session {
        let port = self.service.port;
        let server = format!(
            "host={address} port={port} user=postgres dbname=postgres sslmode=require gssencmode=disable"
        );
        let send = format!("\\copy lines FROM '{}'", self.place.path(table).display());
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", &server]);
        psql.args(["-c", PORT, "-c", CREATE, "-c", &send, "-c", RECEIVE]);
        let out = std::fs::File::create(self.place.path(&format!("out/{number}")));
        let process = Process::start(psql.stdout(out.expect("a file")));
        Session { number, process }
    }

    /// Waits for a session's end; the port that it came from, as the server told it.
    ///
    /// # Panics
    /// If it failed, or got back another table than `table`.
    pub fn port_of(&self, mut session: Session, table: &[u8]) -> u16 {
        assert!(session.process.wait().success(), "psql");
        let out = self.place.read(&format!("out/{}", session.number));
        let line = out.iter().position(|byte| *byte == b'\n').expect("a line");
        assert!(out[line + 1..] == *table, "psql got back another table");
        let port = String::from_utf8_lossy(&out[..line]).parse();
        port.expect("a port")
    }
}

/// What is wrong with a flow of a session that sent and got back `table`; `None`: nothing, to the last byte.
pub fn difference(flow: &Flow, table: &[u8]) -> Option<String> {
    let (Some(request), Some(response)) = (flow.request.whole(), flow.response.whole()) else {
        return Some("bytes are missing".into());
    };
    let port = flow.client.port().to_string();
    let Some(request) = startup(request).and_then(messages) else {
        return Some("what the client said isn't a sequence of messages".into());
    };
    let Some(response) = messages(response) else {
        return Some("what the server said isn't a sequence of messages".into());
    };
    // PostgreSQL 15's manual, 55.7: Query, CopyData, CopyDone, Terminate.
    let queries = of_kind(&request, b'Q');
    let expected =
        [PORT, CREATE, "COPY  lines FROM STDIN ", RECEIVE].map(|text| format!("{text}\0"));
    if queries != expected.each_ref().map(|text| text.as_bytes()) {
        return Some(format!("queries: {queries:?}"));
    }
    if request.last() != Some(&(b'X', &[][..])) {
        return Some("the client didn't end it".into());
    }
    // A row of one column, and its length.
    let row = [
        &[0, 1, 0, 0, 0, u8::try_from(port.len()).ok()?],
        port.as_bytes(),
    ]
    .concat();
    if of_kind(&response, b'D') != [&row[..]] {
        return Some("the row with the port isn't there".into());
    }
    for (side, messages) in [("client", &request), ("server", &response)] {
        if of_kind(messages, b'd').concat() != table {
            return Some(format!("{side}: another table"));
        }
    }
    None
}

/// What follows the first message, which has no kind.
fn startup(stream: &[u8]) -> Option<&[u8]> {
    let length = u32::from_be_bytes(stream.get(..4)?.try_into().ok()?);
    let version = stream.get(4..8)?;
    (version == [0, 3, 0, 0]).then_some(())?;
    stream.get(usize::try_from(length).ok()?..)
}

type Message<'s> = (u8, &'s [u8]);

/// The messages that a stream is made of, if it is; no byte is left over.
fn messages(mut stream: &[u8]) -> Option<Vec<Message<'_>>> {
    let mut found = Vec::new();
    while let Some((kind, rest)) = stream.split_first() {
        let length = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
        let (message, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        found.push((*kind, message.get(4..)?));
        stream = rest;
    }
    Some(found)
}

fn of_kind<'s>(messages: &[Message<'s>], kind: u8) -> Vec<&'s [u8]> {
    let wanted = messages.iter().filter(|message| message.0 == kind);
    wanted.map(|message| message.1).collect()
}

/// The words for one of PostgreSQL's programs, as a user that it runs as.
fn as_postgres(program: &str) -> Vec<String> {
    let program =
        installed(program).expect("PostgreSQL isn't installed (scripts/install-peers.sh test)");
    let mut words = Vec::new();
    if rustix::process::geteuid().is_root() {
        let user = [
            "setpriv",
            "--reuid=postgres",
            "--regid=postgres",
            "--init-groups",
        ];
        words.extend(user.map(String::from));
    }
    words.push(program.display().to_string());
    words
}

/// Distributions have each major version's programs in a directory of its own.
fn installed(program: &str) -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<_> = versions
        .filter_map(|version| Some(version.ok()?.path().join("bin").join(program)))
        .filter(|program| program.is_file())
        .collect();
    found.sort();
    found.pop()
}
