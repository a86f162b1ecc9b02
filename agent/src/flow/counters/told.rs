//! Looks that a process takes itself, as its hook tells them in parts.

use mirror_hook::event::LookPart;

use super::{Counts, Look, Sample};
use crate::event::MonotonicTime;
use crate::flow::proof::Ends;

/// Connections of a look; a hook tells fewer.
const MOST_CONNECTIONS: usize = 64;

/// The parts of a look that have come.
#[derive(Debug, Default)]
pub(super) struct Parts {
    look: Option<Look>,
    next: u8,
}

impl Parts {
    /// Takes a part, told at this time; the look that is whole with it. What doesn't follow what came before is no
    /// part of it.
    pub(super) fn add(&mut self, part: &LookPart<'_>, at: MonotonicTime) -> Option<Look> {
        let began = MonotonicTime(part.began_ns);
        if part.number == 0 {
            self.next = 0;
            self.look = (began <= at).then(|| Look {
                began,
                ended: at,
                complete: true,
                told: true,
                samples: Vec::new(),
            });
        }
        let mut look = self.look.take()?;
        let room = MOST_CONNECTIONS - look.samples.len();
        let follows = part.number == self.next && look.began == began && look.ended <= at;
        if !follows || part.connections().count() > room {
            return None;
        }
        look.ended = at;
        for connection in part.connections() {
            let ends = connection.addresses;
            look.samples.push(Sample {
                socket: connection.cookie,
                ends: ends.and_then(|(local, peer)| Ends::new(local, peer)),
                counts: Counts {
                    sent: connection.sent,
                    received: connection.received,
                },
                from: began,
                to: at,
            });
        }
        if !part.last {
            self.next += 1;
            self.look = Some(look);
            return None;
        }
        look.samples.iter_mut().for_each(|sample| sample.to = at);
        Some(look)
    }
}

#[cfg(test)]
mod tests {
    use mirror_hook::event::{CarriedBy, LookWriter};

    use super::*;

    fn connection(cookie: u64) -> CarriedBy {
        CarriedBy {
            cookie,
            sent: 1,
            received: 2,
            addresses: None,
        }
    }

    /// Looks of so many connections each: their parts.
    fn parts(count: u64, began: u64) -> Vec<Vec<u8>> {
        let mut writer = LookWriter::new(began);
        let mut all = Vec::new();
        for cookie in 1..=count {
            if writer.is_full() {
                all.push(writer.part(false).to_vec());
                writer.next();
            }
            writer.push(&connection(cookie));
        }
        all.push(writer.part(true).to_vec());
        all
    }

    fn add(parts: &mut Parts, part: &[u8], at: u64) -> Option<Look> {
        parts.add(&LookPart::parse(part).unwrap(), MonotonicTime(at))
    }

    #[test]
    fn a_look_is_whole_with_its_last_part() {
        let mut whole = Parts::default();
        let told = parts(20, 5);
        assert_eq!(told.len(), 3);
        assert_eq!(add(&mut whole, &told[0], 6), None);
        assert_eq!(add(&mut whole, &told[1], 7), None);
        let look = add(&mut whole, &told[2], 8).unwrap();
        assert!(look.complete && look.told);
        assert_eq!(
            (look.began, look.ended),
            (MonotonicTime(5), MonotonicTime(8))
        );
        let cookies: Vec<_> = look.samples.iter().map(|one| one.socket).collect();
        assert_eq!(cookies, (1..=20).collect::<Vec<_>>());
        let times = |one: &Sample| (one.from, one.to) == (MonotonicTime(5), MonotonicTime(8));
        assert!(look.samples.iter().all(times));
    }

    #[test]
    fn what_lacks_a_part_or_mixes_two_is_no_look() {
        let (told, other) = (parts(20, 5), parts(20, 9));
        for order in [&[0, 2][..], &[1, 2], &[2], &[0, 1, 1, 2], &[0, 0, 2]] {
            let mut some = Parts::default();
            for number in order {
                assert_eq!(add(&mut some, &told[*number], 10), None, "{order:?}");
            }
        }
        let mut mixed = Parts::default();
        assert_eq!(add(&mut mixed, &told[0], 10), None);
        assert_eq!(add(&mut mixed, &other[1], 10), None);
        assert_eq!(add(&mut mixed, &told[2], 10), None);
        // A time that goes back, and more connections than anybody looks at.
        let mut back = Parts::default();
        assert_eq!(add(&mut back, &told[0], 4), None);
        assert_eq!(add(&mut back, &told[1], 6), None);
        let many = parts(65, 1);
        let mut too_many = Parts::default();
        let seen: Vec<_> = many
            .iter()
            .filter_map(|part| add(&mut too_many, part, 2))
            .collect();
        assert_eq!(seen, []);
    }
}
