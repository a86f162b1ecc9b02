use std::net::SocketAddr;

use super::*;
use crate::synth::{Conversation, Synth, capture, conversation};

const AT_NS: u64 = 1_800_000_000_000_000_000;

fn broken(packets: &[Synth]) -> Vec<Rule> {
    let mut rules: Vec<_> = check(&capture(packets))
        .into_iter()
        .map(|violation| violation.rule)
        .collect();
    rules.dedup();
    rules
}

/// The conversation with one packet changed.
fn with(index: usize, change: impl FnOnce(&mut Synth)) -> Vec<Rule> {
    let mut packets = conversation();
    change(&mut packets[index]);
    broken(&packets)
}

fn v6() -> [SocketAddr; 2] {
    [
        "[2001:db8::1]:50000".parse().unwrap(),
        "[2001:db8::2]:443".parse().unwrap(),
    ]
}

/// Positions in the conversation: 0 SYN, 1 SYN-ACK, 2 ACK, 3 request, 4 its ACK, 5 head, 6 its ACK,
/// then 12 segments of a record and an ACK, twice, …
const REQUEST: usize = 3;
const FULL: usize = 7;

#[test]
fn good_ones_pass() {
    assert_eq!(check(&capture(&conversation())), []);
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.record(1, &[b'x'; 16_384]);
    talk.hole(1, 100_000);
    talk.push(1, ACK | PSH, b"after the hole");
    talk.push(0, ACK, &[]);
    talk.push(0, RST | ACK, &[]);
    assert_eq!(check(&capture(&talk.packets)), []);
}

#[test]
fn headers() {
    assert_eq!(with(FULL, |p| p.mac_source[0] = 0), [Rule::Mac]);
    assert_eq!(with(FULL, |p| p.mac_source[0] = 3), [Rule::Mac]);
    assert_eq!(with(FULL, |p| p.mac_source[5] = 9), [Rule::Mac]);
    assert_eq!(with(FULL, |p| p.ttl = 63), [Rule::IpHeader]);
    assert_eq!(with(FULL, |p| p.ip_flags = 0), [Rule::IpHeader]);
    assert_eq!(with(FULL, |p| p.ip_flags = 0x6000), [Rule::IpHeader]);
    assert_eq!(with(FULL, |p| p.ip_checksum_error = 1), [Rule::IpHeader]);
    assert_eq!(with(FULL, |p| p.tcp_checksum_error = 1), [Rule::Checksum]);
    assert_eq!(with(FULL, |p| p.window = 0), [Rule::Window]);
    assert_eq!(with(FULL, |p| p.options = vec![1; 4]), [Rule::Options]);
    assert_eq!(with(FULL, |p| p.flags |= 0x20), [Rule::Flags]);
    assert_eq!(with(REQUEST, |p| p.flags = ACK), [Rule::Flags]);
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.push(0, RST | ACK, &[]);
    talk.packets[2].ip_flags = 7;
    assert_eq!(broken(&talk.packets), [Rule::IpHeader]);
    let mut file = capture(&talk.packets);
    file.packets[1].frame.push(0);
    assert_eq!(check(&file)[0].rule, Rule::Format);
}

#[test]
fn handshake() {
    assert_eq!(with(0, |p| p.options[3] = 0xb5), [Rule::Handshake]);
    assert_eq!(with(1, |p| p.options[7] = 7), [Rule::Handshake]);
    assert_eq!(with(1, |p| p.options.clear()), [Rule::Handshake]);
    assert_eq!(with(0, |p| p.ack = 5), [Rule::Handshake]);
    assert_eq!(broken(&conversation()[1..]), [Rule::Handshake]);
    let mut packets = conversation();
    packets.remove(2);
    assert_eq!(broken(&packets)[0], Rule::Handshake);
    let ends = v6();
    for (isn, rule) in [(0, Rule::InitialSequence), (SHAFT, Rule::InitialSequence)] {
        let mut talk = Conversation::begin(ends, [9, isn], AT_NS);
        talk.push(0, RST | ACK, &[]);
        assert_eq!(broken(&talk.packets), [rule]);
    }
}

