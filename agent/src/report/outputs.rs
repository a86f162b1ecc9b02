//! What is said of files, pipes, interfaces, sensors and readers.

use super::counted;
use crate::column::BranchStats;
use crate::config::OutputChoice;

/// What is in a capture: less than was forged for it, where not all could be written or was read.
pub(crate) fn packets(branch: &BranchStats) -> Option<u64> {
    let forged = branch.end.forge?.packets;
    let read = branch.end.stream.map(|stream| stream.packets);
    Some(read.unwrap_or(forged.saturating_sub(branch.end.sent.lost)))
}

/// What isn't in a file, and doesn't reach the monitor on an interface or by VXLAN.
pub(crate) fn sending_losses(branch: &BranchStats) -> impl Iterator<Item = String> + use<> {
    let (stats, output) = (branch.end.sent, branch.output.to_string());
    let is_file = matches!(branch.output, OutputChoice::File(..) | OutputChoice::Stdout);
    let missed = branch.end.stream.filter(|stream| stream.missed_bytes > 0);
    let missed = missed.map(|stream| {
        format!(
            "{} of clear text are holes on {output}: its reader fell behind ({})",
            counted(stream.missed_bytes, "byte"),
            counted(stream.behind, "time"),
        )
    });
    let waits = branch
        .end
        .stream
        .filter(|stream| branch.broken && stream.unread_bytes > 0);
    let waits = waits.map(|stream| {
        format!(
            "{} of clear text waited for the reader of {output} when that ended",
            counted(stream.unread_bytes, "byte"),
        )
    });
    let hidden = branch.end.forge.filter(|forge| forge.flows_hidden > 0);
    [
        (stats.lost > 0 && is_file).then(|| {
            format!(
                "{} with {} of clear text LOST while {output} couldn't be written ({})",
                counted(stats.lost, "packet"),
                counted(stats.lost_text_bytes, "byte"),
                counted(stats.outages, "time"),
            )
        }),
        (stats.lost > 0 && !is_file).then(|| {
            format!(
                "{} LOST while {output} couldn't send ({})",
                counted(stats.lost, "packet"),
                counted(stats.outages, "time"),
            )
        }),
        (stats.too_large > 0).then(|| {
            format!(
                "{} LOST: larger than {output} takes since an MTU was changed",
                counted(stats.too_large, "packet"),
            )
        }),
        (stats.dropped_on_way > 0).then(|| {
            format!(
                "{} or more LOST on the way to {output}: larger than it takes since an MTU was changed",
                counted(stats.dropped_on_way, "packet"),
            )
        }),
        missed,
        waits,
        (branch.broken && branch.unseen_bytes > 0).then(|| {
            format!(
                "{} of clear text came when {output} had ended, and are not there",
                counted(branch.unseen_bytes, "byte"),
            )
        }),
        hidden.map(|forge| {
            format!(
                "{} within this host not sent on {output}, with {} of clear text: \
                 --net-map 127.0.0.0/16=10.127.0.0/16 shows them under other addresses",
                counted(forge.flows_hidden, "session"),
                counted(forge.hidden_bytes, "byte"),
            )
        }),
    ]
    .into_iter()
    .flatten()
}

/// What is in the log, and what isn't. Columns that write the same log have the same counts.
pub(crate) fn log_lines(outputs: &[BranchStats]) -> impl Iterator<Item = String> + use<> {
    let log = outputs
        .iter()
        .find_map(|branch| Some((branch.end.log?, branch.output.to_string())));
    let lines = log.map(|(stats, output)| {
        let written = counted(stats.sessions.saturating_sub(stats.lost), "session");
        let place = match output == "standard output" {
            true => "on",
            false => "in",
        };
        let lost = (stats.lost > 0).then(|| {
            format!(
                "{} LOST on the way to the log {output}, which couldn't be written, or not fast enough ({})",
                counted(stats.lost, "session"),
                counted(stats.outages, "time"),
            )
        });
        [Some(format!("{written} logged {place} {output}")), lost]
    });
    lines.into_iter().flatten().flatten()
}

/// What readers who connected didn't get, and who didn't get anything.
pub(crate) fn reader_losses(branch: &BranchStats) -> impl Iterator<Item = String> + use<> {
    let stats = branch.end.readers.unwrap_or_default();
    let refused = stats.refused_full + stats.refused_access + stats.refused_tls;
    let each = branch.end.each_reader.iter().map(|reader| {
        let mut line = format!(
            "reader {}: {} so far",
            reader.peer,
            counted(reader.packets, "packet")
        );
        if reader.missed_bytes > 0 {
            line += &format!(
                ", {} of clear text missed ({})",
                counted(reader.missed_bytes, "byte"),
                counted(reader.behind, "time")
            );
        }
        line
    });
    let each: Vec<_> = each.collect();
    let sums = [
        (
            stats.missed_bytes,
            format!(
                "{} of clear text are holes for readers that fell behind ({})",
                counted(stats.missed_bytes, "byte"),
                counted(stats.behind, "time"),
            ),
        ),
        (
            stats.unread_bytes,
            format!(
                "{} of clear text waited for readers when they left",
                counted(stats.unread_bytes, "byte"),
            ),
        ),
        (
            stats.stuck,
            format!(
                "{} sent away: took nothing any more",
                counted(stats.stuck, "reader"),
            ),
        ),
        (
            refused,
            format!(
                "{} refused: too many at once ({}), not one who may read ({}), TLS failed ({})",
                counted(refused, "reader"),
                stats.refused_full,
                stats.refused_access,
                stats.refused_tls,
            ),
        ),
        (
            stats.vanished,
            format!(
                "{} gone before they were let in",
                counted(stats.vanished, "reader"),
            ),
        ),
    ];
    let sums = sums.into_iter();
    each.into_iter()
        .chain(sums.filter_map(|(count, line)| (count > 0).then_some(line)))
}
