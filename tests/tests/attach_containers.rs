//! Programs and agents that don't see each other's processes and files: containers, made with unshare(1). And filters
//! that kill.

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use mirror_tests::attach::{Run, Scenario, assert_whole};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, run, send, until, without_root};
use mirror_tests::reader::Capture;
use mirror_tests::sslcollector::{library_dir, serve};
use mirror_tests::streams::flows as flows_of;
use rustix::process::Signal;

const PAGES: [usize; 2] = [1, 20_000];
/// nobody
const USER: &str = "65534";

/// The system calls of attach that a TLS client can do without once it is connected.
const CALLS: [&str; 8] = [
    "socket",
    "connect",
    "getsockopt",
    "prlimit64",
    "memfd_create",
    "ftruncate",
    "fcntl",
    "sendmsg",
];

/// A filter can't be asked whether it would kill. So who isn't enabled makes no call at all.
#[test]
fn under_a_filter_that_kills_lives_who_is_not_enabled() {
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let agent = scenario.agent("capture.pcapng");
    for call in CALLS {
        let deny = format!("deny:{call}:0");
        let words = scenario.words(&["tcp", &deny, "handshake", "get:/get/20000", "close"]);
        let stock = Run::of(run(&mut scenario.stock(&words)));
        assert_eq!(stock.code, Some(0), "{call}: {stock:?}");
        let mut command = scenario.patched(&words);
        command.env_remove("SSLCOLLECTOR_SOCKET");
        Run::of(run(&mut command)).assert_same(&stock, call);
        // It is a filter that kills: an enabled program dies of it. Who enables one has to know that.
        let enabled = run(&mut scenario.patched(&words));
        assert_eq!(enabled.status.signal(), Some(31), "{call}: SIGSYS");
    }
    scenario.flows(agent, "capture.pcapng");
    scenario.nginx.quit();
}

/// A root directory with the system's programs, and what an operator puts into a container: the library, and the
/// directory in which the agent's socket is. Prints what has to be run to get into it.
fn container(place: &Place) -> String {
    let root = place.path("root");
    let mut script = String::from("set -e\n");
    let mut bind = |from: &Path, to: &str| {
        let to = root.join(to);
        fs::create_dir_all(&to).expect("make a directory");
        script += &format!("mount --bind {} {}\n", from.display(), to.display());
    };
    bind(Path::new("/usr"), "usr");
    bind(&library_dir(), "mirror/lib");
    bind(&place.path("run"), "mirror/run");
    bind(place.directory(), "program");
    for name in ["lib", "lib64", "bin"] {
        // Links into /usr, or directories of their own.
        match fs::read_link(Path::new("/").join(name)) {
            Ok(link) => std::os::unix::fs::symlink(link, root.join(name)).expect("make a link"),
            Err(_) if Path::new("/").join(name).exists() => {
                bind(&Path::new("/").join(name), name);
            }
            Err(_) => {}
        }
    }
    fs::create_dir_all(root.join("proc")).expect("make a directory");
    script += &format!("mount -t proc proc {}/proc\n", root.display());
    script + &format!("exec chroot {} \"$@\"\n", root.display())
}

/// Namespaces of its own for processes and mounts.
fn unshared(words: &[String]) -> Vec<String> {
    let unshare = [
        "unshare",
        "--pid",
        "--mount",
        "--fork",
        "--kill-child",
        "--",
    ];
    let mut all: Vec<_> = unshare.map(str::to_owned).into();
    all.extend_from_slice(words);
    all
}

