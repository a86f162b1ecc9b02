//! Sees handshakes on the host's interfaces: a thread for each, with libpcap, in immediate mode.
//!
//! A filter in the kernel lets SYNs, ClientHellos and ServerHellos through and nothing else: no other
//! packet reaches the agent. It knows which hellos have begun (`super::ebpf`), or passes those segments only
//! with which one begins (`super::filter`).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use super::hellos::Hellos;
use super::wire::{LinkType, WireFact};
use super::{ebpf, filter};
use crate::output::packet_socket::lock_filter;

/// The name that stands for all interfaces.
pub const ANY: &str = "any";

/// A hello with a hybrid key share and some tickets, and headers; a longer one is bound, but not read as a whole.
const SNAP_BYTES: i32 = 4096 + 256;
/// For some 3,800 frames that wait for their thread, whatever they need of that.
const BUFFER_BYTES: i32 = 16 << 20;
/// How long libpcap polls; a quiet interface's thread stays in its loop however often that passes,
/// and leaves it only for [`pcap::BreakLoop`].
const TIMEOUT_MS: i32 = 1000;
/// After so many frames the kernel is asked for its count of drops.
const STATS_EVERY: u32 = 64;
/// Facts that may wait for the worker.
const QUEUE: usize = 16 * 1024;

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
    #[error(
        "no right to capture on {interface}: {cause}; run as root, give sslcollector CAP_NET_RAW, or do without (-I none)"
    )]
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
    #[error(
        "{interface} has link type {number}, whose headers sslcollector can't read: watch another one, or all (-I any)"
    )]
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
    /// Hellos of which a part was read and the rest never came.
    pub unfinished: u64,
    /// Interfaces that ceased to deliver.
    pub failed: u64,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    frames: AtomicU64,
    facts: AtomicU64,
    facts_dropped: AtomicU64,
    unfinished: AtomicU64,
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
pub struct OpenCapture(Vec<Opened>);

struct Opened {
    source: pcap::Capture<pcap::Active>,
    link: LinkType,
    complaint: Option<String>,
}

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
        let opened = config.interfaces.iter();
        let opened = opened.map(|interface| open(interface, ebpf::Program::load));
        Ok(Self(opened.collect::<Result<_, _>>()?))
    }

    /// What the kernel doesn't do here, for people.
    pub fn complaints(&self) -> impl Iterator<Item = &str> {
        self.0
            .iter()
            .filter_map(|opened| opened.complaint.as_deref())
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
        for opened in self.0 {
            let (mut source, link) = (opened.source, opened.link);
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

    /// The facts that have come; never waits, and ends in a storm, too.
    pub fn facts(&self) -> impl Iterator<Item = WireFact> {
        self.facts.try_iter().take(QUEUE)
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
            unfinished: self.shared.unfinished.load(Relaxed),
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

/// `load` gives the program by which the kernel follows hellos over several segments.
fn open(
    interface: &str,
    load: impl Fn(LinkType) -> std::io::Result<ebpf::Program>,
) -> Result<Opened, CaptureError> {
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
        .buffer_size(BUFFER_BYTES)
        .open()
        .map_err(failed)?;
    let number = source.get_datalink().0;
    let link = LinkType::from_number(number).ok_or_else(|| CaptureError::LinkType {
        interface: interface.to_owned(),
        number,
    })?;
    let refused = |cause: String| CaptureError::Filter {
        interface: interface.to_owned(),
        cause,
    };
    // Until a filter is set everything passes, since the socket was opened: what does is looked at as the rest is, and
    // tells nothing.
    let follows = load(link).and_then(|program| {
        // libpcap would run a filter of its own over what it finds in its buffer, and over one frame more, and drop what
        // the program alone passes.
        source.filter("", true).map_err(std::io::Error::other)?;
        program.attach(source.as_fd())
    });
    if follows.is_err() {
        filter::set(&mut source, &filter::tagged())
            .or_else(|_| filter::set(&mut source, &filter::untagged()))
            .map_err(refused)?;
    }
    // Whoever takes over the agent sees no more by it than handshakes.
    lock_filter(source.as_fd()).map_err(|error| refused(error.to_string()))?;
    Ok(Opened {
        source,
        link,
        complaint: follows.err().map(|error| {
            format!(
                "on {interface} the kernel follows no hello over several segments ({error}): \
                 of such no fingerprint, of some no addresses; the right to load programs (CAP_BPF) mends it"
            )
        }),
    })
}

fn watch(
    mut source: pcap::Capture<pcap::Active>,
    link: LinkType,
    facts: &SyncSender<WireFact>,
    shared: &Shared,
    kernel_dropped: &AtomicU64,
) {
    let mut since_stats = 0u32;
    let mut hellos = Hellos::default();
    while !shared.stop.load(Relaxed) {
        match source.next_packet() {
            Ok(packet) => {
                shared.frames.fetch_add(1, Relaxed);
                since_stats += 1;
                let mut is_heard = true;
                let given_up = hellos.unfinished();
                hellos.frame(link, packet.data, &mut |fact| {
                    shared.facts.fetch_add(1, Relaxed);
                    match facts.try_send(fact) {
                        Ok(()) => {}
                        Err(TrySendError::Full(_)) => {
                            shared.facts_dropped.fetch_add(1, Relaxed);
                        }
                        Err(TrySendError::Disconnected(_)) => is_heard = false,
                    }
                });
                if !is_heard {
                    return;
                }
                let given_up = hellos.unfinished() - given_up;
                shared.unfinished.fetch_add(given_up, Relaxed);
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
mod tests;
