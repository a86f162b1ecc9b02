//! The forging rules as a checker: every packet that a test makes the agent forge passes here.
//!
//! The rules are those of `docs/design.md` on forging: what no IDS objects to, and what no real TCP
//! stack could accept. One [`Rule`] each; the tests below break a good conversation in exactly one
//! way and see exactly that rule object.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;

use crate::decode::{ACK, FIN, PSH, RST, SYN, Segment};
use crate::reader::Capture;

/// At most this much may be unacknowledged: an IDS inspects acknowledged data only.
pub const MAX_UNACKNOWLEDGED: u32 = 16_384;
/// A larger hole has to end the flow.
pub const MAX_HOLE: u32 = 512 << 20;
/// An initial sequence number that Snort takes for an attack tool's.
const SHAFT: u32 = 674_711_609;

/// What can be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// Not an Ethernet, IP and TCP frame at all; or interfaces of different kinds in one file.
    Format,
    /// Addresses aren't locally administered unicast, or change within a flow.
    Mac,
    /// DF, TTL, hop limit, flow label, checksums.
    IpHeader,
    /// TCP's checksum.
    Checksum,
    /// SYN, SYN-ACK, ACK with exactly MSS, NOP, window scale 14.
    Handshake,
    /// An unwelcome initial sequence number, or that of the tuple's previous flow.
    InitialSequence,
    /// Not 65535.
    Window,
    /// Options on a packet that isn't a SYN.
    Options,
    /// More payload than the MSS.
    Mss,
    /// A short segment without PSH, or flags that no rule allows.
    Flags,
    /// A sequence number that goes back: data twice.
    Repeated,
    /// More is missing than may be.
    Hole,
    /// The data after a hole, to the end of its record, isn't acknowledged at once.
    HoleAck,
    /// The ACK isn't all that the other side has sent so far.
    Ack,
    /// More than 16 KiB wait for an acknowledgment.
    Unacknowledged,
    /// Data or another FIN behind a FIN, an unacknowledged FIN, a RST with a wrong number.
    Close,
    /// A packet of a flow that has ended.
    AfterEnd,
    /// A SYN for a tuple that is in use.
    TupleInUse,
    /// The file ends while the flow is open.
    NotClosed,
    /// Time goes back.
    Time,
    /// A flow without a comment on its SYN, or a comment on what is neither SYN nor RST.
    Comment,
}

/// One objection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Number of the packet as Wireshark counts, from 1; 0 is the file.
    pub packet: usize,
    /// What is broken.
    pub rule: Rule,
    /// How.
    pub what: String,
}

/// Checks all packets of a capture against all rules.
pub fn check(capture: &Capture) -> Vec<Violation> {
    let mut checker = Checker::default();
    let kinds: HashSet<_> = capture
        .interfaces
        .iter()
        .map(|interface| (interface.link_type, interface.snap_length))
        .collect();
    if kinds.len() > 1 || kinds.iter().any(|(link_type, _)| *link_type != 1) {
        checker.object(Rule::Format, format!("link types, snap lengths: {kinds:?}"));
    }
    for (index, packet) in capture.packets.iter().enumerate() {
        checker.packet = index + 1;
        if packet.at_ns < checker.now_ns {
            let back = checker.now_ns - packet.at_ns;
            checker.object(Rule::Time, format!("{back} ns before its predecessor"));
        }
        checker.now_ns = packet.at_ns;
        match Segment::decode(&packet.frame) {
            Ok(segment) => checker.segment(&segment, packet.comment.as_deref()),
            Err(what) => checker.object(Rule::Format, what),
        }
    }
    let open: Vec<_> = checker.live.drain().collect();
    for (tuple, flow) in open {
        checker.packet = flow.begins;
        if flow.state != State::Ended {
            checker.object(Rule::NotClosed, format!("{tuple:?} {:?}", flow.state));
        }
    }
    checker.violations.sort_by_key(|violation| violation.packet);
    checker.violations
}

/// Panics with the first objections if there are any.
///
/// # Panics
/// If there is an objection.
pub fn assert_good(capture: &Capture, what: &str) {
    let violations = check(capture);
    let count = violations.len();
    let first: Vec<_> = violations
        .into_iter()
        .take(8)
        .map(|violation| format!("\n  {violation:?}"))
        .collect();
    assert!(count == 0, "{what}: {count} objections:{}", first.concat());
}

