#![allow(
    unsafe_code,
    reason = "a bare sendmmsg(2) loop, and a network namespace of its own"
)]
//! What putting packets on an interface costs, forging included: against a bare loop of sendmmsg(2) that
//! sends the same frames from memory, and against tcpreplay with the same frames preloaded; and with `--wire-only`,
//! where the kernel cuts them. On one end of a veth pair at whose other end nobody listens.

use std::fs::File;
use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::time::Instant;

use agent::event::{FlowChange, FlowEvent, FlowSink, Packet, PacketSink, Side, WallTime};
use agent::forge::{ForgeConfig, Forger, Mtu, SequenceKey, View};
use agent::output::{InterfaceSink, PcapngWriter, leave_cutting_to_kernel};
use anyhow::{Context, bail, ensure};
use mirror_benches::flow_info;
use mirror_benches::rounds::Rounds;
use rustix::thread::{UnshareFlags, unshare_unsafe};

const INTERFACE: &str = "mirror0";
/// Clear text of one round.
const ROUND_BYTES: usize = 256 << 20;
const ROUNDS: usize = 9;
/// Clear text of one record: what TLS carries at most.
const RECORD_BYTES: usize = 16 * 1024;
/// Records whose frames the rivals repeat.
const REPEATED: usize = 64;
/// Frames in a system call of the bare loop, as ours.
const BATCH: usize = 64;

/// Keeps frames.
#[derive(Debug, Default)]
struct Kept(Vec<Vec<u8>>);

impl PacketSink for Kept {
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.0.push(packet.frame.to_vec());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A flow that goes on as long as it is asked to.
struct Flow<P> {
    forger: Forger<P>,
    offset: u64,
    text: Vec<u8>,
}

impl<P: PacketSink> Flow<P> {
    fn begin(sink: P) -> Self {
        let config = ForgeConfig {
            key: SequenceKey::new([1; 16]),
            mtu: Mtu::default(),
            view: View::default(),
        };
        let mut forger = Forger::new(config, sink);
        let info = flow_info();
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(1),
            change: FlowChange::Begin(&info),
        });
        Self {
            forger,
            offset: 0,
            text: vec![b'x'; RECORD_BYTES],
        }
    }

    fn records(&mut self, count: usize) {
        for _ in 0..count {
            let change = FlowChange::Data {
                from: Side::Server,
                offset: self.offset,
                bytes: &self.text,
            };
            self.forger.flow_event(FlowEvent {
                flow: 1,
                at: WallTime(1),
                change,
            });
            self.offset += self.text.len() as u64;
        }
    }
}

/// sendmmsg(2) and nothing else.
struct Bare {
    socket: OwnedFd,
    frames: Vec<Vec<u8>>,
}

impl Bare {
    fn open(frames: Vec<Vec<u8>>) -> anyhow::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        ensure!(fd >= 0, "no packet socket: {}", io::Error::last_os_error());
        // SAFETY: `fd` was opened right here and belongs to nobody else.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let index = rustix::net::netdevice::name_to_index(&socket, INTERFACE)?;
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET)?;
        address.sll_ifindex = i32::try_from(index)?;
        let length = u32::try_from(size_of::<libc::sockaddr_ll>())?;
        // SAFETY: the pointer is to `length` bytes that live through the call.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), length) };
        ensure!(bound == 0, "can't bind: {}", io::Error::last_os_error());
        Ok(Self { socket, frames })
    }

    fn send_all(&self) -> anyhow::Result<()> {
        for batch in self.frames.chunks(BATCH) {
            // SAFETY: all zeros is a valid iovec.
            let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
            // SAFETY: all zeros is a valid mmsghdr.
            let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
            for ((frame, part), message) in batch.iter().zip(&mut parts).zip(&mut messages) {
                part.iov_base = frame.as_ptr().cast_mut().cast();
                part.iov_len = frame.len();
                message.msg_hdr.msg_iov = part;
                message.msg_hdr.msg_iovlen = 1;
            }
            let count = u32::try_from(batch.len())?;
            // SAFETY: the first `count` messages point to parts and frames that live through the call.
            let sent =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
            ensure!(
                usize::try_from(sent) == Ok(batch.len()),
                "sendmmsg: {sent} of {count}: {}",
                io::Error::last_os_error()
            );
        }
        Ok(())
    }
}

enum Contender {
    Ours(Box<Flow<InterfaceSink>>),
    Bare(Bare),
    Tcpreplay(std::path::PathBuf),
}

