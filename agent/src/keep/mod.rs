//! What outlives the agent: its service manager keeps the rings and the listening sockets, and gives them
//! to the next agent (systemd's file descriptor store, sd_notify(3) and sd_listen_fds(3)).
//!
//! ```text
//!   agent ──FDSTORE=1, FDNAME=ring-…, descriptors──> manager ──LISTEN_FDS──> next agent
//!     └──what each session said last──> table (a memfd, kept with its ring) ──────┘
//! ```
//!
//! Kept by name:
//!
//! | FDNAME | descriptors |
//! |---|---|
//! | `ring-INSTANCE` (16 hexadecimal digits) | the memfd of the ring |
//! | `process-INSTANCE` | the pidfd of its process |
//! | `sessions-INSTANCE` | the [`table`] of its sessions |
//! | `socket-DEVICE-INODE` | the listening socket of the file that has these numbers |
//! | `socket-abstract` | the one with the abstract name |
//!
//! Whatever comes back is checked as what a stranger sends is; what isn't good is said, dropped, and
//! removed from the store.

pub mod inherited;
pub mod manager;
pub mod saved;
pub mod table;

pub use inherited::Inherited;
pub use manager::Manager;
