#![allow(
    unsafe_code,
    reason = "the hook reads its settings from the environment, which the test has to set"
)]
//! An agent inside the test's process that keeps all it reads.

use std::collections::BTreeMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{Body, CloseReason, Direction, EarlyData, Meta, Role};
use mirror_hook::hook;
use mirror_hook::layout::{CONTROL_BYTES, MAX_WAIT_MS, control, kind};
use mirror_hook::ring::{Consumer, Memory, Next, RecordBuffer};
use mirror_hook::shm::Mapping;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept, bind, listen, recvmsg, socket_with,
};

use super::tls::full_name;

const PATIENCE: Duration = Duration::from_secs(60);
/// For all that a test says: text waits for room, and the end of one direction doesn't.
const RING_BYTES: u64 = 64 * 1024 * 1024;

/// A listening agent.
pub(crate) struct Agent {
    listener: OwnedFd,
}

/// A ring that was attached.
pub(crate) struct Ring {
    pub(crate) consumer: Consumer<Mapping>,
    buffer: RecordBuffer,
}

/// Reads the ring of the process that it is in.
pub(crate) struct Recorder {
    state: Mutex<State>,
}

struct State {
    ring: Ring,
    sessions: BTreeMap<u64, Recorded>,
}

/// What a connection has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorded {
    /// Bodies of OPEN and UPDATE records, in order, with their kinds.
    metas: Vec<(u8, Vec<u8>)>,
    sent: Vec<u8>,
    received: Vec<u8>,
    /// 0-RTT data that was sent and then rejected.
    pub(crate) rejected: Vec<u8>,
    /// Reasons and final offsets, sent and received, of CLOSE records, in order.
    pub(crate) closes: Vec<(CloseReason, u64, u64)>,
    /// What isn't as it has to be: a byte twice, or a hole.
    faults: Vec<String>,
}

