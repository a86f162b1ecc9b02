//! Handshakes at a pace: written to a capture file once, and replayed from it as its times say.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use agent::event::{Packet, PacketSink, WallTime};
use agent::flow::binder::Binder;
use agent::output::PcapngWriter;
use anyhow::{anyhow, ensure};
use mirror_benches::figures::Figures;
use pcap::Precision;
use rustix::time::ClockId;

use crate::frames::handshake;
use crate::{cpu, rate, watch};

/// Handshakes a second, and for how long.
const RATE: u32 = 20_000;
const SECONDS: u32 = 10;
const COUNT: u32 = RATE * SECONDS;
/// Packets of one.
const PACKETS: usize = 3;
/// So often the sender sends what is due.
const STEP: Duration = Duration::from_millis(1);
/// How often an agent looks.
const LOOK: Duration = Duration::from_millis(1);
/// So many looks at which nothing comes any more are the end.
const QUIET: u32 = 200;

pub(crate) fn storm(figures: &mut Figures) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("handshakes.pcapng");
    write(&file)?;
    let replay = Replay::open(&file, "wire0")?;
    let capture = watch("wire1")?;
    let done = AtomicBool::new(false);
    let (start, begun) = (Instant::now(), cpu(ClockId::ProcessCPUTime));
    let (sent, bound_at) = std::thread::scope(|scope| {
        let sender = scope.spawn(|| {
            let sent = replay.run(start);
            done.store(true, Relaxed);
            sent
        });
        let mut binder = Binder::new(64 * 1024);
        let mut bound_at = vec![None; COUNT as usize];
        let mut quiet = 0;
        while quiet < QUIET {
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
            quiet = match any || !done.load(Relaxed) {
                true => 0,
                false => quiet + 1,
            };
            std::thread::sleep(LOOK);
        }
        let sent = sender.join().map_err(|_| anyhow!("the sender panicked"))?;
        anyhow::Ok((sent?, bound_at))
    })?;
    let spent = cpu(ClockId::ProcessCPUTime) - begun - sent.cpu;
    let took = start.elapsed();
    let stats = capture.stop();
    let times = bound_at.iter().zip(&sent.at);
    let mut waits: Vec<f64> = times
        .filter_map(|(bound, sent)| Some(bound.as_ref()?.saturating_duration_since(*sent)))
        .map(|wait| wait.as_secs_f64() * 1e3)
        .collect();
    ensure!(!waits.is_empty(), "nothing was bound");
    waits.sort_by(f64::total_cmp);
    let share = rate(waits.len() as u64, COUNT.into());
    let p99 = waits[waits.len() * 99 / 100];
    println!(
        "handshakes: {:.0} a second, {share:.4} of them bound; median {:.2} ms, 99 % within {p99:.2} ms; {:.1} % of a core; {stats:?}",
        f64::from(COUNT) / sent.took.as_secs_f64(),
        waits[waits.len() / 2],
        100.0 * spent.as_secs_f64() / took.as_secs_f64(),
    );
    figures.add("bind_p99_ms", p99);
    figures.add("bound_share", share);
    figures.add("storm_cpu_share", spent.as_secs_f64() / took.as_secs_f64());
    Ok(())
}

/// All handshakes, evenly over their time.
fn write(file: &Path) -> anyhow::Result<()> {
    let mut writer = PcapngWriter::new(File::create_new(file)?)?;
    let pause = 1_000_000_000 / u64::from(RATE);
    for number in 0..COUNT {
        let at = WallTime(1_000_000_000 + u64::from(number) * pause);
        for frame in &handshake(number) {
            writer.packet(Packet {
                at,
                frame,
                comment: None,
            })?;
        }
    }
    writer.flush()?;
    Ok(())
}

/// A capture that is to go out on an interface.
struct Replay {
    file: pcap::Capture<pcap::Offline>,
    socket: OwnedFd,
}

/// When each handshake's last packet was sent; and what all of them took.
struct Sent {
    at: Vec<Instant>,
    took: Duration,
    cpu: Duration,
}

impl Replay {
    fn open(file: &Path, interface: &str) -> anyhow::Result<Self> {
        Ok(Self {
            file: pcap::Capture::from_file_with_precision(file, Precision::Nano)?,
            socket: packet_socket(interface)?,
        })
    }

    fn run(mut self, start: Instant) -> anyhow::Result<Sent> {
        let (mut at, mut packets) = (Vec::with_capacity(COUNT as usize), 0);
        let mut first = None;
        loop {
            let packet = match self.file.next_packet() {
                Ok(packet) => packet,
                Err(pcap::Error::NoMorePackets) => break,
                Err(error) => return Err(error.into()),
            };
            let time = packet.header.ts;
            // With this precision they are nanoseconds.
            let time = Duration::new(time.tv_sec.try_into()?, time.tv_usec.try_into()?);
            let due = time - *first.get_or_insert(time);
            while start.elapsed() < due {
                std::thread::sleep(STEP);
            }
            send(&self.socket, packet.data)?;
            packets += 1;
            if packets % PACKETS == 0 {
                at.push(Instant::now());
            }
        }
        ensure!(packets == PACKETS * COUNT as usize, "{packets} packets");
        Ok(Sent {
            at,
            took: start.elapsed(),
            cpu: cpu(ClockId::ThreadCPUTime),
        })
    }
}

fn packet_socket(interface: &str) -> anyhow::Result<OwnedFd> {
    let name = CString::new(interface)?;
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
