//! An agent that stands still: the hook makes no system call for its sake and tries nothing again, requests
//! go on, and once the agent reads again, every connection that came and went meanwhile is accounted
//! for: closed with its hole declared, or, where the ring had no room from its beginning to its end, counted.
//! `make soak` does it for 20 seconds.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use mirror_tests::attach::{Run, Scenario};
use mirror_tests::faults::for_the_program_only;
use mirror_tests::load::{CONNECTIONS, ab, assert_all_answered};
use mirror_tests::nginx::{LogEntry, Nginx, Options};
use mirror_tests::place::Place;
use mirror_tests::process::{Process, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::Agent;
use mirror_tests::streams::{End, Flow, flows};
use rustix::process::Signal;

/// How many connections come and go, how long the agent stands still at least, and the ring's size.
fn amount() -> (usize, Duration, &'static str) {
    match std::env::var_os("MIRROR_SOAK") {
        Some(_) => (10_000, Duration::from_secs(20), "1M"),
        None => (1_000, Duration::ZERO, "256K"),
    }
}

#[test]
fn every_connection_is_accounted_for() {
    let (count, pause, ring) = amount();
    let place = Place::new(&[1024]);
    let options = Options {
        user: "www-data",
        ..Options::default()
    };
    let nginx = Nginx::with(&place, options);
    let file = place.path("capture.pcapng");
    let agent = Agent::start(&place, &file, &["-I", "none", "--ring-size", ring]);
    nginx.start_with(|command| agent.prepare(command));
    let url = format!("https://127.0.0.1:{}/get/1024", nginx.port);
    // The worker has found the agent, and has its ring, once the first is whole.
    assert_all_answered(ab(&url, CONNECTIONS), CONNECTIONS);
    until("the first flows", || {
        (ended(&live_flows(&file)?) >= CONNECTIONS).then_some(())
    });

    agent.process.signal(Signal::STOP);
    let begin = Instant::now();
    assert_all_answered(ab(&url, count), count);
    std::thread::sleep(pause.saturating_sub(begin.elapsed()));
    agent.process.signal(Signal::CONT);

    let all = count + CONNECTIONS;
    let settled = || {
        until("the ends of all sessions", || {
            let ended = ended(&live_flows(&file)?);
            let (sessions, unheard, bytes) = counts(&agent);
            (sessions == ended && sessions + unheard >= all).then_some((ended, unheard, bytes))
        })
    };
    // Before anybody leaves: nothing stays open.
    settled();
    nginx.quit();
    let (mirrored, unheard, untold_bytes) = settled();
    // ab, which was there twice, begins a few more at its end, on which it says nothing and of which nginx tells nothing: who
    // is busy hears of them late.
    let silent = mirrored + unheard - all;
    assert!(silent < 2 * CONNECTIONS, "{silent}");
    let mut process = agent.process;
    process.signal(Signal::TERM);
    assert!(process.wait().success());
    let said = place.text("agent.said");

    let capture = Capture::read(&file).expect("a capture");
    rules::assert_good(&capture, &said);
    let flows = flows(&capture).expect("flows");
    assert_eq!(flows.len(), mirrored, "{said}");
    // nginx's own account of each connection, by the port that it came from.
    let mut log: HashMap<u16, Vec<LogEntry>> = HashMap::new();
    for line in nginx.log() {
        log.entry(line.port).or_default().push(line);
    }
    let mut holes = 0;
    let (spoken, rest_of_silent): (Vec<_>, Vec<_>) = flows.iter().partition(|flow| speaks(flow));
    for flow in spoken {
        let lines = log.get_mut(&flow.client.port()).expect("nginx knows it");
        let line = lines.remove(0);
        let lengths = [
            ("client", flow.request.length(), line.request_length),
            ("server", flow.response.length(), line.bytes_sent),
        ];
        for (side, length, truth) in lengths {
            let tail = truth - length;
            let told = flow.end_comment.contains(&format!("{side}_missing={tail}"));
            assert!(tail == 0 || told, "{side}: {tail}: {flow:?}");
            holes += u64::from(tail > 0);
        }
        holes += (flow.request.holes().len() + flow.response.holes().len()) as u64;
    }
    // The rest left nothing but a count, which is right to the byte.
    let rest: Vec<_> = log.into_values().flatten().collect();
    assert_eq!(
        rest.len() + silent - rest_of_silent.len(),
        unheard,
        "{said}"
    );
    let bytes: u64 = rest
        .iter()
        .map(|line| line.request_length + line.bytes_sent)
        .sum();
    assert_eq!(untold_bytes, bytes, "{said}");
    assert!(unheard > count / 2, "the ring was never full: {said}");
    eprintln!(
        "the agent stood still for {:?}: {count} connections, {} of them mirrored and closed, with \
         {holes} holes; {unheard} counted, with {untold_bytes} bytes",
        begin.elapsed(),
        mirrored - CONNECTIONS,
    );
}

/// The flows of a capture that is being written.
fn live_flows(file: &std::path::Path) -> Option<Vec<Flow>> {
    flows(&Capture::read(file).ok()?).ok()
}

fn ended(flows: &[Flow]) -> usize {
    flows.iter().filter(|flow| flow.end != End::Open).count()
}

/// Whether there was any clear text on it, mirrored or missing.
fn speaks(flow: &Flow) -> bool {
    flow.request.length() + flow.response.length() > 0 || flow.end_comment.contains("_missing=")
}

/// What the agent counts now: sessions that it knows of; those that it was only told the number of; and
/// their bytes.
fn counts(agent: &Agent) -> (usize, usize, u64) {
    let before = agent.said().len();
    agent.process.signal(Signal::USR1);
    let said = until("the agent's counts", || {
        let said = agent.said();
        let new = &said[before..];
        new.contains(" of clear text").then(|| new.to_owned())
    });
    let number = |of: &str, word: usize| -> u64 {
        let line = said.lines().find(|line| line.contains(of));
        let words = line.map(|line| line.split_whitespace().collect::<Vec<_>>());
        words.map_or(0, |words| words[word].parse().expect("a number"))
    };
    let size = |number: u64| usize::try_from(number).expect("a count");
    // "sslcollector: N sessions of …", "sslcollector: N sessions not mirrored, with N bytes of …"
    (
        size(number(" of clear text", 1)),
        size(number("not mirrored, with", 1)),
        number("not mirrored, with", 6),
    )
}

/// The system calls of a program between two of its steps: with the stock library, and with the patched one
/// whose agent stands still.
#[test]
fn no_system_call_and_no_retry() {
    const PAGES: [usize; 2] = [1, 20_000];
    let place = Place::new(&PAGES);
    let scenario = Scenario::new(&place);
    let files = ["answered", "begin", "end"].map(|name| place.path(&format!("out/{name}")));
    let [answered, begin, end] = &files;
    let wait = |file: &std::path::Path| format!("wait:{}", file.display());
    // A ring of 64 KiB is full after a few of the large ones, and the small ones take what is left between
    // two of those: the connections that come then find no room for an OPEN, for which they would ask the
    // kernel where they are.
    let get = || "get:/get/1".to_owned();
    // Whoever was announced before the agent had answered is looked at once more when it has.
    let mut steps = vec!["open".to_owned(), get(), wait(answered), get(), wait(begin)];
    steps.extend(std::iter::repeat_n("get:/get/20000".to_owned(), 20));
    steps.extend(std::iter::repeat_with(get).take(40));
    for _ in 0..10 {
        steps.extend(["swap", "open", "get:/get/1", "close", "swap"].map(String::from));
        steps.extend(std::iter::repeat_n("get:/get/1".to_owned(), 5));
    }
    steps.extend([wait(end), "close".into()]);
    let words = scenario.words(&steps);

    let calls = |patched: bool| -> BTreeMap<String, usize> {
        for file in &files {
            for suffix in ["here", "go"] {
                let _ = std::fs::remove_file(file.with_extension(suffix));
            }
        }
        let agent = patched.then(|| scenario.agent_with("capture.pcapng", &["--ring-size", "64K"]));
        let log = place.path("strace");
        let mut trace = vec!["strace".to_owned(), "-o".into(), log.display().to_string()];
        trace.extend(words.iter().cloned());
        let command = match patched {
            true => for_the_program_only(&trace, &scenario.patched(&words)),
            false => trace,
        };
        let process = Process::start_piped(&mut scenario.stock(&command));
        let reached = |file: &std::path::Path| {
            let here = file.with_extension("here");
            until("the program to come so far", || here.exists().then_some(()));
        };
        let go_on = |file: &std::path::Path| {
            std::fs::write(file.with_extension("go"), "").expect("let it go on");
        };
        reached(answered);
        if agent.is_some() {
            let capture = place.path("capture.pcapng");
            until("the agent to mirror", || {
                live_flows(&capture)?.iter().any(speaks).then_some(())
            });
        }
        go_on(answered);
        reached(begin);
        if let Some(agent) = &agent {
            agent.signal(Signal::STOP);
        }
        go_on(begin);
        go_on(end);
        let run = Run::of(process.output());
        assert_eq!(run.code, Some(0), "{run:?}");
        let text = std::fs::read_to_string(&log).expect("strace's log");
        between(&text, "out/begin.go", "out/end.here")
    };
    let (stock, patched) = (calls(false), calls(true));
    // How often a program has to read, and to wait until there is something, depends on the peer.
    let by_chance = ["read", "poll", "rt_sigreturn", "restart_syscall"];
    let same = |calls: &BTreeMap<String, usize>| {
        let mut calls = calls.clone();
        calls.retain(|name, _| !by_chance.contains(&&**name));
        calls
    };
    assert_eq!(same(&patched), same(&stock));
    assert!(stock["write"] > 80, "{stock:?}");
    for name in by_chance {
        let known = stock.contains_key(name) || !patched.contains_key(name);
        assert!(known, "{name}: {patched:?}, not {stock:?}");
    }
    scenario.nginx.quit();
}

/// How often each call is in a log of strace between the last line with `from` and the first with `to`.
fn between(log: &str, from: &str, to: &str) -> BTreeMap<String, usize> {
    let lines: Vec<_> = log.lines().collect();
    let first = lines.iter().rposition(|line| line.contains(from));
    let last = lines.iter().position(|line| line.contains(to));
    let window = &lines[first.expect(from) + 1..last.expect(to)];
    let mut calls = BTreeMap::new();
    for line in window {
        if let Some((name, _)) = line.split_once('(') {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
    }
    calls
}
