//! What the forger does at the edges of its contract.

use std::io;

use agent::event::{FlowEvent, FlowId, FlowSink, Packet, PacketSink, Side, WallTime};
use agent::forge::Forger;
use agent::output::PcapngWriter;
use agent::wire::FramePlace;
use mirror_hook::event::{Role, Transport};

use crate::model::Change;
use crate::reader::{self, Recorder};
use crate::sessions::{config, forge, info};
use Side::{Client, Server};

fn begin(id: u8) -> Change {
    let ends = ["192.0.2.1:50000", "198.51.100.1:443"].map(|end| end.parse().unwrap());
    Change::Begin(Box::new(info(
        FlowId([id; 16]),
        ends[0],
        ends[1],
        Role::Client,
    )))
}

fn id(byte: u8) -> String {
    format!("{byte:02x}").repeat(16)
}

fn data(from: Side, offset: u64, bytes: &[u8]) -> Change {
    Change::Data {
        from,
        offset,
        bytes: bytes.to_vec(),
    }
}

/// Sequence number of a frame of an IPv4 flow.
fn sequence(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[38..42].try_into().unwrap())
}

#[test]
fn time_never_goes_back_within_a_flow() {
    let (recorder, _) = forge(&[
        (1, 100, begin(1)),
        (1, 50, data(Client, 0, b"a")),
        (1, 120, data(Client, 1, b"b")),
    ]);
    let times: Vec<_> = recorder.0.iter().map(|packet| packet.at).collect();
    assert_eq!(times[..7], [100, 100, 100, 100, 100, 120, 120]);
}

#[test]
fn a_new_flow_begins_behind_the_end_of_the_last_one_of_its_endpoints() {
    let (recorder, _) = forge(&[
        (1, 100, begin(1)),
        (1, 110, Change::Finish { from: Client }),
        (1, 120, Change::Finish { from: Server }),
        (2, 90, begin(2)),
        (2, 115, data(Client, 0, b"new")),
        (2, 130, Change::Reset { by: Client }),
    ]);
    let times: Vec<_> = recorder.0.iter().map(|packet| packet.at).collect();
    assert!(times.is_sorted(), "{times:?}");
    assert_eq!(times.last(), Some(&130));
}

#[test]
fn a_new_flow_begins_behind_the_end_of_the_one_that_it_supersedes() {
    let (recorder, stats) = forge(&[
        (1, 100, begin(1)),
        (1, 110, data(Client, 0, b"old")),
        (2, 90, begin(2)),
        // The old flow's own events still come; nothing of them is forged, and the new flow stays.
        (1, 130, data(Client, 3, b"late")),
        (1, 131, Change::Reset { by: Server }),
        (2, 140, data(Client, 0, b"new")),
        (2, 150, Change::Finish { from: Client }),
        (2, 150, Change::Finish { from: Server }),
        (3, 160, begin(3)),
        (3, 160, Change::Reset { by: Client }),
    ]);
    let read = reader::read(&recorder.0, 1500);
    assert_eq!(read[&id(1)][0].client.runs[&0], b"old");
    assert_eq!(read[&id(1)][0].reset, Some(Client));
    assert_eq!(read[&id(2)][0].client.runs[&0], b"new");
    assert_eq!(read[&id(2)][0].fins, [Client, Server]);
    let reset = recorder
        .0
        .iter()
        .find(|packet| packet.frame[47] & 4 != 0)
        .unwrap();
    assert_eq!(
        reset.comment,
        Some(format!("flow={} reset=superseded", id(1)))
    );
    assert_eq!(
        (stats.flows, stats.flows_superseded, stats.resets),
        (3, 1, 2)
    );
    assert_eq!((stats.dropped_bytes, stats.violations), (4, 0));
}

#[test]
fn the_end_of_a_superseded_flow_leaves_its_endpoints_to_the_next() {
    let (recorder, stats) = forge(&[
        (1, 1, begin(1)),
        (2, 2, begin(2)),
        (1, 3, Change::Reset { by: Server }),
        // The second flow still holds them, and is superseded in its turn.
        (3, 4, begin(3)),
        (3, 5, Change::Reset { by: Client }),
        (2, 6, Change::Reset { by: Client }),
    ]);
    let read = reader::read(&recorder.0, 1500);
    assert_eq!(
        (read.len(), stats.flows_superseded, stats.resets),
        (3, 2, 3)
    );
}

#[test]
fn the_same_session_told_again_has_other_numbers() {
    let once = |flow| {
        [
            (flow, flow, begin(1)),
            (flow, flow, Change::Reset { by: Client }),
        ]
    };
    let (recorder, _) = forge(&[once(1), once(2)].concat());
    // SYN, SYN-ACK, ACK, RST of each.
    assert_ne!(
        sequence(&recorder.0[0].frame),
        sequence(&recorder.0[4].frame)
    );
    assert_ne!(
        sequence(&recorder.0[1].frame),
        sequence(&recorder.0[5].frame)
    );
    reader::read(&recorder.0, 1500);
}

