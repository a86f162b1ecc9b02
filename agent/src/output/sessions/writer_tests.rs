use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use mirror_tests::process::until;
use serde_json::Value;

use super::super::SessionLog;
use super::*;
use crate::event::{FlowChange, FlowEvent, FlowSink, ResetCause, Side};
use crate::forge::testing::info;

fn target(path: &Path) -> LogTarget {
    let again = path.to_owned();
    let file = LogTarget::open(path).unwrap();
    LogTarget::file(file, move || LogTarget::open_next(&again))
}

fn event(flow: u64, at: u64, change: FlowChange<'_>) -> FlowEvent<'_> {
    let at = WallTime(at * 1_000_000_000);
    FlowEvent { flow, at, change }
}

/// A session that ends well.
fn session(log: &mut SessionLog, flow: u64) {
    let info = info("10.0.0.1:40000", "10.0.0.2:443");
    log.flow_event(event(flow, flow, FlowChange::Begin(&info)));
    for from in [Side::Client, Side::Server] {
        log.flow_event(event(flow, flow, FlowChange::Finish { from }));
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let lines = text.lines();
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[test]
fn each_session_is_a_line_at_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let mut log = SessionLog::new(LogWriter::new("log", target(&path)));
    log.writer().begin().unwrap();
    let info = info("10.0.0.1:40000", "10.0.0.2:443");
    let data = |from, bytes| FlowChange::Data {
        from,
        offset: 0,
        bytes,
    };
    let hole = |from, bytes| FlowChange::Hole {
        from,
        offset: 0,
        bytes,
    };
    let died = FlowChange::Reset {
        by: Side::Client,
        cause: ResetCause::Died,
    };
    for flow in 1..=3 {
        log.flow_event(event(flow, flow, FlowChange::Begin(&info)));
    }
    log.flow_event(event(2, 4, data(Side::Client, b"abc")));
    log.flow_event(event(2, 5, data(Side::Server, b"defgh")));
    log.flow_event(event(2, 5, hole(Side::Server, 100)));
    log.flow_event(event(2, 6, hole(Side::Server, 1)));
    log.flow_event(event(2, 7, FlowChange::Finish { from: Side::Server }));
    log.flow_event(event(2, 8, FlowChange::Finish { from: Side::Client }));
    // Behind its end, and of nobody.
    log.flow_event(event(2, 9, data(Side::Client, b"x")));
    log.flow_event(event(77, 9, died));
    log.flow_event(event(3, 9, died));
    log.finish(WallTime(10_000_000_000));
    log.writer().finish(WallTime(0)).unwrap();
    let lines = lines(&path);
    let ends: Vec<_> = lines.iter().map(|line| line["end"].clone()).collect();
    assert_eq!(ends, ["finished", "died", "agent-ended"]);
    let numbers = [
        ("bytes_toserver", 3),
        ("bytes_toclient", 5),
        ("holes_toserver", 0),
        ("holes_toclient", 2),
        ("missed_bytes_toserver", 0),
        ("missed_bytes_toclient", 101),
    ];
    for (field, number) in numbers {
        assert_eq!(lines[0][field], number, "{field}");
    }
    assert_eq!(lines[0]["ts"], "1970-01-01T00:00:02.000000Z");
    assert_eq!(lines[0]["duration"], 6.0);
    assert_eq!(lines[2]["ts_end"], "1970-01-01T00:00:10.000000Z");
    assert_eq!(log.writer().stats().sessions, 3);
    assert_eq!(log.writer().stats().lost, 0);
}

#[test]
fn what_finds_no_room_is_declared_in_its_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let writer = LogWriter::with_limits("log", target(&path), 4000, PATIENCE);
    let mut log = SessionLog::new(writer);
    // Nobody writes yet.
    (1..=100).for_each(|flow| session(&mut log, flow));
    let stats = log.writer().stats();
    assert_eq!(stats.sessions, 100);
    assert!((1..100).contains(&stats.lost));
    log.writer().begin().unwrap();
    log.writer().flush();
    until("room", || {
        let now = log.writer().0.0.now();
        (now.queue.is_empty() && now.writing == 0).then_some(())
    });
    session(&mut log, 101);
    log.writer().finish(WallTime(0)).unwrap();
    let lines = lines(&path);
    let place = lines.iter().position(|line| line["event_type"] == "lost");
    let place = place.unwrap();
    assert_eq!(lines[place]["lost_sessions"], stats.lost);
    assert_eq!(place as u64 + stats.lost, 100);
    assert_eq!(lines.len(), place + 2);
    assert_eq!(log.writer().stats().lost, stats.lost);
}

#[test]
fn a_full_disk_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let again = path.clone();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let full = LogTarget::file(full, move || LogTarget::open_next(&again));
    let mut log = SessionLog::new(LogWriter::new("log", full));
    log.writer().begin().unwrap();
    session(&mut log, 1);
    log.writer().flush();
    until("words on the disk", || {
        let said = log.writer().take_complaints();
        said.iter()
            .any(|line| line.starts_with("no room left for log"))
            .then_some(())
    });
    session(&mut log, 2);
    log.writer().flush();
    assert!(log.writer().check().is_ok());
    // Somebody moves it to where there is room.
    log.writer().turn_over();
    until("words on the end of it", || {
        let said = log.writer().take_complaints();
        said.iter()
            .any(|line| line.contains("written again: no session"))
            .then_some(())
    });
    session(&mut log, 3);
    log.writer().finish(WallTime(0)).unwrap();
    assert_eq!(lines(&path).len(), 3);
    let expected = LogStats {
        sessions: 3,
        lost: 0,
        outages: 1,
    };
    assert_eq!(log.writer().stats(), expected);
}

#[test]
fn what_a_full_disk_never_takes_is_lost_and_counted() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut log = SessionLog::new(LogWriter::new("log", LogTarget::stream(full)));
    (1..=3).for_each(|flow| session(&mut log, flow));
    let error = log.writer().finish(WallTime(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let stats = log.writer().stats();
    assert_eq!((stats.sessions, stats.lost), (3, 3));
}

#[test]
fn nobody_waits_for_who_reads_a_pipe() {
    let (mut reader, pipe) = io::pipe().unwrap();
    let pipe = LogTarget::stream(std::os::fd::OwnedFd::from(pipe).into());
    let writer = LogWriter::with_limits("log", pipe, 200_000, Duration::ZERO);
    let mut log = SessionLog::new(writer);
    log.writer().begin().unwrap();
    // More than a pipe and the queue have, while nobody reads.
    (1..=1000).for_each(|flow| session(&mut log, flow));
    log.writer().flush();
    let mut some = [0; 100];
    reader.read_exact(&mut some).unwrap();
    assert!(some.starts_with(SESSION));
    let error = log.writer().finish(WallTime(0)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    let stats = log.writer().stats();
    assert_eq!(stats.sessions, 1000);
    assert!(stats.lost > 500, "{stats:?}");
}

#[test]
fn who_closes_the_pipe_ends_it() {
    let (reader, pipe) = io::pipe().unwrap();
    drop(reader);
    let pipe = LogTarget::stream(std::os::fd::OwnedFd::from(pipe).into());
    let mut log = SessionLog::new(LogWriter::new("log", pipe));
    log.writer().begin().unwrap();
    session(&mut log, 1);
    log.writer().flush();
    let error = until("a failure", || log.writer().check().err());
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    session(&mut log, 2);
    assert_eq!(log.writer().stats().lost, 2);
    assert!(log.writer().finish(WallTime(0)).is_err());
}
