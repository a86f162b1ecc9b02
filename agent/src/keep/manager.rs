//! Talks to the service manager over the socket that `NOTIFY_SOCKET` names (sd_notify(3)).
//!
//! Whether it keeps descriptors, and how many, says `FDSTORE` (systemd.service(5), from systemd 254; with
//! an older one the unit sets it). There is no answer: what a manager doesn't take although it said it
//! would is lost at the next restart, as without one.

use std::cell::Cell;
use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, sendmsg_addr, socket_with,
};

/// Longest FDNAME that systemd takes.
const MAX_NAME: usize = 255;
/// Most descriptors that are kept by one name.
const MOST_AT_ONCE: usize = 3;

/// A service manager that listens.
#[derive(Clone, Debug)]
pub struct Manager {
    socket: Arc<OwnedFd>,
    address: SocketAddrUnix,
    /// Descriptors that it still has room for.
    room: Cell<usize>,
    keeps: bool,
}

impl Manager {
    /// The one that has started this process; `None`: none that wants to hear.
    pub fn from_environment() -> Option<Self> {
        Self::read(|name| std::env::var_os(name))
    }

    fn read(variable: impl Fn(&str) -> Option<OsString>) -> Option<Self> {
        let path = variable("NOTIFY_SOCKET")?;
        let address = match path.as_bytes() {
            [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
            path @ [b'/', ..] => SocketAddrUnix::new(path),
            // vsock: a virtual machine's.
            _ => return None,
        };
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).ok()?;
        let address = address.ok()?;
        // Now, since the agent may not be who could a little later. Who doesn't listen yet is found by the address.
        let _ = connect(&socket, &address);
        let room = variable("FDSTORE").and_then(|count| count.to_str()?.parse().ok());
        let room = room.unwrap_or(0);
        Some(Self {
            socket: Arc::new(socket),
            address,
            room: Cell::new(room),
            keeps: room > 0,
        })
    }

    /// Whether it keeps descriptors for the next agent.
    pub fn keeps(&self) -> bool {
        self.keeps
    }

    /// The agent serves.
    pub fn ready(&self) {
        // Nothing that the agent could do about it.
        let _ = self.send("READY=1", &[], SendFlags::empty());
    }

    /// The agent ends.
    pub fn stopping(&self) {
        let _ = self.send("STOPPING=1", &[], SendFlags::DONTWAIT);
    }

    /// Some of its room is taken by what it has given back.
    pub fn took_back(&self, count: usize) {
        self.room.set(self.room.get().saturating_sub(count));
    }

    /// Hands over descriptors to be kept by `name`. Never waits.
    ///
    /// # Errors
    /// It has no room, or doesn't listen.
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let room = self.room.get().checked_sub(descriptors.len());
        let room = room.ok_or(io::ErrorKind::StorageFull)?;
        if !is_name(name) || descriptors.len() > MOST_AT_ONCE {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // It shall not give up a pidfd because its process is gone: text may be left in the ring.
        let words = format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0");
        self.send(&words, descriptors, SendFlags::DONTWAIT)?;
        self.room.set(room);
        Ok(())
    }

    /// What was kept by `name`, `count` descriptors, isn't to be kept any more.
    pub fn remove(&self, name: &str, count: usize) {
        if !is_name(name) {
            return;
        }
        let words = format!("FDSTOREREMOVE=1\nFDNAME={name}");
        // Where this fails the next agent finds out.
        if self.send(&words, &[], SendFlags::DONTWAIT).is_ok() {
            self.room.set(self.room.get().saturating_add(count));
        }
    }

    fn send(
        &self,
        words: &str,
        descriptors: &[BorrowedFd<'_>],
        flags: SendFlags,
    ) -> io::Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_AT_ONCE))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let words = [IoSlice::new(words.as_bytes())];
        let flags = flags | SendFlags::NOSIGNAL;
        match sendmsg(&self.socket, &words, &mut control, flags) {
            Err(Errno::NOTCONN | Errno::DESTADDRREQ | Errno::CONNREFUSED | Errno::CONNRESET) => {
                sendmsg_addr(&self.socket, &self.address, &words, &mut control, flags)?;
            }
            result => {
                result?;
            }
        }
        Ok(())
    }
}

/// Printable ASCII without the colon, as FDNAME must be (sd_notify(3)).
fn is_name(name: &str) -> bool {
    let good = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b':';
    (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixDatagram;

    fn manager(socket: &str, room: &str) -> Option<Manager> {
        Manager::read(|name| match name {
            "NOTIFY_SOCKET" => Some(socket.into()),
            "FDSTORE" => Some(room.into()),
            _ => None,
        })
    }

    #[test]
    fn says_what_the_protocol_has() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.to_str().unwrap(), "2").unwrap();
        assert!(manager.keeps());
        let heard = || {
            let mut bytes = [0; 200];
            let length = listener.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..length]).into_owned()
        };
        manager.ready();
        assert_eq!(heard(), "READY=1");
        let file = std::fs::File::open("/dev/null").unwrap();
        let two = [file.as_fd(), file.as_fd()];
        manager.store("ring-1", &two).unwrap();
        assert_eq!(heard(), "FDSTORE=1\nFDNAME=ring-1\nFDPOLL=0");
        assert!(manager.store("ring-2", &two[..1]).is_err(), "no room");
        manager.remove("ring-1", 2);
        assert_eq!(heard(), "FDSTOREREMOVE=1\nFDNAME=ring-1");
        assert!(manager.store("a:b", &two).is_err());
        manager.store("ring-2", &two).unwrap();
    }

    #[test]
    fn none_where_nobody_wants_to_hear() {
        assert!(Manager::read(|_| None).is_none());
        assert!(manager("vsock:2:1", "2").is_none());
        assert!(!manager("@somewhere", "0").unwrap().keeps());
        assert!(!manager("@somewhere", "").unwrap().keeps());
    }
}
