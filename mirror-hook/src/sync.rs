//! The one switch between the atomics of std and those of loom, for the memory that the ring's
//! algorithm is proved on (see [`crate::ring::HeapMemory`]). The mapped memory always uses std's.

#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::AtomicU64;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::AtomicU64;
pub(crate) use std::sync::atomic::Ordering;
