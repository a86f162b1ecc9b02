//! The frames of HTTP/2 (RFC 9113), read by one who listens: one direction of a connection, in pieces as they come.
//!
//! ```text
//! Data events ──> Reader ──> Frame   text of a DATA frame: as it comes, never kept
//!                    │               header blocks: once they are whole, CONTINUATION and all
//!                    └> unread()     what isn't whole yet, as it was written
//! ```

mod head;
mod header_block;
mod payload;
mod reader;
mod settings;

#[cfg(test)]
mod tests;

pub use head::{FrameError, StreamId};
pub use payload::Frame;
pub use reader::Reader;
pub use settings::Settings;