/// Lower address first, so that both directions give the same.
type Tuple = (SocketAddr, SocketAddr);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    SynSent,
    SynReceived,
    Established,
    Ended,
}

#[derive(Debug)]
struct Flow {
    begins: usize,
    state: State,
    client: SocketAddr,
    macs: ([u8; 6], [u8; 6]),
    /// Initial and next sequence number of client and server.
    first: [u32; 2],
    next: [u32; 2],
    /// How much of each side's has been acknowledged.
    acknowledged: [u32; 2],
    finished: [bool; 2],
    ack_due: Option<AckDue>,
}

/// A side has to acknowledge before anything else: after a FIN, and after a hole's record.
#[derive(Clone, Copy, Debug)]
struct AckDue {
    debtor: usize,
    /// With the very next packet; else the other side's record may go on first.
    now: bool,
    rule: Rule,
}

#[derive(Default)]
struct Checker {
    packet: usize,
    now_ns: u64,
    live: HashMap<Tuple, Flow>,
    violations: Vec<Violation>,
}

impl Checker {
    fn object(&mut self, rule: Rule, what: impl Into<String>) {
        self.violations.push(Violation {
            packet: self.packet,
            rule,
            what: what.into(),
        });
    }

    fn segment(&mut self, segment: &Segment<'_>, comment: Option<&str>) {
        self.header(segment);
        let opens = segment.flags == SYN;
        let has_comment = comment.is_some_and(|comment| !comment.is_empty());
        if opens != has_comment && !segment.has(RST) {
            self.object(Rule::Comment, format!("comment: {comment:?}"));
        }
        let ends = (segment.source, segment.destination);
        let tuple = (ends.0.min(ends.1), ends.0.max(ends.1));
        let previous = self.live.remove(&tuple);
        let flow = if opens {
            Some(self.open(segment, previous))
        } else if let Some(mut flow) = previous {
            self.follow(&mut flow, segment);
            Some(flow)
        } else {
            self.object(Rule::Handshake, "begins without a SYN");
            None
        };
        self.live.extend(flow.map(|flow| (tuple, flow)));
    }

    /// What can be said of one packet alone.
    fn header(&mut self, segment: &Segment<'_>) {
        for mac in [segment.mac_source, segment.mac_destination] {
            if mac[0] & 0b11 != 0b10 {
                self.object(Rule::Mac, format!("{mac:02x?} isn't local unicast"));
            }
        }
        for fault in &segment.ip_faults {
            self.object(Rule::IpHeader, fault);
        }
        if segment.ttl != 64 {
            self.object(Rule::IpHeader, format!("TTL {}", segment.ttl));
        }
        if !segment.checksum_good {
            self.object(Rule::Checksum, "wrong");
        }
        if segment.window != 0xffff {
            self.object(Rule::Window, format!("window {}", segment.window));
        }
        let mss = mss(segment);
        if segment.payload.len() > usize::from(mss) {
            self.object(Rule::Mss, format!("{} bytes", segment.payload.len()));
        }
        if segment.has(SYN) {
            let [high, low] = mss.to_be_bytes();
            if segment.options != [2, 4, high, low, 1, 3, 3, 14] || !segment.payload.is_empty() {
                self.object(Rule::Handshake, format!("options {:?}", segment.options));
            }
            if [0, SHAFT].contains(&segment.seq) {
                self.object(Rule::InitialSequence, format!("{}", segment.seq));
            }
        } else if !segment.options.is_empty() {
            self.object(Rule::Options, format!("options {:?}", segment.options));
        }
        let allowed = match segment.payload.len() {
            0 => [SYN, SYN | ACK, ACK, FIN | ACK, RST | ACK].contains(&segment.flags),
            length if length < usize::from(mss) => segment.flags == ACK | PSH,
            _ => segment.flags | PSH == ACK | PSH,
        };
        if !allowed {
            self.object(Rule::Flags, format!("flags {:#04x}", segment.flags));
        }
    }

    fn open(&mut self, segment: &Segment<'_>, previous: Option<Flow>) -> Flow {
        if let Some(previous) = previous {
            if previous.state != State::Ended {
                self.object(Rule::TupleInUse, "its last flow is still open");
            }
            if previous.first.contains(&segment.seq) {
                self.object(Rule::InitialSequence, "that of the flow before");
            }
        }
        if segment.ack != 0 {
            self.object(Rule::Handshake, "an acknowledgment number in the SYN");
        }
        Flow {
            begins: self.packet,
            state: State::SynSent,
            client: segment.source,
            macs: (segment.mac_source, segment.mac_destination),
            first: [segment.seq, 0],
            next: [segment.seq.wrapping_add(1), 0],
            acknowledged: [segment.seq, 0],
            finished: [false; 2],
            ack_due: None,
        }
    }

