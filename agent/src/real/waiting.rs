//! Which sessions wait, since when, and for how long.

use std::collections::{BTreeSet, HashMap};

use crate::event::WallTime;

/// How long a head may take, in nanoseconds.
const HOLD_NS: u64 = 1_000_000_000;

/// Sessions of which something waits.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Each with the time of what waits, and when that has waited long enough.
    flows: HashMap<u64, (WallTime, WallTime)>,
    since: BTreeSet<(WallTime, u64)>,
    until: BTreeSet<(WallTime, u64)>,
    /// The latest time that was told.
    now: WallTime,
}

impl Waiting {
    /// This session waits since then; or it doesn't.
    pub(super) fn note(&mut self, flow: u64, since: Option<WallTime>) {
        let known = self.flows.get(&flow).map(|(known, _)| *known);
        if known == since {
            return;
        }
        self.forget(flow);
        if let Some(since) = since {
            // What comes late, as from a spool or out of a broker's stream, has its time from then on, too.
            let begin = since.max(self.now);
            let until = WallTime(begin.0.saturating_add(HOLD_NS));
            self.flows.insert(flow, (since, until));
            self.since.insert((since, flow));
            self.until.insert((until, flow));
        }
    }

    /// The earliest time of what waits.
    pub(super) fn oldest(&self) -> Option<WallTime> {
        self.since.first().map(|(since, _)| *since)
    }

    /// It is now so late. One that has waited long enough, which is forgotten.
    pub(super) fn due(&mut self, now: WallTime) -> Option<u64> {
        self.now = self.now.max(now);
        let &(until, flow) = self.until.first()?;
        (until <= now).then(|| self.forget(flow))?
    }

    /// Any one, which is forgotten.
    pub(super) fn pop(&mut self) -> Option<u64> {
        let &(_, flow) = self.since.first()?;
        self.forget(flow)
    }

    fn forget(&mut self, flow: u64) -> Option<u64> {
        let (since, until) = self.flows.remove(&flow)?;
        self.since.remove(&(since, flow));
        self.until.remove(&(until, flow));
        Some(flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_has_its_time_all_the_same() {
        let at = |ms: u64| WallTime(ms * 1_000_000);
        let mut waiting = Waiting::default();
        waiting.note(1, Some(at(5)));
        waiting.note(1, Some(at(5)));
        waiting.note(2, Some(at(3)));
        assert_eq!(waiting.oldest(), Some(at(3)));
        assert_eq!(waiting.due(at(1002)), None);
        assert_eq!(waiting.due(at(1003)), Some(2));
        assert_eq!(waiting.oldest(), Some(at(5)));
        // Older than all, and read now.
        waiting.note(3, Some(at(1)));
        assert_eq!(waiting.oldest(), Some(at(1)));
        assert_eq!(waiting.due(at(2002)), Some(1));
        assert_eq!(waiting.due(at(2002)), None);
        assert_eq!(waiting.due(at(2003)), Some(3));
        assert_eq!((waiting.oldest(), waiting.pop()), (None, None));
        waiting.note(4, Some(at(1)));
        waiting.note(4, None);
        assert_eq!((waiting.oldest(), waiting.pop()), (None, None));
        waiting.note(4, Some(at(1)));
        assert_eq!(waiting.pop(), Some(4));
    }
}
