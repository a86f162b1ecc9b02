//! Sees handshakes on the host's interfaces: a thread for each, with libpcap, in immediate mode.
//!
//! A filter in the kernel lets SYNs, ClientHellos and ServerHellos through and nothing else: no other
//! packet reaches the agent. It cuts them behind the hello's random.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::wire::{LinkType, WireFact, parse_frame};
use crate::output::packet_socket::lock_filter;

/// The name that stands for all interfaces.
pub const ANY: &str = "any";

/// Link header, two VLAN tags, IPv6 and TCP with all options, and the hello's 43 bytes are 191.
const SNAP_BYTES: i32 = 256;
/// How long libpcap polls; a quiet interface's thread stays in its loop however often that passes,
/// and leaves it only for [`pcap::BreakLoop`].
const TIMEOUT_MS: i32 = 1000;
/// After so many frames the kernel is asked for its count of drops.
const STATS_EVERY: u32 = 64;
/// Facts that may wait for the worker.
const QUEUE: usize = 16 * 1024;

/// `tcp[…]` stands for IPv4 only, so IPv6 is spelled out. Byte 0 of the payload is the record's type
/// (22: handshake), byte 1 its major version, byte 5 the handshake's type (1, 2: the hellos).
const FILTER: &str = "\
(tcp and ((tcp[13] & 0x12 = 2) or (tcp[((tcp[12] & 0xf0) >> 2)] = 22 \
 and tcp[((tcp[12] & 0xf0) >> 2) + 1] = 3 \
 and (tcp[((tcp[12] & 0xf0) >> 2) + 5] = 1 or tcp[((tcp[12] & 0xf0) >> 2) + 5] = 2)))) \
or (ip6 and ip6[6] = 6 and ((ip6[53] & 0x12 = 2) or (ip6[40 + ((ip6[52] & 0xf0) >> 2)] = 22 \
 and ip6[41 + ((ip6[52] & 0xf0) >> 2)] = 3 \
 and (ip6[45 + ((ip6[52] & 0xf0) >> 2)] = 1 or ip6[45 + ((ip6[52] & 0xf0) >> 2)] = 2))))";

/// Where to look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// Names of interfaces, or [`ANY`].
    pub interfaces: Vec<String>,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self {
            interfaces: vec![ANY.to_owned()],
        }
    }
}

/// Handshakes can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The right to capture (CAP_NET_RAW) is missing. Sessions whose library has no socket then
    /// get placeholder addresses.
    #[error("no right to capture on {interface} (CAP_NET_RAW): {cause}")]
    NotPermitted {
        /// Which interface.
        interface: String,
        /// libpcap's words.
        cause: String,
    },
    /// There is no such interface, or it isn't up.
    #[error("cannot capture on {interface}: {cause}")]
    Interface {
        /// Which interface.
        interface: String,
        /// libpcap's words.
        cause: String,
    },
    /// Its frames begin with a header that isn't known here.
    #[error("{interface} has link type {number}, which is not supported")]
    LinkType {
        /// Which interface.
        interface: String,
        /// As libpcap numbers it.
        number: i32,
    },
    /// The filter doesn't compile for the interface.
    #[error("libpcap does not take the filter for {interface}: {cause}")]
    Filter {
        /// Which interface.
        interface: String,
        /// libpcap's words.
        cause: String,
    },
    /// No thread could be started.
    #[error("cannot start a capture thread: {0}")]
    Thread(std::io::Error),
}

/// What the capture has seen and missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureStats {
    /// Frames that passed the filter.
    pub frames: u64,
    /// Facts read from them.
    pub facts: u64,
    /// Facts thrown away because the worker was too slow.
    pub facts_dropped: u64,
    /// Frames thrown away by the kernel or the card, by their own count.
    pub kernel_dropped: u64,
    /// Interfaces that ceased to deliver.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    frames: AtomicU64,
    facts: AtomicU64,
    facts_dropped: AtomicU64,
    failed: AtomicU64,
}

/// Captures until it is stopped or dropped.
#[derive(Debug)]
pub struct Capture {
    facts: Receiver<WireFact>,
    shared: Arc<Shared>,
    kernel_dropped: Vec<Arc<AtomicU64>>,
    threads: Vec<(JoinHandle<()>, Interrupt)>,
}

