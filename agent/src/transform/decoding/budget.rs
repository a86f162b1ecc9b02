//! What all decoders may take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Memory of all decoders, and of what waits for them, in bytes.
const MAX_BYTES: usize = 64 << 20;

/// What is taken of it, by all workers.
#[derive(Clone, Debug, Default)]
pub(in super::super) struct Budget(Arc<AtomicUsize>);

/// What one has taken, until it is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    of: Budget,
    bytes: usize,
}

impl Budget {
    /// Nothing yet.
    pub(super) fn charge(&self) -> Charge {
        Charge {
            of: self.clone(),
            bytes: 0,
        }
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(in super::super) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Charge {
    /// It takes so many bytes now. `false`: it may not.
    pub(super) fn set(&mut self, bytes: usize) -> bool {
        let (before, more) = (self.bytes, bytes > self.bytes);
        self.bytes = bytes;
        // A sum, in which no order matters: relaxed, and paired with nothing.
        let total = &self.of.0;
        match more {
            true => {
                let grown = bytes - before;
                total.fetch_add(grown, Ordering::Relaxed) + grown <= MAX_BYTES
            }
            false => {
                total.fetch_sub(before - bytes, Ordering::Relaxed);
                true
            }
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}
