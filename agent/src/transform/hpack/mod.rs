//! HPACK, the header compression of HTTP/2 (RFC 7541), read by one who listens: it follows the tables of one
//! direction, has a bound for all that a block may become, and never fails by what a name or a value contains.
//!
//! ```text
//! block ──integer──> representation ──huffman──> field ──> FieldList
//!                          │  ▲
//!                          ▼  │
//!                     static and dynamic table
//! ```
//!
//! A block that breaks the rules leaves the table where the writer's isn't: nothing of that direction can be read any more.

mod decoder;
mod huffman;
mod integer;
mod list;
mod table;

#[cfg(test)]
mod tests;

pub use decoder::{Decoder, HpackError};
pub use list::{Field, FieldList};
