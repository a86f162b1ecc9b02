//! What became of sessions behind proxies.

use agent::real::{RealStats, Stop};

use super::{causes, counted, said};

/// A line for what was found, and for each reason why something wasn't.
pub(super) fn lines(stats: &RealStats) -> Vec<String> {
    let found = [
        (stats.by_x_forwarded_for, "X-Forwarded-For"),
        (stats.by_forwarded, "Forwarded"),
        (stats.by_proxy_protocol, "PROXY headers"),
    ];
    let found = found.into_iter().filter(|(count, _)| *count > 0);
    let found: Vec<_> = found
        .map(|(count, by)| format!("{} by {by}", counted(count, "client")))
        .collect();
    let found = match found.is_empty() {
        true => "no client told".to_owned(),
        false => found.join(", "),
    };
    let kept = match stats.kept {
        0 => String::new(),
        kept => format!(", {} under a proxy's own address", counted(kept, "flow")),
    };
    let stops = Stop::ALL.map(Stop::words).into_iter().zip(stats.stopped);
    let stopped = stats.stopped.iter().sum();
    [
        said(
            stats.sessions,
            "session",
            format_args!("of trusted proxies: {found}{kept}"),
        ),
        said(
            stopped,
            "session",
            format_args!(
                "not followed from some place on: {}",
                causes(stops)
            ),
        ),
        said(
            stats.unusable,
            "request",
            "whose client is no address: shown under the proxy's",
        ),
        said(
            stats.conflicts,
            "request",
            "whose X-Forwarded-For and Forwarded name two clients: shown under the proxy's address. Have the proxy \
             remove the one that it doesn't write",
        ),
        said(
            stats.headerless,
            "session",
            "without a PROXY header within TLS: shown under the proxy's address",
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
        assert!(lines(&RealStats::default()).is_empty());
        let mut stats = RealStats {
            sessions: 3,
            by_x_forwarded_for: 4,
            kept: 1,
            ..RealStats::default()
        };
        stats.stopped[Stop::Http2 as usize] = 1;
        let said = [
            "3 sessions of trusted proxies: 4 clients by X-Forwarded-For, 1 flow under a proxy's own address",
            "1 session not followed from some place on: HTTP/2 (1)",
        ];
        assert_eq!(lines(&stats), said);
    }
}
