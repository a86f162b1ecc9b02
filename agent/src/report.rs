//! What is said at the end, and on SIGUSR1: how much was seen, what is missing and why, what to do.

mod broker;
mod http1;
mod late;
mod outputs;
mod real;
mod tunnel;

pub(crate) use self::outputs::{log_lines, packets, reader_losses, sending_losses};

use std::fmt::Display;

use agent::flow::{CaptureStats, FlowStats};
use agent::intake::{IntakeStats, Refusal};

use crate::column::{BranchStats, ShownStats};
use crate::config::OutputChoice;

/// All counts at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Counts {
    /// What came from the rings.
    pub(crate) intake: IntakeStats,
    /// What became of the sessions.
    pub(crate) flow: FlowStats,
    /// What each output has done.
    pub(crate) outputs: Vec<BranchStats>,
    /// What was seen of handshakes on the wire, where they are watched.
    pub(crate) capture: Option<CaptureStats>,
    /// What was found in what is shown.
    pub(crate) shown: ShownStats,
}

impl Counts {
    /// Whether any TLS session was seen at all, forged or not.
    pub(crate) fn saw_tls(&self) -> bool {
        self.flow.sessions > 0 || self.excluded() > 0 || self.intake.processes_excluded() > 0
    }

    /// Sessions that the filters exclude, wherever that was found.
    fn excluded(&self) -> u64 {
        self.intake.excluded + self.flow.excluded
    }

    /// Clear text bytes that are known to be missing.
    fn lost_bytes(&self) -> u64 {
        self.intake.lost_bytes + self.intake.stray_bytes + self.flow.unknown_bytes
    }

    /// Clear text bytes for which a tunnel had no room: they are in no packet there, whatever other outputs have.
    fn tunnel_losses(&self) -> u64 {
        let outboxes = self.outputs.iter().filter_map(|branch| {
            let tunnel = branch.end.tunnel.as_ref().map(|tunnel| &tunnel.outbox);
            tunnel.or(branch.end.broker.as_ref().map(|broker| &broker.outbox))
        });
        outboxes
            .map(|outbox| outbox.dropped_bytes)
            .max()
            .unwrap_or(0)
    }

