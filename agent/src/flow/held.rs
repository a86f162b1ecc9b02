//! What a session said before its flow could begin.

use mirror_hook::event::{CloseReason, Direction};

use crate::event::WallTime;

/// An event that waits. Text is a range of the common buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeldChange {
    Data {
        direction: Direction,
        offset: u64,
        start: usize,
        length: usize,
    },
    Lost {
        direction: Direction,
        from: u64,
        to: u64,
    },
    Close(CloseReason),
    Died,
}

/// The waiting events of one session, in their order, with their text in one buffer.
#[derive(Debug, Default)]
pub(super) struct Held {
    events: Vec<(WallTime, HeldChange)>,
    text: Vec<u8>,
}

impl Held {
    /// Memory in use, in bytes: the measure of the bounds.
    pub(super) fn charge(&self) -> usize {
        self.text.len() + self.events.len() * size_of::<(WallTime, HeldChange)>()
    }

    /// What [`Held::charge`] grows by at most when `length` bytes of text are added.
    pub(super) fn cost(length: usize) -> usize {
        length + size_of::<(WallTime, HeldChange)>()
    }

    pub(super) fn push_data(
        &mut self,
        at: WallTime,
        direction: Direction,
        offset: u64,
        bytes: &[u8],
    ) {
        let change = HeldChange::Data {
            direction,
            offset,
            start: self.text.len(),
            length: bytes.len(),
        };
        if self.text.capacity() - self.text.len() < bytes.len() {
            self.grow(bytes.len());
        }
        self.text.extend_from_slice(bytes);
        self.events.push((at, change));
    }

    /// Makes room for `more` bytes, and leaves no copy of the text behind.
    fn grow(&mut self, more: usize) {
        let capacity = (self.text.len() + more).max(2 * self.text.capacity());
        let mut larger = Vec::with_capacity(capacity);
        larger.extend_from_slice(&self.text);
        wipe(&mut std::mem::replace(&mut self.text, larger));
    }

    /// Clear text bytes in all.
    pub(super) fn text_bytes(&self) -> u64 {
        let lengths = self.events.iter().map(|(_, change)| match change {
            HeldChange::Data { length, .. } => *length as u64,
            _ => 0,
        });
        lengths.sum()
    }

    /// Adds a hole; one that goes on where the last or the last but one ends becomes one with it, so
    /// that holes alone never need much room.
    pub(super) fn push_lost(&mut self, at: WallTime, direction: Direction, from: u64, to: u64) {
        for (_, change) in self.events.iter_mut().rev().take(2) {
            match change {
                HeldChange::Lost {
                    direction: same,
                    to: end,
                    ..
                } if *same == direction => {
                    if *end != from {
                        break;
                    }
                    *end = to;
                    return;
                }
                HeldChange::Lost { .. } => {}
                _ => break,
            }
        }
        let change = HeldChange::Lost {
            direction,
            from,
            to,
        };
        self.events.push((at, change));
    }

    pub(super) fn push(&mut self, at: WallTime, change: HeldChange) {
        self.events.push((at, change));
    }

    /// True: some text passed, seen or lost.
    pub(super) fn has_text(&self) -> bool {
        let is_text = |(_, change): &(_, HeldChange)| {
            matches!(change, HeldChange::Data { .. } | HeldChange::Lost { .. })
        };
        self.events.iter().any(is_text)
    }

    /// Forgets what the process has sent so far; how many bytes that were.
    pub(super) fn drop_sent(&mut self) -> u64 {
        let mut dropped = 0;
        self.events.retain(|(_, change)| match change {
            HeldChange::Data {
                direction: Direction::Sent,
                length,
                ..
            } => {
                dropped += *length as u64;
                false
            }
            HeldChange::Lost { direction, .. } => *direction != Direction::Sent,
            _ => true,
        });
        dropped
    }

