//! What is done in a conversation, and what came of it.

use std::io::{ErrorKind, Result};

use proptest::collection::vec;
use proptest::prelude::*;

use crate::transport::{Fault, Logged};

/// A conversation.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) tls12: bool,
    pub(crate) steps: Vec<(Side, Op)>,
    /// Met by the transport's calls in turn, again and again.
    pub(crate) faults: Vec<Fault>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Which of the two ways.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// `Stream`.
    Stream,
    /// `reader()` and `writer()`.
    Raw,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    Write(Call, usize),
    WriteVectored(Call, [usize; 3]),
    Read(Call, usize),
    /// Shows, and consumes at most so much of it.
    Consume(Call, usize),
    Flush(Call),
    CompleteIo,
    ReadTls,
    WriteTls,
    Process,
    SendCloseNotify,
    RefreshKeys,
    Limit(usize),
    /// Changes the last byte on its way to this side.
    Corrupt,
    /// This side's transport sends no more.
    EndTransport,
    /// Both sides' transports fail from now on.
    ResetTransport,
}

/// What a call gave.
pub(crate) type Called = std::result::Result<usize, ErrorKind>;

/// What came of it.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) transport: Vec<Logged>,
}

/// What one end saw.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct End {
    /// Each call's result; whether the connection then wants to read, wants to write, is handshaking.
    pub(crate) calls: Vec<(Called, (bool, bool, bool))>,
    pub(crate) accepted: Vec<u8>,
    pub(crate) read: Vec<u8>,
    /// How much was accepted before the close_notify.
    pub(crate) closed_at: Option<usize>,
    pub(crate) handshaken: bool,
    /// It was told that nothing more comes.
    pub(crate) saw_end: bool,
    /// Its connection has met a fatal error.
    pub(crate) failed: bool,
}

impl End {
    pub(crate) fn take_accepted(&mut self, bytes: &[u8], result: Result<usize>) -> Result<usize> {
        if let Ok(count) = result {
            self.accepted.extend_from_slice(&bytes[..count]);
        }
        result
    }

    pub(crate) fn take_read(&mut self, buf: &[u8], result: Result<usize>) -> Result<usize> {
        match &result {
            Ok(0) if !buf.is_empty() => self.saw_end = true,
            Ok(count) => self.read.extend_from_slice(&buf[..*count]),
            Err(_) => {}
        }
        result
    }

    pub(crate) fn take_consumed(&mut self, shown: Result<Vec<u8>>) -> Result<usize> {
        let shown = shown?;
        self.read.extend_from_slice(&shown);
        Ok(shown.len())
    }

    pub(crate) fn take_close_notify(&mut self) {
        self.closed_at = self.closed_at.or(Some(self.accepted.len()));
    }

    /// What was accepted for the peer to read.
    pub(crate) fn said(&self) -> &[u8] {
        &self.accepted[..self.closed_at.unwrap_or(self.accepted.len())]
    }
}

pub(crate) fn outcome_of(result: &Result<usize>) -> Called {
    match result {
        Ok(count) => Ok(*count),
        Err(error) => Err(error.kind()),
    }
}

/// What one says from `offset` on: no two places nearby are alike.
pub(crate) fn text(offset: usize, length: usize) -> Vec<u8> {
    (offset as u64..)
        .take(length)
        .map(|at| {
            at.wrapping_mul(0x9e37_79b9_7f4a_7c15)
                .rotate_left(8)
                .to_le_bytes()[0]
        })
        .collect()
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![
        Just(0),
        Just(1),
        2..100_usize,
        100..5000_usize,
        16_000..17_000_usize,
        Just(70_000),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let call = || prop_oneof![3 => Just(Call::Stream), 2 => Just(Call::Raw)];
    prop_oneof![
        12 => (call(), length()).prop_map(|(call, length)| Op::Write(call, length)),
        6 => (call(), [length(), length(), length()])
            .prop_map(|(call, lengths)| Op::WriteVectored(call, lengths)),
        16 => (call(), length()).prop_map(|(call, length)| Op::Read(call, length)),
        8 => (call(), length()).prop_map(|(call, most)| Op::Consume(call, most)),
        6 => call().prop_map(Op::Flush),
        12 => Just(Op::CompleteIo),
        6 => Just(Op::ReadTls),
        6 => Just(Op::WriteTls),
        6 => Just(Op::Process),
        1 => Just(Op::RefreshKeys),
        // No more than is kept until a handshake has ended.
        1 => length().prop_map(|length| Op::Limit(length.min(60_000))),
    ]
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

/// How it ends: with what is still said in between.
fn end() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::SendCloseNotify),
        2 => Just(Op::Corrupt),
        2 => Just(Op::EndTransport),
        1 => Just(Op::ResetTransport),
        4 => op(),
    ]
}

/// Brings a handshake to its end, where the transport lets it.
fn greeting() -> impl Strategy<Value = Vec<(Side, Op)>> {
    let turns = [
        (Side::Client, Op::CompleteIo),
        (Side::Server, Op::CompleteIo),
    ];
    prop_oneof![
        1 => Just(Vec::new()),
        6 => Just(turns.iter().copied().cycle().take(60).collect::<Vec<_>>()),
    ]
}

/// Reads what there is, up to the end.
fn farewell() -> impl Strategy<Value = Vec<(Side, Op)>> {
    let read = Op::Read(Call::Stream, 70_000);
    let turns = [(Side::Client, read), (Side::Server, read)];
    prop_oneof![
        1 => Just(Vec::new()),
        2 => Just(turns.iter().copied().cycle().take(40).collect::<Vec<_>>()),
    ]
}

pub(crate) fn plans() -> impl Strategy<Value = Plan> {
    let fault = prop_oneof![
        4 => Just(Fault::None),
        3 => (1..40_usize).prop_map(Fault::Short),
        3 => (40..3000_usize).prop_map(Fault::Short),
        1 => Just(Fault::WouldBlock),
        1 => Just(Fault::Interrupted),
    ];
    (
        prop::bool::weighted(0.3),
        vec((side(), op()), 0..6),
        greeting(),
        vec((side(), op()), 0..60),
        vec((side(), end()), 0..6),
        vec((side(), op()), 0..12),
        farewell(),
        vec(fault, 1..12),
    )
        .prop_map(
            |(tls12, first, greeting, middle, end, last, farewell, faults)| Plan {
                tls12,
                steps: [first, greeting, middle, end, last, farewell].concat(),
                // Where each call is interrupted, rustls tries for ever.
                faults: [vec![Fault::None], faults].concat(),
            },
        )
}
