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
//!
//! Where that is asked for, the kernel cuts them: see [`Batch`].

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::losses::{Losses, SendStats};
use super::pace::{Pace, Pacer};
use super::packet_socket::{BATCH, PacketSocket, State, leave_work_to_kernel};
use crate::event::{Packet, PacketSink};
use crate::forge::Mtu;
use crate::wire::{ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES};

/// A send waits so long for room at most: a slow interface slows the agent, whose rings then show exact holes;
/// one that stands still doesn't hold it for ever.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the interface is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often a full device queue is tried again, a millisecond apart.
const TRIES_WHEN_FULL: u32 = 100;

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

/// Has an interface leave the cutting of large packets, and checksums, to the kernel: then its far end gets them as
/// a wire would carry them, which [`for_wire_only`](InterfaceSink::for_wire_only) needs.
///
/// # Errors
/// The kernel's: there is no right to (CAP_NET_ADMIN), no such interface, or it can't.
pub fn leave_cutting_to_kernel(name: &str) -> io::Result<()> {
    leave_work_to_kernel(name)
}

/// Sends packets on an interface, in batches.
#[derive(Debug)]
pub struct InterfaceSink {
    name: String,
    socket: PacketSocket,
    mtu: Mtu,
    /// Frames that wait for the rest of their batch.
    waiting: Batch,
    /// The kernel is to cut them where it can.
    wire_only: bool,
    /// It does.
    kernel_cuts: bool,
    /// Why nothing is sent at the moment.
    lost: Option<Outage>,
    looked_at: Instant,
    /// What was lost, once packets get through again.
    recovered: Option<Losses>,
    pacer: Pacer,
    complaints: Vec<String>,
    stats: SendStats,
}

#[derive(Debug, Default)]
struct Outage {
    /// Frames lost in it.
    frames: u64,
    /// The interface was as it should be when it was looked at last.
    well: bool,
    losses: Losses,
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
            waiting: Batch::default(),
            wire_only: false,
            kernel_cuts: false,
            lost: None,
            looked_at: now,
            recovered: None,
            pacer: Pacer::new(pace),
            complaints: Vec::new(),
            stats: SendStats::default(),
        };
        if !state.running {
            sink.lose("has no carrier");
        }
        Ok(sink)
    }

    /// Has the kernel cut the packets from now on, if the interface leaves that to it: before anybody sees them, on the
    /// interface or at its far end. One that does it on its own may have a far end that gets them uncut: there they
    /// are sent as ever, which is said.
    pub fn for_wire_only(&mut self) {
        self.wire_only = self.socket.let_kernel_cut().is_ok();
        let leaves_work = self.socket.leaves_work_to_kernel(&self.name);
        self.kernel_cuts = self.wire_only && leaves_work;
        if !self.kernel_cuts {
            self.complaints.push(format!(
                "{0} has its own way of cutting large packets, so --wire-only sends as without it: `ethtool -K {0} tso off tx off` leaves that to the kernel",
                self.name
            ));
        }
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
    pub fn stats(&self) -> SendStats {
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
            Ok(state) => {
                self.kernel_cuts = self.wire_only
                    && state.mtu_bytes >= self.mtu.bytes().into()
                    && self.socket.leaves_work_to_kernel(&self.name);
                self.recover(state.index);
            }
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

    /// Sends what waits. What can't be sent is lost, and counted.
    fn send_batch(&mut self) {
        let mut next = 0;
        let mut tries = 0;
        while next < self.waiting.len() {
            if let Some(mut outage) = self.lost.take() {
                for number in next..self.waiting.len() {
                    let frames = self.waiting.frames(number);
                    outage.frames += frames;
                    self.stats.lost += frames;
                    outage.losses.note(self.waiting.outgoing(number).frame);
                }
                self.lost = Some(outage);
                break;
            }
            self.pacer.wait();
            let sizes = (next..self.waiting.len()).map(|number| self.waiting.wire_bytes(number));
            let end = next + self.pacer.burst(sizes);
            let frames = (next..end).map(|number| self.waiting.outgoing(number));
            match self.socket.send(frames) {
                // Without a carrier none of these went anywhere.
                Ok(_) if !self.socket.is_running(&self.name).unwrap_or(false) => {
                    self.lose("has no carrier");
                }
                Ok(sent) => {
                    let shrunk = self.has_shrunk(next..next + sent);
                    let mut sent_bytes = 0;
                    for number in next..next + sent {
                        match self.waiting.outgoing(number).cut {
                            // Nobody has said that these are too large.
                            Some(_) if shrunk => self.too_large(self.waiting.frames(number)),
                            _ => {
                                self.stats.frames += self.waiting.frames(number);
                                sent_bytes += self.waiting.wire_bytes(number);
                            }
                        }
                    }
                    self.stats.bytes += sent_bytes as u64;
                    self.pacer.sent(sent_bytes);
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
                        self.too_large(self.waiting.frames(next));
                        next += 1;
                    }
                    Some(libc::EAGAIN | libc::ENOBUFS) => self.lose("takes no more packets"),
                    Some(libc::ENXIO | libc::ENODEV) => self.lose("is gone"),
                    Some(libc::ENETDOWN) => self.lose("is down"),
                    _ => {
                        // Perhaps of large packets only.
                        self.wire_only = false;
                        self.kernel_cuts = false;
                        self.lose(&format!("fails ({error})"));
                    }
                },
            }
        }
        self.waiting.clear();
    }

    /// Whether some of these were for the kernel to cut, and the interface no longer takes what it makes of them.
    fn has_shrunk(&mut self, sent: Range<usize>) -> bool {
        let mut cut = sent.map(|number| self.waiting.outgoing(number).cut);
        let mtu = self.mtu.bytes().into();
        let shrunk = cut.any(|cut| cut.is_some())
            && self
                .socket
                .mtu_bytes(&self.name)
                .is_ok_and(|bytes| bytes < mtu);
        self.kernel_cuts &= !shrunk;
        shrunk
    }

    /// So many frames of one packet were lost for their size.
    fn too_large(&mut self, frames: u64) {
        if self.stats.too_large == 0 {
            let cuts = match self.wire_only {
                true => "; until it has its MTU back, it is sent to as without --wire-only",
                false => "",
            };
            self.complaints.push(format!(
                "{} takes no packets of {} bytes any more: those are LOST; restart sslcollector after making its MTU \
                 smaller{cuts}",
                self.name,
                self.mtu.bytes()
            ));
        }
        self.stats.too_large += frames;
    }
}

