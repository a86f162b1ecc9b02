#![allow(unsafe_code, reason = "errno is reached by an address")]
//! The wall between our defects and the application: every entry passes [`guarded`].

use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use crate::process;

/// Does `work`; leaves errno as it was; and turns the mirror off for good should `work` panic,
/// which gives the default value.
pub(crate) fn guarded<T: Default>(work: impl FnOnce() -> T) -> T {
    let errno = errno();
    let result = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|payload| {
        process::turn_off();
        // A payload's destructor may panic as well.
        mem::forget(payload);
        T::default()
    });
    set_errno(errno);
    result
}

/// [`guarded`] for the paths of each call: out of line, so that where nothing is mirrored nothing of
/// it is paid, not even saved registers.
#[inline(never)]
pub(crate) fn guarded_apart<T: Default>(work: impl FnOnce() -> T) -> T {
    guarded(work)
}

/// Keeps panics of this crate off the application's standard error; all others stay as they are.
///
/// Called when a library in C starts that has this crate inside: then the standard library, and with
/// it the panic hook, is a private copy that nobody but this crate uses. A Rust application's hook is
/// never replaced: its owner may want to know of a defect of ours, and catch_unwind protects it too.
pub(crate) fn silence_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let ours = Path::new(file!()).parent();
        let here = info.location().map(|at| Path::new(at.file()));
        let is_ours = ours
            .zip(here)
            .is_some_and(|(ours, here)| here.starts_with(ours));
        if !is_ours {
            before(info);
        }
    }));
}

pub(crate) fn errno() -> i32 {
    // SAFETY: no precondition; the address is the calling thread's own.
    let address = unsafe { libc::__errno_location() };
    // SAFETY: valid and aligned for this thread, as above.
    unsafe { *address }
}

fn set_errno(value: i32) {
    // SAFETY: no precondition; the address is the calling thread's own.
    let address = unsafe { libc::__errno_location() };
    // SAFETY: valid and aligned for this thread, as above.
    unsafe { *address = value };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_here_and_errno_stays() {
        set_errno(77);
        let result: u32 = guarded(|| {
            set_errno(5);
            panic!("a defect of ours")
        });
        assert_eq!(result, 0);
        assert_eq!(errno(), 77);
        assert!(process::is_off());
    }
}
