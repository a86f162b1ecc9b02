#![allow(
    unsafe_code,
    reason = "packet sockets and interface requests have no safe name in any crate in use"
)]
//! Sends frames on one interface by a packet socket (packet(7)), many in one system call.
//!
//! Plain sends, without `PACKET_QDISC_BYPASS`: so a monitor on the same interface sees the frames, too.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

/// Frames in one system call.
pub(super) const BATCH: usize = 64;

/// The kernel takes no longer names (IFNAMSIZ with its NUL).
const NAME_BYTES: usize = libc::IFNAMSIZ - 1;

/// Asked for; the kernel gives at most net.core.wmem_max.
const SEND_BUFFER_BYTES: libc::c_int = 4 << 20;

#[allow(
    clippy::cast_possible_truncation,
    reason = "the families are small numbers"
)]
const FAMILY: libc::sa_family_t = libc::AF_PACKET as libc::sa_family_t;

/// What an interface is like now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) index: libc::c_int,
    /// Largest IP packet, in bytes.
    pub(super) mtu_bytes: u32,
    /// Somebody has brought it up.
    pub(super) up: bool,
    /// It has a carrier.
    pub(super) running: bool,
    /// ARPHRD_*: what its frames begin with.
    pub(super) kind: u16,
}

/// A packet socket that sends, and receives nothing.
#[derive(Debug)]
pub(super) struct PacketSocket(OwnedFd);

impl PacketSocket {
    /// A socket for no interface yet.
    ///
    /// # Errors
    /// PermissionDenied without CAP_NET_RAW.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        check(fd)?;
        // SAFETY: `fd` was opened right here and belongs to nobody else.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends on this interface from now on, and waits no longer than `patience` for room.
    pub(super) fn bind(&self, index: libc::c_int, patience: Duration) -> io::Result<()> {
        // SAFETY: all zeros is a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { zeroed() };
        address.sll_family = FAMILY;
        address.sll_ifindex = index;
        // Protocol 0: nothing is received.
        let (pointer, length) = (&raw const address, length_of::<libc::sockaddr_ll>());
        // SAFETY: `pointer` is to `length` bytes of an address that live through the call.
        check(unsafe { libc::bind(self.0.as_raw_fd(), pointer.cast(), length) })?;
        self.set(libc::SO_SNDBUF, SEND_BUFFER_BYTES)?;
        let wait = libc::timeval {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_usec: patience.subsec_micros().into(),
        };
        self.set(libc::SO_SNDTIMEO, wait)
    }

    fn set<T>(&self, name: libc::c_int, value: T) -> io::Result<()> {
        let (pointer, length) = (&raw const value, length_of::<T>());
        // SAFETY: `pointer` is to `length` bytes that live through the call.
        check(unsafe {
            libc::setsockopt(
                self.0.as_raw_fd(),
                libc::SOL_SOCKET,
                name,
                pointer.cast(),
                length,
            )
        })
    }

    /// Sends the first of these frames, at most [`BATCH`]; says how many, at least 1 unless there are none.
    ///
    /// # Errors
    /// What kept the first one back; none of them was sent then.
    pub(super) fn send<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        // SAFETY: all zeros is a valid iovec.
        let mut parts: [libc::iovec; BATCH] = unsafe { zeroed() };
        // SAFETY: all zeros is a valid mmsghdr.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut count = 0;
        for ((frame, part), message) in frames.zip(&mut parts).zip(&mut messages) {
            // The kernel only reads it.
            part.iov_base = frame.as_ptr().cast_mut().cast();
            part.iov_len = frame.len();
            message.msg_hdr.msg_iov = ptr::from_mut(part);
            message.msg_hdr.msg_iovlen = 1;
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` messages point to parts, and these to frames, that live through the call.
        let sent = unsafe { libc::sendmmsg(self.0.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
        check(sent)?;
        Ok(usize::try_from(sent).unwrap_or(0))
    }

    /// Asks for the state of an interface by its name.
    ///
    /// # Errors
    /// NotFound: there is none of that name.
    pub(super) fn ask(&self, name: &str) -> io::Result<State> {
        let flags = self.flags(name)?;
        // SAFETY: as above, the index.
        let index = unsafe {
            self.request(name, libc::SIOCGIFINDEX)?
                .ifr_ifru
                .ifru_ifindex
        };
        // SAFETY: as above, the MTU.
        let mtu = unsafe { self.request(name, libc::SIOCGIFMTU)?.ifr_ifru.ifru_mtu };
        // SAFETY: as above, the hardware address, whose family is the kind.
        let kind = unsafe {
            self.request(name, libc::SIOCGIFHWADDR)?
                .ifr_ifru
                .ifru_hwaddr
        };
        Ok(State {
            index,
            mtu_bytes: u32::try_from(mtu).unwrap_or(0),
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_RUNNING != 0,
            kind: kind.sa_family,
        })
    }

    /// Whether an interface is up and has a carrier.
    ///
    /// # Errors
    /// As above.
    pub(super) fn is_running(&self, name: &str) -> io::Result<bool> {
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        self.flags(name).map(|flags| flags & both == both)
    }

    fn flags(&self, name: &str) -> io::Result<libc::c_int> {
        // SAFETY: the flags are what this request fills in.
        let flags = unsafe { self.request(name, libc::SIOCGIFFLAGS)?.ifr_ifru.ifru_flags };
        Ok(flags.into())
    }

    fn request(&self, name: &str, request: libc::Ioctl) -> io::Result<libc::ifreq> {
        if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
            return Err(io::ErrorKind::NotFound.into());
        }
        // SAFETY: all zeros is a valid ifreq.
        let mut asked: libc::ifreq = unsafe { zeroed() };
        for (to, byte) in asked.ifr_name.iter_mut().zip(name.bytes()) {
            *to = byte.cast_signed();
        }
        // SAFETY: these requests read the name and write into the same ifreq, which lives through the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), request, &raw mut asked) })
            .map(|()| asked)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
                _ => error,
            })
    }
}

const fn length_of<T>() -> libc::socklen_t {
    #[allow(
        clippy::cast_possible_truncation,
        reason = "options and addresses have few bytes"
    )]
    {
        size_of::<T>() as libc::socklen_t
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
