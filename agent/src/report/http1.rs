//! What became of sessions of HTTP/2.

use agent::transform::{Stop, TransformStats, Undecoded};

use super::{causes, counted, said};

/// A line for what was told, and for each thing that couldn't be.
pub(super) fn lines(stats: &TransformStats) -> Vec<String> {
    let stops = Stop::ALL.map(Stop::words).into_iter().zip(stats.stopped);
    let causes_of = |counts: [u64; Undecoded::ALL.len()]| {
        causes(Undecoded::ALL.map(Undecoded::words).into_iter().zip(counts))
    };
    let stopped = stats.stopped.iter().sum();
    let pushed = match stats.pushed {
        0 => String::new(),
        pushed => format!(" and {} that servers pushed", counted(pushed, "request")),
    };
    [
        said(
            stats.sessions,
            "session",
            format_args!(
                "of HTTP/2 shown as HTTP/1.1: {}{pushed}, in {} beside their own",
                counted(stats.requests, "request"),
                counted(stats.lanes, "flow"),
            ),
        ),
        said(
            stats.upgraded,
            "session",
            "of HTTP/2 that began as HTTP/1.1 (h2c): the 101 that said so isn't shown",
        ),
        said(
            stopped,
            "session",
            format_args!(
                "of HTTP/2 shown as frames from some place on: {}",
                causes(stops)
            ),
        ),
        said(
            stats.aborted,
            "stream",
            "of HTTP/2 given up in the middle: their flows end by a reset",
        ),
        said(
            stats.late_bytes,
            "byte",
            "of HTTP/2 came for streams whose flows had ended, and aren't shown",
        ),
        said(
            stats.unshown_bytes,
            "byte",
            "of HTTP/2 LOST: no port was left for a flow of their frames; fewer sessions of one client at one server would leave some",
        ),
        said(
            stats.decoded,
            "message",
            "of HTTP/2 shown with its content decoded",
        ),
        said(
            stats.undecoded.iter().sum(),
            "message",
            format_args!(
                "of HTTP/2 with coded content shown as it came: {}",
                causes_of(stats.undecoded)
            ),
        ),
        said(
            stats.broken_off.iter().sum(),
            "message",
            format_args!(
                "of HTTP/2 shown decoded and broken off, by a reset: {}",
                causes_of(stats.broken_off)
            ),
        ),
        said(
            stats.unshown_trailers,
            "trailer field",
            "of HTTP/2 behind content of a given length, where HTTP/1.1 has no place for any, not shown",
        ),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_happened_is_said() {
        assert!(lines(&TransformStats::default()).is_empty());
        let mut stats = TransformStats {
            sessions: 2,
            requests: 12,
            lanes: 1,
            pushed: 1,
            ..TransformStats::default()
        };
        stats.stopped[Stop::Hole as usize] = 1;
        stats.unshown_bytes = 5;
        stats.decoded = 7;
        stats.undecoded[Undecoded::Part as usize] = 2;
        stats.undecoded[Undecoded::Broken as usize] = 1;
        stats.broken_off[Undecoded::Ratio as usize] = 1;
        let said = [
            "2 sessions of HTTP/2 shown as HTTP/1.1: 12 requests and 1 request that servers pushed, in 1 flow beside \
             their own",
            "1 session of HTTP/2 shown as frames from some place on: a hole (1)",
            "5 bytes of HTTP/2 LOST: no port was left for a flow of their frames; fewer sessions of one client at one server would \
             leave some",
            "7 messages of HTTP/2 shown with its content decoded",
            "3 messages of HTTP/2 with coded content shown as it came: a part of a whole (2), broken (1)",
            "1 message of HTTP/2 shown decoded and broken off, by a reset: too much of too little (1)",
        ];
        assert_eq!(lines(&stats), said);
    }
}
