//! The log of sessions, field by field: what programs, tshark and Suricata know of the same connections.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use mirror_tests::attach::{Connection, Run, Scenario};
use mirror_tests::disk::Disk;
use mirror_tests::judges::{Profile, Suricata, follow_with};
use mirror_tests::network::{enter_new_namespace, ip};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, is_root, output_of, run, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::service::Agent;
use mirror_tests::sessions::{await_lines, of_port, parse, read};
use mirror_tests::sslcollector::{self, binary};
use mirror_tests::streams::flows;
use rustix::process::Signal;
use serde_json::{Value, json};

const STEPS: [&str; 3] = ["open", "get:/get/20000", "close"];
const NOBODY: &str = "65534";

/// A client that has ended: its process id, and what it said and heard.
fn client<S: AsRef<OsStr>>(scenario: &Scenario<'_>, words: &[S]) -> (u32, Vec<Connection>) {
    let process = Process::start_piped(&mut scenario.patched(words));
    let id = process.id();
    let run = Run::of(process.output());
    assert_eq!(run.code, Some(0), "{run:?}");
    (id, run.connections)
}

/// One that ends when a session of it is in the log: of a process that is gone the agent can't find out what it was.
fn logged_client<S: AsRef<OsStr>>(
    scenario: &Scenario<'_>,
    words: &[S],
    log: &Path,
) -> (u32, Vec<Connection>) {
    let lines = || {
        let text = fs::read_to_string(log).unwrap_or_default();
        text.matches('\n').count()
    };
    let before = lines();
    let directory = tempfile::tempdir_in(scenario.place.path("")).expect("a directory");
    // Some become another user.
    let everybody = fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), everybody).expect("whose it is");
    let file = directory.path().join("logged");
    let mut words: Vec<_> = words.iter().map(|word| word.as_ref().to_owned()).collect();
    words.push(format!("wait:{}", file.display()).into());
    let process = Process::start_piped(&mut scenario.patched(&words));
    let id = process.id();
    until("a session in the log", || (lines() > before).then_some(()));
    fs::write(file.with_extension("go"), "").expect("let it end");
    let run = Run::of(process.output());
    assert_eq!(run.code, Some(0), "{run:?}");
    (id, run.connections)
}

/// One that stays as it is behind these steps.
fn waiting(scenario: &Scenario<'_>, name: &str) -> Process {
    let path = scenario.place.path(name).display().to_string();
    let steps = ["open", "get:/get/1", &format!("wait:{path}")];
    let process = Process::start_piped(&mut scenario.patched(&scenario.words(&steps)));
    let here = PathBuf::from(format!("{path}.here"));
    until("a client that waits", || here.exists().then_some(()));
    process
}

fn network_namespace(of: &str) -> u64 {
    let file = fs::metadata(format!("/proc/{of}/ns/net"));
    file.expect("a namespace").ino()
}

/// All but the process.
fn assert_session(line: &Value, connection: &Connection, server: u16) {
    let expected = json!({
        "event_type": "session",
        "src_ip": "127.0.0.1", "src_port": connection.port,
        "dest_ip": "127.0.0.1", "dest_port": server,
        "proto": "TCP", "bound": "socket", "role": "client", "announced": "new",
        "bytes_toserver": connection.sent.len(), "bytes_toclient": connection.received.len(),
        "holes_toserver": 0, "holes_toclient": 0,
        "missed_bytes_toserver": 0, "missed_bytes_toclient": 0,
        "end": "finished",
    });
    for (field, value) in expected.as_object().expect("an object") {
        assert_eq!(&line[field], value, "{field}: {line}");
    }
    // TLS 1.3 has no others that both have by default.
    let tls = &line["tls"];
    let suites = json!({
        "4865": "TLS_AES_128_GCM_SHA256",
        "4866": "TLS_AES_256_GCM_SHA384",
        "4867": "TLS_CHACHA20_POLY1305_SHA256",
    });
    assert_eq!(
        (&tls["version"], &tls["version_number"]),
        (&json!("TLS 1.3"), &json!(772))
    );
    assert_eq!(
        suites[tls["cipher_number"].to_string()],
        tls["cipher"],
        "{tls}"
    );
    assert_eq!(
        (&tls["resumed"], &tls["early_data"]),
        (&json!(false), &json!("none"))
    );
    let duration = line["duration"].as_f64().expect("a number");
    assert!((0.0..600.0).contains(&duration), "{duration}");
    let (ts, end) = (line["ts"].as_str(), line["ts_end"].as_str());
    assert!(ts.expect("a time") <= end.expect("a time"), "{line}");
}

