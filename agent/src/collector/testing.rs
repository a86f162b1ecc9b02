//! A sink that checks what the column may rely on, and each byte.

use std::collections::HashMap;

use super::inlet::{CopySink, index};
use crate::event::{FlowChange, FlowEvent, FlowId, FlowInfo, FlowSink, Side, WallTime};
use crate::tunnel::batch::tests::info;

/// The byte that a side of a connection says at an offset.
pub(super) fn byte(id: FlowId, from: Side, offset: u64) -> u8 {
    let stream = u64::from(id.0[0]) * 2 + u64::from(from == Side::Server);
    let mixed = (offset + (stream << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 56).to_le_bytes()[0]
}

pub(super) fn text(id: FlowId, from: Side, offset: u64, bytes: u64) -> Vec<u8> {
    (offset..offset + bytes)
        .map(|offset| byte(id, from, offset))
        .collect()
}

/// A flow of which one end is mirrored.
pub(super) fn flow(id: u8, role: mirror_hook::event::Role) -> FlowInfo {
    FlowInfo { role, ..info(id) }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Open,
    Finished,
    Reset,
}

/// What was told of a flow.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) info: FlowInfo,
    pub(super) next: [u64; 2],
    pub(super) finished: [bool; 2],
    pub(super) holes: u64,
    /// Bytes that came as text.
    pub(super) delivered: u64,
    pub(super) end: End,
    last: WallTime,
}

/// Panics where a sink's rules are broken, or a byte isn't where it belongs.
#[derive(Debug, Default)]
pub(super) struct Checker {
    pub(super) flows: HashMap<u64, Seen>,
}

impl Checker {
    pub(super) fn only(&self) -> &Seen {
        assert_eq!(self.flows.len(), 1, "{:?}", self.flows);
        self.flows.values().next().unwrap()
    }
}

impl FlowSink for Checker {
    fn flow_event(&mut self, event: FlowEvent<'_>) {
        if let FlowChange::Begin(info) = event.change {
            let seen = Seen {
                info: info.clone(),
                next: [0; 2],
                finished: [false; 2],
                holes: 0,
                delivered: 0,
                end: End::Open,
                last: event.at,
            };
            assert!(self.flows.insert(event.flow, seen).is_none(), "begun twice");
            return;
        }
        let seen = self.flows.get_mut(&event.flow).expect("it has begun");
        assert_eq!(seen.end, End::Open, "{event:?} behind the end");
        assert!(event.at >= seen.last, "time goes back");
        seen.last = event.at;
        let base = seen.info.continued.unwrap_or((0, 0));
        let mut pass = |from: Side, offset: u64, bytes: u64| {
            assert!(!seen.finished[index(from)], "behind a side's end");
            assert_eq!(seen.next[index(from)], offset);
            seen.next[index(from)] += bytes;
        };
        match event.change {
            FlowChange::Begin(_) => {}
            FlowChange::Data {
                from,
                offset,
                bytes,
            } => {
                assert!((1..=16_384).contains(&bytes.len()));
                pass(from, offset, bytes.len() as u64);
                let base = [base.0, base.1][index(from)];
                let expected = text(seen.info.id, from, base + offset, bytes.len() as u64);
                assert!(bytes == expected, "other bytes at {offset}");
                seen.delivered += bytes.len() as u64;
            }
            FlowChange::Hole {
                from,
                offset,
                bytes,
            } => {
                assert!(bytes > 0);
                pass(from, offset, bytes);
                seen.holes = seen.holes.saturating_add(bytes);
            }
            FlowChange::Finish { from } => {
                assert!(!std::mem::replace(&mut seen.finished[index(from)], true));
                if seen.finished == [true, true] {
                    seen.end = End::Finished;
                }
            }
            FlowChange::Reset { .. } => seen.end = End::Reset,
        }
    }
}

impl CopySink for Checker {
    fn copy_event(&mut self, _agent: u64, event: FlowEvent<'_>) {
        self.flow_event(event);
    }
}
