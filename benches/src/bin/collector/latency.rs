//! How long after a program's write its packet is on the wire.

use std::fmt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use agent::clock::monotonic_now;
use anyhow::ensure;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with};

use crate::app::MARK;
use crate::fleet::Agents;
use crate::place::{Place, TAP};

const TICKS: usize = 1500;
const GAP_US: u64 = 3000;
/// The 99th of 100 of fewer would be one packet's.
const ENOUGH: usize = 200;

/// The times between write and wire.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latency {
    /// The median and the 99th of 100; nothing where too few came out to say.
    pub(crate) p50_p99_ms: Option<(f64, f64)>,
    pub(crate) seen: usize,
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_p99_ms, seen } = self;
        match p50_p99_ms {
            Some((p50, p99)) => write!(
                f,
                "{p50:.2} ms (median), {p99:.2} ms (99 of 100), of {seen} of {TICKS} writes"
            ),
            None => write!(f, "too few to say: {seen} of {TICKS} writes were seen"),
        }
    }
}

/// A program writes now and then; beside it so many agents send as much as the collector takes.
pub(crate) fn measure(place: &Place, load: Option<usize>) -> anyhow::Result<Latency> {
    let collector = place.collector()?;
    let state = place.join("ticker", &collector)?;
    let agents = load
        .map(|count| Agents::join(place, &collector, count))
        .transpose()?;
    let stop = AtomicBool::new(false);
    let mut times = thread::scope(|scope| -> anyhow::Result<Vec<u64>> {
        let loader = agents
            .as_ref()
            .map(|agents| scope.spawn(|| agents.talk_until(&stop)));
        let watcher = scope.spawn(|| watch(&stop));
        let status = place
            .sslcollector()
            .args(["run", "-I", "none", "-t"])
            .arg(collector.address.to_string())
            .arg("--state")
            .arg(&state)
            .arg("--")
            .arg(std::env::current_exe()?)
            .args(["app-as", "ticks", &TICKS.to_string(), &GAP_US.to_string()])
            .stderr(Stdio::null())
            .status();
        thread::sleep(Duration::from_millis(500));
        stop.store(true, Ordering::Relaxed);
        if let Some(loader) = loader {
            loader.join().expect("no panic")?;
        }
        let times = watcher.join().expect("no panic");
        ensure!(status?.success(), "the agent failed");
        times
    })?;
    times.sort_unstable();
    // Under full load the listener itself loses packets: how many were seen is said beside the times.
    #[allow(clippy::cast_precision_loss, reason = "times for people")]
    let ms = |part: usize| times[times.len() * part / 100] as f64 / 1e6;
    Ok(Latency {
        p50_p99_ms: (times.len() >= ENOUGH).then(|| (ms(50), ms(99))),
        seen: times.len(),
    })
}

/// Listens at the far end of the interface for packets that tell when they were written.
fn watch(stop: &AtomicBool) -> anyhow::Result<Vec<u64>> {
    const ETH_P_ALL: u16 = 0x0003;
    let protocol = rustix::net::Protocol::from_raw(u32::from(ETH_P_ALL.to_be()).try_into()?);
    let socket = socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(protocol),
    )?;
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 64 << 20)?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_millis(50)))?;
    // All interfaces of this network; the loopback's frames carry TLS and have no mark.
    let index = rustix::net::netdevice::name_to_index(&socket, TAP)?;
    ensure!(index > 0, "{TAP} isn't there");
    let (mut times, mut frame) = (Vec::new(), vec![0; 70_000]);
    let mut seen = std::collections::HashSet::new();
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) && start.elapsed() < Duration::from_secs(60) {
        let Ok((_, length)) = recv(&socket, &mut frame[..], RecvFlags::empty()) else {
            continue;
        };
        let now = monotonic_now().0;
        let frame = &frame[..length.min(frame.len())];
        // Ethernet, IPv4 and TCP without options: 54 bytes.
        let Some(text) = frame.get(54..).and_then(|text| text.strip_prefix(MARK)) else {
            continue;
        };
        let sent = text
            .get(..20)
            .and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        if let Some(sent) = sent
            && seen.insert(sent)
        {
            times.push(now.saturating_sub(sent));
        }
    }
    Ok(times)
}
