//! The socket at which processes hand in their rings.
//!
//! A process connects, sends one message with one descriptor, and closes; it gets no answer. Nothing
//! here waits: who connects and says nothing stays in a short list, from which the oldest is dropped.

use std::collections::VecDeque;
use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, getsockname, listen,
    recvmsg, socket_with, sockopt,
};

use mirror_hook::attach::AttachMessage;

use crate::helper::Helper;
use crate::keep::{Inherited, Manager};

/// Connections that the kernel queues; beyond it a hook gets EAGAIN at once.
const BACKLOG: i32 = 128;
/// Accepted in one go.
const ACCEPT_AT_ONCE: usize = 256;
/// Descriptors that are received, so that more than one is noticed; the kernel closes the others.
const DESCRIPTORS: usize = 4;

/// The agent can't listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent listens there.
    #[error("an agent is already listening at {}", .0.display())]
    InUse(PathBuf),
    /// Something else stands at the path.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// Anybody could put a socket of their own in the place of ours.
    #[error("{} must be a directory of root or of this user that others can't write to", .0.display())]
    UnsafeDirectory(PathBuf),
    /// The system refused.
    #[error("cannot listen at {}: {cause}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// Where and for whom to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenConfig {
    /// Path of the socket.
    pub path: PathBuf,
    /// Its permissions: 0o600 for processes of this user, 0o666 for all.
    pub mode: u32,
    /// An abstract name besides (unix(7)), for processes in whose root the path is missing.
    pub abstract_name: Option<Vec<u8>>,
    /// Connections that may have said nothing yet.
    pub max_pending: usize,
}

/// A message as it was received.
#[derive(Debug)]
pub(super) struct Arrival {
    /// The connection, for its peer's credentials.
    pub(super) socket: OwnedFd,
    pub(super) message: Vec<u8>,
    /// The descriptor, if there was exactly one.
    pub(super) memfd: Option<OwnedFd>,
}

/// What a silent connection has to say.
enum Received {
    Nothing,
    Message(Vec<u8>, Option<OwnedFd>),
    /// It is closed or broken.
    End,
}

/// Listens; nothing is read before there is an [`Intake`](super::Intake).
#[derive(Debug)]
pub struct Listener {
    sockets: Vec<OwnedFd>,
    path: PathBuf,
    /// Device and inode of our socket file: what else may stand at the path later isn't ours.
    file: Option<(u64, u64)>,
    pending: VecDeque<OwnedFd>,
    max_pending: usize,
    pub(super) pending_dropped: u64,
    /// The service manager has the sockets: the next agent listens at them.
    kept: bool,
    /// Which of the sockets came from there.
    from_manager: [bool; 2],
    /// Removes the socket file where this process may not.
    helper: Option<Helper>,
}

/// The name by which the service manager keeps the socket with the abstract name.
const ABSTRACT: &str = "socket-abstract";

