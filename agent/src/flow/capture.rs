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
    let set_filter = |source: &mut _| {
        filter::set(source, &filter::tagged())
            .or_else(|_| filter::set(source, &filter::untagged()))
            .map_err(refused)
    };
    set_filter(&mut source)?;
    let follows = load(link).and_then(|program| {
        // libpcap itself runs the filter over what it finds in its buffer, and over one frame more: it would drop what
        // the program alone passes. Between these two calls everything does.
        source.filter("", true).map_err(std::io::Error::other)?;
        program.attach(source.as_fd())
    });
    if follows.is_err() {
        set_filter(&mut source)?;
    }
    // Whoever takes over the agent sees no more by it than handshakes.
    lock_filter(source.as_fd()).map_err(|error| refused(error.to_string()))?;
    Ok(Opened {
        source,
        link,
        complaint: follows.err().map(|error| {
            format!(
                "on {interface} the kernel follows no hello over several segments ({error}): \
                 of such no fingerprint, of some no addresses"
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
            dead.compile(&filter::untagged(), true).unwrap();
        }
        let ethernet = pcap::Capture::dead(pcap::Linktype(1)).unwrap();
        ethernet.compile(&filter::tagged(), true).unwrap();
    }

    /// The classic filter, as the kernel would run it, over the frames of the other tests.
    #[test]
    fn the_filter_passes_what_is_read_and_nothing_else() {
        use crate::flow::wire::parse_frame;
        use crate::flow::wire::tests::{ethernet, ipv4, ipv6, ipv6_extended, tcp};
        let compiled = |number: i32, text: &str| {
            let dead = pcap::Capture::dead(pcap::Linktype(number)).unwrap();
            dead.compile(text, true).unwrap()
        };
        let (tagged, raw) = (
            compiled(1, &filter::tagged()),
            compiled(12, &filter::untagged()),
        );
        let segments = [
            (tcp(5000, 443, 1, 2, &[]), true),
            (tcp(5000, 443, 1, 0x12, &[]), false),
            (tcp(5000, 443, 1, 0x10, &[]), false),
            (tcp(5000, 443, 1, 0x18, &hello(1, [7; 32])), true),
            (tcp(5000, 443, 1, 0x18, &hello(2, [7; 32])), true),
            (tcp(5000, 443, 1, 0x18, &hello(11, [7; 32])), false),
            (tcp(5000, 443, 1, 0x18, &[23; 300]), false),
        ];
        for (segment, passes) in segments {
            let mut packets = vec![
                (0x0800u16, ipv4(&segment), true),
                (0x86dd, ipv6(&segment), true),
            ];
            for extensions in [&[0][..], &[60, 0], &[0, 43, 60]] {
                packets.push((0x86dd, ipv6_extended(extensions, &segment), true));
            }
            for extensions in [&[44][..], &[60, 0, 43, 60]] {
                packets.push((0x86dd, ipv6_extended(extensions, &segment), false));
            }
            for (protocol, packet, reaches) in packets {
                let passes = passes && reaches;
                assert_eq!(raw.filter(&packet), passes);
                if passes {
                    assert!(parse_frame(LinkType::Raw, &packet).is_some());
                }
                let (mut outer, mut inner) = (protocol, packet);
                for tags in 0..3 {
                    let frame = ethernet(outer, &inner);
                    assert_eq!(tagged.filter(&frame), passes, "{outer:x}, {tags} tags");
                    inner = [&[0, 5][..], &outer.to_be_bytes(), &inner].concat();
                    outer = 0x8100;
                }
            }
        }
    }

    /// Needs the right to capture; says so and passes where it is missing.
    #[test]
    fn a_filter_that_the_kernel_does_not_run_is_found_out() {
        let opened = pcap::Capture::from_device("lo")
            .unwrap()
            .snaplen(256)
            .open();
        let Ok(mut source) = opened else {
            eprintln!("skipped: no right to capture here");
            return;
        };
        filter::set(&mut source, &filter::tagged()).unwrap();
        let error = filter::set(&mut source, "ip6 protochain 6").unwrap_err();
        assert!(error.contains("kernel doesn't run it"), "{error}");
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let config = CaptureConfig {
            interfaces: vec!["no-such-card".to_owned()],
        };
        let error = Capture::start(&config).unwrap_err();
        assert!(error.to_string().contains("no-such-card"));
    }

    /// What passes is counted to the frame, with the program and with the filter alone. Needs root; says so and passes
    /// otherwise.
    #[test]
    fn nothing_of_the_bulk_reaches_the_agent() {
        const BULK: usize = 32 << 20;
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: no network of its own here");
            return;
        }
        mirror_tests::network::enter_new_namespace();
        mirror_tests::network::ip("link set lo up");
        for follows in [true, false] {
            let load = |link| match follows {
                true => ebpf::Program::load(link),
                false => Err(std::io::Error::from_raw_os_error(libc::EPERM)),
            };
            let opened = OpenCapture(vec![open("lo", load).unwrap()]);
            let complaints = opened.complaints().count();
            assert_eq!(
                complaints,
                usize::from(!follows),
                "the kernel takes the program"
            );
            let capture = opened.start().unwrap();
            for address in ["127.0.0.1:0", "[::1]:0"] {
                let listener = TcpListener::bind(address).unwrap();
                let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                for piece in hello(1, [7; 32]).chunks(100) {
                    client.write_all(piece).unwrap();
                    server.read_exact(&mut vec![0; piece.len()]).unwrap();
                }
                server.write_all(&hello(2, [8; 32])).unwrap();
                client.read_exact(&mut [0; 205]).unwrap();
                let writer = std::thread::spawn(move || {
                    client.write_all(&vec![23; BULK]).unwrap();
                    client
                });
                server.read_exact(&mut vec![0; BULK]).unwrap();
                // The last one that passes: frames keep their order.
                server.write_all(&hello(2, [9; 32])).unwrap();
                writer.join().unwrap().read_exact(&mut [0; 205]).unwrap();
                let last = |fact| matches!(fact, WireFact::ServerHello { random, .. } if random == [9; 32]);
                while !last(capture.facts.recv().unwrap()) {}
            }
            // A SYN and both servers' hellos; the client's is in three segments, of which the filter knows the first.
            let each = 3 + if follows { 3 } else { 1 };
            assert_eq!(capture.stop().frames, 2 * each);
        }
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
                    WireFact::Fingerprint { .. } => continue,
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
