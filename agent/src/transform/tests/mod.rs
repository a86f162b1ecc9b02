//! Sessions of HTTP/2 that are written here, and the flows that come out.

mod decoded;
mod ends;
mod exchanges;
mod lanes;
mod peer;
mod round_trip;
mod stops;
mod upgrades;

use std::collections::BTreeMap;

use super::{Http1, PartKind, TransformStats};
use crate::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, ResetCause, Side, Tuple, WallTime};
use crate::forge::testing;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
/// The session's own flow.
pub(super) const OWN: u64 = 5;

/// A frame.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(super) fn data(stream: u32, last: bool, text: &[u8]) -> Vec<u8> {
    frame(0, u8::from(last), stream, text)
}

pub(super) fn reset(stream: u32) -> Vec<u8> {
    frame(3, 0, stream, &[0, 0, 0, 8])
}

/// HEADERS with these fields, `name: value` one a line.
pub(super) fn headers(stream: u32, last: bool, fields: &str) -> Vec<u8> {
    let flags = END_HEADERS | u8::from(last);
    frame(1, flags, stream, &block(fields))
}

/// A header block of literals that go into no table.
pub(super) fn block(fields: &str) -> Vec<u8> {
    let mut block = Vec::new();
    for line in fields.split('\n').filter(|line| !line.is_empty()) {
        let colon = 1 + line[1..].find(':').unwrap();
        field(
            &line.as_bytes()[..colon],
            line[colon + 1..].trim().as_bytes(),
            &mut block,
        );
    }
    block
}

pub(super) fn field(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        let mut length = text.len();
        if length < 127 {
            block.push(u8::try_from(length).unwrap());
        } else {
            block.push(127);
            length -= 127;
            while length >= 128 {
                block.push(u8::try_from(length % 128).unwrap() | 0x80);
                length /= 128;
            }
            block.push(u8::try_from(length).unwrap());
        }
        block.extend_from_slice(text);
    }
}

/// A request without content.
pub(super) fn get(stream: u32, path: &str) -> Vec<u8> {
    let fields = format!(":method: GET\n:scheme: https\n:authority: a.example\n:path: {path}");
    headers(stream, true, &fields)
}

/// Its head in HTTP/1.1.
pub(super) fn got(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n")
}

/// An answer with content of a known length.
pub(super) fn ok(stream: u32, text: &str) -> Vec<u8> {
    let fields = format!(":status: 200\ncontent-length: {}", text.len());
    [
        headers(stream, false, &fields),
        data(stream, true, text.as_bytes()),
    ]
    .concat()
}

/// The same in HTTP/1.1.
pub(super) fn was_ok(text: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    /// Who said so first.
    Finished(Side),
    Half(Side),
    Reset(Side),
}

/// A flow that came out.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) info: FlowInfo,
    /// What each side said; holes are `?`.
    pub(super) said: [Vec<u8>; 2],
    pub(super) end: End,
    /// All of it, in its order.
    pub(super) order: String,
    last: WallTime,
}

impl Told {
    pub(super) fn text(&self, from: Side) -> &str {
        str::from_utf8(&self.said[from as usize]).unwrap()
    }

    pub(super) fn both(&self) -> [&str; 2] {
        [self.text(Side::Client), self.text(Side::Server)]
    }

    pub(super) fn text_is(&self, meant: &[u8]) -> bool {
        self.said[0] == meant
    }

    pub(super) fn kind(&self) -> Option<PartKind> {
        self.info.http1.map(|part| part.kind)
    }
}

/// All flows that came out, by their numbers.
#[derive(Clone, Debug, Default)]
pub(super) struct Flows(pub(super) BTreeMap<u64, Told>);

impl FlowSink for Flows {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let told = Told {
                info: info.clone(),
                said: [Vec::new(), Vec::new()],
                end: End::Open,
                order: String::new(),
                last: event.at,
            };
            let live = self.0.values().filter(|told| !told.is_over());
            let mut taken = live.map(|told| told.info.tuple);
            assert!(
                taken.all(|tuple| tuple != info.tuple),
                "one tuple, two flows"
            );
            assert!(self.0.insert(event.flow, told).is_none(), "begun twice");
            return;
        }
        let told = self.0.get_mut(&event.flow).expect("a flow that has begun");
        assert!(!told.is_over(), "something behind the end");
        assert!(told.last <= event.at, "time goes back");
        told.last = event.at;
        match event.change {
            FlowChange::Begin(_) => {}
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.has_finished(from) && (1..=16_384).contains(&bytes.len()));
                assert_eq!(offset, told.said[from as usize].len() as u64);
                told.said[from as usize].extend_from_slice(bytes);
                let side = format!("{from:?}");
                told.order += &format!("{} {}\n", &side[..1], bytes.escape_ascii());
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert!(!told.has_finished(from) && bytes > 0);
                assert_eq!(offset, told.said[from as usize].len() as u64);
                let hole = std::iter::repeat_n(b'?', usize::try_from(bytes).unwrap());
                told.said[from as usize].extend(hole);
            }
            FlowChange::Finish { from } => {
                assert!(!told.has_finished(from));
                told.end = match told.end {
                    End::Half(first) => End::Finished(first),
                    _ => End::Half(from),
                };
            }
            FlowChange::Reset { by, .. } => told.end = End::Reset(by),
        }
    }
}

