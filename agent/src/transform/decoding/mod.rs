//! Content that is shown without its content coding (RFC 9110 section 8.4).
//!
//! ```text
//! HEADERS ──> Codings ──> Decoding   head and text wait, until the first text is decoded:
//! DATA ─────────────────> Stages ──> it is shown decoded, in chunks
//!                            │       or, where it can't be: as it came
//!                            └─────> what can't be decoded behind that ends the exchange
//! ```
//!
//! The decoders see hostile text. Each takes bounded memory, all together [`Budget`] at the most; what comes out is at most
//! 100 times what went in, beyond a first 64 KiB.

mod brotli;
mod budget;
mod coding;
mod deflate;
mod gzip;
mod stages;
#[cfg(test)]
pub(super) mod tests;
mod zstandard;

pub(super) use budget::Budget;
pub(super) use coding::Codings;

use self::budget::Charge;
use self::stages::Stages;
use super::stats::Undecoded;

/// Text that waits for the first that is decoded: a whole block of zstd (RFC 8878 section 3.1.1.2.4), and what is in front.
const MAX_WAITING_BYTES: usize = (128 << 10) + 1024;
/// Decoded text that waits for the end of its piece.
const MAX_AHEAD_BYTES: usize = 64 << 10;

/// The content of a message on its way.
#[derive(Debug)]
pub(super) struct Decoding {
    stages: Stages,
    charge: Charge,
    waiting: Option<Waiting>,
}

/// A message of which nothing has been told.
#[derive(Debug)]
pub(super) struct Waiting {
    /// Its head, as it came and for decoded content.
    pub(super) as_it_came: Vec<u8>,
    decoded: Vec<u8>,
    /// Its content, as it came.
    pub(super) text: Vec<u8>,
}

/// What is to be told.
#[derive(Clone, Copy, Debug)]
pub(super) enum Piece<'a> {
    Head(&'a [u8]),
    Content(&'a [u8]),
}

impl Decoding {
    /// Its head waits.
    pub(super) fn new(
        codings: &Codings,
        as_it_came: Vec<u8>,
        decoded: Vec<u8>,
        budget: &Budget,
    ) -> Result<Self, Undecoded> {
        let mut decoding = Self {
            stages: Stages::new(codings)?,
            charge: budget.charge(),
            waiting: Some(Waiting {
                as_it_came,
                decoded,
                text: Vec::new(),
            }),
        };
        decoding.weigh(0)?;
        Ok(decoding)
    }

    /// More text, the last or not.
    ///
    /// # Errors
    /// It can't be decoded. If nothing was told, it [is as it came](Self::give_back).
    pub(super) fn push(
        &mut self,
        text: &[u8],
        last: bool,
        out: &mut dyn FnMut(Piece<'_>),
    ) -> Result<(), Undecoded> {
        if let Some(waiting) = &mut self.waiting {
            waiting.text.extend_from_slice(text);
        }
        let Self {
            stages, waiting, ..
        } = self;
        let mut ahead = Vec::new();
        stages.push(text, &mut |piece| {
            if waiting.is_none() {
                out(Piece::Content(piece));
                return;
            }
            ahead.extend_from_slice(piece);
            if ahead.len() > MAX_AHEAD_BYTES
                && let Some(waiting) = waiting.take()
            {
                out(Piece::Head(&waiting.decoded));
                out(Piece::Content(&ahead));
                ahead.clear();
            }
        })?;
        if last && !self.stages.are_whole() {
            return Err(Undecoded::Broken);
        }
        self.weigh(ahead.capacity())?;
        if let Some(waiting) = &self.waiting {
            if ahead.is_empty() && !last {
                return match waiting.text.len() {
                    ..=MAX_WAITING_BYTES => Ok(()),
                    _ => Err(Undecoded::Memory),
                };
            }
            self.commit(out);
            out(Piece::Content(&ahead));
        }
        Ok(())
    }

    /// It is to be told decoded, whatever comes.
    pub(super) fn commit(&mut self, out: &mut dyn FnMut(Piece<'_>)) {
        if let Some(waiting) = self.waiting.take() {
            out(Piece::Head(&waiting.decoded));
        }
    }

    /// What waits, if nothing has been told.
    pub(super) fn give_back(self) -> Option<Waiting> {
        self.waiting
    }

    /// Nothing has been told.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    fn weigh(&mut self, more: usize) -> Result<(), Undecoded> {
        let waiting = self.waiting.as_ref().map_or(0, |waiting| {
            waiting.as_it_came.len() + waiting.decoded.len() + waiting.text.capacity()
        });
        let bytes = size_of::<Self>() + self.stages.memory_bytes() + waiting + more;
        match self.charge.set(bytes) {
            true => Ok(()),
            false => Err(Undecoded::Memory),
        }
    }
}
