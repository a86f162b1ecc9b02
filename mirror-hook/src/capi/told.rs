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

pub(super) fn direction_of(code: c_int) -> Option<Direction> {
    match code {
        MIRROR_HOOK_SENT => Some(Direction::Sent),
        MIRROR_HOOK_RECEIVED => Some(Direction::Received),
        _ => None,
    }
}

/// The connection and what is told of it, unless either is missing or makes no sense.
///
/// # Safety
/// As `mirror_hook_open`.
pub(super) unsafe fn both<'a>(
    conn: *mut mirror_hook_conn,
    info: *const mirror_hook_info,
) -> Option<(&'a mut Conn, Info<'a>)> {
    // SAFETY: by the caller's contract; the layouts are the same.
    let conn = unsafe { conn.cast::<Conn>().as_mut() }?;
    // SAFETY: every version of the structure begins with its size.
    let size = unsafe { info.cast::<u32>().as_ref() }?;
    if usize::try_from(*size).ok()? < size_of::<mirror_hook_info>() {
        return None;
    }
    // SAFETY: by the caller's contract, and as large as this version's.
    let info = unsafe { info.as_ref() }?;
    // SAFETY: by the caller's contract.
    let info = unsafe { read_info(info) }?;
    Some((conn, info))
}

/// # Safety
/// The pointers are NULL or valid for their lengths.
unsafe fn read_info(info: &mirror_hook_info) -> Option<Info<'_>> {
    let role = match info.role {
        MIRROR_HOOK_CLIENT => Role::Client,
        MIRROR_HOOK_SERVER => Role::Server,
        _ => return None,
    };
    let transport = match info.transport {
        0 | MIRROR_HOOK_TCP => Transport::Tcp,
        MIRROR_HOOK_DTLS => Transport::Dtls,
        MIRROR_HOOK_QUIC => Transport::Quic,
        _ => return None,
    };
    let early = match info.early {
        MIRROR_HOOK_EARLY_PENDING => EarlyData::Pending,
        MIRROR_HOOK_EARLY_ACCEPTED => EarlyData::Accepted,
        MIRROR_HOOK_EARLY_REJECTED => EarlyData::Rejected,
        _ => EarlyData::None,
    };
    // SAFETY: NULL or 32 bytes, by the caller's contract.
    let client_random = unsafe { info.client_random.cast::<[u8; 32]>().as_ref() };
    // SAFETY: as above.
    let server_random = unsafe { info.server_random.cast::<[u8; 32]>().as_ref() };
    // SAFETY: by the caller's contract; a shorter length is valid, too.
    let sni = unsafe { bytes_at(info.sni.cast(), info.sni_length.min(MAX_SNI)) };
    // SAFETY: as above.
    let alpn = unsafe { bytes_at(info.alpn, info.alpn_length.min(MAX_ALPN)) };
    let fd = [info.write_fd, info.read_fd]
        .into_iter()
        .find(|fd| *fd >= 0);
    // SAFETY: not -1. The caller says that it is open; were it not, system calls on it would fail.
    let socket = fd.map(|fd| unsafe { BorrowedFd::borrow_raw(fd) });
    let wire_known = info.wire_read != u64::MAX && info.wire_written != u64::MAX;
    let addresses = told_addresses(info);
    let meta = Meta {
        transport,
        early,
        handshake_done: info.flags & MIRROR_HOOK_HANDSHAKE_DONE != 0,
        resumed: info.flags & MIRROR_HOOK_RESUMED != 0,
        tls_version: Some(info.tls_version).filter(|version| *version != 0),
        cipher: Some(info.cipher).filter(|cipher| *cipher != 0),
        addresses,
        addresses_told: addresses.is_some(),
        client_random: client_random.copied(),
        server_random: server_random.copied(),
        wire_counts: wire_known.then_some((info.wire_read, info.wire_written)),
        sni,
        alpn,
        ..Meta::new(role)
    };
    Some(Info { meta, socket })
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
