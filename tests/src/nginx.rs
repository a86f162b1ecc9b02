//! nginx: serves the files of a [`Place`], stores what is sent to it, and logs each request with the
//! bytes that it counted itself.

use std::fmt::Write;
use std::fs;
use std::process::Command;

use rustix::process::Signal;

use crate::place::{HOST, Place, free_port};
use crate::process::{Process, children, find, send, until};
use crate::service::Service;

/// A configured nginx. What still runs of it is ended when this is dropped.
#[derive(Debug)]
pub struct Nginx<'a> {
    place: &'a Place,
    /// TLS, on 127.0.0.1 and on ::1.
    pub port: u16,
    options: Options,
}

/// What isn't the same in each scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Whom the workers become if root starts it.
    pub user: &'static str,
    /// Number of workers.
    pub workers: usize,
    /// A port on 127.0.0.1 without TLS, besides.
    pub plain: Option<u16>,
    /// Requests are logged.
    pub log: bool,
    /// Connections that a worker can have.
    pub connections: usize,
    /// Requests on one connection.
    pub requests: u64,
    /// Where it listens, besides 127.0.0.1 and ::1.
    pub addresses: &'static [&'static str],
    /// It offers HTTP/2.
    pub http2: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            // Where nginx is started by root, its workers have to read and to write in the scenario's directory.
            user: "root",
            workers: 1,
            plain: None,
            log: true,
            connections: 256,
            requests: 1000,
            addresses: &[],
            http2: false,
        }
    }
}

/// A line of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Client's port.
    pub port: u16,
    /// Bytes of the request, with head and body.
    pub request_length: u64,
    /// Bytes of the response, with head and body.
    pub bytes_sent: u64,
    /// Status.
    pub status: u64,
    /// It was answered to the end.
    pub completed: bool,
    /// Method.
    pub method: String,
    /// Path and query.
    pub url: String,
    /// File in which it stored a POST's body; empty where there is none.
    pub body_file: String,
}

impl<'a> Nginx<'a> {
    /// Writes the configuration.
    ///
    /// # Panics
    /// If it can't be written.
    pub fn new(place: &'a Place) -> Self {
        Self::with(place, Options::default())
    }

    /// As [`Nginx::new`].
    ///
    /// # Panics
    /// As above.
    pub fn with(place: &'a Place, options: Options) -> Self {
        let this = Self {
            place,
            port: free_port(),
            options,
        };
        fs::write(place.path("nginx.conf"), this.configuration()).expect("nginx.conf");
        this
    }

    /// The command: in the background, its master process ends as soon as it listens; in the
    /// foreground it stays.
    ///
    /// # Panics
    /// If nginx isn't installed.
    pub fn command(&self, background: bool) -> Vec<String> {
        let nginx = find("nginx").expect("nginx isn't installed (scripts/install-peers.sh test)");
        let daemon = if background { "on" } else { "off" };
        vec![
            nginx.display().to_string(),
            "-p".into(),
            self.place.directory().display().to_string(),
            "-e".into(),
            self.place.path("error.log").display().to_string(),
            "-c".into(),
            self.place.path("nginx.conf").display().to_string(),
            "-g".into(),
            format!("daemon {daemon};"),
        ]
    }

    /// Starts it outside of any agent, with the distribution's libraries, and waits until it listens.
    ///
    /// # Panics
    /// If it doesn't start.
    pub fn start(&self) {
        self.start_with(|_| ());
    }

    /// As [`Nginx::start`], in an environment that `prepare` makes.
    ///
    /// # Panics
    /// As above.
    pub fn start_with(&self, prepare: impl FnOnce(&mut Command)) {
        let words = self.command(true);
        let mut command = Command::new(&words[0]);
        prepare(command.args(&words[1..]));
        let status = Process::start(&mut command).wait();
        assert!(status.success(), "nginx: {status}\n{}", self.errors());
    }

