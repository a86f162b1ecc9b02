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
    use super::*;

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
