//! A NATS server with JetStream: on a port of its own, with a store that is looked into.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::process::{Process, find, until};

/// A server. It ends when this is dropped.
#[derive(Debug)]
pub struct NatsServer {
    process: Process,
    directory: PathBuf,
    port: u16,
}

impl NatsServer {
    /// Starts one, with its store and its log in `directory`.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(directory: &Path) -> Self {
        Self::start_with(directory, "")
    }

    /// As [`NatsServer::start`], with settings as in its configuration file.
    ///
    /// # Panics
    /// As above.
    pub fn start_with(directory: &Path, settings: &str) -> Self {
        std::fs::write(directory.join("nats.conf"), settings).expect("the broker's settings");
        let process = spawn(directory, "-1");
        let port = port(directory, &process, "nats");
        let server = Self {
            process,
            directory: directory.to_owned(),
            port,
        };
        server.wait_until_ready();
        server
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where other servers of its cluster find it.
    fn route(&self) -> String {
        let port = port(&self.directory, &self.process, "cluster");
        format!("nats://127.0.0.1:{port}")
    }

    /// Other settings, from the next [`NatsServer::start_again`] on.
    ///
    /// # Panics
    /// If they can't be written.
    pub fn settle(&self, settings: &str) {
        let path = self.directory.join("nats.conf");
        std::fs::write(path, settings).expect("the broker's settings");
    }

    /// What it has on its disk.
    pub fn store(&self) -> PathBuf {
        self.directory.join("store")
    }

    /// Kills it.
    pub fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait();
    }

    /// Starts it again, after [`NatsServer::kill`], where it was, with what it had.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.directory, &self.port.to_string());
        self.wait_until_ready();
    }

    fn wait_until_ready(&self) {
        until("the broker to listen", || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }
}

/// Servers that keep copies of one another's streams.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts so many, at least two, with what they need below `directory`.
    ///
    /// # Panics
    /// If they can't be started.
    pub fn start(directory: &Path, count: usize) -> Self {
        // A server with JetStream takes part if it knows of others, as many as there shall be. The first one can't know
        // their ports; they find it, and through it one another. Nobody listens at ports as low as these.
        let nobodies = (1..count).map(|port| format!("nats://127.0.0.1:{port}"));
        let nobodies: Vec<_> = nobodies.collect();
        let mut servers: Vec<NatsServer> = Vec::new();
        for number in 0..count {
            let directory = directory.join(format!("server-{number}"));
            std::fs::create_dir(&directory).expect("a directory");
            let mut routes = nobodies.clone();
            if let Some(first) = servers.first() {
                routes[0] = first.route();
            }
            let settings = format!(
                "server_name: server-{number}\ncluster {{ name: cluster, listen: \"127.0.0.1:-1\", routes: [{}] }}\n",
                routes.join(", ")
            );
            servers.push(NatsServer::start_with(&directory, &settings));
        }
        Self { servers }
    }

    /// Where they listen, separated by commas.
    pub fn urls(&self) -> String {
        let urls: Vec<_> = self.servers.iter().map(NatsServer::url).collect();
        urls.join(",")
    }

    /// Kills the one that is called so.
    ///
    /// # Panics
    /// If there is none.
    pub fn kill(&mut self, name: &str) {
        let number = name
            .strip_prefix("server-")
            .and_then(|number| number.parse().ok());
        let number: usize = number.expect("a server's name");
        self.servers[number].kill();
    }
}

/// A port of a server that has just been started, by what it is for.
fn port(directory: &Path, process: &Process, purpose: &str) -> u16 {
    let file = directory.join(format!("nats-server_{}.ports", process.id()));
    until("the broker's port", || {
        let text = std::fs::read_to_string(&file).ok()?;
        let ports: serde_json::Value = serde_json::from_str(&text).ok()?;
        let address = ports[purpose][0].as_str()?;
        address.rsplit_once(':')?.1.parse().ok()
    })
}

fn spawn(directory: &Path, port: &str) -> Process {
    let program = find("nats-server").unwrap_or_else(|| "nats-server".into());
    let log = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(directory.join("nats.log"))
        .expect("the broker's log");
    Process::start(
        Command::new(program)
            .arg("-c")
            .arg(directory.join("nats.conf"))
            .args(["-js", "-a", "127.0.0.1", "-p", port, "-sd"])
            .arg(directory.join("store"))
            .arg("--ports_file_dir")
            .arg(directory)
            .stdout(Stdio::null())
            .stderr(log),
    )
}
