//! The open sessions of one ring, in a memfd that is kept with it: what the next agent needs to go on
//! where this one stopped, however that ends.
//!
//! ```text
//!   0 u64 magic   8 u64 version   40 u64 granted bytes   56 u64 ring's number   64 u64 time of the last event
//!   72 u64 highest connection   80 u64 slots in use so far   88 u64 length of the process
//!   96 the attach message   160 the process: postcard of `ProcessInfo`   CONTROL_BYTES … slots of SLOT_BYTES:
//!     0 u64 connection, 0: free   8 u64 next offset sent   16 … received   24 u64 FLAG_*
//!     32 u64 flow   40 u64 kind of its binding, 0: none   48 u64 ports   56 [u8; 16] client  72 … server
//!     128 meta (see `mirror_hook::event`), 128 + META_SPACE another: FLAG_SECOND says which is valid
//! ```
//!
//! Only the agent writes here, and it may be killed between any two stores: a slot counts from the
//! store of its connection on, a meta from that of the flags. An offset that is behind what the agent
//! had passed on becomes a hole that is declared, never a byte that comes twice.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;

use mirror_hook::attach::AttachMessage;
use mirror_hook::event::{CloseReason, Direction, EarlyData, MAX_ALPN, MAX_SNI, META_BYTES, Meta};
use mirror_hook::layout::{CONTROL_BYTES, kind};
use mirror_hook::ring::Memory;
use mirror_hook::shm::Mapping;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};

use super::saved::{Identity, Saved, SavedSession, TableError};
use crate::event::{Binding, MAX_PROCESS_NAME_BYTES, SessionChange, SessionEvent, Settled, Tuple};

const MAGIC: u64 = u64::from_ne_bytes(*b"TLSTABLE");
/// Raised whenever anything here changes.
const VERSION: u64 = 2;
/// Sparse: what isn't used costs nothing.
const DATA_BYTES: u64 = 64 << 20;
const META_SPACE: usize = META_BYTES + MAX_SNI + MAX_ALPN + 2;
const SLOT_BYTES: usize = 1536;
/// Its names are bounded.
const MAX_PROCESS: usize = 64 + 4 * (MAX_PROCESS_NAME_BYTES + 3);

mod header {
    pub(super) const MAGIC: usize = 0;
    pub(super) const VERSION: usize = 8;
    pub(super) const GRANTED: usize = 40;
    pub(super) const NUMBER: usize = 56;
    pub(super) const LAST_NS: usize = 64;
    pub(super) const HIGHEST: usize = 72;
    pub(super) const USED: usize = 80;
    pub(super) const PROCESS_LENGTH: usize = 88;
    pub(super) const MESSAGE: usize = 96;
    pub(super) const PROCESS: usize = 160;
}

mod slot {
    pub(super) const CONNECTION: usize = 0;
    pub(super) const SENT: usize = 8;
    pub(super) const RECEIVED: usize = 16;
    pub(super) const FLAGS: usize = 24;
    pub(super) const FLOW: usize = 32;
    pub(super) const BINDING: usize = 40;
    pub(super) const PORTS: usize = 48;
    pub(super) const CLIENT: usize = 56;
    pub(super) const SERVER: usize = 72;
    pub(super) const META: usize = 128;
}

const FLAG_SECOND: u64 = 1;
const FLAG_SENT_ENDED: u64 = 1 << 1;
const FLAG_RECEIVED_ENDED: u64 = 1 << 2;

const _: () = assert!(slot::META + 2 * META_SPACE <= SLOT_BYTES);
const _: () = assert!(header::MESSAGE + AttachMessage::BYTES <= header::PROCESS);
const _: () = assert!(header::PROCESS + MAX_PROCESS <= CONTROL_BYTES);

#[allow(clippy::cast_possible_truncation, reason = "64 MiB")]
const SLOTS: usize = DATA_BYTES as usize / SLOT_BYTES;

/// A table in use.
#[derive(Debug)]
pub struct Table {
    memory: Mapping,
    slots: HashMap<u64, Slot>,
    free: Vec<usize>,
    used: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    at: usize,
    rejected: bool,
}