impl Listener {
    /// Begins to listen, at the sockets among `kept` that are the right ones, else at new ones. The
    /// right ones are taken out of `kept`. Programs trust the user who calls this, whoever reads later.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub fn new(config: &ListenConfig, kept: &mut Vec<Inherited>) -> Result<Self, ListenError> {
        let failed = |cause: io::Error| ListenError::Io {
            path: config.path.clone(),
            cause,
        };
        check_directory(&config.path)?;
        let address = SocketAddrUnix::new(&config.path).map_err(|error| failed(error.into()))?;
        let (first, from_manager) =
            match take_kept(kept, file_name(&config.path).as_deref(), &address) {
                Some(first) => (first, true),
                None => (Self::bound(config, &address)?, false),
            };
        let file = fs::symlink_metadata(&config.path).map_err(failed)?;
        let mut listener = Self {
            sockets: Vec::new(),
            path: config.path.clone(),
            file: Some((file.dev(), file.ino())),
            pending: VecDeque::new(),
            max_pending: config.max_pending.max(1),
            pending_dropped: 0,
            kept: false,
            from_manager: [from_manager, false],
            helper: None,
        };
        listen(&first, BACKLOG).map_err(|error| failed(error.into()))?;
        let permissions = fs::Permissions::from_mode(config.mode);
        fs::set_permissions(&config.path, permissions).map_err(failed)?;
        listener.sockets.push(first);
        if let Some(name) = &config.abstract_name {
            let shown = || PathBuf::from(format!("@{}", name.escape_ascii()));
            let failed = |cause: io::Error| ListenError::Io {
                path: shown(),
                cause,
            };
            let address =
                SocketAddrUnix::new_abstract_name(name).map_err(|error| failed(error.into()))?;
            if let Some(second) = take_kept(kept, Some(ABSTRACT), &address) {
                listener.sockets.push(second);
                listener.from_manager[1] = true;
                return Ok(listener);
            }
            let second = seqpacket().map_err(failed)?;
            match bind(&second, &address) {
                Err(Errno::ADDRINUSE) => return Err(ListenError::InUse(shown())),
                result => result.map_err(|error| failed(error.into()))?,
            }
            listen(&second, BACKLOG).map_err(|error| failed(error.into()))?;
            listener.sockets.push(second);
        }
        Ok(listener)
    }

    /// A new socket at the path, which only this user may use yet.
    fn bound(config: &ListenConfig, address: &SocketAddrUnix) -> Result<OwnedFd, ListenError> {
        let failed = |cause: io::Error| ListenError::Io {
            path: config.path.clone(),
            cause,
        };
        remove_stale(&config.path)?;
        // Nobody may connect before the permissions are as wanted: the socket file is made private.
        let first = seqpacket().map_err(failed)?;
        rustix::fs::fchmod(&first, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(|error| failed(error.into()))?;
        match bind(&first, address) {
            Err(Errno::ADDRINUSE) => Err(ListenError::InUse(config.path.clone())),
            result => result.map_err(|error| failed(error.into())).map(|()| first),
        }
    }

    /// How many of the sockets the service manager gave back.
    pub(super) fn came_from_manager(&self) -> usize {
        self.from_manager.iter().filter(|came| **came).count()
    }

    /// In the end the helper removes the socket file.
    pub(super) fn remove_by(&mut self, helper: Helper) {
        self.helper = Some(helper);
    }

    /// From now on the service manager has the sockets.
    pub(super) fn keep(&mut self, manager: &Manager) {
        let names = [file_name(&self.path), Some(ABSTRACT.to_owned())];
        for ((socket, name), from_manager) in self.sockets.iter().zip(names).zip(self.from_manager)
        {
            if !from_manager {
                // Without it the next agent binds a socket of its own.
                let _ = manager.store(&name.unwrap_or_default(), &[socket.as_fd()]);
            }
        }
        self.kept = true;
    }

    /// The sockets, to be watched for readability.
    pub(super) fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().map(AsFd::as_fd)
    }

    /// Takes what has arrived. `watch` is told of each connection that hasn't said anything yet. True:
    /// there may be more.
    pub(super) fn accept(
        &mut self,
        mut watch: impl FnMut(BorrowedFd<'_>),
        mut arrived: impl FnMut(Arrival),
    ) -> bool {
        let mut more = false;
        for listening in &self.sockets {
            let mut left = ACCEPT_AT_ONCE;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            while left > 0 {
                match accept_with(listening, flags) {
                    Ok(socket) => self.pending.push_back(socket),
                    Err(Errno::INTR | Errno::CONNABORTED) => {}
                    // EMFILE: the silent ones make room below.
                    Err(_) => break,
                }
                left -= 1;
            }
            more |= left == 0;
        }
        for _ in 0..self.pending.len() {
            let Some(socket) = self.pending.pop_front() else {
                break;
            };
            match receive(&socket) {
                Received::Nothing => {
                    watch(socket.as_fd());
                    self.pending.push_back(socket);
                }
                Received::Message(message, memfd) => arrived(Arrival {
                    socket,
                    message,
                    memfd,
                }),
                Received::End => {}
            }
        }
        while self.pending.len() > self.max_pending {
            self.pending.pop_front();
            self.pending_dropped += 1;
        }
        more
    }
}

