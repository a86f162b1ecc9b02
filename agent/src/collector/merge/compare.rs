//! Whether two copies of a connection say the same, without keeping either: checksums of blocks.
//!
//! ```text
//! told   │ block 0 │ block 1 │ block 2 …     each block's checksum, of the last few blocks
//! copy   │ block 0 │ block 1 …               compared where it has reached a block's end, and where it ends
//! ```
//!
//! A block in which something is missing can't be compared.

use std::collections::VecDeque;

use crc32fast::Hasher;

const BLOCK_BYTES: u64 = 64 << 10;
/// Blocks that one copy may be ahead and still be compared.
const BLOCKS: usize = 32;

/// What one side says, as far as it can be compared.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Offset behind what was said.
    at: u64,
    /// Of the present block.
    sum: Hasher,
    /// Something is missing in it.
    broken: bool,
}

/// A block that has ended; no checksum if something is missing in it.
pub(super) type Block = (u64, Option<u32>);

impl Line {
    pub(super) fn new(at: u64) -> Self {
        Self {
            at,
            sum: Hasher::new(),
            broken: !at.is_multiple_of(BLOCK_BYTES),
        }
    }

    /// `bytes` are said at `offset`; each block that ends is passed on.
    pub(super) fn data(&mut self, offset: u64, mut bytes: &[u8], mut ended: impl FnMut(Block)) {
        if offset != self.at {
            self.skip_to(offset);
        }
        while !bytes.is_empty() {
            let left = BLOCK_BYTES - self.at % BLOCK_BYTES;
            let (now, rest) =
                bytes.split_at(bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
            if !self.broken {
                self.sum.update(now);
            }
            self.at += now.len() as u64;
            bytes = rest;
            if self.at.is_multiple_of(BLOCK_BYTES) {
                let sum = std::mem::take(&mut self.sum).finalize();
                ended((self.at / BLOCK_BYTES - 1, (!self.broken).then_some(sum)));
                self.broken = false;
            }
        }
    }

    /// What lies before `offset` is missing.
    pub(super) fn skip_to(&mut self, offset: u64) {
        *self = Self::new(offset);
    }

    /// Compares the blocks that both are in the middle of; `None` if they can't be.
    pub(super) fn compare(&self, other: &Self) -> Option<bool> {
        let comparable = self.at == other.at && !self.broken && !other.broken;
        comparable.then(|| self.sum.clone().finalize() == other.sum.clone().finalize())
    }
}

/// The last blocks of a side; takes no room before there is one.
#[derive(Clone, Debug, Default)]
#[allow(
    clippy::box_collection,
    reason = "most flows never have one, and there are many"
)]
pub(super) struct Blocks(Option<Box<VecDeque<Block>>>);

impl Blocks {
    pub(super) fn push(&mut self, block: Block) {
        let blocks = self.0.get_or_insert_default();
        if blocks.len() == BLOCKS {
            blocks.pop_front();
        }
        blocks.push_back(block);
    }

    /// Compares with another copy's block; `None` if it can't be.
    pub(super) fn compare(&self, (number, sum): Block) -> Option<bool> {
        let mut blocks = self.0.as_ref()?.iter().rev();
        let known = blocks.find(|(known, _)| *known == number)?;
        Some(known.1? == sum?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter_and_holes_only_spoil_their_block() {
        let text: Vec<u8> = (0..200_000_u32).map(|byte| (byte % 251) as u8).collect();
        let (mut told, mut blocks) = (Line::new(0), Blocks::default());
        told.data(0, &text, |block| blocks.push(block));
        let mut copy = Line::new(0);
        let mut results = Vec::new();
        copy.data(0, &text[..10], |_| ());
        copy.data(50, &text[50..100_000], |block| {
            results.push(blocks.compare(block))
        });
        assert_eq!(results, [None], "something is missing in the first");
        for (number, piece) in text[100_000..].chunks(777).enumerate() {
            let offset = 100_000 + number as u64 * 777;
            copy.data(offset, piece, |block| results.push(blocks.compare(block)));
        }
        assert_eq!(results, [None, Some(true), Some(true)]);
        assert_eq!(told.compare(&copy), Some(true));
        copy.data(200_000, b"x", |_| ());
        assert_eq!(told.compare(&copy), None);
        told.data(200_000, b"y", |_| ());
        assert_eq!(told.compare(&copy), Some(false));
    }
}