    /// Waits until it accepts connections, for one that was started by somebody else.
    ///
    /// # Panics
    /// If it doesn't come up.
    pub fn wait_until_up(&self) {
        until("nginx listens", || {
            let errors = self.errors();
            assert!(!errors.contains("[emerg]"), "nginx: {errors}");
            // The port may answer before the file is written.
            self.master()?;
            std::net::TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
    }

    /// It, in the foreground.
    ///
    /// # Panics
    /// If nginx isn't installed.
    pub fn service(&self) -> Service {
        Service {
            words: self.command(false),
            port: self.port,
            end: Signal::QUIT,
            status: 0,
            log: Some(self.place.path("error.log")),
        }
    }

    /// Has it replace its workers, and waits until there are others.
    ///
    /// # Panics
    /// If there are none.
    pub fn reload(&self) {
        let master = self.master().expect("nginx runs");
        let before = children(master);
        send(master, Signal::HUP);
        until("other workers", || {
            let now = children(master);
            let new = now.iter().filter(|worker| !before.contains(worker));
            (new.count() >= self.options.workers).then_some(())
        });
    }

    /// Process ids of its workers, which come a moment after it listens.
    ///
    /// # Panics
    /// If it doesn't run.
    pub fn workers(&self) -> Vec<u32> {
        let master = self.master().expect("nginx runs");
        until("nginx's workers", || {
            let workers = children(master);
            (workers.len() >= self.options.workers).then_some(workers)
        })
    }

    /// Lets it end what it has begun, and waits for its end.
    pub fn quit(&self) {
        if let Some(master) = self.master() {
            send(master, Signal::QUIT);
        }
        until("nginx ends", || self.master().is_none().then_some(()));
    }

    /// A shell's words that start it and wait until it listens. The script ends if it doesn't.
    pub fn start_script(&self) -> String {
        let words = self.command(true).into_iter();
        let quoted: Vec<_> = words.map(|word| format!("'{word}'")).collect();
        format!("{} || exit 8\n", quoted.join(" "))
    }

    /// A shell's words that end it and wait for that.
    pub fn quit_script(&self) -> String {
        let pid = self.place.path("nginx.pid");
        let pid = pid.display();
        format!("kill -QUIT \"$(cat {pid})\"; while [ -e {pid} ]; do sleep 0.02; done\n")
    }

    /// Process id of its master.
    pub fn master(&self) -> Option<u32> {
        let text = fs::read_to_string(self.place.path("nginx.pid")).ok()?;
        text.trim().parse().ok()
    }

    /// Its error log.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.place.path("error.log")).unwrap_or_default()
    }

    /// Its log. Complete once it has ended.
    ///
    /// # Panics
    /// If a line isn't as configured.
    pub fn log(&self) -> Vec<LogEntry> {
        Self::read_log(self.place)
    }

    /// The log of an nginx that ran in `place`.
    ///
    /// # Panics
    /// If a line isn't as configured.
    pub fn read_log(place: &Place) -> Vec<LogEntry> {
        place.text("access.log").lines().map(entry).collect()
    }

    fn configuration(&self) -> String {
        let dir = self.place.directory().display();
        let port = self.port;
        let mut text = String::new();
        if rustix::process::geteuid().is_root() {
            let _ = writeln!(text, "user {};", self.options.user);
        }
        let Options {
            workers,
            connections,
            requests,
            ..
        } = self.options;
        let log = match self.options.log {
            true => format!("{dir}/access.log truth"),
            false => "off".to_owned(),
        };
        let plain = self.options.plain;
        let plain = plain.map(|port| format!("listen 127.0.0.1:{port};"));
        let plain = plain.unwrap_or_default();
        let http2 = if self.options.http2 { " http2" } else { "" };
        let others = self.options.addresses.iter();
        let others: String = others
            .map(|address| format!("listen {address}:{port} ssl{http2}; "))
            .collect();
        for temporary in ["fastcgi", "uwsgi", "scgi"] {
            fs::create_dir_all(self.place.path(temporary)).expect("make a directory");
        }
        let _ = write!(
            text,
            "worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/error.log warn;
events {{ worker_connections {connections}; }}
http {{
  log_format truth '$remote_port $request_length $bytes_sent $status ${{request_completion}} \
$request_method $request_uri $request_body_file';
  access_log {log};
  client_body_temp_path {dir}/bodies;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  client_max_body_size 64m;
  keepalive_requests {requests};
  types {{ text/html html; }}
  default_type application/octet-stream;
  ssl_certificate {dir}/cert.pem;
  ssl_certificate_key {dir}/key.pem;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen 127.0.0.1:{port} ssl{http2};
    listen [::1]:{port} ssl{http2};
    {others}{plain}
    server_name {HOST};
    location /get/ {{ alias {dir}/www/; }}
    location /gzip/ {{ alias {dir}/www/; gzip on; gzip_types *; }}
    location /br/ {{ alias {dir}/www/; add_header Content-Encoding br; }}
    location /zstd/ {{ alias {dir}/www/; add_header Content-Encoding zstd; }}
    location /chunked/ {{ alias {dir}/www/; ssi on; ssi_types *; }}
    # Neither a length nor chunks: the body ends where the server closes, and no earlier.
    location /close/ {{ alias {dir}/www/; ssi on; ssi_types *; chunked_transfer_encoding off; }}
    location /put/ {{ alias {dir}/put/; dav_methods PUT; }}
    location /post/ {{
      client_body_in_file_only on;
      proxy_pass http://unix:{dir}/backend.sock;
      proxy_pass_request_body off;
      proxy_set_header Content-Length '';
      proxy_set_header Expect '';
    }}
  }}
  server {{
    listen unix:{dir}/backend.sock;
    access_log off;
    return 200 'stored';
  }}
}}
"
        );
        text
    }
}

impl Drop for Nginx<'_> {
    fn drop(&mut self) {
        // Only in a test that failed half-way is there still one. Its master ends its workers.
        if let Some(master) = self.master() {
            send(master, Signal::TERM);
        }
    }
}

fn entry(line: &str) -> LogEntry {
    // `$request_completion` is "OK" or empty.
    let fields: Vec<_> = line.split(' ').collect();
    let [
        port,
        request_length,
        bytes_sent,
        status,
        completed,
        method,
        url,
        body_file,
    ] = fields[..]
    else {
        panic!("nginx's log: {line}");
    };
    let number = |text: &str| {
        text.parse()
            .unwrap_or_else(|_| panic!("nginx's log: {line}"))
    };
    LogEntry {
        port: u16::try_from(number(port)).unwrap_or(0),
        request_length: number(request_length),
        bytes_sent: number(bytes_sent),
        status: number(status),
        completed: completed == "OK",
        method: method.into(),
        url: url.into(),
        body_file: if body_file == "-" { "" } else { body_file }.into(),
    }
}
