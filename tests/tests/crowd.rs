//! A collector at whose door thousands stand who never say who they are: whoever belongs there is served all the same.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mirror_tests::crowd::{Crowd, allow_descriptors};
use mirror_tests::curl::{Tls, Transfer};
use mirror_tests::network::{enter_new_namespace, ip};
use mirror_tests::nginx::Nginx;
use mirror_tests::place::Place;
use mirror_tests::process::{output_of, until};
use mirror_tests::reader::Capture;
use mirror_tests::rules;
use mirror_tests::sensor::{self, Sensor};
use mirror_tests::sslcollector::{binary, library_dir};
use mirror_tests::streams::flows;
use rustix::process::Signal;

const CROWD: usize = 10_000;
/// What a collector keeps open of those that it doesn't know, and what may be about to close; as docs/security.md
/// says.
const KEPT: usize = 1024 + 128;
/// What it may take for them, in bytes: a kernel's page and TLS's buffers for each.
const MEMORY: usize = KEPT * 80 * 1024;
const PAGE: usize = 20_000;

/// What a process has open, and its memory in bytes.
fn footprint(id: u32) -> (usize, usize) {
    let descriptors = fs::read_dir(format!("/proc/{id}/fd")).expect("its descriptors");
    let status = fs::read_to_string(format!("/proc/{id}/status")).expect("its status");
    let field = |name: &str| -> usize {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        number.expect("a number")
    };
    (descriptors.count(), field("VmRSS:") * 1024)
}

/// Half of them from a few addresses, which have more than one may have.
fn source(number: usize) -> Ipv4Addr {
    let last = |of: usize| u8::try_from(number / 2 % of + 1).expect("a byte");
    match number % 2 {
        0 => Ipv4Addr::new(127, 0, 1, last(10)),
        _ => Ipv4Addr::new(127, 0, 2, last(250)),
    }
}

/// How often somebody was refused for this reason, by the last report.
fn refused(said: &str, reason: &str) -> usize {
    let line = said
        .lines()
        .rev()
        .find(|line| line.contains("connections refused: "));
    let count = line.and_then(|line| {
        let (_, rest) = line.split_once(&format!("{reason} "))?;
        rest.split(',').next()?.parse().ok()
    });
    count.unwrap_or(0)
}

/// A host's agent connects, tells of a transaction, and ends.
fn transaction(place: &Place, sensor: &Sensor, nginx: &Nginx<'_>, name: &str) -> u64 {
    let transfer = Transfer {
        name: name.into(),
        ..Transfer::get("get", PAGE)
    };
    let script = transfer.script(place, (IpAddr::from([127, 0, 0, 1]), nginx.port), Tls::V1_3);
    let mut command = Command::new(binary());
    command.args(["run", "-I", "lo", "-t", &sensor.address.to_string()]);
    command.args(["--linger", "60s"]);
    command.arg("--state").arg(place.path("agent"));
    command.arg("--library-dir").arg(library_dir()).arg("--");
    let said = output_of(command.args(["sh", "-c", &script]));
    assert!(said.contains("all acknowledged"), "{said}");
    transfer.truth(place).response.len() as u64
}

#[test]
fn ten_thousand_that_never_finish_their_handshake_keep_nobody_out() {
    enter_new_namespace();
    ip("link set lo up");
    allow_descriptors(CROWD as u64 + 2000);
    let (home, place) = (Place::new(&[]), Place::new(&[PAGE]));
    let nginx = Nginx::new(&place);
    nginx.start();
    sensor::init(&home);
    let capture = home.path("capture.pcapng");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let sensor = Sensor::start(&home, any, &["-w", &capture.display().to_string()]);
    let token = sensor::token(&home, sensor.address, "host", &[]);
    sensor::join(Command::new(binary()), &place, "agent", &token);
    let id = sensor.process.id();
    let before = footprint(id);
    let most = |seen: &mut (usize, usize)| {
        let (descriptors, memory) = footprint(id);
        *seen = (seen.0.max(descriptors), seen.1.max(memory));
    };
    let mut seen = before;
    let begin = Instant::now();
    let mut crowd = Crowd::new(sensor.address);
    while crowd.opened() < CROWD {
        crowd.open(source(crowd.opened()));
        if crowd.opened().is_multiple_of(250) {
            most(&mut seen);
        }
    }
    crowd.look();
    let mut text = Vec::new();
    // As long as the agents take there are always more that come, for those that were closed.
    let (over, came) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            // SeqCst: tests needn't be fast.
            while !over.load(Ordering::SeqCst) {
                crowd.look();
                for _ in 0..20 {
                    crowd.open(source(crowd.opened()));
                }
                most(&mut seen);
                came.store(crowd.opened(), Ordering::SeqCst);
                thread::sleep(Duration::from_millis(10));
            }
        });
        for name in ["first", "second"] {
            let before = came.load(Ordering::SeqCst);
            text.push(transaction(&place, &sensor, &nginx, name));
            assert!(
                came.load(Ordering::SeqCst) > before,
                "nobody came meanwhile"
            );
        }
        over.store(true, Ordering::SeqCst);
    });
    assert!(crowd.answered() > 0, "no handshake has begun");
    let (descriptors, memory) = (seen.0 - before.0, seen.1.saturating_sub(before.1));
    // The agent has some, too.
    assert!(descriptors <= KEPT + 20, "{descriptors} descriptors");
    assert!(descriptors >= KEPT / 2, "nobody was kept: {descriptors}");
    assert!(memory <= MEMORY, "{memory} bytes of memory");
    eprintln!(
        "{} connections, {} closed, {descriptors} descriptors, {memory} bytes",
        crowd.opened(),
        crowd.closed(),
    );

    // They leave, and all is as it was.
    let opened = crowd.opened();
    drop(crowd);
    until("the descriptors to be closed", || {
        (footprint(id).0 <= before.0).then_some(())
    });
    until("each of them in the report", || {
        sensor.process.signal(Signal::USR1);
        (refused(&sensor.said(), "Unfinished") >= opened).then_some(())
    });
    text.push(transaction(&place, &sensor, &nginx, "third"));
    let said = sensor.end();
    assert_eq!(refused(&said, "Unfinished"), opened, "{said}");
    // A line for each of the first five, and one for all the others of ten seconds.
    let most = 6 * (usize::try_from(begin.elapsed().as_secs()).expect("seconds") / 10 + 1);
    let own = |line: &&str| line.contains("refused") && !line.contains("connections refused: ");
    let lines = said.lines().filter(own).count();
    assert!(
        (1..=most).contains(&lines),
        "{lines} lines, {most} at most: {said}"
    );
    assert!(said.contains("needed by others"), "{said}");
    let capture = Capture::read(&capture).expect("a capture");
    rules::assert_good(&capture, &said);
    let flows = flows(&capture).expect("flows");
    let whole: Vec<_> = flows
        .iter()
        .map(|flow| flow.response.length() - flow.response.missing())
        .collect();
    assert_eq!(whole, text, "{said}");
    nginx.quit();
}
