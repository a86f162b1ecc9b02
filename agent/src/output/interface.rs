//! Forged packets on an interface, as they come.
//!
//! An interface that goes down, loses its carrier or vanishes is waited for: its packets are lost meanwhile,
//! which is counted and said, and [`InterfaceSink::take_recovery`] tells when the flows have to begin anew.
//!
//! ```text
//!            send fails, no carrier
//!    Sending ─────────────────────> Lost: packets are counted, not sent
//!       ^                            │ every 200 ms: is there an interface of that name, up, with carrier?
//!       └────────────────────────────┘ twice yes: recovery
//! ```
//!
//! Without a carrier the kernel drops what it is given and says that all is well. It clears the interface's flag
//! first, and sets it before it takes packets again: so the flag is looked at behind each batch, and has to be
//! seen twice before anything is sent again.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::packet_socket::{BATCH, PacketSocket, State};
use crate::event::{Packet, PacketSink};
use crate::forge::Mtu;
use crate::wire::{ETHERNET_HEADER_BYTES, FramePlace, VLAN_TAG_BYTES};

/// A send waits so long for room at most: a slow interface slows the agent, whose rings then show exact holes;
/// one that stands still doesn't hold it for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the interface is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a full device queue is tried again, a millisecond apart.
const TRIES_WHEN_FULL: u32 = 100;
/// Time's worth of packets that may go out at once under a pace limit: longer than a timer is late.
const PACE_BURST: Duration = Duration::from_millis(5);

/// Bytes of frames in a batch: as many as [`BATCH`] full ones, or a few very large ones.
const BATCH_BYTES: usize = 256 << 10;

const ETHERNET: u16 = 1; // ARPHRD_ETHER
const LOOPBACK: u16 = 772; // ARPHRD_LOOPBACK

/// Nothing can be sent on an interface.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// There is none of that name.
    #[error(
        "there is no interface {0} (`ip link` lists them; --create makes a pair of virtual ones)"
    )]
    Missing(String),
    /// It isn't up.
    #[error("{0} is down: `ip link set {0} up`")]
    Down(String),
    /// Its frames aren't Ethernet's.
    #[error(
        "{name} takes no Ethernet frames (type {kind} in <linux/if_arp.h>): give another interface"
    )]
    NotEthernet {
        /// The interface.
        name: String,
        /// ARPHRD_*.
        kind: u16,
    },
    /// Its packets are smaller than IPv6 allows.
    #[error(
        "{name} has an MTU of {bytes} bytes, and IPv6 needs 1280: `ip link set {name} mtu 1500`"
    )]
    SmallMtu {
        /// The interface.
        name: String,
        /// In bytes.
        bytes: u32,
    },
    /// The right to send (CAP_NET_RAW) is missing.
    #[error(
        "no right to send on {0}: run as root, or give sslcollector the right (setcap cap_net_raw+ep)"
    )]
    NotPermitted(String),
    /// Something else.
    #[error("can't send on {name}: {cause}")]
    Other {
        /// The interface.
        name: String,
        /// The kernel's words.
        cause: io::Error,
    },
}

/// What has become of the packets for an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames lost while the interface couldn't send.
    pub lost: u64,
    /// Times that it couldn't.
    pub outages: u64,
    /// Frames lost since they are larger than the interface takes: its MTU was made smaller.
    pub too_large: u64,
}

/// A limit for the bytes on the wire.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    bits_per_s: f64,
}

impl Pace {
    /// At most so many bits in a second, on average over a few packets; from 10^6, where one takes 12 ms, to
    /// 10^12.
    pub fn bits_per_s(bits_per_s: f64) -> Option<Self> {
        (1e6..=1e12)
            .contains(&bits_per_s)
            .then_some(Self { bits_per_s })
    }

    fn time(self, bytes: usize) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "a frame has few bytes")]
        Duration::from_secs_f64(bytes as f64 * 8.0 / self.bits_per_s)
    }
}

/// Sends packets on an interface, in batches.
#[derive(Debug)]
pub struct InterfaceSink {
    name: String,
    socket: PacketSocket,
    mtu: Mtu,
    /// Frames that wait for the rest of their batch, one behind the other, and where each ends.
    waiting: Vec<u8>,
    ends: Vec<usize>,
    /// Why nothing is sent at the moment.
    lost: Option<Outage>,
    looked_at: Instant,
    /// What was lost, once packets get through again.
    recovered: Option<Losses>,
    pace: Option<Pace>,
    /// When the wire is free again under the pace limit.
    free_at: Instant,
    complaints: Vec<String>,
    stats: InterfaceStats,
}

