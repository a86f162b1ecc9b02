//! The tables that fields are named by (RFC 7541 section 2.3).

use std::collections::VecDeque;

use super::list::{FIELD_OVERHEAD, Field};

/// RFC 7541 appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

/// Both tables, in one numbering from 1 (RFC 7541 section 2.3.3).
#[derive(Debug, Default)]
pub(super) struct Table {
    /// The newest in front.
    entries: VecDeque<Entry>,
    size: usize,
    max_size: usize,
}

#[derive(Debug)]
struct Entry {
    /// Name and value, one behind the other.
    bytes: Box<[u8]>,
    name_bytes: usize,
}

impl Table {
    /// With an empty dynamic table of at most so many bytes.
    pub(super) fn new(max_size: usize) -> Self {
        Self {
            max_size,
            ..Self::default()
        }
    }

    /// What stands under a number; 0 is nothing.
    pub(super) fn field(&self, index: usize) -> Option<Field<'_>> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Some(Field {
                name: name.as_bytes(),
                value: value.as_bytes(),
            });
        }
        let entry = self.entries.get(index - STATIC.len())?;
        let (name, value) = entry.bytes.split_at(entry.name_bytes);
        Some(Field { name, value })
    }

    /// Adds a field, for which old ones make room. One that is larger than the table empties it (section 4.4).
    pub(super) fn insert(&mut self, field: Field<'_>) {
        let size = field.name.len() + field.value.len() + FIELD_OVERHEAD;
        self.shrink_to(self.max_size.saturating_sub(size));
        if size <= self.max_size {
            self.size += size;
            self.entries.push_front(Entry {
                bytes: [field.name, field.value].concat().into_boxed_slice(),
                name_bytes: field.name.len(),
            });
        }
    }

    /// Gives it another size (section 4.3).
    pub(super) fn resize(&mut self, max_size: usize) {
        self.max_size = max_size;
        self.shrink_to(max_size);
        self.entries.shrink_to(2 * self.entries.len());
    }

    /// Its size as section 4.1 counts it, in bytes.
    #[cfg(test)]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Bytes that it takes in memory, about: small entries take more than section 4.1 counts, and room that once was needed stays.
    pub(super) fn memory_bytes(&self) -> usize {
        self.size + self.entries.capacity() * size_of::<Entry>()
    }

    fn shrink_to(&mut self, size: usize) {
        while self.size > size
            && let Some(old) = self.entries.pop_back()
        {
            self.size -= old.bytes.len() + FIELD_OVERHEAD;
        }
    }
}
