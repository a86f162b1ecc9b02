//! Finds the sockets of sessions whose library has none, without the right to capture: by how much both have carried.
//!
//! ```text
//! OPEN, UPDATE: bytes that the library has read from and written to its transport, and when ──┐
//! LOOK: the process's connections, bytes received and sent by each, as it sees them itself ───┼─> Process ─> its socket
//! /proc/PID/fd, sock_diag(7): the same, seen from here ───────────────────────────────────────┘
//! ```
//!
//! On one machine a transfer is over within a millisecond or two of its handshake, before the ring is read next. So a process that
//! `run` starts looks itself, at the end of the first calls in which a connection without a socket has carried something: nothing
//! of that connection passes meanwhile.
//!
//! # Why what is found is true
//!
//! Let a session have written W(t) and read R(t) bytes of TLS by the time t, and a socket have taken X(t) bytes from its
//! program and handed C(t) to it, whatever of that the network has seen (see [`sockets`]). Of the session's own socket,
//! if it carries nothing but TLS:
//!
//! 1. X(t) ≤ W(t): nothing is sent that wasn't written. C(t) ≥ R(t): nothing is read that didn't come. A program, or a
//!    BIO in memory, may hold back what was written, and read ahead: so these aren't equations.
//! 2. At rest they are: X = W and C = R.
//!
//! The hook tells W and R behind each call in which they have grown, with the time: between the times of two words
//! the counts lie between them. A look at the sockets has a beginning and an end of its own. So a socket *contradicts* a
//! session if X is more than its next word behind the sample, or C less than its last word before it. That is for ever.
//! And it *stood with* the session if the look saw all sockets of the process, there was no word in its course, and both
//! counts are equal to the last word before it. If there was another word later, the session's own socket was there, too:
//! what passed between the two passed through it (no program closes a socket in the middle of a call that uses it).
//!
//! A session is bound to a socket that stood with it at such a look, and never contradicted it, if
//!
//! - each other socket that was there is excluded: it has a session already; or C was less than R once; or it wasn't there at
//!   another look at which the session's own was. Or, if the one to be bound has stood with the session at two different
//!   counts: X was less than W at one of these looks, or from the first of them to another it moved by other amounts than
//!   the session may have. All of that holds whatever clear text a socket has carried in front of TLS.
//! - each other session of the process without a socket is bound, or contradicted by this one, or stood with another socket
//!   and not with this one at one of these looks.
//!
//! Clear text in front of TLS (STARTTLS, CONNECT, a PROXY header) shifts the counts of a session's own socket: it never
//! stands with it. But it goes on moving as the session does, so it isn't excluded, and keeps the session from being bound
//! to another one that happens to have its counts. Such a session stays unbound. So do those of which two move alike at
//! every look, and one whose socket was gone at the first.
//!
//! Looks may overlap, the process's own with one another and with ours: of two that do, which saw a socket first isn't known, so what
//! it has moved between them isn't asked. And where a process looks itself, at the end of a call, a BIO in memory still holds what that has
//! written: there nobody is excluded by what he hasn't sent.
//!
//! That no other socket can be the session's is proven for libraries whose BIO is the socket, whoever else has sockets in
//! the process (`table_tests` plays that). What is left: a program that holds back what was written, or reads ahead, just as looks pass, at the
//! very moments at which another of its connections, of which nobody tells (of another TLS library), stands at exactly
//! the same two pairs of counts; and, with such a twin, a session whose socket isn't among its own process's descriptors or carries
//! another session's TLS (TLS within TLS), and one whose packets this host refuses itself, which the kernel counts as sent.
//!
//! Of what has the same time nobody knows which came first, as with a clock that stands for a while: a word at the very time of a
//! look says nothing of it.
//!
//! Whoever lies about its counts can only get a connection of its own, where ours are the eyes. Addresses that its process alone has told
//! are a claim, which the kernel is asked about as about any other (`flow::proof`).
//!
//! # What it doesn't find
//!
//! Sessions in front of whose TLS there is clear text; those that go through something else than a TCP connection of their
//! process; those of a process with more than 64 connections, or a table of more than 256 descriptors, that are over before it is looked at from
//! here; and of a program with BIOs in memory those that are never at rest when a call ends. From outside nothing mends that without guessing:
//!
//! - a socket that was there when the process asked for its ring, alone, isn't the session's for that: what is written into a
//!   BIO in memory may pass through a pipe, and the one TCP connection be another's. Equal counts alone say it.
//! - what has been closed keeps no counts: a socket in TIME_WAIT has none. The kernel tells the last ones of each that it
//!   destroys (SKNLGRP_INET_TCP_DESTROY), of all processes and without saying whose it was: that the session's own was among
//!   those that were seen isn't known, and what a program hasn't read of its peer's end is in them.

use crate::event::{MonotonicTime, ProcessInfo};
use crate::flow::proof::{Claim, Ends};

mod finder;
mod history;
mod moment;
pub mod sockets;
mod table;
mod told;

pub(super) use finder::Finder;

/// The socket of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Its addresses, which the kernel has told.
    Seen(Ends),
    /// Those that its process has told, which nobody has checked.
    Told(Claim),
}

impl Found {
    pub(super) fn ends(self) -> Ends {
        match self {
            Self::Seen(ends) | Self::Told(Claim { ends, .. }) => ends,
        }
    }
}

/// Bytes, seen from the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sent by a socket, or to be; written by a library.
    pub sent: u64,
    /// Received and taken by the program; read by a library.
    pub received: u64,
}

impl Counts {
    /// As the hook tells them: read, written.
    fn of_wire((received, sent): (u64, u64)) -> Self {
        Self { sent, received }
    }
}

/// Who can look at a process's sockets.
pub trait Looker: std::fmt::Debug {
    /// All of its connections. `None`: nobody here may look at this process, now or later.
    fn look(&mut self, process: &ProcessInfo) -> Option<Look>;

    /// It won't be looked at for now: what is remembered of it isn't needed.
    fn forget(&mut self, _pid: u32) {}
}

/// A connection of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Its SO_COOKIE: no two sockets have the same one.
    pub socket: u64,
    /// Its addresses, where they are known.
    pub ends: Option<Ends>,
    /// What it has carried between `from` and `to`.
    pub counts: Counts,
    /// The count isn't older.
    pub from: MonotonicTime,
    /// It isn't newer.
    pub to: MonotonicTime,
}

/// All connections of a process at some time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Before its descriptors were read.
    pub began: MonotonicTime,
    /// Behind the last sample.
    pub ended: MonotonicTime,
    /// None is missing that was there all the time.
    pub complete: bool,
    /// The process itself has looked, at the end of a call: what that has written may still be held back.
    pub told: bool,
    /// What was found, in the order of `socket` once it is in the table.
    pub samples: Vec<Sample>,
}

impl Look {
    fn of(&self, socket: u64) -> Option<&Sample> {
        let at = self
            .samples
            .binary_search_by_key(&socket, |sample| sample.socket);
        self.samples.get(at.ok()?)
    }
}
