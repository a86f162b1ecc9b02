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

/// As the process starts: its first thread is still called like its executable, and it has forked nobody.
pub(crate) fn watch() {
    if let Ok(name) = rustix::thread::name() {
        let mut bytes = [0; NAME_BYTES];
        let name = name.as_bytes();
        let length = name.len().min(NAME_BYTES);
        bytes[..length].copy_from_slice(&name[..length]);
        let halves = bytes.as_chunks::<8>().0;
        for (half, bytes) in NAME.iter().zip(halves) {
            half.store(u64::from_ne_bytes(*bytes), Ordering::Relaxed);
        }
    }
    // SAFETY: `before_fork` may be called at any time, by any thread. The C library forgets it when
    // the library that it lies in is unloaded. Should it have no memory for it, forks go uncounted.
    let _ = unsafe { libc::pthread_atfork(Some(before_fork), None, None) };
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