#[test]
fn comments_and_time() {
    assert_eq!(with(0, |p| p.comment = None), [Rule::Comment]);
    assert_eq!(
        with(FULL, |p| p.comment = Some("x".into())),
        [Rule::Comment]
    );
    assert_eq!(with(FULL, |p| p.at_ns -= 2000), [Rule::Time]);
}

#[test]
fn sequence_and_acknowledgment() {
    assert_eq!(with(4, |p| p.ack -= 1), [Rule::Ack]);
    assert_eq!(with(4, |p| p.ack += 1), [Rule::Ack]);
    assert_eq!(with(FULL, |p| p.ack += 1), [Rule::Ack]);
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.push(0, ACK, &[b'x'; 1441]);
    talk.push(0, RST | ACK, &[]);
    assert_eq!(broken(&talk.packets), [Rule::Mss]);

    // A dropped ACK: the next record makes too much wait.
    let mut packets = conversation();
    let ack = (FULL..).find(|&i| packets[i].source != packets[FULL].source);
    packets.remove(ack.unwrap());
    assert_eq!(broken(&packets), [Rule::Unacknowledged]);

    // Data twice.
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.record(0, b"abc");
    let mut twice = talk.packets[3].clone();
    twice.at_ns += 10_000;
    talk.packets.push(twice);
    assert_eq!(broken(&talk.packets)[..1], [Rule::NotClosed]);
    assert!(broken(&talk.packets).contains(&Rule::Repeated));
}

#[test]
fn holes() {
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.hole(0, MAX_HOLE + 1);
    talk.record(0, b"abc");
    talk.push(0, RST | ACK, &[]);
    assert_eq!(broken(&talk.packets), [Rule::Hole]);

    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.hole(0, 10);
    talk.push(0, ACK | PSH, b"abc");
    talk.push(0, ACK | PSH, b"def");
    talk.push(1, RST | ACK, &[]);
    assert_eq!(broken(&talk.packets), [Rule::HoleAck]);

    // At the tail, where Suricata doesn't see it.
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.hole(0, 10);
    talk.finish(0);
    talk.finish(1);
    assert_eq!(broken(&talk.packets), [Rule::Close]);
}

#[test]
fn ends() {
    let mut packets = conversation();
    let after = packets[REQUEST].clone();
    packets.push(Synth {
        at_ns: AT_NS * 2,
        ..after
    });
    assert_eq!(broken(&packets), [Rule::AfterEnd]);

    let count = conversation().len();
    assert_eq!(broken(&conversation()[..count - 1]), [Rule::NotClosed]);

    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.finish(0);
    talk.record(0, b"more");
    talk.finish(1);
    assert_eq!(broken(&talk.packets)[0], Rule::Close);

    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.push(0, RST | ACK, &[]);
    talk.packets[3].seq += 1;
    assert_eq!(broken(&talk.packets), [Rule::Close]);

    // Both FINs, but the first without its ACK.
    let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
    talk.push(0, FIN | ACK, &[]);
    talk.finish(1);
    assert_eq!(broken(&talk.packets), [Rule::Close]);
}

#[test]
fn tuples() {
    let ended = || {
        let mut talk = Conversation::begin(v6(), [1, 2], AT_NS);
        talk.push(0, RST | ACK, &[]);
        talk.packets
    };
    let again = |isn| {
        let mut talk = Conversation::begin(v6(), [isn, 4], AT_NS + 1_000_000);
        talk.push(0, RST | ACK, &[]);
        talk.packets
    };
    assert_eq!(broken(&[ended(), again(3)].concat()), []);
    assert_eq!(
        broken(&[ended(), again(1)].concat()),
        [Rule::InitialSequence]
    );
    let open = ended()[..3].to_vec();
    assert_eq!(broken(&[open, again(3)].concat()), [Rule::TupleInUse]);
}