impl Table {
    /// An empty table, and its memfd.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(identity: &Identity) -> io::Result<(Self, OwnedFd)> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memfd = memfd_create("sslcollector-sessions", flags)?;
        ftruncate(&memfd, CONTROL_BYTES as u64 + DATA_BYTES)?;
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&memfd, seals)?;
        let memory = Mapping::of_sealed_memfd(memfd.as_fd(), DATA_BYTES)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let process = postcard::to_stdvec(&identity.process).map_err(io::Error::other)?;
        if process.len() > MAX_PROCESS {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let words = [
            (header::VERSION, VERSION),
            (header::GRANTED, identity.granted_bytes),
            (header::NUMBER, identity.number),
            (header::PROCESS_LENGTH, process.len() as u64),
        ];
        for (at, word) in words {
            memory.store_u64(at, word, Ordering::Relaxed);
        }
        memory.write(header::MESSAGE, &identity.message.encode());
        memory.write(header::PROCESS, &process);
        memory.store_u64(header::MAGIC, MAGIC, Ordering::Release);
        let table = Self {
            memory,
            slots: HashMap::new(),
            free: Vec::new(),
            used: 0,
        };
        Ok((table, memfd))
    }

    /// Reads the table of an agent that has ended, to go on with it.
    ///
    /// # Errors
    /// See [`TableError`].
    pub fn load(memfd: BorrowedFd<'_>) -> Result<(Self, Saved), TableError> {
        let memory = Mapping::of_sealed_memfd(memfd, DATA_BYTES)?;
        let word = |at| memory.load_u64(at, Ordering::Acquire);
        if word(header::MAGIC) != MAGIC || word(header::VERSION) != VERSION {
            return Err(TableError::NotOne);
        }
        let length = |at| usize::try_from(word(at)).unwrap_or(usize::MAX);
        let mut process = vec![0; length(header::PROCESS_LENGTH).min(MAX_PROCESS)];
        memory.read(header::PROCESS, &mut process);
        let mut message = [0; AttachMessage::BYTES];
        memory.read(header::MESSAGE, &mut message);
        let identity = Identity {
            message: AttachMessage::parse(&message).map_err(|_| TableError::NotOne)?,
            granted_bytes: word(header::GRANTED),
            number: word(header::NUMBER),
            process: postcard::from_bytes(&process).map_err(|_| TableError::NotOne)?,
        };
        let used = length(header::USED).min(SLOTS);
        let (highest, last_ns) = (word(header::HIGHEST), word(header::LAST_NS));
        let mut table = Self {
            memory,
            slots: HashMap::new(),
            free: Vec::new(),
            used,
        };
        let mut sessions = Vec::new();
        for at in (0..used).rev().map(place) {
            let Some(session) = table.saved(at) else {
                table.free.push(at);
                continue;
            };
            let rejected = session
                .meta()
                .is_some_and(|meta| meta.early == EarlyData::Rejected);
            table
                .slots
                .insert(session.connection, Slot { at, rejected });
            sessions.push(session);
        }
        let saved = Saved {
            identity,
            sessions,
            highest,
            last_ns,
        };
        Ok((table, saved))
    }

    /// What is in the slot at `at`, if it is in use and makes sense.
    fn saved(&self, at: usize) -> Option<SavedSession> {
        let word = |offset| self.memory.load_u64(at + offset, Ordering::Acquire);
        let connection = word(slot::CONNECTION);
        if connection == 0 || self.slots.contains_key(&connection) {
            return None;
        }
        let flags = word(slot::FLAGS);
        let session = SavedSession {
            connection,
            next: (word(slot::SENT), word(slot::RECEIVED)),
            ended: (
                flags & FLAG_SENT_ENDED != 0,
                flags & FLAG_RECEIVED_ENDED != 0,
            ),
            settled: Settled {
                flow: Some(word(slot::FLOW)).filter(|flow| *flow != 0),
                found: self.found(at),
            },
            meta: self.meta_bytes(at),
        };
        session.meta()?;
        Some(session)
    }

    fn found(&self, at: usize) -> Option<(Tuple, Binding)> {
        let binding = binding_of(self.memory.load_u64(at + slot::BINDING, Ordering::Relaxed))?;
        let ports = self.memory.load_u64(at + slot::PORTS, Ordering::Relaxed);
        let address = |offset, port: u64| {
            let mut octets = [0; 16];
            self.memory.read(at + offset, &mut octets);
            let ip = IpAddr::from(Ipv6Addr::from(octets)).to_canonical();
            Some(SocketAddr::new(ip, u16::try_from(port).ok()?))
        };
        let client = address(slot::CLIENT, ports >> 16)?;
        let server = address(slot::SERVER, ports & 0xffff)?;
        (client.is_ipv4() == server.is_ipv4()).then_some((Tuple { client, server }, binding))
    }

    fn meta_bytes(&self, at: usize) -> Box<[u8]> {
        let second = self.memory.load_u64(at + slot::FLAGS, Ordering::Acquire) & FLAG_SECOND;
        let mut bytes = vec![0; META_SPACE];
        self.memory.read(at + meta_place(second), &mut bytes);
        bytes.into()
    }

    /// Notes what a session has just passed on.
    pub fn note(&mut self, event: &SessionEvent<'_>) {
        let connection = event.session.connection;
        self.memory
            .store_u64(header::LAST_NS, event.at.0, Ordering::Relaxed);
        match event.change {
            SessionChange::Open { meta, .. } => self.open(connection, meta),
            // It is here already.
            SessionChange::Resumed { .. } => {}
            SessionChange::Update { meta } => self.update(connection, meta),
            SessionChange::Look { .. } => {}
            SessionChange::Data {
                direction,
                offset,
                bytes,
            } => self.passed(connection, direction, offset + bytes.len() as u64),
            SessionChange::Lost { direction, to, .. } => self.passed(connection, direction, to),
            SessionChange::Close { reason } => match reason {
                CloseReason::SentEnd => self.add_flag(connection, FLAG_SENT_ENDED),
                CloseReason::ReceivedEnd => self.add_flag(connection, FLAG_RECEIVED_ENDED),
                CloseReason::Free | CloseReason::Abort => self.remove(connection),
            },
            SessionChange::Died => self.remove(connection),
        }
    }

    /// Notes what has become of a session.
    pub fn settle(&mut self, connection: u64, settled: &Settled) {
        let Some(&Slot { at, .. }) = self.slots.get(&connection) else {
            return;
        };
        let store = |offset, value| self.memory.store_u64(at + offset, value, Ordering::Relaxed);
        store(slot::BINDING, 0);
        if let Some((tuple, binding)) = settled.found {
            let octets = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            self.memory.write(at + slot::CLIENT, &octets(tuple.client));
            self.memory.write(at + slot::SERVER, &octets(tuple.server));
            let ports = [tuple.client, tuple.server].map(|address| u64::from(address.port()));
            store(slot::PORTS, ports[0] << 16 | ports[1]);
            self.memory
                .store_u64(at + slot::BINDING, binding_code(binding), Ordering::Release);
        }
        store(slot::FLOW, settled.flow.unwrap_or(0));
    }

    fn open(&mut self, connection: u64, meta: &Meta<'_>) {
        if connection == 0 || self.slots.contains_key(&connection) {
            return;
        }
        let highest = self.memory.load_u64(header::HIGHEST, Ordering::Relaxed);
        if connection > highest {
            self.memory
                .store_u64(header::HIGHEST, connection, Ordering::Relaxed);
        }
        let fresh = || (self.used < SLOTS).then(|| place(self.used));
        // One that finds no slot is unknown to the next agent: its bytes are counted there.
        let Some(at) = self.free.pop().or_else(fresh) else {
            return;
        };
        let words = [
            (slot::CONNECTION, 0),
            (slot::SENT, meta.offsets.0),
            (slot::RECEIVED, meta.offsets.1),
            (slot::FLAGS, 0),
            (slot::FLOW, 0),
            (slot::BINDING, 0),
        ];
        for (offset, word) in words {
            self.memory.store_u64(at + offset, word, Ordering::Relaxed);
        }
        self.write_meta(at + meta_place(0), meta);
        if at == place(self.used) {
            self.used += 1;
            self.memory
                .store_u64(header::USED, self.used as u64, Ordering::Release);
        }
        self.memory
            .store_u64(at + slot::CONNECTION, connection, Ordering::Release);
        let rejected = meta.early == EarlyData::Rejected;
        self.slots.insert(connection, Slot { at, rejected });
    }

    fn update(&mut self, connection: u64, meta: &Meta<'_>) {
        let Some(slot) = self.slots.get_mut(&connection) else {
            return;
        };
        let at = slot.at;
        let rejected_now = meta.early == EarlyData::Rejected && !slot.rejected;
        slot.rejected |= rejected_now;
        if rejected_now {
            // Offsets begin again.
            self.memory.store_u64(at + slot::SENT, 0, Ordering::Release);
        }
        let bytes = self.meta_bytes(at);
        let Ok(old) = Meta::parse(kind::OPEN, &bytes) else {
            return;
        };
        let merged = merge(&old, meta);
        let flags = self.memory.load_u64(at + slot::FLAGS, Ordering::Relaxed) ^ FLAG_SECOND;
        self.write_meta(at + meta_place(flags & FLAG_SECOND), &merged);
        self.memory
            .store_u64(at + slot::FLAGS, flags, Ordering::Release);
    }

    fn write_meta(&self, at: usize, meta: &Meta<'_>) {
        let mut bytes = meta.encode_fixed().to_vec();
        bytes.extend_from_slice(meta.sni.get(..MAX_SNI).unwrap_or(meta.sni));
        bytes.extend_from_slice(meta.alpn.get(..MAX_ALPN).unwrap_or(meta.alpn));
        self.memory.write(at, &bytes);
    }

    fn passed(&self, connection: u64, direction: Direction, next: u64) {
        if let Some(slot) = self.slots.get(&connection) {
            let offset = match direction {
                Direction::Sent => slot::SENT,
                Direction::Received => slot::RECEIVED,
            };
            self.memory
                .store_u64(slot.at + offset, next, Ordering::Relaxed);
        }
    }

    fn add_flag(&self, connection: u64, flag: u64) {
        if let Some(slot) = self.slots.get(&connection) {
            let at = slot.at + slot::FLAGS;
            let flags = self.memory.load_u64(at, Ordering::Relaxed) | flag;
            self.memory.store_u64(at, flags, Ordering::Release);
        }
    }

    fn remove(&mut self, connection: u64) {
        if let Some(slot) = self.slots.remove(&connection) {
            self.memory
                .store_u64(slot.at + slot::CONNECTION, 0, Ordering::Release);
            self.free.push(slot.at);
        }
    }
}