    /// The report, a line each. The first says what there is, the others what isn't, and why.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![self.first_line()];
        lines.extend(self.continued());
        lines.extend(self.losses());
        lines.extend(self.outputs.iter().flat_map(sending_losses));
        lines.extend(self.outputs.iter().flat_map(tunnel::lines));
        lines.extend(self.outputs.iter().flat_map(broker::lines));
        lines.extend(self.outputs.iter().flat_map(reader_losses));
        lines.extend(log_lines(&self.outputs));
        lines.extend(shown_lines(&self.shown));
        lines.extend(self.limits());
        lines
    }

    fn first_line(&self) -> String {
        let mut line = format!(
            "{} of {}, {} of clear text",
            counted(self.flow.sessions - self.flow.excluded, "session"),
            counted(self.intake.attached, "process"),
            counted(self.flow.bytes, "byte"),
        );
        for branch in &self.outputs {
            if let Some(readers) = &branch.end.readers {
                line += &format!(
                    ", {} to {}",
                    counted(readers.packets, "packet"),
                    counted(readers.readers, "reader")
                );
            }
            let Some(forge) = &branch.end.forge else {
                continue;
            };
            line += &match &branch.output {
                OutputChoice::Interface(choice) => {
                    let sent = counted(branch.end.sent.frames, "packet");
                    format!(", {sent} on {}", choice.name)
                }
                OutputChoice::Vxlan(_) => {
                    let sent = counted(branch.end.sent.frames, "packet");
                    format!(", {sent} to {}", branch.output)
                }
                output => {
                    let place = if *output == OutputChoice::Stdout {
                        "on"
                    } else {
                        "in"
                    };
                    let packets = packets(branch).unwrap_or(forge.packets);
                    format!(", {} {place} {output}", counted(packets, "packet"))
                }
            };
        }
        let lost = self.lost_bytes() + self.intake.untold_bytes + self.tunnel_losses();
        if lost > 0 {
            line += &format!(", {} LOST", counted(lost, "byte"));
        }
        line
    }

    fn losses(&self) -> impl Iterator<Item = String> {
        let (intake, flow) = (&self.intake, &self.flow);
        let reordered = self
            .outputs
            .iter()
            .map(|branch| branch.end.window.clamped)
            .sum();
        // Each was deferred first. One that is open still may find room yet.
        let found_room = intake.opens_deferred.saturating_sub(intake.opens_lost);
        // Each output forges the same.
        let forged = self.outputs.iter().filter_map(|branch| branch.end.forge);
        let dropped = forged.map(|forge| forge.dropped_bytes).max().unwrap_or(0);
        [
            said(self.lost_bytes(), "byte", format_args!(
                "of clear text are missing, in {} that the packets declare: {} found the ring full; a larger --ring-size helps",
                counted(flow.holes, "hole"),
                counted(intake.dropped_bytes, "byte"),
            )),
            said(found_room, "session", "found the ring full when it began, and is mirrored from where there was room"),
            said(intake.opens_lost, "session", format_args!(
                "not mirrored, with {} of clear text: the ring was full from beginning to end",
                counted(intake.untold_bytes, "byte"),
            )),
            said(intake.missed, "session", format_args!(
                "not mirrored, with {} of clear text: they had said all before their process had found its agent",
                counted(intake.missed_bytes, "byte"),
            )),
            said(intake.closes_lost, "session", "ended unheard: the ring was full"),
            said(intake.quarantined, "process", "broke the rules of the ring and was cut off"),
            said(intake.skipped_records, "record", "in the middle of which its process was killed"),
            said(intake.tail_unknown, "process", "ended in the middle of a write: what its last sessions said is incomplete"),
            said(intake.ended_early, "session", "ended by its process may go on in one that this has forked: what that says is another flow"),
            said(intake.refused_total(), "request", format_args!("to be mirrored refused: {}", refusals(intake))),
            said(intake.refused_connections + flow.refused_sessions, "session", "refused: too many at once"),
            said(dropped, "byte", "can't be told as TCP and are not in the packets"),
            said(flow.twins_different, "session", "mirrored at both ends had different text at each: the first copy is shown"),
            said(reordered, "packet", "came too late for its place in the file and has a later time"),
        ]
        .into_iter()
        .flatten()
    }

    /// What the agent before had begun.
    fn continued(&self) -> Option<String> {
        let intake = &self.intake;
        (intake.taken_over > 0).then(|| {
            format!(
                "{} of {} went on here where the agent before had stopped",
                counted(intake.resumed, "session"),
                counted(intake.taken_over, "process"),
            )
        })
    }

    fn limits(&self) -> impl Iterator<Item = String> {
        let flow = &self.flow;
        let unknown = self.intake.excluded_unknown + flow.excluded_unknown;
        let capture = self.capture.unwrap_or_default();
        let unread = capture.kernel_dropped + capture.facts_dropped + capture.unfinished;
        let why = if self.capture.is_some() {
            "the handshake wasn't seen on a watched interface"
        } else {
            "the library has no socket, byte counts left none or several of the process's connections, and handshakes weren't watched: run as root, or give sslcollector the right to capture (setcap cap_net_raw+ep)"
        };
        let claims_open =
            flow.claims_gone + flow.claims_foreign + flow.claims_unasked + flow.claims_contradicted;
        [
            said(self.intake.processes_excluded(), "process", "excluded by the filters"),
            said(self.excluded(), "session", "excluded by the filters"),
            (unknown > 0).then(|| {
                format!(
                    "{unknown} of them because what a filter asks for wasn't known; for addresses that the library \
                     doesn't know, --unknown-flow mirror lets sslcollector find out (with the right to capture)",
                )
            }),
            said(
                flow.unbound,
                "session",
                format_args!("with placeholder addresses (192.0.2.0/24, 198.51.100.0/24): {why}"),
            ),
            said(
                capture.failed,
                "interface",
                "ceased to show handshakes: sessions there have no addresses but their sockets'; once it is back, restart sslcollector",
            ),
            said(
                unread,
                "part",
                format_args!(
                    "of handshakes unread: {} came faster than they were read, {} faster than sessions were looked for; of {} the rest was never seen",
                    capture.kernel_dropped, capture.facts_dropped, capture.unfinished,
                ),
            ),
            (claims_open > 0).then(|| claims(flow)),
            said(
                flow.bound_ambiguously,
                "session",
                "seen on the wire under several addresses: one of them is shown",
            ),
            said(
                flow.bound_by_counters,
                "session",
                "shown with the connection that alone had carried as many bytes (bound=counters)",
            ),
            said(
                flow.counters_contradicted,
                "session",
                "seen on the wire elsewhere than its bytes were counted: shown as on the wire",
            ),
            said(flow.dtls, "session", "of DTLS not mirrored: only TLS over TCP is"),
            said(flow.quic, "session", "of QUIC not mirrored: only TLS over TCP is"),
            said(flow.handshakes_failed, "handshake", "failed before any text passed"),
            said(
                flow.early_rejected_bytes,
                "byte",
                "of 0-RTT data refused by the server: not shown, since nobody read them",
            ),
            (flow.clock_steps > 0).then(|| {
                format!(
                    "the machine's clock was set {}: packets' times never went back for it",
                    counted(flow.clock_steps, "time"),
                )
            }),
            said(flow.twins, "session", "mirrored at both ends: one copy is shown"),
        ]
        .into_iter()
        .flatten()
    }
}