    /// All events in their order, each with its text.
    pub(super) fn events(&self) -> impl Iterator<Item = (WallTime, HeldChange, &[u8])> {
        self.events.iter().map(|(at, change)| {
            let text = match change {
                HeldChange::Data { start, length, .. } => {
                    self.text.get(*start..start + length).unwrap_or(&[])
                }
                _ => &[],
            };
            (*at, *change, text)
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        wipe(&mut self.text);
    }
}

/// Text that nobody is to see stays nowhere.
fn wipe(text: &mut [u8]) {
    text.fill(0);
    // Seen by somebody, so that it isn't left out.
    std::hint::black_box(text);
}

#[cfg(test)]
mod tests {
    use std::fs::{File, read_to_string};
    use std::os::unix::fs::FileExt;

    use super::*;

    /// What is looked for, each bit turned round: so the search isn't what it finds.
    const TURNED: [u8; 16] = [
        0x9c, 0x8b, 0xc7, 0x11, 0xf0, 0x35, 0x8e, 0xd2, 0x6a, 0x47, 0xb9, 0x23, 0xe1, 0x5d, 0x78,
        0x04,
    ];

    /// How often it stands in what this process can write to.
    fn found_in_memory() -> usize {
        const STEP: usize = 64 * 1024;
        let memory = File::open("/proc/self/mem").unwrap();
        let mut bytes = vec![0; STEP];
        let mut found = 0;
        for line in read_to_string("/proc/self/maps").unwrap().lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            let (from, to) = range.split_once('-').unwrap();
            let address = |text| u64::from_str_radix(text, 16).unwrap();
            for at in (address(from)..address(to)).step_by(STEP) {
                // This buffer is part of what is searched.
                wipe(&mut bytes);
                let left = usize::try_from(address(to) - at).unwrap().min(STEP);
                if rest.starts_with("rw") && memory.read_exact_at(&mut bytes[..left], at).is_ok() {
                    let windows = bytes.windows(TURNED.len());
                    found += windows
                        .filter(|bytes| bytes.iter().zip(TURNED).all(|(a, b)| *a == !b))
                        .count();
                }
            }
        }
        wipe(&mut bytes);
        found
    }

    #[test]
    fn text_that_is_dropped_is_nowhere() {
        let mut held = Held::default();
        let mut text = vec![0; 4096];
        for _ in 0..8 {
            text.iter_mut()
                .zip(TURNED.iter().cycle())
                .for_each(|(byte, turned)| *byte = !turned);
            held.push_data(WallTime(1), Direction::Sent, 0, &text);
            wipe(&mut text);
        }
        // Some lie across the ends of what is read at once, some are seen in the buffer as well.
        let whole = 8 * text.len() / TURNED.len();
        assert!(found_in_memory() >= whole - 8, "the search finds nothing");
        // Nor where it stood before there was more of it.
        // So that what is freed isn't given back to the system at once.
        let above = vec![1_u8; 64 * 1024];
        drop(held);
        assert_eq!(found_in_memory(), 0);
        drop(above);
    }

    #[test]
    fn rejected_early_data_is_forgotten_and_the_rest_stays() {
        let mut held = Held::default();
        held.push_data(WallTime(1), Direction::Sent, 0, b"early");
        held.push_lost(WallTime(2), Direction::Sent, 5, 7);
        held.push_data(WallTime(3), Direction::Received, 0, b"half-RTT");
        assert_eq!(held.drop_sent(), 5);
        held.push_data(WallTime(4), Direction::Sent, 0, b"again");
        let texts: Vec<_> = held.events().map(|(_, _, text)| text).collect();
        assert_eq!(texts, [&b"half-RTT"[..], b"again"]);
    }

    #[test]
    fn adjacent_holes_are_one() {
        let mut held = Held::default();
        for part in 0..1000 {
            held.push_lost(WallTime(part), Direction::Sent, part, part + 1);
            held.push_lost(WallTime(part), Direction::Received, part, part + 1);
        }
        assert!(held.charge() <= 2 * Held::cost(0));
        assert!(held.has_text());
    }
}
