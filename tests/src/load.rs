//! Load on a server: wrk, as fast as it can on connections that it keeps, until it is told to stop; and ab, so
//! many connections with one request each. Both with the distribution's library.

use std::process::{Command, Output};

use rustix::process::Signal;

use crate::process::Process;

/// wrk, running.
#[derive(Debug)]
pub struct Wrk(Process);

/// What wrk counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// Answered with success.
    pub good: u64,
    /// Answered otherwise, or not at all.
    pub failed: u64,
}

/// Connections of wrk.
pub const CONNECTIONS: usize = 64;

impl Wrk {
    /// Requests `url` for at most `seconds`.
    pub fn start(url: &str, seconds: u64) -> Self {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t", "2", "-c", &CONNECTIONS.to_string()]);
        // A machine with other work on it is slow at times; that is no failure.
        wrk.args(["-d", &seconds.to_string(), "--timeout", "120", url]);
        Self(Process::start_piped(&mut wrk))
    }

    /// Whether its time is over.
    pub fn ended(&mut self) -> bool {
        self.0.ended()
    }

    /// Stops it, if it still runs; what it counted.
    ///
    /// # Panics
    /// If it says nothing that can be read.
    pub fn stop(mut self) -> Requests {
        if !self.ended() {
            self.0.signal(Signal::INT);
        }
        Requests::of(&self.0.output())
    }
}

impl Requests {
    fn of(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let line = |of: &str| text.lines().map(str::trim).find(|line| line.contains(of));
        let numbers = |line: &str| -> Vec<u64> {
            let words = line.split(|letter: char| !letter.is_ascii_digit());
            words.filter_map(|word| word.parse().ok()).collect()
        };
        let total = line("requests in").map(numbers);
        let total = total.unwrap_or_else(|| panic!("wrk: {output:?}"))[0];
        // "Socket errors: connect 0, read 0, write 0, timeout 0"; "Non-2xx or 3xx responses: 0".
        let errors = line("Socket errors").map_or(0, |line| numbers(line).iter().sum());
        let statuses = line("Non-2xx").and_then(|line| numbers(line).last().copied());
        let statuses = statuses.unwrap_or(0);
        Self {
            good: total - statuses,
            failed: errors + statuses,
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            good: self.good + other.good,
            failed: self.failed + other.failed,
        }
    }
}

/// Makes so many connections with one request for `url` each, [`CONNECTIONS`] at a time.
pub fn ab(url: &str, count: usize) -> Process {
    ab_at(url, count, CONNECTIONS)
}

/// The same, so many at a time.
pub fn ab_at(url: &str, count: usize, at_a_time: usize) -> Process {
    let mut ab = Command::new("ab");
    ab.args(["-q", "-s", "120", "-n", &count.to_string()]);
    ab.args(["-c", &at_a_time.to_string(), url]);
    Process::start_piped(&mut ab)
}

/// Waits for ab: all of `count` connections got an answer.
///
/// # Panics
/// If not.
pub fn assert_all_answered(ab: Process, count: usize) {
    let output = ab.output();
    let text = String::from_utf8_lossy(&output.stdout);
    let number = |of: &str| {
        let line = text.lines().find(|line| line.starts_with(of));
        line.and_then(|line| line.split_whitespace().last()?.parse().ok())
    };
    assert_eq!(number("Complete requests:"), Some(count), "{output:?}");
    assert_eq!(number("Failed requests:"), Some(0), "{text}");
    assert_eq!(number("Non-2xx responses:"), None, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::ExitStatus;

    #[test]
    fn what_wrk_says() {
        let of = |text: &str| {
            Requests::of(&Output {
                status: ExitStatus::default(),
                stdout: text.into(),
                stderr: Vec::new(),
            })
        };
        let good = "Running 1s test\n  2 threads and 64 connections\n  \
                    20000 requests in 1.10s, 24.1MB read\nRequests/sec: 18000.3\n";
        let seen = of(good);
        assert_eq!((seen.good, seen.failed), (20_000, 0));
        let bad = format!(
            "{good}  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 7\n"
        );
        let seen = of(&bad);
        assert_eq!((seen.good, seen.failed), (19_993, 13));
    }
}
