//! How a ring gets to the agent: one message over a Unix socket, with the memfd, and no reply.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    connect, sendmsg, socket_with,
};

use crate::config::Settings;
pub use crate::fork::NAME_BYTES;
use crate::kernel::{address_space_limit, file_size_limit};
use crate::layout::{
    ABI_VERSION, BOOTSTRAP_BYTES, CONTROL_BYTES, DEFAULT_DATA_BYTES, MAGIC, MAX_DATA_BYTES, control,
};
use crate::ring::{Memory, Producer};
use crate::shm::Mapping;
use crate::socket;

/// What is tried where the address space has no room for [`DEFAULT_DATA_BYTES`].
const SMALL_DATA_BYTES: u64 = 1024 * 1024;

/// All rings together take no more than this part of an address space that is limited …
const SHARE_OF_ADDRESS_SPACE: u64 = 16;
/// … so that there is room for this many, should agents come and go.
const RINGS_IN_SHARE: u64 = 4;

/// Bytes of address space that this process's rings have taken. A thread may be in the middle of a copy
/// into the oldest of them, so none is ever unmapped.
static TAKEN_BYTES: AtomicU64 = AtomicU64::new(0);

/// What the hook sends along with its memfd, in one SOCK_SEQPACKET message with one descriptor.
///
/// ```text
///   0 u64 magic    8 u32 abi_version    12 u32 control_bytes    16 u64 data_bytes
///   24 u64 instance    32 u64 parent_instance or 0    40 u32 parent_fork    44 u32 silent_forks
///   48 [u8; 16] name
/// ```
///
/// The byte order is the machine's. The control page says the same, but may change at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttachMessage {
    /// Size of the ring's region in the memfd.
    pub data_bytes: u64,
    /// Of this ring; never 0.
    pub instance: u64,
    /// Of the ring of the process that forked this one.
    pub parent_instance: Option<u64>,
    /// Which of that process's forks led to this one, counted from 1; 0: none that was counted.
    pub parent_fork: u32,
    /// How often those on the way from there have forked, this process included, before they asked for a
    /// ring: with 0 it alone came of that fork.
    pub silent_forks: u32,
    /// What the process was called as it started, filled up with NULs.
    pub name: [u8; NAME_BYTES],
}

/// A message that no hook of this version sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// Too short, too long, or another magic number.
    #[error("{0} bytes that are no attach message")]
    NotAMessage(usize),
    /// A hook of another version.
    #[error("the hook speaks version {0}, this agent speaks version {ABI_VERSION}")]
    OtherVersion(u32),
    /// A field has a value that no hook sends.
    #[error("{field} can't be {value}")]
    BadField {
        /// Its name in the drawing.
        field: &'static str,
        /// What stood there.
        value: u64,
    },
}

impl AttachMessage {
    /// Length of the message.
    pub const BYTES: usize = 64;

    /// The message as it is sent.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "CONTROL_BYTES is 64 KiB, a constant"
    )]
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[..8].copy_from_slice(&MAGIC.to_ne_bytes());
        out[8..12].copy_from_slice(&ABI_VERSION.to_ne_bytes());
        out[12..16].copy_from_slice(&(CONTROL_BYTES as u32).to_ne_bytes());
        out[16..24].copy_from_slice(&self.data_bytes.to_ne_bytes());
        out[24..32].copy_from_slice(&self.instance.to_ne_bytes());
        out[32..40].copy_from_slice(&self.parent_instance.unwrap_or(0).to_ne_bytes());
        out[40..44].copy_from_slice(&self.parent_fork.to_ne_bytes());
        out[44..48].copy_from_slice(&self.silent_forks.to_ne_bytes());
        out[48..].copy_from_slice(&self.name);
        out
    }

    /// Reads a message; `bytes` is the whole of it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, AttachError> {
        let not_one = AttachError::NotAMessage(bytes.len());
        let message: &[u8; Self::BYTES] = bytes.try_into().map_err(|_| not_one)?;
        let (_, name) = message.split_last_chunk().ok_or(not_one)?;
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&message[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        let half = |at: usize| {
            let mut half = [0; 4];
            half.copy_from_slice(&message[at..at + 4]);
            u32::from_ne_bytes(half)
        };
        if word(0) != MAGIC {
            return Err(not_one);
        }
        if half(8) != ABI_VERSION {
            return Err(AttachError::OtherVersion(half(8)));
        }
        let bad = |field, value| AttachError::BadField { field, value };
        if u64::from(half(12)) != CONTROL_BYTES as u64 {
            return Err(bad("control_bytes", half(12).into()));
        }
        let data_bytes = word(16);
        let valid = data_bytes.is_power_of_two()
            && (BOOTSTRAP_BYTES..=MAX_DATA_BYTES).contains(&data_bytes);
        if !valid {
            return Err(bad("data_bytes", data_bytes));
        }
        if word(24) == 0 {
            return Err(bad("instance", 0));
        }
        Ok(Self {
            data_bytes,
            instance: word(24),
            parent_instance: Some(word(32)).filter(|parent| *parent != 0),
            parent_fork: half(40),
            silent_forks: half(44),
            name: *name,
        })
    }
}

