//! Suricata, reading a capture with all its event rules.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;

use crate::process::{Process, output_of, until};

/// With which configuration Suricata reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The distribution's own.
    Stock,
    /// With packaging/suricata on top.
    Sslcollector,
    /// The same for what wasn't forged, but captured where the kernel leaves checksums to the interface.
    Original,
}

/// The judge.
#[derive(Clone, Copy, Debug)]
pub struct Suricata;

/// What it found.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// One an HTTP transaction, in the order of Suricata's report.
    pub http: Vec<HttpEvent>,
    /// All that is said of each, but where it was asked: what depends on neither port nor scheme.
    pub heads: Vec<Value>,
    /// One a body.
    pub files: Vec<FileInfo>,
    /// State of each TCP flow at its end: `closed`, …
    pub flow_states: Vec<String>,
    /// Alerts of event rules and anomalies, as text; none is expected.
    pub objections: Vec<String>,
    /// `stats.tcp`.
    tcp: Value,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpEvent {
    /// Client's port.
    pub port: u16,
    /// Method.
    pub method: String,
    /// Path and query.
    pub url: String,
    /// Status of the response; 0: none.
    pub status: u64,
    /// Body bytes of the response.
    pub length: u64,
}

/// A body.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileInfo {
    /// Path and query of the transaction.
    pub url: String,
    /// The client sent it.
    pub upload: bool,
    /// Bytes.
    pub size: u64,
    /// Lower case hexadecimal; empty where Suricata didn't see all.
    pub sha256: String,
    /// `CLOSED`: all of it was seen.
    pub state: String,
    /// It has holes.
    pub gaps: bool,
}

/// Counters which are 0 when the capture is as it should be.
const CLEAN: [&str; 5] = [
    "reassembly_gap",
    "invalid_checksum",
    "midstream_pickups",
    "ack_unseen_data",
    "overlap",
];

impl Suricata {
    /// Has it read `capture`; its files go to `directory`, which must exist.
    ///
    /// # Panics
    /// If it can't be run, or refuses its configuration.
    pub fn read(self, capture: &Path, profile: Profile, directory: &Path) -> Verdict {
        self.read_by("", capture, profile, directory)
    }

    /// The same, by further rules; what they match is among [`Verdict::objections`].
    ///
    /// # Panics
    /// As above.
    pub fn read_by(
        self,
        rules: &str,
        capture: &Path,
        profile: Profile,
        directory: &Path,
    ) -> Verdict {
        let mut command = command(Command::new("suricata"), profile, directory);
        let mut all = event_rules();
        all += rules;
        fs::write(directory.join("events.rules"), all).expect("write the rules");
        command
            .args(["--runmode", "single", "-r"])
            .arg(real(capture));
        let said = output_of(&mut command);
        // It goes on without a configuration that it can't read.
        assert!(!said.contains("rror: "), "Suricata says: {said}");
        Verdict::of(directory)
    }

    /// Has it listen on an interface, with our profile, until [`Listening::verdict`]; its files go to `directory`,
    /// which is made.
    ///
    /// # Panics
    /// If it can't be run, or doesn't get to work.
    pub fn listen(self, interface: &str, directory: &Path) -> Listening {
        self.listen_by(Command::new("suricata"), interface, directory)
    }

    /// The same, where `suricata` runs: in another namespace.
    ///
    /// # Panics
    /// As above.
    pub fn listen_by(self, suricata: Command, interface: &str, directory: &Path) -> Listening {
        fs::create_dir_all(directory).expect("make a directory");
        let mut command = command(suricata, Profile::Sslcollector, directory);
        command.args(["--runmode", "workers", &format!("--af-packet={interface}")]);
        // What a loaded machine lets wait mustn't be lost.
        command.args([
            "--set",
            "af-packet.1.ring-size=32768",
            "--set",
            "af-packet.1.threads=1",
        ]);
        command.args(["--set", "logging.default-log-level=notice"]);
        let said = directory.join("said");
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(&said)
                .expect("a file")
        };
        command.stdout(log()).stderr(log());
        let mut process = Process::start(&mut command);
        until("Suricata listens", || {
            let said = fs::read_to_string(&said).unwrap_or_default();
            assert!(!process.ended(), "{said}");
            said.contains("Engine started").then_some(())
        });
        Listening {
            process,
            directory: directory.to_owned(),
        }
    }
}

