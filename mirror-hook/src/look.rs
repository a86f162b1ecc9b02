#![allow(
    unsafe_code,
    reason = "descriptors that may be closed at any time are asked by their numbers"
)]
//! A look at the process's own TCP connections, for an agent that can't see the wire: taken where a call ends in which a
//! connection without a socket has grown. What it means: the agent's `flow::counters`.
//!
//! Only for an agent that asks for it by the environment (`sslcollector run` does where it may not capture), a few times a
//! connection, and within a [budget]. Descriptors are asked, never read, polled or kept: getsockopt(2), FIONREAD and getsockname(2) of what is a socket of
//! TCP, and one getsockopt(2) of all others, which the kernel refuses without asking anybody.

use std::os::fd::BorrowedFd;

use rustix::event::{FdSetElement, FdSetIter, Timespec, fd_set_insert, select};
use rustix::io::{Errno, ioctl_fionread};

use crate::event::{CarriedBy, LookWriter};
use crate::process::{self, Ring};
use crate::records::write_look;
use crate::socket::{addresses, cookie, number, tcp_info};
use crate::tcp::{CLOSED, LISTENING, TcpInfo};

mod budget;
use budget::Budget;

static BUDGET: Budget = Budget::new();

/// Sizes of the kernel's table of descriptors (it has a place for each number below) with which a process is looked at.
const TABLES: [i32; 3] = [64, 128, 256];
/// Of a set for select(2) in which each of these numbers has a bit.
const SET_WORDS: usize = 256 / 8 / size_of::<FdSetElement>() + 1;
/// Most connections that are looked at.
const MOST_CONNECTIONS: usize = 64;
/// How often a connection is asked that something comes to meanwhile.
const TRIES: usize = 4;
/// What carries TCP without saying so: as an address family (AF_SMC, linux/socket.h) …
const SMC: u32 = 43;
/// … and, since Linux 6.11, as a protocol (IPPROTO_SMC, linux/smc.h).
const PROTOCOL_SMC: u32 = 256;
/// Protocol of what has several connections of TCP in it (IPPROTO_MPTCP, linux/in.h).
const MPTCP: u32 = 262;
const TCP: u32 = 6;

/// What is found at a number.
enum Found {
    /// No connection.
    Nothing,
    /// One of which it can't be known what it carries: the look says nothing.
    Unknown,
    Connection(CarriedBy),
}

/// Tells of all connections of this process, in the words of `connection`, whose library has read and written so much.
/// Whether exactly one of them has carried as much.
pub(crate) fn tell(ring: &Ring, connection: u64, own: (u64, u64)) -> bool {
    let began_ns = process::now_ns();
    // Clear text comes first.
    if !ring.producer.is_half_empty() || !BUDGET.allows(began_ns) {
        return false;
    }
    let found_alone = look(ring, connection, own, began_ns);
    BUDGET.spend(began_ns, process::now_ns());
    found_alone
}

fn look(ring: &Ring, connection: u64, own: (u64, u64), began_ns: u64) -> bool {
    let mut writer = LookWriter::new(began_ns);
    let Some(table) = TABLES.into_iter().find(|size| ends_at(*size)) else {
        return false;
    };
    let (mut count, mut alike) = (0, 0);
    for descriptor in 0..table {
        let found = match find(descriptor, own) {
            Found::Nothing => continue,
            Found::Connection(found) if count < MOST_CONNECTIONS => found,
            Found::Connection(_) | Found::Unknown => return false,
        };
        count += 1;
        alike += usize::from((found.received, found.sent) == own);
        if writer.is_full() {
            if !write_look(ring, connection, writer.part(false)) {
                return false;
            }
            writer.next();
        }
        writer.push(&found);
    }
    count != 0 && write_look(ring, connection, writer.part(true)) && alike == 1
}

/// Whether the table of descriptors has no place for this number, which begins a word of a set for select(2), nor for a higher
/// one: that reads and writes back no more words of a set than the table has bits for. The bit that shows it is behind the
/// last one that counts, so no descriptor is asked, whoever opens one meanwhile.
fn ends_at(number: i32) -> bool {
    let mut set = [FdSetElement::default(); SET_WORDS];
    fd_set_insert(&mut set, number + 1);
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: there is no descriptor in the part of the set that counts.
    let done = unsafe { select(number + 1, None, None, Some(&mut set), Some(&at_once)) };
    done.is_ok() && FdSetIter::new(&set).next().is_some()
}

fn find(descriptor: i32, own: (u64, u64)) -> Found {
    let socket = borrow(descriptor);
    match number(socket, libc::SO_PROTOCOL) {
        Ok(TCP) => {}
        Ok(MPTCP | PROTOCOL_SMC) => return Found::Unknown,
        Ok(_) => {
            return match number(socket, libc::SO_DOMAIN) {
                Ok(SMC) => Found::Unknown,
                _ => Found::Nothing,
            };
        }
        Err(Errno::BADF | Errno::NOTSOCK) => return Found::Nothing,
        // Nobody may ask.
        Err(_) => return Found::Unknown,
    }
    match tcp_info(socket) {
        Some(info) if info.state == LISTENING => Found::Nothing,
        Some(info) if info.state != CLOSED => {
            connection(socket, info, own).map_or(Found::Unknown, Found::Connection)
        }
        _ => Found::Unknown,
    }
}

fn connection(socket: BorrowedFd<'_>, info: TcpInfo, own: (u64, u64)) -> Option<CarriedBy> {
    let (info, received) = carried(socket, info)?;
    let is_alike = (received, info.put_in) == own;
    Some(CarriedBy {
        cookie: cookie(socket, libc::SO_COOKIE)?,
        sent: info.put_in,
        received,
        addresses: addresses(socket).filter(|_| is_alike),
    })
}

/// What the program has put in and taken out. What it hasn't taken yet is asked for between two counts of what has arrived,
/// which must be equal: else something has arrived in between.
fn carried(socket: BorrowedFd<'_>, mut before: TcpInfo) -> Option<(TcpInfo, u64)> {
    for _ in 0..TRIES {
        let waiting = ioctl_fionread(socket).ok()?;
        let now = tcp_info(socket)?;
        if now.arrived == before.arrived {
            // FIONREAD doesn't count a FIN.
            let taken = now.arrived.checked_sub(waiting)?;
            let received = taken.checked_sub(u64::from(now.peer_has_finished()))?;
            return Some((now, received));
        }
        before = now;
    }
    None
}

fn borrow<'a>(descriptor: i32) -> BorrowedFd<'a> {
    // SAFETY: not -1. It is only handed to system calls that change nothing; one that is closed, or somebody else's by now, is
    // refused or answers for itself.
    unsafe { BorrowedFd::borrow_raw(descriptor) }
}

#[cfg(test)]
#[path = "look_tests.rs"]
mod tests;
