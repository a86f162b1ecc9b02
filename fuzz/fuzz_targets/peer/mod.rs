//! What a program would have understood of HTTP/2, by h2, beside what is told of it in HTTP/1.1: the same messages. The fuzz
//! targets call it with inputs that they make up, and tests in `agent/src/transform` with those of the corpus.
#![allow(
    dead_code,
    unused_imports,
    reason = "each target uses one of the functions"
)]

mod ours;
mod theirs;

use std::collections::HashMap;

use agent::event::{FlowInfo, Side};
use http::HeaderMap;

pub(crate) use theirs::{Asked, asking};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// A message, whole or not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method and target, or the status.
    pub(crate) line: String,
    /// Values of each name in small letters, but for those that frame the content.
    pub(crate) fields: HashMap<String, Vec<Vec<u8>>>,
    pub(crate) content: Vec<u8>,
    /// Fields behind the content.
    pub(crate) trailers: HashMap<String, Vec<Vec<u8>>>,
    /// Its end is there: all of its length, or that nothing follows.
    pub(crate) is_whole: bool,
}

/// What was understood, and whether that was all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Understood {
    pub(crate) messages: Vec<Message>,
    /// Something was refused, ignored or given up: there may be more.
    pub(crate) is_partial: bool,
}

/// What a client says behind its preface: our requests are those that h2 would have served, and no others.
pub(crate) fn requests(bytes: &[u8], info: &FlowInfo) {
    let ours = ours::told(
        &[(Side::Client, &[PREFACE, SETTINGS, bytes].concat())],
        info,
    );
    let theirs = theirs::served(bytes);
    same(&ours[0], &theirs);
}

/// What a server says behind its settings to three requests: our responses are those that h2 would have got.
pub(crate) fn responses(bytes: &[u8], info: &FlowInfo) {
    let (asked, theirs) = theirs::answered(bytes);
    let said = [
        (Side::Client, &asked[..]),
        (Side::Server, &[SETTINGS, bytes].concat()),
    ];
    same(&ours::told(&said, info)[1], &theirs);
}

fn same(ours: &Understood, theirs: &Understood) {
    let (has, all) = (Message::is_like, &ours.messages);
    for message in all.iter().filter(|_| !theirs.is_partial) {
        let found = theirs.messages.iter().any(|theirs| has(message, theirs));
        assert!(found, "h2 has no {message:?}: {theirs:?}");
    }
    for message in theirs.messages.iter().filter(|_| !ours.is_partial) {
        let found = all.iter().any(|ours| has(ours, message));
        assert!(found, "we have no {message:?}: {ours:?}");
    }
    // What both have as a whole, is the same, whatever became of the rest.
    for ours in all.iter().filter(|message| message.is_whole) {
        let alike = |other: &&Message| name(ours).is_some() && name(other) == name(ours);
        let beside: Vec<_> = theirs.messages.iter().filter(alike).collect();
        if let ([theirs], 1) = (&beside[..], all.iter().filter(alike).count())
            && theirs.is_whole
        {
            assert_eq!(ours, *theirs);
        }
    }
}

/// Messages that have one are known by it.
fn name(message: &Message) -> Option<(&str, &[Vec<u8>])> {
    let id = message.fields.get("x-id")?;
    Some((&message.line, id))
}

impl Message {
    fn new(line: String, headers: &[httparse::Header<'_>]) -> Self {
        let mut message = Self {
            line,
            ..Self::default()
        };
        for header in headers {
            message.add(&header.name.to_ascii_lowercase(), header.value);
        }
        message
    }

    fn add(&mut self, name: &str, value: &[u8]) {
        if !["content-length", "transfer-encoding"].contains(&name) {
            // Around it there may be spaces in HTTP/2, which mean nothing in HTTP/1.1.
            let value = value.trim_ascii().to_vec();
            self.fields.entry(name.to_owned()).or_default().push(value);
        }
    }

    /// The same, as far as both are there.
    fn is_like(&self, other: &Self) -> bool {
        if self.is_whole || other.is_whole {
            return self == other;
        }
        let both = self.content.iter().zip(&other.content);
        self.line == other.line
            && self.fields == other.fields
            && both.fold(true, |same, (one, other)| same && one == other)
    }

    fn add_all(&mut self, fields: &HeaderMap) {
        for (name, value) in fields {
            self.add(name.as_str(), value.as_bytes());
        }
    }
}
