#![allow(
    unsafe_code,
    reason = "socket options whose length the kernel decides have no safe form"
)]
//! What a socket tells of a connection: addresses, cookies, and how much was sent before TLS.
//! Asked at OPEN and UPDATE only, when the descriptor is surely the connection's own.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::{getpeername, getsockname};

use crate::guard::errno;
use crate::tcp::TcpInfo;

/// What a socket tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SocketFacts {
    /// Local and peer address; IPv4-mapped ones as IPv4 (RFC 4291 2.5.5.2).
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    /// SO_COOKIE and SO_NETNS_COOKIE (0 before Linux 5.14).
    pub(crate) cookies: Option<(u64, u64)>,
    /// Clear bytes that this side sent before TLS began.
    pub(crate) clear_prefix_sent: Option<u64>,
}

impl SocketFacts {
    /// Asks `socket`, of which the TLS library says that it wrote `wire_written` bytes to it.
    pub(crate) fn ask(socket: BorrowedFd<'_>, wire_written: Option<u64>) -> Self {
        let Some(addresses) = addresses(socket) else {
            return Self::default();
        };
        Self {
            addresses: Some(addresses),
            cookies: cookie(socket, libc::SO_COOKIE).map(|own| {
                let netns = cookie(socket, libc::SO_NETNS_COOKIE);
                (own, netns.unwrap_or(0))
            }),
            clear_prefix_sent: wire_written
                .and_then(|tls| tcp_info(socket)?.put_in.checked_sub(tls)),
        }
    }
}

/// Whether these are descriptors of one socket: duplicates have its cookie. Before Linux 4.12, which has none, by the
/// addresses.
pub(crate) fn is_one(write: BorrowedFd<'_>, read: BorrowedFd<'_>) -> bool {
    let cookies = [write, read].map(|socket| cookie(socket, libc::SO_COOKIE));
    match cookies {
        [None, None] => addresses(write).is_some_and(|ends| Some(ends) == addresses(read)),
        [write, read] => write == read,
    }
}

/// Local and peer address; IPv4-mapped ones as IPv4.
pub(crate) fn addresses(socket: BorrowedFd<'_>) -> Option<(SocketAddr, SocketAddr)> {
    let local = SocketAddr::try_from(getsockname(socket).ok()?).ok()?;
    let peer = SocketAddr::try_from(getpeername(socket).ok()??).ok()?;
    Some((canonical(local), canonical(peer)))
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// SO_COOKIE or SO_NETNS_COOKIE.
pub(crate) fn cookie(socket: BorrowedFd<'_>, name: i32) -> Option<u64> {
    let mut value = [0; 8];
    (option(socket, libc::SOL_SOCKET, name, &mut value)? == 8).then(|| u64::from_ne_bytes(value))
}

/// What the kernel counts of a TCP connection.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut info = [0; TcpInfo::BYTES];
    let length = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    TcpInfo::parse(info.get(..length)?)
}

/// A socket option of SOL_SOCKET that is an int, which isn't negative.
///
/// # Errors
/// The kernel's: EBADF, ENOTSOCK, or whatever keeps it from answering.
pub(crate) fn number(socket: BorrowedFd<'_>, name: i32) -> Result<u32, Errno> {
    let mut value = [0; 4];
    match ask(socket, libc::SOL_SOCKET, name, &mut value)? {
        4 => Ok(u32::from_ne_bytes(value)),
        _ => Err(Errno::INVAL),
    }
}

/// getsockopt(2); how many bytes of `out` the kernel filled.
pub(crate) fn option(
    socket: BorrowedFd<'_>,
    level: i32,
    name: i32,
    out: &mut [u8],
) -> Option<usize> {
    ask(socket, level, name, out).ok()
}

fn ask(socket: BorrowedFd<'_>, level: i32, name: i32, out: &mut [u8]) -> Result<usize, Errno> {
    let mut length = libc::socklen_t::try_from(out.len()).map_err(|_| Errno::INVAL)?;
    // SAFETY: `out` is writable for `length` bytes, which the kernel doesn't exceed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            name,
            out.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    match result {
        0 => usize::try_from(length).map_err(|_| Errno::INVAL),
        _ => Err(Errno::from_raw_os_error(errno())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    #[test]
    fn a_connected_socket_tells_addresses_cookies_and_prefix() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (server, peer) = listener.accept().unwrap();
        client.write_all(b"STARTTLS\r\n and then TLS").unwrap();
        let facts = SocketFacts::ask(client.as_fd(), Some(13));
        assert_eq!(
            facts.addresses,
            Some((peer, listener.local_addr().unwrap()))
        );
        assert_eq!(facts.clear_prefix_sent, Some(10));
        assert_ne!(facts.cookies.unwrap().0, 0);
        // More than was ever written: nothing is known.
        let facts = SocketFacts::ask(client.as_fd(), Some(1000));
        assert_eq!(facts.clear_prefix_sent, None);
        let facts = SocketFacts::ask(server.as_fd(), Some(0));
        assert_eq!(facts.clear_prefix_sent, Some(0));
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (server, _) = listener.accept().unwrap();
        let facts = SocketFacts::ask(server.as_fd(), None);
        assert_eq!(
            facts.addresses,
            Some((client.peer_addr().unwrap(), client.local_addr().unwrap()))
        );
    }

    #[test]
    fn descriptors_of_one_socket_are_one() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (one, other) = (connect(), connect());
        let again = one.try_clone().unwrap();
        assert!(is_one(one.as_fd(), again.as_fd()));
        assert!(!is_one(one.as_fd(), other.as_fd()));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_one(one.as_fd(), file.as_fd()));
        assert!(!is_one(file.as_fd(), file.as_fd()));
    }

    #[test]
    fn what_is_no_internet_socket_tells_nothing() {
        let (unix, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert_eq!(
            SocketFacts::ask(unix.as_fd(), Some(0)),
            SocketFacts::default()
        );
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(
            SocketFacts::ask(file.as_fd(), Some(0)),
            SocketFacts::default()
        );
    }
}
