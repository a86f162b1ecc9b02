#![allow(
    unsafe_code,
    reason = "the C interface: exported names and the caller's pointers"
)]
#![allow(
    non_camel_case_types,
    reason = "cbindgen writes the names into the header as they are here"
)]
//! The C interface, from which `include/mirror_hook.h` is generated.
//!
//! Every function may be called at any time, from any thread, as long as no two threads use one
//! `mirror_hook_conn` at once. None blocks, fails, changes errno, or lets a panic out: the body of
//! each is inside `entry!`, and a test counts that.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use crate::event::{CloseReason, Direction};
use crate::guard::{guarded, guarded_apart, silence_panics};
use crate::hook::Conn;
use crate::process;

mod told;
use told::{bytes_at, direction_of, told};

/// The process sent the ClientHello.
pub const MIRROR_HOOK_CLIENT: u8 = 1;
/// The process answered with the ServerHello.
pub const MIRROR_HOOK_SERVER: u8 = 2;

/// TLS over a byte stream.
pub const MIRROR_HOOK_TCP: u8 = 1;
/// DTLS: announced and counted, its text isn't copied.
pub const MIRROR_HOOK_DTLS: u8 = 2;
/// QUIC: announced and counted, its text isn't copied.
pub const MIRROR_HOOK_QUIC: u8 = 3;

/// There was no 0-RTT data.
pub const MIRROR_HOOK_EARLY_NONE: u8 = 0;
/// Some passed; whether the server reads it isn't known yet.
pub const MIRROR_HOOK_EARLY_PENDING: u8 = 1;
/// The server read it.
pub const MIRROR_HOOK_EARLY_ACCEPTED: u8 = 2;
/// The server never read it.
pub const MIRROR_HOOK_EARLY_REJECTED: u8 = 3;

/// The direction that the process sends.
pub const MIRROR_HOOK_SENT: c_int = 0;
/// The direction that the process receives.
pub const MIRROR_HOOK_RECEIVED: c_int = 1;

/// Flag of `mirror_hook_info`: the handshake has ended.
pub const MIRROR_HOOK_HANDSHAKE_DONE: u32 = 1;
/// Flag of `mirror_hook_info`: the session was resumed.
pub const MIRROR_HOOK_RESUMED: u32 = 2;

/// State of one connection, kept by the caller: all zeros before its first use.
#[repr(C)]
#[derive(Debug)]
pub struct mirror_hook_conn {
    /// The hook's own.
    pub words: [u64; 8],
}

const _: () = assert!(size_of::<mirror_hook_conn>() == size_of::<Conn>());
const _: () = assert!(align_of::<mirror_hook_conn>() == align_of::<Conn>());

/// What the caller knows of a connection. All zeros but `size`, `role`, the descriptors (-1) and the
/// wire counts (UINT64_MAX) means: nothing. Pointers need to live for the call only.
#[repr(C)]
#[derive(Debug)]
pub struct mirror_hook_info {
    /// sizeof(mirror_hook_info)
    pub size: u32,
    /// MIRROR_HOOK_HANDSHAKE_DONE | MIRROR_HOOK_RESUMED
    pub flags: u32,
    /// MIRROR_HOOK_CLIENT or MIRROR_HOOK_SERVER
    pub role: u8,
    /// MIRROR_HOOK_TCP (or 0), MIRROR_HOOK_DTLS, MIRROR_HOOK_QUIC
    pub transport: u8,
    /// MIRROR_HOOK_EARLY_...
    pub early: u8,
    /// Addresses told by the caller: 0 none, 4 or 6. They take the place of the socket's.
    pub family: u8,
    /// As on the wire, 0: unknown
    pub tls_version: u16,
    /// IANA number, 0: unknown
    pub cipher: u16,
    /// Socket that is read from, -1: none
    pub read_fd: i32,
    /// Socket that is written to, -1: none. If it isn't the one that is read from, neither's addresses are taken.
    pub write_fd: i32,
    /// 32 bytes, or NULL
    pub client_random: *const u8,
    /// 32 bytes, or NULL
    pub server_random: *const u8,
    /// Server name, or NULL
    pub sni: *const c_char,
    /// Bytes of `sni`
    pub sni_length: usize,
    /// ALPN protocol, or NULL
    pub alpn: *const u8,
    /// Bytes of `alpn`
    pub alpn_length: usize,
    /// Bytes that the TLS library has read from its transport, UINT64_MAX: unknown
    pub wire_read: u64,
    /// Bytes that the TLS library has written to its transport, UINT64_MAX: unknown
    pub wire_written: u64,
    /// In network byte order; the first 4 where `family` is 4
    pub local_address: [u8; 16],
    /// In network byte order; the first 4 where `family` is 4
    pub peer_address: [u8; 16],
    /// In the machine's byte order
    pub local_port: u16,
    /// In the machine's byte order
    pub peer_port: u16,
}

