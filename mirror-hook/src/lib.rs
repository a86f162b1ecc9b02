//! Copies the clear text of an application's TLS connections into a shared-memory ring, where the
//! agent `sslcollector` reads it. Runs inside other people's processes, so: it never blocks, never
//! fails a call, never crashes its host. The worst case is missing clear text, which is declared.

pub mod attach;
pub mod event;
pub mod layout;
pub mod ring;
pub mod shm;
mod sync;