/// What tshark calls each connection in a capture, by its client's port.
fn community_ids(capture: &Path) -> BTreeMap<u16, String> {
    let syn = "tcp.flags.syn == 1 && tcp.flags.ack == 0";
    let lines = follow_with(capture, syn, &["tcp.srcport", "communityid"], "communityid");
    let fields = |line: &String| {
        let (port, id) = line.split_once('\t').expect("two fields");
        (port.parse().expect("a port"), id.to_owned())
    };
    lines.iter().map(fields).collect()
}

/// What Suricata calls the only connection from this address. (Of one whose ends have the same address it compares
/// the ports as they lie in memory: there it differs from the specification, and from tshark.)
fn id_by_suricata(place: &Place, capture: &Path, client: &str) -> String {
    let judge = place.path("judge");
    Suricata.read(capture, Profile::Sslcollector, &judge);
    let mut flows = parse_eve(&judge.join("eve.json"));
    flows.retain(|event| event["event_type"] == "flow" && event["src_ip"] == client);
    assert_eq!(flows.len(), 1, "{flows:?}");
    flows[0]["community_id"].as_str().expect("an id").to_owned()
}

fn parse_eve(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("Suricata's report");
    let events = text.lines().map(serde_json::from_str);
    events.map(|event| event.expect("JSON")).collect()
}

