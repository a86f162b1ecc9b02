//! How often who was refused, by reason.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::tunnel::frame::Reason;

/// Counts of refusals by their reason; what hasn't happened isn't listed.
#[derive(Debug, Default)]
pub struct RefusalCounts {
    counts: Mutex<BTreeMap<Reason, u64>>,
}

impl RefusalCounts {
    /// One more.
    pub fn add(&self, reason: Reason) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(reason).or_default() += 1;
    }

    /// What has been counted so far.
    pub fn snapshot(&self) -> BTreeMap<Reason, u64> {
        self.counts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