/// Ends a thread's wait in libpcap.
struct Interrupt(pcap::BreakLoop);

impl std::fmt::Debug for Interrupt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Interrupt")
    }
}

/// Interfaces that are open, of which nothing is read yet. What the kernel lets through can't be widened any more.
pub struct OpenCapture(Vec<(pcap::Capture<pcap::Active>, LinkType)>);

impl std::fmt::Debug for OpenCapture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OpenCapture({})", self.0.len())
    }
}

impl OpenCapture {
    /// Opens all interfaces; when this returns, no handshake is missed any more.
    ///
    /// # Errors
    /// The first interface that can't be opened, and why. The caller decides what to do without.
    pub fn open(config: &CaptureConfig) -> Result<Self, CaptureError> {
        let opened = config.interfaces.iter().map(|interface| open(interface));
        Ok(Self(opened.collect::<Result<_, _>>()?))
    }

    /// Begins to read: a thread for each interface.
    ///
    /// # Errors
    /// [`CaptureError::Thread`].
    pub fn start(self) -> Result<Capture, CaptureError> {
        let (sender, facts) = sync_channel(QUEUE);
        let mut capture = Capture {
            facts,
            shared: Arc::default(),
            kernel_dropped: Vec::new(),
            threads: Vec::new(),
        };
        for (mut source, link) in self.0 {
            let interrupt = Interrupt(source.breakloop_handle());
            let dropped = Arc::new(AtomicU64::new(0));
            capture.kernel_dropped.push(Arc::clone(&dropped));
            let (shared, sender) = (Arc::clone(&capture.shared), sender.clone());
            let thread = std::thread::Builder::new()
                .name("capture".to_owned())
                .spawn(move || watch(source, link, &sender, &shared, &dropped))
                .map_err(CaptureError::Thread)?;
            capture.threads.push((thread, interrupt));
        }
        Ok(capture)
    }
}

impl Capture {
    /// Opens all interfaces, and begins to read.
    ///
    /// # Errors
    /// As those of [`OpenCapture`].
    pub fn start(config: &CaptureConfig) -> Result<Self, CaptureError> {
        OpenCapture::open(config)?.start()
    }

    /// The next fact, if one has come; never waits.
    pub fn next_fact(&self) -> Option<WireFact> {
        self.facts.try_recv().ok()
    }

    /// What has been seen and missed so far.
    pub fn stats(&self) -> CaptureStats {
        CaptureStats {
            frames: self.shared.frames.load(Relaxed),
            facts: self.shared.facts.load(Relaxed),
            facts_dropped: self.shared.facts_dropped.load(Relaxed),
            kernel_dropped: self
                .kernel_dropped
                .iter()
                .map(|one| one.load(Relaxed))
                .sum(),
            failed: self.shared.failed.load(Relaxed),
        }
    }

    /// Stops all threads and waits for their end.
    pub fn stop(mut self) -> CaptureStats {
        self.end_threads();
        self.stats()
    }