    /// A packet of a flow that has begun.
    fn follow(&mut self, flow: &mut Flow, segment: &Segment<'_>) {
        if flow.state == State::Ended {
            self.object(Rule::AfterEnd, format!("flags {:#04x}", segment.flags));
            return;
        }
        let side = usize::from(segment.source != flow.client);
        let other = 1 - side;
        let macs = [segment.mac_source, segment.mac_destination];
        if (macs[side], macs[other]) != flow.macs {
            self.object(Rule::Mac, "changes within the flow");
        }
        let step = match flow.state {
            State::SynSent => (segment.flags == SYN | ACK && side == 1).then(|| {
                flow.first[1] = segment.seq;
                flow.next[1] = segment.seq;
                flow.acknowledged[1] = segment.seq;
                State::SynReceived
            }),
            State::SynReceived => {
                (segment.is_pure_ack() && side == 0).then_some(State::Established)
            }
            state => (!segment.has(SYN)).then_some(state),
        };
        match step {
            Some(state) => flow.state = state,
            None => self.object(Rule::Handshake, format!("flags {:#04x} now", segment.flags)),
        }
        if segment.ack != flow.next[other] {
            let surplus = segment.ack.wrapping_sub(flow.next[other]).cast_signed();
            self.object(Rule::Ack, format!("off by {surplus}"));
        }
        flow.acknowledged[other] = segment.ack;
        match flow.ack_due.take() {
            Some(due) if due.debtor == other && !segment.payload.is_empty() && !due.now => {
                // The record behind the hole goes on.
                flow.ack_due = Some(AckDue {
                    now: segment.has(PSH),
                    ..due
                });
            }
            Some(due) if due.debtor != side || !segment.is_pure_ack() => {
                self.object(due.rule, "not acknowledged at once");
            }
            _ => {}
        }
        self.advance(flow, segment, side);
    }

    /// Sequence number, data and the end of a direction.
    fn advance(&mut self, flow: &mut Flow, segment: &Segment<'_>, side: usize) {
        let gap = segment.seq.wrapping_sub(flow.next[side]);
        let carries = segment.length() > 0;
        if gap.cast_signed() < 0 {
            self.object(Rule::Repeated, format!("{} back", gap.cast_signed()));
        } else if gap > 0 && !segment.payload.is_empty() {
            flow.ack_due = Some(AckDue {
                debtor: 1 - side,
                now: segment.has(PSH),
                rule: Rule::HoleAck,
            });
            if gap > MAX_HOLE {
                self.object(Rule::Hole, format!("{gap} bytes"));
            }
        } else if gap > 0 {
            let rule = if segment.flags & (FIN | RST) == 0 {
                Rule::Hole
            } else {
                Rule::Close
            };
            self.object(rule, format!("{gap} bytes missing without data behind"));
        }
        if flow.finished[side] && (carries || segment.has(PSH)) {
            self.object(Rule::Close, "more behind a FIN");
        }
        flow.next[side] = segment.seq.wrapping_add(segment.length());
        // The hole itself isn't data that waits.
        if gap > 0 {
            flow.acknowledged[side] = flow.acknowledged[side].wrapping_add(gap);
        }
        let waiting = flow.next[side].wrapping_sub(flow.acknowledged[side]);
        if !segment.payload.is_empty() && waiting > MAX_UNACKNOWLEDGED {
            self.object(Rule::Unacknowledged, format!("{waiting} bytes"));
        }
        if segment.has(FIN) {
            flow.finished[side] = true;
            flow.ack_due = Some(AckDue {
                debtor: 1 - side,
                now: true,
                rule: Rule::Close,
            });
        } else if segment.has(RST) || (flow.finished == [true; 2] && segment.is_pure_ack()) {
            flow.state = State::Ended;
        }
    }
}

fn mss(segment: &Segment<'_>) -> u16 {
    if segment.source.is_ipv4() { 1460 } else { 1440 }
}

#[cfg(test)]
#[path = "rules_tests.rs"]
mod tests;
