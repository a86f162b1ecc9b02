//! An agent that root starts: two processes, of which the one that reads what programs write has no privilege, and the
//! other one does nothing but what it was told.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::attach::{Run, Scenario, assert_whole};
use mirror_tests::nats::NatsServer;
use mirror_tests::place::{Place, write_secret};
use mirror_tests::process::{Process, output_of, run, stdout_of, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::service::Agent;
use mirror_tests::sslcollector::{binary, serve};
use mirror_tests::streams::{End, flows};
use rustix::process::{Pid, Signal, kill_process};

const STEPS: [&str; 3] = ["open", "get:/get/20000", "close"];
/// Everywhere, by its number.
const NOBODY: &str = "65534";
/// Without it there is one process only.
const WHY: &str = "only root can be somebody else afterwards";
/// CAP_SYS_ADMIN, capabilities(7), as a bit.
const SYS_ADMIN: u64 = 1 << 21;

/// The values of a line of a process's status, proc_pid_status(5); `None`: there is no such process.
fn status(pid: u32, name: &str) -> Option<Vec<String>> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    Some(line?.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The helper of an agent.
fn helper_of(agent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").expect("/proc");
    let ids = processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let parent = Some(vec![agent.to_string()]);
    ids.into_iter().find(|id| status(*id, "PPid") == parent)
}

/// It lives, and isn't only waiting to be waited for.
fn lives(pid: u32) -> bool {
    status(pid, "State").is_some_and(|state| state[0] != "Z")
}

fn kill(pid: u32) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    kill_process(pid.expect("a process id"), Signal::KILL).expect("kill the helper");
}

fn assert_no_privilege(pid: u32, uid: &str) {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let threads: Vec<u32> = threads
        .map(|thread| {
            let name = thread.expect("a thread").file_name();
            name.to_string_lossy().parse().expect("a number")
        })
        .collect();
    assert!(threads.len() > 1, "{threads:?}");
    for thread in threads {
        for name in ["Uid", "Gid"] {
            let ids = status(thread, name).expect("a thread");
            assert!(
                ids.iter().all(|id| id == uid),
                "{name} of {thread}: {ids:?}"
            );
        }
        let groups = status(thread, "Groups").expect("a thread");
        assert!(groups.is_empty(), "{groups:?}");
        for name in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let set = status(thread, name).expect("a thread");
            assert_eq!(set, ["0000000000000000"], "{name} of {thread}");
        }
        assert_eq!(status(thread, "NoNewPrivs").expect("a thread"), ["1"]);
    }
    // Whose files in /proc are root's can't be looked into by others of its user.
    let owner = fs::metadata(format!("/proc/{pid}/environ")).expect("a process");
    assert_eq!(owner.uid(), 0, "{pid} can be dumped");
}

/// Other users' programs are mirrored as ever, with their names.
#[test]
fn the_agent_has_no_privilege_and_sees_what_it_has_to() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent_with("capture.pcapng", &["--user", NOBODY]);
    let helper = helper_of(agent.id()).expect("a helper");
    assert_no_privilege(agent.id(), NOBODY);
    assert_eq!(status(helper, "Uid").expect("a helper")[0], "0");
    // For entering namespaces a thread takes it that does nothing else.
    until("a helper that has given up SYS_ADMIN", || {
        let effective = status(helper, "CapEff")?.pop()?;
        let effective = u64::from_str_radix(&effective, 16).ok()?;
        (effective & SYS_ADMIN == 0).then_some(())
    });
    // It has nothing of the agent's: the connections on which it is asked, and what both were started with.
    let open = fs::read_dir(format!("/proc/{helper}/fd")).expect("a helper");
    let open = open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let open: Vec<_> = open.map(|path| path.display().to_string()).collect();
    let sockets = open
        .iter()
        .filter(|name| name.starts_with("socket:"))
        .count();
    assert_eq!(sockets, 2, "{open:?}");
    let others = ["capture.pcapng", "memfd:", "pidfd"];
    let has = |name: &String| others.iter().any(|other| name.contains(other));
    assert!(!open.iter().any(has), "{open:?}");

    let mut said = scenario.same(&STEPS);
    said.extend(scenario.same(&["uid:1234", "open", "get:/get/1", "close"]));
    said.extend(scenario.same(&["fork", "open", "get:/get/1", "close"]));
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_eq!(flows.len(), said.len());
    for connection in &said {
        assert_whole(&flows, connection);
    }
    let named = flows
        .iter()
        .all(|flow| flow.comment.contains("process=attach"));
    assert!(named, "{flows:?}");
    until("the end of the helper", || (!lives(helper)).then_some(()));
    // The capture is of who started it, and of nobody else.
    let capture = fs::metadata(place.path("capture.pcapng")).expect("a capture");
    assert_eq!((capture.uid(), capture.mode() & 0o777), (0, 0o600));
    assert!(!scenario.socket().exists(), "the socket file is left");
    scenario.nginx.quit();
}

