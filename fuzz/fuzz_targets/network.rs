//! What must hold of packets that anybody may send, and of what programs say. The fuzz targets call it with inputs
//! that they make up, and a test in `agent/src/flow/corpus_tests.rs` with those of the corpus.
#![allow(dead_code, reason = "each target uses one of the functions")]

use agent::event::{FlowChange, FlowEvent, FlowInfo, FlowSink, ResetCause, Side, WallTime};
use agent::flow::binder::Binder;
use agent::flow::hellos::Hellos;
use agent::flow::proof::message::{Reply, answer, question, reply};
use agent::flow::proof::{Answer, Ends};
use agent::flow::wire::{LinkType, WireFact};
use agent::output::{TextLimits, TextSummary};

/// A packet from an interface; the first byte is its link type.
pub(crate) fn wire(bytes: &[u8]) {
    let Some((link, frame)) = bytes.split_first() else {
        return;
    };
    let link = link_type(*link);
    let told = |frame: &[u8]| {
        let mut facts = Vec::new();
        Hellos::default().frame(link, frame, &mut |fact| facts.push(fact));
        facts
    };
    let facts = told(frame);
    for fact in &facts {
        if let WireFact::ClientHello { tuple, .. } | WireFact::ServerHello { tuple, .. } = fact {
            assert_eq!(tuple.client.is_ipv4(), tuple.server.is_ipv4());
        }
    }
    // Less of it tells less, never something else; unless the rest shows that it was no hello.
    for end in 0..frame.len() {
        let cut = told(&frame[..end]);
        assert!(
            facts.is_empty() || facts.starts_with(&cut),
            "{end} bytes: {cut:?}"
        );
    }
}

fn link_type(number: u8) -> LinkType {
    match number % 4 {
        0 => LinkType::Ethernet,
        1 => LinkType::Raw,
        2 => LinkType::LinuxSll,
        _ => LinkType::LinuxSll2,
    }
}

/// Packets from an interface, one behind the other: the first byte is its link type; before each packet stand two bytes
/// with its length.
pub(crate) fn handshakes(bytes: &[u8]) {
    let Some((link, mut rest)) = bytes.split_first() else {
        return;
    };
    let link = link_type(*link);
    let (mut hellos, mut binder) = (Hellos::default(), Binder::new(8));
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    while let [high, low, more @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(more.len());
        let (frame, more) = more.split_at(length);
        rest = more;
        hellos.frame(link, frame, &mut |fact| {
            match &fact {
                WireFact::ClientHello { tuple, random, .. } => clients.push((*tuple, *random)),
                // Only what was told in short before is told in full.
                WireFact::Fingerprint {
                    tuple,
                    random,
                    hello,
                } => {
                    assert!(clients.contains(&(*tuple, *random)));
                    assert!(hello.ja4.is_ascii() && hello.ja4.len() == 36, "{hello:?}");
                    let name = hello.sni.as_deref().unwrap_or_default();
                    assert!(!name.contains(char::is_control), "{name:?}");
                    assert!(name.len() <= 4 * 255, "{name:?}");
                }
                WireFact::ServerHello { tuple, random } => servers.push((*tuple, *random)),
                WireFact::Syn { .. } => {}
            }
            // Both randoms were on the connection that they are bound to, each in its direction.
            for randoms in binder.observe(fact) {
                let tuple = binder.find(&randoms).expect("what was just bound").tuple;
                assert!(clients.contains(&(tuple, randoms.0)));
                assert!(servers.contains(&(tuple, randoms.1)));
            }
        });
    }
}

/// What the kernel answers of sockets: only a live one that has the ends that were asked for, and a process, is one.
pub(crate) fn diag(bytes: &[u8]) {
    let Some((_, found)) = reply(bytes) else {
        return;
    };
    for end in 0..bytes.len() {
        // Less of it is the same or nothing.
        let cut = reply(&bytes[..end]);
        assert!(cut.is_none() || cut.map(|(_, cut)| cut) == Some(found));
    }
    let Reply::Socket(socket) = found else {
        return;
    };
    let asked = socket.ends;
    if let Answer::Live(live) = answer(&found, &asked, true) {
        assert_eq!((live.cookie, live.uid), (socket.cookie, socket.uid));
        assert!(live.inode != 0);
    }
    let turned = Ends {
        local: asked.peer,
        peer: asked.local,
    };
    if turned != asked {
        assert_eq!(answer(&found, &turned, true), Answer::Gone);
    }
    assert!(question(1, &asked) != question(1, &turned) || turned == asked);
}

/// What a client and a server say, as text for a terminal. A byte says who (its lowest bit), whether it is a hole,
/// and how much follows.
pub(crate) fn text(bytes: &[u8], example: &FlowInfo) {
    let limits = TextLimits {
        body_lines: 4,
        body_bytes: 100,
        line_bytes: 40,
        head_lines: 8,
    };
    let mut out = Vec::new();
    let mut summary = TextSummary::with_limits(limits, &mut out);
    let mut tell = |change| {
        summary.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(1),
            change,
        });
    };
    tell(FlowChange::Begin(example));
    let (mut rest, mut offsets, mut messages) = (bytes, [0; 2], 0);
    while let [what, more @ ..] = rest {
        let from = if what & 1 == 0 {
            Side::Client
        } else {
            Side::Server
        };
        let offset: &mut u64 = &mut offsets[usize::from(what & 1)];
        let length = usize::from(what >> 2).min(more.len());
        let (said, more) = more.split_at(length);
        rest = more;
        messages += 1;
        if said.is_empty() {
            continue;
        }
        let length = length as u64;
        tell(match what & 2 {
            0 => FlowChange::Data {
                from,
                offset: *offset,
                bytes: said,
            },
            _ => FlowChange::Hole {
                from,
                offset: *offset,
                bytes: length,
            },
        });
        *offset += length;
    }
    tell(FlowChange::Reset {
        by: Side::Client,
        cause: ResetCause::Abort,
    });
    assert!(summary.flush().is_ok());
    let out = String::from_utf8(out).expect("text");
    for line in out.lines() {
        // A cut line has marks, and a byte is four characters at most, a letter ten.
        assert!(line.chars().count() <= 600, "{line}");
    }
    let foreign = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    assert!(!out.contains(foreign), "{out:?}");
    assert!(
        out.len() <= 1000 + (messages + 1) * 20 * 1000,
        "{} bytes",
        out.len()
    );
}
