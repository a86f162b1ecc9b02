//! `zstd` (RFC 8878): frames one behind another.

use std::fmt;

use zstd::zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use super::stages::{Out, PIECE_BYTES, Stage};
use crate::transform::stats::Undecoded;

/// The largest window, as a power of two: 8 MiB, which is what RFC 9659 permits on the web.
const MAX_WINDOW_LOG: u32 = 23;

/// All frames.
pub(super) struct Zstandard {
    context: DCtx<'static>,
    /// A frame has ended here.
    is_whole: bool,
}

impl Zstandard {
    pub(super) fn new() -> Result<Self, Undecoded> {
        let mut context = DCtx::try_create().ok_or(Undecoded::Memory)?;
        let limited = context.set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG));
        limited.map_err(|_| Undecoded::Memory)?;
        Ok(Self {
            context,
            is_whole: false,
        })
    }
}

impl Stage for Zstandard {
    fn push(&mut self, text: &[u8], out: Out<'_>) -> Result<(), Undecoded> {
        let mut buffer = [0; PIECE_BYTES];
        let mut input = InBuffer::around(text);
        loop {
            let taken = input.pos();
            if taken == text.len() && self.is_whole {
                return Ok(());
            }
            let mut output = OutBuffer::around(&mut buffer[..]);
            let left = self.context.decompress_stream(&mut output, &mut input);
            let left = left.map_err(|_| Undecoded::Broken)?;
            self.is_whole = left == 0;
            let made = output.pos();
            if made > 0 {
                out(&buffer[..made])?;
            }
            // It has nothing left of what it has taken.
            if input.pos() == text.len() && made < buffer.len() {
                return Ok(());
            }
            if (input.pos(), made) == (taken, 0) {
                return Err(Undecoded::Broken);
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn memory_bytes(&self) -> usize {
        self.context.sizeof()
    }
}

impl fmt::Debug for Zstandard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Zstandard")
            .field("is_whole", &self.is_whole)
            .finish_non_exhaustive()
    }
}