#[test]
fn either_ends_with_the_other_or_goes_on_without() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let agent = Agent::start(&place, &place.path("killed.pcapng"), &["--user", NOBODY]);
    let helper = helper_of(agent.process.id()).expect("a helper");
    agent.signal(Signal::KILL);
    until("the end of a killed agent's helper", || {
        (!lives(helper)).then_some(())
    });
    drop(agent);

    let base = place.path("out.pcapng");
    let agent = Agent::start(&place, &base, &["--user", NOBODY, "--rotate-size", "1G"]);
    let first = scenario.same(&STEPS);
    kill(helper_of(agent.process.id()).expect("a helper"));
    until("words on the helper's end", || {
        agent.said().contains("helper is gone").then_some(())
    });
    // One more file is asked for, which nobody can open: it goes on in this one.
    agent.signal(Signal::HUP);
    let words = scenario.words(&["uid:1234", "open", "get:/get/20000", "close"]);
    let second = Run::of(run(&mut scenario.patched(&words))).connections;
    let file = place.path("out.00001.pcapng");
    until("both flows", || {
        let found = flows(&Capture::read(&file).ok()?).ok()?;
        (found.len() == 2).then_some(())
    });
    let said = agent.end_well();
    assert_eq!(said.matches("helper is gone").count(), 1, "{said}");
    let flows = flows(&Capture::read(&file).expect("a capture")).expect("flows");
    for connection in first.iter().chain(&second) {
        assert_whole(&flows, connection);
    }
    assert!(!place.path("out.00002.pcapng").exists());
    scenario.nginx.quit();
}

/// Files that are begun later are in a directory where the agent itself may do nothing.
#[test]
fn the_next_files_are_those_of_who_started_it() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1]);
    let directory = place.path("private");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("a mode");
    let options = ["--user", NOBODY, "--rotate-time", "1d", "--keep", "2"];
    let agent = Agent::start(&place, &directory.join("out.pcapng"), &options);
    for number in 2..=4 {
        agent.signal(Signal::HUP);
        let next = directory.join(format!("out.{number:05}.pcapng"));
        until("the next file", || next.exists().then_some(()));
        let file = fs::metadata(&next).expect("a file");
        assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o600));
    }
    agent.end_well();
    let left = fs::read_dir(&directory).expect("a directory").count();
    assert_eq!(left, 2);
}

/// `--user root` is one process, as it is without root.
#[test]
fn who_wants_to_stay_root_does() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1]);
    let agent = Agent::start(&place, &place.path("root.pcapng"), &["--user", "root"]);
    assert_eq!(helper_of(agent.process.id()), None);
    assert_eq!(status(agent.process.id(), "Uid").expect("an agent")[0], "0");
    agent.end_well();

    let unknown = run(Command::new(binary()).args(["-w", "-", "--user", "no such user"]));
    assert_eq!(unknown.status.code(), Some(2));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains("there is no user 'no such user'"), "{said}");
}

/// Containers often lack the right to change the user. It says so, and mirrors.
#[test]
fn without_the_right_to_change_the_user_it_says_so() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let listens = serve(&place.path("capture.pcapng"), &scenario.socket());
    let mut agent = Command::new("setpriv");
    agent.args(["--bounding-set", "-setuid,-setgid", "--inh-caps", "-all"]);
    agent.arg(listens.get_program()).args(listens.get_args());
    let said = fs::File::create(place.path("said")).expect("a file");
    let agent = Process::start(agent.stdout(Stdio::null()).stderr(said));
    until("the agent to listen", || {
        place.text("said").contains("agent.sock").then_some(())
    });
    let text = place.text("said");
    let words = ["no right to become user", "goes on as root", "--user root"];
    assert!(words.iter().all(|words| text.contains(words)), "{text}");
    let connections = scenario.same(&STEPS);
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_whole(&flows, &connections[0]);
    scenario.nginx.quit();
}

