//! What is asked of a process that may be another user's, or in another network namespace: by the privileged helper,
//! or by an agent that may do so itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::helper::take_right_to_enter;

/// Descriptors of a process that are looked at: about a microsecond each.
const MOST_DESCRIPTORS: usize = 1024;

/// A socket that asks in the network namespace of this process.
pub(crate) fn open_in(pid: u32) -> io::Result<OwnedFd> {
    let open = || {
        let namespace = File::open(format!("/proc/{pid}/ns/net"))?;
        let kind = Some(LinkNameSpaceType::Network);
        take_right_to_enter();
        move_into_link_name_space(namespace.as_fd(), kind)?;
        open_here()
    };
    // A thread that has been elsewhere is of no use any more.
    let thread = std::thread::Builder::new().name("elsewhere".to_owned());
    std::thread::scope(|scope| {
        let opened = thread.spawn_scoped(scope, open)?.join();
        opened.unwrap_or_else(|_| Err(io::Error::other("a panic")))
    })
}

/// The same in that of this thread. No privilege is needed. Nobody but the kernel sends anything to it: it is connected.
pub(crate) fn open_here() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = Some(netlink::SOCK_DIAG);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    connect(&socket, &SocketAddrNetlink::new(0, 0))?;
    Ok(socket)
}

/// Whether this process has a descriptor of the socket with this inode; `None`: can't be seen, or there are too many.
pub(crate) fn holds(pid: u32, inode: u64) -> Option<bool> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let wanted = format!("socket:[{inode}]");
    let (mut seen, mut unseen) = (0, false);
    for entry in descriptors {
        seen += 1;
        if seen > MOST_DESCRIPTORS {
            return None;
        }
        match entry.and_then(|entry| fs::read_link(entry.path())) {
            Ok(name) if name.as_os_str() == wanted.as_str() => return Some(true),
            Ok(_) => {}
            // Closed in the meantime.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(_) => unseen = true,
        }
    }
    (!unseen).then_some(false)
}
