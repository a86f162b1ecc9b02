//! SETTINGS (RFC 9113 section 6.5).

use super::head::{ACK, FrameError, Head, StreamId};

const HEADER_TABLE_SIZE: u16 = 1;
const MAX_FRAME_SIZE: u16 = 5;

/// What one end permits the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Largest table for header blocks that it reads, in bytes.
    pub header_table_bytes: Option<usize>,
    /// Largest frame that it reads, in bytes.
    pub max_frame_bytes: Option<usize>,
}

impl Settings {
    pub(super) fn read(head: &Head, payload: &[u8]) -> Result<Self, FrameError> {
        if head.stream != StreamId::CONNECTION {
            return Err(FrameError::Stream);
        }
        if head.has(ACK) && !payload.is_empty() {
            return Err(FrameError::Length);
        }
        Self::of_payload(payload)
    }

    /// From a frame's payload, also where it comes without its frame (RFC 7540 section 3.2.1).
    ///
    /// # Errors
    /// Its length can't be.
    pub fn of_payload(payload: &[u8]) -> Result<Self, FrameError> {
        let (all, rest) = payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(FrameError::Length);
        }
        let mut settings = Self::default();
        for [i0, i1, value @ ..] in all {
            let value = usize::try_from(u32::from_be_bytes(*value)).unwrap_or(usize::MAX);
            // Of one that is said twice the larger counts: what follows may have been written before the smaller was heard.
            match u16::from_be_bytes([*i0, *i1]) {
                HEADER_TABLE_SIZE => {
                    settings.header_table_bytes = settings.header_table_bytes.max(Some(value));
                }
                MAX_FRAME_SIZE => {
                    settings.max_frame_bytes = settings.max_frame_bytes.max(Some(value));
                }
                _ => {}
            }
        }
        Ok(settings)
    }
}
