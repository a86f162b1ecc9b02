//! One direction's blocks, one after another.

use thiserror::Error;

use super::integer;
use super::list::FieldList;
use super::table::Table;

/// SETTINGS_HEADER_TABLE_SIZE as long as nobody has said another (RFC 9113 section 6.5.2).
const DEFAULT_TABLE_BYTES: usize = 4096;

/// Why a block can't be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum HpackError {
    /// It ends within a representation.
    #[error("a header block ends in the middle of a field")]
    Truncated,
    /// An integer of 2^28 and more.
    #[error("an integer in a header block is too large")]
    Integer,
    /// A string that isn't one in the Huffman code.
    #[error("a string in a header block isn't Huffman code")]
    Huffman,
    /// A number under which there is nothing.
    #[error("a header block names entry {0} of its table, which doesn't exist")]
    Index(usize),
    /// A table that is larger than its reader permits, or than is kept here.
    #[error("a header block asks for a table of {0} bytes, which is more than was agreed")]
    TableSize(usize),
    /// A change of the table's size behind a field.
    #[error("a header block changes its table's size behind a field")]
    LateTableSize,
    /// More fields than may be.
    #[error("a header list is larger than the limit")]
    TooLarge,
}

/// Reads the blocks of one direction, in their order, all of them: each may change what the next one means.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Largest table that its reader ever permitted, or will have.
    permitted: usize,
    max_permitted: usize,
}

impl Decoder {
    /// At a connection's begin. Of what is permitted, at most so many bytes are.
    pub fn new(max_table_bytes: usize) -> Self {
        Self {
            table: Table::new(DEFAULT_TABLE_BYTES.min(max_table_bytes)),
            permitted: DEFAULT_TABLE_BYTES.min(max_table_bytes),
            max_permitted: max_table_bytes,
        }
    }

    /// The reader of this direction permits a table of so many bytes. When the writer hears of it isn't known to who
    /// listens: what was ever permitted is let through, and the writer says itself which size it uses.
    pub fn permit(&mut self, table_bytes: usize) {
        self.permitted = self.permitted.max(table_bytes).min(self.max_permitted);
    }

    /// Bytes of its table, as RFC 7541 section 4.1 counts them.
    #[cfg(test)]
    pub(super) fn table_bytes(&self) -> usize {
        self.table.size()
    }

    /// Bytes that its table takes in memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.table.memory_bytes()
    }

    /// Reads a block into a list, which is emptied first.
    ///
    /// # Errors
    /// It isn't one, or there is no room for what it says. No later one can be read then.
    pub fn decode(&mut self, mut block: &[u8], list: &mut FieldList) -> Result<(), HpackError> {
        list.clear();
        let mut begun = false;
        while let Some(&first) = block.first() {
            // RFC 7541 section 6: what the first bits say.
            match first.leading_zeros() {
                0 => self.indexed(&mut block, list)?,
                1 => self.literal(&mut block, 6, list)?,
                2 if begun => return Err(HpackError::LateTableSize),
                2 => {
                    self.size_update(&mut block)?;
                    continue;
                }
                _ => self.literal(&mut block, 4, list)?,
            }
            begun = true;
        }
        Ok(())
    }

    /// Section 6.1.
    fn indexed(&self, block: &mut &[u8], list: &mut FieldList) -> Result<(), HpackError> {
        let index = integer::take(block, 7)?;
        let field = self.table.field(index).ok_or(HpackError::Index(index))?;
        list.push(|room| {
            room.copy(field.name)?;
            let name_end = room.position();
            room.copy(field.value)?;
            Ok(name_end)
        })
    }

    /// Section 6.2: with indexing where the prefix has 6 bits.
    fn literal(
        &mut self,
        block: &mut &[u8],
        prefix_bits: u32,
        list: &mut FieldList,
    ) -> Result<(), HpackError> {
        let index = integer::take(block, prefix_bits)?;
        let table = &self.table;
        list.push(|room| {
            match index {
                0 => room.string(block)?,
                index => {
                    let named = table.field(index).ok_or(HpackError::Index(index))?;
                    room.copy(named.name)?;
                }
            }
            let name_end = room.position();
            room.string(block)?;
            Ok(name_end)
        })?;
        if prefix_bits == 6
            && let Some(field) = list.last()
        {
            self.table.insert(field);
        }
        Ok(())
    }

    /// Section 6.3.
    fn size_update(&mut self, block: &mut &[u8]) -> Result<(), HpackError> {
        let size = integer::take(block, 5)?;
        if size > self.permitted {
            return Err(HpackError::TableSize(size));
        }
        self.table.resize(size);
        Ok(())
    }
}