/// Suricata at work on an interface.
#[derive(Debug)]
pub struct Listening {
    process: Process,
    directory: PathBuf,
}

impl Listening {
    /// Ends it; what it found.
    ///
    /// # Panics
    /// If it doesn't end well, or has missed packets.
    pub fn verdict(mut self) -> Verdict {
        self.process.signal(Signal::INT);
        let status = self.process.wait();
        let said = fs::read_to_string(self.directory.join("said")).unwrap_or_default();
        assert!(
            status.success() && !said.contains("rror: "),
            "Suricata: {status}: {said}"
        );
        Verdict::of(&self.directory)
    }
}

/// Suricata with a configuration, where it is yet to be said what it reads.
fn command(mut command: Command, profile: Profile, directory: &Path) -> Command {
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rules = directory.join("events.rules");
    fs::write(&rules, event_rules()).expect("write the rules");
    // It would append to a report that is there.
    let _ = fs::remove_file(directory.join("eve.json"));
    command.args(["-c", "/etc/suricata/suricata.yaml"]);
    let checksums = match profile {
        Profile::Stock | Profile::Sslcollector => "all",
        Profile::Original => "none",
    };
    command.args(["-k", checksums, "--set", "unix-command.enabled=no"]);
    if profile != Profile::Stock {
        let ours = project.join("packaging/suricata/sslcollector.yaml");
        command.arg("--include").arg(real(&ours));
    }
    let eve = project.join("tests/data/eve.yaml");
    command.arg("--include").arg(real(&eve));
    command.arg("-S").arg(&rules).arg("-l").arg(directory);
    command
}

impl Verdict {
    fn of(directory: &Path) -> Self {
        let eve = fs::read_to_string(directory.join("eve.json")).expect("Suricata's report");
        let events = eve
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"));
        Self::from_events(events)
    }

    fn from_events(events: impl Iterator<Item = Value>) -> Self {
        let mut verdict = Self::default();
        let events: Vec<_> = events.collect();
        // Client's port by flow: what a port's number says of its side is nothing.
        let clients: HashMap<_, _> = events
            .iter()
            .filter(|event| event["event_type"] == "flow")
            .map(|event| (event["flow_id"].as_u64(), event["src_port"].as_u64()))
            .collect();
        for event in events {
            match event["event_type"].as_str().unwrap_or_default() {
                // HTTP/2 has frames of the connection itself.
                "http" if event["http"]["http2"]["stream_id"] == 0 => {}
                "http" => {
                    verdict.http.push(http_event(&event));
                    verdict.heads.push(head(event["http"].clone()));
                }
                "fileinfo" => {
                    let client = clients.get(&event["flow_id"].as_u64()).copied().flatten();
                    verdict.files.push(file_info(&event, client));
                }
                "flow" => verdict.flow_states.push(text(&event["flow"]["state"])),
                "stats" => verdict.tcp = event["stats"]["tcp"].clone(),
                "alert" => {
                    let what = text(&event["alert"]["signature"]);
                    verdict.objections.push(at(&event, &what));
                }
                "anomaly" => {
                    let what = event["anomaly"].to_string();
                    verdict.objections.push(at(&event, &what));
                }
                _ => {}
            }
        }
        verdict
    }

    /// A counter of `stats.tcp`.
    ///
    /// # Panics
    /// If Suricata doesn't report it.
    pub fn tcp(&self, counter: &str) -> u64 {
        let value = self.tcp[counter].as_u64();
        value.unwrap_or_else(|| panic!("no stats.tcp.{counter}"))
    }

