//! Puts the forged packets together again: what each side said in each flow, with its holes.
//!
//! Shares no code with the forger. It follows sequence numbers only; whether packets are as they
//! should be otherwise is for [`crate::rules`] to say.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::decode::{FIN, RST, SYN, Segment};
use crate::reader::Capture;

/// A forged TCP connection.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Who sent the SYN.
    pub client: SocketAddr,
    /// Who answered.
    pub server: SocketAddr,
    /// Comment of its first packet.
    pub comment: String,
    /// Time of the first and of the last packet, nanoseconds since 1970.
    pub times_ns: (u64, u64),
    /// What the client said.
    pub request: Stream,
    /// What the server said.
    pub response: Stream,
    /// How it ended.
    pub end: End,
    /// Comment of its RST; empty: none.
    pub end_comment: String,
}

/// How a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not at all.
    Open,
    /// By FINs; the client's came first.
    ClosedByClient,
    /// By FINs; the server's came first.
    ClosedByServer,
    /// By RST from the client.
    ResetByClient,
    /// By RST from the server.
    ResetByServer,
}

/// One direction of a flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// All bytes that are there, one behind the other.
    bytes: Vec<u8>,
    holes: Vec<Hole>,
}

/// Bytes that the packets declare as missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hole {
    /// Offset in the stream of the first missing byte.
    pub offset: u64,
    /// How many.
    pub length: u64,
}

impl Stream {
    /// The bytes, if none is missing.
    pub fn whole(&self) -> Option<&[u8]> {
        self.holes.is_empty().then_some(&self.bytes)
    }

    /// What is missing.
    pub fn holes(&self) -> &[Hole] {
        &self.holes
    }

    /// Length with the holes.
    pub fn length(&self) -> u64 {
        self.bytes.len() as u64 + self.missing()
    }

    /// Bytes in holes.
    pub fn missing(&self) -> u64 {
        self.holes.iter().map(|hole| hole.length).sum()
    }

    /// The first difference to what was really said: a byte that differs, or a length that does.
    /// Bytes in holes differ from nothing.
    pub fn difference(&self, truth: &[u8]) -> Option<String> {
        if self.length() != truth.len() as u64 {
            return Some(format!(
                "{} bytes ({} of them missing) instead of {}",
                self.length(),
                self.missing(),
                truth.len()
            ));
        }
        self.difference_at_beginning(truth)
    }

    /// As [`Stream::difference`], but the stream may be shorter than `truth`.
    pub fn difference_at_beginning(&self, truth: &[u8]) -> Option<String> {
        let (mut seen, mut offset) = (0, 0);
        let behind = Hole {
            offset: self.length(),
            length: 0,
        };
        for hole in self.holes.iter().chain([&behind]) {
            let run = usize::try_from(hole.offset - offset as u64).ok()?;
            let (mirrored, real) = (
                &self.bytes[seen..seen + run],
                truth.get(offset..offset + run),
            );
            let Some(real) = real else {
                return Some(format!("more than the {} bytes there were", truth.len()));
            };
            if mirrored != real {
                let at = mirrored
                    .iter()
                    .zip(real)
                    .take_while(|(a, b)| a == b)
                    .count();
                return Some(format!("differs at offset {}", offset + at));
            }
            seen += run;
            offset += run + usize::try_from(hole.length).ok()?;
        }
        None
    }

    fn hole(&mut self, length: u64) {
        let offset = self.length();
        match self.holes.last_mut() {
            Some(hole) if hole.offset + hole.length == offset => hole.length += length,
            _ => self.holes.push(Hole { offset, length }),
        }
    }
}