impl PacketSink for InterfaceSink {
    /// Keeps the frame until its batch is full or flushed. The interface's trouble is no error: it is counted.
    fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
        let largest = usize::from(self.mtu.bytes()) + ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES;
        debug_assert!(packet.frame.len() <= largest);
        self.waiting.push(packet.frame, self.kernel_cuts);
        if self.waiting.len() == BATCH || self.waiting.bytes() + largest > BATCH_BYTES {
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
    use mirror_tests::network::{enter_new_namespace, ip};
    use mirror_tests::process::until;

    use super::*;
    use crate::event::{FlowChange, FlowEvent, FlowSink, Side, WallTime};
    use crate::forge::testing::info;
    use crate::forge::{ForgeConfig, Forger, SequenceKey, View};

    /// Frames by whether they fit an MTU of 1400 bytes.
    #[derive(Default)]
    struct Sizes {
        small: u64,
        large: u64,
    }

    impl PacketSink for Sizes {
        fn packet(&mut self, packet: Packet<'_>) -> io::Result<()> {
            match packet.frame.len() <= 1400 + ETHERNET_HEADER_BYTES {
                true => self.small += 1,
                false => self.large += 1,
            }
            Ok(())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Three answers, each of which the kernel is to cut.
    fn forge<P: PacketSink>(sink: P) -> P {
        let config = ForgeConfig {
            key: SequenceKey::new([7; 16]),
            mtu: Mtu::default(),
            view: View::default(),
        };
        let flow = info("10.0.0.1:40000", "10.0.0.2:443");
        let mut forger = Forger::new(config, sink);
        let mut tell = |change| {
            forger.flow_event(FlowEvent {
                flow: 1,
                at: WallTime(1),
                change,
            });
        };
        tell(FlowChange::Begin(&flow));
        for offset in [0, 16_384, 32_768] {
            tell(FlowChange::Data {
                from: Side::Server,
                offset,
                bytes: &[1; 16_384],
            });
        }
        forger.into_sink()
    }

    /// What no longer fits is lost, frame by frame, whoever was to cut it; nothing else is.
    #[test]
    fn wire_only_on_an_interface_that_has_shrunk() {
        enter_new_namespace();
        ip("link add mirror0 type veth peer name mirror0-tap");
        leave_cutting_to_kernel("mirror0").unwrap();
        ip("link set mirror0-tap up");
        ip("link set mirror0 up");
        let socket = PacketSocket::new().unwrap();
        until("a carrier", || {
            socket.is_running("mirror0").ok().filter(|runs| *runs)
        });
        let expected = forge(Sizes::default());
        assert_eq!(expected.large, 3 * 11);
        let mut sink = InterfaceSink::open("mirror0", None).unwrap();
        sink.for_wire_only();
        assert!(sink.kernel_cuts, "{:?}", sink.complaints);
        // It sends a few at a time, and hasn't looked at the interface since.
        sink.pacer = Pacer::new(Pace::bits_per_s(1e7));
        let mut sink = forge(sink);
        ip("link set mirror0 mtu 1400");
        sink.looked_at = Instant::now() + Duration::from_secs(600);
        sink.send_batch();
        let SendStats {
            frames, too_large, ..
        } = sink.stats();
        // With the last frame of each answer, which alone would have fitted.
        assert_eq!(too_large, expected.large + 3);
        assert_eq!(frames, expected.small - 3);
        let said = sink.take_complaints();
        assert!(
            said.len() == 1 && said[0].contains("as without --wire-only"),
            "{said:?}"
        );
    }
}
