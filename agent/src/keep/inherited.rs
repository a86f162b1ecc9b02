#![allow(
    unsafe_code,
    reason = "descriptors that were here before the program are known by their numbers only"
)]
//! What the service manager gives back when the agent starts (sd_listen_fds(3)).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_setfd};

/// The first one's number (SD_LISTEN_FDS_START).
const FIRST: RawFd = 3;
/// More than any manager keeps.
const MOST: RawFd = 1 << 17;

/// A descriptor that was kept.
#[derive(Debug)]
pub struct Inherited {
    /// The name that it was kept by.
    pub name: String,
    /// Itself; closed when another program is executed.
    pub fd: OwnedFd,
}

/// All that was given to this process, once. Must be called before the process opens anything.
pub fn take() -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let variable = |name| std::env::var(name).ok();
    let Some(count) = count(std::process::id(), variable) else {
        return Vec::new();
    };
    let names = variable("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut found = Vec::new();
    for number in FIRST..FIRST + count {
        let name = names.next().unwrap_or_default().to_owned();
        // SAFETY: borrowed for this call only, which says so if there is no such descriptor.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        if fcntl_setfd(borrowed, FdFlags::CLOEXEC).is_err() {
            continue;
        }
        // SAFETY: it is open, as has just been seen; by the manager's protocol it is ours, nobody in
        // this process has opened it, and it is taken once.
        let fd = unsafe { OwnedFd::from_raw_fd(number) };
        found.push(Inherited { name, fd });
    }
    found
}

/// How many were given to process `id`.
fn count(id: u32, variable: impl Fn(&'static str) -> Option<String>) -> Option<RawFd> {
    // A child of whom they were for has the variables, too.
    let meant = variable("LISTEN_PID")?.parse() == Ok(id);
    let count = variable("LISTEN_FDS")?.parse().ok()?;
    (meant && (1..=MOST).contains(&count)).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_meant_for_us() {
        let given = |pid: &str, count_text: &str| {
            count(77, |name| match name {
                "LISTEN_PID" => Some(pid.to_owned()),
                "LISTEN_FDS" => Some(count_text.to_owned()),
                _ => None,
            })
        };
        assert_eq!(given("77", "3"), Some(3));
        for (pid, count) in [
            ("78", "3"),
            ("77", "0"),
            ("77", "-1"),
            ("77", "x"),
            ("", "3"),
            ("77", "99999999"),
        ] {
            assert_eq!(given(pid, count), None, "{pid} {count}");
        }
        assert_eq!(count(77, |_| None), None);
    }
}