#[test]
fn each_session_is_told_with_its_process() {
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let (capture, log) = (place.path("out.pcapng"), place.path("sessions.jsonl"));
    let name = log.display().to_string();
    let agent = Agent::start(&place, &capture, &["--log", &name]);
    let twice = [&STEPS[..], &["open", "get:/get/1", "close"]].concat();
    let mut clients = vec![logged_client(&scenario, &scenario.words(&twice), &log)];
    let mut uids = vec![rustix::process::geteuid().as_raw()];
    if is_root() {
        let steps = [&["uid:1234"], &STEPS[..]].concat();
        clients.push(logged_client(&scenario, &scenario.words(&steps), &log));
        uids.push(1234);
    }
    // From another address than the server's.
    let request = r"printf 'GET /get/1 HTTP/1.0\r\n\r\n'";
    let port = scenario.nginx.port;
    let other = format!(
        "{request} | openssl s_client -quiet -bind 127.0.0.2:0 -connect 127.0.0.1:{port} -servername mirror.test -alpn http/1.1 -tls1_2"
    );
    run(&mut scenario.patched(&["sh", "-c", &other]));
    let sessions = 1 + clients.iter().map(|(_, said)| said.len()).sum::<usize>();
    let lines = await_lines(&log, sessions);
    let said = agent.end_well();
    assert!(
        said.contains(&format!("{sessions} sessions logged in {name}")),
        "{said}"
    );
    let ids = community_ids(&capture);
    let other = lines.iter().find(|line| line["src_ip"] == "127.0.0.2");
    let other = other.expect("the session of openssl");
    assert_eq!(
        other["community_id"],
        id_by_suricata(&place, &capture, "127.0.0.2")
    );
    assert_eq!(
        other["community_id"],
        ids[&u16::try_from(other["src_port"].as_u64().expect("a port")).expect("a port")]
    );
    assert_eq!(other["process"]["name"], "openssl");
    let tls = json!({
        "sni": "mirror.test", "alpn": "http/1.1", "version": "TLS 1.2", "version_number": 0x0303,
        "cipher": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "cipher_number": 0xc02c,
        "resumed": false, "early_data": "none",
    });
    let mut told = other["tls"].clone();
    let ja4 = told.as_object_mut().and_then(|tls| tls.remove("ja4"));
    assert_eq!(told, tls);
    let ja4 = ja4.expect("its ClientHello was seen").to_string();
    assert!(ja4.starts_with("\"t12d"), "{ja4}");
    let flows = flows(&Capture::read(&capture).expect("a capture")).expect("flows");
    assert_eq!(
        (lines.len(), flows.len(), ids.len()),
        (sessions, sessions, sessions)
    );
    let cgroups = fs::read_to_string("/proc/self/cgroup").expect("cgroups");
    for ((pid, connections), uid) in clients.iter().zip(uids) {
        for connection in connections {
            let line = of_port(&lines, connection.port);
            assert_session(line, connection, port);
            assert_eq!(line["community_id"], ids[&connection.port]);
            let process = &line["process"];
            let exe = place.path("attach").canonicalize().expect("a path");
            assert_eq!(process["executable"], exe.to_str().expect("UTF-8"));
            assert_eq!(
                (&process["pid"], &process["uid"]),
                (&json!(pid), &json!(uid))
            );
            assert_eq!(process["name"], "attach");
            assert_eq!(process["netns"], network_namespace("thread-self"));
            let cgroup = process["cgroup"].as_str().expect("a path");
            assert!(
                cgroups
                    .lines()
                    .any(|line| line.ends_with(&format!(":{cgroup}"))),
                "{cgroup}"
            );
            let flow = flows
                .iter()
                .find(|flow| flow.client.port() == connection.port);
            let comment = &flow.expect("a flow").comment;
            for field in [
                format!("flow={} ", line["session_id"].as_str().expect("an id")),
                format!(" community_id={} ", ids[&connection.port]),
                format!(" exe={} ", exe.display()),
                format!(" cgroup={cgroup} "),
                format!(" netns={} ", process["netns"]),
            ] {
                assert!(comment.contains(&field), "{field} in {comment}");
            }
        }
    }
    let mode = fs::metadata(&log).expect("a log").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    scenario.nginx.quit();
}

#[test]
fn how_sessions_end_is_told() {
    let place = Place::new(&[1]);
    let scenario = Scenario::new(&place);
    let log = place.path("sessions.jsonl");
    let name = log.display().to_string();
    let agent = Agent::sending(&place, &["-I", "none", "--log", &name]);
    let (killed, open) = (waiting(&scenario, "killed"), waiting(&scenario, "open"));
    let ids = [killed.id(), open.id()];
    killed.signal(Signal::KILL);
    let lines = await_lines(&log, 1);
    assert_eq!(lines[0]["end"], "died");
    assert_eq!(lines[0]["process"]["pid"], ids[0]);
    agent.end_well();
    let lines = read(&log);
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[1]["end"], "agent-ended");
    assert_eq!(lines[1]["process"]["pid"], ids[1]);
    assert_eq!(lines[1]["bytes_toserver"], lines[0]["bytes_toserver"]);
    drop(open);
    scenario.nginx.quit();
}

