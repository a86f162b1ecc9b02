//! Takes readers in, and sees them out.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recv};
use rustls::ServerConfig;

use super::ReadersError;
use super::access::Access;
use super::connection::{Connection, PATIENCE};
use super::listen::ListenAddress;
use super::log::{Log, Writer};
use super::reader::{Counters, Reader, Step};
use crate::event::{FlowEvent, FlowSink, WallTime};
use crate::forge::ForgeConfig;
use crate::output::CaptureFormat;

/// What all readers together may be behind, in bytes.
const LOG_BYTES: usize = 64 << 20;
/// At the end readers have so long to take what is left.
const FAREWELL: Duration = Duration::from_secs(5);
/// More lines than these aren't kept for people.
const MAX_COMPLAINTS: usize = 64;

/// How readers are served.
#[derive(Clone, Debug)]
pub struct ReadersConfig {
    /// Where they connect.
    pub listen: Vec<ListenAddress>,
    /// Who may.
    pub access: Access,
    /// How many at once.
    pub readers: usize,
    /// What they get.
    pub format: CaptureFormat,
    /// How packets are forged.
    pub forge: ForgeConfig,
}

/// What has become of readers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadersStats {
    /// Readers that were served, those of now included.
    pub readers: u64,
    /// Those of now.
    pub live: u64,
    /// Packets for all of them together.
    pub packets: u64,
    /// Bytes that they took.
    pub bytes: u64,
    /// Times that one fell so far behind that it missed something.
    pub behind: u64,
    /// Clear text that is a hole for one reader, summed up over readers.
    pub missed_bytes: u64,
    /// Clear text that waited for readers when they left, summed up over readers.
    pub unread_bytes: u64,
    /// Closed their connection before they were let in.
    pub vanished: u64,
    /// Refused: as many were there already as may be.
    pub refused_full: u64,
    /// Refused: not one who may read.
    pub refused_access: u64,
    /// The TLS handshake failed.
    pub refused_tls: u64,
    /// Sent away: took nothing for a minute.
    pub stuck: u64,
}

/// What one reader who is there has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReaderStats {
    /// Whence it has connected.
    pub peer: SocketAddr,
    /// Packets for it.
    pub packets: u64,
    /// Bytes that it took.
    pub bytes: u64,
    /// Times that it missed something.
    pub behind: u64,
    /// Clear text that is a hole for it.
    pub missed_bytes: u64,
}

/// What all threads share.
#[derive(Debug)]
struct Shared {
    log: Arc<Log>,
    access: Access,
    /// The user who has started the agent.
    starter: u32,
    tls: Option<Arc<ServerConfig>>,
    most: usize,
    format: CaptureFormat,
    forge: ForgeConfig,
    /// Written and read under the lock alone.
    now: Mutex<Now>,
    /// Readers that were let in. For people: nothing is ordered by it.
    served: AtomicU64,
}

#[derive(Debug, Default)]
struct Now {
    live: Vec<Live>,
    threads: Vec<JoinHandle<()>>,
    /// Of those that are gone, and of refusals.
    past: ReadersStats,
    complaints: Vec<String>,
    ending: bool,
}

#[derive(Debug)]
struct Live {
    stream: TcpStream,
    peer: SocketAddr,
    /// It is let in.
    served: bool,
    counters: Arc<Counters>,
}

impl Shared {
    fn now(&self) -> MutexGuard<'_, Now> {
        // Nothing in here panics halfway.
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Now {
    fn say(&mut self, line: String) {
        if self.complaints.len() < MAX_COMPLAINTS {
            self.complaints.push(line);
        }
    }
}

/// Takes what readers get. Readers come and go by themselves.
#[derive(Debug)]
pub struct Feed {
    writer: Writer,
    shared: Arc<Shared>,
    listeners: Vec<Arc<TcpListener>>,
    /// One for each listener.
    threads: Vec<JoinHandle<()>>,
}

impl Feed {
    /// Listens for readers. None is taken in before [`Feed::begin`]: the agent may have privileges to give up yet.
    ///
    /// # Errors
    /// See [`ReadersError`].
    pub fn open(config: ReadersConfig) -> Result<Self, ReadersError> {
        let log = Arc::new(Log::new(LOG_BYTES));
        let shared = Arc::new(Shared {
            log: Arc::clone(&log),
            starter: rustix::process::geteuid().as_raw(),
            tls: config.access.tls()?,
            access: config.access,
            most: config.readers,
            format: config.format,
            forge: config.forge,
            now: Mutex::default(),
            served: AtomicU64::new(0),
        });
        let mut listeners = Vec::new();
        for address in &config.listen {
            for listener in address.listen(&shared.access)? {
                if let Ok(address) = listener.local_addr() {
                    let warning = match (shared.access.anybody, &shared.tls) {
                        (true, None) => {
                            ": whoever connects reads the clear text, and so does who listens on the way"
                        }
                        (true, Some(_)) => ": whoever connects reads the clear text",
                        (false, _) => "",
                    };
                    let line = format!("readers of PCAP-over-IP connect to {address}{warning}");
                    shared.now().say(line);
                }
                listeners.push(Arc::new(listener));
            }
        }
        Ok(Self {
            writer: Writer::new(&log),
            shared,
            listeners,
            threads: Vec::new(),
        })
    }

