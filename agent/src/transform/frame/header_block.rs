//! HEADERS and PUSH_PROMISE without what surrounds their piece of a header block (RFC 9113 sections 6.2 and 6.6).

use super::head::{FrameError, Head, PADDED, PRIORITY, StreamId};

/// Bytes of the priority that HEADERS may have.
const PRIORITY_BYTES: usize = 5;

/// The piece of a header block in HEADERS.
pub(super) fn of_headers<'a>(head: &Head, payload: &'a [u8]) -> Result<&'a [u8], FrameError> {
    let payload = without_padding(head, payload)?;
    match head.has(PRIORITY) {
        true => payload.get(PRIORITY_BYTES..).ok_or(FrameError::Length),
        false => Ok(payload),
    }
}

/// The stream that PUSH_PROMISE promises, and its piece of a header block.
pub(super) fn of_push_promise<'a>(
    head: &Head,
    payload: &'a [u8],
) -> Result<(StreamId, &'a [u8]), FrameError> {
    let payload = without_padding(head, payload)?;
    let (promised, block) = payload.split_first_chunk().ok_or(FrameError::Length)?;
    Ok((StreamId::from_bytes(*promised), block))
}

fn without_padding<'a>(head: &Head, payload: &'a [u8]) -> Result<&'a [u8], FrameError> {
    if !head.has(PADDED) {
        return Ok(payload);
    }
    let (&padding, rest) = payload.split_first().ok_or(FrameError::Length)?;
    let end = rest.len().checked_sub(usize::from(padding));
    Ok(&rest[..end.ok_or(FrameError::Padding)?])
}