/// The pair that `--create` makes is made by the helper, and packets are sent by the agent.
#[test]
fn an_interface_is_made_by_the_helper() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1]);
    let said = place.path("said");
    // Nobody else may enter the directory, the agent neither.
    fs::set_permissions(place.directory(), fs::Permissions::from_mode(0o700)).expect("a mode");
    // In a network of its own, which goes with it.
    let mut agent = Command::new("unshare");
    agent.args(["--net", "--"]).arg(binary());
    agent.args([
        "-o", "mirror0", "--create", "-I", "none", "--user", NOBODY, "--socket",
    ]);
    agent.arg(place.path("agent.sock"));
    let file = fs::File::create(&said).expect("a file");
    let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(file));
    until("the agent to listen", || {
        assert!(!agent.ended(), "{}", place.text("said"));
        place.text("said").contains("agent.sock").then_some(())
    });
    assert!(place.text("said").contains("made mirror0"));
    assert_no_privilege(agent.id(), NOBODY);
    let interfaces = format!("/proc/{}/net/dev", agent.id());
    let interfaces = fs::read_to_string(Path::new(&interfaces)).expect("interfaces");
    assert!(interfaces.contains("mirror0-tap"), "{interfaces}");

    // One that is made anew needs no privilege to be sent on.
    let ip = |words: &str| {
        let network = format!("--net=/proc/{}/ns/net", agent.id());
        let mut ip = Command::new("nsenter");
        output_of(ip.args([&network, "ip", "link"]).args(words.split(' ')));
    };
    ip("del mirror0");
    until("words on the missing interface", || {
        // Whether it is gone, down or without a carrier that is noticed first, nobody knows.
        let words = "packets are lost until it is back";
        place.text("said").contains(words).then_some(())
    });
    ip("add mirror0 up type veth peer name other");
    ip("set other up");
    until("words on the new interface", || {
        place.text("said").contains("mirror0 is back").then_some(())
    });
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    assert!(
        !place.path("agent.sock").exists(),
        "the socket file is left"
    );
}

/// Both ends of a tunnel have threads before they give up privileges: these have none either.
#[test]
fn neither_end_of_a_tunnel_has_a_privilege() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    // Where nobody but root can get to.
    let hidden = place.path("hidden");
    fs::create_dir(&hidden).expect("a directory");
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).expect("a mode");
    let [here, there] = ["collector", "host"].map(|end| hidden.join(end).display().to_string());
    let of = |words: &[&str]| output_of(Command::new(binary()).args(words));
    of(&["-C", "--init", "--name", "127.0.0.1", "--state", &here]);
    let begin = |options: &[&str], said: &str, words: &str| {
        let file = fs::File::create(place.path(said)).expect("a file");
        let mut command = Command::new(binary());
        command.args(options).args(["--user", NOBODY]);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(file));
        until(words, || {
            assert!(!process.ended(), "{}", place.text(said));
            place.text(said).contains(words).then_some(())
        });
        process
    };
    let capture = place.path("capture.pcapng").display().to_string();
    let listen = [
        "-C",
        "-w",
        &capture,
        "--listen",
        "127.0.0.1:0",
        "--state",
        &here,
    ];
    let mut collector = begin(&listen, "collector.said", "collecting at");
    let text = place.text("collector.said");
    let address = text.split("collecting at ").nth(1).expect("an address");
    let address = address.split(';').next().expect("an address");
    let token = [
        "enroll",
        "--address",
        address,
        "--name",
        "host",
        "--net",
        "127.0.0.0/8",
        "--state",
        &here,
    ];
    let token = stdout_of(Command::new(binary()).args(token));
    // The registry is written by a collector that is nobody.
    of(&["join", token.trim(), "--state", &there]);
    let (socket, spool) = (scenario.socket(), place.path("out").display().to_string());
    let socket = socket.display().to_string();
    let send = [
        "-t", address, "-I", "none", "--spool", &spool, "--socket", &socket, "--state", &there,
    ];
    let mut agent = begin(&send, "agent.said", "agent.sock");
    for process in [&collector, &agent] {
        assert_no_privilege(process.id(), NOBODY);
    }
    // What root has changed since can be read.
    of(&["agents", "allow", "host", "127.0.0.0/16", "--state", &here]);
    collector.signal(Signal::HUP);
    until("the registry to be read anew", || {
        place
            .text("collector.said")
            .contains("reloaded")
            .then_some(())
    });
    let said = scenario.same(&STEPS);
    agent.signal(Signal::TERM);
    assert!(agent.wait().success(), "{}", place.text("agent.said"));
    let helper = helper_of(collector.id()).expect("a helper");
    collector.signal(Signal::TERM);
    assert!(
        collector.wait().success(),
        "{}",
        place.text("collector.said")
    );
    until("the end of the helper", || (!lives(helper)).then_some(()));
    // SIGHUP began another file.
    let found = flows(&Capture::read(&place.path("capture.00001.pcapng")).expect("a capture"));
    assert_whole(&found.expect("flows"), &said[0]);
    scenario.nginx.quit();
}

