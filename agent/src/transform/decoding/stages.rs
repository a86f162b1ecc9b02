//! Decoders, one behind another.

use std::fmt::Debug;

use super::brotli::Brotli;
use super::coding::{Coding, Codings};
use super::deflate::Deflate;
use super::gzip::Gzip;
use super::zstandard::Zstandard;
use crate::transform::stats::Undecoded;

/// What may always come out, in bytes.
const FREE_BYTES: u64 = 64 << 10;
/// What may come out beyond that, for each byte that went in.
const MAX_RATIO: u64 = 100;
/// What comes out at a time, in bytes.
pub(super) const PIECE_BYTES: usize = 16 << 10;

/// Takes what a decoder makes.
pub(super) type Out<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Undecoded>;

/// Decodes one coding, in whatever pieces it comes.
pub(super) trait Stage: Debug + Send + Sync {
    /// Takes all of a text.
    fn push(&mut self, text: &[u8], out: Out<'_>) -> Result<(), Undecoded>;

    /// It may end here.
    fn is_whole(&self) -> bool;

    /// Bytes that it has in memory, about.
    fn memory_bytes(&self) -> usize;
}

/// All of a message.
#[derive(Debug)]
pub(super) struct Stages {
    /// The last that was put on comes first.
    stages: Vec<Box<dyn Stage>>,
    taken: u64,
    made: u64,
}

impl Stages {
    pub(super) fn new(codings: &Codings) -> Result<Self, Undecoded> {
        let stages = codings.0.iter().rev().map(|coding| {
            Ok(match coding {
                Coding::Gzip => Box::new(Gzip::default()) as Box<dyn Stage>,
                Coding::Deflate => Box::new(Deflate::default()),
                Coding::Brotli => Box::new(Brotli::new()),
                Coding::Zstandard => Box::new(Zstandard::new()?),
            })
        });
        Ok(Self {
            stages: stages.collect::<Result<_, _>>()?,
            taken: 0,
            made: 0,
        })
    }

    /// Takes all of a text; what comes out comes in pieces of at most [`PIECE_BYTES`].
    pub(super) fn push(
        &mut self,
        text: &[u8],
        out: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Undecoded> {
        let made = &mut self.made;
        self.taken += text.len() as u64;
        // Within, too: what is small at the end may have been large in between.
        let most = self
            .taken
            .saturating_mul(MAX_RATIO)
            .saturating_add(FREE_BYTES);
        let mut between = *made;
        push(&mut self.stages, text, &mut between, most, &mut |piece| {
            *made += piece.len() as u64;
            if *made > most {
                return Err(Undecoded::Ratio);
            }
            out(piece);
            Ok(())
        })
    }

    pub(super) fn are_whole(&self) -> bool {
        self.stages.iter().all(|stage| stage.is_whole())
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.stages.iter().map(|stage| stage.memory_bytes()).sum()
    }
}

fn push(
    stages: &mut [Box<dyn Stage>],
    text: &[u8],
    between: &mut u64,
    most: u64,
    out: Out<'_>,
) -> Result<(), Undecoded> {
    let Some((first, rest)) = stages.split_first_mut() else {
        return out(text);
    };
    if rest.is_empty() {
        return first.push(text, out);
    }
    first.push(text, &mut |piece| {
        *between += piece.len() as u64;
        match *between > most {
            true => Err(Undecoded::Ratio),
            false => push(rest, piece, between, most, out),
        }
    })
}
