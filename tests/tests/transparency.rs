//! The same program prints the same, and ends with the same status: with the stock library, with the
//! patched one and no agent, with an agent, with an agent that is killed in the middle.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use mirror_tests::client;
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, run, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sslcollector::{library_dir, serve};
use mirror_tests::streams::flows;
use rustix::process::Signal;

const BULK: usize = 20 << 20;

/// How the program is run.
enum Way<'a> {
    Stock,
    /// The patched library, and a socket at which somebody listens, or nobody.
    Patched(&'a Path),
}

fn prepare(command: &mut Command, way: &Way<'_>) {
    command.env_remove("LD_LIBRARY_PATH");
    if let Way::Patched(socket) = way {
        let uid = rustix::process::geteuid().as_raw().to_string();
        command.env("LD_LIBRARY_PATH", library_dir());
        command.env("SSLCOLLECTOR_SOCKET", socket);
        command.env("SSLCOLLECTOR_AGENT_UID", uid);
    }
}

/// Starts an agent and waits until it listens.
fn agent(place: &Place, socket: &Path) -> Process {
    let mut command = serve(&place.path("capture.pcapng"), socket);
    let mut agent = Process::start(command.stdout(Stdio::null()).stderr(Stdio::piped()));
    let said = agent.first_words();
    assert!(said.contains("agent.sock"), "{said}");
    agent
}

/// curl says how long it tried (`after 3 ms`), which no two runs have in common.
fn without_durations(text: &str) -> String {
    let words: Vec<_> = text.split(' ').collect();
    let is_duration = |index: usize| {
        words[index].parse::<u32>().is_ok()
            && words
                .get(index + 1)
                .is_some_and(|unit| unit.starts_with("ms"))
    };
    let kept = (0..words.len()).map(|index| match is_duration(index) {
        true => "N",
        false => words[index],
    });
    kept.collect::<Vec<_>>().join(" ")
}

#[test]
fn durations_are_all_that_is_left_out() {
    let said = "curl: (7) Failed to connect to 127.0.0.1 port 1 after 12 ms: Couldn't connect\n";
    assert_eq!(without_durations(said), said.replace("12 ms", "N ms"));
}

/// Everything that a user can see.
fn seen(output: Output) -> (String, String, Option<i32>) {
    (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
        output.status.code(),
    )
}

#[test]
fn a_program_with_its_own_socket() {
    let place = Place::new(&[1, 20_000, BULK]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let half = format!("half:/get/{BULK}");
    let steps = [
        "get:/get/1",
        &half,
        "verify",
        "close",
        "get:/get/20000",
        "get:/post/404",
    ];
    // In each way the program waits in the middle of the bulk, where the agent may be killed.
    let program = |way: Way<'_>, in_the_middle: &mut dyn FnMut()| {
        for name in ["out/half", "out/go"] {
            let _ = std::fs::remove_file(place.path(name));
        }
        let mut command = client::command(&place, nginx.port, &steps);
        prepare(&mut command, &way);
        let process = Process::start_piped(&mut command);
        until("the middle of the transfer", || {
            place.path("out/half").exists().then_some(())
        });
        in_the_middle();
        std::fs::write(place.path("out/go"), "").expect("let it go on");
        seen(process.output())
    };
    let stock = program(Way::Stock, &mut || ());
    assert_eq!(stock.2, Some(0), "{stock:?}");
    assert!(stock.0.contains("HTTP/1.1 200 OK 20971520 "), "{stock:?}");

    let socket = place.path("agent.sock");
    assert_eq!(
        program(Way::Patched(&socket), &mut || ()),
        stock,
        "no agent"
    );

    let mut mirror = agent(&place, &socket);
    assert_eq!(
        program(Way::Patched(&socket), &mut || ()),
        stock,
        "an agent"
    );
    mirror.signal(Signal::TERM);
    assert!(mirror.wait().success());
    let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
    rules::assert_good(&capture, "an agent that serves");
    let seen = flows(&capture).expect("flows");
    // The connection that `verify` gives up has no clear text.
    let text: Vec<_> = seen
        .iter()
        .filter(|flow| flow.request.length() > 0)
        .collect();
    assert_eq!(text.len(), 2, "flows with clear text");

    let mut mirror = agent(&place, &socket);
    let killed = program(Way::Patched(&socket), &mut || mirror.signal(Signal::KILL));
    assert_eq!(killed, stock, "an agent that is killed");
    mirror.wait();
    nginx.quit();
}

/// curl gives its library no socket, and has errors of its own to print.
#[test]
fn curl_prints_the_same() {
    let place = Place::new(&[1, 20_000, 1 << 20]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let port = nginx.port;
    let cases = [
        format!("-k https://127.0.0.1:{port}/get/1048576"),
        format!("-k https://127.0.0.1:{port}/get/20000 https://127.0.0.1:{port}/get/1"),
        format!("-k -d x=y https://127.0.0.1:{port}/post/1"),
        // Not trusted; not there; a server that speaks no TLS of that version.
        format!("https://127.0.0.1:{port}/get/1"),
        "-k https://127.0.0.1:1/".to_owned(),
        format!("-k --ciphers NULL --tls-max 1.2 https://127.0.0.1:{port}/get/1"),
    ];
    let socket = place.path("agent.sock");
    let program = |way: &Way<'_>, case: &str| {
        let mut command = Command::new("curl");
        command.args([
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "-w",
            "%{http_code} %{ssl_verify_result}",
        ]);
        prepare(command.args(case.split(' ')), way);
        let (stdout, stderr, code) = seen(run(&mut command));
        (stdout, without_durations(&stderr), code)
    };
    let all = |way: Way<'_>| {
        cases
            .iter()
            .map(|case| program(&way, case))
            .collect::<Vec<_>>()
    };
    let stock = all(Way::Stock);
    let codes: Vec<_> = stock.iter().map(|seen| seen.2).collect();
    assert_eq!(codes, [0, 0, 0, 60, 7, 35].map(Some), "{stock:?}");
    let assert_same = |what: &str| {
        let patched = all(Way::Patched(&socket));
        for ((case, patched), stock) in cases.iter().zip(&patched).zip(&stock) {
            assert!(patched.0 == stock.0, "{what}: {case}: other output");
            assert_eq!(
                (&patched.1, patched.2),
                (&stock.1, stock.2),
                "{what}: {case}"
            );
        }
    };
    assert_same("no agent");
    let mut mirror = agent(&place, &socket);
    assert_same("an agent");
    mirror.signal(Signal::INT);
    assert!(mirror.wait().success());
    let capture = Capture::read(&place.path("capture.pcapng")).expect("a capture");
    rules::assert_good(&capture, "curl");
    nginx.quit();
}