#[derive(Debug, Default)]
struct Outage {
    /// Frames lost in it.
    frames: u64,
    /// The interface was as it should be when it was looked at last.
    well: bool,
    losses: Losses,
}

/// From where on the packets of conversations were lost.
#[derive(Debug, Default)]
pub struct Losses {
    first: HashMap<(SocketAddr, SocketAddr), FramePlace>,
}

/// Directions of which that is noted. Of others a monitor may keep a conversation until its time is over.
const MAX_LOSSES: usize = 1 << 17;

impl Losses {
    /// The first packet that was lost of those from `source` to `destination`.
    pub fn first(&self, source: SocketAddr, destination: SocketAddr) -> Option<FramePlace> {
        self.first.get(&(source, destination)).copied()
    }

    fn note(&mut self, frame: &[u8]) {
        if let Some(place) = FramePlace::of(frame)
            && self.first.len() < MAX_LOSSES
        {
            let ends = (place.source, place.destination);
            self.first.entry(ends).or_insert(place);
        }
    }
}

impl InterfaceSink {
    /// Opens the interface.
    ///
    /// # Errors
    /// See [`InterfaceError`].
    pub fn open(name: &str, pace: Option<Pace>) -> Result<Self, InterfaceError> {
        let other = |cause: io::Error| match cause.kind() {
            io::ErrorKind::NotFound => InterfaceError::Missing(name.to_owned()),
            io::ErrorKind::PermissionDenied => InterfaceError::NotPermitted(name.to_owned()),
            _ => InterfaceError::Other {
                name: name.to_owned(),
                cause,
            },
        };
        let socket = PacketSocket::new().map_err(other)?;
        let state = socket.ask(name).map_err(other)?;
        if !matches!(state.kind, ETHERNET | LOOPBACK) {
            return Err(InterfaceError::NotEthernet {
                name: name.to_owned(),
                kind: state.kind,
            });
        }
        if !state.up {
            return Err(InterfaceError::Down(name.to_owned()));
        }
        // The loopback interface's is 64 KiB, and no IP packet is as large.
        let mtu = u16::try_from(state.mtu_bytes).unwrap_or(u16::MAX);
        let mtu = Mtu::new(mtu).map_err(|_| InterfaceError::SmallMtu {
            name: name.to_owned(),
            bytes: state.mtu_bytes,
        })?;
        socket.bind(state.index, PATIENCE).map_err(other)?;
        let now = Instant::now();
        let mut sink = Self {
            name: name.to_owned(),
            socket,
            mtu,
            waiting: Vec::with_capacity(BATCH_BYTES),
            ends: Vec::with_capacity(BATCH),
            lost: None,
            looked_at: now,
            recovered: None,
            pace,
            free_at: now,
            complaints: Vec::new(),
            stats: InterfaceStats::default(),
        };
        if !state.running {
            sink.lose("has no carrier");
        }
        Ok(sink)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The largest packet that it takes.
    pub fn mtu(&self) -> Mtu {
        self.mtu
    }

    /// The counts so far.
    pub fn stats(&self) -> InterfaceStats {
        self.stats
    }

    /// Packets get through again after these were lost: live flows have to begin anew. Once for each time.
    pub fn take_recovery(&mut self) -> Option<Losses> {
        self.recovered.take()
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.complaints)
    }

    /// Looks at the interface, if it is time to.
    fn look(&mut self) {
        let now = Instant::now();
        if now.duration_since(self.looked_at) < LOOK_EVERY {
            return;
        }
        self.looked_at = now;
        match self.socket.ask(&self.name) {
            Err(_) => self.lose("is gone"),
            Ok(State { up: false, .. }) => self.lose("is down"),
            Ok(State { running: false, .. }) => self.lose("has no carrier"),
            Ok(state) => self.recover(state.index),
        }
    }

    fn lose(&mut self, how: &str) {
        if self.lost.is_none() {
            self.stats.outages += 1;
            self.complaints.push(format!(
                "{} {how}: packets are lost until it is back",
                self.name
            ));
        }
        self.lost.get_or_insert_default().well = false;
    }

