#![allow(
    unsafe_code,
    reason = "socket options that no crate has a safe name for"
)]
//! Who is at the other end of the socket.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use mirror_hook::attach::NAME_BYTES;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::seen::{Seen, text};
use crate::event::ProcessInfo;

/// SO_PEERPIDFD (Linux 6.5, asm-generic/socket.h).
const SO_PEERPIDFD: libc::c_int = 77;

/// SO_NETNS_COOKIE (Linux 5.14, asm-generic/socket.h).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// Parents to look at: processes may be made faster than they can be followed.
const MAX_ANCESTORS: usize = 256;

/// Descendants to look at.
const MAX_DESCENDANTS: usize = 1024;

/// A process that has connected.
#[derive(Debug)]
pub(crate) struct Peer {
    /// In the agent's pid namespace; 0: it can't be seen from there.
    pub(crate) pid: u32,
    pub(crate) uid: u32,
}

/// How the end of a process is noticed.
#[derive(Debug)]
pub(crate) enum Watch {
    /// Readable once the process is gone.
    Pidfd(OwnedFd),
    /// It is gone already.
    Gone,
}

impl Peer {
    /// As the kernel noted it when the process connected.
    pub(crate) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut credentials = libc::ucred {
            pid: 0,
            uid: u32::MAX,
            gid: u32::MAX,
        };
        option(socket, libc::SO_PEERCRED, &mut credentials)?;
        Ok(Self {
            pid: u32::try_from(credentials.pid).unwrap_or(0),
            uid: credentials.uid,
        })
    }

    /// A descriptor of the process: the one that connected if the kernel can tell, else the one that
    /// has its pid now.
    pub(crate) fn watch(&self, socket: BorrowedFd<'_>) -> io::Result<Watch> {
        let mut number: libc::c_int = -1;
        match option(socket, SO_PEERPIDFD, &mut number) {
            Ok(()) if number >= 0 => {
                // SAFETY: the kernel has just made this descriptor for this call; nobody else has it.
                return Ok(Watch::Pidfd(unsafe { OwnedFd::from_raw_fd(number) }));
            }
            // No such process, or (before 6.15) none that isn't reaped yet.
            Err(error) if is_gone(&error) => return Ok(Watch::Gone),
            Ok(()) | Err(_) => {}
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        match pidfd_open(pid.ok_or(io::ErrorKind::NotFound)?, PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Watch::Pidfd(pidfd)),
            Err(Errno::SRCH) => Ok(Watch::Gone),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether `ancestor` is among its parents. A process that is gone descends from nobody.
    pub(super) fn descends_from(&self, ancestor: u32) -> bool {
        let parents = std::iter::successors(Some(self.pid), |pid| parent_of(*pid));
        parents.take(MAX_ANCESTORS).any(|pid| pid == ancestor)
    }

    /// Whether it is gone, so that nobody can tell whose child it was, while another process of its user descends from
    /// `ancestor`. These two could have looked into each other anyway.
    pub(super) fn left_kin_below(&self, ancestor: u32) -> bool {
        let is_gone = self.pid != 0 && !Path::new("/proc").join(self.pid.to_string()).exists();
        is_gone && descendants(ancestor).any(|pid| user_of(pid) == Some(self.uid))
    }

    /// What people know the process by. `told`: what it says that it was called as it started, for when it
    /// is gone already.
    pub(super) fn info(&self, seen: &Seen, told: &[u8; NAME_BYTES]) -> ProcessInfo {
        let known = |bytes: &Option<Vec<u8>>| bytes.as_deref().map(text);
        ProcessInfo {
            pid: self.pid,
            uid: self.uid,
            name: seen.name().unwrap_or_else(|| told_name(told)),
            executable: known(&seen.executable),
            cgroup: known(&seen.cgroup),
            network_namespace: seen.network_namespace,
            network_name: known(&seen.network_name),
        }
    }
}

/// The parent's pid: the second field behind the command's closing parenthesis, proc_pid_stat(5).
fn parent_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let behind = stat.rsplit(|byte| *byte == b')').next()?;
    let parent = behind.split(|byte| *byte == b' ').nth(2)?;
    std::str::from_utf8(parent)
        .ok()?
        .parse()
        .ok()
        .filter(|parent| *parent != 0)
}

/// Those whom this process and its children have started, as far as they are found.
fn descendants(ancestor: u32) -> impl Iterator<Item = u32> {
    let mut known = vec![ancestor];
    let mut at = 0;
    std::iter::from_fn(move || {
        let begun = *known.get(at)?;
        if known.len() < MAX_DESCENDANTS {
            known.extend(children_of(begun));
        }
        at += 1;
        Some(begun)
    })
    .skip(1)
}