impl Told {
    fn is_over(&self) -> bool {
        matches!(self.end, End::Finished(_) | End::Reset(_))
    }

    fn has_finished(&self, side: Side) -> bool {
        self.end == End::Half(side)
    }
}

/// Somebody talks, and it is told.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) http1: Http1,
    pub(super) flows: Flows,
    pub(super) now: u64,
    said: [u64; 2],
}

impl Scene {
    /// A session of HTTP/2, behind the preface.
    pub(super) fn new() -> Self {
        let mut scene = Self::begun(Some("h2"));
        scene.say(Side::Client, &[PREFACE, &frame(4, 0, 0, b"")].concat());
        scene.say(Side::Server, &frame(4, 0, 0, b""));
        scene
    }

    pub(super) fn begun(alpn: Option<&str>) -> Self {
        let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
        info.alpn = alpn.map(Into::into);
        Self::with(&info)
    }

    pub(super) fn with(info: &FlowInfo) -> Self {
        let mut scene = Self {
            http1: Http1::new(),
            flows: Flows::default(),
            now: 1_000_000_000,
            said: [0; 2],
        };
        scene.event(OWN, FlowChange::Begin(info));
        scene
    }

    pub(super) fn event(&mut self, flow: u64, change: FlowChange<'_>) {
        let at = WallTime(self.now);
        let event = FlowEvent { flow, at, change };
        self.http1.flow_event(event, &mut self.flows);
        self.now += 1;
    }

    /// One side says something, in one piece.
    pub(super) fn say(&mut self, from: Side, text: &[u8]) {
        for bytes in text.chunks(16_384) {
            let offset = self.said[from as usize];
            self.said[from as usize] += bytes.len() as u64;
            self.event(
                OWN,
                FlowChange::Data {
                    from,
                    offset,
                    bytes,
                },
            );
        }
    }

    pub(super) fn client(&mut self, frames: &[Vec<u8>]) {
        self.say(Side::Client, &frames.concat());
    }

    pub(super) fn server(&mut self, frames: &[Vec<u8>]) {
        self.say(Side::Server, &frames.concat());
    }

    pub(super) fn lose(&mut self, from: Side, bytes: u64) {
        let offset = self.said[from as usize];
        self.said[from as usize] += bytes;
        self.event(
            OWN,
            FlowChange::Hole {
                from,
                offset,
                bytes,
            },
        );
    }

    pub(super) fn finish(&mut self, from: Side) {
        self.event(OWN, FlowChange::Finish { from });
    }

    pub(super) fn abort(&mut self, by: Side) {
        let cause = ResetCause::Abort;
        self.event(OWN, FlowChange::Reset { by, cause });
    }

    /// How many bytes a side has said.
    pub(super) fn position(&self, from: Side) -> u64 {
        self.said[from as usize]
    }

    pub(super) fn stats(&self) -> TransformStats {
        self.http1.stats()
    }

    /// The session's own flow.
    pub(super) fn own(&self) -> &Told {
        &self.flows.0[&OWN]
    }

    /// The others, in the order in which they began.
    pub(super) fn others(&self) -> Vec<&Told> {
        let flows = self.flows.0.iter();
        flows
            .filter(|(flow, _)| **flow != OWN)
            .map(|(_, told)| told)
            .collect()
    }

    /// The flow that tells frames as they are.
    pub(super) fn raw(&self) -> &Told {
        let is_raw = |told: &&Told| matches!(told.kind(), Some(PartKind::Raw { .. }));
        self.flows.0.values().find(is_raw).expect("a raw flow")
    }
}

/// A tuple of the session's server and one of its client's ports.
pub(super) fn with_port(port: u16) -> Tuple {
    let mut tuple = testing::info("192.0.2.1:50000", "198.51.100.1:443").tuple;
    tuple.client.set_port(port);
    tuple
}
