//! `-w -`: whoever reads there stands still, reads on, goes away. Nobody else waits for it, and what it gets is true.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{Process, output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::service::Agent;
use mirror_tests::sslcollector;
use mirror_tests::streams::flows;
use rustix::process::Signal;

const MIB: usize = 1 << 20;
const SERVE: [&str; 6] = ["-I", "none", "--ring-size", "64M", "-w", "-"];

const READERS: [&str; 4] = [
    "--pcap-over-ip",
    "127.0.0.1:0",
    "--pcap-over-ip-format",
    "pcapng",
];

/// A reader of PCAP-over-IP where sslcollector says that they connect.
fn connect(said: impl Fn() -> String) -> TcpStream {
    let address: SocketAddr = until("a place to read", || {
        let said = said();
        let (_, rest) = said.split_once("readers of PCAP-over-IP connect to ")?;
        rest.lines().next()?.parse().ok()
    });
    let reader = TcpStream::connect(address).expect("a reader");
    until("a reader", || said().contains(" connected").then_some(()));
    reader
}

fn fetch(place: &Place, port: u16, transfer: &Transfer) {
    let server = (IpAddr::V4(Ipv4Addr::LOCALHOST), port);
    let script = transfer.script(place, server, Tls::V1_3);
    output_of(Command::new("sh").args(["-c", &script]));
}

/// Compares what a capture has with what the clients say; how much it hasn't.
fn missing(capture: &[u8], place: &Place, transfers: &[Transfer], said: &str) -> u64 {
    let capture = Capture::parse(capture).unwrap_or_else(|error| panic!("{error}: {said}"));
    rules::assert_good(&capture, said);
    let flows = flows(&capture).expect("flows");
    let missing = transfers.iter().map(|transfer| {
        let truth = transfer.truth(place);
        let flow = flows.iter().find(|flow| flow.client.port() == truth.port);
        let Some(flow) = flow else {
            return truth.response.len() as u64;
        };
        // One that begins late is another flow.
        if flow.comment.contains("restarted=") {
            return 0;
        }
        let difference = flow.response.difference_at_beginning(&truth.response);
        assert_eq!(difference, None, "{}: {said}", transfer.name);
        let behind = truth.response.len() as u64 - flow.response.length();
        behind + flow.response.missing()
    });
    missing.sum()
}

/// Reads to the end; counts meanwhile.
fn read_on(mut from: impl Read + Send + 'static) -> (thread::JoinHandle<Vec<u8>>, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    let reader = thread::spawn(move || {
        let (mut all, mut some) = (Vec::new(), vec![0; MIB]);
        loop {
            match from.read(&mut some).expect("a capture") {
                0 => return all,
                bytes => all.extend(&some[..bytes]),
            }
            counted.store(all.len() as u64, Ordering::Relaxed);
        }
    });
    (reader, count)
}

/// An agent, and nginx that it mirrors; its standard output is read by nobody yet.
fn start<'p>(place: &'p Place, options: &[&str]) -> (Agent, Nginx<'p>, ChildStdout) {
    let nginx = Nginx::new(place);
    let options = [&SERVE[..], options].concat();
    let mut agent = Agent::printing(place, &options, Stdio::piped());
    nginx.start_with(|command| agent.prepare(command));
    let stdout = agent.process.stdout().expect("a pipe");
    (agent, nginx, stdout)
}

