//! Forged packets to a sensor in VXLAN (RFC 7348), as clouds mirror traffic (AWS VPC Traffic Mirroring), as they come.
//!
//! ```text
//!   made by the kernel               8 bytes            the forged frame
//!   +----------------+-----+--------------------------+------------------------------+
//!   | IPv4 or IPv6   | UDP | I flag, network's number | Ethernet, IP, TCP, text      |
//!   +----------------+-----+--------------------------+------------------------------+
//! ```
//!
//! A flow is on one of a few sockets, so that it has a source port by which routers and queues spread flows (RFC 7348
//! section 5). No right is needed.
//!
//! Nobody acknowledges anything. What the kernel refuses to send is lost, counted and said; once it is sent again, live
//! flows begin anew. That a sensor's kernel answers "port unreachable" is said, too, and no reason to stop: one that
//! listens on its interface sees the packets all the same. So is that nobody has the sensor's address: the kernel asks
//! for it on the sensor's network (ARP, neighbour discovery), or the last router does and says so. A network that
//! swallows packets and says nothing can't be told from one that brings them.

mod address;
mod socket;
mod trouble;

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use self::address::VXLAN_HEADER_BYTES;
pub use self::address::{Vni, VxlanAddress};
use self::socket::{BATCH, SensorSocket};
use self::trouble::Trouble;
use super::losses::{Losses, SendStats};
use super::pace::{Pace, Pacer};
use crate::event::{Packet, PacketSink};
use crate::forge::Mtu;
use crate::wire::{ETHERNET_HEADER_BYTES, FramePlace, VLAN_TAG_BYTES};

const UDP_HEADER_BYTES: usize = 8;

/// Source ports.
const LANES: usize = 16;
/// Datagrams that wait on all lanes together.
const WAITING: usize = 256;
const WAITING_BYTES: usize = 512 << 10;

/// How often a full queue is tried again, a millisecond apart.
const TRIES_WHEN_FULL: u32 = 100;
/// How often a datagram is sent again for which there is word that one was too large: a router may have said so of ones
/// before it.
const TRIES_TOO_LARGE: u32 = 3;
/// How often it is tried whether the kernel sends again, and whether somebody has answered.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Nothing can be sent to a sensor.
#[derive(Debug, thiserror::Error)]
pub enum VxlanError {
    /// Its name has no address.
    #[error("can't find the address of {host}: {cause}")]
    Unknown {
        /// The name.
        host: String,
        /// The resolver's words.
        cause: io::Error,
    },
    /// The kernel knows no way there.
    #[error("can't send to {address}: {cause}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// The kernel's words.
        cause: io::Error,
    },
    /// Packets on the way are too small for another inside.
    #[error(
        "packets to {address} have {outer_bytes} bytes at most, and one of 1280 inside needs {needed_bytes}: make \
         the MTU on the way larger"
    )]
    SmallMtu {
        /// Where.
        address: SocketAddr,
        /// What the path takes.
        outer_bytes: u32,
        /// What would do.
        needed_bytes: u32,
    },
}

/// Datagrams that wait for the rest of their batch.
#[derive(Debug)]
struct Waiting {
    /// One behind the other.
    bytes: Vec<u8>,
    /// Where each ends, and its lane.
    ends: Vec<(usize, usize)>,
}

impl Waiting {
    fn new() -> Self {
        Self {
            bytes: Vec::with_capacity(WAITING_BYTES),
            ends: Vec::with_capacity(WAITING),
        }
    }

    fn add(&mut self, header: &[u8], frame: &[u8]) {
        self.bytes.extend_from_slice(header);
        self.bytes.extend_from_slice(frame);
        self.ends.push((self.bytes.len(), lane_of(frame)));
    }

    /// The numbers of those on a lane.
    fn on(&self, lane: usize) -> Vec<usize> {
        let mine = |(number, (_, of)): (usize, &(usize, usize))| (*of == lane).then_some(number);
        self.ends.iter().enumerate().filter_map(mine).collect()
    }

    fn datagram(&self, number: usize) -> &[u8] {
        let start = number
            .checked_sub(1)
            .map_or(0, |before| self.ends[before].0);
        &self.bytes[start..self.ends[number].0]
    }

    /// What is in a datagram.
    fn frame(&self, number: usize) -> &[u8] {
        &self.datagram(number)[VXLAN_HEADER_BYTES..]
    }
}