/// Each thread has its own, proc_pid_task(5).
fn children_of(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let texts = threads.filter_map(|it| std::fs::read_to_string(it.path().join("children")).ok());
    let numbers = |text: String| -> Vec<u32> {
        let words = text.split_ascii_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    texts.flat_map(numbers).collect()
}

/// The effective user, proc_pid_status(5).
fn user_of(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let users = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    users.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Any bytes may stand there: whoever shows them escapes them.
fn told_name(told: &[u8; NAME_BYTES]) -> String {
    let name = told.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).into_owned()
}

/// What names a socket's network namespace for as long as the kernel runs.
pub(crate) fn network_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0;
    option(socket, SO_NETNS_COOKIE, &mut cookie)?;
    Ok(cookie)
}

/// Whose pidfd it is, as the kernel tells: -1 if that process is gone, 0 if it can't be seen from here.
/// `None`: it isn't a pidfd.
pub(crate) fn pid_of(pidfd: BorrowedFd<'_>) -> Option<i32> {
    let about = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let line = about.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    line.trim().parse().ok()
}

/// Whether the process of a pidfd has ended.
pub(crate) fn is_over(pidfd: BorrowedFd<'_>) -> bool {
    let mut set = [PollFd::new(&pidfd, PollFlags::IN)];
    poll(&mut set, Some(&Timespec::default())) != Ok(0)
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EINVAL))
}

/// Reads a socket option of level SOL_SOCKET.
fn option<T: Plain>(socket: BorrowedFd<'_>, name: libc::c_int, out: &mut T) -> io::Result<()> {
    let mut length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: `out` is valid for `length` bytes, and every value of it is a valid `T` (see `Plain`);
    // the descriptor is open as long as `socket` is borrowed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_mut(out).cast(),
            &raw mut length,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Any bytes are a value of it.
trait Plain {}
impl Plain for libc::c_int {}
impl Plain for u64 {}
impl Plain for libc::ucred {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    #[test]
    fn descent() {
        let child = std::process::Command::new("sleep").arg("60").spawn();
        let mut child = child.unwrap();
        let peer = |pid| Peer { pid, uid: 0 };
        assert!(peer(child.id()).descends_from(std::process::id()));
        assert!(peer(std::process::id()).descends_from(1));
        assert!(!peer(std::process::id()).descends_from(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!peer(child.id()).descends_from(1));
    }

    #[test]
    fn who_is_gone_is_known_by_its_user() {
        let start = |time| std::process::Command::new("sleep").arg(time).spawn();
        let (mut gone, mut kin) = (start("0").unwrap(), start("60").unwrap());
        gone.wait().unwrap();
        let (uid, me) = (rustix::process::geteuid().as_raw(), std::process::id());
        let peer = |pid, uid| Peer { pid, uid };
        assert!(peer(gone.id(), uid).left_kin_below(me));
        assert!(!peer(gone.id(), uid + 1).left_kin_below(me));
        assert!(!peer(gone.id(), uid).left_kin_below(kin.id()));
        // Of these it can be asked.
        assert!(!peer(1, uid).left_kin_below(me));
        assert!(!peer(kin.id(), uid).left_kin_below(me));
        assert!(!peer(0, uid).left_kin_below(me));
        kin.kill().unwrap();
        kin.wait().unwrap();
    }

    #[test]
    fn this_process_knows_itself() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let peer = Peer::of(ours.as_fd()).unwrap();
        assert_eq!(peer.pid, std::process::id());
        let name = std::env::current_exe().unwrap();
        let name = name.file_name().unwrap().to_string_lossy().into_owned();
        let told = b"told\0\0\0\0\0\0\0\0\0\0\0\0";
        let seen = Seen::of(peer.pid);
        assert_eq!(peer.info(&seen, told).name, name);
        // One that can't be looked at.
        let peer_of_nobody = Peer { pid: 0, uid: 0 };
        let seen = Seen::of(0);
        assert_eq!(peer_of_nobody.info(&seen, told).name, "told");
        assert_eq!(peer_of_nobody.info(&seen, &[0; 16]).name, "");
        assert_eq!(
            peer_of_nobody.info(&seen, &[b'\n'; 16]).name,
            "\n".repeat(16)
        );
        let Watch::Pidfd(pidfd) = peer.watch(ours.as_fd()).unwrap() else {
            panic!("we are not gone");
        };
        assert!(!is_over(pidfd.as_fd()));
    }
}
