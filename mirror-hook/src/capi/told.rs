#![allow(unsafe_code, reason = "the caller's pointers")]
//! What a caller in C tells, as the types of this crate: pointers and numbers are checked once, here.

use std::ffi::c_int;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::BorrowedFd;
use std::slice;

use super::{
    MIRROR_HOOK_CLIENT, MIRROR_HOOK_DTLS, MIRROR_HOOK_EARLY_ACCEPTED, MIRROR_HOOK_EARLY_PENDING,
    MIRROR_HOOK_EARLY_REJECTED, MIRROR_HOOK_HANDSHAKE_DONE, MIRROR_HOOK_QUIC, MIRROR_HOOK_RECEIVED,
    MIRROR_HOOK_RESUMED, MIRROR_HOOK_SENT, MIRROR_HOOK_SERVER, MIRROR_HOOK_TCP, mirror_hook_conn,
    mirror_hook_info,
};
use crate::event::{Direction, EarlyData, MAX_ALPN, MAX_SNI, Meta, Role, Transport};
use crate::hook::{Conn, Info};
use crate::socket::is_one;

pub(super) fn direction_of(code: c_int) -> Option<Direction> {
    match code {
        MIRROR_HOOK_SENT => Some(Direction::Sent),
        MIRROR_HOOK_RECEIVED => Some(Direction::Received),
        _ => None,
    }
}

/// Hands what is told of a connection to `tell`, unless it or the connection is missing, or makes no
/// sense. An [`Info`] is large for a stack that isn't ours: it is made here, once, and passed by
/// reference.
///
/// # Safety
/// As `mirror_hook_open`.
pub(super) unsafe fn told(
    conn: *mut mirror_hook_conn,
    info: *const mirror_hook_info,
    tell: impl FnOnce(&mut Conn, &mut Info<'_>),
) {
    // SAFETY: by the caller's contract; the layouts are the same.
    let Some(conn) = (unsafe { conn.cast::<Conn>().as_mut() }) else {
        return;
    };
    // SAFETY: every version of the structure begins with its size.
    let size = unsafe { info.cast::<u32>().as_ref() };
    let size = size.and_then(|size| usize::try_from(*size).ok());
    if size.is_none_or(|size| size < size_of::<mirror_hook_info>()) {
        return;
    }
    // SAFETY: by the caller's contract, and as large as this version's.
    let Some(told) = (unsafe { info.as_ref() }) else {
        return;
    };
    let Some(role) = role_of(told) else {
        return;
    };
    let mut info = Info {
        meta: Meta::new(role),
        socket: None,
    };
    // SAFETY: by the caller's contract.
    if unsafe { fill_in(&mut info, told) } {
        tell(conn, &mut info);
    }
}

fn role_of(told: &mirror_hook_info) -> Option<Role> {
    match told.role {
        MIRROR_HOOK_CLIENT => Some(Role::Client),
        MIRROR_HOOK_SERVER => Some(Role::Server),
        _ => None,
    }
}

/// False: it makes no sense.
///
/// # Safety
/// The pointers are NULL or valid for their lengths while `info` is in use.
unsafe fn fill_in<'a>(info: &mut Info<'a>, told: &'a mirror_hook_info) -> bool {
    let meta = &mut info.meta;
    meta.transport = match told.transport {
        0 | MIRROR_HOOK_TCP => Transport::Tcp,
        MIRROR_HOOK_DTLS => Transport::Dtls,
        MIRROR_HOOK_QUIC => Transport::Quic,
        _ => return false,
    };
    meta.early = match told.early {
        MIRROR_HOOK_EARLY_PENDING => EarlyData::Pending,
        MIRROR_HOOK_EARLY_ACCEPTED => EarlyData::Accepted,
        MIRROR_HOOK_EARLY_REJECTED => EarlyData::Rejected,
        _ => EarlyData::None,
    };
    meta.handshake_done = told.flags & MIRROR_HOOK_HANDSHAKE_DONE != 0;
    meta.resumed = told.flags & MIRROR_HOOK_RESUMED != 0;
    meta.tls_version = Some(told.tls_version).filter(|version| *version != 0);
    meta.cipher = Some(told.cipher).filter(|cipher| *cipher != 0);
    meta.addresses = told_addresses(told);
    meta.addresses_told = meta.addresses.is_some();
    // SAFETY: NULL or 32 bytes, by the caller's contract.
    meta.client_random = unsafe { told.client_random.cast::<[u8; 32]>().as_ref() }.copied();
    // SAFETY: as above.
    meta.server_random = unsafe { told.server_random.cast::<[u8; 32]>().as_ref() }.copied();
    let wire_known = told.wire_read != u64::MAX && told.wire_written != u64::MAX;
    meta.wire_counts = wire_known.then_some((told.wire_read, told.wire_written));
    // SAFETY: by the caller's contract; a shorter length is valid, too.
    meta.sni = unsafe { bytes_at(told.sni.cast(), told.sni_length.min(MAX_SNI)) };
    // SAFETY: as above.
    meta.alpn = unsafe { bytes_at(told.alpn, told.alpn_length.min(MAX_ALPN)) };
    // SAFETY: the caller says that they are open; were they not, system calls on them would fail.
    info.socket = unsafe { socket_of(told.write_fd, told.read_fd) };
    true
}

/// The socket, if it is one: what is written to one connection and read from another is neither's.
///
/// # Safety
/// Both are open while the result is used, or -1.
unsafe fn socket_of<'a>(write_fd: c_int, read_fd: c_int) -> Option<BorrowedFd<'a>> {
    // SAFETY: not -1, and open by the caller's contract.
    let borrowed = |fd: c_int| (fd >= 0).then(|| unsafe { BorrowedFd::borrow_raw(fd) });
    match (borrowed(write_fd), borrowed(read_fd)) {
        (Some(write), Some(read)) if write_fd != read_fd && !is_one(write, read) => None,
        (write, read) => write.or(read),
    }
}

fn told_addresses(info: &mirror_hook_info) -> Option<(SocketAddr, SocketAddr)> {
    let ip = |bytes: [u8; 16]| -> Option<IpAddr> {
        match info.family {
            4 => Some(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into()),
            6 => Some(Ipv6Addr::from(bytes).to_canonical()),
            _ => None,
        }
    };
    Some((
        SocketAddr::new(ip(info.local_address)?, info.local_port),
        SocketAddr::new(ip(info.peer_address)?, info.peer_port),
    ))
}

/// The bytes at `pointer`; none if it is NULL.
///
/// # Safety
/// `pointer` is NULL or valid for `length` bytes while the result is used.
pub(super) unsafe fn bytes_at<'a>(pointer: *const u8, length: usize) -> &'a [u8] {
    if pointer.is_null() || length == 0 {
        return &[];
    }
    // SAFETY: not NULL; valid for `length` bytes by the caller's contract.
    unsafe { slice::from_raw_parts(pointer, length) }
}
