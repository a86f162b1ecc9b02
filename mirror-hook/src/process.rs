//! What the process has of the mirror: its settings, its ring, and when to ask for an agent.
//!
//! ```text
//!            init                 handshake: an agent is there
//!   unread ───────> enabled, no ring ──────────> ring, in use
//!      │                  ^                        │ agent left, or never answered:
//!      v                  │ a later handshake      │ the mapping becomes private zeros
//!     off <── panic       └────────────────────────┘
//! ```
//!
//! A fork leads from each state to "enabled, no ring" in the child. The kernel does it: the pointer
//! to the ring lies in a page that is zero in every child (MADV_WIPEONFORK), so a child is never in
//! its parent's ring, whichever way it was made, and seeing it costs nothing.
//!
//! Nobody waits here: who finds another thread attaching goes on without a mirror.

use std::ptr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use rustix::process::geteuid;
use rustix::rand::{GetRandomFlags, getrandom};
use rustix::time::{ClockId, clock_gettime};

use crate::attach::{self, AttachMessage};
use crate::config::Settings;
use crate::filter::{self, Facts, Shared, Verdict};
use crate::fork;
use crate::layout::{STATE_EXCLUDED, STATE_WAITING, control};
use crate::patience::Patience;
use crate::ring::{Memory, Producer};
use crate::shm::{self, ForkPage, Mapping, Pointer, Slot};

/// A ring that an agent has been told of.
#[derive(Debug)]
pub(crate) struct Ring {
    pub(crate) producer: Producer<Mapping>,
    /// Unique on the machine: see `COUNT_BITS`.
    pub(crate) instance: u64,
    next_connection: AtomicU64,
    attached_ns: u64,
    /// Since when its agent is gone and the next one awaited, or 0.
    orphaned_ns: AtomicU64,
    /// How long a call waits where it is full.
    pub(crate) patience: Patience,
}

/// Low bits of an instance, which count the rings of one process; those above are the process.
const COUNT_BITS: u32 = 16;

/// How long an agent may leave a ring without an answer before the process asks anew.
const PATIENCE_NS: u64 = 10_000_000_000;
/// How long the next agent is awaited that is to get a kept ring.
const HEIR_PATIENCE_NS: u64 = 60_000_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Longest time between two attempts to find an agent.
const MAX_PAUSE_S: u32 = 60;

static INIT: AtomicU32 = AtomicU32::new(UNREAD);
const UNREAD: u32 = 0;
const READING: u32 = 1;
const READ: u32 = 2;

static SETTINGS: OnceLock<Settings> = OnceLock::new();
/// Where `PAGE` leads to in a process that isn't mirrored: the paths of each call need no question
/// whether there is a page.
static NO_PAGE: ForkPage<Ring> = ForkPage::none();
static PAGE: Pointer<ForkPage<Ring>> = Pointer::new(&NO_PAGE);
static OFF: AtomicBool = AtomicBool::new(false);
/// The newest ring of this process or of the one that forked it, which may be over.
static LAST: Slot<Ring> = Slot::empty();
/// Instance of the ring of the process that forked this one, or 0.
static PARENT: AtomicU64 = AtomicU64::new(0);
/// Which of that process's forks led here, counted from 1; 0: none that was counted.
static BORN: AtomicU32 = AtomicU32::new(0);
/// How often the processes on the way from there to this one have forked; and what that was when this one
/// asked for a ring.
static SILENT: AtomicU32 = AtomicU32::new(0);
static BORN_SILENT: AtomicU32 = AtomicU32::new(0);
/// The count as it is in the memory of a child that this process is about to make.
static FORKING: AtomicU32 = AtomicU32::new(0);
static RINGS: AtomicU64 = AtomicU64::new(0);
/// An agent has told this process, or the one that forked it, of filters: the next one's answer is
/// waited for.
static FILTERED: AtomicBool = AtomicBool::new(false);
/// When an agent may be asked for again, and how long to wait after that.
static NEXT_TRY_NS: AtomicU64 = AtomicU64::new(0);
static PAUSE_S: AtomicU32 = AtomicU32::new(1);