/// The body of every entry point: its panics end here, and errno stays as it was. What stands in
/// front of `=>` is the fast path, which can't panic and makes no call.
macro_rules! entry {
    ($body:expr) => {
        guarded(|| $body)
    };
    ($fast:expr => |$value:pat_param| $body:expr) => {
        match $fast {
            Some($value) => guarded_apart(move || $body),
            None => Default::default(),
        }
    };
}

/// For libssl's fast path, and so not in the header: null as long as the mirror isn't enabled, then the
/// address of a word that is 1 while nothing is mirrored in this process. While it is, `sent` and `received`
/// of a [`Conn`] may be counted without a call (words 2 and 3 of `mirror_hook_conn`).
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "a name in C")]
pub static mirror_hook_idle: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

const _: () = assert!(Conn::SENT_AT == 2 * size_of::<u64>());
const _: () = assert!(Conn::RECEIVED_AT == 3 * size_of::<u64>());

/// Reads the settings. Call it from the library's constructor: some programs wipe their environment
/// as they start. Later calls do nothing.
#[unsafe(no_mangle)]
pub extern "C" fn mirror_hook_init() {
    entry!({
        if process::init() {
            silence_panics();
            let idle = ptr::from_ref(process::idle_word()).cast_mut();
            mirror_hook_idle.store(idle, Ordering::Release);
        }
    })
}

/// A handshake begins: asks for an agent if there is none. The only function that makes system calls
/// on anything but a socket given to mirror_hook_open or mirror_hook_update (in a forked child,
/// mirror_hook_open asks for an agent too; and where the environment says SSLCOLLECTOR_TELL_SOCKETS=1, both
/// ask all descriptors of the process what they have carried, a few times a connection, of which no socket and
/// no address is told, and the wire counts are).
#[unsafe(no_mangle)]
pub extern "C" fn mirror_hook_handshake() {
    entry!(process::handshake())
}

/// True if mirror_hook_open has to be called before this connection's next record: it isn't announced
/// yet, the process has forked, the ring was replaced, or what was to be announced found no room.
/// False whenever nothing is mirrored.
///
/// # Safety
/// `conn` is NULL or points to a connection that no other thread uses now.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_wants_open(conn: *const mirror_hook_conn) -> bool {
    // SAFETY: by the contract above; the layouts are the same.
    let conn = unsafe { conn.cast::<Conn>().as_ref() };
    let perhaps = conn.filter(|conn| conn.may_want_open());
    entry!(perhaps => |conn| conn.wants_open_now())
}

/// Announces the connection, if mirror_hook_wants_open says so.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open; `info` is NULL or points to a valid mirror_hook_info whose
/// pointers are NULL or valid for their lengths.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_open(
    conn: *mut mirror_hook_conn,
    info: *const mirror_hook_info,
) {
    entry!({
        // SAFETY: by the contract above.
        unsafe { told(conn, info, Conn::open_now) }
    })
}