    /// Takes readers in from now on.
    pub fn begin(&mut self) {
        for listener in &self.listeners {
            let (listener, shared) = (Arc::clone(listener), Arc::clone(&self.shared));
            let thread = thread::spawn(move || accept(&listener, &shared));
            self.threads.push(thread);
        }
    }

    /// Hands on what there is. Nothing older than `until` follows.
    pub fn release(&mut self, until: WallTime) {
        self.writer.publish(until);
    }

    /// Nothing more comes: readers get the end of each live flow, and have a few seconds to take it.
    pub fn finish(&mut self, at: WallTime) {
        self.stop_listening();
        self.writer.end(at);
        let end = Instant::now() + FAREWELL;
        while !self.shared.now().live.is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
        let threads = {
            let mut now = self.shared.now();
            for live in &now.live {
                // Its thread's write fails, and it ends.
                let _ = live.stream.shutdown(std::net::Shutdown::Both);
            }
            std::mem::take(&mut now.threads)
        };
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// What people should know, a line each; once.
    pub fn take_complaints(&mut self) -> Vec<String> {
        std::mem::take(&mut self.shared.now().complaints)
    }

    /// The counts so far.
    pub fn stats(&self) -> ReadersStats {
        let now = self.shared.now();
        let mut stats = now.past;
        for live in &now.live {
            stats.add(&live.counters, &self.shared.log);
        }
        stats.live = now.live.len() as u64;
        stats.readers = self.shared.served.load(Ordering::Relaxed);
        stats
    }

    /// Those who read now.
    pub fn readers(&self) -> Vec<ReaderStats> {
        let now = self.shared.now();
        let served = now.live.iter().filter(|live| live.served);
        let reader = |Live { peer, counters, .. }: &Live| {
            let (behind, missed_bytes) = counters.missed(&self.shared.log);
            ReaderStats {
                peer: *peer,
                packets: counters.packets(),
                bytes: counters.taken(),
                behind,
                missed_bytes,
            }
        };
        served.map(reader).collect()
    }

    fn stop_listening(&mut self) {
        self.shared.now().ending = true;
        for listener in self.listeners.drain(..) {
            // Its accept fails then.
            let _ = rustix::net::shutdown(&listener, rustix::net::Shutdown::Both);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl FlowSink for Feed {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        self.writer.flow_event(event);
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop_listening();
        for live in &self.shared.now().live {
            let _ = live.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl ReadersStats {
    fn add(&mut self, counters: &Counters, log: &Log) {
        let (behind, missed_bytes) = counters.missed(log);
        self.packets += counters.packets();
        self.bytes += counters.taken();
        self.behind += behind;
        self.missed_bytes += missed_bytes;
    }
}

/// Until the feed ends.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let accepted = listener.accept();
        if shared.now().ending {
            return;
        }
        match accepted {
            Ok((stream, peer)) => take_in(stream, peer, shared),
            // No descriptor is free, or who asked is gone again.
            Err(_) => thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Has a reader served, if it may be.
fn take_in(stream: TcpStream, peer: SocketAddr, shared: &Arc<Shared>) {
    let mut now = shared.now();
    if now.live.len() >= shared.most {
        now.past.refused_full += 1;
        if now.past.refused_full == 1 {
            let most = shared.most;
            now.say(format!(
                "reader {peer} refused: {most} are there already (--pcap-over-ip-readers)"
            ));
        }
        return;
    }
    let Ok(handle) = stream.try_clone() else {
        return;
    };
    let counters = Arc::new(Counters::default());
    now.live.push(Live {
        stream: handle,
        peer,
        served: false,
        counters: Arc::clone(&counters),
    });
    let thread = {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let end = serve(stream, peer, &shared, &counters);
            see_out(peer, &counters, &shared, end);
        })
    };
    now.threads.retain(|thread| !thread.is_finished());
    now.threads.push(thread);
}

/// Why a reader isn't served any more.
enum End {
    /// It has closed before it was let in.
    Vanished,
    NotAdmitted,
    Handshake(io::Error),
    Left,
    /// It got everything.
    Feed,
    Failed(io::Error),
}

fn serve(stream: TcpStream, peer: SocketAddr, shared: &Shared, counters: &Arc<Counters>) -> End {
    let local = stream.local_addr();
    if !local.is_ok_and(|local| shared.access.admits(peer, local, shared.starter)) {
        // Whose a connection was that is closed nobody can tell.
        return match has_closed(&stream) {
            true => End::Vanished,
            false => End::NotAdmitted,
        };
    }
    let connection = match Connection::open(stream, shared.tls.clone()) {
        Ok(connection) => connection,
        Err(error) => return End::Handshake(error),
    };
    shared.served.fetch_add(1, Ordering::Relaxed);
    for live in &mut shared.now().live {
        live.served |= Arc::ptr_eq(&live.counters, counters);
    }
    let read = || -> io::Result<End> {
        let forge = shared.forge.clone();
        let mut reader = Reader::new(&shared.log, forge, shared.format, connection, counters)?;
        shared.now().say(format!("reader {peer} connected"));
        loop {
            match reader.step()? {
                Step::More => {}
                Step::Idle if reader.writer_mut().is_gone() => return Ok(End::Left),
                Step::Idle => reader.wait(),
                Step::End => {
                    reader.writer_mut().close()?;
                    return Ok(End::Feed);
                }
            }
        }
    };
    read().unwrap_or_else(|error| match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => End::Left,
        _ => End::Failed(error),
    })
}

/// Whether the other side says no more.
fn has_closed(stream: &TcpStream) -> bool {
    let waits = [io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted];
    match recv(stream, &mut [0], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Ok((count, _)) => count == 0,
        Err(error) => !waits.contains(&io::Error::from(error).kind()),
    }
}

fn see_out(peer: SocketAddr, counters: &Arc<Counters>, shared: &Shared, end: End) {
    let mut now = shared.now();
    now.live
        .retain(|live| !Arc::ptr_eq(&live.counters, counters));
    now.past.add(counters, &shared.log);
    let unread = counters.unread(&shared.log);
    now.past.unread_bytes += unread;
    let (_, missed) = counters.missed(&shared.log);
    let mut got = format!("{} packets", counters.packets());
    if missed > 0 {
        got += &format!(", and missed {missed} bytes of clear text");
    }
    if unread > 0 {
        got += &format!("; {unread} bytes of clear text waited for it");
    }
    match end {
        End::Vanished => {
            now.past.vanished += 1;
            now.say(format!("reader {peer} was gone before it was let in"));
        }
        // Without a word: it didn't even begin.
        End::Handshake(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            now.past.vanished += 1;
            now.say(format!(
                "reader {peer} was gone before the TLS handshake was done"
            ));
        }
        End::NotAdmitted => {
            now.past.refused_access += 1;
            if now.past.refused_access == 1 {
                now.say(format!(
                    "reader {peer} refused: neither root nor the user who has started sslcollector (--pcap-over-ip-anybody lets all in)"
                ));
            }
        }
        End::Handshake(error) => {
            now.past.refused_tls += 1;
            if now.past.refused_tls == 1 {
                // What `openssl req -x509` makes unless it is told otherwise.
                let hint = match error.to_string().contains("CaUsedAsEndEntity") {
                    true => {
                        " (its certificate is an authority's: make it with basicConstraints=critical,CA:FALSE)"
                    }
                    false => "",
                };
                now.say(format!("reader {peer} refused: TLS failed: {error}{hint}"));
            }
        }
        End::Left => now.say(format!("reader {peer} has left after {got}")),
        End::Feed => {}
        End::Failed(error) if error.kind() == io::ErrorKind::WouldBlock => {
            now.past.stuck += 1;
            let seconds = PATIENCE.as_secs();
            now.say(format!(
                "reader {peer} took nothing for {seconds} s and was sent away after {got}"
            ));
        }
        End::Failed(error) => now.say(format!("reader {peer} failed after {got}: {error}")),
    }
}
