//! What is told of sessions that had begun.

use proptest::prelude::*;

use super::*;
use crate::event::ResetCause;
use crate::forge::testing;

use Side::{Client, Server};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A stage with one session, and what it tells.
struct Stage {
    late: LateSessions,
    offsets: [u64; 2],
    at: u64,
    /// To whom, and what: a word each.
    told: Vec<(Audience, String)>,
    /// What was said to all, by side; their offsets follow one another.
    shown: [Vec<u8>; 2],
    begun: Vec<(Audience, FlowInfo, WallTime)>,
}

fn late_info() -> FlowInfo {
    let mut info = testing::info("192.0.2.1:50000", "198.51.100.1:443");
    info.announcement = Announcement::Midstream;
    info
}

impl Stage {
    fn new(choice: Midstream) -> Self {
        Self::with(choice, &late_info())
    }

    fn with(choice: Midstream, info: &FlowInfo) -> Self {
        let mut stage = Self {
            late: LateSessions::new(choice),
            offsets: [0; 2],
            at: 0,
            told: Vec::new(),
            shown: [Vec::new(), Vec::new()],
            begun: Vec::new(),
        };
        stage.event(FlowChange::Begin(info));
        stage
    }

    fn event(&mut self, change: FlowChange<'_>) {
        self.at += 1;
        let (flow, at) = (7, WallTime(self.at));
        let Self {
            late,
            told,
            shown,
            begun,
            ..
        } = self;
        late.flow_event(FlowEvent { flow, at, change }, &mut |audience, event| {
            let word = match event.change {
                FlowChange::Begin(info) => {
                    begun.push((audience, info.clone(), event.at));
                    "begin".into()
                }
                FlowChange::Data {
                    from,
                    offset,
                    bytes,
                } => {
                    assert_eq!(offset, shown[from as usize].len() as u64);
                    shown[from as usize].extend_from_slice(bytes);
                    format!("{from:?} {}", bytes.len())
                }
                FlowChange::Hole { from, bytes, .. } => {
                    // As zeros, so that offsets can be compared.
                    let length = shown[from as usize].len() + usize::try_from(bytes).unwrap();
                    shown[from as usize].resize(length, 0);
                    format!("{from:?} hole {bytes}")
                }
                FlowChange::Finish { from } => format!("{from:?} ends"),
                FlowChange::Reset { .. } => "reset".into(),
            };
            told.push((audience, word));
        });
    }

    fn says(&mut self, from: Side, text: &str) {
        let offset = self.offsets[from as usize];
        self.offsets[from as usize] += text.len() as u64;
        let bytes = text.as_bytes();
        self.event(FlowChange::Data {
            from,
            offset,
            bytes,
        });
    }

    fn lacks(&mut self, from: Side, bytes: u64) {
        let offset = self.offsets[from as usize];
        self.offsets[from as usize] += bytes;
        self.event(FlowChange::Hole {
            from,
            offset,
            bytes,
        });
    }

    fn ends(&mut self, from: Side) {
        self.event(FlowChange::Finish { from });
    }

    fn end(&mut self) {
        self.ends(Client);
        self.ends(Server);
        assert!(self.late.late.is_empty(), "it is forgotten");
    }

    /// What was told to all, and to the log alone.
    fn told(&self, to: Audience) -> Vec<&str> {
        let told = self.told.iter().filter(|(audience, _)| *audience == to);
        told.map(|(_, word)| &**word).collect()
    }

    fn left_out(&self) -> LeftOut {
        self.begun
            .last()
            .and_then(|(_, info, _)| info.left_out)
            .expect("it is told")
    }
}

fn left_out(bytes: [u64; 2], shown: bool) -> LeftOut {
    LeftOut {
        bytes,
        shown,
        ..LeftOut::default()
    }
}

#[test]
fn a_flow_begins_with_the_clients_next_message() {
    let mut stage = Stage::new(Midstream::Forge);
    stage.says(Client, "of a request");
    stage.says(Client, GET);
    stage.says(Server, "of an answer");
    stage.says(Server, "and more");
    assert!(stage.told.is_empty());
    stage.says(Client, "next");
    stage.says(Server, "answer");
    stage.end();
    let words = [
        "begin",
        "Client 4",
        "Server 6",
        "Client ends",
        "Server ends",
    ];
    assert_eq!(stage.told(Audience::All), words);
    assert!(stage.told(Audience::Log).is_empty());
    assert_eq!(stage.shown, [b"next".to_vec(), b"answer".to_vec()]);
    let before = [12 + GET.len() as u64, 20];
    assert_eq!(stage.left_out(), left_out(before, true));
    assert_eq!(
        stage.begun[0].2,
        WallTime(6),
        "its time is what it begins with"
    );
    let stats = LateStats {
        sessions: 1,
        shown: 1,
        left_out_bytes: before[0] + before[1],
    };
    assert_eq!(stage.late.stats(), stats);
}

#[test]
fn a_request_that_comes_first_is_one() {
    let mut stage = Stage::new(Midstream::Forge);
    stage.says(Client, GET);
    stage.says(Server, "answer");
    stage.end();
    assert_eq!(stage.shown, [GET.as_bytes().to_vec(), b"answer".to_vec()]);
    assert_eq!(stage.left_out(), left_out([0, 0], true));
    assert_eq!(stage.late.stats().left_out_bytes, 0);
}