/// Sends packets to a sensor, in batches.
#[derive(Debug)]
pub struct VxlanSink {
    header: [u8; VXLAN_HEADER_BYTES],
    sockets: Vec<SensorSocket>,
    mtu: Mtu,
    waiting: Waiting,
    trouble: Trouble,
    looked_at: Instant,
    pacer: Pacer,
    stats: SendStats,
}

impl VxlanSink {
    /// Finds the way to a sensor. `tagged`: frames have a VLAN tag. The pace is that of the frames inside.
    ///
    /// # Errors
    /// See [`VxlanError`].
    pub fn open(
        destination: &VxlanAddress,
        vni: Vni,
        tagged: bool,
        pace: Option<Pace>,
    ) -> Result<Self, VxlanError> {
        let unknown = |cause| VxlanError::Unknown {
            host: destination.host.clone(),
            cause,
        };
        let mut found = (destination.host.as_str(), destination.port)
            .to_socket_addrs()
            .map_err(unknown)?;
        let address = found.next();
        let address = address.ok_or_else(|| unknown(io::ErrorKind::NotFound.into()))?;
        let unreachable = |cause| VxlanError::Unreachable { address, cause };
        let sockets: io::Result<Vec<_>> = (0..LANES).map(|_| SensorSocket::to(address)).collect();
        let sockets = sockets.map_err(unreachable)?;
        let outer_bytes = sockets[0].path_mtu(address).map_err(unreachable)?;
        let over = overhead(address.ip(), tagged);
        // Larger ones would differ from those of other outputs for nothing.
        let inner = outer_bytes
            .saturating_sub(over)
            .min(Mtu::default().bytes().into());
        let mtu = u16::try_from(inner)
            .ok()
            .and_then(|inner| Mtu::new(inner).ok());
        let mtu = mtu.ok_or(VxlanError::SmallMtu {
            address,
            outer_bytes,
            needed_bytes: 1280 + over,
        })?;
        Ok(Self {
            header: vni.header(),
            sockets,
            mtu,
            waiting: Waiting::new(),
            trouble: Trouble::new(address.to_string()),
            looked_at: Instant::now(),
            pacer: Pacer::new(pace),
            stats: SendStats::default(),
        })
    }

    /// The largest packet inside that fits the way to the sensor; 1,500 bytes at most.
    pub fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// The counts so far. Bytes are those of the frames inside.
    pub fn stats(&self) -> SendStats {
        SendStats {
            outages: self.trouble.times(),
            ..self.stats
        }
    }

    /// Packets get through again after these were lost: live flows have to begin anew. Once for each time.
    pub fn take_recovery(&mut self) -> Option<Losses> {
        self.trouble.take_recovery()
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        self.trouble.take_complaints()
    }

    /// Looks whether somebody has answered, and whether trouble is over, if it is time to.
    fn look(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        let answers: Vec<_> = self
            .sockets
            .iter()
            .flat_map(SensorSocket::answers)
            .collect();
        for error in answers {
            match error.raw_os_error() {
                Some(libc::EMSGSIZE) => self.narrowed(),
                _ => self.trouble.answered(&error, now),
            }
        }
        let first = &self.sockets[0];
        self.trouble.look(now, || first.probe());
    }

    /// Sends what waits. What can't be sent is lost, and counted.
    fn send_waiting(&mut self) {
        for lane in 0..LANES {
            for batch in self.waiting.on(lane).chunks(BATCH) {
                self.send_batch(lane, batch);
            }
        }
        self.waiting.bytes.clear();
        self.waiting.ends.clear();
    }

