//! What became of sessions whose beginning nobody saw.

use agent::midstream::LateStats;

use super::{counted, said};

/// A line, if there were any.
pub(super) fn line(stats: &LateStats) -> Option<String> {
    let LateStats {
        sessions,
        shown,
        left_out_bytes,
    } = *stats;
    said(
        sessions,
        "session",
        format_args!(
            "had begun before anybody looked: {shown} shown from a later message on, {} not, {} of clear text left out",
            sessions - shown,
            counted(left_out_bytes, "byte")
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_words() {
        let mut stats = LateStats::default();
        assert_eq!(line(&stats), None);
        (stats.sessions, stats.shown, stats.left_out_bytes) = (3, 1, 7);
        let words = "3 sessions had begun before anybody looked: 1 shown from a later message on, 2 not, 7 bytes of \
                     clear text left out";
        assert_eq!(line(&stats).as_deref(), Some(words));
    }
}