#[test]
fn a_reader_who_stands_still_and_reads_on() {
    let place = Place::new(&[20_000, 20 * MIB]);
    let (agent, nginx, stdout) = start(&place, &READERS);
    let other = connect(|| agent.said());
    let (other, heard) = read_on(other);
    let mut transfers: Vec<_> = (0..6)
        .map(|number| Transfer {
            name: format!("large-{number}"),
            ..Transfer::get("get", 20 * MIB)
        })
        .collect();
    // The first one has the agent answer, so that there is room in the ring for the others.
    fetch(&place, nginx.port, &Transfer::get("get", 20_000));
    until("the first transfer", || {
        (heard.load(Ordering::Relaxed) > 20_000).then_some(())
    });
    for (number, transfer) in (1..).zip(&transfers) {
        fetch(&place, nginx.port, transfer);
        // The next one finds its ring empty. Nobody waits for who reads nothing.
        until("the other reader", || {
            (heard.load(Ordering::Relaxed) > number * 20 * MIB as u64).then_some(())
        });
    }
    let misses = "its reader stands still";
    until(misses, || agent.said().contains(misses).then_some(()));
    agent.signal(Signal::USR1);
    let holes = " of clear text are holes on standard output";
    until(holes, || agent.said().contains(holes).then_some(()));
    let (reader, _) = read_on(stdout);
    until("its reader reads on", || {
        agent.said().contains("its reader reads on").then_some(())
    });
    let last = Transfer {
        name: "last".to_owned(),
        ..Transfer::get("get", 20_000)
    };
    fetch(&place, nginx.port, &last);
    nginx.quit();
    let report = agent.end_well();
    assert!(!report.contains("LOST"), "{report}");
    transfers.push(last);
    let seen = reader.join().expect("a reader");
    assert!(missing(&seen, &place, &transfers, &report) > 0, "{report}");
    assert_eq!(
        missing(&seen, &place, &transfers[6..], &report),
        0,
        "{report}"
    );
    let seen = other.join().expect("a reader");
    assert_eq!(missing(&seen, &place, &transfers, &report), 0, "{report}");
}

#[test]
fn the_end_waits_for_nobody_who_stands_still() {
    let place = Place::new(&[20 * MIB]);
    let (mut agent, nginx, stdout) = start(&place, &[]);
    fetch(&place, nginx.port, &Transfer::get("get", 20 * MIB));
    nginx.quit();
    agent.signal(Signal::TERM);
    let status = agent.process.wait();
    drop(stdout);
    let said = agent.said();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("its reader takes too little"), "{said}");
}

#[test]
fn a_reader_who_goes_away_has_had_enough() {
    let place = Place::new(&[20_000]);
    let (mut agent, nginx, mut stdout) = start(&place, &[]);
    let mut head = [0; 24];
    stdout
        .read_exact(&mut head)
        .expect("what a capture begins with");
    drop(stdout);
    fetch(&place, nginx.port, &Transfer::get("get", 20_000));
    let status = agent.process.wait();
    let said = agent.said();
    nginx.quit();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(
        said.contains("standard output was closed by its reader"),
        "{said}"
    );
}

/// A program that has ended isn't hurried: its reader may begin when it likes. Nobody else waits for that.
#[test]
fn a_program_that_is_run_waits_for_its_reader() {
    let place = Place::new(&[20 * MIB]);
    let nginx = Nginx::new(&place);
    nginx.start();
    let transfer = Transfer::get("get", 20 * MIB);
    let server = (IpAddr::V4(Ipv4Addr::LOCALHOST), nginx.port);
    let script = transfer.script(&place, server, Tls::V1_3);
    let go = place.path("go");
    output_of(Command::new("mkfifo").arg(&go));
    // It stands until somebody writes there.
    let script = format!("cat {}\n{script}", go.display());
    let options = [&["--ring-size", "64M"], &READERS[..]].concat();
    let mut command = sslcollector::run_to(Path::new("-"), &options);
    command.args(["sh", "-c", &script]);
    let said = File::create(place.path("said")).expect("a file");
    command.stdout(Stdio::piped()).stderr(said);
    let mut process = Process::start(&mut command);
    let stdout = process.stdout().expect("a pipe");
    let other = connect(|| place.text("said"));
    let (other, _) = read_on(other);
    std::fs::write(&go, "").expect("say that it may go on");
    until("the other reader's end", || {
        other.is_finished().then_some(())
    });
    until("that somebody is waited for", || {
        place
            .text("said")
            .contains("waits for its reader")
            .then_some(())
    });
    let (reader, _) = read_on(stdout);
    assert!(process.wait().success());
    nginx.quit();
    let said = place.text("said");
    for reader in [reader, other] {
        let seen = reader.join().expect("a reader");
        assert_eq!(
            missing(&seen, &place, std::slice::from_ref(&transfer), &said),
            0
        );
    }
}