/// Offers a new ring to the agent, of the size that the process can afford. Everything is non-blocking, and no descriptor stays open.
///
/// # Errors
/// No agent, none that is to be trusted, or the process can't afford a ring.
pub(crate) fn attach(settings: &Settings, message: AttachMessage) -> io::Result<Producer<Mapping>> {
    // First, because it is the cheapest way to learn that there is no agent.
    let agent = reach(settings)?;
    let wanted = settings.promised_bytes.unwrap_or(DEFAULT_DATA_BYTES);
    let (memfd, mapping, data_bytes) = shared_memory(wanted)?;
    let message = AttachMessage {
        data_bytes,
        ..message
    };
    describe(&mapping, &message);
    send(&agent, &message, &memfd)?;
    TAKEN_BYTES.fetch_add(CONTROL_BYTES as u64 + data_bytes, Ordering::Relaxed);
    let producer = match settings.promised_bytes {
        Some(_) => Producer::promised(mapping, data_bytes),
        None => Producer::new(mapping, data_bytes),
    };
    producer.ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

/// A connection to an agent that this process may show clear text to.
fn reach(settings: &Settings) -> io::Result<OwnedFd> {
    let agent = socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // A full backlog is EAGAIN at once (unix(7)).
    match connect(&agent, &settings.path) {
        // After chroot the path is gone, the abstract name isn't.
        Err(Errno::NOENT) => connect(&agent, &settings.abstract_name)?,
        result => result?,
    }
    let trusted = peer_uid(&agent).is_some_and(|uid| uid == 0 || Some(uid) == settings.agent_uid);
    if !trusted {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(agent)
}

/// The user who listens. By hand, because its pid is 0 where it is of another pid namespace.
fn peer_uid(agent: &OwnedFd) -> Option<u32> {
    let mut credentials = [0; 12];
    let length = socket::option(
        agent.as_fd(),
        libc::SOL_SOCKET,
        libc::SO_PEERCRED,
        &mut credentials,
    )?;
    // struct ucred: pid, uid, gid.
    let uid = credentials[4..8].try_into().ok()?;
    (length == credentials.len()).then(|| u32::from_ne_bytes(uid))
}

/// A sparse memfd of the size that this process can afford, mapped and sealed.
fn shared_memory(wanted: u64) -> io::Result<(OwnedFd, Mapping, u64)> {
    let mut data_bytes = affordable_data_bytes(wanted)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Before Linux 6.3 that flag is unknown; from there on some systems demand it.
    let memfd = match memfd_create("sslcollector", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => memfd_create("sslcollector", flags)?,
        result => result?,
    };
    let mapping = loop {
        let whole = CONTROL_BYTES as u64 + data_bytes;
        let length = usize::try_from(whole).map_err(|_| io::ErrorKind::OutOfMemory)?;
        ftruncate(&memfd, whole)?;
        match Mapping::shared(memfd.as_fd(), length) {
            Ok(mapping) => break mapping,
            Err(error) if data_bytes <= SMALL_DATA_BYTES => return Err(error),
            // RLIMIT_AS, most likely.
            Err(_) => data_bytes = SMALL_DATA_BYTES,
        }
    };
    mapping.exclude_from_dumps()?;
    fcntl_add_seals(
        &memfd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL,
    )?;
    Ok((memfd, mapping, data_bytes))
}

/// A file beyond RLIMIT_FSIZE would kill the process by SIGXFSZ. And where the address space is limited, it
/// is the application's.
fn affordable_data_bytes(wanted: u64) -> io::Result<u64> {
    let taken = TAKEN_BYTES.load(Ordering::Relaxed);
    let wanted = data_bytes_below(ring_in_address_space(address_space_limit()?, taken), wanted)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    data_bytes_below(file_size_limit()?, wanted).ok_or_else(|| io::ErrorKind::FileTooLarge.into())
}

/// Bytes that the next ring may take of an address space that is limited, `taken` by those before.
fn ring_in_address_space(limit: Option<u64>, taken: u64) -> Option<u64> {
    let share = limit? / SHARE_OF_ADDRESS_SPACE;
    Some(share.saturating_sub(taken).min(share / RINGS_IN_SHARE))
}

fn data_bytes_below(limit: Option<u64>, wanted: u64) -> Option<u64> {
    let Some(limit) = limit else {
        return Some(wanted);
    };
    let room = limit.checked_sub(CONTROL_BYTES as u64)?.min(wanted);
    let data_bytes = 1 << room.checked_ilog2()?;
    (data_bytes >= BOOTSTRAP_BYTES).then_some(data_bytes)
}

/// Fills the application's part of the control page.
#[allow(
    clippy::cast_possible_truncation,
    reason = "CONTROL_BYTES is 64 KiB, a constant"
)]
fn describe(mapping: &Mapping, message: &AttachMessage) {
    let relaxed = Ordering::Relaxed;
    mapping.store_u32(control::ABI_VERSION, ABI_VERSION, relaxed);
    mapping.store_u32(control::CONTROL_BYTES, CONTROL_BYTES as u32, relaxed);
    mapping.store_u64(control::DATA_BYTES, message.data_bytes, relaxed);
    mapping.store_u64(control::INSTANCE, message.instance, relaxed);
    let parent = message.parent_instance.unwrap_or(0);
    mapping.store_u64(control::PARENT_INSTANCE, parent, relaxed);
    // The system call that sends the memfd orders it for the agent, too.
    mapping.store_u64(control::MAGIC, MAGIC, Ordering::Release);
}

