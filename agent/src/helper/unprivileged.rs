#![allow(
    unsafe_code,
    reason = "the users of all threads are changed by the C library only"
)]
//! How privileges are given up, for ever.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

use rustix::io::Errno;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};

use super::user::User;

/// What the helper's duties need: programs of other users, files wherever root may write them, interfaces.
const HELPERS: CapabilitySet = CapabilitySet::SYS_PTRACE
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::NET_ADMIN);
/// What a thread of it takes while it enters another network namespace, and nothing else does. (It is no more than
/// SYS_PTRACE gives already.)
const ENTERING: CapabilitySet = CapabilitySet::SYS_ADMIN;

/// The agent couldn't become another user.
#[derive(Debug, thiserror::Error)]
pub enum BecomeError {
    /// This process may not change its user: a container without CAP_SETUID and CAP_SETGID.
    #[error("no right to become user {user} ({what}: {cause})")]
    NotPermitted {
        /// Which.
        user: String,
        /// The call that failed.
        what: &'static str,
        /// Why.
        cause: io::Error,
    },
    /// Something is left.
    #[error("privileges are left behind: {0}")]
    Left(String),
}

/// What is executed from now on gets no privilege, whoever it belongs to. Must be called while there is one thread:
/// others inherit it. What couldn't be done, a line each.
pub fn renounce() -> Vec<String> {
    let mut complaints = Vec::new();
    let mut note = |what: &str, result: Result<(), Errno>| {
        if let Err(error) = result {
            complaints.push(format!("{what}: {}", io::Error::from(error)));
        }
    };
    note("can't set no_new_privs", set_no_new_privs(true));
    // Linux before 4.3 has none.
    let _ = clear_ambient_capability_set();
    let kept = capabilities(None).map(|sets| CapabilitySets {
        inheritable: CapabilitySet::empty(),
        ..sets
    });
    let inheritable = kept.and_then(|sets| set_capabilities(None, sets));
    note("can't give up inheritable capabilities", inheritable);
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // Behind the last one that this kernel has.
            Err(Errno::INVAL) => break,
            error => {
                note("can't empty the bounding set of capabilities", error);
                break;
            }
        }
    }
    complaints
}

/// Becomes `user` in all threads: no capability is left, nobody of that user can look into the process, and it
/// leaves no core. [`renounce`] comes before.
///
/// # Errors
/// See [`BecomeError`]. Where it isn't permitted, the user may be the same as before and the groups gone.
pub fn become_user(user: &User) -> Result<(), BecomeError> {
    let failed = |what, result: libc::c_int| match result {
        0 => Ok(()),
        _ => Err(BecomeError::NotPermitted {
            user: user.name.clone(),
            what,
            cause: io::Error::last_os_error(),
        }),
    };
    let (uid, gid) = (user.uid, user.gid);
    // SAFETY: no group is read where there is none.
    failed("setgroups", unsafe { libc::setgroups(0, std::ptr::null()) })?;
    // SAFETY: numbers only; the C library does it in all threads.
    failed("setresgid", unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: as above. The kernel takes all capabilities from who was root and isn't any more.
    failed("setresuid", unsafe { libc::setresuid(uid, uid, uid) })?;
    let left =
        |what: &str, error: Errno| BecomeError::Left(format!("{what}: {}", io::Error::from(error)));
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(|error| left("capabilities", error))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| left("can't forbid dumps", error))?;
    look_at_threads(user)
}

/// Gives a directory, and the files that lie directly in it, to a user who has to go on writing there, and lets this
/// user pass through the one above.
///
/// # Errors
/// The system's.
pub fn give(directory: &Path, user: &User) -> io::Result<()> {
    let (uid, gid) = (Some(user.uid), Some(user.gid));
    for entry in fs::read_dir(directory)? {
        // A link may lead anywhere: it is neither followed nor given away.
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        let mut options = File::options();
        options.read(true).custom_flags(flags);
        let Ok(file) = options.open(entry?.path()) else {
            continue;
        };
        let found = file.metadata()?;
        if found.is_file() && found.nlink() == 1 {
            fchown(&file, uid, gid)?;
        }
    }
    fchown(File::open(directory)?, uid, gid)?;
    let above = directory.parent().map(File::open).transpose()?;
    if let Some(above) = above
        && above.metadata()?.mode() & 0o001 == 0
    {
        let mode = above.metadata()?.mode() | 0o010;
        fchown(&above, None, gid)?;
        above.set_permissions(Permissions::from_mode(mode & 0o7777))?;
    }
    Ok(())
}