#[test]
fn a_program_in_a_container() {
    if without_root("only root can make one without another user namespace") {
        return;
    }
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let script = container(&place);
    // What it says with the distribution's library, it says with the other one, which trusts an agent of user `uid`.
    let in_container = |user: &str, uid: &str| {
        let user = format!("uid:{user}");
        let steps = [
            "tcp",
            "unshare:net",
            &user,
            "handshake",
            "get:/get/20000",
            "close",
        ];
        let mut words = scenario.words(&steps);
        words[0] = "/program/attach".to_owned();
        let shell = ["sh", "-c", &script, "sh"].map(str::to_owned);
        let words = unshared(&[&shell[..], &words].concat());
        let stock = Run::of(run(&mut scenario.stock(&words)));
        assert_eq!(stock.code, Some(0), "{stock:?}");
        let mut command = scenario.stock(&words);
        command.env("LD_LIBRARY_PATH", "/mirror/lib");
        command.env("SSLCOLLECTOR_SOCKET", "/mirror/run/agent.sock");
        let patched = Run::of(run(command.env("SSLCOLLECTOR_AGENT_UID", uid)));
        patched.assert_same(&stock, uid);
        patched.connections
    };
    let agent = scenario.agent("capture.pcapng");
    let said = in_container("0", "0");
    let flows = scenario.flows(agent, "capture.pcapng");
    assert_eq!(flows.len(), 1);
    assert_whole(&flows, &said[0]);
    let comment = &flows[0].comment;
    assert!(comment.contains("process=attach"), "{comment}");

    // An agent of another user's.
    let directory = place.path("run");
    output_of(Command::new("chown").args(["-R", USER]).arg(&directory));
    let capture = directory.join("second.pcapng");
    let listens = serve(&capture, &scenario.socket());
    let mut agent = Command::new("setpriv");
    agent.args(["--reuid", USER, "--regid", USER, "--clear-groups"]);
    // Which may not look into where the first one lies.
    let binary = place.path("sslcollector");
    fs::copy(listens.get_program(), &binary).expect("copy the agent");
    agent.arg(binary).args(listens.get_args());
    let report = File::create(place.path("report")).expect("a file");
    let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(report));
    until("the agent to listen", || {
        place.text("report").contains("agent.sock").then_some(())
    });
    // Who isn't told to trust it shows it nothing. It takes its own user's programs, and refuses the others.
    in_container(USER, "0");
    in_container("0", USER);
    let said = in_container(USER, USER);
    agent.signal(Signal::TERM);
    assert!(agent.wait().success());
    let read = Capture::read(&capture).expect("a capture");
    let flows = flows_of(&read).expect("flows");
    assert_eq!(flows.len(), 1);
    // Without the right to watch handshakes; the addresses are the socket's all the same.
    assert_whole(&flows, &said[0]);
    let report = place.text("report");
    let refused = "1 request to be mirrored refused: the user is not allowed (1)";
    assert!(report.contains(refused), "{report}");
    scenario.nginx.quit();
}

/// The programs that it serves have no pid where it is.
#[test]
fn an_agent_in_a_container() {
    if without_root("only root can make one without another user namespace") {
        return;
    }
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let command = serve(&place.path("capture.pcapng"), &scenario.socket());
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let words = unshared(&words);
    let mut agent = Command::new(&words[0]);
    agent.args(&words[1..]);
    let mut agent = Process::start(agent.stdout(Stdio::null()).stderr(Stdio::piped()));
    let said = agent.first_words();
    assert!(said.contains("agent.sock"), "{said}");
    let inner = child_of(agent.id());

    let steps = [
        "open",
        "get:/get/20000",
        "get:/get/1",
        "close",
        "open",
        "get:/get/20000",
        "close",
    ];
    let said = scenario.same(&steps);
    let forked = scenario.same(&["fork", "open", "get:/get/20000", "close"]);
    until("the flows", || {
        let read = Capture::read(&place.path("capture.pcapng"));
        let flows = flows_of(&read.ok()?).ok()?;
        (flows.len() == 3).then_some(())
    });
    send(inner, Signal::TERM);
    assert!(agent.wait().success());
    let read = Capture::read(&place.path("capture.pcapng"));
    let flows = flows_of(&read.expect("a capture")).expect("flows");
    for connection in said.iter().chain(&forked) {
        assert_whole(&flows, connection);
    }
    scenario.nginx.quit();
}

/// The only child of a process.
fn child_of(parent: u32) -> u32 {
    let line = format!("PPid:\t{parent}\n");
    let is_child = |id: &u32| {
        let status = fs::read_to_string(format!("/proc/{id}/status"));
        status.is_ok_and(|status| status.contains(&line))
    };
    let processes = fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(is_child)
        .expect("a child")
}