impl Drop for Listener {
    /// Removes the socket file if it is still ours.
    fn drop(&mut self) {
        let Some((device, inode)) = self.file.filter(|_| !self.kept) else {
            return;
        };
        if let Some(helper) = &self.helper {
            // It looks for itself: this process may not even be able to.
            helper.remove_socket(device, inode);
            return;
        }
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|file| (file.dev(), file.ino()) == (device, inode)) {
            // A file that stays is found to be stale by the next agent.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The name by which the service manager keeps the socket of the file at `path`: of this file, and not of
/// another one that somebody puts there.
fn file_name(path: &Path) -> Option<String> {
    let file = fs::symlink_metadata(path).ok()?;
    Some(format!("socket-{:x}-{:x}", file.dev(), file.ino()))
}

/// Takes the socket of this name, if it listens at this address.
fn take_kept(
    kept: &mut Vec<Inherited>,
    name: Option<&str>,
    address: &SocketAddrUnix,
) -> Option<OwnedFd> {
    let index = kept.iter().position(|one| Some(&*one.name) == name)?;
    let fd = &kept[index].fd;
    let bound = getsockname(fd).ok()?;
    let good = sockopt::socket_type(fd) == Ok(SocketType::SEQPACKET)
        && sockopt::socket_acceptconn(fd) == Ok(true)
        && SocketAddrUnix::try_from(bound).is_ok_and(|bound| bound == *address)
        && rustix::io::ioctl_fionbio(fd, true).is_ok();
    good.then(|| kept.swap_remove(index).fd)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        flags,
        None,
    )?)
}

/// The directory must belong to root or to us, and nobody else may replace files in it.
fn check_directory(path: &Path) -> Result<(), ListenError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let found = fs::metadata(directory).map_err(|cause| ListenError::Io {
        path: path.to_owned(),
        cause,
    })?;
    let own = found.uid() == 0 || found.uid() == rustix::process::geteuid().as_raw();
    let open = found.mode() & 0o022 != 0;
    let sticky = found.mode() & 0o1000 != 0;
    if !found.is_dir() || !own || (open && !sticky) {
        return Err(ListenError::UnsafeDirectory(directory.to_owned()));
    }
    Ok(())
}

/// Removes the socket of an agent that is no more.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let failed = |cause: io::Error| ListenError::Io {
        path: path.to_owned(),
        cause,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let address = SocketAddrUnix::new(path).map_err(|error| failed(error.into()))?;
    match connect(seqpacket().map_err(failed)?, &address) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // EAGAIN: its backlog is full. EPROTOTYPE: somebody else's server.
        _ => Err(ListenError::InUse(path.to_owned())),
    }
}

