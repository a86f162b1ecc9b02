//! What people should know, a line each. Much of it is in words of the broker's, which may be anybody's: it is made safe to
//! show here, and however much the broker says, a log isn't filled with it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::escape::Line;

/// Lines within a [`PERIOD`]; more are only counted.
const MAX_LINES: usize = 20;
/// The same of what the broker says of its own: it must not hide what we say.
const MAX_QUOTES: usize = 5;
const PERIOD: Duration = Duration::from_secs(60);
/// Longest line, in characters.
const MAX_LINE: usize = 1000;
/// Longest text of the broker's within a line, in characters.
const MAX_FOREIGN: usize = 200;
const CUT: &str = " [...]";

/// Lines that wait to be said.
#[derive(Clone, Debug, Default)]
pub(super) struct Notices(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    waiting: Vec<String>,
    /// Lines of the period that goes on, and since when it does.
    said: usize,
    quoted: usize,
    since: Option<Instant>,
    left_out: u64,
}

impl Notices {
    /// Adds a line, whatever is in it.
    pub(super) fn say(&self, line: impl AsRef<str>) {
        self.lock().say(shown(line.as_ref()), Instant::now());
    }

    /// Adds a line of the broker's, which it may send as often as it likes.
    pub(super) fn quote(&self, line: &str) {
        self.lock().quote(shown(line), Instant::now());
    }

    /// What was said since the last time.
    pub(super) fn take(&self) -> Vec<String> {
        self.lock().take(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say(&mut self, line: String, now: Instant) {
        self.end_period(now);
        self.since.get_or_insert(now);
        if self.said < MAX_LINES {
            self.said += 1;
            self.waiting.push(line);
        } else {
            self.left_out += 1;
        }
    }

    fn quote(&mut self, line: String, now: Instant) {
        self.end_period(now);
        self.since.get_or_insert(now);
        if self.quoted < MAX_QUOTES {
            self.quoted += 1;
            self.waiting.push(line);
        } else {
            self.left_out += 1;
        }
    }

    fn take(&mut self, now: Instant) -> Vec<String> {
        self.end_period(now);
        std::mem::take(&mut self.waiting)
    }

    fn end_period(&mut self, now: Instant) {
        let over = |since| now.saturating_duration_since(since) >= PERIOD;
        if !self.since.is_some_and(over) {
            return;
        }
        (self.since, self.said, self.quoted) = (None, 0, 0);
        let left_out = std::mem::take(&mut self.left_out);
        if left_out > 0 {
            self.waiting.push(format!(
                "... and {left_out} more lines about the broker within {} s",
                PERIOD.as_secs()
            ));
        }
    }
}

fn shown(line: &str) -> String {
    bounded(&Line(line.as_bytes()).to_string(), MAX_LINE)
}

/// Words of the broker's, or of an error that it may have caused, within a line: so many that the rest of the line is
/// still read.
pub(super) fn foreign(text: &str) -> String {
    bounded(text, MAX_FOREIGN)
}

fn bounded(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}{CUT}", &text[..end]),
    }
}

/// An error with what is behind it, as [`foreign`] words.
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    foreign(&text)
}

/// Something that may be wrong for a while: said when it begins or changes, and when it is over.
#[derive(Debug)]
pub(super) struct Trouble {
    notices: Notices,
    over: &'static str,
    current: Option<String>,
}

impl Trouble {
    /// `over`: what is said when it is over.
    pub(super) fn new(notices: Notices, over: &'static str) -> Self {
        Self {
            notices,
            over,
            current: None,
        }
    }

    pub(super) fn is(&mut self, line: String) {
        if self.current.as_ref() != Some(&line) {
            self.notices.say(&line);
            self.current = Some(line);
        }
    }

    pub(super) fn over(&mut self) {
        if self.current.is_some() {
            self.is_well();
        }
    }

    /// Says so also where nothing was wrong.
    pub(super) fn is_well(&mut self) {
        self.current = None;
        self.notices.say(self.over);
    }
}