impl Ring {
    /// A number that no connection in this ring has had.
    pub(crate) fn new_connection(&self) -> u64 {
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether `instance` is of this process, and not inherited by a fork.
    pub(crate) fn same_process(&self, instance: u64) -> bool {
        self.instance >> COUNT_BITS == instance >> COUNT_BITS
    }

    /// Whether the agent's policy is known. Before, that of the settings holds.
    pub(crate) fn answered(&self) -> bool {
        self.producer.ready()
    }

    /// Judges a connection, by the agent's policy or by the one that holds before its answer.
    pub(crate) fn judge(&self, answered: bool, facts: &Facts<'_>) -> Verdict {
        if answered {
            return filter::decide(&Shared(self.producer.memory()), facts);
        }
        let told = SETTINGS.get().map_or(&[][..], |settings| &settings.policy);
        if told.is_empty() && FILTERED.load(Ordering::Relaxed) {
            return filter::decide(filter::UNTIL_ANSWERED, facts);
        }
        let uid = (!told.is_empty()).then(|| geteuid().as_raw());
        filter::decide(told, &Facts { uid, ..*facts })
    }

    /// Adds to a counter of the control page.
    pub(crate) fn count(&self, counter: usize, value: u64) {
        self.producer.memory().add_u64(counter, value);
    }
}

/// The ring in use. Two loads: this is the whole cost of a mirror that is off.
#[inline]
pub(crate) fn ring() -> Option<&'static Ring> {
    PAGE.load().ring.load()
}

/// Whether the settings say that this process is to be mirrored.
fn enabled() -> bool {
    !ptr::eq(PAGE.load(), &raw const NO_PAGE)
}

/// CLOCK_MONOTONIC in nanoseconds, without a system call (vDSO).
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.wrapping_mul(SECOND_NS).wrapping_add(nanoseconds)
}

/// Whether the agent wants to know what this process's connections carry.
pub(crate) fn tells_sockets() -> bool {
    SETTINGS
        .get()
        .is_some_and(|settings| settings.tells_sockets)
}