#[test]
fn what_the_contract_rules_out_is_counted_and_moves_no_byte() {
    let (recorder, stats) = forge(&[
        (1, 1, begin(1)),
        (1, 2, begin(1)),
        (1, 2, data(Client, 0, b"abc")),
        // Overlaps by two.
        (1, 2, data(Client, 1, b"bcd")),
        (1, 2, data(Client, 2, b"c")),
        // Leaves two out.
        (1, 2, data(Client, 6, b"g")),
        (1, 2, data(Client, 7, b"")),
        (1, 3, Change::Finish { from: Client }),
        (1, 3, Change::Finish { from: Client }),
        (1, 3, data(Client, 7, b"h")),
        (
            1,
            3,
            Change::Hole {
                from: Client,
                offset: 7,
                bytes: 9,
            },
        ),
        (1, 3, data(Server, 0, b"xyz")),
        (1, 4, Change::Finish { from: Server }),
        (1, 5, data(Server, 3, b"w")),
        (9, 5, data(Client, 0, b"nobody's")),
    ]);
    let read = reader::read(&recorder.0, 1500);
    let dialogue = &read[&id(1)][0];
    let client: Vec<_> = dialogue
        .client
        .runs
        .iter()
        .map(|(at, run)| (*at, run.as_slice()))
        .collect();
    assert_eq!(client, [(0, b"abcd".as_slice()), (6, b"g")]);
    assert_eq!(dialogue.server.runs[&0], b"xyz");
    assert_eq!(dialogue.fins, [Client, Server]);
    assert_eq!(stats.violations, 10);
    assert_eq!((stats.holes, stats.hole_bytes), (1, 2));
    assert_eq!(stats.dropped_bytes, 2 + 1 + 1 + 1 + 8);
    assert_eq!(stats.data_bytes, 8);
}

#[test]
fn datagrams_and_impossible_ends_are_never_told_as_a_stream() {
    let changed = |change: &dyn Fn(&mut agent::event::FlowInfo)| {
        let Change::Begin(mut info) = begin(1) else {
            unreachable!()
        };
        change(&mut info);
        Change::Begin(info)
    };
    for refused in [
        changed(&|info| info.transport = Transport::Dtls),
        changed(&|info| info.transport = Transport::Quic),
        changed(&|info| info.tuple.client = "[::1]:1".parse().unwrap()),
        changed(&|info| info.tuple.client = info.tuple.server),
    ] {
        let (recorder, stats) = forge(&[
            (1, 1, refused),
            (1, 2, data(Client, 0, b"abc")),
            (1, 3, Change::Finish { from: Client }),
            (1, 3, Change::Finish { from: Server }),
        ]);
        assert!(recorder.0.is_empty());
        assert_eq!(
            (stats.flows_refused, stats.dropped_bytes, stats.violations),
            (1, 3, 0)
        );
    }
}

/// Refuses everything after a number of packets.
struct Full(usize);

impl PacketSink for Full {
    fn packet(&mut self, _: Packet<'_>) -> io::Result<()> {
        self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::StorageFull)?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_first_error_of_the_sink_is_kept_and_the_last_word() {
    let mut forger = Forger::new(config(), Full(4));
    let tell = |forger: &mut Forger<Full>, change: Change| {
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(0),
            change: change.borrowed(),
        });
    };
    tell(&mut forger, begin(1));
    assert!(forger.take_error().is_none());
    tell(&mut forger, data(Client, 0, &[0; 9000]));
    assert_eq!(
        forger.take_error().unwrap().kind(),
        io::ErrorKind::StorageFull
    );
    assert!(forger.take_error().is_none());
    let packets = forger.stats().packets;
    tell(&mut forger, data(Client, 9000, b"more"));
    forger.finish(WallTime(1));
    assert_eq!(forger.stats().packets, packets);
    assert!(forger.take_error().is_none());
}

