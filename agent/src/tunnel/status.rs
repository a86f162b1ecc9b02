//! What a tunnel is doing, for its thread to tell and people to read.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::difference::{ClockDifference, DifferenceFilter};

/// Clocks that differ by more than this are worth a line: 100 ms.
const NOTABLE_NS: u64 = 100_000_000;
/// Lines that wait to be read.
const MOST_LINES: usize = 64;

/// How a tunnel stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelStatus {
    /// The connection, if there is one.
    pub connected: Option<Connected>,
    /// Connections that were welcomed, this one among them.
    pub connections: u64,
    /// Why the last attempt failed, or the last connection ended.
    pub failure: Option<String>,
    /// The clock of the collector that it was connected to last.
    pub difference: Option<ClockDifference>,
    /// Bytes of events before and after compression, of those that became smaller by it.
    pub compressed: (u64, u64),
}

/// A connection that stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connected {
    /// As the operator calls the collector.
    pub collector: String,
    /// Where that was found.
    pub address: SocketAddr,
    /// Since when.
    pub since: Instant,
}

/// Shared by a tunnel's thread and whoever asks.
#[derive(Debug, Default)]
pub(super) struct Status(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    status: TunnelStatus,
    /// Of connections that have ended.
    compressed_before: (u64, u64),
    clock: DifferenceFilter,
    told_of_clock: bool,
    lines: VecDeque<String>,
}

impl Status {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> TunnelStatus {
        let inner = self.lock();
        TunnelStatus {
            difference: inner.clock.best(),
            ..inner.status.clone()
        }
    }

    pub(super) fn take_lines(&self) -> Vec<String> {
        self.lock().lines.drain(..).collect()
    }

    pub(super) fn say(&self, line: String) {
        self.lock().say(line);
    }

    pub(super) fn connected(&self, collector: String, address: SocketAddr) {
        let mut inner = self.lock();
        let where_it_is = match collector == address.to_string() {
            true => String::new(),
            false => format!(" ({address})"),
        };
        inner.say(format!(
            "connected to the collector {collector}{where_it_is}"
        ));
        inner.clock = DifferenceFilter::default();
        inner.compressed_before = inner.status.compressed;
        inner.status.connections += 1;
        inner.status.failure = None;
        inner.status.connected = Some(Connected {
            collector,
            address,
            since: Instant::now(),
        });
    }

    /// The connection, or the attempt at one, has ended. The same again is nothing new.
    pub(super) fn failed(&self, collector: &str, why: &str, what_next: &str) {
        let mut inner = self.lock();
        let failure = format!("{collector}: {why}");
        if inner.status.failure.as_ref() != Some(&failure) {
            inner.say(format!("tunnel to {failure}; {what_next}"));
        }
        inner.status.connected = None;
        inner.status.failure = Some(failure);
    }

    /// Of the connection that stands.
    pub(super) fn compressed(&self, (from, to): (u64, u64)) {
        let mut inner = self.lock();
        let before = inner.compressed_before;
        inner.status.compressed = (before.0 + from, before.1 + to);
    }

    pub(super) fn exchange(&self, sent_ns: u64, answered_ns: u64, received_ns: u64) {
        let mut inner = self.lock();
        inner.clock.add(sent_ns, answered_ns, received_ns);
        let Some(difference) = inner.clock.best().filter(|_| !inner.told_of_clock) else {
            return;
        };
        if difference.ahead_ns.unsigned_abs() > NOTABLE_NS + difference.uncertain_ns {
            inner.told_of_clock = true;
            inner.say(format!(
                "the collector's clock is {difference}: packets have this host's time; NTP on both keeps them together"
            ));
        }
    }
}

impl Inner {
    fn say(&mut self, line: String) {
        if self.lines.len() < MOST_LINES {
            self.lines.push_back(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stays_the_same_is_said_once() {
        let status = Status::default();
        for _ in 0..3 {
            status.failed("sensor:7833", "nobody listens", "trying again");
        }
        assert_eq!(
            status.take_lines(),
            ["tunnel to sensor:7833: nobody listens; trying again"]
        );
        for at in [1_000_000_000, 5_000_000_000] {
            status.exchange(at, at + 250_000_000, at + 2_000);
        }
        let lines = status.take_lines();
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("0.250 s ahead"), "{lines:?}");
        (0..100).for_each(|number| status.say(number.to_string()));
        assert_eq!(status.take_lines().len(), MOST_LINES);
    }
}