/// All flows of a capture, in the order of their SYNs.
///
/// # Errors
/// Packets that no flow can be made of: not TCP, without a SYN before them, data twice.
pub fn flows(capture: &Capture) -> Result<Vec<Flow>, String> {
    let mut flows: Vec<(Flow, [u32; 2])> = Vec::new();
    let mut current: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
    for (index, packet) in capture.packets.iter().enumerate() {
        let number = index + 1;
        let segment = Segment::decode(&packet.frame).map_err(|what| format!("{number}: {what}"))?;
        let ends = (segment.source, segment.destination);
        if segment.flags == SYN {
            let flow = Flow {
                client: ends.0,
                server: ends.1,
                comment: packet.comment.clone().unwrap_or_default(),
                times_ns: (packet.at_ns, packet.at_ns),
                request: Stream::default(),
                response: Stream::default(),
                end: End::Open,
                end_comment: String::new(),
            };
            current.insert((ends.0.min(ends.1), ends.0.max(ends.1)), flows.len());
            flows.push((flow, [segment.seq.wrapping_add(1), 0]));
            continue;
        }
        let (flow, next) = current
            .get(&(ends.0.min(ends.1), ends.0.max(ends.1)))
            .and_then(|&index| flows.get_mut(index))
            .ok_or(format!("{number}: no SYN before it"))?;
        let side = usize::from(segment.source != flow.client);
        flow.times_ns.1 = packet.at_ns;
        if segment.has(SYN) {
            next[side] = segment.seq.wrapping_add(1);
            continue;
        }
        let stream = if side == 0 {
            &mut flow.request
        } else {
            &mut flow.response
        };
        let gap = segment.seq.wrapping_sub(next[side]);
        if gap.cast_signed() < 0 {
            return Err(format!(
                "{number}: goes back by {} bytes",
                gap.wrapping_neg()
            ));
        }
        if gap > 0 {
            stream.hole(gap.into());
        }
        stream.bytes.extend(segment.payload);
        next[side] = segment.seq.wrapping_add(segment.length());
        if segment.has(RST) {
            flow.end = [End::ResetByClient, End::ResetByServer][side];
            flow.end_comment = packet.comment.clone().unwrap_or_default();
        } else if segment.has(FIN) && flow.end == End::Open {
            flow.end = [End::ClosedByClient, End::ClosedByServer][side];
        }
    }
    Ok(flows.into_iter().map(|(flow, _)| flow).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{ACK, PSH};
    use crate::synth::{Conversation, capture, conversation};

    #[test]
    fn a_conversation_comes_out_whole() {
        let flows = flows(&capture(&conversation())).unwrap();
        assert_eq!(flows.len(), 1);
        let flow = &flows[0];
        assert!(flow.request.whole().unwrap().starts_with(b"GET /a"));
        assert_eq!(flow.response.length(), 40_000 + 61);
        assert_eq!(flow.end, End::ClosedByServer);
        assert_eq!(flow.comment, "made by hand");
    }

    #[test]
    fn differences() {
        let ends = [
            SocketAddr::from(([192, 0, 2, 1], 50000)),
            SocketAddr::from(([192, 0, 2, 2], 80)),
        ];
        let mut talk = Conversation::begin(ends, [1, 2], 5);
        talk.record(0, b"abc");
        talk.hole(0, 4);
        talk.record(0, b"hij");
        let lost = flows(&capture(&talk.packets)).unwrap().remove(0).request;
        assert_eq!(
            lost.holes(),
            [Hole {
                offset: 3,
                length: 4
            }]
        );
        assert_eq!(lost.whole(), None);
        assert_eq!(lost.difference(b"abcdefghij"), None);
        assert_eq!(
            lost.difference(b"abcdefgXij"),
            Some("differs at offset 7".into())
        );
        assert_eq!(
            lost.difference(b"abXdefghij"),
            Some("differs at offset 2".into())
        );
        assert!(lost.difference(b"abcdefghi").is_some());
        assert!(lost.difference(b"abcdefghijk").is_some());
        assert_eq!(lost.difference_at_beginning(b"abcdefghijk"), None);
        assert!(lost.difference_at_beginning(b"abcdefghi").is_some());

        talk.push(0, ACK | PSH, b"x");
        let mut twice = talk.packets.last().unwrap().clone();
        twice.at_ns += 1;
        talk.packets.push(twice);
        assert!(flows(&capture(&talk.packets)).is_err());
    }
}
