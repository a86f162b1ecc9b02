//! `br` (RFC 7932): one stream, with a window of at most 16 MiB.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use brotli_decompressor::{
    Allocator, BrotliDecompressStream, BrotliResult, BrotliState, SliceWrapper, StandardAlloc,
};

use super::stages::{Out, PIECE_BYTES, Stage};
use crate::transform::stats::Undecoded;

/// A stream.
pub(super) struct Brotli {
    state: Box<BrotliState<Counted, Counted, Counted>>,
    /// What the state has in memory beside itself.
    bytes: Arc<AtomicUsize>,
    is_whole: bool,
}

/// Memory, and how much of it is in use. (The decoder and who asks are on one thread: relaxed, and paired with nothing.)
struct Counted(Arc<AtomicUsize>);

impl<T> Allocator<T> for Counted
where
    StandardAlloc: Allocator<T>,
{
    type AllocatedMemory = <StandardAlloc as Allocator<T>>::AllocatedMemory;

    fn alloc_cell(&mut self, len: usize) -> Self::AllocatedMemory {
        self.0.fetch_add(len * size_of::<T>(), Ordering::Relaxed);
        StandardAlloc::default().alloc_cell(len)
    }

    fn free_cell(&mut self, data: Self::AllocatedMemory) {
        let bytes = size_of_val(data.slice());
        self.0.fetch_sub(bytes, Ordering::Relaxed);
        StandardAlloc::default().free_cell(data);
    }
}

impl Brotli {
    pub(super) fn new() -> Self {
        let bytes = Arc::new(AtomicUsize::new(0));
        let [a, b, c] = [(); 3].map(|()| Counted(bytes.clone()));
        Self {
            // Strict: without windows that are larger than the RFC's.
            state: Box::new(BrotliState::new_strict(a, b, c)),
            bytes,
            is_whole: false,
        }
    }
}

impl Stage for Brotli {
    fn push(&mut self, text: &[u8], out: Out<'_>) -> Result<(), Undecoded> {
        if text.is_empty() {
            return Ok(());
        }
        if self.is_whole {
            return Err(Undecoded::Broken);
        }
        let mut buffer = [0; PIECE_BYTES];
        let (mut left, mut taken, mut total) = (text.len(), 0, 0);
        loop {
            let (mut room, mut made) = (buffer.len(), 0);
            let result = BrotliDecompressStream(
                &mut left,
                &mut taken,
                text,
                &mut room,
                &mut made,
                &mut buffer,
                &mut total,
                &mut self.state,
            );
            if made > 0 {
                out(&buffer[..made])?;
            }
            match result {
                BrotliResult::NeedsMoreOutput => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess if left == 0 => {
                    self.is_whole = true;
                    return Ok(());
                }
                BrotliResult::ResultSuccess | BrotliResult::ResultFailure => {
                    return Err(Undecoded::Broken);
                }
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.is_whole
    }

    fn memory_bytes(&self) -> usize {
        size_of_val(&*self.state) + self.bytes.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Brotli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Brotli")
            .field("is_whole", &self.is_whole)
            .finish_non_exhaustive()
    }
}