/// Where slot `index` begins.
fn place(index: usize) -> usize {
    CONTROL_BYTES + index * SLOT_BYTES
}

/// Where in a slot the first or the second meta is.
fn meta_place(second: u64) -> usize {
    slot::META + if second == 0 { 0 } else { META_SPACE }
}

/// What is known behind an UPDATE: what it doesn't tell stays known.
fn merge<'a>(old: &Meta<'a>, new: &Meta<'a>) -> Meta<'a> {
    let longer = |new: &'a [u8], old: &'a [u8]| if new.is_empty() { old } else { new };
    Meta {
        early: new.early,
        handshake_done: old.handshake_done || new.handshake_done,
        resumed: old.resumed || new.resumed,
        tls_version: new.tls_version.or(old.tls_version),
        cipher: new.cipher.or(old.cipher),
        addresses: new.addresses.or(old.addresses),
        cookies: new.cookies.or(old.cookies),
        client_random: old.client_random.or(new.client_random),
        server_random: old.server_random.or(new.server_random),
        wire_counts: new.wire_counts.or(old.wire_counts),
        clear_prefix_sent: new.clear_prefix_sent.or(old.clear_prefix_sent),
        sni: longer(new.sni, old.sni),
        alpn: longer(new.alpn, old.alpn),
        ..*old
    }
}

fn binding_code(binding: Binding) -> u64 {
    match binding {
        Binding::Socket => 1,
        Binding::Told => 2,
        Binding::Wire => 3,
        Binding::WireAmbiguous => 4,
        Binding::Placeholder => 5,
        Binding::Counters => 6,
    }
}

fn binding_of(code: u64) -> Option<Binding> {
    match code {
        1 => Some(Binding::Socket),
        2 => Some(Binding::Told),
        3 => Some(Binding::Wire),
        4 => Some(Binding::WireAmbiguous),
        5 => Some(Binding::Placeholder),
        6 => Some(Binding::Counters),
        _ => None,
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
