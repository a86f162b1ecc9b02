#![allow(
    unsafe_code,
    reason = "getrlimit(2) has no safe form that can tell of its failure"
)]
//! What rustix takes for infallible: it would read an answer that was never written, should a seccomp
//! filter have answered the call with an errno.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;

/// RLIMIT_FSIZE of this process in bytes; `None`: no limit.
///
/// # Errors
/// A filter's, for the kernel has none.
pub(crate) fn file_size_limit() -> io::Result<Option<u64>> {
    limit(libc::RLIMIT_FSIZE)
}

/// RLIMIT_AS of this process in bytes; `None`: no limit.
///
/// # Errors
/// As above.
pub(crate) fn address_space_limit() -> io::Result<Option<u64>> {
    limit(libc::RLIMIT_AS)
}

fn limit(resource: libc::__rlimit_resource_t) -> io::Result<Option<u64>> {
    let mut limit = MaybeUninit::<libc::rlimit64>::uninit();
    // Not libc's wrapper, which others may interpose.
    // SAFETY: pid 0 is this process; no new limit is given; the old one's place is writable.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::null::<libc::rlimit64>(),
            limit.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has succeeded, and filled it.
    let current = unsafe { limit.assume_init() }.rlim_cur;
    Ok(Some(current).filter(|current| *current != libc::RLIM64_INFINITY))
}
