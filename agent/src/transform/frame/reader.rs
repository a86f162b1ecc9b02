//! One direction's frames.

use super::head::{END_HEADERS, END_STREAM, FrameError, HEAD_BYTES, Head, Kind, PADDED, StreamId};
use super::payload::{Begun, Frame, begin_block, is_in_pieces, whole};

/// What a client says first, RFC 9113 section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// SETTINGS_MAX_FRAME_SIZE as long as nobody has said another (RFC 9113 section 6.5.2).
const DEFAULT_FRAME_BYTES: usize = 16_384;
/// Largest frame that is kept until it is whole, and largest header block.
const MAX_KEPT_BYTES: usize = 64 << 10;
/// Frames that continue a header block.
const MAX_CONTINUATIONS: u32 = 16;

/// Reads one direction. What isn't whole is kept: at most a frame of 64 KiB, or a header block of as much with what surrounds it.
#[derive(Debug)]
pub struct Reader {
    state: State,
    /// Bytes of what isn't whole yet, from its begin.
    kept: Vec<u8>,
    /// What is in `kept` has been handed out.
    is_over: bool,
    max_frame_bytes: usize,
    /// The pieces of a header block that has begun.
    block: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface,
    /// A frame begins, perhaps one that continues a header block.
    Frame(Option<Begun>),
    /// Within a DATA frame's text.
    Data(Text),
    /// Bytes that say nothing.
    Skip {
        left: usize,
    },
}

/// What is to come of a DATA frame.
#[derive(Clone, Copy, Debug)]
struct Text {
    stream: StreamId,
    left: usize,
    padding: usize,
    ends_stream: bool,
}

impl Text {
    /// The stream ends here.
    fn is_last(self) -> bool {
        self.left == 0 && self.ends_stream
    }

    /// A piece, behind which it is.
    fn piece(self, bytes: &[u8]) -> Frame<'_> {
        Frame::Data {
            stream: self.stream,
            bytes,
            last: self.is_last(),
        }
    }
}

impl Reader {
    /// What the client says.
    pub fn of_client() -> Self {
        Self::new(State::Preface)
    }

    /// What the server says.
    pub fn of_server() -> Self {
        Self::new(State::Frame(None))
    }

    fn new(state: State) -> Self {
        Self {
            state,
            kept: Vec::new(),
            is_over: false,
            max_frame_bytes: DEFAULT_FRAME_BYTES,
            block: Vec::new(),
        }
    }

    /// The reader of this direction permits frames of so many bytes; what was ever permitted is let through.
    pub fn permit(&mut self, frame_bytes: usize) {
        self.max_frame_bytes = self.max_frame_bytes.max(frame_bytes);
    }

    /// What has come of a frame that isn't whole, or of a header block; nothing of DATA once its text begins, nor of a frame of
    /// more than 64 KiB that says nothing.
    pub fn unread(&self) -> &[u8] {
        match self.is_over {
            true => &[],
            false => &self.kept,
        }
    }

    /// Bytes that it has in memory.
    pub fn memory_bytes(&self) -> usize {
        self.kept.capacity() + self.block.capacity()
    }

