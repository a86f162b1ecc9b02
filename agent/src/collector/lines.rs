//! What a collector has to say to people: a line each, and so few that strangers can't fill a disk with them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::tunnel::frame::Reason;

/// Lines that wait to be said; more are only counted.
const MAX_LINES: usize = 32;
/// So many refusals of one reason have lines of their own in [`PERIOD`]; the others are one line together.
const REFUSALS: u64 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// Lines that wait to be said.
#[derive(Debug, Default)]
pub(super) struct Lines {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lines: Vec<String>,
    left_out: u64,
    /// Refusals of the period that goes on, and since when it does.
    refusals: BTreeMap<Reason, u64>,
    since: Option<Instant>,
}

impl Lines {
    /// One more.
    pub(super) fn say(&self, line: String) {
        self.lock().say(line);
    }

    /// Somebody was refused, as this line says.
    pub(super) fn say_refused(&self, reason: Reason, line: String, now: Instant) {
        let mut state = self.lock();
        state.end_period(now);
        state.since.get_or_insert(now);
        let count = state.refusals.entry(reason).or_default();
        *count += 1;
        if *count <= REFUSALS {
            state.say(line);
        }
    }

    /// All that is to be said; once.
    pub(super) fn take(&self, now: Instant) -> Vec<String> {
        let mut state = self.lock();
        state.end_period(now);
        let left_out = std::mem::take(&mut state.left_out);
        let lines = std::mem::take(&mut state.lines);
        let more = (left_out > 0).then(|| format!("… and {left_out} lines more like these"));
        lines.into_iter().chain(more).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say(&mut self, line: String) {
        if self.lines.len() < MAX_LINES {
            self.lines.push(line);
        } else {
            self.left_out += 1;
        }
    }

    fn end_period(&mut self, now: Instant) {
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if !self.since.is_some_and(over) {
            return;
        }
        self.since = None;
        let unsaid: Vec<_> = std::mem::take(&mut self.refusals)
            .into_iter()
            .filter(|(_, count)| *count > REFUSALS)
            .map(|(reason, count)| format!("{reason:?} {}", count - REFUSALS))
            .collect();
        if !unsaid.is_empty() {
            let seconds = PERIOD.as_secs();
            self.say(format!(
                "… and more connections refused within {seconds} s: {}",
                unsaid.join(", ")
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_few_lines_and_do_not_hide_others() {
        let (lines, now) = (Lines::default(), Instant::now());
        for number in 0..10_000 {
            lines.say_refused(Reason::Unfinished, format!("{number} refused"), now);
        }
        lines.say_refused(Reason::Revoked, "web1 refused".into(), now);
        let said = lines.take(now);
        assert_eq!(said.len() as u64, REFUSALS + 1, "{said:?}");
        assert!(said.contains(&"web1 refused".to_owned()));
        assert!(lines.take(now).is_empty());
        let said = lines.take(now + PERIOD);
        assert_eq!(said.len(), 1);
        assert!(said[0].ends_with("10 s: Unfinished 9995"), "{said:?}");
        assert!(lines.take(now + 3 * PERIOD).is_empty());
    }

    #[test]
    fn lines_are_bounded() {
        let lines = Lines::default();
        (0..100).for_each(|number| lines.say(number.to_string()));
        let said = lines.take(Instant::now());
        assert_eq!(said.len(), MAX_LINES + 1);
        assert!(said[MAX_LINES].contains("68 lines more"), "{said:?}");
    }
}