/// The recorder of this process. The first call attaches it; it has to come before the process's first
/// connection.
pub(crate) fn start() -> &'static Recorder {
    static RECORDER: OnceLock<Recorder> = OnceLock::new();
    static READER: OnceLock<()> = OnceLock::new();
    let recorder = RECORDER.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        let agent = Agent::listen(&path);
        point_at(&path, RING_BYTES);
        hook::handshake();
        Recorder {
            state: Mutex::new(State {
                ring: agent.accept(RING_BYTES),
                sessions: BTreeMap::new(),
            }),
        }
    });
    READER.get_or_init(|| {
        // Makes room; no test relies on when it does.
        std::thread::spawn(move || {
            loop {
                recorder.state().read_all();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
    });
    recorder
}

/// Tells the hook of this process, which must not have begun, of an agent at `path`.
pub(crate) fn point_at(path: &Path, ring_bytes: u64) {
    let uid = rustix::process::getuid().as_raw().to_string();
    let variables = [
        ("SSLCOLLECTOR_SOCKET", path.to_str().unwrap()),
        ("SSLCOLLECTOR_AGENT_UID", &uid),
        ("SSLCOLLECTOR_RING_BYTES", &ring_bytes.to_string()),
        // A test that says more than the ring holds waits for its recorder.
        ("SSLCOLLECTOR_WAIT_MS", &MAX_WAIT_MS.to_string()),
    ];
    for (name, value) in variables {
        // SAFETY: the other threads of a test read the environment through std, which locks it.
        unsafe { std::env::set_var(name, value) };
    }
}

impl Recorder {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All connections of this server name (as in [`super::tls::name`]) and role, oldest first, with
    /// all that they have said before this call.
    pub(crate) fn sessions(&self, name: &str, role: Role) -> Vec<Recorded> {
        let mut sessions = self.sessions_to(&full_name(name));
        sessions.retain(|found| found.meta().role == role);
        sessions
    }

    /// The same of both roles, by the whole name.
    pub(crate) fn sessions_to(&self, full_name: &str) -> Vec<Recorded> {
        let mut state = self.state();
        state.read_all();
        let wanted = |found: &&Recorded| found.meta().sni == full_name.as_bytes();
        state.sessions.values().filter(wanted).cloned().collect()
    }

    /// The one connection of this server name and role.
    pub(crate) fn session(&self, name: &str, role: Role) -> Recorded {
        let mut found = self.sessions(name, role);
        assert_eq!(found.len(), 1, "sessions as {role:?} of {name}");
        found.remove(0)
    }

    /// As [`Recorder::session`], of a connection that another thread may still have to end.
    pub(crate) fn closed_session(&self, name: &str, role: Role) -> Recorded {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.sessions(name, role);
            if let [session] = &found[..]
                && session.is_closed()
            {
                return session.clone();
            }
            assert!(
                Instant::now() < deadline,
                "the end of the one session as {role:?} of {name} never came: {found:?}"
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// How many connections were announced in all.
    pub(crate) fn announced(&self) -> usize {
        let mut state = self.state();
        state.read_all();
        state.sessions.len()
    }
}

impl Ring {
    /// Reads what is there, and forgets it.
    pub(crate) fn discard_all(&mut self) {
        while let Next::Record(_) = self.consumer.poll(&mut self.buffer).unwrap() {}
    }
}

impl State {
    /// Everything that is in the ring.
    fn read_all(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.ring.consumer.poll(&mut self.ring.buffer).unwrap() {
                Next::Record(record) => {
                    let session = self.sessions.entry(record.connection).or_default();
                    session.take(record.kind, record.flags, record.body);
                }
                Next::Empty => return,
                Next::Pending => {
                    // Another thread is in the middle of its record; ours may lie behind it.
                    assert!(Instant::now() < deadline, "a record was never finished");
                    std::thread::yield_now();
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Recorded {
    fn take(&mut self, kind: u8, flags: u8, body: &[u8]) {
        match Body::parse(kind, flags, body).unwrap() {
            Body::Open(meta) | Body::Update(meta) => {
                let had = self.metas.last().map(|(_, body)| early_of(body));
                if meta.early == EarlyData::Rejected && had != Some(EarlyData::Rejected) {
                    self.rejected = std::mem::take(&mut self.sent);
                }
                self.metas.push((kind, body.to_vec()));
            }
            Body::Data {
                direction,
                offset,
                bytes,
            } => {
                let stream = match direction {
                    Direction::Sent => &mut self.sent,
                    Direction::Received => &mut self.received,
                };
                if offset != stream.len() as u64 {
                    let fault = format!("{direction:?}: {offset} follows {}", stream.len());
                    self.faults.push(fault);
                }
                stream.extend_from_slice(bytes);
                if !self.closes.is_empty() {
                    self.check_end(direction);
                }
            }
            Body::Close {
                reason,
                sent,
                received,
                ..
            } => self.closes.push((reason, sent, received)),
            other => self.faults.push(format!("{other:?}")),
        }
    }

    /// Nothing comes behind an end.
    fn check_end(&mut self, direction: Direction) {
        let ended = self.closes.iter().any(|(reason, ..)| match reason {
            CloseReason::SentEnd => direction == Direction::Sent,
            CloseReason::ReceivedEnd => direction == Direction::Received,
            CloseReason::Free | CloseReason::Abort => true,
        });
        if ended {
            self.faults
                .push(format!("{direction:?} text behind its end"));
        }
    }

    /// The last OPEN or UPDATE.
    pub(crate) fn meta(&self) -> Meta<'_> {
        let (kind, body) = self.metas.last().expect("a connection without OPEN");
        meta_of(*kind, body)
    }

    /// All OPENs and UPDATEs, in order.
    pub(crate) fn metas(&self) -> Vec<Meta<'_>> {
        let each = self.metas.iter();
        each.map(|(kind, body)| meta_of(*kind, body)).collect()
    }

    /// All that was sent; fails if any of it lies at a wrong offset.
    pub(crate) fn sent(&self) -> &[u8] {
        assert_eq!(self.faults, [] as [String; 0]);
        &self.sent
    }

    /// All that was received; fails if any of it lies at a wrong offset.
    pub(crate) fn received(&self) -> &[u8] {
        assert_eq!(self.faults, [] as [String; 0]);
        &self.received
    }

    /// Whether the connection was given back, or ended by an error.
    pub(crate) fn is_closed(&self) -> bool {
        let reasons = self.closes.iter().map(|(reason, ..)| *reason);
        reasons
            .into_iter()
            .any(|reason| matches!(reason, CloseReason::Free | CloseReason::Abort))
    }

    /// Whether a CLOSE gave this reason.
    pub(crate) fn ended_by(&self, wanted: CloseReason) -> bool {
        self.closes.iter().any(|(reason, ..)| *reason == wanted)
    }
}

fn meta_of(kind: u8, body: &[u8]) -> Meta<'_> {
    match Body::parse(kind, 0, body).unwrap() {
        Body::Open(meta) | Body::Update(meta) => meta,
        other => panic!("{other:?} in place of an OPEN"),
    }
}

fn early_of(body: &[u8]) -> EarlyData {
    meta_of(kind::UPDATE, body).early
}

fn wait_readable(fd: &impl AsFd, what: &str) {
    let patience = Timespec {
        tv_sec: 60,
        tv_nsec: 0,
    };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&patience)).unwrap();
    assert_eq!(ready, 1, "{what} never came");
}

impl Agent {
    /// Listens at `path`.
    pub(crate) fn listen(path: &Path) -> Self {
        let listener = socket_with(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        bind(&listener, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&listener, 8).unwrap();
        Self { listener }
    }

    /// Takes the next ring that is offered, and grants `capacity` bytes of it.
    pub(crate) fn accept(&self, capacity: u64) -> Ring {
        wait_readable(&self.listener, "an attach");
        let peer = accept(&self.listener).unwrap();
        wait_readable(&peer, "the attach message");
        let mut bytes = [0; 128];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &peer,
            &mut [IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        )
        .unwrap();
        let message = AttachMessage::parse(&bytes[..received.bytes]).unwrap();
        let mut descriptors = ancillary.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect(),
            _ => Vec::new(),
        });
        let memfd: OwnedFd = descriptors.next().unwrap();
        let mapping = Mapping::of_sealed_memfd(memfd.as_fd(), message.data_bytes).unwrap();
        let whole = CONTROL_BYTES as u64 + capacity;
        fallocate(&memfd, FallocateFlags::empty(), 0, whole).unwrap();
        mapping.store_u32(control::WAIT_MS, MAX_WAIT_MS, Ordering::Relaxed);
        let consumer = Consumer::new(mapping, capacity).unwrap();
        consumer.grant();
        Ring {
            consumer,
            buffer: RecordBuffer::new(),
        }
    }
}
