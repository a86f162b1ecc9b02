//! What a tunnel has to say.

use agent::tunnel::outbox::OutboxStats;

use super::{counted, said};
use crate::column::{BranchStats, LinkStats};

/// The lines of a tunnel; none of other outputs.
pub(super) fn lines(branch: &BranchStats) -> Vec<String> {
    let Some(tunnel) = &branch.end.tunnel else {
        return Vec::new();
    };
    let mut lines: Vec<_> = tunnel.links.iter().map(link).collect();
    if tunnel.spooled_bytes > 0 {
        let bytes = counted(tunnel.spooled_bytes, "byte");
        lines.push(format!("tunnel: {bytes} wait in the spool"));
    }
    lines.extend(losses(
        &tunnel.outbox,
        tunnel
            .links
            .iter()
            .map(|link| link.window.lost_batches)
            .sum(),
    ));
    lines
}

fn link(link: &LinkStats) -> String {
    let (status, window) = (&link.status, &link.window);
    let mut line = match &status.connected {
        Some(connected) => {
            let seconds = connected.since.elapsed().as_secs();
            format!(
                "tunnel: connected to {} for {seconds} s",
                connected.collector
            )
        }
        None => format!("tunnel: not connected to {}", link.collectors),
    };
    line += &format!(
        ", {} with {} of events sent",
        counted(window.sent_batches, "batch"),
        counted(window.sent_bytes, "byte"),
    );
    let (from, to) = status.compressed;
    if from > 0 {
        line += &format!(" ({from} of these compressed to {to})");
    }
    line += &match window.waiting_batches {
        0 => ", all acknowledged".to_owned(),
        waiting => format!(", {waiting} not acknowledged yet"),
    };
    if window.resent_batches > 0 {
        line += &format!(
            ", {} with {} sent again",
            counted(window.resent_batches, "batch"),
            counted(window.resent_bytes, "byte"),
        );
    }
    if status.connections > 1 {
        line += &format!(", {}", counted(status.connections - 1, "reconnection"));
    }
    if let Some(difference) = status.difference {
        line += &format!(", collector's clock {difference}");
    }
    line
}

/// `unreadable`: batches that a spool has lost.
pub(super) fn losses(
    outbox: &OutboxStats,
    unreadable: u64,
) -> impl Iterator<Item = String> + use<> {
    [
        said(
            outbox.dropped_bytes,
            "byte",
            format_args!(
                "of clear text LOST on the way into the tunnel, in {} that the collector shows: a larger --window helps",
                counted(outbox.dropped_holes, "hole"),
            ),
        ),
        said(
            outbox.dropped_flows,
            "session",
            "LOST whole: the tunnel's window had no room when they began",
        ),
        said(
            unreadable,
            "batch",
            "LOST on disk: the spool couldn't be read",
        ),
    ]
    .into_iter()
    .flatten()
}
