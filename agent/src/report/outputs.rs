//! What is said of files, pipes, interfaces, sensors and readers.

use super::{counted, said};
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
    let [lost_from_file, lost_on_way] = match is_file {
        true => [stats.lost, 0],
        false => [0, stats.lost],
    };
    let outages = counted(stats.outages, "time");
    let stream = branch.end.stream.unwrap_or_default();
    let forge = branch.end.forge.unwrap_or_default();
    let when_broken = |bytes: u64| if branch.broken { bytes } else { 0 };
    [
        said(
            lost_from_file,
            "packet",
            format_args!(
                "with {} of clear text LOST while {output} couldn't be written ({outages})",
                counted(stats.lost_text_bytes, "byte"),
            ),
        ),
        said(
            lost_on_way,
            "packet",
            format_args!("LOST while {output} couldn't send ({outages})"),
        ),
        said(
            stats.too_large,
            "packet",
            format_args!("LOST: larger than {output} takes since an MTU was changed"),
        ),
        said(
            stats.dropped_on_way,
            "packet",
            format_args!(
                "or more LOST on the way to {output}: larger than it takes since an MTU was changed"
            ),
        ),
        said(
            stream.missed_bytes,
            "byte",
            format_args!(
                "of clear text are holes on {output}: its reader fell behind ({})",
                counted(stream.behind, "time"),
            ),
        ),
        said(
            when_broken(stream.unread_bytes),
            "byte",
            format_args!("of clear text waited for the reader of {output} when that ended"),
        ),
        said(
            when_broken(branch.unseen_bytes),
            "byte",
            format_args!("of clear text came when {output} had ended, and are not there"),
        ),
        said(
            forge.flows_hidden,
            "session",
            format_args!(
                "within this host not sent on {output}, with {} of clear text: \
                 --net-map 127.0.0.0/16=10.127.0.0/16 shows them under other addresses",
                counted(forge.hidden_bytes, "byte"),
            ),
        ),
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
        let lost = said(
            stats.lost,
            "session",
            format_args!(
                "LOST on the way to the log {output}, which couldn't be written, or not fast enough ({})",
                counted(stats.outages, "time"),
            ),
        );
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
        said(
            stats.missed_bytes,
            "byte",
            format_args!(
                "of clear text are holes for readers that fell behind ({})",
                counted(stats.behind, "time"),
            ),
        ),
        said(
            stats.unread_bytes,
            "byte",
            "of clear text waited for readers when they left",
        ),
        said(stats.stuck, "reader", "sent away: took nothing any more"),
        said(
            refused,
            "reader",
            format_args!(
                "refused: too many at once ({}), not one who may read ({}), TLS failed ({})",
                stats.refused_full, stats.refused_access, stats.refused_tls,
            ),
        ),
        said(stats.vanished, "reader", "gone before they were let in"),
    ];
    each.into_iter().chain(sums.into_iter().flatten())
}