fn send(agent: &OwnedFd, message: &AttachMessage, memfd: &OwnedFd) -> io::Result<()> {
    let descriptors = [memfd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(
        agent,
        &[IoSlice::new(&message.encode())],
        &mut control,
        SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_stays_below_the_file_size_limit() {
        let below = |limit| data_bytes_below(limit, DEFAULT_DATA_BYTES);
        assert_eq!(below(None), Some(DEFAULT_DATA_BYTES));
        assert_eq!(below(Some(u64::MAX)), Some(DEFAULT_DATA_BYTES));
        assert_eq!(below(Some(0)), None);
        assert_eq!(below(Some(64 * 1024)), None);
        assert_eq!(below(Some(128 * 1024 - 1)), None);
        assert_eq!(below(Some(128 * 1024)), Some(64 * 1024));
        assert_eq!(below(Some(200 * 1024)), Some(128 * 1024));
        assert_eq!(below(Some(1024 * 1024)), Some(512 * 1024));
    }

    #[test]
    fn rings_take_a_small_part_of_a_limited_address_space() {
        assert_eq!(ring_in_address_space(None, u64::MAX), None);
        let limit = Some(4 << 30);
        assert_eq!(ring_in_address_space(limit, 0), Some(64 << 20));
        assert_eq!(ring_in_address_space(limit, 250 << 20), Some(6 << 20));
        assert_eq!(ring_in_address_space(limit, 256 << 20), Some(0));
        assert_eq!(ring_in_address_space(limit, 300 << 20), Some(0));
        assert_eq!(ring_in_address_space(Some(0), 0), Some(0));
    }

    #[test]
    fn message_round_trip() {
        let message = AttachMessage {
            data_bytes: BOOTSTRAP_BYTES,
            instance: 7,
            parent_instance: Some(6),
            parent_fork: 5,
            silent_forks: 4,
            name: *b"a-name-of-15-ch\0",
        };
        let bytes = message.encode();
        assert_eq!(AttachMessage::parse(&bytes), Ok(message));
        assert!(AttachMessage::parse(&bytes[..63]).is_err());
        for (at, field) in [(0, "magic"), (8, "version"), (12, "control"), (16, "data")] {
            let mut broken = bytes;
            broken[at] ^= 1;
            assert!(AttachMessage::parse(&broken).is_err(), "{field}");
        }
    }
}