/// The same that may be wrong in several partitions: said for the first of them, and when it is over in all.
#[derive(Debug)]
pub(super) struct Troubles {
    notices: Notices,
    over: &'static str,
    partitions: Mutex<BTreeSet<u16>>,
}

impl Troubles {
    /// `over`: what is said when it is over.
    pub(super) fn new(notices: Notices, over: &'static str) -> Self {
        Self {
            notices,
            over,
            partitions: Mutex::default(),
        }
    }

    pub(super) fn is(&self, partition: u16, line: impl FnOnce() -> String) {
        let mut partitions = self.partitions();
        let is_first = partitions.is_empty();
        if partitions.insert(partition) && is_first {
            self.notices.say(line());
        }
    }

    pub(super) fn over(&self, partition: u16) {
        let mut partitions = self.partitions();
        if partitions.remove(&partition) && partitions.is_empty() {
            self.notices.say(self.over);
        }
    }

    /// The partition is somebody else's from now on.
    pub(super) fn forget(&self, partition: u16) {
        self.partitions().remove(&partition);
    }

    fn partitions(&self) -> MutexGuard<'_, BTreeSet<u16>> {
        let partitions = self.partitions.lock();
        partitions.unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_broker_says_is_a_line_that_can_be_shown() {
        let notices = Notices::default();
        let said = foreign(&"\u{1b}[2J\r\n\u{202e}x".repeat(100_000));
        notices.say(format!("the broker says: {said}; trying again"));
        let lines = notices.take();
        assert!(lines[0].starts_with("the broker says: \\u{1b}[2J\\u{d}\\u{a}\\u{202e}x"));
        assert!(lines[0].bytes().all(|byte| matches!(byte, b' '..=b'~')));
        assert!(lines[0].len() <= MAX_LINE + CUT.len(), "{}", lines[0].len());
        // What is said behind it is still there where it needn't be escaped.
        notices.say(format!("{}; trying again", foreign(&"é".repeat(5000))));
        let line = notices.take().remove(0);
        assert!(line.ends_with("é [...]; trying again"), "{line}");
    }

    #[test]
    fn lines_are_few_and_the_others_are_counted() {
        let (mut state, now) = (State::default(), Instant::now());
        for number in 0..10_000 {
            state.say(number.to_string(), now);
            // However often it is asked.
            if number == 5 {
                assert_eq!(state.take(now).len(), 6);
            }
        }
        assert_eq!(state.take(now).len(), MAX_LINES - 6);
        assert!(state.take(now).is_empty());
        let later = now + PERIOD;
        state.say("another".into(), later);
        let said = state.take(later);
        assert!(said[0].contains(" 9980 more lines"), "{said:?}");
        assert_eq!(said[1..], ["another".to_owned()]);
        assert!(state.take(later + PERIOD).is_empty());
    }

    #[test]
    fn what_the_broker_says_does_not_hide_what_we_say() {
        let notices = Notices::default();
        (0..1000).for_each(|number| notices.quote(&number.to_string()));
        notices.say("ours");
        let said = notices.take();
        assert_eq!(said.len(), MAX_QUOTES + 1);
        assert_eq!(said[MAX_QUOTES], "ours");
    }

    #[test]
    fn what_is_wrong_in_many_partitions_is_said_once() {
        let notices = Notices::default();
        let troubles = Troubles::new(notices.clone(), "well again");
        for partition in [7, 8, 7, 9] {
            troubles.is(partition, || format!("wrong in {partition}"));
        }
        troubles.over(7);
        troubles.over(8);
        assert_eq!(notices.take(), ["wrong in 7"]);
        troubles.over(9);
        assert_eq!(notices.take(), ["well again"]);
        // Who has gone can't become well, and doesn't stand in the way.
        troubles.is(1, || "wrong".into());
        troubles.forget(1);
        troubles.over(1);
        troubles.is(2, || "wrong in 2".into());
        assert_eq!(notices.take(), ["wrong", "wrong in 2"]);
    }
}
