//! The one switch between the atomics of std and those of loom, for the memory that the ring's
//! algorithm is proved on (see [`crate::ring::HeapMemory`]). The mapped memory always uses std's.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::AtomicU64;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::AtomicU64;
pub(crate) use std::sync::atomic::Ordering;

/// Loom takes sequentially consistent accesses for acquiring and releasing ones only. A fence before
/// each such load says to it what they mean where one side stores and then loads what the other
/// loads and stores; std's need none.
pub(crate) fn before_seq_cst_load(_order: Ordering) {
    #[cfg(all(test, loom))]
    if _order == Ordering::SeqCst {
        loom::sync::atomic::fence(Ordering::SeqCst);
    }
}