/// Reads the settings, once. `true`: the mirror is enabled.
pub(crate) fn init() -> bool {
    let first = INIT
        .compare_exchange(UNREAD, READING, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok();
    if first {
        if let Some(settings) = Settings::from_environment() {
            // The vDSO is looked up at the first call: do it here, not in the data's path.
            now_ns();
            let _ = SETTINGS.set(settings);
            // Without a page that tells forks apart there is no mirror (Linux before 4.14).
            if let Ok(page) = ForkPage::leak() {
                page.alive.store(1, Ordering::Release);
                page.idle.store(1, Ordering::Relaxed);
                PAGE.set(page);
                fork::watch();
            }
        }
        INIT.store(READ, Ordering::Release);
    }
    enabled()
}

/// No more mirror in this process: a defect has shown, or the shared memory is corrupt.
pub(crate) fn turn_off() {
    OFF.store(true, Ordering::Relaxed);
    put(PAGE.load(), None);
}

#[cfg(test)]
pub(crate) fn is_off() -> bool {
    OFF.load(Ordering::Relaxed)
}

/// A handshake begins: asks for an agent if there is none, at most once in a while.
pub(crate) fn handshake() {
    if init() {
        attach(false);
    }
}

/// This process is about to fork. In one that was forked itself and has not looked since, its children
/// are their grandparent's, by the same fork.
pub(crate) fn forks_now() {
    let page = PAGE.load();
    if !enabled() {
        return;
    }
    if page.alive.load(Ordering::Acquire) == 0 {
        SILENT.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let count = page.forks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    FORKING.store(count, Ordering::Relaxed);
    if let Some(ring) = page.ring.load() {
        publish_forks(&ring.producer, count);
    }
}

/// Times that this process has forked.
pub(crate) fn forks() -> u32 {
    PAGE.load().forks.load(Ordering::Relaxed)
}

/// For an agent that finds the process dead.
fn publish_forks(producer: &Producer<Mapping>, count: u32) {
    // Release: what is written into the ring behind it, the agent reads behind it.
    producer
        .memory()
        .store_u32(control::FORKS, count, Ordering::Release);
}

/// Whether this process was forked from one that was enabled, and has not looked since.
#[inline]
pub(crate) fn is_child() -> bool {
    PAGE.load().alive.load(Ordering::Acquire) == 0
}

/// Whether this process was forked from one that was mirrored, and has not looked since.
pub(crate) fn is_unnoticed_child() -> bool {
    is_child()
        && (LAST.load().is_some() || PARENT.load(Ordering::Relaxed) != 0)
        && !OFF.load(Ordering::Relaxed)
}

/// A connection goes on in a child for which no handshake has asked: asks for an agent.
pub(crate) fn attach_child() {
    if is_unnoticed_child() {
        attach(true);
    }
}

fn attach(now: bool) {
    let page = PAGE.load();
    let Some(settings) = SETTINGS.get().filter(|_| enabled()) else {
        return;
    };
    if OFF.load(Ordering::Relaxed) {
        return;
    }
    if page.alive.load(Ordering::Acquire) != 0 && page.ring.load().is_some_and(|ring| !over(ring)) {
        return;
    }
    // A flag, not a lock: one thread attaches, the others go on. It is zero in a child, too.
    if page.attaching.swap(1, Ordering::Acquire) != 0 {
        return;
    }
    let mut parents = None;
    if page.alive.load(Ordering::Acquire) == 0 {
        parents = leave_parent();
        page.alive.store(1, Ordering::Release);
        page.idle.store(1, Ordering::Relaxed);
    }
    if let Some(ring) = page.ring.load().filter(|ring| over(ring)) {
        put(page, None);
        retire(ring);
    }
    if page.ring.load().is_none() && (may_try() || now) {
        put(page, new_ring(page, settings));
        if OFF.load(Ordering::Relaxed) {
            put(page, None);
        }
    }
    // Not before the agent can hear of this process: by this mapping it knows who was forked and may
    // hold a connection, though it has said nothing yet.
    if let Some(ring) = parents {
        let _ = ring.producer.memory().replace_by_private();
    }
    page.attaching.store(0, Ordering::Release);
}

/// Puts a ring into use, or none. A call that sees only one of the two changed counts its text, and
/// doesn't mirror it.
fn put(page: &ForkPage<Ring>, ring: Option<&'static Ring>) {
    page.idle
        .store(u32::from(ring.is_none()), Ordering::Relaxed);
    page.ring.set(ring);
}

/// 1 as long as nothing is mirrored in this process, and that isn't to be looked at anew: it was forked.
pub(crate) fn idle_word() -> &'static AtomicU32 {
    &PAGE.load().idle
}

/// Nothing will be read from this ring any more, as far as can be told.
fn over(ring: &Ring) -> bool {
    ring.producer.detached()
        || no_heir(ring)
        || (!ring.producer.ready() && now_ns().saturating_sub(ring.attached_ns) > PATIENCE_NS)
}

/// The agent is gone, and the next one hasn't come to get the ring for so long that it is left.
fn no_heir(ring: &Ring) -> bool {
    if !ring.producer.orphaned() {
        ring.orphaned_ns.store(0, Ordering::Relaxed);
        return false;
    }
    let now = now_ns();
    let relaxed = Ordering::Relaxed;
    match ring.orphaned_ns.compare_exchange(0, now, relaxed, relaxed) {
        Ok(_) => false,
        Err(since) => now.saturating_sub(since) > HEIR_PATIENCE_NS && ring.producer.leave(),
    }
}

/// Gives the shared pages back. A thread that is still in the middle of a copy writes to nobody; its
/// connection sees another instance at its next call.
fn retire(ring: &Ring) {
    let memory = ring.producer.memory();
    remember_filters(ring);
    if ring.producer.ready() || memory.load_u64(control::GRANTED_BYTES, Ordering::Relaxed) != 0 {
        // It was in use: the next agent may be there at once.
        PAUSE_S.store(1, Ordering::Relaxed);
        NEXT_TRY_NS.store(0, Ordering::Relaxed);
    } else {
        // An agent that finds it in its socket later must not take it for one in use.
        memory.store_u64(control::MAGIC, 0, Ordering::Release);
        // Its pages are this process's, for as long as the agent leaves them in its socket.
        let _ = memory.free_pages();
    }
    let _ = memory.replace_by_private();
}

/// Where the agent of a ring that is given up had filters, the next one's probably has, too.
fn remember_filters(ring: &Ring) {
    let memory = ring.producer.memory();
    // Not without an answer: looking there would take a page of this process's memory.
    let filtered = match memory.load_u32(control::STATE, Ordering::Acquire) {
        STATE_WAITING => false,
        STATE_EXCLUDED => true,
        _ => filter::is_there(&Shared(memory)),
    };
    if filtered {
        FILTERED.store(true, Ordering::Relaxed);
    }
}

/// In a forked child: goes from the parent's ring, which is given back. Nothing of ours may reach it, not
/// even what a copy still writes in the middle of which the process was forked (by a signal handler).
fn leave_parent() -> Option<&'static Ring> {
    let last = LAST.load();
    if let Some(ring) = last {
        remember_filters(ring);
        PARENT.store(ring.instance, Ordering::Relaxed);
        BORN.store(FORKING.load(Ordering::Relaxed), Ordering::Relaxed);
        BORN_SILENT.store(SILENT.swap(0, Ordering::Relaxed), Ordering::Relaxed);
        LAST.set(None);
    }
    PAUSE_S.store(1, Ordering::Relaxed);
    NEXT_TRY_NS.store(0, Ordering::Relaxed);
    last
}