    fn send_batch(&mut self, lane: usize, mut numbers: &[usize]) {
        let (mut full, mut large) = (0, 0);
        let mut failed = None;
        while !numbers.is_empty() {
            if self.trouble.is_refused() {
                for number in numbers {
                    self.trouble.lost(self.waiting.frame(*number));
                }
                self.stats.lost += numbers.len() as u64;
                return;
            }
            self.pacer.wait();
            let sizes = numbers
                .iter()
                .map(|number| self.waiting.frame(*number).len());
            let burst = &numbers[..self.pacer.burst(sizes)];
            let datagrams = burst.iter().map(|number| self.waiting.datagram(*number));
            match self.sockets[lane].send(datagrams) {
                Ok(sent) => {
                    (full, large) = (0, 0);
                    // That was about packets before these.
                    if let Some(error) = failed.take() {
                        self.trouble.answered(&error, Instant::now());
                    }
                    self.note_sent(&numbers[..sent]);
                    numbers = &numbers[sent..];
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    Some(libc::ENOBUFS) if full < TRIES_WHEN_FULL => {
                        full += 1;
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    // A router's word on one before, which the queue of errors has, too, for the next look.
                    Some(libc::EMSGSIZE) if large < TRIES_TOO_LARGE => large += 1,
                    Some(libc::EMSGSIZE) => {
                        large = 0;
                        self.too_large();
                        numbers = &numbers[1..];
                    }
                    // What was answered to packets before is told once, in the place of a send.
                    _ if failed.is_none() => failed = Some(error),
                    _ => self.trouble.refused(&error),
                },
            }
        }
    }

    fn note_sent(&mut self, numbers: &[usize]) {
        let mut sent_bytes = 0;
        for number in numbers {
            let frame = self.waiting.frame(*number);
            sent_bytes += frame.len();
            self.trouble.sent(frame);
        }
        self.stats.frames += numbers.len() as u64;
        self.stats.bytes += sent_bytes as u64;
        self.pacer.sent(sent_bytes);
    }

    /// A router has dropped a datagram for its size. From now on the kernel cuts those.
    fn narrowed(&mut self) {
        if self.stats.dropped_on_way == 0 {
            let complaint = format!(
                "the way to {} has become narrower: a router there has dropped packets, which are LOST, and larger \
                 ones are sent in fragments from now on, which sensors may not take; make the MTU on the way larger, \
                 or restart sslcollector to have smaller packets",
                self.trouble.name()
            );
            self.trouble.complain(complaint);
        }
        self.stats.dropped_on_way += 1;
    }

    fn too_large(&mut self) {
        if self.stats.too_large == 0 {
            let complaint = format!(
                "packets of {} bytes in VXLAN are too large for the way to {}: restart sslcollector after making an \
                 MTU smaller",
                self.mtu.bytes(),
                self.trouble.name()
            );
            self.trouble.complain(complaint);
        }
        self.stats.too_large += 1;
    }
}

impl PacketSink for VxlanSink {
    /// Keeps the frame until its batch is full or flushed. Trouble on the way is no error: it is counted.
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        self.waiting.add(&self.header, packet.frame);
        if self.waiting.ends.len() == WAITING {
            self.send_waiting();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.look();
        self.send_waiting();
        Ok(())
    }
}

/// What stands around a packet inside.
fn overhead(outer: IpAddr, tagged: bool) -> u32 {
    let ip = match outer {
        IpAddr::V4(_) => 20,
        IpAddr::V6(_) => 40,
    };
    let tag = if tagged { VLAN_TAG_BYTES } else { 0 };
    let bytes = ip + UDP_HEADER_BYTES + VXLAN_HEADER_BYTES + ETHERNET_HEADER_BYTES + tag;
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Both directions of a conversation are on one lane, so that they keep their order.
fn lane_of(frame: &[u8]) -> usize {
    let Some(place) = FramePlace::of(frame) else {
        return 0;
    };
    let end = |address: SocketAddr| {
        let ip = match address.ip() {
            IpAddr::V4(ip) => u128::from(u32::from(ip)),
            IpAddr::V6(ip) => u128::from(ip),
        };
        let folded = (ip ^ (ip >> 64)).to_le_bytes();
        let folded = folded
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        (folded ^ (u64::from(address.port()) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    };
    // A sum has no direction.
    let mixed = end(place.source).wrapping_add(end(place.destination));
    let high = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32;
    usize::try_from(high).unwrap_or(0) % LANES
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::event::WallTime;

    #[test]
    fn what_stands_around_a_packet() {
        assert_eq!(overhead("10.0.0.5".parse().unwrap(), false), 50);
        assert_eq!(overhead("fd07::1".parse().unwrap(), true), 74);
    }

    /// A router's word that a datagram was too large comes in the place of a later one, which isn't lost for it.
    #[test]
    fn a_way_that_has_become_narrower() {
        mirror_tests::network::enter_new_namespace();
        mirror_tests::network::ip("link set lo up");
        let sensor = UdpSocket::bind("127.0.0.1:0").unwrap();
        let patience = Some(Duration::from_secs(60));
        sensor.set_read_timeout(patience).unwrap();
        let there = sensor.local_addr().unwrap();
        let (to, vni) = (there.to_string().parse().unwrap(), "7".parse().unwrap());
        let mut sink = VxlanSink::open(&to, vni, false, None).unwrap();
        let send = |sink: &mut VxlanSink, frame: &[u8]| {
            let (at, comment) = (WallTime(0), None);
            sink.packet(Packet { at, frame, comment }).unwrap();
            sink.send_waiting();
        };
        send(&mut sink, b"first");
        let mut bytes = [0; 64];
        let (_, from) = sensor.recv_from(&mut bytes).unwrap();
        router_says_too_large(from, there);
        // It has come when the socket says so.
        let lane = &sink.sockets[lane_of(b"second")];
        lane.wait_for_word();
        send(&mut sink, b"second");
        let count = sensor.recv(&mut bytes).unwrap();
        assert_eq!(bytes[VXLAN_HEADER_BYTES..count], *b"second");
        sink.looked_at -= LOOK_EVERY;
        sink.look();
        let stats = sink.stats();
        let lost = (stats.too_large, stats.lost, stats.dropped_on_way);
        assert_eq!((stats.frames, lost), (2, (0, 0, 1)));
        let said = sink.take_complaints();
        assert!(said.len() == 1 && said[0].contains("narrower"), "{said:?}");
    }

    /// ICMP "fragmentation needed" (RFC 792, RFC 1191 section 4) for a datagram between these two.
    fn router_says_too_large(from: SocketAddr, to: SocketAddr) {
        use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
        let mtu = 1400_u16.to_be_bytes();
        let mut message = vec![3, 4, 0, 0, 0, 0, mtu[0], mtu[1]];
        // The datagram's IP header, of which addresses and protocol are looked at, and that of UDP.
        message.extend([0x45, 0, 0x05, 0xdc, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        message.extend([127, 0, 0, 1, 127, 0, 0, 1]);
        message.extend(from.port().to_be_bytes());
        message.extend(to.port().to_be_bytes());
        message.extend([0x05, 0xc8, 0, 0]);
        let mut sum = crate::wire::Checksum::default();
        sum.add(&message);
        message[2..4].copy_from_slice(&sum.finish().to_be_bytes());
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP));
        let raw = raw.expect("a raw socket (needs root)");
        let nobody = SocketAddr::new(to.ip(), 0);
        sendto(&raw, &message, SendFlags::empty(), &nobody).unwrap();
    }

    /// A kernel's answer isn't the end, and that answers stop is noticed.
    #[test]
    fn datagrams_whole_whoever_answers() {
        let sensor = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there = sensor.local_addr().unwrap();
        let mut sink = VxlanSink::open(
            &there.to_string().parse().unwrap(),
            "7".parse().unwrap(),
            false,
            None,
        )
        .unwrap();
        assert_eq!(sink.mtu(), Mtu::default());
        let mut send = |frame: &[u8]| {
            let at = WallTime(0);
            sink.packet(Packet {
                at,
                frame,
                comment: None,
            })
            .unwrap();
            sink.flush().unwrap();
            (sink.take_complaints(), sink.stats())
        };
        let mut bytes = [0; 2048];
        send(&[5; 1514]);
        let count = sensor.recv(&mut bytes).unwrap();
        assert_eq!(bytes[..8], [8, 0, 0, 0, 0, 0, 7, 0]);
        assert_eq!(bytes[8..count], [5; 1514]);
        // Nobody listens any more.
        drop(sensor);
        let mut said = Vec::new();
        for _ in 0..3 {
            let (complaints, stats) = send(b"frame");
            said.extend(complaints);
            assert_eq!(stats.lost, 0);
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("answered (Connection refused"), "{said:?}");
        // Nor at another place, where several are sent at once and none comes behind them.
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
        let there_neither = nobody.local_addr().unwrap().to_string();
        drop(nobody);
        let mut other = VxlanSink::open(
            &there_neither.parse().unwrap(),
            "7".parse().unwrap(),
            false,
            None,
        )
        .unwrap();
        for _ in 0..BATCH {
            let (at, comment) = (WallTime(0), None);
            let frame = b"frame";
            other.packet(Packet { at, frame, comment }).unwrap();
        }
        let begin = Instant::now();
        while other.trouble.times() == 0 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no answer");
            other.flush().unwrap();
        }
        assert_eq!(other.stats().frames, BATCH as u64);
        // Somebody does again.
        let sensor = UdpSocket::bind(there).unwrap();
        let (_, stats) = send(b"frame");
        assert_eq!((stats.frames, stats.outages, stats.lost), (5, 1, 0));
        sensor.recv(&mut bytes).unwrap();
    }
}