    /// Reads on, to the next frame or piece, and takes that from the front of `text`. Nothing: all is taken, and more is needed.
    ///
    /// # Errors
    /// These are no frames, or they are larger than may be. Nothing can be read any more; what was [`unread`](Self::unread)
    /// before the call, and `text` as it was before, are what came of the frame.
    pub fn next<'a, 't: 'a>(
        &'a mut self,
        text: &mut &'t [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if std::mem::take(&mut self.is_over) {
            for buffer in [&mut self.kept, &mut self.block] {
                buffer.clear();
                buffer.shrink_to(DEFAULT_FRAME_BYTES);
            }
        }
        match self.state {
            State::Preface => self.preface(text),
            State::Data(of) => Ok(self.data(of, text)),
            State::Skip { left } => {
                let taken = left.min(text.len());
                *text = &text[taken..];
                self.skip(left - taken);
                Ok((taken > 0).then_some(Frame::Other))
            }
            State::Frame(begun) => self.frame(begun, text),
        }
    }

    /// So many bytes are missing here. Says of which stream's text they are, and whether it ends behind them. Nothing: they aren't
    /// all of one DATA frame's text, and nobody knows where the next frame begins.
    pub fn hole(&mut self, bytes: u64) -> Option<(StreamId, bool)> {
        let State::Data(mut of) = self.state else {
            return None;
        };
        of.left = of.left.checked_sub(usize::try_from(bytes).ok()?)?;
        self.is_over = true;
        self.in_data(of);
        Some((of.stream, of.is_last()))
    }

    /// The first bytes of what is kept, whether they have been handed out or not, as long as nothing else is read.
    pub fn kept(&self, bytes: usize) -> &[u8] {
        self.kept.get(..bytes).unwrap_or(&self.kept)
    }

    fn preface<'a>(&mut self, text: &mut &'a [u8]) -> Result<Option<Frame<'a>>, FrameError> {
        let is_whole = self.keep(text, PREFACE.len());
        if !PREFACE.starts_with(&self.kept) {
            return Err(FrameError::Preface);
        }
        if !is_whole {
            return Ok(None);
        }
        self.is_over = true;
        self.state = State::Frame(None);
        Ok(Some(Frame::Other))
    }

    fn frame<'a, 't: 'a>(
        &'a mut self,
        begun: Option<Begun>,
        text: &mut &'t [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        if self.kept.is_empty()
            && let Some((head, rest)) = text.split_first_chunk()
            && let head = Head::read(*head)
            && let Some((payload, rest)) = rest.split_at_checked(head.length)
            && !is_in_pieces(&head)
        {
            // The usual case: all of it is there, and nothing needs to be kept.
            self.check(&head, None)?;
            *text = rest;
            return whole(&head, payload).map(Some);
        }
        let begin = begun.map_or(0, |begun| begun.next);
        if !self.keep(text, begin + HEAD_BYTES) {
            return Ok(None);
        }
        let Some(head) = self.kept[begin..].first_chunk() else {
            return Ok(None);
        };
        let head = Head::read(*head);
        self.check(&head, begun)?;
        if head.kind == Kind::Data {
            return self.begin_data(&head, text);
        }
        if head.kind == Kind::Other && head.length > MAX_KEPT_BYTES {
            self.is_over = true;
            self.skip(head.length);
            return Ok(Some(Frame::Other));
        }
        let payload = begin + HEAD_BYTES;
        let end = payload + head.length;
        if end > MAX_KEPT_BYTES {
            return Err(FrameError::TooLarge(end));
        }
        if !self.keep(text, end) {
            return Ok(None);
        }
        if !is_in_pieces(&head) && begun.is_none() {
            self.is_over = true;
            return whole(&head, &self.kept[payload..end]).map(Some);
        }
        let (mut begun, piece) = match begun {
            Some(begun) => (begun, &self.kept[payload..end]),
            None => {
                self.block.clear();
                begin_block(&head, &self.kept[payload..end])?
            }
        };
        self.block.extend_from_slice(piece);
        if !head.has(END_HEADERS) {
            begun.next = end;
            begun.continuations += 1;
            if begun.continuations > MAX_CONTINUATIONS {
                return Err(FrameError::Continuations(MAX_CONTINUATIONS));
            }
            self.state = State::Frame(Some(begun));
            return Ok(Some(Frame::Other));
        }
        self.is_over = true;
        self.state = State::Frame(None);
        Ok(Some(begun.frame(&self.block)))
    }

    /// What every frame must keep to.
    fn check(&self, head: &Head, begun: Option<Begun>) -> Result<(), FrameError> {
        if head.length > self.max_frame_bytes {
            return Err(FrameError::TooLarge(head.length));
        }
        let continued = begun.map(|begun| begun.stream);
        let continues = (head.kind == Kind::Continuation).then_some(head.stream);
        // RFC 9113 section 6.10: nothing comes between the pieces of a header block.
        if continued != continues {
            return Err(FrameError::Continuation);
        }
        let of_stream = matches!(
            head.kind,
            Kind::Data | Kind::Headers | Kind::PushPromise | Kind::Reset
        );
        if of_stream && head.stream == StreamId::CONNECTION {
            return Err(FrameError::Stream);
        }
        Ok(())
    }

    /// Behind the head of a DATA frame, RFC 9113 section 6.1.
    fn begin_data<'a>(
        &mut self,
        head: &Head,
        text: &mut &'a [u8],
    ) -> Result<Option<Frame<'a>>, FrameError> {
        let mut left = head.length;
        let mut padding = 0;
        if head.has(PADDED) {
            left = left.checked_sub(1).ok_or(FrameError::Length)?;
            if !self.keep(text, HEAD_BYTES + 1) {
                return Ok(None);
            }
            padding = usize::from(self.kept[HEAD_BYTES]);
            left = left.checked_sub(padding).ok_or(FrameError::Padding)?;
        }
        let of = Text {
            stream: head.stream,
            left,
            padding,
            ends_stream: head.has(END_STREAM),
        };
        if left == 0 {
            self.is_over = true;
            self.in_data(of);
            return Ok(Some(of.piece(&[])));
        }
        self.in_data(of);
        Ok(self.data(of, text))
    }

    fn data<'a>(&mut self, mut of: Text, text: &mut &'a [u8]) -> Option<Frame<'a>> {
        let (bytes, rest) = text.split_at(of.left.min(text.len()));
        if bytes.is_empty() {
            return None;
        }
        *text = rest;
        self.is_over = true;
        of.left -= bytes.len();
        self.in_data(of);
        Some(of.piece(bytes))
    }

    fn in_data(&mut self, of: Text) {
        self.state = State::Data(of);
        if of.left == 0 {
            self.skip(of.padding);
        }
    }

    fn skip(&mut self, left: usize) {
        self.state = match left {
            0 => State::Frame(None),
            left => State::Skip { left },
        };
    }

    /// Keeps bytes until there are `most`, and says whether there are.
    fn keep(&mut self, text: &mut &[u8], most: usize) -> bool {
        let missing = most.saturating_sub(self.kept.len());
        let (taken, rest) = text.split_at(missing.min(text.len()));
        self.kept.extend_from_slice(taken);
        *text = rest;
        taken.len() == missing
    }
}