/// More is known of the connection: call it when the handshake has ended.
///
/// # Safety
/// As mirror_hook_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_update(
    conn: *mut mirror_hook_conn,
    info: *const mirror_hook_info,
) {
    entry!({
        // SAFETY: by the contract above.
        unsafe { told(conn, info, Conn::update_now) }
    })
}

/// Clear text that the library has accepted from the application. Always to be called: offsets count
/// also while nothing is mirrored.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open; `bytes` points to `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_sent(
    conn: *mut mirror_hook_conn,
    bytes: *const c_void,
    length: usize,
) {
    // SAFETY: by the contract above; the layouts are the same.
    let conn = unsafe { conn.cast::<Conn>().as_mut() };
    let mirrored =
        conn.and_then(|conn| conn.advance(Direction::Sent, length as u64).then_some(conn));
    entry!(mirrored => |conn| {
        // SAFETY: by the contract above.
        conn.copy_now(Direction::Sent, unsafe { bytes_at(bytes.cast(), length) });
    })
}

/// Clear text that the library has handed to the application; not on a peek. Always to be called:
/// offsets count also while nothing is mirrored.
///
/// # Safety
/// As mirror_hook_sent.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_received(
    conn: *mut mirror_hook_conn,
    bytes: *const c_void,
    length: usize,
) {
    // SAFETY: by the contract above; the layouts are the same.
    let conn = unsafe { conn.cast::<Conn>().as_mut() };
    let mirrored = conn.and_then(|conn| {
        conn.advance(Direction::Received, length as u64)
            .then_some(conn)
    });
    entry!(mirrored => |conn| {
        // SAFETY: by the contract above.
        conn.copy_now(Direction::Received, unsafe { bytes_at(bytes.cast(), length) });
    })
}

/// `length` bytes passed in `direction` that the caller has no copy of.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_lost(
    conn: *mut mirror_hook_conn,
    direction: c_int,
    length: u64,
) {
    // SAFETY: by the contract above; the layouts are the same.
    let conn = unsafe { conn.cast::<Conn>().as_mut() };
    let told = conn.zip(direction_of(direction));
    let mirrored = told.and_then(|(conn, direction)| {
        let mirrored = conn.advance(direction, length);
        mirrored.then_some((conn, direction))
    });
    entry!(mirrored => |(conn, direction)| conn.declare_lost_now(direction, length))
}

/// 0-RTT data was rejected: what was sent so far was never read by the server. Offsets begin again
/// at 0.
///
/// # Safety
/// As mirror_hook_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_early_rejected(
    conn: *mut mirror_hook_conn,
    info: *const mirror_hook_info,
) {
    entry!({
        // SAFETY: by the contract above.
        unsafe { told(conn, info, Conn::early_rejected_now) }
    })
}

/// close_notify was sent (MIRROR_HOOK_SENT), or close_notify or the end of the stream was received
/// (MIRROR_HOOK_RECEIVED). Repeats are ignored.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_end(conn: *mut mirror_hook_conn, direction: c_int) {
    entry!({
        // SAFETY: by the contract above; the layouts are the same.
        let conn = unsafe { conn.cast::<Conn>().as_mut() };
        if let Some((conn, direction)) = conn.zip(direction_of(direction)) {
            conn.end_now(direction);
        }
    })
}

/// A fatal error ended the connection.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_abort(conn: *mut mirror_hook_conn) {
    entry!({
        // SAFETY: by the contract above; the layouts are the same.
        if let Some(conn) = unsafe { conn.cast::<Conn>().as_mut() } {
            conn.finish(CloseReason::Abort);
        }
    })
}

/// The application gives the connection back. Leaves `conn` as it was before its first use.
///
/// # Safety
/// `conn` as in mirror_hook_wants_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mirror_hook_close(conn: *mut mirror_hook_conn) {
    entry!({
        // SAFETY: by the contract above; the layouts are the same.
        if let Some(conn) = unsafe { conn.cast::<Conn>().as_mut() } {
            conn.finish(CloseReason::Free);
        }
    })
}
