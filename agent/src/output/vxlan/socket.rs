#![allow(
    unsafe_code,
    reason = "a socket's queue of errors has no safe name in any crate in use"
)]
//! A UDP socket to one sensor, which hears of whatever is answered to its datagrams.

use std::io::{self, IoSlice};
use std::mem::zeroed;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::ptr;
use std::time::Duration;

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{MMsgHdr, SendAncillaryBuffer, SendFlags, sendmmsg};

/// Datagrams in one system call.
pub(super) const BATCH: usize = 64;
/// Asked for; the kernel gives at most net.core.wmem_max.
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// A send waits so long for room at most.
const PATIENCE: Duration = Duration::from_secs(1);

/// The socket.
#[derive(Debug)]
pub(super) struct SensorSocket(UdpSocket);

impl SensorSocket {
    /// From a port of its own.
    pub(super) fn to(address: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        // Not to be cut on the way (RFC 7348 section 4.3); where the way has become narrower, the kernel cuts here.
        match address {
            SocketAddr::V4(_) => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::WANT)?,
            SocketAddr::V6(_) => {
                sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::WANT)?;
            }
        }
        sockopt::set_socket_send_buffer_size(&socket, SEND_BUFFER_BYTES)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(address)?;
        hear_of_soft_errors(&socket, address)?;
        Ok(Self(socket))
    }

    /// The largest packet for the way there, in bytes, as far as the kernel knows it.
    pub(super) fn path_mtu(&self, address: SocketAddr) -> io::Result<u32> {
        let mtu = match address {
            SocketAddr::V4(_) => sockopt::ip_mtu(&self.0),
            SocketAddr::V6(_) => sockopt::ipv6_mtu(&self.0),
        };
        Ok(mtu?)
    }

    /// Sends the first of these, at most [`BATCH`]; says how many, at least 1.
    ///
    /// # Errors
    /// What keeps the first one back; or, once, what was answered to one before.
    pub(super) fn send<'a>(&self, datagrams: impl Iterator<Item = &'a [u8]>) -> io::Result<usize> {
        let parts: Vec<_> = datagrams.take(BATCH).map(IoSlice::new).collect();
        let mut controls: [SendAncillaryBuffer<'_, '_, '_>; BATCH] =
            std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut messages: Vec<_> = parts
            .chunks(1)
            .zip(&mut controls)
            .map(|(part, control)| MMsgHdr::new(part, control))
            .collect();
        Ok(sendmmsg(&self.0, &mut messages, SendFlags::empty())?)
    }

    /// Sends a datagram without content.
    ///
    /// # Errors
    /// As above.
    pub(super) fn probe(&self) -> io::Result<()> {
        self.0.send(&[]).map(drop)
    }

    /// What was answered to datagrams since the last look; EMSGSIZE: one was too large for the way. A send tells that,
    /// too, in its own place; but a system call that has sent some of its datagrams keeps the error of the next one to
    /// itself.
    pub(super) fn answers(&self) -> Vec<io::Error> {
        // Of what the kernel itself has refused the sends tell.
        let told = std::iter::from_fn(|| self.next_told());
        let answers = told.filter(|told| told.is_answer);
        answers.map(|told| told.error).collect()
    }

    /// Waits until something was answered, which stays to be told.
    #[cfg(test)]
    pub(super) fn wait_for_word(&self) {
        use rustix::event::{PollFd, PollFlags, poll};
        let patience = rustix::time::Timespec {
            tv_sec: 60,
            tv_nsec: 0,
        };
        let mut ends = [PollFd::new(&self.0, PollFlags::empty())];
        poll(&mut ends, Some(&patience)).unwrap();
        assert!(ends[0].revents().contains(PollFlags::ERR), "no answer");
    }

    /// The next one in the queue of errors (ip(7), `IP_RECVERR`).
    fn next_told(&self) -> Option<Told> {
        /// What comes here is one message: its header, a `sock_extended_err`, and who has answered.
        #[repr(align(8))]
        struct Control([u8; 256]);
        let mut control = Control([0; 256]);
        let mut nothing = [0_u8; 1];
        let mut part = libc::iovec {
            iov_base: nothing.as_mut_ptr().cast(),
            iov_len: nothing.len(),
        };
        // SAFETY: all zeros is a valid msghdr.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        // SAFETY: the descriptor is the socket's; the message's parts have these lengths and live through the call.
        let result = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, flags) };
        if result < 0 {
            return None;
        }
        let start = size_of::<libc::cmsghdr>();
        let told = control.0.get(start..message.msg_controllen)?;
        let number = i32::from_ne_bytes(*told.first_chunk()?);
        Some(Told {
            error: io::Error::from_raw_os_error(number),
            is_answer: told.get(4).is_some_and(|origin| {
                [libc::SO_EE_ORIGIN_ICMP, libc::SO_EE_ORIGIN_ICMP6].contains(origin)
            }),
        })
    }
}

/// What a socket's queue of errors has.
struct Told {
    error: io::Error,
    /// It came from elsewhere.
    is_answer: bool,
}

/// Without this the kernel keeps to itself what may pass again: that nobody on the network has the address, that a
/// router knows no way (ip(7), udp(7)).
fn hear_of_soft_errors(socket: &UdpSocket, address: SocketAddr) -> io::Result<()> {
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    #[allow(clippy::cast_possible_truncation, reason = "an int has 4 bytes")]
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is the socket's, and the pointer is to `length` bytes that live through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            ptr::from_ref(&on).cast(),
            length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
