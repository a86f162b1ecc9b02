#![allow(
    unsafe_code,
    reason = "packet sockets and interface requests have no safe name in any crate in use"
)]
//! Sends frames on one interface by a packet socket (packet(7)), many in one system call.
//!
//! Plain sends, without `PACKET_QDISC_BYPASS`: so a monitor on the same interface sees the frames, too. The kernel
//! may cut large ones (GSO; `PACKET_VNET_HDR`), before monitors see them. Bypassing the queue saves nothing, and doesn't
//! go with that: what the kernel itself would have to cut is dropped there.

use std::io;
use std::mem::{size_of, zeroed};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::ptr;
use std::time::Duration;

/// Frames in one system call.
pub(super) const BATCH: usize = 64;

/// The kernel takes no longer names (IFNAMSIZ with its NUL).
const NAME_BYTES: usize = libc::IFNAMSIZ - 1;

/// Asked for; the kernel gives at most net.core.wmem_max.
const SEND_BUFFER_BYTES: libc::c_int = 4 << 20;

/// The instruction that ends a filter: so many bytes of the packet are let through.
const BPF_RET: u16 = 0x06;

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

/// A frame for the interface.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing<'a> {
    pub(super) frame: &'a [u8],
    /// How the kernel is to cut it.
    pub(super) cut: Option<Cut>,
}

/// How the kernel is to cut a frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    pub(super) is_v4: bool,
    /// Payload of each but the last.
    pub(super) segment_bytes: u16,
    /// Bytes before the payload.
    pub(super) header_bytes: u16,
    /// Where TCP's header begins.
    pub(super) tcp_at: u16,
}

/// `struct virtio_net_hdr` of <linux/virtio_net.h>, in the machine's byte order. All zeros: nothing is to be done.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct VnetHeader {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const _: () = assert!(size_of::<VnetHeader>() == 10);

impl From<Cut> for VnetHeader {
    fn from(cut: Cut) -> Self {
        const NEEDS_CSUM: u8 = 1;
        const GSO_TCPV4: u8 = 1;
        const GSO_TCPV6: u8 = 4;
        const CHECKSUM_IN_TCP: u16 = 16;
        Self {
            flags: NEEDS_CSUM,
            gso_type: if cut.is_v4 { GSO_TCPV4 } else { GSO_TCPV6 },
            hdr_len: cut.header_bytes,
            gso_size: cut.segment_bytes,
            csum_start: cut.tcp_at,
            csum_offset: CHECKSUM_IN_TCP,
        }
    }
}