/// What stands behind a hole is the rest of something, as long as nobody has answered.
#[test]
fn no_message_begins_behind_a_hole() {
    let mut stage = Stage::new(Midstream::Forge);
    stage.says(Server, "answer");
    stage.lacks(Client, 9);
    stage.says(Client, GET);
    assert!(stage.told.is_empty());
    stage.lacks(Server, 5);
    stage.says(Client, "next");
    stage.lacks(Server, 3);
    stage.says(Server, "b");
    stage.end();
    let (mut said, answered) = (left_out([GET.len() as u64, 6], true), b"\0\0\0b".to_vec());
    (said.holes, said.missing) = ([1, 1], [9, 5]);
    assert_eq!(stage.left_out(), said);
    assert_eq!(stage.shown, [b"next".to_vec(), answered]);
}

#[test]
fn what_is_not_shown_is_told_to_the_log() {
    let cause = ResetCause::Abort;
    for (choice, last) in [
        (Midstream::Forge, "of an answer"),
        (Midstream::Skip, "more"),
    ] {
        for reset in [false, true] {
            let mut stage = Stage::new(choice);
            stage.says(Client, "of a request");
            stage.says(Server, last);
            if choice == Midstream::Skip {
                stage.says(Client, GET);
            }
            assert!(stage.told.is_empty());
            let ends: &[_] = match reset {
                true => {
                    stage.event(FlowChange::Reset { by: Client, cause });
                    &["begin", "reset"]
                }
                false => {
                    stage.end();
                    &["begin", "Client ends", "Server ends"]
                }
            };
            assert_eq!(stage.told(Audience::Log), ends);
            assert!(stage.told(Audience::All).is_empty());
            assert_eq!(stage.begun[0].2, WallTime(1));
            let told = stage.left_out();
            assert!(!told.shown && told.bytes[1] == last.len() as u64);
            assert_eq!(
                stage.late.stats().left_out_bytes,
                told.bytes.iter().sum::<u64>()
            );
            assert!(stage.late.late.is_empty());
        }
    }
}

#[test]
fn what_is_open_at_the_end_is_logged() {
    let mut stage = Stage::new(Midstream::Skip);
    stage.says(Client, GET);
    let mut told = Vec::new();
    let tell = &mut |audience, event: FlowEvent<'_>| told.push((audience, event.flow));
    stage.late.finish(tell);
    assert_eq!(told, [(Audience::Log, 7)]);
}

/// The server has ended before the client's message comes.
#[test]
fn an_end_that_came_before_is_told() {
    let mut stage = Stage::new(Midstream::Forge);
    stage.says(Server, "bye");
    stage.ends(Server);
    stage.says(Client, "next");
    stage.ends(Client);
    let words = ["begin", "Server ends", "Client 4", "Client ends"];
    assert_eq!(stage.told(Audience::All), words);
    assert!(stage.late.late.is_empty());
}

#[test]
fn all_others_pass() {
    let mut inherited = late_info();
    inherited.announcement = Announcement::Inherited;
    let mut new = late_info();
    new.announcement = Announcement::New;
    let mut continued = late_info();
    continued.continued = Some((1, 2));
    for (choice, info) in [
        (Midstream::Skip, inherited),
        (Midstream::Skip, new),
        (Midstream::Forge, continued.clone()),
    ] {
        let mut stage = Stage::with(choice, &info);
        stage.says(Server, "of an answer");
        stage.end();
        let words = ["begin", "Server 12", "Client ends", "Server ends"];
        assert_eq!(stage.told(Audience::All), words);
        assert_eq!(stage.begun[0].1, info);
        assert_eq!(stage.late.stats(), LateStats::default());
    }
    // Nobody has shown it before.
    let stage = Stage::with(Midstream::Skip, &continued);
    assert!(stage.told.is_empty());
}

proptest! {
    /// Whatever is said, what is shown is the end of it.
    #[test]
    fn each_byte_is_at_its_place(
        steps in prop::collection::vec((any::<bool>(), 0_u8..8, 1_usize..20), 1..40),
        skip: bool,
    ) {
        let choice = if skip { Midstream::Skip } else { Midstream::Forge };
        let mut stage = Stage::new(choice);
        let mut said = [Vec::new(), Vec::new()];
        for (number, (client, kind, length)) in steps.into_iter().enumerate() {
            let from = if client { Client } else { Server };
            if kind == 0 {
                stage.lacks(from, length as u64);
                said[from as usize].resize(said[from as usize].len() + length, 0);
                continue;
            }
            let text = match kind {
                1 => GET.to_owned(),
                _ => format!("{number:>length$}"),
            };
            stage.says(from, &text);
            said[from as usize].extend_from_slice(text.as_bytes());
        }
        stage.end();
        prop_assert_eq!(stage.begun.len(), 1);
        let left = stage.left_out();
        prop_assert!(!(skip && left.shown));
        for side in [0, 1] {
            let from = usize::try_from(left.offset(side)).unwrap();
            let shown = if left.shown { &said[side][from..] } else { &[][..] };
            prop_assert_eq!(&stage.shown[side][..], shown);
            prop_assert!(left.shown || from == said[side].len());
        }
    }
}
