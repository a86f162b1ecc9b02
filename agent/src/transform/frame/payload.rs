//! What frames say.

use super::head::{END_HEADERS, END_STREAM, FrameError, Head, Kind, StreamId};
use super::header_block;
use super::settings::Settings;

/// A frame, or a piece of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Text of a stream.
    Data {
        /// Its stream.
        stream: StreamId,
        /// All that has come of it; may be nothing.
        bytes: &'a [u8],
        /// The stream ends behind it.
        last: bool,
    },
    /// A whole header block.
    Headers {
        /// Its stream.
        stream: StreamId,
        /// The block.
        block: &'a [u8],
        /// The stream ends with it.
        last: bool,
    },
    /// A request that the server makes for the client.
    PushPromise {
        /// The stream with which it has to do.
        stream: StreamId,
        /// The stream of its answer.
        promised: StreamId,
        /// The whole header block.
        block: &'a [u8],
    },
    /// A stream is given up.
    Reset {
        /// Which.
        stream: StreamId,
    },
    /// What the other end may do.
    Settings(Settings),
    /// No stream of the other end behind this one will be heard.
    GoAway {
        /// The last that may have been.
        last: StreamId,
    },
    /// Nothing that messages are made of.
    Other,
}

/// A header block that is to be continued.
#[derive(Clone, Copy, Debug)]
pub(super) struct Begun {
    pub(super) stream: StreamId,
    /// Of PUSH_PROMISE.
    promised: Option<StreamId>,
    /// The stream ends with it.
    last: bool,
    pub(super) continuations: u32,
    /// Where the next frame begins in `kept`.
    pub(super) next: usize,
}

impl Begun {
    pub(super) fn frame(self, block: &[u8]) -> Frame<'_> {
        let Self { stream, last, .. } = self;
        match self.promised {
            Some(promised) => Frame::PushPromise {
                stream,
                promised,
                block,
            },
            None => Frame::Headers {
                stream,
                block,
                last,
            },
        }
    }
}

/// It is handed out as it comes, or only with what continues it.
pub(super) fn is_in_pieces(head: &Head) -> bool {
    match head.kind {
        Kind::Data => true,
        Kind::Headers | Kind::PushPromise => !head.has(END_HEADERS),
        _ => false,
    }
}

/// The begin of a header block, and its first piece.
pub(super) fn begin_block<'a>(
    head: &Head,
    payload: &'a [u8],
) -> Result<(Begun, &'a [u8]), FrameError> {
    let (promised, piece) = match head.kind {
        Kind::PushPromise => {
            let (promised, piece) = header_block::of_push_promise(head, payload)?;
            (Some(promised), piece)
        }
        _ => (None, header_block::of_headers(head, payload)?),
    };
    let begun = Begun {
        stream: head.stream,
        promised,
        last: promised.is_none() && head.has(END_STREAM),
        continuations: 0,
        next: 0,
    };
    Ok((begun, piece))
}

/// What a frame says of which there is all.
pub(super) fn whole<'a>(head: &Head, payload: &'a [u8]) -> Result<Frame<'a>, FrameError> {
    Ok(match head.kind {
        Kind::Headers | Kind::PushPromise => {
            let (begun, block) = begin_block(head, payload)?;
            begun.frame(block)
        }
        Kind::Settings => Frame::Settings(Settings::read(head, payload)?),
        // RFC 9113 section 6.4.
        Kind::Reset if payload.len() != 4 => return Err(FrameError::Length),
        Kind::Reset => Frame::Reset {
            stream: head.stream,
        },
        Kind::GoAway => Frame::GoAway {
            last: go_away(head, payload)?,
        },
        Kind::Data | Kind::Continuation | Kind::Other => Frame::Other,
    })
}

/// RFC 9113 section 6.8.
fn go_away(head: &Head, payload: &[u8]) -> Result<StreamId, FrameError> {
    if head.stream != StreamId::CONNECTION {
        return Err(FrameError::Stream);
    }
    match payload.split_first_chunk() {
        Some((last, rest)) if rest.len() >= 4 => Ok(StreamId::from_bytes(*last)),
        _ => Err(FrameError::Length),
    }
}