/// Seconds for one round.
fn round(contender: &mut Contender) -> anyhow::Result<f64> {
    let records = ROUND_BYTES / RECORD_BYTES;
    let start = Instant::now();
    match contender {
        Contender::Ours(flow) => {
            flow.records(records);
            flow.forger.sink_mut().flush()?;
        }
        Contender::Bare(bare) => {
            for _ in 0..records / REPEATED {
                bare.send_all()?;
            }
        }
        Contender::Tcpreplay(file) => {
            let mut command = Command::new("tcpreplay");
            command.args(["--topspeed", "--preload-pcap", "-i", INTERFACE]);
            command
                .arg(format!("--loop={}", records / REPEATED))
                .arg(file);
            let output = command
                .output()
                .context("tcpreplay (scripts/install-peers.sh bench)")?;
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            // What it says itself: without its start and its reading of the file.
            let seconds = said.split(" bytes) sent in ").nth(1);
            let seconds = seconds.and_then(|rest| rest.split(' ').next()?.parse().ok());
            let failed = said
                .lines()
                .any(|line| line.contains("Failed packets:") && !line.trim().ends_with(" 0"));
            ensure!(!failed, "tcpreplay lost packets: {said}");
            return seconds.with_context(|| format!("tcpreplay says: {said}"));
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

fn main() -> anyhow::Result<()> {
    // SAFETY: only the network namespace is unshared; this is the only thread.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .context("needs root, for a network of its own")?;
    for words in [
        "link add mirror0 type veth peer name mirror0-tap",
        "link set mirror0 addrgenmode none up",
        "link set mirror0-tap addrgenmode none up",
    ] {
        let status = Command::new("ip").args(words.split(' ')).status()?;
        ensure!(status.success(), "ip {words}: {status}");
    }
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("frames.pcapng");
    let mut flow = Flow::begin(Kept::default());
    flow.records(REPEATED);
    let frames = flow.forger.into_sink().0;
    let mut writer = PcapngWriter::new(File::create(&file)?)?;
    for frame in &frames {
        let packet = Packet {
            at: WallTime(1),
            frame,
            comment: None,
        };
        writer.packet(packet)?;
    }
    writer.flush()?;
    let wire_bytes =
        frames.iter().map(Vec::len).sum::<usize>() * (ROUND_BYTES / RECORD_BYTES / REPEATED);

    // As on a pair that sslcollector makes. Without large packets there is no difference.
    leave_cutting_to_kernel(INTERFACE)?;
    let mut wire_only = InterfaceSink::open(INTERFACE, None)?;
    wire_only.for_wire_only();
    let mut contenders = [
        Contender::Ours(Box::new(Flow::begin(InterfaceSink::open(INTERFACE, None)?))),
        Contender::Bare(Bare::open(frames)?),
        Contender::Tcpreplay(file),
        Contender::Ours(Box::new(Flow::begin(wire_only))),
    ];
    // Not counted: caches, the processor's speed.
    for contender in &mut contenders {
        round(contender)?;
    }
    let rounds = Rounds::run(ROUNDS, &mut contenders, round)?;
    let [Contender::Ours(plain), _, _, Contender::Ours(wire_only)] = &mut contenders else {
        bail!("the order of contenders has changed");
    };
    let complaints = wire_only.forger.sink_mut().take_complaints();
    ensure!(complaints.is_empty(), "--wire-only: {complaints:?}");
    let stats = [plain, wire_only].map(|flow| flow.forger.sink_mut().stats());
    ensure!(
        stats[0].lost + stats[0].too_large == 0 && stats[0] == stats[1],
        "packets were lost: {stats:?}"
    );
    let gbit = |contender: usize| wire_bytes as f64 * 8.0 / rounds.median(contender) / 1e9;
    for (name, contender) in [
        ("forged and sent", 0),
        ("bare sendmmsg", 1),
        ("tcpreplay", 2),
        ("--wire-only", 3),
    ] {
        println!("{name:>16}: {:>6.2} Gbit/s", gbit(contender));
    }
    println!(
        "FIGURES {{\"replay_vs_sendmmsg\":{:.2},\"replay_vs_tcpreplay\":{:.2},\"replay_gbit\":{:.2},\"wire_only_vs_plain\":{:.2},\"wire_only_gbit\":{:.2}}}",
        rounds.ratio(1, 0),
        rounds.ratio(2, 0),
        gbit(0),
        rounds.ratio(0, 3),
        gbit(3),
    );
    Ok(())
}
