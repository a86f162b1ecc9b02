//! Text that waits for what follows it.

use crate::event::WallTime;
use crate::retold::MAX_PIECE_BYTES;

/// Pieces whose times are kept apart; further ones are one with the last.
const MAX_PIECES: usize = 256;

/// A client's text with the times of its pieces.
#[derive(Debug, Default)]
pub(super) struct Held {
    bytes: Vec<u8>,
    /// When each came, and where it ends.
    pieces: Vec<(WallTime, usize)>,
}

impl Held {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Time of its first byte.
    pub(super) fn since(&self) -> Option<WallTime> {
        self.pieces.first().map(|(at, _)| *at)
    }

    pub(super) fn push(&mut self, at: WallTime, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(bytes);
        if self.pieces.len() == MAX_PIECES {
            self.pieces.pop();
        }
        self.pieces.push((at, self.bytes.len()));
    }

    /// Takes the bytes away behind `length`.
    pub(super) fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
        let kept = self.pieces.partition_point(|(_, end)| *end < length);
        self.pieces.truncate(kept + 1);
        if let Some((_, end)) = self.pieces.last_mut() {
            *end = length.min(*end);
        }
    }

    /// Takes all away, and hands on what is behind `skip` bytes.
    pub(super) fn drain(&mut self, skip: usize, mut each: impl FnMut(WallTime, &[u8])) {
        let Self { bytes, pieces } = std::mem::take(self);
        let mut begin = skip;
        for (at, end) in pieces {
            let piece = bytes.get(begin..end).unwrap_or(&[]);
            let parts = piece.chunks(MAX_PIECE_BYTES);
            parts.for_each(|part| each(at, part));
            begin = begin.max(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drained(mut held: Held, skip: usize) -> Vec<(u64, Vec<u8>)> {
        let mut all = Vec::new();
        held.drain(skip, |at, piece| all.push((at.0, piece.to_vec())));
        all
    }

    fn held() -> Held {
        let mut held = Held::default();
        held.push(WallTime(1), b"abc");
        held.push(WallTime(2), b"");
        held.push(WallTime(3), b"defg");
        held
    }

    #[test]
    fn pieces_keep_their_times() {
        let piece = |at, bytes: &[u8]| (at, bytes.to_vec());
        assert_eq!(drained(held(), 0), [piece(1, b"abc"), piece(3, b"defg")]);
        assert_eq!(drained(held(), 4), [piece(3, b"efg")]);
        assert_eq!(drained(held(), 7), []);
        for (length, meant) in [
            (5, vec![piece(1, b"abc"), piece(3, b"de")]),
            (3, vec![piece(1, b"abc")]),
            (1, vec![piece(1, b"a")]),
        ] {
            let mut cut = held();
            cut.truncate(length);
            assert_eq!(drained(cut, 0), meant);
        }
    }

    #[test]
    fn many_pieces_are_kept_in_few() {
        let mut held = Held::default();
        let text: Vec<u8> = (0..=250).cycle().take(60_000).collect();
        text.iter()
            .zip(0..)
            .for_each(|(byte, at)| held.push(WallTime(at), &[*byte]));
        let pieces = drained(held, 0);
        assert!(pieces.len() < MAX_PIECES + 5);
        assert!(
            pieces
                .iter()
                .all(|(_, piece)| piece.len() <= MAX_PIECE_BYTES)
        );
        let all: Vec<u8> = pieces.into_iter().flat_map(|(_, piece)| piece).collect();
        assert_eq!(all, text);
    }
}
