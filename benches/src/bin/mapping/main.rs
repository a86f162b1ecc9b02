#![allow(
    unsafe_code,
    reason = "a packet socket, and a network namespace of its own"
)]
//! What finding sessions on the wire costs: bindings a second of the pure part; a bulk transfer that the kernel's filter
//! drops, watched and unwatched by turns; and 20,000 handshakes a second, replayed from a capture file on a veth pair, with the
//! time from each handshake's last packet to its binding. As root; the network is its own.

mod frames;
mod storm;

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use agent::flow::binder::Binder;
use agent::flow::hellos::Hellos;
use agent::flow::wire::LinkType;
use agent::flow::{Capture, CaptureConfig};
use anyhow::{Context, ensure};
use mirror_benches::compare;
use mirror_benches::figures::Figures;
use rustix::thread::{UnshareFlags, unshare_unsafe};
use rustix::time::ClockId;

use frames::handshake;

/// Handshakes of the pure part's round.
const PURE: u32 = 20_000;
/// Bytes of a bulk transfer.
const BULK: usize = 256 << 20;

fn main() -> anyhow::Result<()> {
    // SAFETY: only the network namespace is unshared: file descriptors and memory stay common to all threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.context("a network namespace (needs root)")?;
    ip("link set lo up")?;
    ip("link add wire0 type veth peer name wire1")?;
    for end in ["wire0", "wire1"] {
        ip(&format!("link set {end} addrgenmode none up"))?;
    }
    let mut figures = Figures::default();
    pure(&mut figures);
    bulk(&mut figures)?;
    storm::storm(&mut figures)?;
    println!("{figures}");
    Ok(())
}

fn ip(words: &str) -> anyhow::Result<()> {
    let status = Command::new("ip").args(words.split(' ')).status()?;
    ensure!(status.success(), "ip {words}: {status}");
    Ok(())
}

/// Frames to facts to bindings, on one core.
fn pure(figures: &mut Figures) {
    let handshakes: Vec<_> = (0..PURE).map(handshake).collect();
    let round = || {
        let (mut hellos, mut binder) = (Hellos::default(), Binder::new(64 * 1024));
        let mut bound = 0u32;
        for frame in handshakes.iter().flatten() {
            hellos.frame(LinkType::Ethernet, frame, &mut |fact| {
                bound += u32::try_from(binder.observe(fact).len()).unwrap_or(0);
            });
        }
        assert_eq!(black_box(bound), PURE);
    };
    let copy = || {
        for frame in handshakes.iter().flatten() {
            black_box(frame.clone());
        }
    };
    let result = compare(round, copy);
    let each = f64::from(PURE) / result.a.as_secs_f64();
    println!("pure: {each:.0} bindings a second");
    figures.add("bindings_per_s", each);
}

/// Processor time of this process or thread.
fn cpu(clock: ClockId) -> Duration {
    let time = rustix::time::clock_gettime(clock);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

fn watch(interface: &str) -> anyhow::Result<Capture> {
    let interfaces = vec![interface.to_owned()];
    Ok(Capture::start(&CaptureConfig { interfaces })?)
}

/// A transfer of which nothing passes the filter: what the filter costs whoever sends, and that nobody else pays.
fn bulk(figures: &mut Figures) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (mut server, _) = listener.accept()?;
    let text = vec![23; 64 * 1024];
    let mut heard = vec![0; 64 * 1024];
    let mut transfer = || -> io::Result<()> {
        std::thread::scope(|scope| {
            let sender =
                scope.spawn(|| (0..BULK / text.len()).try_for_each(|_| client.write_all(&text)));
            let mut left = BULK;
            while left > 0 {
                left -= server.read(&mut heard)?;
            }
            sender
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
        })
    };
    // Of this network namespace; /sys shows another one's.
    let sent = || -> anyhow::Result<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        let counts = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("lo:"));
        let sent = counts.and_then(|counts| counts.split_ascii_whitespace().nth(9));
        Ok(sent.context("the counts of lo")?.parse()?)
    };
    let capture = watch("lo")?;
    let before = sent()?;
    transfer()?;
    let frames = sent()? - before;
    let passed = capture.stop().frames;
    figures.add("filter_pass_ratio", rate(passed, frames));
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..10 {
        let capture = (round % 2 == 1).then(|| watch("lo")).transpose()?;
        let start = cpu(ClockId::ProcessCPUTime);
        transfer()?;
        times[round % 2].push((cpu(ClockId::ProcessCPUTime) - start).as_secs_f64());
        drop(capture);
    }
    let [unwatched, watched] = times.map(median);
    println!(
        "bulk: {passed} of {frames} frames pass; processor time of both ends, watched / unwatched: {:.3}",
        watched / unwatched
    );
    figures.add("bulk_cpu_ratio", watched / unwatched);
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn rate(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
