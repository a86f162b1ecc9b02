//! Where a message's content ends (RFC 9112 section 6).

/// How the text behind a head is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Framing {
    /// There is none.
    Nothing,
    /// By `content-length`, of which so much is to come.
    Length {
        left: u64,
    },
    Chunked,
    /// Not at all: what follows isn't HTTP.
    Tunnel,
}

/// More text than was said, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) struct Overrun;

impl Framing {
    /// So much text comes, as the last or not.
    pub(in super::super) fn take(&mut self, bytes: u64, last: bool) -> Result<(), Overrun> {
        match self {
            Self::Nothing if bytes > 0 => return Err(Overrun),
            Self::Length { left } => *left = left.checked_sub(bytes).ok_or(Overrun)?,
            Self::Nothing | Self::Chunked | Self::Tunnel => {}
        }
        match self {
            Self::Length { left: 1.. } if last => Err(Overrun),
            _ => Ok(()),
        }
    }
}