/// The agent and the server's clients are in different networks; one of these has a name.
#[test]
fn the_namespace_is_that_of_the_process() {
    if without_root("only root makes namespaces") {
        return;
    }
    let place = Place::new(&[1]);
    // Mounts are this thread's own from here on, and so are the names.
    let _disk = Disk::new(&place.path("disk"), 1);
    output_of(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
    fs::create_dir("/run/netns").expect("a directory");
    let log = place.path("sessions.jsonl");
    let name = log.display().to_string();
    let options = ["-I", "none", "--log", &name];
    let agent = Agent::sending(&place, &options);
    let its = network_namespace(&agent.process.id().to_string());
    let mut seen = Vec::new();
    for name in [None, Some("blue")] {
        enter_new_namespace();
        ip("link set lo up");
        if let Some(name) = name {
            let path = format!("/run/netns/{name}");
            fs::write(&path, "").expect("a file");
            output_of(Command::new("mount").args(["--bind", "/proc/self/ns/net", &path]));
        }
        let (home, namespace) = (Place::new(&[1]), network_namespace("thread-self"));
        let scenario = Scenario {
            place: &place,
            nginx: Nginx::new(&home),
        };
        scenario.nginx.start();
        if !place.path("attach").exists() {
            mirror_tests::attach::compile(&place.path("attach"), &[]);
        }
        let words = scenario.words(&["open", "get:/get/1", "close"]);
        let (pid, _) = logged_client(&scenario, &words, &log);
        let line = await_lines(&log, seen.len() + 1).pop().expect("a line");
        assert_eq!(line["process"]["pid"], pid);
        assert_eq!(line["process"]["netns"], namespace);
        assert_eq!(
            line["process"].get("netns_name"),
            name.map(|name| json!(name)).as_ref()
        );
        assert_ne!(namespace, its);
        seen.push(namespace);
        scenario.nginx.quit();
    }
    assert_ne!(seen[0], seen[1]);
    agent.end_well();
}

/// A control group, which goes when this is dropped.
struct Group(PathBuf);

impl Group {
    /// In whichever hierarchy groups can be made here, of either version of cgroups.
    fn new(name: &OsStr) -> Self {
        let root = Path::new("/sys/fs/cgroup");
        let parents = [root.to_owned(), root.join("unified"), root.join("pids")];
        let parent = parents
            .into_iter()
            .find(|it| it.join("cgroup.procs").exists());
        let path = parent.expect("a hierarchy of cgroups").join(name);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        until("the end of a cgroup", || fs::remove_dir(&self.0).ok());
    }
}

#[test]
fn names_that_programs_choose_break_nothing() {
    if without_root("only root makes cgroups") {
        return;
    }
    let place = Place::new(&[1]);
    let scenario = Scenario::new(&place);
    let (capture, log) = (place.path("out.pcapng"), place.path("sessions.jsonl"));
    let name = log.display().to_string();
    let agent = Agent::start(&place, &capture, &["-I", "none", "--log", &name]);
    let bad = OsString::from_vec(b"a\"},{\\\n\x1b[31m pid=1 \xc2\x9b\xff\xf0\x9f\x98\x80".to_vec());
    let exe = place.path("").join(&bad);
    fs::copy(place.path("attach"), &exe).expect("a copy");
    // The kernel allows no newline there.
    let id = format!("{:x}", std::process::id()).repeat(64)[..64].to_owned();
    let outer = Group::new(OsStr::from_bytes(b"sslc \"\\\x1b[31m\xff"));
    let inner = Group(outer.0.join(format!("docker-{id}.scope")));
    fs::create_dir(&inner.0).expect("a cgroup");
    let mut words: Vec<OsString> = vec![exe.clone().into(), scenario.nginx.port.to_string().into()];
    let mut group = OsString::from("cgroup:");
    group.push(&inner.0);
    words.push(group);
    words.extend(["open", "get:/get/1", "close"].map(OsString::from));
    let (_, connections) = logged_client(&scenario, &words, &log);
    let line = await_lines(&log, 1).pop().expect("a line");
    agent.end_well();
    let text = |path: &Path| String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    assert_eq!(line["process"]["executable"], text(&exe));
    assert_eq!(line["process"]["name"], text(Path::new(&bad)));
    let cgroup = line["process"]["cgroup"].as_str().expect("a path");
    assert!(text(&inner.0).ends_with(cgroup), "{cgroup}");
    assert_eq!(line["container"], json!({ "id": id, "runtime": "docker" }));
    let flows = flows(&Capture::read(&capture).expect("a capture")).expect("flows");
    let comment = &flows[0].comment;
    let is_plain = |byte: u8| (b' '..=b'~').contains(&byte);
    assert!(comment.bytes().all(is_plain), "{comment:?}");
    assert_eq!(comment.matches(" pid=").count(), 1, "{comment}");
    assert!(
        comment.contains(&format!(" container={id} runtime=docker ")),
        "{comment}"
    );
    assert_eq!(flows[0].client.port(), connections[0].port);
    drop((inner, outer));
    scenario.nginx.quit();
}

/// As logrotate does it, where the agent itself may do nothing.
#[test]
fn a_log_that_was_moved_is_begun_anew() {
    let place = Place::new(&[1]);
    let scenario = Scenario::new(&place);
    let private = place.path("private");
    fs::create_dir(&private).expect("a directory");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("a mode");
    let (log, moved) = (
        private.join("sessions.jsonl"),
        private.join("sessions.jsonl.1"),
    );
    let name = log.display().to_string();
    let user: &[&str] = if is_root() { &["--user", NOBODY] } else { &[] };
    let options = [&["-I", "none", "--log", &name], user].concat();
    let agent = Agent::sending(&place, &options);
    let words = scenario.words(&["open", "get:/get/1", "close"]);
    let (first, _) = client(&scenario, &words);
    await_lines(&log, 1);
    fs::rename(&log, &moved).expect("move it");
    let (second, _) = client(&scenario, &words);
    await_lines(&moved, 2);
    agent.signal(Signal::HUP);
    until("another log", || log.exists().then_some(()));
    let (third, _) = client(&scenario, &words);
    await_lines(&log, 1);
    agent.end_well();
    // What is there is gone on with.
    let agent = Agent::sending(&place, &options);
    let (fourth, _) = client(&scenario, &words);
    await_lines(&log, 2);
    agent.end_well();
    let pids = |path: &Path| -> Vec<Value> {
        let lines = read(path).into_iter();
        lines.map(|line| line["process"]["pid"].clone()).collect()
    };
    assert_eq!(pids(&moved), [first, second]);
    assert_eq!(pids(&log), [third, fourth]);
    for path in [log, moved] {
        let file = fs::metadata(&path).expect("a log");
        assert_eq!(file.uid(), rustix::process::geteuid().as_raw());
        assert_eq!(file.mode() & 0o777, 0o600);
    }
    scenario.nginx.quit();
}

#[test]
fn a_full_disk_is_waited_for() {
    if without_root("only root makes disks") {
        return;
    }
    let place = Place::new(&[1]);
    let disk = Disk::new(&place.path("disk"), 1);
    let scenario = Scenario::new(&place);
    let (capture, log) = (place.path("out.pcapng"), disk.path("sessions.jsonl"));
    let name = log.display().to_string();
    let agent = Agent::start(&place, &capture, &["-I", "none", "--log", &name]);
    let words = scenario.words(&["open", "get:/get/1", "close"]);
    let mut pids = vec![client(&scenario, &words).0];
    await_lines(&log, 1);
    disk.fill();
    // Until the rest of the file's last page is full, too.
    until("words on the disk", || {
        pids.push(client(&scenario, &words).0);
        agent.said().contains("no room left for").then_some(())
    });
    pids.push(client(&scenario, &words).0);
    parse(&fs::read_to_string(&log).expect("a log"));
    disk.empty();
    until("words on the end of it", || {
        let again = "is written again: no session is missing in it";
        agent.said().contains(again).then_some(())
    });
    pids.push(client(&scenario, &words).0);
    let lines = await_lines(&log, pids.len());
    let told: Vec<_> = lines
        .iter()
        .map(|line| line["process"]["pid"].clone())
        .collect();
    assert_eq!(told, pids);
    // And an end while it is full is a failure, which says what is missing.
    disk.fill();
    let full = agent.said().matches("no room left for").count();
    let mut missing = 0;
    until("words on the disk", || {
        client(&scenario, &words);
        missing += 1;
        (agent.said().matches("no room left for").count() > full).then_some(())
    });
    let mut agent = agent;
    agent.signal(Signal::TERM);
    let status = agent.process.wait();
    let said = agent.said();
    assert_eq!(status.code(), Some(1), "{said}");
    missing -= read(&log).len() - pids.len();
    let words = if missing == 1 {
        "1 session LOST"
    } else {
        &format!("{missing} sessions LOST")
    };
    assert!(said.contains(words), "{missing}: {said}");
    // The capture has them all.
    let flows = flows(&Capture::read(&capture).expect("a capture")).expect("flows");
    assert_eq!(flows.len(), read(&log).len() + missing);
    scenario.nginx.quit();
}

/// A collector tells what its host tells, and whose it is.
#[test]
fn a_collectors_log_is_the_hosts_and_has_its_name() {
    let (home, place) = (Place::new(&[]), Place::new(&[1, 20_000]));
    sensor::init(&home);
    let there = home.path("sessions.jsonl");
    let options = ["--log", &there.display().to_string()];
    let sensor = Sensor::start(&home, ([127, 0, 0, 1], 0).into(), &options);
    let token = sensor::token(&home, sensor.address, "web1", &[]);
    sensor::join(Command::new(binary()), &place, "agent", &token);
    let scenario = Scenario::new(&place);
    let here = place.path("sessions.jsonl");
    let tunnel = [
        "-I".to_owned(),
        "none".to_owned(),
        "-t".to_owned(),
        sensor.address.to_string(),
        "--state".to_owned(),
        place.path("agent").display().to_string(),
        "--log".to_owned(),
        here.display().to_string(),
    ];
    let tunnel: Vec<_> = tunnel.iter().map(String::as_str).collect();
    let agent = Agent::sending(&place, &tunnel);
    for _ in 0..3 {
        client(&scenario, &scenario.words(&STEPS));
    }
    let killed = waiting(&scenario, "killed");
    killed.signal(Signal::KILL);
    await_lines(&here, 4);
    let open = waiting(&scenario, "open");
    agent.end_well();
    drop(open);
    let mut ours = read(&here);
    let mut theirs = await_lines(&there, 5);
    sensor.end();
    let id = |line: &Value| line["session_id"].to_string();
    ours.sort_by_key(id);
    theirs.sort_by_key(id);
    for (our, their) in ours.iter_mut().zip(&theirs) {
        let our = our.as_object_mut().expect("an object");
        our.insert("agent".into(), json!("web1"));
        for (field, value) in their.as_object().expect("an object") {
            // Its agent's goodbye comes a little later.
            let later = our["end"] == "agent-ended" && ["ts_end", "duration"].contains(&&**field);
            assert!(
                later || our.get(field) == Some(value),
                "{field}: {our:?} {their}"
            );
        }
        assert_eq!(our.len(), their.as_object().expect("an object").len());
    }
    let ends = |lines: &[Value]| {
        let mut ends: Vec<_> = lines.iter().map(|line| line["end"].to_string()).collect();
        ends.sort();
        ends.join(" ").replace('"', "")
    };
    assert_eq!(ends(&theirs), "agent-ended died finished finished finished");
    scenario.nginx.quit();
}

#[test]
fn on_standard_output_there_is_nothing_else() {
    let place = Place::new(&[1]);
    let scenario = Scenario::new(&place);
    let words = scenario.words(&["open", "get:/get/1", "close"]);
    let mut command = sslcollector::run(&["--log", "-"]);
    command.args(&words);
    let output = run(&mut command);
    assert!(output.status.success(), "{output:?}");
    let lines = parse(&String::from_utf8(output.stdout).expect("text"));
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["process"]["name"], "attach");
    // What the program says for itself, and the summary, are beside it.
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("done\n") && said.contains("-- flow 1"),
        "{said}"
    );
    let both = run(Command::new(binary()).args(["run", "-w", "-", "--log", "-", "--", "true"]));
    assert_eq!(both.status.code(), Some(1));
    scenario.nginx.quit();
}
