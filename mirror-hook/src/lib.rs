//! Copies the clear text of an application's TLS connections into a shared-memory ring, where the
//! agent `sslcollector` reads it. Runs inside other people's processes, so: it never blocks (but for
//! debugging, see [`config`]), never fails a call, never crashes its host. The worst case is missing clear text, which is declared.
//!
//! | module | what it is | who uses it |
//! |---|---|---|
//! | [`capi`] | the C interface, `include/mirror_hook.h` | the patched libssl |
//! | [`hook`] | the same in Rust: one [`hook::Conn`] a connection | wrappers of Rust's TLS libraries |
//! | [`layout`], [`event`] | the shared memory's format | both ends |
//! | [`filter`] | which connections are mirrored | both ends |
//! | [`ring`] | the ring's producer and consumer | both ends |
//! | [`shm`], [`attach`] | the memory, and how it comes to the agent | both ends |
//! | [`config`] | what the operator sets | people |
//! | [`tcp`] | what the kernel counts of a connection | both ends |
//! | [`mark`] | what tells that a program has all this in it | the agent |

pub mod attach;
pub mod capi;
pub mod config;
mod conn;
pub mod event;
pub mod filter;
mod fork;
mod guard;
pub mod hook;
mod kernel;
pub mod layout;
mod look;
pub mod mark;
mod patience;
mod process;
mod records;
pub mod ring;
pub mod shm;
mod socket;
mod sync;
pub mod tcp;
