//! A connection with both ends mirrored is announced twice. The first copy to be complete is put out,
//! the second is not.
//!
//! Which copy has fewer holes is known when they end, too late to choose: what is out is out. So the
//! second copy is only compared, and the result counted.

use crate::event::Side;

/// What can be compared of a copy: how long it is and a checksum, for each side.
#[derive(Clone, Debug, Default)]
pub(super) struct Fingerprint {
    sides: [(u64, crc32fast::Hasher); 2],
    holes: bool,
}

/// Two copies compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Different,
    /// One of them lacks something.
    Incomparable,
}

impl Fingerprint {
    pub(super) fn data(&mut self, from: Side, bytes: &[u8]) {
        let (length, checksum) = &mut self.sides[index(from)];
        *length += bytes.len() as u64;
        checksum.update(bytes);
    }

    pub(super) fn hole(&mut self) {
        self.holes = true;
    }

    pub(super) fn compare(&self, other: &Self) -> Comparison {
        let lengths = |one: &Self| [one.sides[0].0, one.sides[1].0];
        let sums = |one: &Self| one.sides.clone().map(|(_, checksum)| checksum.finalize());
        if self.holes || other.holes || lengths(self) != lengths(other) {
            Comparison::Incomparable
        } else if sums(self) == sums(other) {
            Comparison::Equal
        } else {
            Comparison::Different
        }
    }
}

/// Where a side's part of a pair stands.
pub(super) fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_do_not_matter_but_bytes_do() {
        let (mut one, mut other) = (Fingerprint::default(), Fingerprint::default());
        one.data(Side::Client, b"GET / ");
        one.data(Side::Client, b"HTTP/1.1");
        other.data(Side::Client, b"GET / HTTP/1.1");
        assert_eq!(one.compare(&other), Comparison::Equal);
        one.data(Side::Server, b"a");
        assert_eq!(one.compare(&other), Comparison::Incomparable);
        other.data(Side::Server, b"b");
        assert_eq!(one.compare(&other), Comparison::Different);
        other.hole();
        assert_eq!(one.compare(&other), Comparison::Incomparable);
    }
}