/// Whose the sockets of this machine are that are connected to a port, by the number of the user who made them.
fn owners(port: u16) -> Vec<String> {
    let table = fs::read_to_string("/proc/net/tcp").expect("a table");
    let to = format!("0100007F:{port:04X}");
    let owner = |line: &str| {
        let words: Vec<_> = line.split_ascii_whitespace().collect();
        (words.get(2) == Some(&to.as_str())).then(|| words[7].to_owned())
    };
    table.lines().filter_map(owner).collect()
}

/// Neither end speaks to a broker, nor to a reader, before it has given up its privileges.
#[test]
fn neither_side_of_a_broker_has_a_privilege() {
    if without_root(WHY) {
        return;
    }
    let place = Place::new(&[1, 20_000]);
    let scenario = Scenario::new(&place);
    let broker = NatsServer::start(place.directory());
    let keys = place.path("keys");
    fs::create_dir(&keys).expect("a directory");
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o700)).expect("a mode");
    let [fleet, own] = ["fleet.key", "own.key"].map(|key| keys.join(key).display().to_string());
    let of = |words: &[&str]| stdout_of(Command::new(binary()).args(words));
    of(&["fleet-key", "--fleet-key", &fleet, "init"]);
    let key = of(&["fleet-key", "--fleet-key", &fleet, "agent", "web"]);
    write_secret(Path::new(&own), &key);
    let url = broker.url();
    let capture = place.path("capture.pcapng").display().to_string();
    let socket = scenario.socket().display().to_string();
    let begin = |options: &[&str], said: &str, words: &str| {
        let file = fs::File::create(place.path(said)).expect("a file");
        let mut command = Command::new(binary());
        command.args(options).args(["--user", NOBODY]);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(file));
        until("a connection to the broker", || {
            assert!(!process.ended(), "{}", place.text(said));
            let text = place.text(said);
            (text.contains("connected to the broker") && text.contains(words)).then_some(())
        });
        process
    };
    let collect = ["-C", "--from", &url, "--fleet-key", &fleet, "-w", &capture];
    let mut collector = begin(&collect, "collector.said", "");
    let send = [
        "-t",
        &url,
        "--fleet-key",
        &own,
        "-I",
        "none",
        "--socket",
        &socket,
    ];
    let send = [&send[..], &["--pcap-over-ip", "127.0.0.1:0"]].concat();
    let mut agent = begin(&send, "agent.said", "agent.sock");
    for process in [&collector, &agent] {
        assert_no_privilege(process.id(), NOBODY);
    }
    let port = url.rsplit(':').next().and_then(|port| port.parse().ok());
    let owners = owners(port.expect("a port"));
    assert_eq!(owners, [NOBODY, NOBODY], "who has spoken to the broker");

    let said = scenario.same(&STEPS);
    agent.signal(Signal::TERM);
    assert!(agent.wait().success(), "{}", place.text("agent.said"));
    until("the flow in the capture", || {
        let found = flows(&Capture::read(Path::new(&capture)).ok()?).ok()?;
        (found.first()?.end != End::Open).then_some(())
    });
    collector.signal(Signal::TERM);
    assert!(
        collector.wait().success(),
        "{}",
        place.text("collector.said")
    );
    let found = flows(&Capture::read(Path::new(&capture)).expect("a capture"));
    assert_whole(&found.expect("flows"), &said[0]);
    scenario.nginx.quit();
}