/// Whether enough time has passed since the last attempt; if so, the next has to wait longer.
fn may_try() -> bool {
    let now = now_ns();
    if now < NEXT_TRY_NS.load(Ordering::Relaxed) {
        return false;
    }
    let pause = PAUSE_S.load(Ordering::Relaxed);
    NEXT_TRY_NS.store(now + u64::from(pause) * SECOND_NS, Ordering::Relaxed);
    PAUSE_S.store((pause * 2).min(MAX_PAUSE_S), Ordering::Relaxed);
    true
}

fn new_ring(page: &ForkPage<Ring>, settings: &Settings) -> Option<&'static Ring> {
    let instance = new_instance(page);
    let message = AttachMessage {
        // As much as can be afforded, which attach finds out.
        data_bytes: 0,
        instance,
        parent_instance: Some(PARENT.load(Ordering::Relaxed)).filter(|parent| *parent != 0),
        parent_fork: BORN.load(Ordering::Relaxed),
        silent_forks: BORN_SILENT.load(Ordering::Relaxed),
        name: fork::name(),
    };
    let producer = attach::attach(settings, message).ok()?;
    publish_forks(&producer, forks());
    let ring = shm::leak(Ring {
        producer,
        instance,
        next_connection: AtomicU64::new(1),
        attached_ns: now_ns(),
        orphaned_ns: AtomicU64::new(0),
        patience: Patience::new(settings.wait_ms),
    })
    .ok()?;
    LAST.set(Some(ring));
    Some(ring)
}

fn new_instance(page: &ForkPage<Ring>) -> u64 {
    let mut process = page.process.load(Ordering::Relaxed);
    if process == 0 {
        let mut bytes = [0; 8];
        let random = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
        process = match random {
            Ok(_) => u64::from_ne_bytes(bytes),
            // As the machine starts there may be no randomness: time and pid are unique, too.
            Err(_) => now_ns() ^ (u64::from(std::process::id()) << 40),
        } | 1;
        page.process.store(process, Ordering::Relaxed);
    }
    let count = RINGS.fetch_add(1, Ordering::Relaxed) & ((1 << COUNT_BITS) - 1);
    process << COUNT_BITS | count
}