    fn recover(&mut self, index: libc::c_int) {
        let Some(outage) = &mut self.lost else {
            return;
        };
        if !std::mem::replace(&mut outage.well, true) {
            return;
        }
        // An interface that was made anew has another index. What can't be bound is looked at again.
        if self.socket.bind(index, PATIENCE).is_ok()
            && let Some(outage) = self.lost.take()
        {
            self.complaints.push(format!(
                "{} is back; {} packets were lost, live flows begin anew",
                self.name, outage.frames
            ));
            self.recovered = Some(outage.losses);
        }
    }

    fn frame(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.waiting[start..self.ends[number]]
    }

    /// Sends what waits. What can't be sent is lost, and counted.
    fn send_batch(&mut self) {
        let mut next = 0;
        let mut tries = 0;
        while next < self.ends.len() {
            if let Some(mut outage) = self.lost.take() {
                for number in next..self.ends.len() {
                    outage.frames += 1;
                    outage.losses.note(self.frame(number));
                }
                self.stats.lost += (self.ends.len() - next) as u64;
                self.lost = Some(outage);
                break;
            }
            self.keep_pace();
            let frames = (next..self.burst_from(next)).map(|number| self.frame(number));
            match self.socket.send(frames) {
                // Without a carrier none of these went anywhere.
                Ok(_) if !self.socket.is_running(&self.name).unwrap_or(false) => {
                    self.lose("has no carrier");
                }
                Ok(sent) => {
                    let sent_bytes: usize = (next..next + sent).map(|n| self.frame(n).len()).sum();
                    self.stats.frames += sent as u64;
                    self.stats.bytes += sent_bytes as u64;
                    self.take_time(sent_bytes);
                    next += sent;
                    tries = 0;
                }
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // The device's queue is full, or there is no carrier.
                    Some(libc::ENOBUFS) if tries < TRIES_WHEN_FULL => {
                        tries += 1;
                        self.look();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    Some(libc::EMSGSIZE) => {
                        self.too_large();
                        next += 1;
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS) => self.lose("takes no more packets"),
                    Some(libc::ENXIO | libc::ENODEV) => self.lose("is gone"),
                    Some(libc::ENETDOWN) => self.lose("is down"),
                    _ => self.lose(&format!("fails ({error})")),
                },
            }
        }
        self.waiting.clear();
        self.ends.clear();
    }

    fn too_large(&mut self) {
        if self.stats.too_large == 0 {
            self.complaints.push(format!(
                "{} takes no packets of {} bytes any more: restart sslcollector after making its MTU smaller",
                self.name,
                self.mtu.bytes()
            ));
        }
        self.stats.too_large += 1;
    }

    /// The end of the frames from `next` on that may go out at once: one at least.
    fn burst_from(&self, next: usize) -> usize {
        let Some(pace) = self.pace else {
            return self.ends.len();
        };
        let begin = self.ends[next] - self.frame(next).len();
        let fits = |end: &usize| pace.time(end - begin) <= PACE_BURST;
        let more = self.ends[next + 1..].iter().take_while(|end| fits(end));
        next + 1 + more.count()
    }

    /// Waits until the wire is free under the pace limit.
    fn keep_pace(&self) {
        let early = self.free_at.saturating_duration_since(Instant::now());
        if self.pace.is_some() && !early.is_zero() {
            std::thread::sleep(early);
        }
    }

    /// Under the pace limit, `bytes` keep the wire busy for a while.
    fn take_time(&mut self, bytes: usize) {
        if let Some(pace) = self.pace {
            let now = Instant::now();
            let earliest = now.checked_sub(PACE_BURST).unwrap_or(now);
            self.free_at = self.free_at.max(earliest) + pace.time(bytes);
        }
    }
}

impl PacketSink for InterfaceSink {
    /// Keeps the frame until its batch is full or flushed. The interface's trouble is no error: it is counted.
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        let largest = usize::from(self.mtu.bytes()) + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES;
        debug_assert!(packet.frame.len() <= largest);
        self.waiting.extend_from_slice(packet.frame);
        self.ends.push(self.waiting.len());
        if self.ends.len() == BATCH || self.waiting.len() + largest > BATCH_BYTES {
            self.send_batch();
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.look();
        self.send_batch();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time() {
        let pace = |bits| Pace::bits_per_s(bits);
        assert_eq!(pace(8e6).unwrap().time(1000), Duration::from_millis(1));
        assert_eq!(pace(1e9).unwrap().time(1514), Duration::from_nanos(12_112));
        for bad in [0.0, 9e5, 1.1e12, f64::NAN, f64::INFINITY, -1e6] {
            assert_eq!(pace(bad), None, "{bad}");
        }
    }
}