/// The helper keeps what its duties need.
pub(super) fn reduce_to_duties() {
    // It has no more than before where one of these fails.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let _ = set_no_new_privs(true);
    let _ = clear_ambient_capability_set();
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if !HELPERS.union(ENTERING).contains(one)
            && remove_capability_from_bounding_set(one).is_err()
        {
            break;
        }
    }
    if let Ok(sets) = capabilities(None) {
        let sets = CapabilitySets {
            effective: sets.permitted & HELPERS,
            permitted: sets.permitted & HELPERS.union(ENTERING),
            inheritable: CapabilitySet::empty(),
        };
        let _ = set_capabilities(None, sets);
    }
}

/// For this thread, as far as it may, until it ends: it is about to enter another network namespace.
pub(crate) fn take_right_to_enter() {
    if let Ok(sets) = capabilities(None) {
        let sets = CapabilitySets {
            effective: sets.effective | sets.permitted & ENTERING,
            ..sets
        };
        // Without it the namespace says no.
        let _ = set_capabilities(None, sets);
    }
}

/// No thread has kept anything, as the kernel tells.
fn look_at_threads(user: &User) -> Result<(), BecomeError> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else {
        // Nobody can be asked.
        return Ok(());
    };
    for thread in threads.flatten() {
        let Ok(status) = fs::read_to_string(thread.path().join("status")) else {
            continue;
        };
        if let Some(line) = left_in(&status, user.uid) {
            return Err(BecomeError::Left(line.to_owned()));
        }
    }
    Ok(())
}

/// The line of a status, proc_pid_status(5), that says that something is left.
fn left_in(status: &str, uid: u32) -> Option<&str> {
    status.lines().find(|line| {
        let Some((name, value)) = line.split_once(':') else {
            return false;
        };
        let value = value.trim();
        match name {
            "Uid" => value
                .split_ascii_whitespace()
                .any(|id| id.parse() != Ok(uid)),
            "CapPrm" | "CapEff" | "CapAmb" | "CapInh" => !value.bytes().all(|byte| byte == b'0'),
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_found() {
        let clean = "Name:\tx\nUid:\t7\t7\t7\t7\nCapInh:\t0000\nCapPrm:\t0000\nCapEff:\t0000\nCapBnd:\tff\n";
        assert_eq!(left_in(clean, 7), None);
        for (from, to) in [
            ("7\t7\n", "7\t0\n"),
            ("CapPrm:\t0000", "CapPrm:\t0001"),
            ("CapEff:\t0000", "CapEff:\t1000"),
            ("CapInh:\t0000", "CapInh:\t1000"),
        ] {
            assert!(left_in(&clean.replace(from, to), 7).is_some(), "{to}");
        }
    }
    #[test]
    fn what_is_given_is_the_users_and_no_more() {
        if !rustix::process::geteuid().is_root() {
            return; // Nobody else can give files away.
        }
        let state = tempfile::tempdir().unwrap();
        fs::set_permissions(state.path(), Permissions::from_mode(0o700)).unwrap();
        let given = state.path().join("given");
        fs::create_dir(&given).unwrap();
        let [mine, others] = [given.join("key"), state.path().join("others")];
        for path in [&mine, &others] {
            fs::write(path, "").unwrap();
        }
        // Neither of these leads to anybody else's file.
        std::os::unix::fs::symlink(&others, given.join("link")).unwrap();
        fs::hard_link(&others, given.join("other name")).unwrap();
        let user = User {
            name: "somebody".to_owned(),
            uid: 1234,
            gid: 1235,
        };
        give(&given, &user).unwrap();
        let ids = |path: &Path| {
            let found = fs::metadata(path).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o777)
        };
        assert_eq!(ids(&given).0, 1234);
        assert_eq!(ids(&mine).0, 1234);
        assert_eq!(ids(&others).0, 0);
        // It may pass through, and look at nothing.
        assert_eq!(ids(state.path()), (0, 1235, 0o710));
    }
}
