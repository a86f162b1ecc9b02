#![allow(
    unsafe_code,
    reason = "a packet socket, and a network namespace of its own"
)]
//! What finding sessions on the wire costs: bindings a second of the pure part; a bulk transfer that the kernel's filter
//! drops, watched and unwatched by turns; and 20,000 handshakes a second on a veth pair, with the time from each handshake's
//! last packet to its binding. As root; the network is its own.

use std::hint::black_box;
use std::io::{self, Read, Write};
use std::mem::zeroed;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use agent::flow::binder::Binder;
use agent::flow::hellos::Hellos;
use agent::flow::wire::LinkType;
use agent::flow::{Capture, CaptureConfig};
use anyhow::{Context, ensure};
use mirror_benches::compare;
use mirror_benches::figures::Figures;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Handshakes of the pure part's round.
const PURE: u32 = 20_000;
/// Bytes of a bulk transfer.
const BULK: usize = 256 << 20;
/// Handshakes a second, and for how long.
const RATE: u32 = 20_000;
const SECONDS: u32 = 10;
/// So often the sender sends what is due.
const STEP: Duration = Duration::from_millis(1);
/// How often an agent looks.
const LOOK: Duration = Duration::from_millis(1);

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
    storm(&mut figures)?;
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

/// Processor time of this process.
fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        u32::try_from(time.tv_nsec).unwrap_or(0),
    )
}

/// Of this thread.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
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
        let start = cpu();
        transfer()?;
        times[round % 2].push((cpu() - start).as_secs_f64());
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

/// Handshakes at a pace.
fn storm(figures: &mut Figures) -> anyhow::Result<()> {
    let capture = watch("wire1")?;
    let socket = packet_socket("wire0")?;
    let count = RATE * SECONDS;
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let begun = cpu();
    let (sent_at, sender_cpu, bound_at) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> io::Result<_> {
            let mut sent_at = Vec::new();
            let mut next = 0;
            while next < count {
                let due = start.elapsed().as_micros() * u128::from(RATE) / 1_000_000;
                while u128::from(next) < due && next < count {
                    for frame in handshake(next) {
                        send(&socket, &frame)?;
                    }
                    sent_at.push(Instant::now());
                    next += 1;
                }
                std::thread::sleep(STEP);
            }
            done.store(true, Relaxed);
            Ok((sent_at, thread_cpu()))
        });
        let mut binder = Binder::new(64 * 1024);
        let mut bound_at = vec![None; count as usize];
        let mut quiet = 0;
        while quiet < 200 {
            let mut any = false;
            for fact in capture.facts() {
                any = true;
                for (random, _) in binder.observe(fact) {
                    let number = u32::from_be_bytes([random[0], random[1], random[2], random[3]]);
                    if let Some(place) = bound_at.get_mut(number as usize) {
                        *place = Some(Instant::now());
                    }
                }
            }
            quiet = if any || !done.load(Relaxed) {
                0
            } else {
                quiet + 1
            };
            std::thread::sleep(LOOK);
        }
        let (sent_at, sender_cpu) = sender
            .join()
            .map_err(|_| io::Error::other("the sender panicked"))??;
        io::Result::Ok((sent_at, sender_cpu, bound_at))
    })?;
    let spent = cpu() - begun - sender_cpu;
    let took = start.elapsed();
    let stats = capture.stop();
    let times = bound_at.iter().zip(&sent_at);
    let mut waits: Vec<f64> = times
        .filter_map(|(bound, sent)| Some(bound.as_ref()?.saturating_duration_since(*sent)))
        .map(|wait| wait.as_secs_f64() * 1e3)
        .collect();
    ensure!(!waits.is_empty(), "nothing was bound");
    waits.sort_by(f64::total_cmp);
    let share = rate(waits.len() as u64, count.into());
    let p99 = waits[waits.len() * 99 / 100];
    println!(
        "handshakes: {:.0} a second, {share:.4} of them bound; median {:.2} ms, 99 % within {p99:.2} ms; {:.1} % of a core; {stats:?}",
        f64::from(count) / took.as_secs_f64(),
        waits[waits.len() / 2],
        100.0 * spent.as_secs_f64() / took.as_secs_f64(),
    );
    figures.add("bind_p99_ms", p99);
    figures.add("bound_share", share);
    figures.add("storm_cpu_share", spent.as_secs_f64() / took.as_secs_f64());
    Ok(())
}

/// A SYN, a ClientHello of the size of curl's, and a ServerHello; the random tells the number.
fn handshake(number: u32) -> [Vec<u8>; 3] {
    let [_, b, c, d] = number.to_be_bytes();
    let client = [10, b, c, d];
    let server = [192, 0, 2, 1];
    let mut random = [7; 32];
    random[..4].copy_from_slice(&number.to_be_bytes());
    let hello = |kind: u8, body: usize| {
        let mut message = vec![kind, 0];
        message.extend(u16_bytes(body));
        message.extend([3, 3]);
        message.extend(random);
        message
    };
    // An empty session id, 30 cipher suites, no compression, and one extension of padding.
    let mut asks = hello(1, 508);
    asks.extend([0, 0, 60]);
    asks.extend((0..30u8).flat_map(|n| [0xc0, n]));
    asks.extend([1, 0]);
    let rest = 508 + 4 - asks.len() - 2;
    asks.extend(u16_bytes(rest));
    asks.extend([0, 21]);
    asks.extend(u16_bytes(rest - 4));
    asks.resize(512, 0);
    let mut answers = hello(2, 118);
    answers.resize(122, 0);
    let record = |message: Vec<u8>| [&[22, 3, 1][..], &u16_bytes(message.len()), &message].concat();
    [
        frame(client, server, (40_000, 443), (0, 2), &[]),
        frame(client, server, (40_000, 443), (1, 0x18), &record(asks)),
        frame(server, client, (443, 40_000), (1, 0x18), &record(answers)),
    ]
}

fn u16_bytes(number: usize) -> [u8; 2] {
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

fn frame(
    from: [u8; 4],
    to: [u8; 4],
    ports: (u16, u16),
    (sequence, flags): (u32, u8),
    payload: &[u8],
) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([0x02, 0, 0, 0, 0, 1, 0x08, 0, 0x45, 0]);
    frame.extend(u16_bytes(40 + payload.len()));
    frame.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    frame.extend(from);
    frame.extend(to);
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend(sequence.to_be_bytes());
    frame.extend([0, 0, 0, 0, 5 << 4, flags, 1, 0, 0, 0, 0, 0]);
    frame.extend(payload);
    frame
}

fn packet_socket(interface: &str) -> anyhow::Result<OwnedFd> {
    let name = std::ffi::CString::new(interface)?;
    // SAFETY: the pointer is to a string with its end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    // SAFETY: no pointer is passed.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW, 0) };
    ensure!(fd >= 0, io::Error::last_os_error());
    // SAFETY: `fd` was opened right here and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut address: libc::sockaddr_ll = unsafe { zeroed() };
    address.sll_family = u16::try_from(libc::AF_PACKET)?;
    address.sll_ifindex = i32::try_from(index)?;
    let length = u32::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the pointer is to `length` bytes of an address that live through the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
    ensure!(bound == 0, io::Error::last_os_error());
    Ok(socket)
}

fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer is to as many bytes, which live through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