#[test]
fn a_reader_that_has_gone_is_a_broken_pipe() {
    let (read, write) = io::pipe().unwrap();
    let mut writer = PcapngWriter::new(write).unwrap();
    drop(read);
    writer
        .packet(Packet {
            at: WallTime(0),
            frame: &[0; 60],
            comment: None,
        })
        .unwrap();
    assert_eq!(
        writer.flush().unwrap_err().kind(),
        io::ErrorKind::BrokenPipe
    );
    // Also where the buffer runs over, below the capture library.
    let (read, write) = io::pipe().unwrap();
    let mut writer = PcapngWriter::new(write).unwrap();
    drop(read);
    let packet = Packet {
        at: WallTime(0),
        frame: &[0; 60_000],
        comment: None,
    };
    let error = (0..3).find_map(|_| writer.packet(packet).err()).unwrap();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn captures_keep_nanoseconds_comments_and_frames() {
    let mut writer = PcapngWriter::new(Vec::new()).unwrap();
    let packets = [
        (
            1_760_000_000_123_456_789,
            vec![1; 61],
            Some("flow=1 sni=é".to_owned()),
        ),
        (1_760_000_000_123_456_790, vec![2; 1514], None),
    ];
    for (at, frame, comment) in &packets {
        let comment = comment.as_deref();
        writer
            .packet(Packet {
                at: WallTime(*at),
                frame,
                comment,
            })
            .unwrap();
    }
    let capture = mirror_tests::reader::Capture::parse(&writer.into_inner().unwrap()).unwrap();
    let read: Vec<_> = capture
        .packets
        .into_iter()
        .map(|it| (it.at_ns, it.frame, it.comment))
        .collect();
    assert_eq!(read, packets);
    assert_eq!(capture.interfaces.len(), 1);
    assert_eq!(capture.interfaces[0].snap_length, 262_144);
}

#[test]
fn the_agents_end_resets_what_lives() {
    let mut forger = Forger::new(config(), Recorder::default());
    for (flow, ends) in [
        (2, ["192.0.2.1:2", "192.0.2.9:443"]),
        (1, ["192.0.2.1:1", "192.0.2.9:443"]),
    ] {
        let ends = ends.map(|end| end.parse().unwrap());
        let mut info = info(FlowId([flow; 16]), ends[0], ends[1], Role::Server);
        info.id.0[0] = 0;
        let change = agent::event::FlowChange::Begin(&info);
        forger.flow_event(FlowEvent {
            flow: flow.into(),
            at: WallTime(5),
            change,
        });
    }
    forger.finish(WallTime(9));
    let packets = forger.into_sink().0;
    let ends: Vec<_> = packets[6..]
        .iter()
        .map(|it| (it.at, it.frame[47], it.frame[37], it.comment.clone()))
        .collect();
    // RST and ACK of the mirrored server (to ports 1, 2), in the flows' order.
    let comment = |flow: u8| {
        Some(format!(
            "flow=00{} reset=agent-end",
            format!("{flow:02x}").repeat(15)
        ))
    };
    assert_eq!(ends, [(9, 0x14, 1, comment(1)), (9, 0x14, 2, comment(2))]);
}

/// Forges one flow with one request, loses the packets behind number `seen`, and goes on with another request.
fn interrupted(seen: usize) -> Vec<(u32, u32, u8, Option<String>)> {
    let mut forger = Forger::new(config(), Recorder::default());
    let tell = |forger: &mut Forger<Recorder>, change: Change| {
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(5),
            change: change.borrowed(),
        });
    };
    tell(&mut forger, begin(1));
    tell(&mut forger, data(Client, 0, b"lost?"));
    let lost: Vec<_> = forger.sink_mut().0.drain(seen..).collect();
    let places = lost
        .iter()
        .filter_map(|packet| FramePlace::of(&packet.frame));
    let places: Vec<_> = places.collect();
    assert_eq!(places.len(), lost.len());
    let first = |source, destination| {
        let mut mine = places.iter().copied();
        mine.find(|place| (place.source, place.destination) == (source, destination))
    };
    let before = forger.sink_mut().0.len();
    forger.restart_all(first, WallTime(6));
    tell(&mut forger, data(Client, 5, b"more"));
    let acknowledgment = |frame: &[u8]| u32::from_be_bytes(frame[42..46].try_into().unwrap());
    forger.sink_mut().0[before..]
        .iter()
        .map(|it| {
            let frame = &it.frame[..];
            (
                sequence(frame),
                acknowledgment(frame),
                frame[47],
                it.comment.clone(),
            )
        })
        .collect()
}

#[test]
fn packets_lost_on_their_way_out_end_a_conversation_where_they_were_seen_last() {
    const SYN: u8 = 0x02;
    const RST_ACK: u8 = 0x14;
    // The handshake was seen, the request and its acknowledgment weren't.
    let after = interrupted(3);
    let (sequence, acknowledgment, flags, comment) = after[0].clone();
    assert_eq!(flags, RST_ACK);
    assert_eq!(comment, Some(format!("flow={} reset=output-lost", id(1))));
    let (whole, handshake) = (interrupted(5), interrupted(3));
    // All was seen: five bytes of the client's are behind the end.
    assert_eq!(whole[0].0, sequence.wrapping_add(5));
    assert_eq!(whole[0].1, acknowledgment);
    assert_eq!(handshake[1].2, SYN);
    let begins = handshake[1].3.as_deref().unwrap();
    assert!(
        begins.ends_with(" restarted=1 client_offset=5 server_offset=0"),
        "{begins}"
    );
    // Of a handshake that nobody has seen there is nothing to end.
    for seen in 0..2 {
        assert_eq!(interrupted(seen)[0].2, SYN, "{seen} packets were seen");
    }
}

#[test]
fn flows_go_on_in_another_file() {
    let mut forger = Forger::new(config(), Recorder::default());
    for change in [begin(1), data(Client, 0, b"one")] {
        forger.flow_event(FlowEvent {
            flow: 1,
            at: WallTime(5),
            change: change.borrowed(),
        });
    }
    forger.turn_over(WallTime(6));
    let last = forger.sink_mut().0.pop().unwrap();
    assert_eq!(last.frame[47], 0x14);
    assert_eq!(
        last.comment,
        Some(format!("flow={} reset=next-file", id(1)))
    );
    // One that says no more isn't in the next file.
    let before = forger.sink_mut().0.len();
    forger.finish(WallTime(7));
    assert_eq!(forger.into_sink().0.len(), before);
}
