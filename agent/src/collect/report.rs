//! What a collector says of itself, at the end and on SIGUSR1.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::Instant;

use agent::collector::{AgentReport, Fleet, WorkerReport};

use crate::column::{BranchStats, ShownStats};
use crate::config::OutputChoice;
use crate::report::{
    counted, log_lines, packets as packets_in, reader_losses, sending_losses, shown_lines,
};

/// Reports, each with the rates since the one before.
#[derive(Debug)]
pub(super) struct Reporter {
    since: Instant,
    /// Clear text of each agent until then, by its number.
    bytes: HashMap<u64, u64>,
}

impl Reporter {
    pub(super) fn new() -> Self {
        Self {
            since: Instant::now(),
            bytes: HashMap::new(),
        }
    }

    /// The report, a line each: the whole, what is missing and why, each agent.
    pub(super) fn lines(
        &mut self,
        fleet: &Fleet,
        workers: &[WorkerReport],
        (outputs, shown): (&[BranchStats], ShownStats),
    ) -> Vec<String> {
        let sum = |count: fn(&WorkerReport) -> u64| -> u64 { workers.iter().map(count).sum() };
        let agents = fleet.agents();
        let mut lines: Vec<_> = workers
            .iter()
            .flat_map(|worker| worker.complaints.clone())
            .collect();
        lines.push(first_line(&agents, workers, outputs));
        let counts = [
            (
                sum(|w| w.merge.twins),
                "session",
                "mirrored at both ends: one copy is shown",
            ),
            (
                sum(|w| w.merge.late_copies),
                "session",
                "of which the other end's copy came when it had ended",
            ),
            (
                sum(|w| w.merge.filled),
                "hole",
                "filled from the other end's copy",
            ),
            (
                sum(|w| w.merge.different),
                "session",
                "with different text at both ends: what came first is shown",
            ),
            (
                sum(|w| w.merge.late_bytes),
                "byte",
                "LOST: they came behind their session's end",
            ),
            (
                sum(|w| w.merge.clashes),
                "session",
                "told of by two agents as the same end: both are shown",
            ),
            (
                sum(|w| w.inlet.abandoned),
                "session",
                "ended since their agent was gone",
            ),
            (
                sum(|w| w.inlet.foreign_flows),
                "session",
                "refused: foreign addresses",
            ),
            (
                sum(|w| w.inlet.surplus_flows),
                "session",
                "refused: too many of one agent",
            ),
            (
                sum(|w| w.inlet.refused_bytes),
                "byte",
                "of refused sessions",
            ),
            (
                sum(|w| w.inlet.unknown_bytes),
                "byte",
                "of sessions that were never told of",
            ),
            (
                sum(|w| w.inlet.repeated_bytes),
                "byte",
                "told a second time, and dropped",
            ),
            (
                sum(|w| w.inlet.ahead),
                "event",
                "from the future: they got our time",
            ),
        ];
        let said = counts.into_iter().filter(|(count, ..)| *count > 0);
        lines.extend(said.map(|(count, noun, what)| format!("{} {what}", counted(count, noun))));
        let window: u64 = outputs.iter().map(|branch| branch.end.window.clamped).sum();
        if window > 0 {
            let packets = counted(window, "packet");
            lines.push(format!(
                "{packets} came too late for its place in the file and has a later time"
            ));
        }
        lines.extend(outputs.iter().flat_map(sending_losses));
        lines.extend(outputs.iter().flat_map(reader_losses));
        lines.extend(log_lines(outputs));
        lines.extend(shown_lines(&shown));
        let refusals = fleet.refusals();
        if !refusals.is_empty() {
            let each: Vec<_> = refusals
                .iter()
                .map(|(reason, count)| format!("{reason:?} {count}"))
                .collect();
            lines.push(format!("connections refused: {}", each.join(", ")));
        }
        let seconds = self.since.elapsed().as_secs_f64().max(0.001);
        self.since = Instant::now();
        lines.extend(agents.iter().map(|agent| self.agent_line(agent, seconds)));
        lines
    }

    fn agent_line(&mut self, report: &AgentReport, seconds: f64) -> String {
        let AgentReport {
            agent,
            address,
            connected,
            waited_for,
        } = report;
        let counts = &agent.counts;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let bytes = load(&counts.clear_bytes);
        let before = self.bytes.insert(agent.number(), bytes).unwrap_or(0);
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let mbit = (bytes - before) as f64 * 8.0 / 1e6 / seconds;
        let state = match (connected, waited_for) {
            (0, 0) => "gone",
            (0, _) => "waited for",
            _ => "connected",
        };
        let live = counts.live_flows.load(Ordering::Relaxed);
        let clock_ms = counts.clock_difference_ns.load(Ordering::Relaxed) / 1_000_000;
        let mut line = format!(
            "agent {} ({address}), {state}: {mbit:.1} Mbit/s, {} ({live} live), clock {clock_ms:+} ms",
            agent.name(),
            counted(load(&counts.flows), "session"),
        );
        let losses = [
            (load(&counts.missing_bytes), "byte", "missing"),
            (load(&counts.dropped_bytes), "byte", "dropped"),
            (load(&counts.refused_flows), "session", "refused"),
            (
                load(&counts.held_back_us) / 1000,
                "millisecond",
                "held back by its quota",
            ),
        ];
        for (count, noun, what) in losses.into_iter().filter(|(count, ..)| *count > 0) {
            line += &format!(", {} {what}", counted(count, noun));
        }
        line
    }
}

fn first_line(agents: &[AgentReport], workers: &[WorkerReport], outputs: &[BranchStats]) -> String {
    let sum = |count: fn(&WorkerReport) -> u64| -> u64 { workers.iter().map(count).sum() };
    let agents = agents.len() as u64;
    let mut line = format!(
        "{} of {}, {} of clear text",
        counted(sum(|worker| worker.merge.flows), "session"),
        counted(agents, "agent"),
        counted(sum(|worker| worker.inlet.bytes), "byte"),
    );
    let mut packets: Vec<(String, u64)> = Vec::new();
    for branch in outputs {
        let (place, count) = match &branch.output {
            OutputChoice::Log(_) => continue,
            OutputChoice::Interface(choice) => {
                (format!("on {}", choice.name), branch.end.sent.frames)
            }
            OutputChoice::Vxlan(_) => (format!("to {}", branch.output), branch.end.sent.frames),
            OutputChoice::Readers(_) => {
                let readers = branch.end.readers.unwrap_or_default();
                let place = format!("to {}", counted(readers.readers, "reader"));
                (place, readers.packets)
            }
            output => (format!("in {output}"), packets_in(branch).unwrap_or(0)),
        };
        match packets.iter_mut().find(|(known, _)| *known == place) {
            Some((_, known)) => *known += count,
            None => packets.push((place, count)),
        }
    }
    for (place, count) in packets {
        line += &format!(", {} {place}", counted(count, "packet"));
    }
    let missing = sum(|worker| worker.merge.hole_bytes);
    if missing > 0 {
        let holes = counted(sum(|worker| worker.merge.holes), "hole");
        line += &format!(
            ", {} missing in {holes} that the packets declare",
            counted(missing, "byte")
        );
    }
    line
}