fn receive(socket: &OwnedFd) -> Received {
    let mut message = [0; AttachMessage::BYTES + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut message)];
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = match recvmsg(socket, &mut parts, &mut control, flags) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Received::Nothing,
        Err(_) => return Received::End,
    };
    // What isn't kept here is closed.
    let mut descriptors: Vec<OwnedFd> = control
        .drain()
        .filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    if received.bytes == 0 {
        return Received::End;
    }
    let whole = !received.flags.contains(ReturnFlags::CTRUNC) && descriptors.len() == 1;
    let memfd = descriptors.pop().filter(|_| whole);
    let bytes = message.get(..received.bytes).unwrap_or(&[]).to_vec();
    Received::Message(bytes, memfd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::IoSlice;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let name = format!("sslcollector-{name}-{}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            Self(path)
        }

        fn config(&self) -> ListenConfig {
            ListenConfig {
                path: self.0.join("agent.sock"),
                mode: 0o600,
                abstract_name: None,
                max_pending: 2,
            }
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn connected(path: &Path) -> OwnedFd {
        let socket = seqpacket().unwrap();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        socket
    }

    fn send(socket: &OwnedFd, bytes: &[u8], count: usize) {
        let file = fs::File::open("/dev/null").unwrap();
        let files = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if count > 0 {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        sendmsg(
            socket,
            &[IoSlice::new(bytes)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
    }

    fn arrivals(listener: &mut Listener) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        listener.accept(|_| {}, |arrival| arrivals.push(arrival));
        arrivals
    }

    #[test]
    fn one_message_with_one_descriptor() {
        let directory = Directory::new("one");
        let config = directory.config();
        let mut listener = Listener::new(&config, &mut Vec::new()).unwrap();
        let mode = fs::metadata(&config.path).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
        for (count, kept) in [(0, false), (1, true), (2, false), (7, false)] {
            let client = connected(&config.path);
            send(&client, b"hello", count);
            drop(client); // what was sent is still read
            let arrivals = arrivals(&mut listener);
            assert_eq!(arrivals.len(), 1);
            assert_eq!(arrivals[0].message, b"hello");
            assert_eq!(arrivals[0].memfd.is_some(), kept, "{count} descriptors");
        }
    }

    #[test]
    fn silent_ones_hold_nobody_up() {
        let directory = Directory::new("silent");
        let config = directory.config();
        let mut listener = Listener::new(&config, &mut Vec::new()).unwrap();
        let silent: Vec<_> = (0..5).map(|_| connected(&config.path)).collect();
        assert!(arrivals(&mut listener).is_empty());
        assert_eq!(listener.pending_dropped, 3);
        let client = connected(&config.path);
        send(&client, b"hello", 1);
        assert_eq!(arrivals(&mut listener).len(), 1);
        send(&silent[4], b"late", 1);
        assert_eq!(arrivals(&mut listener)[0].message, b"late");
    }

    #[test]
    fn a_stale_socket_is_replaced_a_live_one_is_not() {
        let directory = Directory::new("stale");
        let config = directory.config();
        let mut first = Listener::new(&config, &mut Vec::new()).unwrap();
        let second = Listener::new(&config, &mut Vec::new());
        assert!(matches!(second, Err(ListenError::InUse(_))));
        first.file = None; // as if it had been killed
        drop(first);
        assert!(config.path.exists());
        drop(Listener::new(&config, &mut Vec::new()).unwrap());
        assert!(!config.path.exists());
        fs::write(&config.path, "precious").unwrap();
        let third = Listener::new(&config, &mut Vec::new());
        assert!(matches!(third, Err(ListenError::NotASocket(_))));
        assert_eq!(fs::read(&config.path).unwrap(), b"precious");
    }

    #[test]
    fn a_directory_that_others_can_write_to_is_refused() {
        let directory = Directory::new("open");
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o777)).unwrap();
        let refused = Listener::new(&directory.config(), &mut Vec::new());
        assert!(matches!(refused, Err(ListenError::UnsafeDirectory(_))));
        fs::set_permissions(&directory.0, fs::Permissions::from_mode(0o1777)).unwrap();
        Listener::new(&directory.config(), &mut Vec::new()).unwrap();
    }

    #[test]
    fn the_abstract_name_reaches_it_too() {
        let directory = Directory::new("abstract");
        let mut config = directory.config();
        let name = format!("sslcollector-test-{}", std::process::id());
        config.abstract_name = Some(name.clone().into_bytes());
        let mut listener = Listener::new(&config, &mut Vec::new()).unwrap();
        let client = seqpacket().unwrap();
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes()).unwrap();
        connect(&client, &address).unwrap();
        send(&client, b"hello", 1);
        assert_eq!(arrivals(&mut listener).len(), 1);
    }
}
