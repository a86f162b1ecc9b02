#![allow(
    unsafe_code,
    reason = "pthread_atfork(3) takes a function that the C library calls"
)]
//! How often the process has forked, and what it was called when it started.
//!
//! Whether a connection may live on in a child is for the parent to tell: a child says nothing until it
//! speaks on it, which may be long after the parent has freed it. So forks are counted before they
//! happen, and each OPEN and CLOSE carries the count. (vfork(3) and posix_spawn(3) run no handlers, and
//! need none: what they make never speaks with this memory. A bare clone(2) isn't counted.)

use std::sync::atomic::{AtomicU64, Ordering};

use crate::guard::guarded;
use crate::process;

/// Longest name, with the NUL that ends it: what the kernel keeps of one (proc_pid_comm(5)).
pub const NAME_BYTES: usize = 16;

/// The name, in two halves; set once, before anybody asks.
static NAME: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// As the process starts, or first looks for an agent.
pub(crate) fn watch() {
    let halves = own_name();
    for (half, bytes) in NAME.iter().zip(halves.as_chunks::<8>().0) {
        half.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
    }
    // SAFETY: `before_fork` may be called at any time, by any thread. The C library forgets it when
    // the library that it lies in is unloaded. Should it have no memory for it, forks go uncounted.
    let _ = unsafe { libc::pthread_atfork(Some(before_fork), None, None) };
}

/// The name of the process's first thread, which is still called like its executable; of another thread it says nothing of the
/// process, so there it is what was executed.
fn own_name() -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    let mut keep = |name: &[u8]| {
        let length = name.len().min(NAME_BYTES - 1);
        bytes[..length].copy_from_slice(&name[..length]);
    };
    if rustix::thread::gettid() == rustix::process::getpid() {
        if let Ok(name) = rustix::thread::name() {
            keep(name.as_bytes());
        }
    } else {
        let path = rustix::param::linux_execfn().to_bytes();
        keep(path.rsplit(|byte| *byte == b'/').next().unwrap_or(path));
    }
    bytes
}

/// What the process was called, filled up with NULs; all NULs: unknown.
pub(crate) fn name() -> [u8; NAME_BYTES] {
    let mut bytes = [0; NAME_BYTES];
    for (half, bytes) in NAME.iter().zip(bytes.as_chunks_mut::<8>().0) {
        *bytes = half.load(Ordering::Relaxed).to_ne_bytes();
    }
    bytes
}

/// Called in the parent, before each fork(3).
extern "C" fn before_fork() {
    guarded(process::forks_now);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_thread_has_another_name() {
        let named = std::thread::Builder::new().name("somebody".into());
        let name = named.spawn(own_name).unwrap().join().unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.file_name().unwrap().as_encoded_bytes();
        assert_eq!(name[..15], program[..15]);
        assert_eq!(name[15], 0);
    }
}