    fn end_threads(&mut self) {
        self.shared.stop.store(true, Relaxed);
        for (thread, interrupt) in self.threads.drain(..) {
            interrupt.0.breakloop();
            // A thread that has panicked has nothing more to give.
            let _ = thread.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end_threads();
    }
}

fn open(interface: &str) -> Result<(pcap::Capture<pcap::Active>, LinkType), CaptureError> {
    let failed = |error: pcap::Error| {
        let cause = error.to_string();
        let interface = interface.to_owned();
        let words = cause.to_lowercase();
        if words.contains("permi") {
            CaptureError::NotPermitted { interface, cause }
        } else {
            CaptureError::Interface { interface, cause }
        }
    };
    let mut source = pcap::Capture::from_device(interface)
        .map_err(failed)?
        .snaplen(SNAP_BYTES)
        .promisc(false)
        .immediate_mode(true)
        .timeout(TIMEOUT_MS)
        .open()
        .map_err(failed)?;
    let number = source.get_datalink().0;
    let link = LinkType::from_number(number).ok_or_else(|| CaptureError::LinkType {
        interface: interface.to_owned(),
        number,
    })?;
    // `vlan` shifts what stands behind it, and not every link type has it.
    source
        .filter(&format!("({FILTER}) or (vlan and ({FILTER}))"), true)
        .or_else(|_| source.filter(FILTER, true))
        .map_err(|error| CaptureError::Filter {
            interface: interface.to_owned(),
            cause: error.to_string(),
        })?;
    // Whoever takes over the agent sees no more by it than handshakes.
    lock_filter(source.as_fd()).map_err(|error| CaptureError::Filter {
        interface: interface.to_owned(),
        cause: error.to_string(),
    })?;
    Ok((source, link))
}

fn watch(
    mut source: pcap::Capture<pcap::Active>,
    link: LinkType,
    facts: &SyncSender<WireFact>,
    shared: &Shared,
    kernel_dropped: &AtomicU64,
) {
    let mut since_stats = 0u32;
    while !shared.stop.load(Relaxed) {
        match source.next_packet() {
            Ok(packet) => {
                shared.frames.fetch_add(1, Relaxed);
                since_stats += 1;
                if let Some(fact) = parse_frame(link, packet.data) {
                    shared.facts.fetch_add(1, Relaxed);
                    match facts.try_send(fact) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => {
                            shared.facts_dropped.fetch_add(1, Relaxed);
                        }
                        Err(TrySendError::Disconnected(_)) => return,
                    }
                }
            }
            Err(pcap::Error::TimeoutExpired) => {}
            // Interrupted: the condition above ends the loop.
            Err(pcap::Error::NoMorePackets) => {}
            Err(_) => {
                // The interface is gone; the others go on.
                shared.failed.fetch_add(1, Relaxed);
                return;
            }
        }
        if since_stats >= STATS_EVERY {
            since_stats = 0;
            count_drops(&mut source, kernel_dropped);
        }
    }
    count_drops(&mut source, kernel_dropped);
}

fn count_drops(source: &mut pcap::Capture<pcap::Active>, kernel_dropped: &AtomicU64) {
    if let Ok(stats) = source.stats() {
        let dropped = u64::from(stats.dropped) + u64::from(stats.if_dropped);
        kernel_dropped.store(dropped, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::wire::tests::hello;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn the_filter_compiles_for_every_link_type() {
        for number in [1, 113, 276, 12] {
            let dead = pcap::Capture::dead(pcap::Linktype(number)).unwrap();
            dead.compile(FILTER, true).unwrap();
        }
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let config = CaptureConfig {
            interfaces: vec!["no-such-card".to_owned()],
        };
        let error = Capture::start(&config).unwrap_err();
        assert!(error.to_string().contains("no-such-card"));
    }

    /// Needs the right to capture; says so and passes where it is missing.
    #[test]
    fn hellos_on_loopback_are_seen() {
        let capture = match Capture::start(&CaptureConfig::default()) {
            Ok(capture) => capture,
            Err(CaptureError::NotPermitted { .. }) => {
                eprintln!("skipped: no right to capture here");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, from) = listener.accept().unwrap();
            let random = [from.port().to_be_bytes()[1]; 32];
            client.write_all(&hello(1, random)).unwrap();
            server.read_exact(&mut [0; 205]).unwrap();
            // An ordinary record must not pass the filter; the hello behind it must.
            server.write_all(&[23; 300]).unwrap();
            client.read_exact(&mut [0; 300]).unwrap();
            server.write_all(&hello(2, [9; 32])).unwrap();
            client.read_exact(&mut [0; 205]).unwrap();
            let mut seen = Vec::new();
            while seen.len() < 3 {
                // Other programs' handshakes on this machine are none of this test's.
                let fact = capture.facts.recv().unwrap();
                let (tuple, name) = match fact {
                    WireFact::Syn { tuple, .. } => (tuple, "syn"),
                    WireFact::ClientHello { tuple, .. } => (tuple, "client"),
                    WireFact::ServerHello { tuple, .. } => (tuple, "server"),
                    WireFact::SynAck { .. } => panic!("the filter lets a SYN-ACK through"),
                };
                if tuple.client == from && seen.last() != Some(&name) {
                    seen.push(name);
                }
            }
            assert_eq!(seen, ["syn", "client", "server"]);
        }
        assert_eq!(capture.stop().failed, 0);
    }
}