/// A packet socket that sends, and receives nothing.
#[derive(Debug)]
pub(super) struct PacketSocket {
    socket: OwnedFd,
    /// Each frame has a [`VnetHeader`] before it.
    has_headers: bool,
}

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
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let socket = Self {
            socket,
            has_headers: false,
        };
        socket.never_receive()?;
        Ok(socket)
    }

    /// Whoever takes over the agent can't see packets by it.
    fn never_receive(&self) -> io::Result<()> {
        let mut nothing = libc::sock_filter {
            code: BPF_RET,
            jt: 0,
            jf: 0,
            k: 0,
        };
        let program = libc::sock_fprog {
            len: 1,
            filter: &raw mut nothing,
        };
        self.set(libc::SO_ATTACH_FILTER, program)?;
        lock_filter(self.socket.as_fd())
    }

    /// From now on frames may be for the kernel to cut.
    pub(super) fn let_kernel_cut(&mut self) -> io::Result<()> {
        const PACKET_VNET_HDR: libc::c_int = 15;
        const YES: libc::c_int = 1;
        set(self.socket.as_fd(), libc::SOL_PACKET, PACKET_VNET_HDR, YES)?;
        self.has_headers = true;
        Ok(())
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
        check(unsafe { libc::bind(self.socket.as_raw_fd(), pointer.cast(), length) })?;
        self.set(libc::SO_SNDBUF, SEND_BUFFER_BYTES)?;
        let wait = libc::timeval {
            tv_sec: patience.as_secs() as libc::time_t,
            tv_usec: patience.subsec_micros().into(),
        };
        self.set(libc::SO_SNDTIMEO, wait)
    }

    fn set<T>(&self, name: libc::c_int, value: T) -> io::Result<()> {
        set(self.socket.as_fd(), libc::SOL_SOCKET, name, value)
    }

    /// Sends the first of these frames, at most [`BATCH`]; says how many, at least 1 unless there are none.
    ///
    /// # Errors
    /// What kept the first one back; none of them was sent then.
    pub(super) fn send<'a>(&self, frames: impl Iterator<Item = Outgoing<'a>>) -> io::Result<usize> {
        let mut headers = [VnetHeader::default(); BATCH];
        // SAFETY: all zeros is a valid iovec.
        let mut parts: [[libc::iovec; 2]; BATCH] = unsafe { zeroed() };
        // SAFETY: all zeros is a valid mmsghdr.
        let mut messages: [libc::mmsghdr; BATCH] = unsafe { zeroed() };
        let mut count = 0;
        let room = headers.iter_mut().zip(&mut parts).zip(&mut messages);
        for (Outgoing { frame, cut }, ((header, parts), message)) in frames.zip(room) {
            if let Some(cut) = cut {
                *header = cut.into();
            }
            parts[0].iov_base = ptr::from_mut(header).cast();
            parts[0].iov_len = size_of::<VnetHeader>();
            // The kernel only reads it.
            parts[1].iov_base = frame.as_ptr().cast_mut().cast();
            parts[1].iov_len = frame.len();
            let parts = match self.has_headers {
                true => &mut parts[..],
                false => &mut parts[1..],
            };
            message.msg_hdr.msg_iov = parts.as_mut_ptr();
            message.msg_hdr.msg_iovlen = parts.len();
            count += 1;
        }
        if count == 0 {
            return Ok(0);
        }
        // SAFETY: the first `count` messages point to parts, and these to headers and frames, that live through the call.
        let sent =
            unsafe { libc::sendmmsg(self.socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
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
        let mtu_bytes = self.mtu_bytes(name)?;
        // SAFETY: as above, the hardware address, whose family is the kind.
        let kind = unsafe {
            self.request(name, libc::SIOCGIFHWADDR)?
                .ifr_ifru
                .ifru_hwaddr
        };
        Ok(State {
            index,
            mtu_bytes,
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

    /// The largest IP packet of an interface.
    ///
    /// # Errors
    /// As above.
    pub(super) fn mtu_bytes(&self, name: &str) -> io::Result<u32> {
        // SAFETY: the MTU is what this request fills in.
        let mtu = unsafe { self.request(name, libc::SIOCGIFMTU)?.ifr_ifru.ifru_mtu };
        Ok(u32::try_from(mtu).unwrap_or(0))
    }

    /// Whether an interface leaves cutting and checksums to the kernel, so that its far end gets whole frames of its
    /// MTU, whatever is there.
    pub(super) fn leaves_work_to_kernel(&self, name: &str) -> bool {
        [ethtool::GET_TSO, ethtool::GET_TX_CHECKSUMS]
            .into_iter()
            .all(|request| {
                ethtool::ask(self.socket.as_fd(), name, request, 0).is_ok_and(|does| does == 0)
            })
    }

    fn flags(&self, name: &str) -> io::Result<libc::c_int> {
        // SAFETY: the flags are what this request fills in.
        let flags = unsafe { self.request(name, libc::SIOCGIFFLAGS)?.ifr_ifru.ifru_flags };
        Ok(flags.into())
    }

    fn request(&self, name: &str, request: libc::Ioctl) -> io::Result<libc::ifreq> {
        let mut asked = named(name)?;
        // SAFETY: these requests read the name and write into the same ifreq, which lives through the call.
        check(unsafe { libc::ioctl(self.socket.as_raw_fd(), request, &raw mut asked) })
            .map(|()| asked)
            .map_err(|error| match error.raw_os_error() {
                Some(libc::ENODEV) => io::ErrorKind::NotFound.into(),
                _ => error,
            })
    }
}

/// Has an interface leave cutting and checksums to the kernel from now on.
///
/// # Errors
/// It can't, or there is no right to (CAP_NET_ADMIN).
pub(super) fn leave_work_to_kernel(name: &str) -> io::Result<()> {
    // Any socket will do; one for packets needs another right.
    let socket = UnixDatagram::unbound()?;
    for request in [ethtool::SET_TSO, ethtool::SET_TX_CHECKSUMS] {
        ethtool::ask(socket.as_fd(), name, request, 0)?;
    }
    Ok(())
}

/// Requests of <linux/ethtool.h> that read or set one value.
mod ethtool {
    use super::{AsRawFd, BorrowedFd, check, io, named};

    pub(super) const GET_TX_CHECKSUMS: u32 = 0x16;
    pub(super) const SET_TX_CHECKSUMS: u32 = 0x17;
    pub(super) const GET_TSO: u32 = 0x1e;
    pub(super) const SET_TSO: u32 = 0x1f;

    /// `struct ethtool_value`.
    #[repr(C)]
    struct Value {
        request: u32,
        value: u32,
    }

    pub(super) fn ask(
        socket: BorrowedFd<'_>,
        name: &str,
        request: u32,
        value: u32,
    ) -> io::Result<u32> {
        let mut told = Value { request, value };
        let mut asked = named(name)?;
        asked.ifr_ifru.ifru_data = (&raw mut told).cast();
        // SAFETY: these requests read the name, and read or write the value behind the pointer; both live through the
        // call.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut asked) })?;
        Ok(told.value)
    }
}

/// A request about this interface.
fn named(name: &str) -> io::Result<libc::ifreq> {
    if name.is_empty() || name.len() > NAME_BYTES || name.contains('\0') {
        return Err(io::ErrorKind::NotFound.into());
    }
    // SAFETY: all zeros is a valid ifreq.
    let mut asked: libc::ifreq = unsafe { zeroed() };
    for (to, byte) in asked.ifr_name.iter_mut().zip(name.bytes()) {
        *to = byte.cast_signed();
    }
    Ok(asked)
}

/// The filter of a socket can't be changed or taken off any more (SO_LOCK_FILTER).
pub(crate) fn lock_filter(socket: BorrowedFd<'_>) -> io::Result<()> {
    const YES: libc::c_int = 1;
    set(socket, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, YES)
}

/// How many instructions of a classic filter the kernel runs on a socket; 0: none.
///
/// # Errors
/// PermissionDenied: it runs one of another kind.
pub(crate) fn filter_length(socket: BorrowedFd<'_>) -> io::Result<usize> {
    /// Of <asm-generic/socket.h>: the same number as that for attaching one.
    const SO_GET_FILTER: libc::c_int = libc::SO_ATTACH_FILTER;
    let (level, mut length) = (libc::SOL_SOCKET, 0);
    // SAFETY: with room for none, the kernel writes how many there are to `length`, and nothing else.
    check(unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            SO_GET_FILTER,
            ptr::null_mut(),
            &raw mut length,
        )
    })?;
    Ok(usize::try_from(length).unwrap_or(0))
}

/// The kernel runs this program (bpf(2)) on a socket from now on, in place of its filter.
pub(crate) fn attach_program(socket: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    set(
        socket,
        libc::SOL_SOCKET,
        libc::SO_ATTACH_BPF,
        program.as_raw_fd(),
    )
}

fn set<T>(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: T,
) -> io::Result<()> {
    let (pointer, length) = (&raw const value, length_of::<T>());
    // SAFETY: `pointer` is to `length` bytes that live through the call; what a filter points to does, too.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer.cast(), length) })
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