/// What was found in sessions that are shown in another way than they were.
pub(crate) fn shown_lines(shown: &ShownStats) -> Vec<String> {
    let mut lines: Vec<_> = late::line(&shown.late).into_iter().collect();
    lines.extend(http1::lines(&shown.http1));
    lines.extend(real::lines(&shown.real));
    lines
}

/// What the kernel said of the addresses that sessions named as their sockets'.
fn claims(flow: &FlowStats) -> String {
    let reasons = [
        (flow.claims_gone, "had ended when it was asked"),
        (flow.claims_foreign, "have a socket of another user's"),
        (flow.claims_unasked, "it couldn't be asked about"),
    ];
    let unproven = reasons.iter().map(|(count, _)| count).sum();
    let reasons: Vec<_> = reasons
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, why)| format!("{count} {why}"))
        .collect();
    let mut line = format!(
        "addresses of {} confirmed by the kernel",
        counted(flow.claims_proven, "session"),
    );
    if unproven > 0 {
        line += &format!(
            ", of {} not: {}",
            counted(unproven, "session"),
            reasons.join(", ")
        );
    }
    if flow.claims_contradicted > 0 {
        line += &format!(
            "; {} named another process's connection and was shown without it",
            counted(flow.claims_contradicted, "session"),
        );
    }
    line
}

/// `1 session`, `2 sessions`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = match (count, noun) {
        (1, _) => "",
        (_, noun) if noun.ends_with('s') || noun.ends_with("ch") => "es",
        _ => "s",
    };
    format!("{count} {noun}{plural}")
}

/// The line of what has happened so often; none of what hasn't.
fn said(count: u64, noun: &str, rest: impl Display) -> Option<String> {
    (count > 0).then(|| format!("{} {rest}", counted(count, noun)))
}

/// Those that happened, as `a hole (1), a false content-length (2)`.
fn causes<'a>(counted: impl IntoIterator<Item = (&'a str, u64)>) -> String {
    let causes = counted.into_iter().filter(|(_, count)| *count > 0);
    let causes = causes.map(|(words, count)| format!("{words} ({count})"));
    causes.collect::<Vec<_>>().join(", ")
}

/// Why requests were refused: `the memory isn't sealed (2)`.
fn refusals(intake: &IntakeStats) -> String {
    let reasons = Refusal::ALL.into_iter().filter_map(|reason| {
        let count = intake.refused[reason.index()];
        (count > 0).then(|| format!("{reason} ({count})"))
    });
    reasons.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_read_well() {
        assert_eq!(counted(0, "byte"), "0 bytes");
        assert_eq!(counted(1, "process"), "1 process");
        assert_eq!(counted(12, "process"), "12 processes");
        assert_eq!(counted(2, "batch"), "2 batches");
        assert_eq!(said(0, "byte", "lost"), None);
        assert_eq!(said(1, "byte", "lost").unwrap(), "1 byte lost");
    }
}
