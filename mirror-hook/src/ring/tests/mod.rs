//! The ring against an oracle, under hostile memory, and under loom.

use super::*;
use crate::layout::{FLAG_RECEIVED, kind};
use crate::sync::Ordering;

fn data(connection: u64) -> Record {
    Record {
        kind: kind::DATA,
        flags: FLAG_RECEIVED,
        connection,
        at_ns: connection * 10,
    }
}

/// A DATA body: the offset, then bytes that depend on it.
fn body(offset: u64, length: usize) -> Vec<u8> {
    let mut body = offset.to_ne_bytes().to_vec();
    body.extend((0..length).map(|index| offset.wrapping_add(index as u64).to_ne_bytes()[0]));
    body
}

#[cfg(not(loom))]
mod alone;
#[cfg(not(loom))]
mod crash;
#[cfg(not(loom))]
mod hostile;
mod mortal;
#[cfg(not(loom))]
mod oracle;
#[cfg(loom)]
mod ring_loom;
