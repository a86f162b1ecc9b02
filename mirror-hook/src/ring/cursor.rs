//! Arithmetic of positions, without memory: what is in use, where a position lies, where it wraps.

use crate::layout::{CONTROL_BYTES, RECORD_ALIGN};

/// Bytes between `tail` and `head`, or `None` if the two can't be of a ring of `capacity` bytes.
pub(crate) fn used(head: u64, tail: u64, capacity: u64) -> Option<u64> {
    head.checked_sub(tail)
        .filter(|used| *used <= capacity)
        .filter(|_| head.is_multiple_of(RECORD_ALIGN) && tail.is_multiple_of(RECORD_ALIGN))
}

/// Where the ring begins again behind `position`; 0 where no ring can come to.
pub(crate) fn next_lap(position: u64, capacity: u64) -> u64 {
    (position | (capacity - 1)).wrapping_add(1)
}

/// Where the next record lies, or is going to lie, that doesn't lie at `position`: the producers have
/// left out the rest of the lap from `skipped` on. A lap is never left out as a whole, so a word that
/// was never stored says nothing.
pub(crate) fn behind_skip(position: u64, skipped: u64, capacity: u64) -> Option<u64> {
    let is_skip = skipped == position && !position.is_multiple_of(capacity);
    is_skip.then(|| next_lap(position, capacity))
}

/// A span of the ring as one or two ranges of the shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Offset of the first byte in the shared memory.
    pub(crate) first: usize,
    /// Bytes before the ring's end.
    pub(crate) first_bytes: usize,
    /// Bytes that go on at the ring's beginning.
    pub(crate) second_bytes: usize,
}

impl Span {
    /// Where the ring begins in the shared memory.
    pub(crate) const BEGIN: usize = CONTROL_BYTES;

    /// The `length` bytes from `position` in a ring of `capacity` bytes (a power of two); `length`
    /// is at most `capacity`.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "both are below the capacity, which was mapped and so fits usize"
    )]
    pub(crate) fn new(position: u64, length: usize, capacity: u64) -> Self {
        let within = (position & (capacity - 1)) as usize;
        let to_end = capacity as usize - within;
        let first_bytes = length.min(to_end);
        Self {
            first: Self::BEGIN + within,
            first_bytes,
            second_bytes: length - first_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn used_refuses_what_no_ring_can_have() {
        assert_eq!(used(64, 0, 64), Some(64));
        assert_eq!(used(64, 64, 64), Some(0));
        assert_eq!(used(72, 0, 64), None);
        assert_eq!(used(0, 8, 64), None);
        assert_eq!(used(12, 8, 64), None);
    }

    #[test]
    fn a_skip_leads_to_the_next_lap() {
        assert_eq!(behind_skip(72, 72, 64), Some(128));
        assert_eq!(behind_skip(120, 120, 64), Some(128));
        assert_eq!(behind_skip(72, 64, 64), None);
        assert_eq!(behind_skip(0, 0, 64), None);
        assert_eq!(behind_skip(128, 128, 64), None);
        assert_eq!(behind_skip(u64::MAX - 7, u64::MAX - 7, 64), Some(0));
    }

    #[test]
    fn a_span_splits_at_the_end() {
        let span = Span::new(64 + 56, 24, 64);
        assert_eq!(span.first, CONTROL_BYTES + 56);
        assert_eq!((span.first_bytes, span.second_bytes), (8, 16));
        let span = Span::new(128, 64, 64);
        assert_eq!((span.first_bytes, span.second_bytes), (64, 0));
    }
}
