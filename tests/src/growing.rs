//! A capture that is read while it grows, and what has been said in it so far.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;

use crate::decode::{FIN, SYN, Segment};
use crate::process::LIMIT;
use crate::reader::{Capture, ReadError};

/// Both directions of a forged connection.
#[derive(Clone, Debug)]
pub struct Talk {
    /// Comment of its first packet.
    pub comment: String,
    /// What client and server have said, without what was taken out.
    pub said: [Vec<u8>; 2],
    client: SocketAddr,
    next: [u32; 2],
}

/// A capture of which more and more is there.
#[derive(Debug, Default)]
pub struct Growing {
    /// In the order of their SYNs.
    pub talks: Vec<Talk>,
    /// Packets so far.
    pub packets: u64,
    current: HashMap<[SocketAddr; 2], usize>,
    /// The blocks in front of the first packet.
    head: Vec<u8>,
    /// Not a whole block yet.
    rest: Vec<u8>,
}

/// What comes from a pipe, piece by piece: a few are read before they are asked for.
///
/// # Panics
/// The thread that reads, if it can't.
pub fn pieces(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(4);
    thread::spawn(move || {
        let mut piece = vec![0; 1 << 20];
        loop {
            let bytes = from.read(&mut piece).expect("a pipe");
            if bytes == 0 || sender.send(piece[..bytes].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

const ENHANCED_PACKET: u32 = 6;

impl Growing {
    /// Reads what there is, or waits for it. `false`: that was all.
    ///
    /// # Panics
    /// If it is no capture, text in it is missing or there twice, or nothing comes for [`LIMIT`].
    pub fn read(&mut self, from: &Receiver<Vec<u8>>) -> bool {
        let piece = match from.recv_timeout(LIMIT) {
            Ok(piece) => piece,
            Err(RecvTimeoutError::Disconnected) => Vec::new(),
            Err(RecvTimeoutError::Timeout) => panic!("waited too long for the capture"),
        };
        self.rest.extend_from_slice(&piece);
        let packets = self.whole_blocks().expect("a capture").packets;
        for packet in packets {
            self.packets += 1;
            let segment = Segment::decode(&packet.frame).expect("a segment");
            assert!(segment.checksum_good, "a checksum");
            self.segment(&segment, packet.comment.as_deref());
        }
        if piece.is_empty() {
            assert_eq!(self.rest, b"", "it ends within a block");
        }
        !piece.is_empty()
    }

    /// The packets that are whole. The agent writes in network byte order.
    fn whole_blocks(&mut self) -> Result<Capture, ReadError> {
        let mut blocks = self.head.clone();
        let mut rest = &self.rest[..];
        while let Some((kind, tail)) = rest.split_first_chunk()
            && let Some(length) = tail.first_chunk()
            && let length = u32::from_be_bytes(*length) as usize
            && let Some((block, tail)) = rest.split_at_checked(length)
        {
            if self.packets == 0 && u32::from_be_bytes(*kind) != ENHANCED_PACKET {
                self.head.extend_from_slice(block);
            }
            blocks.extend_from_slice(block);
            rest = tail;
        }
        self.rest = rest.to_vec();
        match blocks.is_empty() {
            true => Ok(Capture::default()),
            false => Capture::parse(&blocks),
        }
    }

    fn segment(&mut self, segment: &Segment<'_>, comment: Option<&str>) {
        let mut ends = [segment.source, segment.destination];
        ends.sort_unstable();
        if segment.flags == SYN {
            self.current.insert(ends, self.talks.len());
            self.talks.push(Talk {
                comment: comment.unwrap_or_default().into(),
                said: [Vec::new(), Vec::new()],
                client: segment.source,
                next: [segment.seq.wrapping_add(1), 0],
            });
            return;
        }
        let talk = &mut self.talks[self.current[&ends]];
        let side = usize::from(segment.source != talk.client);
        if segment.has(SYN) {
            talk.next[side] = segment.seq.wrapping_add(1);
            return;
        }
        assert_eq!(segment.seq, talk.next[side], "{}", talk.comment);
        assert!(!segment.has(FIN) || segment.payload.is_empty());
        talk.said[side].extend_from_slice(segment.payload);
        talk.next[side] = segment.seq.wrapping_add(segment.length());
    }
}