    /// All that Suricata objects to: events, anomalies and counters that aren't 0.
    pub fn complaints(&self) -> Vec<String> {
        let counters = CLEAN
            .iter()
            .map(|name| (name, self.tcp(name)))
            .filter(|(_, value)| *value != 0)
            .map(|(name, value)| format!("stats.tcp.{name} = {value}"));
        self.objections.iter().cloned().chain(counters).collect()
    }
}

fn http_event(event: &Value) -> HttpEvent {
    let http = &event["http"];
    HttpEvent {
        port: u16::try_from(event["src_port"].as_u64().unwrap_or(0)).unwrap_or(0),
        method: text(&http["http_method"]),
        url: text(&http["url"]),
        status: http["status"].as_u64().unwrap_or(0),
        length: http["length"].as_u64().unwrap_or(0),
    }
}

fn head(mut http: Value) -> Value {
    if let Some(fields) = http.as_object_mut() {
        // The second and the third are URLs.
        for name in ["http_port", "http_refer", "redirect"] {
            fields.remove(name);
        }
    }
    http
}

fn file_info(event: &Value, client_port: Option<u64>) -> FileInfo {
    let file = &event["fileinfo"];
    FileInfo {
        url: text(&event["http"]["url"]),
        upload: event["src_port"].as_u64() == client_port,
        size: file["size"].as_u64().unwrap_or(0),
        sha256: text(&file["sha256"]),
        state: text(&file["state"]),
        gaps: file["gaps"].as_bool().unwrap_or(true),
    }
}

fn at(event: &Value, what: &str) -> String {
    let vlan = match &event["vlan"] {
        Value::Null => String::new(),
        tags => format!(" on VLAN {tags}"),
    };
    format!("packet {}{vlan}: {what}", event["pcap_cnt"])
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The event rules that Suricata ships for what we forge.
fn event_rules() -> String {
    let directories = ["/etc/suricata/rules", "/usr/share/suricata/rules"];
    let files = [
        "decoder-events",
        "stream-events",
        "http-events",
        "app-layer-events",
    ];
    let read = |name: &str| {
        directories
            .iter()
            .find_map(|dir| fs::read_to_string(format!("{dir}/{name}.rules")).ok())
            .unwrap_or_else(|| panic!("Suricata's {name}.rules are in none of {directories:?}"))
    };
    files.map(read).concat()
}

/// Suricata takes relative paths as relative to its own configuration.
fn real(path: &Path) -> PathBuf {
    path.canonicalize()
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synth;

    fn judge(packets: &[synth::Synth], profile: Profile) -> Verdict {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.pcapng");
        fs::write(&file, synth::pcapng(&synth::capture(packets))).unwrap();
        Suricata.read(&file, profile, directory.path())
    }

    #[test]
    fn a_good_conversation_has_no_objection() {
        for profile in [Profile::Stock, Profile::Sslcollector] {
            let verdict = judge(&synth::conversation(), profile);
            assert_eq!(verdict.complaints(), [""; 0], "{profile:?}");
            assert_eq!(verdict.flow_states, ["closed"]);
            let expected = HttpEvent {
                port: 50000,
                method: "GET".into(),
                url: "/a".into(),
                status: 200,
                length: 40_000,
            };
            assert_eq!(verdict.http, [expected]);
            assert_eq!(verdict.files.len(), 1);
            assert_eq!(verdict.files[0].sha256.len(), 64);
        }
    }

    #[test]
    fn broken_ones_are_seen() {
        let mut packets = synth::conversation();
        packets[8].tcp_checksum_error = 1;
        let verdict = judge(&packets, Profile::Sslcollector);
        assert_eq!(verdict.tcp("invalid_checksum"), 1);
        assert!(!verdict.objections.is_empty());
        let mut packets = synth::conversation();
        packets.remove(8);
        assert_eq!(judge(&packets, Profile::Stock).tcp("reassembly_gap"), 1);
        assert!(
            judge(&synth::conversation()[3..], Profile::Stock)
                .http
                .is_empty()
        );
    }
}
