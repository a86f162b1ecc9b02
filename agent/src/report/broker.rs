//! What the way to a broker has to say.

use super::counted;
use super::tunnel::losses;
use crate::column::BranchStats;

/// The lines of a broker; none of other outputs.
pub(super) fn lines(branch: &BranchStats) -> Vec<String> {
    let Some(broker) = &branch.end.broker else {
        return Vec::new();
    };
    let (publisher, window) = (&broker.publisher, &broker.window);
    let mut line = format!(
        "broker: {} with {} in {}",
        counted(window.acknowledged_batches, "batch"),
        counted(publisher.bytes, "sealed byte"),
        counted(publisher.envelopes, "envelope"),
    );
    if window.waiting_batches > 0 {
        line += &format!(", {} wait", counted(window.waiting_batches, "batch"));
    }
    if publisher.failures > 0 {
        line += &format!(
            ", {} failed and repeated",
            counted(publisher.failures, "attempt")
        );
    }
    if publisher.begun_anew > 0 {
        line += &format!(
            ", begun anew {} after it had ended by what the broker said",
            counted(publisher.begun_anew, "time")
        );
    }
    std::iter::once(line)
        .chain(losses(&broker.outbox, 0))
        .collect()
}
