//! What a block says.

use super::{HpackError, huffman, integer};

/// What a field counts more than its bytes, RFC 7541 section 4.1 and RFC 9113 section 6.5.2.
pub(super) const FIELD_OVERHEAD: usize = 32;

/// A field as it was written: any bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// Its name; those with `:` in front are pseudo-header fields (RFC 9113 section 8.3).
    pub name: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The fields of a block, in their order. Kept between blocks for its memory.
#[derive(Debug)]
pub struct FieldList {
    bytes: Vec<u8>,
    /// Where in `bytes` each field's name ends, and its value.
    ends: Vec<(usize, usize)>,
    /// As RFC 9113 section 6.5.2 counts it.
    size: usize,
    most: usize,
}

impl FieldList {
    /// Empty, for at most so many bytes, as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
    pub fn new(most_bytes: usize) -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            size: 0,
            most: most_bytes,
        }
    }

    /// The fields.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        (0..self.ends.len()).map(|at| self.field(at))
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.size = 0;
    }

    /// The last.
    pub(super) fn last(&self) -> Option<Field<'_>> {
        let last = self.ends.len().checked_sub(1)?;
        Some(self.field(last))
    }

    /// Adds a field: `write` writes its name and its value, and says where in between one ends.
    pub(super) fn push(
        &mut self,
        write: impl FnOnce(&mut Room<'_>) -> Result<usize, HpackError>,
    ) -> Result<(), HpackError> {
        let left = self.most.checked_sub(self.size + FIELD_OVERHEAD);
        let begin = self.bytes.len();
        let mut room = Room {
            bytes: &mut self.bytes,
            left: left.ok_or(HpackError::TooLarge)?,
        };
        let name_end = write(&mut room)?;
        let end = self.bytes.len();
        self.ends.push((name_end, end));
        self.size += end - begin + FIELD_OVERHEAD;
        Ok(())
    }

    /// Adds a field, for tests.
    #[cfg(test)]
    pub(in super::super) fn add(&mut self, name: &[u8], value: &[u8]) {
        let added = self.push(|room| {
            room.copy(name)?;
            let name_end = room.position();
            room.copy(value).map(|()| name_end)
        });
        added.expect("room");
    }

    fn field(&self, at: usize) -> Field<'_> {
        let begin = at.checked_sub(1).map_or(0, |before| self.ends[before].1);
        let (name_end, end) = self.ends[at];
        Field {
            name: &self.bytes[begin..name_end],
            value: &self.bytes[name_end..end],
        }
    }
}

/// Where a field is written.
pub(super) struct Room<'a> {
    bytes: &'a mut Vec<u8>,
    /// How many bytes more there may be.
    left: usize,
}

impl Room<'_> {
    /// Where the next byte comes to stand.
    pub(super) fn position(&self) -> usize {
        self.bytes.len()
    }

    /// Appends bytes.
    pub(super) fn copy(&mut self, text: &[u8]) -> Result<(), HpackError> {
        let left = self.left.checked_sub(text.len());
        self.left = left.ok_or(HpackError::TooLarge)?;
        self.bytes.extend_from_slice(text);
        Ok(())
    }

    /// Appends the string at the front of `block`, and takes it from there (RFC 7541 section 5.2).
    pub(super) fn string(&mut self, block: &mut &[u8]) -> Result<(), HpackError> {
        let is_huffman = block.first().is_some_and(|first| first & 0x80 != 0);
        let length = integer::take(block, 7)?;
        let (text, rest) = block
            .split_at_checked(length)
            .ok_or(HpackError::Truncated)?;
        *block = rest;
        if !is_huffman {
            return self.copy(text);
        }
        let begin = self.bytes.len();
        huffman::decode(text, self.left, self.bytes)?;
        self.left -= self.bytes.len() - begin;
        Ok(())
    }
}
